"""How sure against how often right: the calibration error of what is released."""

from __future__ import annotations

import torch
from torch import Tensor


def calibration_counts(confidence: Tensor, right: Tensor, n_bins: int = 15) -> Tensor:
    """Pixels by confidence, float64 [n_bins, 3]: count, sum of confidences, number right.

    Counts of several batches may be added. confidence: float in 0..1; right: bool, same shape.
    Raises ValueError for a confidence outside 0..1 or NaN.

    >>> sure, right = torch.tensor([0.9, 0.7, 0.2]), torch.tensor([True, False, False])
    >>> calibration_counts(sure, right, n_bins=2)  # count, sum of confidences, number right
    tensor([[1.0000, 0.2000, 0.0000],
            [2.0000, 1.6000, 1.0000]], dtype=torch.float64)
    """
    inside = bool(((confidence >= 0) & (confidence <= 1 + 1e-4)).all())
    if confidence.shape != right.shape or not inside:
        raise ValueError("confidences must be in 0..1, one for each pixel that is right or wrong")
    confidence, right = confidence.flatten().double(), right.flatten()
    bins = (confidence * n_bins).long().clamp(max=n_bins - 1)
    parts = [torch.ones_like(confidence), confidence, right.double()]
    return torch.stack([torch.bincount(bins, part, n_bins) for part in parts], 1)


def calibration_error(counts: Tensor) -> float:
    """Expected calibration error (Guo et al. 2017) of `calibration_counts`: 0 is calibrated.

    The gap between how sure and how often right, averaged over the bins by their pixels. Raises
    ValueError where there is no pixel.

    >>> counts = torch.tensor([[1.0, 0.2, 0.0], [2.0, 1.6, 1.0]], dtype=torch.float64)
    >>> round(calibration_error(counts), 4)  # (.2 + .6) / 3
    0.2667
    """
    total = counts[:, 0].sum()
    if total == 0:
        raise ValueError("no labelled pixel, so no calibration error")
    return float((counts[:, 1] - counts[:, 2]).abs().sum() / total)
