"""`audit.yml` and its twin on the command line: read, and refused key by key in plain words."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from segleak_utils.audit.config import Audit
from segleak_utils.audit.findings import VERSION, Findings
from segleak_utils.audit.gate import checked

SCHEMAS = Path(__file__).with_name("schemas")


def read(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Audit:
    """What an audit is told by a YAML file, or by nothing, and by `overrides` ("data.grid": 8192).

    FileNotFoundError; ValueError with a sentence for each wrong key: its name and line, what was
    found, what was expected, and the nearest known key.
    """
    told: dict = {}
    lines: dict[tuple, int] = {}
    if path is not None:
        told, lines = _yaml(path)
        told = {key: value for key, value in told.items() if value is not None}  # all commented out
    for key, value in (overrides or {}).items():
        _put(told, key, value)
    try:
        found = Audit.model_validate(told)
    except ValidationError as error:
        where = str(path) if path is not None else "the command line"
        problems = [_sentence(problem, lines) for problem in error.errors()]
        raise ValueError(f"{where}: " + "; ".join(dict.fromkeys(problems))) from None
    checked(found.fail_above)
    return found


def schema() -> dict:
    """JSON schema of `audit.yml`, by which editors complete it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Audit.model_json_schema()}


def findings_schema() -> dict:
    """JSON schema of `audit.json`."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | Findings.model_json_schema(mode="serialization")


def shipped() -> dict[str, dict]:
    """The schemas by the names under which they are shipped."""
    return {"audit-yml.json": schema(), f"audit-{VERSION}.json": findings_schema()}


def _yaml(path: Path) -> tuple[dict, dict[tuple, int]]:
    """The content of a YAML file, and the line of each of its keys."""
    try:
        import yaml
    except ImportError as error:
        raise ValueError('audit.yml needs pyyaml: pip install "segleak[audit]"') from error
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; `audit init` writes one")
    try:
        text = path.read_text(encoding="utf-8-sig")
        found, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no YAML ({error})") from None
    if found is None:
        return {}, {}
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds a {type(found).__name__}; expected keys with values")
    lines = dict(_lines(tree, ()))
    twice = [key for key, n in _count(tree, ()).items() if n > 1]
    if twice:
        raise ValueError(f"{path}, line {lines[twice[0]]}: {_name(twice[0])} comes twice")
    return found, lines


def _lines(node: Any, at: tuple) -> Iterator[tuple[tuple, int]]:
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            where = (*at, key.value)
            yield where, key.start_mark.line + 1
            yield from _lines(value, where)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield (*at, i), value.start_mark.line + 1
            yield from _lines(value, (*at, i))


def _count(node: Any, at: tuple) -> dict[tuple, int]:
    found: dict[tuple, int] = {}
    for where, _ in _lines(node, at):
        found[where] = found.get(where, 0) + 1
    return found


def _put(told: dict, key: str, value: Any) -> None:
    *folders, last = key.split(".")
    place: Any = told
    for folder in folders:
        if isinstance(place, dict) and place.get(folder) is None:
            place[folder] = {}
        place = place[folder] if isinstance(place, dict) else None
    if not isinstance(place, dict):
        where = ".".join(folders)
        raise ValueError(f"--{key}: {where} in the file is no such thing; expected keys in it")
    place[last] = value


def _name(where: Sequence) -> str:
    return ".".join(str(part) for part in where if part not in ("function-after", "dict"))


def _sentence(problem: Mapping, lines: Mapping[tuple, int]) -> str:
    where = tuple(part for part in problem["loc"] if isinstance(part, str | int))
    line = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), None)
    at = f" (line {line})" if line else ""
    if problem["type"] == "extra_forbidden":
        known = _known(where[:-1])
        close = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        return f"unknown key {_name(where)}{at}; {hint}"
    said = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{said}{at}"
    expected = said.removeprefix("Input should be ")
    return f"{_name(where)}{at} is {problem['input']!r}; expected {expected}"


def _known(where: Sequence) -> list[str]:
    """The keys of the part of an `Audit` at that place."""
    model: Any = Audit
    for part in where:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if _is_model(model) else None
        if field is None:
            return []
        model = next(_models(field.annotation), None)
    return [*model.model_fields] if _is_model(model) else []


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if _is_model(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def keys(model: type[BaseModel] = Audit, before: str = "") -> dict[str, str]:
    """Every key that has a twin on the command line, with its description.

    >>> "data.members.images" in keys() and "answers.device" in keys()
    True
    """
    found = {}
    for name, field in model.model_fields.items():
        inner = next(_models(field.annotation), None)
        many = getattr(field.annotation, "__origin__", None) is tuple
        if inner is not None and not many:
            found |= keys(inner, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = field.description or ""
    return found


def texts(model: type[BaseModel] = Audit) -> set[str]:
    """The keys whose values are text or paths: on the command line they are taken as they stand.

    >>> "name" in texts() and "data.groups" in texts() and "seed" not in texts()
    True
    """
    found = set()
    for key in keys(model):
        kind: Any = model
        for part in key.split("."):
            field = kind.model_fields[part]
            kind = next(_models(field.annotation), None)
        kinds = set(get_args(field.annotation) or (field.annotation,)) - {type(None)}
        if kinds <= {str, Path}:
            found.add(key)
    return found


def write_schemas(folder: Path = SCHEMAS) -> None:
    """Write the schemas that are shipped; a test holds them equal to these."""
    folder.mkdir(exist_ok=True)
    for name, content in shipped().items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
