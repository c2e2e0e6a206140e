"""Label masks of any make: PNG ids, palettes, RGB with a colour map, arrays, TIFF of 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segleak_utils.audit.config import Data
from segleak_utils.data import VOID
from segleak_utils.data.imagefiles import label_header, opened, read_labels, read_picture

ARRAYS = (".npy",)


def read_mask(path: Path, data: Data) -> NDArray[np.uint8]:
    """Labels 0..C-1, and 255 where void, uint8 [H,W], of one mask as `data` describes it.

    ValueError, naming the file: a colour or an id that was not told, an id beyond the classes,
    another form, a file that cannot be read.
    """
    n_classes = len(data.names)
    if data.colours is not None:
        return _of_colours(path, data.colours, n_classes)
    return _of_ids(stored(path), path, data, n_classes)


def one_palette(
    known: tuple[bytes, Path | None], path: Path, data: Data | None
) -> tuple[bytes, Path | None]:
    """The longer of a known palette and a mask's own, by whose places classes are told, and whose.

    data: how masks are stored, None for labels. ValueError where one is no beginning of the other.
    """
    if (data is not None and data.colours is not None) or path.suffix.lower() in ARRAYS:
        return known
    found, (before, whose) = label_header(path)[1], known
    if not (found.startswith(before) or before.startswith(found)):
        raise ValueError(
            f"{whose} and {path} have different palettes: one number may be two classes; save all "
            "with one palette, or in grey, or give data.colours after saving them in RGB"
        )
    return (found, path) if len(found) > len(before) else known


def stored(path: Path) -> NDArray:
    """The ids [H,W] of a mask as they are on file; ValueError, naming it, for what holds none."""
    if path.suffix.lower() in ARRAYS:
        return _array(path)
    return read_labels(path)


def _array(path: Path) -> NDArray:
    try:
        ids = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read as an array ({error}); is it whole?") from error
    if not isinstance(ids, np.ndarray):
        raise ValueError(f"{path}: several arrays, expected one of ids [H,W]")
    if ids.ndim == 3 and 1 in (ids.shape[0], ids.shape[-1]):
        ids = ids[0] if ids.shape[0] == 1 else ids[..., 0]
    if ids.ndim != 2 or ids.dtype.kind not in "biu" or not ids.size:
        raise ValueError(
            f"{path}: {ids.dtype} {list(ids.shape)}, expected whole numbers [H,W], one id a pixel"
        )
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def _of_ids(ids: NDArray, path: Path, data: Data, n_classes: int) -> NDArray[np.uint8]:
    void = data.voids if data.voids is not None else (VOID,)
    if data.voids is None and data.mapping is not None and VOID in data.mapping:
        void = ()
    known = data.mapping if data.mapping is not None else {c: c for c in range(n_classes)}
    wrong = {i: label for i, label in known.items() if not 0 <= label < n_classes}
    if wrong:
        found = ", ".join(f"{i}: {label}" for i, label in [*wrong.items()][:3])
        raise ValueError(f"data.mapping: {found}; labels are 0..{n_classes - 1}")
    if twice := sorted(set(void) & set(known)) if data.mapping is not None else []:
        raise ValueError(f"data.void and data.mapping both have {twice}; take them out of one")
    known = {i: label for i, label in known.items() if i not in void}
    there, where = np.unique(ids, return_inverse=True)
    foreign = [int(i) for i in there if i not in known and i not in void]
    if foreign:
        raise ValueError(
            f"{path}: ids {', '.join(map(str, foreign[:5]))}; known are "
            f"{_ranges(sorted(known))}{f', void {_ranges(sorted(void))}' if void else ''}: give "
            "data.mapping, data.void or another number of classes"
        )
    table = np.array([VOID if i in void else known[int(i)] for i in there], np.uint8)
    return table[where].reshape(ids.shape)


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 7 as "0..2, 7"."""
    parts: list[list[int]] = []
    for n in numbers:
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    shown = [f"{a}..{b}" if b > a + 1 else ", ".join(map(str, range(a, b + 1))) for a, b in parts]
    return ", ".join(shown[:6]) + (", ..." if len(shown) > 6 else "")


def _of_colours(path: Path, colours: dict[str, int], n_classes: int) -> NDArray[np.uint8]:
    table = {colour_of(name): label for name, label in colours.items()}
    wrong = {name: label for name, label in colours.items() if not -1 <= label < n_classes}
    if wrong:
        name, label = next(iter(wrong.items()))
        raise ValueError(
            f"data.colours: {name}: {label}; labels are 0..{n_classes - 1}, or -1 for void"
        )
    with opened(path) as file:  # a JPEG would blur the colours
        if file.format not in ("PNG", "BMP", "GIF", "TIFF"):
            raise ValueError(f"{path}: {file.format}, expected a PNG, BMP, GIF or TIFF: others may "
                             "blur the colours")  # fmt: skip
    pixels = np.asarray(read_picture(path)).astype(np.int64)
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    there, where = np.unique(codes, return_inverse=True)
    foreign = [f"#{code:06x}" for code in there.tolist() if code not in table]
    if foreign:
        raise ValueError(
            f"{path}: colours {', '.join(foreign[:5])} are not in data.colours, which has "
            f"{len(table)}; add them, with -1 for void"
        )
    labels = [table[code] for code in there.tolist()]
    return np.array([VOID if c < 0 else c for c in labels], np.uint8)[where].reshape(codes.shape)


def colour_of(name: str) -> int:
    """The number of a colour "#804080"; ValueError for another form."""
    digits = name.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return int(digits, 16)
    except ValueError:
        raise ValueError(f'data.colours: {name!r}; expected a colour such as "#804080"') from None
