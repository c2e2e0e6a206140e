"""Images and their label masks in files: read with errors that name the file.

Only NumPy and Pillow are imported, so that processes which read files start fast and stay small.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

Item = tuple[np.ndarray, np.ndarray]  # image uint8 [3, H, W], mask uint8 [H, W]
Grid = tuple[int, int]  # height, width
Pair = tuple[Path, Path]  # image file, label file
Convert = Callable[[np.ndarray, str], np.ndarray]  # stored label ids, their file's name -> labels

WHERE = "data/README.md says how to get it"
PICTURES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")  # Pillow's modes that are seen as RGB
LOSSLESS = ("PNG", "BMP", "GIF", "TIFF")  # formats that keep the numbers of a mask
LOSSLESS_TIFF = (
    "raw", "tiff_ccitt", "group3", "group4", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate",
    "packbits", "lzma", "zstd",
)  # fmt: skip
SPREAD = {2: 85, 4: 17}  # Pillow brings grey of so many bits to 0..255 by this factor

# A large photograph is no attack; one that Pillow refuses is an error below.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def expect_folders(name: str, root: Path, folders: Iterable[Path]) -> None:
    """FileNotFoundError for the first of the folders of a data set that is not there."""
    for folder in folders:
        if not folder.is_dir():
            zips = sorted(path.name for path in root.glob("*.zip"))[:3]
            hint = f"unpack {', '.join(zips)} first" if zips else WHERE
            raise FileNotFoundError(f"{folder}: no such folder, expected {name} in {root}; {hint}")


def opened(path: Path) -> Image.Image:
    """The image of a file, not yet decoded (its size is in the header).

    ValueError, naming the file: no image, more pixels than Pillow takes, or several pictures (a
    phone's JPEG with a preview beside the photograph, MPO, counts as one).
    """
    with named(path):
        file = Image.open(path)
        if file.format == "TIFF":
            file.filename = ""  # mapped from it, turned pixels of one channel come out garbled
        frames = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
    if frames > 1:
        file.close()
        raise ValueError(f"{path}: {frames} pictures in one file, expected one; save them apart")
    return file


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn what Pillow raises for a damaged file into a ValueError that names it.

    >>> with named(Path("a.png")):
    ...     raise OSError("truncated")
    Traceback (most recent call last):
    ValueError: a.png: cannot be read as an image (truncated); is it whole? Fetch it again
    """
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"{path}: {error}; if it is a picture, raise PIL.Image.MAX_IMAGE_PIXELS"
        raise ValueError(message) from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        message = f"{path}: cannot be read as an image ({error}); is it whole? Fetch it again"
        raise ValueError(message) from error


def grid(path: Path) -> Grid:
    """(H, W) of the upright picture, from the header alone; ValueError, naming the file, if none.

    A turn that a PNG tells only behind its pixels is not seen here; reading sees it.
    """
    with opened(path) as file:
        return _upright_grid(path, file)


def label_header(path: Path) -> tuple[Grid, bytes]:
    """(H, W) and the palette (empty if there is none) of a mask, from the header alone.

    ValueError, naming the file, for what `read_labels` refuses, but for damage behind the header.
    """
    with opened(path) as file:
        _check_labels(path, file)
        colours = b"" if file.palette is None else bytes(file.palette.palette)
        return _upright_grid(path, file), colours


def _upright_grid(path: Path, file: Image.Image) -> Grid:
    turned = False
    if file.format != "TIFF":  # whose size Pillow has turned
        with named(path):  # a PNG's own getexif would decode it
            turned = Image.Image.getexif(file).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (file.width, file.height) if turned else (file.height, file.width)


def _bits(file: Image.Image) -> int:
    """Bits of a channel as stored, or 8 where the format does not say."""
    if file.format == "PNG":
        at = file.fp.tell()
        file.fp.seek(24)
        bits = file.fp.read(1)[0]
        file.fp.seek(at)
        return bits
    if file.format == "TIFF":
        return int(np.max(file.tag_v2.get(258, 1)))
    if file.format == "PPM" and file.tile[0][0] != "raw":  # (decoder, box, offset, (mode, largest))
        return int(file.tile[0][3][-1]).bit_length()
    return 8


def _check_picture(path: Path, file: Image.Image) -> None:
    if file.mode not in PICTURES:
        raise ValueError(
            f"{path}: pixel mode {file.mode}, expected 8 bits a channel, grey or RGB; convert it"
        )
    bits = _bits(file)
    if bits > 8:
        raise ValueError(
            f"{path}: {bits} bits a channel, expected 8: reading would cut them off; convert it"
        )


def _check_labels(path: Path, file: Image.Image) -> None:
    """Refuse what would change the numbers of a mask on their way here."""
    again = "save the label ids as a grey PNG of 8 bits"
    how = file.info.get("compression") if file.format == "TIFF" else "raw"
    if file.format not in LOSSLESS or how not in LOSSLESS_TIFF:
        found = f"{file.format} ({how})" if file.format == "TIFF" else file.format
        raise ValueError(
            f"{path}: holds {found}, whatever its name says, expected a PNG (or a BMP, GIF or TIFF "
            f"without loss): other formats may blur the labels; {again}"
        )
    if file.mode not in ("L", "P", "1") and not file.mode.startswith("I"):
        raise ValueError(
            f"{path}: pixel mode {file.mode}, expected one channel of labels; "
            "if this is the picture of the labels' colours, use the file of their ids"
        )
    if file.format == "TIFF" and 2 <= _bits(file) <= 7:
        raise ValueError(f"{path}: TIFF of {_bits(file)} bits, expected 8 (or 1 or 16); {again}")
    if file.format == "TIFF" and file.tag_v2.get(262) == 0:
        raise ValueError(f"{path}: TIFF where 0 is white, so Pillow turns labels over; {again}")


def _upright(path: Path, file: Image.Image) -> Image.Image:
    """The file decoded, and turned as its EXIF says."""
    with named(path):
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
    return file


def _label_array(path: Path, file: Image.Image) -> np.ndarray:
    spread = SPREAD.get(_bits(file), 1) if file.format == "PNG" and file.mode == "L" else 1
    labels = np.array(_upright(path, file))
    if spread > 1:
        labels //= spread
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def read_labels(path: Path) -> np.ndarray:
    """The label ids [H, W] of a one-channel image as stored: uint8, or wider if not of 8 bits.

    ValueError, naming the file: unreadable, more than one channel, or of a format that does not
    keep the numbers (JPEG under whatever name).
    """
    with opened(path) as file:
        _check_labels(path, file)
        return _label_array(path, file)


def read_picture(path: Path) -> Image.Image:
    """The picture in RGB, upright; ValueError, naming the file.

    Refused: unreadable, CMYK and the like, and more than 8 bits a channel.
    """
    with opened(path) as file:
        _check_picture(path, file)
        return _upright(path, file).convert("RGB")


def read_pair(pair: Pair, convert: Convert, size: Grid | None) -> Item:
    """Image uint8 [3, H, W] and mask uint8 [H, W] from two files; ValueError names the file."""
    with opened(pair[0]) as image, opened(pair[1]) as mask:
        _check_picture(pair[0], image)
        _check_labels(pair[1], mask)
        picture = _upright(pair[0], image).convert("RGB")
        labels = _label_array(pair[1], mask)
    if labels.shape != (picture.height, picture.width):
        raise ValueError(
            f"{pair[1]}: mask of {labels.shape[0]}x{labels.shape[1]}, image of "
            f"{picture.height}x{picture.width} (height x width); expected the same size"
        )
    labels = convert(labels, str(pair[1]))
    if size is not None:
        picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)  # Pillow antialiases
        labels = np.array(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1)), labels
