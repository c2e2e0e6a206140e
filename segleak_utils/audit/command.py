"""The command `audit`: a file, or options, or both, to a report and an exit code.

Exit codes: 0 passes, 1 the audit could not be run, 3 a limit is passed, 4 undecided, 5 invalid.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segleak_utils.audit.findings import Findings, Number
from segleak_utils.audit.gate import limits_of
from segleak_utils.audit.reading import keys, read, texts

COMMAND = "python3 -m segleak_utils.run audit"
PARTS = ("images", "masks")
PATHS = (*PARTS, "manifest", "file", "posteriors", "labels", "scores", "out")  # keys that are paths


def parser() -> argparse.ArgumentParser:
    """The options: shorthands, and a twin of every key of audit.yml."""
    top = argparse.ArgumentParser(
        prog=COMMAND,
        description="Audit your own model: does it give away which images it was trained on?",
        epilog="`audit init [FOLDER]` writes an audit.yml from what it finds there. docs/audit.md "
        "has more.",
    )
    top.add_argument("file", nargs="?", type=Path, metavar="audit.yml")
    short = top.add_argument_group("shorthands")
    short.add_argument("--model", metavar="PACKAGE.MODULE:NAME", help="answers.model")
    short.add_argument("--returns", metavar="WHAT", help="answers.returns: logits, probabilities")
    for name in ("members", "nonmembers"):
        text = f"data.{name}: folder of images, folder of masks"
        short.add_argument(f"--{name}", nargs="+", metavar="DIR", help=text)
    short.add_argument("--classes", type=int, metavar="N", help="data.n_classes")
    short.add_argument("--fail-above", metavar="auc=0.60,...", help="the gate's limits")
    short.add_argument("--train-references", type=int, metavar="K", help="trained from --from")
    short.add_argument("--from", dest="more", nargs="+", metavar="DIR", help="images, masks")
    short.add_argument("--cluster", metavar="ADDRESS", help="train_references.cluster")
    short.add_argument("--quiet", action="store_true", help="no progress bars")
    twins = top.add_argument_group("every key of audit.yml")
    for key, text in keys().items():
        if key != "fail_above":
            # a percent sign would be a format to argparse
            twins.add_argument(f"--{key}", dest=f"key {key}", metavar="VALUE",
                               help=text.replace("%", "%%"))  # fmt: skip
    return top


def overrides_of(options: argparse.Namespace, base: Path) -> dict[str, Any]:
    """What the options say, by the keys of audit.yml; their paths start at `base`.

    ValueError for too many folders.
    """
    import yaml

    found: dict[str, Any] = {}
    plain = texts()
    for name, value in vars(options).items():
        if name.startswith("key ") and value is not None:
            key = name.removeprefix("key ")
            try:
                found[key] = value if key in plain else yaml.safe_load(value)
            except yaml.YAMLError:
                found[key] = value
    simple = {
        "model": "answers.model",
        "returns": "answers.returns",
        "classes": "data.n_classes",
        "cluster": "train_references.cluster",
        "train_references": "train_references.count",
    }
    given = {key: getattr(options, name) for name, key in simple.items()}
    found |= {key: value for key, value in given.items() if value is not None}
    lists = {"members": "data.members", "nonmembers": "data.nonmembers", "more": "train_references"}
    for name, key in lists.items():
        folders = getattr(options, name) or []
        if len(folders) > 2:
            raise ValueError(f"--{name}: {len(folders)} folders; expected images, and masks")
        found |= {f"{key}.{part}": folder for part, folder in zip(PARTS, folders, strict=False)}
    for key, value in found.items():  # typed where the command is, not where audit.yml lies
        if key.rsplit(".", 1)[-1] in PATHS and value is not None:
            found[key] = str(base / str(value))
    if options.fail_above is not None:
        found["fail_above"] = limits_of(options.fail_above)
    return found


def main(arguments: Sequence[str], base: Path | None = None) -> int:
    """Run the command; return its exit code. `base`: where relative paths start (here)."""
    base = Path.cwd() if base is None else base
    arguments = list(arguments)
    if arguments[:1] == ["init"]:
        return begin(arguments[1:], base)
    options = parser().parse_args(arguments)
    try:
        from segleak_utils.audit.auditing import audit

        path = None if options.file is None else base / options.file
        told = read(path, overrides_of(options, base))
        where = base if path is None else path.parent
        command = f"{COMMAND} {shlex.join(arguments)}"
        found = audit(told, base=where, progress=not options.quiet, command=command)
        page = None if found is None else found.write()
    except (ValueError, OSError) as error:  # a disk that is full, an `out` that is a file
        print(f"segleak: {error}", file=sys.stderr)
        return 1
    if found is None:  # another process has the report
        return 0
    print(summary(found.findings))
    print(f"\n{page}")
    return found.exit_code


def begin(arguments: Sequence[str], base: Path) -> int:
    """`audit init`: write audit.yml from what is in a folder; return the exit code."""
    options = argparse.ArgumentParser(prog=f"{COMMAND} init")
    options.add_argument("folder", nargs="?", type=Path, default=Path())
    folder = base / options.parse_args(arguments).folder
    from segleak_utils.audit.beginning import begun

    try:
        print(f"segleak: {begun(folder)} written; look at it, then: {COMMAND} audit.yml")
    except (ValueError, OSError) as error:
        print(f"segleak: {error}", file=sys.stderr)
        return 1
    return 0


def summary(found: Findings) -> str:
    """What the command prints: the verdict, the numbers, the gate."""

    def shown(number: Number) -> str:
        values = (number.value, number.low, number.high)
        return "{:.3f} [{:.3f}, {:.3f}]".format(*values)

    lines = [found.verdict.found, found.verdict.sure, found.verdict.silent, ""]
    lines += [f"! {warning}" for warning in found.verdict.warnings]
    lines += [""] if found.verdict.warnings else []
    wide = max(len(of.name) for of in found.attacks)
    if found.blind is not None:
        lines.append(f"{'blind baseline':{wide}}  AUC {shown(found.blind.auc)}")
    for of in found.attacks:
        at = next((at for at in of.at_fpr if at.fpr == 0.01), None)
        tpr = "" if at is None else f"  TPR at 1 % FPR {shown(at.tpr)}"
        mark = "  (the verdict's)" if of.name == found.headline else ""
        lines.append(f"{of.name:{wide}}  AUC {shown(of.auc)}{tpr}{mark}")
    if found.gate is not None:
        lines += ["", *(f"{of.measure} above {of.limit:g}? {of.decision}: {of.why}"
                        for of in found.gate.limits)]  # fmt: skip
    return "\n".join(lines)
