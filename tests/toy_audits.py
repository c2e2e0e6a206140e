"""Small lists of pictures on disk, and a network that sees colours, for what audits models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segleak_utils.audit.config import Data, Pairs

C, SIZE = 4, (24, 32)
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 180, 180]], np.uint8)


def scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 [H,W,3] of patches in noisy colours; its mask uint8 [H,W], some of it void."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, C, (-(-size[0] // 8), -(-size[1] // 8)))
    mask = coarse.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]].astype(np.uint8)
    image = COLOURS[mask] + rng.normal(0, 45, (*size, 3))
    mask[rng.random(size) < 0.02] = 255
    return image.clip(0, 255).astype(np.uint8), mask


def write_lists(
    root: Path,
    n: int = 10,
    size: tuple[int, int] = SIZE,
    start: int = 0,
    images: Sequence[np.ndarray] | None = None,
    offset: int = 0,
) -> None:
    """Pictures `start` to n-1 of members and of non-members, in folders; those there stay."""
    for k, name in enumerate(("members", "nonmembers")):
        for kind in ("images", "masks"):
            (root / name / kind).mkdir(parents=True, exist_ok=True)
        for i in range(start, n):
            path = root / name / "images" / f"{name[0]}{i:03}.png"
            if path.exists():
                continue
            image, mask = scene(10_000 * k + i + offset, size)
            image = image if images is None else images[2 * k + i]
            Image.fromarray(image).save(path)
            Image.fromarray(mask).save(root / name / "masks" / path.name)


def data_of(root: Path, **told: object) -> Data:
    """The data that `write_lists` wrote."""
    pairs = {
        name: Pairs(images=root / name / "images", masks=root / name / "masks")
        for name in ("members", "nonmembers")
    }
    return Data(**({"n_classes": C} | pairs | told))


class Colours(nn.Module):
    """Logits by how near a pixel's colour is; counts the images it was asked about."""

    def __init__(self, scale: float = 8.0, tilt: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.tilt = nn.Parameter(torch.tensor(float(tilt)))  # two networks err on other pixels
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        colours = torch.from_numpy(COLOURS).float() / 255
        colours = colours + self.tilt * torch.tensor([[0.1], [-0.1], [0.05], [0.0]])
        far = ((images[:, None] - colours.view(1, C, 3, 1, 1)) ** 2).sum(2)
        return -self.scale * far
