"""How well one image's scores tell networks that were trained on it from those that were not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from segleak_utils.checks import numbers


def binormal_auc(
    scores: ArrayLike, inside: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each image's own AUC over networks, with its standard error: float64 [N], both.

    scores: [K,N] of K networks and N images, higher means member; inside: bool [K,N], who was
    trained on what. Normal scores in and out are assumed: AUC = Phi((mean in - mean out) /
    sqrt(variance in + variance out)), as Knolle et al. (Nature 2026) have it; the error is the
    delta method's. Two normal means and variances are told from few networks better than ranks.
    ValueError for other shapes, scores that are not finite, an image with fewer than two networks
    of a kind, or one whose scores do not differ at all.

    >>> scores = np.array([[3.0, 0], [4, 1], [1, 0], [2, 1]])
    >>> inside = np.array([[True] * 2] * 2 + [[False] * 2] * 2)
    >>> areas, errors = binormal_auc(scores, inside)
    >>> areas.round(3)  # 2 / sqrt(1/2 + 1/2), and 0
    array([0.977, 0.5  ])
    """
    scores = numbers.finite(scores, "scores", "[K, N]")
    inside = np.asarray(inside)
    if inside.dtype != bool or inside.shape != scores.shape:
        raise ValueError(
            f"inside is {inside.dtype} {list(inside.shape)}; expected bool {list(scores.shape)}, "
            "one for each score"
        )
    n = np.stack([inside.sum(0), (~inside).sum(0)])
    if n.min() < 2:
        image = int(np.argmin(n.min(0)))
        raise ValueError(
            f"image {image}: {n[0, image]} networks were trained on it and {n[1, image]} were not; "
            "expected two of each at least"
        )
    mean = np.stack([np.where(of, scores, 0).sum(0) for of in (inside, ~inside)]) / n
    off = scores - np.where(inside, mean[0], mean[1])
    squares = np.stack([np.where(of, off**2, 0).sum(0) for of in (inside, ~inside)])
    variance = squares / (n - 1)
    total = variance.sum(0)
    if (total <= 0).any():
        raise ValueError(f"image {int(np.argmin(total))}: all networks of a kind score it alike")
    far = (mean[0] - mean[1]) / np.sqrt(total)
    spread = (variance / n).sum(0) / total
    spread += far**2 / (2 * total**2) * (variance**2 / (n - 1)).sum(0)
    return norm.cdf(far), norm.pdf(far) * np.sqrt(spread)
