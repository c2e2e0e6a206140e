"""Label ids of the data sets of the paper, turned into the 19 Cityscapes train ids.

An id that does not belong to a data set is an error, never void: labels of another id space would
train a victim, and give a figure, without anyone noticing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.std import tqdm

from segleak_utils.data.classes import VOID
from segleak_utils.data.imagefiles import Pair, expect_folders, read_labels
from segleak_utils.data.workers import in_processes
from segleak_utils.whole import replace_file

MAPILLARY_TRAIN_IDS = (
    (13, 41, 24), (15, 2), (17,), (6,), (3,), (45, 47), (48,), (50,), (30,), (29,),
    (27,), (19,), (20, 21, 22), (55,), (61,), (54,), (58,), (57,), (52,),
)  # fmt: skip
MAPILLARY_SPLITS = ("training", "validation")
CONVERT = "python3 -m segleak_utils.run labels --mapillary"

# A table is uint8 [256]: stored id -> train id 0..18, 255 = void, or FOREIGN.
FOREIGN = 254
TRAIN_ID_TABLE = np.full(256, FOREIGN, np.uint8)
TRAIN_ID_TABLE[:19], TRAIN_ID_TABLE[VOID] = np.arange(19), VOID
MAPILLARY_TABLE = np.full(256, FOREIGN, np.uint8)
MAPILLARY_TABLE[:66] = VOID
for _train_id, _ids in enumerate(MAPILLARY_TRAIN_IDS):
    MAPILLARY_TABLE[list(_ids)] = _train_id
for _table in (TRAIN_ID_TABLE, MAPILLARY_TABLE):
    _table.flags.writeable = False


def to_train_ids(labels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Look labels uint8 [...] up in a table uint8 [256]; uint8 [...] of 0..18 and 255 = void.

    ValueError, naming the ids: labels that the table marks as foreign, or of another type.

    >>> to_train_ids(np.array([13, 15, 65], np.uint8), MAPILLARY_TABLE)  # road, pavement, void
    array([  0,   1, 255], dtype=uint8)
    """
    if labels.dtype != np.uint8 or table.dtype != np.uint8 or table.shape != (256,):
        found = f"{labels.dtype} and {table.dtype} {table.shape}"
        raise ValueError(f"labels and table are {found}, expected uint8 and uint8 (256,)")
    flat, train_ids = labels.ravel(), np.empty(labels.size, np.uint8)
    even = labels.size // 2 * 2  # two labels at a time: half as many, and half as slow, look-ups
    two = np.arange(2**16, dtype=np.uint16)
    pairs = table[two & 255] | (table[two >> 8].astype(np.uint16) << 8)
    at, out = (part[:even].view(np.uint16) for part in (flat, train_ids))
    pairs.take(at, out=out, mode="clip")  # with "raise" numpy would fill a copy first
    train_ids[even:] = table[flat[even:]]
    train_ids = train_ids.reshape(labels.shape)
    if (train_ids == FOREIGN).any():
        foreign = np.unique(labels[train_ids == FOREIGN])
        raise ValueError(f"label {', '.join(map(str, foreign[:3]))}{_looks_like(labels, table)}")
    return train_ids


def _looks_like(labels: np.ndarray, table: np.ndarray) -> str:
    """What labels with ids foreign to `table` seem to be, or nothing."""
    if not (TRAIN_ID_TABLE.take(labels) == FOREIGN).any():
        return ": these look like train ids (255 = void is among them)"
    highest = labels.max()
    if highest <= 33:
        return ": these look like Cityscapes labelIds"
    if highest <= 65:
        return ": these look like Mapillary Vistas ids"
    if highest <= 123 and np.array_equal(table, MAPILLARY_TABLE):
        return ": Vistas v2.0 has 124 classes; v1.2 is expected"
    return ""


def converted(
    labels: np.ndarray, name: str, table: np.ndarray, expected: str, mend: str
) -> np.ndarray:
    """`to_train_ids` for the labels of a file, whose ValueError names it and says what to do."""
    if labels.dtype != np.uint8:
        found = f"{8 * labels.dtype.itemsize} bits a label, as instance ids have"
        raise ValueError(f"{name}: {found}; expected {expected} of 8 bits; {mend}")
    try:
        return to_train_ids(labels, table)
    except ValueError as error:
        raise ValueError(f"{name}: {error}; expected {expected}; {mend}") from error


def convert_mapillary(
    root: str | Path, *, workers: int | None = None, progress: bool = True
) -> tuple[int, int]:
    """Convert `SPLIT/labels` of Mapillary Vistas v1.2 into `SPLIT/cityscapes_labels`.

    Of a package of Vistas 2.0 it takes `SPLIT/v1.2/labels`. Labels that are there are kept, each
    is written whole, so an interrupted run is simply run again. Returns how many were converted
    and how many were kept. FileNotFoundError: no labels; ValueError: an id above 65, an unreadable
    label, or an output folder that is the folder of the originals.
    """
    root = Path(root)
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, expected at least 1, or None")
    jobs, kept = [], 0
    if not any((root / split).is_dir() for split in MAPILLARY_SPLITS):
        expect_folders("Mapillary Vistas v1.2", root, (root / MAPILLARY_SPLITS[0],))
    for split in (split for split in MAPILLARY_SPLITS if (root / split).is_dir()):
        places = root / split / "labels", root / split / "v1.2" / "labels"
        source = next((place for place in places if place.is_dir()), None)
        if source is None:
            expect_folders("Mapillary Vistas v1.2", root, places[:1])
        target = root / split / "cityscapes_labels"
        aliased = target.resolve()
        if aliased in {source.resolve(), (root / split / "images").resolve()}:
            raise ValueError(f"{target}: is {aliased}, where originals lie; remove the link")
        names = sorted(path.name for path in source.glob("[!.]*.png"))
        if not names:
            raise ValueError(f"{source}: no labels (ID.png); unpack the archive again")
        target.mkdir(exist_ok=True)
        there = {path.name for path in target.iterdir()}
        jobs += [(source / name, target / name) for name in names if name not in there]
        kept += sum(name in there for name in names)
    interval = 0.2 if sys.stderr.isatty() else 5
    bar = partial(tqdm, desc="labels", total=len(jobs) + kept, initial=kept, unit="file")
    with closing(in_processes(_convert_file, jobs, workers)) as done:
        for _ in bar(done, mininterval=interval, disable=not progress):
            pass
    return len(jobs), kept


def _convert_file(job: Pair) -> None:
    """Read the first file, write the train ids to the second: whole or not at all."""
    source, target = job
    expected = "Mapillary Vistas v1.2 ids (0..65)"
    mend = "take the labels as they came, and remove cityscapes_labels if made from others"
    labels = converted(read_labels(source), str(source), MAPILLARY_TABLE, expected, mend)
    replace_file(target, lambda part: Image.fromarray(labels).save(part, format="PNG"))


def checked_labels(mask: np.ndarray, name: str, n_classes: int, void: int = VOID) -> np.ndarray:
    """`mask` as a new uint8 array with `void` turned into 255; ValueError names a wrong label.

    >>> checked_labels(np.array([0, 10, 11]), "a.png", n_classes=11, void=11)
    array([  0,  10, 255], dtype=uint8)
    """
    wrong = (mask != void) & ((mask < 0) | (mask >= n_classes))
    if wrong.any():
        found = ", ".join(map(str, np.unique(mask[wrong])[:3]))
        raise ValueError(f"{name}: label {found}; expected 0..{n_classes - 1}, or {void} for void")
    return np.where(mask == void, VOID, mask).astype(np.uint8)


def relabelled(
    ids: np.ndarray,
    name: str,
    n_classes: int,
    mapping: Mapping[int, int] | None = None,
    void: Sequence[int] = (VOID,),
) -> np.ndarray:
    """Stored ids, integer [...], as labels uint8 [...] of 0..n_classes-1, or 255 where `void`.

    Without `mapping` (stored id -> label) the ids are the labels. ValueError, naming the ids:
    those that are neither mapped nor void.

    >>> relabelled(np.array([0, 255, 7]), "a.png", 2, {0: 0, 255: 1}, void=(7,))
    array([  0,   1, 255], dtype=uint8)
    """
    known = {c: c for c in range(n_classes)} if mapping is None else dict(mapping)
    known |= dict.fromkeys(void, VOID)
    stored = np.array(sorted(known), np.int64)
    if ids.dtype == np.uint8:  # by a table: a search takes many times as long
        small = stored[stored < 256]
        table, there = np.zeros(256, np.uint8), np.zeros(256, bool)
        table[small], there[small] = [known[i] for i in small.tolist()], True
        labels, found = table[ids], there[ids]
    else:
        at = np.searchsorted(stored, ids).clip(max=len(stored) - 1)
        labels, found = (
            np.array([known[i] for i in stored.tolist()], np.uint8)[at],
            stored[at] == ids,
        )
    if not found.all():
        wrong = ", ".join(map(str, np.unique(ids[~found])[:3]))
        classes = f"0..{n_classes - 1}" if mapping is None else f"an id of mapping {dict(mapping)}"
        voids = ", ".join(map(str, void))
        raise ValueError(
            f"{name}: label {wrong}; expected {classes}{', or ' * bool(void)}{voids}"
            f"{' for void' * bool(void)}"
        )
    return labels
