"""What can be seen of a picture without any network: for the blind baseline, and to find twins."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segleak_utils.audit.parts import Parts, Row, in_parts
from segleak_utils.audit.pictures import Picture
from segleak_utils.audit.pixels import Reader
from segleak_utils.data import VOID
from segleak_utils.representations import class_shares, near_boundary

VERSION = 2
COLOURS = ("red", "green", "blue")
PIXELS = (
    *(f"mean of {colour}" for colour in COLOURS),
    *(f"deviation of {colour}" for colour in COLOURS),
    "gradient", "fine noise", "steps at every 8th pixel", "share of black", "share of white",
    "height", "width", "void", "boundaries",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Looks:
    """Numbers of N pictures without a network: features float64 [N,F], named.

    pixels: SHA-256 of each picture's pixels; hashes: uint64 [N], perceptual; formats: the files'
    suffixes; sizes: float64 [N], bytes of a file for each of its pixels.
    """

    features: NDArray[np.float64]
    names: tuple[str, ...]
    pixels: tuple[str, ...]
    hashes: NDArray[np.uint64]
    formats: tuple[str, ...]
    sizes: NDArray[np.float64]


def look(
    pictures: Sequence[Picture], reader: Reader, folder: Path, *, progress: str | None = None
) -> Looks:
    """Look at all pictures; what was seen before is kept in `folder`.

    ValueError, naming the file, for what cannot be read; for masks of several palettes; and where
    void was not told, though 255 seems to be a class.
    """
    reader.check_palettes(pictures)
    keys = [
        hashlib.sha256(f"look {VERSION} {reader.key_of(of)}".encode()).hexdigest()
        for of in pictures
    ]

    def compute(positions: Sequence[int]) -> list[Row]:
        return [_row(*reader.read(pictures[i]), reader.n_classes) for i in positions]

    kept = in_parts(folder / "looks", keys, compute, progress=progress)
    names = (*(f"share of {name}" for name in reader.data.names), *PIXELS)
    sizes = [of.image.stat().st_size for of in pictures]
    shape = [names.index(name) for name in ("height", "width")]
    features = kept.rows("features")
    _refuse_one_class(reader, features[:, : reader.n_classes], features[:, names.index("void")])
    return Looks(
        features=features,
        names=names,
        pixels=tuple(bytes(row).hex() for row in kept.rows("pixels")),
        hashes=_of_hashes(kept),
        formats=tuple(of.image.suffix.lower() for of in pictures),
        sizes=np.array(sizes) / features[:, shape].prod(1),
    )


def _refuse_one_class(reader: Reader, shares: NDArray, void: NDArray) -> None:
    """Masks of 0 and 255 are two classes as often as one class with void: it has to be told."""
    there = np.flatnonzero(shares.max(0) > 0)
    if reader.data.voids is None and len(there) == 1 and void.max() > 0:
        raise ValueError(
            f"the masks hold no class but {reader.data.names[there[0]]}, and {VOID}, which counts "
            f"as void where nothing else is said. If {VOID} is a class, give data.mapping, such as "
            f"{{0: 0, {VOID}: 1}}; if it is void, data.void: {VOID}"
        )


def _of_hashes(kept: Parts) -> NDArray[np.uint64]:
    return kept.rows("hash").astype(np.uint64).ravel()


def _row(image: Tensor, mask: Tensor, n_classes: int) -> Row:
    deep = (65535 * image.numpy()).round().astype(np.uint16)  # dark scans of 16 bits differ here
    digest = hashlib.sha256(repr(deep.shape).encode() + deep.tobytes()).digest()
    return {
        "features": features_of(image, mask, n_classes),
        "pixels": np.frombuffer(digest, np.uint8),
        "hash": np.array([perceptual_hash((255 * image).round().byte())], np.uint64),
    }


def features_of(image: Tensor, mask: Tensor, n_classes: int) -> NDArray[np.float64]:
    """Of one image float [3,H,W] in 0..1 and its mask int64 [H,W]: float64 [F], see `PIXELS`.

    Class shares, colours and the gradient, as `attacks.blind_features`; and what storing a picture
    anew changes: noise finer than two pixels, and steps between the blocks of a JPEG.
    """
    shares = class_shares(mask[None], n_classes)[0]
    grey = image.mean(0)
    fine = grey[:, 1:-1] - (grey[:, :-2] + grey[:, 2:]) / 2 if grey.shape[1] > 2 else grey[:, :0]
    steps = grey.diff(dim=1).abs().mean(0)
    at_blocks = steps[7::8]
    blocky = float(at_blocks.mean() / steps.mean().clamp(min=1e-6)) if len(at_blocks) else 1.0
    found = [
        *image.mean((1, 2)), *image.std((1, 2)), image.diff(dim=-1).abs().mean(),
        fine.abs().mean() if fine.numel() else 0.0, blocky,
        (image.amax(0) <= 0.5 / 255).float().mean(), (image.amin(0) >= 254.5 / 255).float().mean(),
        image.shape[1], image.shape[2], (mask == VOID).float().mean(),
        near_boundary(mask[None]).float().mean(),
    ]  # fmt: skip
    return torch.cat([shares.double(), torch.tensor([float(x) for x in found]).double()]).numpy()


def perceptual_hash(pixels: Tensor) -> int:
    """64 bits that stay nearly the same when a picture uint8 [3,H,W] is stored anew or resized.

    ImageHash's pHash. ValueError where that package is missing.
    """
    try:
        import imagehash
    except ImportError as error:
        raise ValueError('near-duplicates need ImageHash: pip install "segleak[audit]"') from error
    found = imagehash.phash(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    return int(str(found), 16)
