"""Reading the pictures of an audit: upright, 8 or 16 bits, at the size that was told."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from segleak_utils.audit.config import Data, Size
from segleak_utils.audit.masks import one_palette, read_mask
from segleak_utils.audit.pictures import Picture
from segleak_utils.data import VOID, Scenes
from segleak_utils.data.imagefiles import named, opened, read_picture


class Reader:
    """Reads pictures as the audit is told to: `read(picture)` gives image and mask."""

    def __init__(self, data: Data, size: Size | None = None) -> None:
        self.data, self.size = data, size or data.size
        self.n_classes = len(data.names)
        self._palette: tuple[bytes, Path | None] = b"", None

    @property
    def key(self) -> str:
        """All that changes what is read."""
        told = self.data.model_dump(
            include={"mapping", "colours", "void", "fit", "classes", "n_classes"}
        )
        return repr((2, self.n_classes, sorted(told.items(), key=str), self.size))

    def read(self, picture: Picture) -> tuple[Tensor, Tensor]:
        """Image float32 [3,H,W] in 0..1 and mask int64 [H,W] of labels, 255 where void.

        Upright, and of the size that was told: with `fit: pad` the image's edge is repeated and the
        mask there is void. ValueError, naming the file, for what cannot be read, another size of
        the mask, or a mask without a labelled pixel.
        """
        image = read_image(picture.image)
        if picture.mask is None:
            raise ValueError(f"{picture.id}: no mask; attacks compare answers with one")
        mask = torch.from_numpy(read_mask(picture.mask, self.data))
        if mask.shape != image.shape[1:]:
            raise ValueError(
                f"{picture.mask}: mask of {mask.shape[0]}x{mask.shape[1]}, image of "
                f"{image.shape[1]}x{image.shape[2]} (height x width); expected the same size"
            )
        if bool((mask == VOID).all()):
            raise ValueError(f"{picture.mask}: no pixel is labelled, all are void; leave it out")
        if self.size is not None:
            image, mask = fitted(image, mask, self.size, self.data.fit)
            if bool((mask == VOID).all()):
                raise ValueError(f"{picture.mask}: no labelled pixel is left at {self.size}")
        return image, mask.long()

    def check_palettes(self, pictures: Sequence[Picture]) -> None:
        """ValueError where masks, of these or of earlier ones, tell classes by several palettes."""
        for path in (of.mask for of in pictures if of.mask is not None):
            self._palette = one_palette(self._palette, path, self.data)

    def key_of(self, picture: Picture) -> str:
        """Hex key of what is read of a picture: sizes and dates of its files, and the options."""
        files = [picture.image] + ([] if picture.mask is None else [picture.mask])
        stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        return hashlib.sha256(f"{self.key} {stats}".encode()).hexdigest()


def read_image(path: Path) -> Tensor:
    """An image float32 [3,H,W] in 0..1, upright: 8 or 16 bits, grey or colour.

    ValueError, naming the file, for what is no picture of one or three channels.
    """
    with opened(path) as file:
        mode = file.mode
        if mode in ("I", "F") and file.format != "PNG":
            raise ValueError(f"{path}: pixel mode {mode}, expected 8 or 16 bits a channel")
        if mode.startswith("I"):
            with named(path):
                pixels = np.array(ImageOps.exif_transpose(file))
            if pixels.min() < 0 or pixels.max() > 65535:
                raise ValueError(f"{path}: values beyond 16 bits; save it with 8 or 16")
            grey = torch.from_numpy(pixels.astype(np.float32) / 65535)
            return grey.expand(3, *grey.shape).contiguous()
    deep = _deep_colours(path)
    if deep is not None:
        return deep
    pixels = np.asarray(read_picture(path))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255


def _deep_colours(path: Path) -> Tensor | None:
    """An RGB PNG or TIFF of 16 bits, which Pillow would cut to 8; None for all others."""
    with opened(path) as file:
        bits = _bits(file)
        if bits <= 8:
            return None
        with named(path):  # decodes a PNG
            turned = file.getexif().get(274, 1)
    if turned != 1:
        raise ValueError(f"{path}: 16 bits and a turn in its EXIF; save it upright")
    try:
        pixels = _of_tiff(path) if file.format == "TIFF" else _of_png(path)
    except Exception as error:  # each library has its own
        raise ValueError(
            f"{path}: {bits} bits a channel in a form that cannot be read ({error}); save it as a "
            "PNG of 16 bits, or with 8"
        ) from error
    return pixels.float() / 65535


def _of_png(path: Path) -> Tensor:
    from torchvision.io import ImageReadMode, decode_image

    with warnings.catch_warnings():  # its successor needs FFmpeg
        warnings.simplefilter("ignore", DeprecationWarning)
        return decode_image(str(path), ImageReadMode.RGB)


def _of_tiff(path: Path) -> Tensor:
    try:
        import tifffile
    except ImportError as error:
        raise ValueError('needs tifffile: pip install "segleak[audit]"') from error
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        pixels, axes = page.asarray(), page.axes
    if page.photometric.name != "RGB" or pixels.dtype != np.uint16 or sorted(axes) != list("SXY"):
        raise ValueError(f"{page.photometric.name}, {pixels.dtype}, axes {axes}")
    planes = torch.from_numpy(np.moveaxis(pixels, axes.index("S"), 0).astype(np.float32))
    if len(planes) not in (3, 4):
        raise ValueError(f"{len(planes)} channels")
    return planes[:3]


def _bits(file: Image.Image) -> int:
    if file.format == "PNG":
        at = file.fp.tell()
        file.fp.seek(24)
        bits = file.fp.read(1)[0]
        file.fp.seek(at)
        return bits if file.mode in ("RGB", "RGBA") else 8
    return int(np.max(file.tag_v2.get(258, 8))) if file.format == "TIFF" else 8


def fitted(image: Tensor, mask: Tensor, size: Size, fit: str) -> tuple[Tensor, Tensor]:
    """Both brought to (H, W); "pad" keeps the aspect, "stretch" does not.

    >>> image, mask = torch.zeros(3, 2, 4), torch.zeros(2, 4, dtype=torch.uint8)
    >>> fitted(image, mask, (4, 4), "pad")[1]  # two rows of picture, two of padding
    tensor([[  0,   0,   0,   0],
            [  0,   0,   0,   0],
            [255, 255, 255, 255],
            [255, 255, 255, 255]], dtype=torch.uint8)
    """
    height, width = size
    inner = size
    if fit == "pad":
        scale = min(height / image.shape[1], width / image.shape[2])
        inner = tuple(
            max(1, min(most, round(side * scale)))
            for side, most in zip(image.shape[1:], size, strict=True)
        )
    if inner != tuple(image.shape[1:]):
        image = F.interpolate(
            image[None], inner, mode="bilinear", antialias=True, align_corners=False
        )[0].clamp(0, 1)
        mask = F.interpolate(mask[None, None].float(), inner, mode="nearest-exact")[0, 0].byte()
    right, bottom = width - inner[1], height - inner[0]
    if right or bottom:
        image = F.pad(image[None], (0, right, 0, bottom), mode="replicate")[0]
        mask = F.pad(mask, (0, right, 0, bottom), value=VOID)
    return image, mask


def scenes_of(pictures: Sequence[Picture], reader: Reader) -> Scenes:
    """The pictures as `Scenes`, uint8, read once into memory: for a training.

    ValueError where they are of several sizes, which `size` would mend.
    """
    images, masks = zip(*(_as_bytes(*reader.read(of)) for of in pictures), strict=True)
    shapes = {mask.shape for mask in masks}
    if len(shapes) > 1:
        raise ValueError(
            f"images of {len(shapes)} sizes, e.g. {sorted(shapes)[:2]}, to train on: give a size"
        )
    names = reader.data.names
    return Scenes.from_arrays(np.stack(images), np.stack(masks), [of.id for of in pictures], names)


def first_of(
    pictures: Sequence[Picture], reader: Reader, n: int = 4
) -> dict[str, list[tuple[str, Tensor, Tensor]]]:
    """The first n pictures of each list as they are read, to look at, by the name of the list.

    Of each its id, image float32 [3,H,W] in 0..1 and mask int64 [H,W].
    """
    return {
        name: [(of.id, *reader.read(of)) for of in [p for p in pictures if p.member == kind][:n]]
        for name, kind in (("members", True), ("non-members", False))
    }


def _as_bytes(image: Tensor, mask: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return (255 * image).round().byte().numpy(), mask.byte().numpy()
