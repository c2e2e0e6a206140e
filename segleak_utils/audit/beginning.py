"""`audit init`: an audit.yml, commented, from what is found in a folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segleak_utils.audit.masks import ARRAYS, stored
from segleak_utils.data import VOID
from segleak_utils.data.imagefiles import opened, read_picture
from segleak_utils.data.scenes import IMAGE_SUFFIXES
from segleak_utils.whole import write_whole

MEMBERS = ("train", "training", "members", "member", "in")
OTHERS = ("test", "val", "valid", "validation", "holdout", "held_out", "nonmembers", "nonmember",
          "non-members", "out")  # fmt: skip
IMAGES = ("images", "image", "img", "imgs", "leftImg8bit", "rgb", "jpegimages")
MASKS = ("masks", "mask", "labels", "label", "annotations", "annot", "gtFine", "gt", "ann",
         "segmentationclass")  # fmt: skip
LOOKED_AT = 40  # masks in which classes are looked for


def begun(folder: Path) -> Path:
    """Write `audit.yml` into the folder; its path. FileExistsError where there is one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    path = folder / "audit.yml"
    if path.exists():
        raise FileExistsError(f"{path} is there already; it is not written over")
    write_whole(path, text_of(folder))
    return path


def text_of(folder: Path) -> str:
    """The commented audit.yml of a folder."""
    lists = {name: _pair(folder, words) for name, words in
             (("members", MEMBERS), ("nonmembers", OTHERS))}  # fmt: skip
    pairs = [pair for pair in lists.values() if pair is not None]
    named, masks = _patterns(pairs)
    told, notes = _masks(masks, pairs)
    from segleak_utils.audit.reading import SCHEMAS

    lines = [
        f"# yaml-language-server: $schema={SCHEMAS / 'audit-yml.json'}",
        "# What an audit is told. Keys that are not known are refused; docs/audit.md has them all.",
        f"# Found here: {notes}",
        "name: my model",
        "data:",
        "  # Two lists that should differ in nothing but membership: what the model was trained",
        "  # on, and images like these that it was not.",
    ]
    for name, pair in lists.items():
        if pair is None:
            lines.append(f"  # {name}: {{images: FOLDER, masks: FOLDER}}  # not found: fill it in")
        else:
            images, masks = (_relative(part, folder) for part in pair)
            lines.append(f"  {name}: {{images: {images}, masks: {masks}}}")
    lines += [*named, *told]
    lines += [
        "  # groups: '^([^_]+)_'       # whose an image is, in its name: patient, drive, site",
        "  # size: [512, 1024]         # height, width of all images; fit: pad or stretch",
        "  # tile: [512, 512]          # or asked tile by tile",
        "answers:",
        "  # One of: model, file, posteriors, labels, scores.",
        "  model: package.module:name  # a network, or a function that makes one",
        "  returns: logits             # or log_probabilities, probabilities: said, then checked",
        "  # mean: [0.485, 0.456, 0.406]",
        "  # std: [0.229, 0.224, 0.225]",
        "  device: auto",
        "# Networks like this one that were not trained on these images make the audit sharper:",
        "# references:",
        "#   - {model: package.module:other, returns: logits}",
        "# train_references: {count: 2, images: more/images, masks: more/masks}",
        "releases: true                # whether to try what would help",
        "# fail_above: {auc: 0.60, tpr_at_1pct: 0.05}   # the gate's limits",
        "out: audit",
    ]
    return "\n".join(lines) + "\n"


def _relative(path: Path, folder: Path) -> str:
    name = Path(os.path.relpath(path, folder)).as_posix()
    return name if re.fullmatch(r"[\w./-]+", name) else _quoted(name)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # which is YAML, too


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _named(folder: Path, words: Sequence[str]) -> list[Path]:
    """Folders within whose name is one of the words, before those that have it in their name."""
    lower = [word.lower() for word in words]
    inside = _folders(folder)
    exact = [path for path in inside if path.name.lower() in lower]
    return exact or [p for p in inside if any(p.name.lower().startswith(w) for w in lower)]


def _files(folder: Path) -> list[Path]:
    kinds = (*IMAGE_SUFFIXES, *ARRAYS)
    return sorted(
        path for path in folder.iterdir()
        if path.suffix.lower() in kinds and not path.name.startswith(".")
    )  # fmt: skip


def _pair(folder: Path, words: Sequence[str]) -> tuple[Path, Path] | None:
    """Images and masks of a list: LIST/images, or images/LIST, or LIST and LISTannot."""
    for part in _named(folder, words):
        images, masks = (_named(part, names) for names in (IMAGES, MASKS))
        if images and masks:
            return images[0], masks[0]
        beside = [
            p
            for p in _folders(folder)
            if p != part
            and p.name.lower().startswith(part.name.lower())
            and any(word in p.name.lower() for word in ("annot", "mask", "label"))
        ]
        if beside and _files(part):
            return part, beside[0]
    images, masks = (_named(folder, names) for names in (IMAGES, MASKS))
    if images and masks:
        parts = [_named(place[0], words) for place in (images, masks)]
        if all(parts):
            return parts[0][0], parts[1][0]
    return None


def _patterns(pairs: Sequence[tuple[Path, Path]]) -> tuple[list[str], list[Path]]:
    """Lines of audit.yml on how masks and images are named, where not alike; the masks found."""
    images = [(pair, path) for pair in pairs for path in _files(pair[0])]
    if not images:
        return [], []
    for image_end in _ends([path.stem for _, path in images]):
        stems = [(pair[1], path.stem.removesuffix(image_end)) for pair, path in images]
        for pattern in _mask_patterns(*stems[0]):
            masks = [folder / pattern.replace("{stem}", stem) for folder, stem in stems]
            if all(mask.is_file() for mask in masks):
                alike = not image_end and Path(pattern).stem == "{stem}"
                lines = [] if alike else [f"  pattern: {_quoted(pattern)}"]
                end = f"{{stem}}{image_end}.*"
                more = [f"  image_pattern: {_quoted(end)}"] if image_end else []
                return [*lines, *more], masks
    lines = ['  # pattern: "{stem}_mask.png"  # how masks are named; not found: fill it in']
    return lines, [mask for pair in pairs for mask in _files(pair[1])]


def _ends(stems: Sequence[str]) -> list[str]:
    """What all stems end with from a "_" on: nothing, the longest, ..., the shortest."""
    first, last = min(stems, key=_turned), max(stems, key=_turned)
    n = next((k for k, (a, b) in enumerate(zip(first[::-1], last[::-1], strict=False)) if a != b),
             min(len(first), len(last)))  # fmt: skip
    end = first[len(first) - n :] if len(stems) > 1 else ""
    return ["", *(end[k:] for k, letter in enumerate(end) if letter == "_")]


def _turned(text: str) -> str:
    return text[::-1]


def _mask_patterns(folder: Path, stem: str) -> list[str]:
    """Patterns of all files that have this stem in their names, at every place; of ids first."""
    names = [path.name for path in _files(folder) if stem and stem in path.name]

    def order(name: str) -> tuple[bool, bool, int, str]:
        low = name.removeprefix(stem).lower()
        return ("color" in low or "instance" in low, "trainid" not in low, len(name), name)

    return [
        f"{name[: at.start()]}{{stem}}{name[at.start() + len(stem) :]}"
        for name in sorted(names, key=order)
        for at in re.finditer(f"(?={re.escape(stem)})", name)
    ]


def _masks(paths: Sequence[Path], pairs: Sequence[tuple[Path, Path]]) -> tuple[list[str], str]:
    """Lines of audit.yml on classes and void, and a sentence on what was seen."""
    if not paths:
        return [
            "  # n_classes: 19             # and their names, if you like: classes: [road, ...]"
        ], ("no folders of images and masks that look like two lists.")
    step = max(1, len(paths) // LOOKED_AT)
    seen: set[int] = set()
    colours: set[int] = set()
    for path in paths[::step]:
        if path.suffix.lower() not in ARRAYS and _is_coloured(path):
            pixels = np.asarray(read_picture(path)).astype(np.int64)
            colours |= set(
                np.unique((pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]).tolist()
            )
        else:
            seen |= set(np.unique(stored(path)).tolist())
    sizes = _sizes([path for pair in pairs for path in _files(pair[0])])
    n = ", ".join(f"{len(_files(pair[0]))} images in {pair[0].name}" for pair in pairs)
    note = f"{n}; sizes {sizes}"
    if colours:
        lines = ["  # Masks in colours. Which class is which? -1 is void.", "  colours:"]
        lines += [f'    "#{code:06x}": {k}' for k, code in enumerate(sorted(colours)[:64])]
        return [f"  n_classes: {max(2, len(colours))}", *lines], f"{note}; masks in colours."
    labels = sorted(i for i in seen if i != VOID)
    if labels and labels[-1] > 254:
        lines = ["  mapping:  # stored id: label"]
        lines += [f"    {i}: {k}" for k, i in enumerate(labels[:254])]
        return [f"  n_classes: {max(2, len(labels))}", *lines], f"{note}; ids beyond 254."
    if VOID in seen and labels in ([0], []):
        lines = ["  n_classes: 2", "  mapping: {0: 0, 255: 1}  # 255 looks like a class here"]
        return lines, f"{note}; masks of 0 and 255."
    top = (labels[-1] if labels else 1) + 1
    void = [f"  void: [{VOID}]"] if VOID in seen else []
    missing = sorted(set(range(top)) - set(labels))
    more = f"; ids {missing[:5]} were not seen" if missing else ""
    lines = [f"  n_classes: {max(2, top)}  # the ids seen in some masks go up to {top - 1}"]
    return [*lines, *void], f"{note}; ids 0..{top - 1}{' and 255' if void else ''}{more}."


def _is_coloured(path: Path) -> bool:
    with opened(path) as file:
        return file.mode in ("RGB", "RGBA")


def _sizes(paths: Sequence[Path]) -> str:
    found = set()
    for path in [path for path in paths if path.suffix.lower() not in ARRAYS][: 2 * LOOKED_AT]:
        with opened(path) as file:
            found.add(f"{file.height}x{file.width}")
    return ", ".join(sorted(found)[:3]) + (", ..." if len(found) > 3 else "")
