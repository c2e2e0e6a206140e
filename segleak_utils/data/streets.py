"""The data sets of the paper, Cityscapes, BDD100K and Mapillary Vistas, as scenes of 19 classes.

Files are read on demand. Label ids that do not belong to the data set are errors, see `labels`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torchvision.datasets import Cityscapes

from segleak_utils.data.classes import CLASSES, PALETTE
from segleak_utils.data.imagefiles import WHERE, Grid, Pair, expect_folders
from segleak_utils.data.labels import CONVERT, FOREIGN, MAPILLARY_SPLITS, TRAIN_ID_TABLE, converted
from segleak_utils.data.scenes import Scenes, files

CITYSCAPES_TABLE = np.full(256, FOREIGN, np.uint8)  # labelIds -> train ids
for _class in Cityscapes.classes:
    if _class.id >= 0:  # -1, the licence plate, is never drawn
        CITYSCAPES_TABLE[_class.id] = _class.train_id
CITYSCAPES_TABLE.flags.writeable = False


def cityscapes(
    root: str | Path, splits: Sequence[str] = ("train", "val"), size: Grid | None = None
) -> Scenes:
    """Cityscapes, `leftImg8bit/SPLIT/CITY/` with labelIds in `gtFine/SPLIT/CITY/`.

    Ids are `cityscapes/SPLIT/NAME`, in the order of `splits` and sorted by file within; `groups`
    are the cities. `size` = (H, W) resizes. FileNotFoundError: a folder is missing; ValueError: an
    image without label or a label without image, and what `data.files` raises.
    """
    root, pairs = Path(root), {}
    for split in _checked_splits(splits, ("train", "val")):
        images, labels = root / "leftImg8bit" / split, root / "gtFine" / split
        expect_folders("Cityscapes", root, (images, labels))
        try:
            listed = [Path(path) for path in Cityscapes(root, split, target_type="semantic").images]
        except NotADirectoryError as error:
            raise ValueError(
                f"{error.filename}: a file among the folders of cities; remove it"
            ) from error
        ending, label_ending = "_leftImg8bit.png", "_gtFine_labelIds.png"
        found = _stems(listed, images, ending), _stems(labels.glob("*/*"), labels, label_ending)
        mend = f"labels are CITY/NAME{label_ending}; unpack both archives of Cityscapes again"
        for name, pair in _partners(*found, images, labels, mend).items():
            pairs[f"cityscapes/{split}/{name.partition('/')[2]}"] = pair
    cities = [image.parent.name for image, _ in pairs.values()]
    mend = "use the files NAME_gtFine_labelIds.png as they came"
    return _scenes(pairs, CITYSCAPES_TABLE, "Cityscapes labelIds (0..33)", mend, size, cities)


def bdd100k(
    root: str | Path, splits: Sequence[str] = ("train", "val"), size: Grid | None = None
) -> Scenes:
    """BDD100K segmentation: `seg/images` and `seg/labels`, or the newer `images/10k` layout.

    `seg/images/SPLIT/ID.jpg` with `seg/labels/SPLIT/ID_train_id.png`, or `images/10k/SPLIT/ID.jpg`
    with `labels/sem_seg/masks/SPLIT/ID.png`; the labels are train ids. Ids are `bdd100k/SPLIT/ID`,
    sorted within each split. Raises as `cityscapes` does.
    """
    root, pairs = Path(root), {}
    layouts = (
        ("seg/images", "seg/labels", "_train_id.png"),
        ("images/10k", "labels/sem_seg/masks", ".png"),
    )
    there = [layout for layout in layouts if (root / layout[0]).is_dir()]
    if not there:
        expected = " or ".join(str(root / images) for images, _, _ in layouts)
        raise FileNotFoundError(f"{expected}: no such folder, expected BDD100K in {root}; {WHERE}")
    image_root, label_root, ending = there[0]
    for split in _checked_splits(splits, ("train", "val")):
        images, labels = root / image_root / split, root / label_root / split
        expect_folders("BDD100K", root, (images, labels))
        found = _stems(images.iterdir(), images, ".jpg"), _stems(labels.iterdir(), labels, ending)
        mend = f"labels are ID{ending}; unpack both archives of BDD100K's segmentation again"
        for name, pair in _partners(*found, images, labels, mend).items():
            pairs[f"bdd100k/{split}/{name}"] = pair
    mend = "take the labels of 19 train ids (ID_train_id.png, or those in labels/sem_seg/masks)"
    return _scenes(pairs, TRAIN_ID_TABLE, "train ids (0..18, 255 = void)", mend, size)


def mapillary(
    root: str | Path, splits: Sequence[str] = MAPILLARY_SPLITS, size: Grid | None = None
) -> Scenes:
    """Mapillary Vistas v1.2, `SPLIT/images/ID.jpg` with converted `SPLIT/cityscapes_labels/ID.png`.

    `data.convert_mapillary` makes the labels. The images differ in size, so `size` = (H, W) is
    needed. Ids are `mapillary/SPLIT/ID`, sorted within each split. Raises as `cityscapes` does.
    """
    root, pairs = Path(root), {}
    if size is None:
        raise ValueError("the images of Mapillary differ in size: give size=(height, width)")
    for split in _checked_splits(splits, MAPILLARY_SPLITS):
        images, labels = root / split / "images", root / split / "cityscapes_labels"
        expect_folders("Mapillary Vistas", root, (images,))
        if not labels.is_dir():
            raise FileNotFoundError(f"{labels}: no such folder; make it with {CONVERT} {root}")
        found = _stems(images.iterdir(), images, ".jpg"), _stems(labels.iterdir(), labels, ".png")
        mend = f"if the originals are whole, {CONVERT} {root} converts those that are missing"
        for name, pair in _partners(*found, images, labels, mend).items():
            pairs[f"mapillary/{split}/{name}"] = pair
    mend = f"remove cityscapes_labels and make it again with {CONVERT} {root}"
    return _scenes(pairs, TRAIN_ID_TABLE, "train ids (0..18, 255 = void)", mend, size)


def _scenes(
    pairs: Mapping[str, Pair],
    table: np.ndarray,
    expected: str,
    mend: str,
    size: Grid | None,
    groups: Sequence[str] | None = None,
) -> Scenes:
    """The pairs, by id, as scenes whose stored labels go through `table`."""
    convert = partial(converted, table=table, expected=expected, mend=mend)
    return files(
        list(pairs.values()),
        list(pairs),
        CLASSES,
        PALETTE,
        convert=convert,
        size=size,
        groups=groups,
        source=expected,
    )


# --------------------------------------------------------------------------------------- listing


def _checked_splits(splits: Sequence[str], known: Sequence[str]) -> list[str]:
    splits = [splits] if isinstance(splits, str) else list(splits)
    wrong = [split for split in splits if split not in known]
    if wrong or not splits or len(set(splits)) < len(splits):
        raise ValueError(f"splits are {splits}, expected some of {', '.join(known)}, each once")
    return splits


def _stems(paths: Iterable[Path], folder: Path, ending: str) -> dict[str, Path]:
    """The files with this ending by what stands before it, relative to `folder`, sorted."""
    found = {path.relative_to(folder).as_posix(): path for path in paths if path.name[0] != "."}
    return {n.removesuffix(ending): found[n] for n in sorted(found) if n.endswith(ending)}


def _partners(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    image_folder: Path,
    label_folder: Path,
    mend: str,
) -> dict[str, Pair]:
    """(image, label) by stem; ValueError unless all of both have their partner."""
    if not images and not labels:
        raise ValueError(f"{image_folder} and {label_folder}: no images and no labels; {mend}")
    for here, there, what, lacks, place in (
        (images, labels, "images", "label", label_folder),
        (labels, images, "labels", "image", image_folder),
    ):
        alone = [str(here[stem]) for stem in sorted(here.keys() - there.keys())]
        if alone:
            raise ValueError(
                f"{len(alone)} of {len(here)} {what} have no {lacks} in {place}, e.g. "
                f"{', '.join(alone[:3])}: half a data set? {mend}"
            )
    return {stem: (images[stem], labels[stem]) for stem in images}
