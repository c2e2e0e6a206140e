"""One picture under two names, which could be a member and none at once: found at little cost.

Each row of a source has a quick key. Only rows whose quick keys are equal are looked at more
closely, and what was seen is kept with the source, so that lists can be made of it again and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from segleak_utils.data.imagefiles import read_picture

SMALL = 2**16  # bytes of a file that is not worth a look at its middle


@dataclass(frozen=True, eq=False)
class Pictures:
    """How the pictures of one source are told apart.

    `quick`: a key for each row; `closer`: functions of a row that tell more and cost more, the last
    of which is of all the pixels; `files`: where the pictures lie, or None.
    """

    quick: Sequence[Hashable]
    closer: Sequence[Callable[[int], bytes]]
    files: Sequence[Path] | None = None
    seen: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def look(self, row: int, level: int) -> bytes:
        """What `closer[level]` says of a row, or nothing where there are not so many."""
        if level >= len(self.closer):
            return b""
        if (row, level) not in self.seen:
            self.seen[row, level] = self.closer[level](row)
        return self.seen[row, level]

    def named(self, row: int, name: str) -> str:
        return name if self.files is None else f"{name} ({self.files[row]})"


Row = tuple[Pictures, int, str]  # source, row in it, id


def in_arrays(images: np.ndarray) -> Pictures:
    """Pictures uint8 [N, 3, H, W]; the quick key is a thin sample of two lines of green."""
    height, width = images.shape[2:]
    lines = [height // 2, 3 * height // 4]
    thin = images[:, 1, lines, :: max(1, width // 32)].reshape(len(images), -1)
    return Pictures([row.tobytes() for row in thin], (partial(_digest_of, images),))


def in_files(paths: Sequence[Path], sizes: Sequence[int]) -> Pictures:
    """Pictures in files of so many bytes, which are the quick key."""
    closer = partial(_middle, paths, sizes), partial(_digest_in, paths)
    return Pictures(sizes, closer, paths)


def _digest_of(images: np.ndarray, row: int) -> bytes:
    pixels = np.ascontiguousarray(images[row])
    return hashlib.sha256(pixels).digest() + str(pixels.shape).encode()


def _digest_in(paths: Sequence[Path], row: int) -> bytes:
    """Of the picture as it is on file, before it is resized."""
    return _digest_of(np.asarray(read_picture(paths[row]))[None], 0)


def _middle(paths: Sequence[Path], sizes: Sequence[int], row: int) -> bytes:
    """A piece of the encoded pixels: many files of a data set are of one size by chance."""
    if sizes[row] < SMALL:
        return b""
    with open(paths[row], "rb") as file:
        file.seek(sizes[row] // 2)
        return hashlib.sha256(file.read(4096)).digest()


def twins(rows: Iterable[Row]) -> tuple[Row, Row] | None:
    """The first two rows with the same pixels, or None.

    >>> pictures = in_arrays(np.zeros((2, 3, 4, 4), np.uint8))
    >>> [name for _, _, name in twins([(pictures, 0, "a"), (pictures, 1, "b")])]
    ['a', 'b']
    """
    rows = list(rows)
    keys = [pictures.quick[row] for pictures, row, _ in rows]
    if len(set(keys)) == len(keys):
        return None
    groups = _alike(rows, keys)
    for level in range(max(len(pictures.closer) for pictures, _, _ in rows)):
        looked = [[pictures.look(row, level) for pictures, row, _ in group] for group in groups]
        pairs = zip(groups, looked, strict=True)
        groups = [part for group, found in pairs for part in _alike(group, found)]
    return (groups[0][0], groups[0][1]) if groups else None


def _alike(rows: Sequence[Row], keys: Sequence[Hashable]) -> list[list[Row]]:
    """The rows that share their key with another one, grouped by it."""
    groups: dict[Hashable, list[Row]] = {}
    for row, key in zip(rows, keys, strict=True):
        groups.setdefault(key, []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def refuse_twins(rows: Iterable[Row]) -> None:
    """ValueError, naming both, if one picture stands under two ids."""
    found = twins(rows)
    if found:
        first, second = (pictures.named(row, name) for pictures, row, name in found)
        raise ValueError(
            f"{first} and {second} are one picture under two ids, expected one: it is a member or "
            "it is not; remove one of them"
        )
