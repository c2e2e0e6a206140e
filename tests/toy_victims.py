"""Toy scenes, a small recipe and an all-knowing model, for the tests of the victims."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from segleak_utils.data import Scenes
from segleak_utils.victims import Recipe

VOID = 255
NAMES = ("road", "car", "sky")
SMALL = Recipe(
    encoder="tu-mobilenetv3_small_050", decoder_channels=8, n_classes=3, epochs=3, batch=4
)


def scenes_of(
    n: int = 8, seed: int = 0, height: int = 32, width: int = 64, names: tuple[str, ...] = NAMES
) -> Scenes:
    """Images whose brightness encodes the mask: label c is 40 + 80 c, void is 0."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (n, 1 + height // 8, 1 + width // 8), dtype=np.uint8)
    masks = masks.repeat(8, 1).repeat(8, 2)[:, 4 : 4 + height, 4 : 4 + width].copy()
    masks[:, :2] = VOID
    images = np.where(masks == VOID, 0, 40 + 80 * masks.astype(int)).astype(np.uint8)
    images = np.repeat(images[:, None], 3, 1)
    return Scenes.from_arrays(images, masks, [f"s{seed}-{i}" for i in range(n)], names)


class Oracle(nn.Module):
    """Reads the label off the brightness, and is wrong where `wrong` says so."""

    def __init__(self, wrong=None, n_classes: int = 3) -> None:
        super().__init__()
        self.wrong, self.n_classes = wrong, n_classes

    def forward(self, images):
        label = ((images[:, 0] * 255 - 40) / 80).round().clamp(0, 2).long()
        if self.wrong is not None:
            label = torch.where(self.wrong(images), (label + 1) % 3, label)
        hot = nn.functional.one_hot(label, self.n_classes).permute(0, 3, 1, 2)
        return 20.0 * hot


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
