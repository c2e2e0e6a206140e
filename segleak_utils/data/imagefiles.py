"""Images and their label masks in files: read with errors that name the file.

Only NumPy and Pillow are imported, so that processes which read files start fast and stay small.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

Item = tuple[np.ndarray, np.ndarray]  # image uint8 [3, H, W], mask uint8 [H, W]
Grid = tuple[int, int]  # height, width
Pair = tuple[Path, Path]  # image file, label file
Convert = Callable[[np.ndarray, str], np.ndarray]  # stored label ids, their file's name -> labels

WHERE = "data/README.md says how to get it"


def expect_folders(name: str, root: Path, folders: Iterable[Path]) -> None:
    """FileNotFoundError for the first of the folders of a data set that is not there."""
    for folder in folders:
        if not folder.is_dir():
            zips = sorted(path.name for path in root.glob("*.zip"))[:3]
            hint = f"unpack {', '.join(zips)} first" if zips else WHERE
            raise FileNotFoundError(f"{folder}: no such folder, expected {name} in {root}; {hint}")


def opened(path: Path) -> Image.Image:
    """The image of a file, not yet decoded (its size is in the header)."""
    with _named(path):
        return Image.open(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what Pillow raises for a damaged file into a ValueError that names it."""
    try:
        yield
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        message = f"{path}: cannot be read as an image ({error}); is it whole? Fetch it again"
        raise ValueError(message) from error


def grid(path: Path) -> Grid:
    """(H, W) from the header alone; ValueError, naming the file, if it is no image."""
    with opened(path) as file:
        return file.height, file.width


def _check_one_channel(path: Path, file: Image.Image) -> None:
    if file.mode not in ("L", "P", "1") and not file.mode.startswith("I"):
        raise ValueError(
            f"{path}: pixel mode {file.mode}, expected one channel of labels; "
            "if this is the picture of the labels' colours, use the file of their ids"
        )


def _label_array(path: Path, file: Image.Image) -> np.ndarray:
    with _named(path):
        labels = np.array(file)
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def read_labels(path: Path) -> np.ndarray:
    """The label ids [H, W] of a one-channel image as stored: uint8, or wider if not of 8 bits.

    ValueError, naming the file: unreadable, or more than one channel.
    """
    with opened(path) as file:
        _check_one_channel(path, file)
        return _label_array(path, file)


def read_pair(pair: Pair, convert: Convert, size: Grid | None) -> Item:
    """Image uint8 [3, H, W] and mask uint8 [H, W] from two files; ValueError names the file."""
    with opened(pair[0]) as image, opened(pair[1]) as mask:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{pair[0]}: pixel mode {image.mode}, expected 8 bits a channel")
        _check_one_channel(pair[1], mask)
        if image.size != mask.size:
            raise ValueError(
                f"{pair[1]}: mask of {mask.height}x{mask.width}, image of "
                f"{image.height}x{image.width} (height x width); expected the same size"
            )
        with _named(pair[0]):
            image.load()
        labels = convert(_label_array(pair[1], mask), str(pair[1]))
        picture = image.convert("RGB")
    if size is not None:
        picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)  # Pillow antialiases
        labels = np.array(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)), labels
