"""The two lists: which images, with which masks, in which list, and whose they are."""

from __future__ import annotations

import os
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segleak_utils.audit.config import Data, Pairs
from segleak_utils.audit.masks import ARRAYS
from segleak_utils.data.scenes import IMAGE_SUFFIXES

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", *ARRAYS)
YES, NO = {"1", "true", "yes", "member"}, {"0", "false", "no", "nonmember", "non-member"}


@dataclass(frozen=True)
class Picture:
    """One image of the lists. `mask` is None only where no mask is needed."""

    id: str
    image: Path
    mask: Path | None
    member: bool
    group: str | None = None


def listed(data: Data, base: Path = Path()) -> list[Picture]:
    """Both lists, the members first, each in the order of its ids.

    An id is the stem, or "members/stem" and "nonmembers/stem" for all where a stem is in both.
    Relative paths start at `base`. FileNotFoundError for what is not there; ValueError: a list is
    empty, an image has no mask or several, an image twice, a name in which `data.groups` finds
    nothing, images that are all of one owner, a manifest without its columns.
    """
    if data.manifest is not None:
        found = _of_manifest(base / data.manifest, data)
    elif data.members is not None and data.nonmembers is not None:
        inside = of_pairs(data.members, data, member=True, base=base)
        outside = of_pairs(data.nonmembers, data, member=False, base=base)
        if {of.id for of in inside} & {of.id for of in outside}:
            parts = (("members", inside), ("nonmembers", outside))
            found = [_renamed(of, f"{name}/{of.id}") for name, part in parts for of in part]
        else:
            found = [*inside, *outside]
    else:
        raise ValueError("no images: give data.members and data.nonmembers, or data.manifest")
    _refuse_one_file_twice(found)
    for member, name in ((True, "members"), (False, "non-members")):
        n = sum(of.member == member for of in found)
        if n < 2:
            raise ValueError(f"{n} {name} in the lists; expected at least 2, better 100")
    if data.groups is None and 0 < sum(of.group is not None for of in found) < len(found):
        raise ValueError("some images have a group and some none; give all of them one, or none")
    if len({of.group for of in found} - {None}) == 1:
        raise ValueError(
            f"all images are of one owner, {found[0].group!r}: mend data.groups, or the manifest's "
            "column, or leave it out"
        )
    return found


def _renamed(of: Picture, name: str) -> Picture:
    return Picture(name, of.image, of.mask, of.member, of.group)


def of_pairs(
    pairs: Pairs, data: Data, *, member: bool, base: Path = Path(), masks: bool = True
) -> list[Picture]:
    """The images of a folder with their masks, by the patterns of `data`, in order of their stems.

    FileNotFoundError for a folder that is not there; ValueError: it has no images, an image has no
    mask or several, two images share a stem, a pattern that is none.
    """
    folder = base / pairs.images
    where = folder if pairs.masks is None else base / pairs.masks
    for place in (folder, where):
        if not place.is_dir():
            raise FileNotFoundError(f"{place}: no such folder")
    images = _images(folder, data, beside=where == folder)
    candidates = _masks(where, data.pattern) if masks else {}
    found, missing = [], []
    for stem, image in sorted(images.items()):
        mask = _mask_of(image, candidates.get(stem, ()))
        if mask is None and masks:
            missing.append(image)
            continue
        found.append(Picture(stem, image, mask, member, _group(stem, data.groups)))
    if missing:
        raise ValueError(
            f"{len(missing)} images without a mask {data.pattern!r} in {where}, e.g. "
            f"{', '.join(map(str, missing[:3]))}; give data.pattern, such as "
            '"{stem}_mask.png", and data.image_pattern, if images have more in their names, too'
        )
    return found


def _images(folder: Path, data: Data, *, beside: bool) -> dict[str, Path]:
    """The images by stem; where masks lie beside them, without those that the pattern names."""
    wanted = _of_pattern(data.image_pattern, "data.image_pattern")
    found: dict[str, Path] = {}
    others: list[Path] = []
    names = {unicodedata.normalize("NFC", path.name) for path in folder.iterdir()}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        name = unicodedata.normalize("NFC", path.name)
        if beside and _is_mask(Path(name), unicodedata.normalize("NFC", data.pattern), names):
            continue
        match = wanted.fullmatch(name)
        if match is None:
            others.append(path)
            continue
        stem = match[1]
        if found.setdefault(stem, path) != path:
            raise ValueError(f"{path} and {found[stem]} have the same stem; rename or remove one")
    if others and not beside:  # a list that is silently shorter would be another list
        raise ValueError(
            f"{len(others)} images in {folder} are not named as data.image_pattern, "
            f"{data.image_pattern!r}, says, e.g. {others[0].name}; mend it, or take them out"
        )
    if not found:
        raise ValueError(f"{folder}: no images ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _masks(folder: Path, pattern: str) -> dict[str, list[Path]]:
    """The masks that the pattern names, by the stem."""
    wanted = _of_pattern(pattern, "data.pattern")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.suffix.lower() in MASK_SUFFIXES:
            match = wanted.fullmatch(unicodedata.normalize("NFC", path.name))
            if match is not None:
                found.setdefault(match[1], []).append(path)
    return found


def _of_pattern(pattern: str, key: str) -> re.Pattern[str]:
    """A pattern as a regular expression whose one group is the stem."""
    if pattern.count("{stem}") != 1 or "/" in pattern:
        raise ValueError(
            f'{key} is {pattern!r}; expected a file\'s name with {{stem}} in it, "{{stem}}.png"'
        )
    parts = re.split(r"(\{stem\}|\.\*)", unicodedata.normalize("NFC", pattern))
    how = {"{stem}": "(.+)", ".*": r"\.[^.]+"}
    return re.compile("".join(how.get(part) or re.escape(part) for part in parts))


def _is_mask(path: Path, pattern: str, names: set[str]) -> bool:
    """Whether a file is the mask of another one in the same folder; all names are NFC."""
    if pattern == "{stem}.*":
        others = {Path(name).suffix.lower() for name in names if Path(name).stem == path.stem}
        return path.suffix.lower() == ".png" and bool(others & {".jpg", ".jpeg"})
    before, _, after = pattern.partition("{stem}")
    stem = path.name.removeprefix(before)
    if (path.name == stem and before) or not path.name.endswith(after.replace(".*", path.suffix)):
        return False
    stem = stem[: len(stem) - len(after.replace(".*", path.suffix))]
    return any(Path(name).stem == stem and name != path.name for name in names)


def _mask_of(image: Path, masks: Sequence[Path]) -> Path | None:
    found = [path for path in masks if path != image]
    if len(found) > 1:
        raise ValueError(
            f"{image}: {len(found)} masks, {', '.join(path.name for path in found[:3])}; give "
            "data.pattern, so that it has one"
        )
    return found[0] if found else None


def _group(name: str, pattern: str | None) -> str | None:
    if pattern is None:
        return None
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise ValueError(f"data.groups: {pattern!r} is no regular expression: {error}") from None
    parts = (*found.groups(), found[0]) if found is not None else ()
    owner = next((part for part in parts if part is not None), "")
    if not owner:
        raise ValueError(
            f"data.groups: {pattern!r} finds nothing in {name!r}; every image needs an owner"
        )
    return owner


def table_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV or Parquet file, all cells as text; ValueError, naming it, for others."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        import pandas
    except ImportError as error:
        raise ValueError('tables need pandas: pip install "segleak[audit]"') from error
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pandas.read_parquet(path)
        else:
            with warnings.catch_warnings():
                # a line with a cell too many would shift the columns, or lose the cell
                warnings.simplefilter("error", pandas.errors.ParserWarning)
                table = pandas.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except Exception as error:  # pandas and pyarrow have many kinds of them
        raise ValueError(f"{path}: cannot be read as a table ({error})") from error
    columns = [str(name).strip() for name in table.columns]
    if twice := {name for name in columns if columns.count(name) > 1}:
        raise ValueError(f"{path}: columns {', '.join(sorted(twice))} come twice")
    rows = table.astype(object).where(table.notna(), "").to_numpy().tolist()
    return [dict(zip(columns, (str(cell).strip() for cell in row), strict=True)) for row in rows]


def need_columns(path: Path, rows: Sequence[Mapping], needed: Sequence[str]) -> None:
    """ValueError unless there are rows, and all of them have these columns."""
    if not rows:
        raise ValueError(f"{path}: no rows, expected one for each image")
    if missing := [name for name in needed if name not in rows[0]]:
        raise ValueError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(rows[0])}, needed are "
            f"{', '.join(needed)}"
        )


def yes_or_no(cell: str, where: str) -> bool:
    """Whether a cell says yes: 1, true, yes, member; ValueError for anything but these and no."""
    text = cell.lower().removesuffix(".0")
    if text not in YES | NO:
        raise ValueError(f"{where}: member is {cell!r}; expected 1 or 0, true or false, yes or no")
    return text in YES


def _of_manifest(path: Path, data: Data) -> list[Picture]:
    rows = table_of(path)
    need_columns(path, rows, ("image", "mask", "member"))
    grouped = "group" in rows[0]
    found = []
    for line, row in enumerate(rows, 2):
        where = f"{path}, line {line}"
        image, mask = path.parent / row["image"], path.parent / row["mask"]
        for name, file in (("image", image), ("mask", mask)):
            if not row[name] or not file.is_file():
                raise FileNotFoundError(f"{where}: {name} {str(file)!r} is not there")
        member = yes_or_no(row["member"], where)
        if grouped and not row["group"]:
            raise ValueError(f"{where}: group is empty; every image needs one, or leave it out")
        group = row["group"] if grouped else _group(row["image"], data.groups)
        found.append(Picture(row["image"], image, mask, member, group))
    return sorted(found, key=lambda of: (not of.member, of.id))


def _refuse_one_file_twice(found: Sequence[Picture]) -> None:
    seen: dict[str, Picture] = {}
    ids: set[str] = set()
    for of in found:
        place = os.path.realpath(of.image)
        if place in seen:
            both = "both lists" if seen[place].member != of.member else "one list twice"
            raise ValueError(f"{of.image} is in {both}; an image is a member or it is not")
        if of.id in ids:
            raise ValueError(f"{of.id}: two images of that name; names have to be unique")
        seen[place] = of
        ids.add(of.id)


def paths_in(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files (or folders) with one of these suffixes, by stem; ValueError if two share one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        stem = unicodedata.normalize("NFC", path.stem)
        if found.setdefault(stem, path) != path:
            raise ValueError(f"{path} and {found[stem]} have the same stem; remove one")
    return found
