"""Labels as colours: masks, predictions with their mix-ups, and what nobody labelled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor

from segleak_utils.data import VOID
from segleak_utils.figures.style import axes_of, styled

VOID_COLOUR = (0, 0, 0)


def colour_mask(mask: Tensor, palette: np.ndarray) -> np.ndarray:
    """Labels [H,W] as colours uint8 [H,W,3]; void is black.

    Raises ValueError for a label without a colour.
    """
    labels = np.asarray(mask).astype(np.int64)
    wrong = np.setdiff1d(labels, [*range(len(palette)), VOID])
    if len(wrong):
        raise ValueError(f"label {wrong[0]} has no colour; the palette has {len(palette)}")
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[VOID] = VOID_COLOUR
    return table[labels]


def without_void(loss: Tensor, mask: Tensor) -> Tensor:
    """A loss map [H,W] with NaN where the mask [H,W] is void: drawn grey, not as "no surprise".

    >>> without_void(torch.zeros(1, 2), torch.tensor([[3, 255]]))
    tensor([[0., nan]])
    """
    return loss.float().masked_fill(mask == VOID, torch.nan)


def colour_prediction(predicted: Tensor, mask: Tensor, palette: np.ndarray) -> np.ndarray:
    """Predicted classes [H,W] as colours uint8 [H,W,3], mix-ups that nobody would see outlined.

    A white line runs around each region of wrong pixels, three or more wide and high, whose colour
    is hard to tell from that of the true class in `mask` [H,W] (`_alike`).
    """
    labels, truth = (np.asarray(of).astype(np.int64) for of in (predicted, mask))
    picture = colour_mask(labels, palette)
    labelled = truth != VOID
    unseen = labelled & (labels != truth) & _alike(palette)[labels, np.where(labelled, truth, 0)]
    regions = ndimage.binary_opening(unseen, np.ones((3, 3)))
    picture[ndimage.binary_dilation(regions, np.ones((3, 3))) & ~regions] = 255
    return picture


def _alike(palette: np.ndarray) -> np.ndarray:
    """Which pairs of classes have colours that are hard to tell apart, bool [C,C].

    Their contrast is below 1.5 (WCAG 2), and their distance below 45 in CIE Lab (D65).
    """
    light = np.asarray(palette) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    xyz = light @ np.array(
        [[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]]
    )
    contrast = (xyz[:, None, 1] + 0.05) / (xyz[None, :, 1] + 0.05)
    f = xyz / (0.9505, 1, 1.089)
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    lab = np.stack([116 * f[:, 1], 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    distance = np.linalg.norm(lab[:, None] - lab, axis=2)
    return (np.maximum(contrast, 1 / contrast) < 1.5) & (distance < 45)


@styled
def render_mislabelled(
    images: Sequence[Tensor], masks: Sequence[Tensor], wrong: Sequence[Tensor], palette: np.ndarray
) -> Figure:
    """Image [3,H,W] over mask [H,W] over the mask where it is `wrong` (bool [H,W]), else white."""
    figure, axes = axes_of(3, len(images), figsize=(2.75 * len(images), 4.6))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    for column, image, mask, bad in zip(axes.T, images, masks, wrong, strict=True):
        column[0].imshow(image.permute(1, 2, 0).numpy().clip(0, 1))
        labels = colour_mask(mask, palette)
        column[1].imshow(labels)
        column[2].imshow(np.where(np.asarray(bad)[..., None], labels, 255).astype(np.uint8))
        column[2].set_xlabel(f"{float(np.asarray(bad).mean()):.1%} of the pixels", fontsize=9)
    for axis, name in zip(axes[:, 0], ("image", "mask", "mislabelled"), strict=True):
        axis.set_ylabel(name)
    return figure
