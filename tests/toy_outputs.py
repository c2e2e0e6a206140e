"""Toy posteriors, outputs, scenes and a toy victim, for the tests of the attacks."""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch
from torch import nn

from segleak_utils.attacks import Outputs, represent
from segleak_utils.attacks.patchnets import PatchNet
from segleak_utils.data import Scenes
from segleak_utils.victims import posterior_batches

VOID, C = 255, 4
NAMES = ("road", "car", "sky", "pole")


def posteriors_and_masks(n=6, seed=0, height=12, width=20):
    rng = torch.Generator().manual_seed(seed)
    posterior = (2 * torch.randn(n, C, height, width, generator=rng)).softmax(1)
    masks = torch.randint(0, C, (n, height, width), generator=rng)
    masks[:, 0] = VOID
    return posterior, masks


def outputs_of(n=6, seed=0, keep=True) -> Outputs:
    """What `attacks.ask` keeps: half precision, bytes; the first half are members."""
    posterior, masks = posteriors_and_masks(n, seed)
    loss = represent(posterior, masks, "loss map").half()
    kept = posterior.half() if keep else None
    return Outputs(loss, masks.byte(), np.arange(n) < n // 2, C, kept)


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def net_of(representation, width=8, seed=0) -> PatchNet:
    torch.manual_seed(seed)
    return PatchNet(representation, C, width).eval()


def scenes_of(n=20, seed=0) -> Scenes:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 3, 12, 20), dtype=np.uint8)
    masks = rng.integers(0, C, (n, 12, 20), dtype=np.uint8)
    masks[:, 0] = VOID
    return Scenes.from_arrays(images, masks, [f"s{seed}-{i}" for i in range(n)], NAMES)


# ---- victims asked -------------------------------------------------------------------------------


class Victim(nn.Module):
    """Logits from the pixels; `spoil` changes them."""

    def __init__(self, spoil=lambda logits: logits):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.spoil = nn.Conv2d(3, C, 1), spoil
        self.layer.weight.data *= 8

    def forward(self, images):
        return self.spoil(self.layer(images))


def answers(victim, *scenes):
    """What a victim says of some scenes, as a stream."""
    return chain(*(posterior_batches(victim, part) for part in scenes))
