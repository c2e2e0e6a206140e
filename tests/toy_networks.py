"""What toy networks say of toy images: losses at random, lower on members where there is a leak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from segleak_utils import attacks
from segleak_utils.attacks import Outputs, references
from segleak_utils.attacks.references import Case

C, H, W = 4, 16, 24


def outputs(n: int, seed: int, masks=None) -> Outputs:
    rng = torch.Generator().manual_seed(seed)
    loss = torch.rand(n, 1, H, W, generator=rng) * 3
    if masks is None:
        masks = torch.randint(0, C, (n, H // 4, W // 4), generator=rng).byte()
        masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
        masks[:, :2] = 255
    loss[(masks == 255)[:, None]] = 0
    return Outputs(loss.half(), masks, np.arange(n) < n // 2, C)


def told(shown: Outputs) -> np.ndarray:
    return attacks.class_features(references.zones(shown))


def toy_case(n: int, seed: int, k: int, leak: float = 0.0) -> Case:
    """A case whose members have a lower loss by `leak`; references do not know them."""
    shown = outputs(n, seed)
    theirs = [outputs(n, seed + 100 + j, shown.masks) for j in range(k)]
    member = torch.from_numpy(shown.member)[:, None, None, None]
    loss = torch.where(member, shown.loss_maps * (1 - leak), shown.loss_maps)
    own = told(replace(shown, loss_maps=loss))
    return Case(own, np.stack([told(of) for of in theirs]), shown.member)
