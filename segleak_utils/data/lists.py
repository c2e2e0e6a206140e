"""The published split lists: who trained on what, one `IMAGE LABEL` a line, mapped by id.

`/data/0001.png /label/0001.png` is the first image of the sorted Cityscapes training set,
`/val_data/… /val_label/…` are those of the validation set; the items of BDD100K and Mapillary are
the authors' absolute paths, of which only split and id count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from segleak_utils.data.scenes import Scenes
from segleak_utils.data.splits import Split
from segleak_utils.data.streets import cityscapes
from segleak_utils.whole import replace_file

# Members and non-members in the published lists, by setting and data set of the shadow victim.
COUNTS: dict[tuple[str, str], dict[str, tuple[int, int]]] = {
    ("dependent", "cityscapes"): {"victim": (1488, 912), "shadow": (555, 520)},
    ("independent", "bdd100k"): {"victim": (2975, 500), "shadow": (4000, 4000)},
    ("independent", "mapillary"): {"victim": (2975, 500), "shadow": (10000, 10000)},
}
OFFICIAL = {"train": 2975, "val": 500}  # images of Cityscapes
# Independent: the victim has no lists, it is the official training and validation set.
FILES: dict[tuple[str, str], dict[str, str]] = {
    (setting, shadow): {
        f"{owner}_{kind}s": f"{setting}/{shadow}_{word}_{owner}.txt"
        for owner in (("victim", "shadow") if setting == "dependent" else ("shadow",))
        for kind, word in (("member", "membership"), ("nonmember", "non_membership"))
    }
    for setting, shadow in COUNTS
}
_PARTS = {"victim_members": "train", "victim_nonmembers": "val"}  # of Cityscapes, independent

# Source, pattern of the image, pattern of the label.
_FORMS = [
    (source, re.compile(image), re.compile(label))
    for source, image, label in (
        (
            "cityscapes",
            r"/?(?P<split>(?:val_)?)data/(?P<item>\d+)\.png",
            r"/?(?P<split>(?:val_)?)label/(?P<item>\d+)\.png",
        ),
        (
            "bdd100k",
            r"(?:.*/)?seg/images/(?P<split>train|val)/(?P<item>[^/]+)\.jpg",
            r"(?:.*/)?seg/labels/(?P<split>train|val)/(?P<item>[^/]+)_train_id\.png",
        ),
        (
            "bdd100k",
            r"(?:.*/)?images/10k/(?P<split>train|val)/(?P<item>[^/]+)\.jpg",
            r"(?:.*/)?labels/sem_seg/masks/(?P<split>train|val)/(?P<item>[^/]+)\.png",
        ),
        (
            "mapillary",
            r"(?:.*/)?(?P<split>training|validation)/images/(?P<item>[^/]+)\.jpg",
            r"(?:.*/)?(?P<split>training|validation)/cityscapes_labels/(?P<item>[^/]+)\.png",
        ),
    )
]
_EXAMPLES = (
    "/data/0001.png /label/0001.png, …/seg/images/train/ID.jpg …/seg/labels/train/ID_train_id.png, "
    "…/training/images/ID.jpg …/training/cityscapes_labels/ID.png"
)


def _numbered(source: Scenes, split: str) -> list[str]:
    """Ids of a part of Cityscapes in the order of the published numbers."""
    return sorted(i for i in source.ids if i.startswith(f"cityscapes/{split}/"))


def read(path: str | Path, sources: Mapping[str, Scenes]) -> Scenes:
    """The scenes of a list in its order; `sources` by name: cityscapes, bdd100k, mapillary.

    The sources must be whole (from `streets`): Cityscapes is numbered by what is there.
    FileNotFoundError: no such list. ValueError, naming list and line: not two words, an unknown
    form, an image and a label that do not belong together, items of two data sets, a source that
    is not given, an item that it lacks, an item listed twice; and an empty list.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such split list; name the folder that holds dependent/ and independent/"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error})") from error
    name, known, seen = "", {}, {}
    numbers: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        found, split, item = _parse(line, where)
        if found != (name or found):
            raise ValueError(f"{where}: an item of {found} in a list of {name}: {line.strip()}")
        if not name:
            if found not in sources:
                raise ValueError(f"{where}: an item of {found}, but no root of {found} was given")
            name, known = found, {i: k for k, i in enumerate(sources[found].ids)}
        if found == "cityscapes":
            if split not in numbers:
                numbers[split] = _numbered(sources[found], split)
            if not 1 <= int(item) <= len(numbers[split]):
                raise ValueError(
                    f"{where}: image {item} of Cityscapes {split}, which has 1 to "
                    f"{len(numbers[split])} here: half a data set?"
                )
            i = numbers[split][int(item) - 1]
        else:
            i = f"{found}/{split}/{item}"
        if i not in known:
            raise ValueError(f"{where}: {i} is not among the {len(known)} images: half a data set?")
        if i in seen:
            raise ValueError(f"{where}: {line.split()[0]} is listed twice, first in line {seen[i]}")
        seen[i] = number
    if not seen:
        raise ValueError(f"{path}: empty, expected lines IMAGE LABEL such as {_EXAMPLES}")
    return sources[name].subset(known[i] for i in seen)


def _parse(line: str, where: str) -> tuple[str, str, str]:
    """Source, split and item of a line; ValueError if it is none of the known forms."""
    words = line.split()
    if len(words) > 2:  # the folders of a user may have blanks in their names
        words = re.split(r"(?<=\.jpg|\.png)\s+", line.strip())
    if len(words) != 2:
        raise ValueError(
            f"{where}: {len(line.split())} words, expected IMAGE LABEL: {line.strip()}"
        )
    images = [(form, form[1].fullmatch(words[0])) for form in _FORMS]
    labels = [(form, form[2].fullmatch(words[1])) for form in _FORMS]
    image = next((pair for pair in images if pair[1]), None)
    label = next((pair for pair in labels if pair[1]), None)
    if image is None or label is None:
        wrong = words[image is not None]
        raise ValueError(f"{where}: {wrong} is of no known form; known are {_EXAMPLES}")
    if image[0] != label[0] or image[1].groupdict() != label[1].groupdict():
        raise ValueError(f"{where}: {words[0]} and {words[1]} do not belong together")
    source, split = image[0][0], image[1]["split"]
    if source == "cityscapes":
        split = "val" if split else "train"
    return source, split, image[1]["item"]


def write(scenes: Scenes, path: str | Path, roots: Mapping[str, str | Path] | None = None) -> None:
    """Write the scenes as a list in the published format; `read` gives them back.

    `roots` are the folders of the data sets: that of Cityscapes is listed, as its whole order makes
    the numbers; those of BDD100K and Mapillary begin the lines. ValueError: a root is missing, or
    a scene is of another source.
    """
    path, roots, lines = Path(path), roots or {}, []
    numbers: dict[str, dict[str, int]] = {}
    for i in scenes.ids:
        source, split, item = (*i.split("/", 2), "", "")[:3]
        if source not in (form[0] for form in _FORMS) or not item:
            raise ValueError(f"{path}: scene {i} is of none of cityscapes, bdd100k, mapillary")
        if source not in roots:
            raise ValueError(f"{path}: scene {i}, but no root of {source} was given")
        root = Path(roots[source])
        if source == "cityscapes":
            if split not in numbers:
                order = cityscapes(root, (split,)).ids
                numbers[split] = {i: number for number, i in enumerate(order, 1)}
            if i not in numbers[split]:
                raise ValueError(f"{path}: {i} is not among the images in {root}")
            prefix, number = "val_" if split == "val" else "", numbers[split][i]
            lines.append(f"/{prefix}data/{number:04d}.png /{prefix}label/{number:04d}.png")
            continue
        if source == "mapillary":
            image, label = f"{split}/images/{item}", f"{split}/cityscapes_labels/{item}"
        elif (root / "images" / "10k").is_dir() and not (root / "seg" / "images").is_dir():
            image, label = f"images/10k/{split}/{item}", f"labels/sem_seg/masks/{split}/{item}"
        else:
            image, label = f"seg/images/{split}/{item}", f"seg/labels/{split}/{item}_train_id"
        lines.append(f"{(root / image).as_posix()}.jpg {(root / label).as_posix()}.png")
    text = "".join(f"{line}\n" for line in lines)
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def load(
    setting: str,
    shadow: str,
    sources: Mapping[str, Scenes],
    folder: str | Path,
    counts: Mapping[str, tuple[int, int]] | None = None,
) -> Split:
    """The split of the lists in `folder`, named as in `FILES`; counts and disjointness are checked.

    `setting` is dependent or independent, `shadow` the data set of the shadow victim, `counts` the
    members and non-members of victim and shadow (the published ones unless given). ValueError:
    another number of items, an image in two lists, a list of another data set, and as `read`.
    """
    names, wanted = _names(setting, shadow), _wanted(setting, shadow, counts)
    _require(sources, "cityscapes", shadow)
    if counts is None:  # a number means the right image only if none before it is missing
        for part, expected in OFFICIAL.items():
            _official(sources["cityscapes"], part, expected)
    lists = {}
    for name, expected in wanted.items():
        if name not in names:
            lists[name] = _official(sources["cityscapes"], _PARTS[name], expected)
            continue
        path = Path(folder) / names[name]
        lists[name] = read(path, sources)
        found, source = len(lists[name]), lists[name].ids[0].split("/")[0]
        if source != shadow:
            raise ValueError(f"{path}: a list of {source}, expected one of {shadow}")
        if found != expected:
            raise ValueError(f"{path}: {found} items, expected {expected}; get the list again")
    for name, other in combinations(names, 2):
        shared = sorted(set(lists[name].ids) & set(lists[other].ids))
        if shared:
            one, two = (Path(folder) / names[n] for n in (name, other))
            raise ValueError(
                f"{one} and {two} share {len(shared)} images, e.g. {', '.join(shared[:3])}; an "
                "image is in one list only: get both lists again, or generate new ones"
            )
    return Split(**lists)


def generate(
    setting: str,
    shadow: str,
    sources: Mapping[str, Scenes],
    *,
    seed: int,
    counts: Mapping[str, tuple[int, int]] | None = None,
) -> Split:
    """A split of our own by seed, with the published counts (or `counts`), from whole sources.

    Dependent: four parts of Cityscapes; independent: the official parts of Cityscapes and two parts
    of `shadow`. It follows from the seed and the ids, whatever their order. ValueError: too few
    images, or a part of Cityscapes that is not of the official size.
    """
    names, wanted = _names(setting, shadow), _wanted(setting, shadow, counts)
    _require(sources, "cityscapes", shadow)
    at = {i: k for k, i in enumerate(sources[shadow].ids)}
    ids, needed = sorted(at), sum(wanted[name] for name in names)
    if len(ids) < needed:
        raise ValueError(f"{shadow}: {len(ids)} images, {needed} are needed: half a data set?")
    order, lists, start = np.random.default_rng(seed).permutation(len(ids)), {}, 0
    for name, count in wanted.items():
        if name in names:
            drawn = np.sort(order[start : start + count])
            lists[name] = sources[shadow].subset(at[ids[k]] for k in drawn)
            start += count
        else:
            lists[name] = _official(sources["cityscapes"], _PARTS[name], count)
    return Split(**lists)


def save(
    split: Split,
    folder: str | Path,
    setting: str,
    shadow: str,
    roots: Mapping[str, str | Path] | None = None,
) -> list[Path]:
    """Write the lists of a split under the published names, see `write`; returns their paths."""
    paths = {name: Path(folder) / file for name, file in _names(setting, shadow).items()}
    for name, path in paths.items():
        write(getattr(split, name), path, roots)
    return list(paths.values())


def _names(setting: str, shadow: str) -> dict[str, str]:
    if (setting, shadow) not in FILES:
        known = ", ".join(" ".join(pair) for pair in FILES)
        raise ValueError(f"setting and shadow are {setting} {shadow}, expected one of {known}")
    return FILES[setting, shadow]


def _wanted(
    setting: str, shadow: str, counts: Mapping[str, tuple[int, int]] | None
) -> dict[str, int]:
    """Images of each list, by the names of `Split`, in the order of drawing."""
    counts = COUNTS[setting, shadow] if counts is None else counts
    pairs = [counts.get(owner, ()) for owner in ("victim", "shadow")]
    if len(counts) != 2 or any(len(pair) != 2 or min(pair) < 1 for pair in pairs):
        raise ValueError(f"counts are {counts}, expected like {COUNTS[setting, shadow]}")
    (one, two), (three, four) = pairs
    return {
        "victim_members": one,
        "victim_nonmembers": two,
        "shadow_members": three,
        "shadow_nonmembers": four,
    }


def _require(sources: Mapping[str, Scenes], *names: str) -> None:
    for name in names:
        if name not in sources:
            given = ", ".join(sources) or "none"
            raise ValueError(f"no root of {name} was given, expected one; given: {given}")


def _official(source: Scenes, split: str, expected: int) -> Scenes:
    """The training or the validation set of Cityscapes, sorted; ValueError if it is not whole."""
    ids, at = _numbered(source, split), {i: k for k, i in enumerate(source.ids)}
    if len(ids) != expected:
        found = f"Cityscapes {split}: {len(ids)} images, expected {expected}"
        raise ValueError(f"{found}: half a data set?")
    return source.subset(at[i] for i in ids)
