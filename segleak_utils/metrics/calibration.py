"""How sure against how often right: the calibration error of what is released."""

from __future__ import annotations

import torch
from torch import Tensor

from segleak_utils.checks import numbers


def calibration_counts(confidence: Tensor, right: Tensor, n_bins: int = 15) -> Tensor:
    """Pixels by confidence, float64 [n_bins, 3]: count, sum of confidences, number right.

    Counts of several batches may be added. confidence: float in 0..1; right: bool, same shape.
    Raises ValueError for a confidence outside 0..1 or NaN, `right` that is not boolean or of
    another shape, and `n_bins` that is no whole number above 0.

    >>> sure, right = torch.tensor([0.9, 0.7, 0.2]), torch.tensor([True, False, False])
    >>> calibration_counts(sure, right, n_bins=2)  # count, sum of confidences, number right
    tensor([[1.0000, 0.2000, 0.0000],
            [2.0000, 1.6000, 1.0000]], dtype=torch.float64)
    """
    n_bins = numbers.count(n_bins, "n_bins", 1)
    if not confidence.is_floating_point() or right.dtype != torch.bool:
        found = f"{confidence.dtype} and {right.dtype}"
        raise ValueError(f"confidence and right are {found}; expected floats and booleans")
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
    ValueError where there is no pixel, and for what cannot be counts: another shape than
    [n_bins, 3], NaN, negative numbers, or more right (or more confidence) than pixels.

    >>> counts = torch.tensor([[1.0, 0.2, 0.0], [2.0, 1.6, 1.0]], dtype=torch.float64)
    >>> round(calibration_error(counts), 4)  # (.2 + .6) / 3
    0.2667
    """
    if counts.ndim != 2 or counts.shape[1] != 3:
        raise ValueError(f"counts are {list(counts.shape)}; expected [n_bins, 3]")
    most = counts[:, :1] * (1 + 1e-4)  # as far above 1 a confidence may be
    if not bool(((counts >= 0) & (counts <= most) & counts.isfinite()).all()):
        raise ValueError(
            "counts hold NaN, infinite or negative values, or more right or more confidence than "
            "pixels; expected those of calibration_counts"
        )
    total = counts[:, 0].sum()
    if total == 0:
        raise ValueError("no labelled pixel, so no calibration error")
    return float((counts[:, 1] - counts[:, 2]).abs().sum() / total)
