"""Rank correlations of images' numbers, and whether one is closer than another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata, t

from segleak_utils.checks import numbers
from segleak_utils.metrics.intervals import Interval


def rank_correlation(a: ArrayLike, b: ArrayLike) -> Interval:
    """Spearman's rank correlation of two numbers an image, [n] both, with its 95 % interval.

    By Fisher's transformation, with the variance of Bonett and Wright (Psychometrika 65, 2000).
    ValueError for other shapes, values that are not finite, less than four images, and what is all
    the same.

    >>> print(rank_correlation(range(30), [k**2 for k in range(30)]))
    1.00 [1.00, 1.00]
    >>> rng = np.random.default_rng(0)
    >>> rank_correlation(rng.random(50), rng.random(50)).contains(0)
    True
    """
    a, b = _both(a, b)
    rank = _pearson(rankdata(a), rankdata(b))
    half = 1.96 * np.sqrt((1 + rank**2 / 2) / (len(a) - 3))
    middle = np.arctanh(np.clip(rank, -1 + 1e-9, 1 - 1e-9))
    low, high = np.tanh([middle - half, middle + half])
    return Interval(rank, min(rank, low), max(rank, high), len(a), 0)


def paired_rank_difference(
    ruler: ArrayLike, a: ArrayLike, b: ArrayLike, *, seed: int, n_boot: int = 2000
) -> Interval:
    """How much closer `a` goes with a ruler than `b` does: the difference of the correlations.

    All are numbers of the same images, [n]. The 95 % interval is that of a bootstrap over images,
    its width by Student's t. ValueError as `rank_correlation`.

    >>> rng = np.random.default_rng(0)
    >>> ruler = rng.standard_normal(200)
    >>> near, far = (ruler + s * rng.standard_normal(200) for s in (0.5, 2))
    >>> bool(paired_rank_difference(ruler, near, far, seed=0).low > 0)
    True
    """
    ruler, a = _both(ruler, a)
    _, b = _both(ruler, b)
    rng, n = np.random.default_rng(numbers.count(seed, "seed")), len(ruler)
    n_boot = numbers.count(n_boot, "n_boot", 100)
    ranks = [rankdata(x) for x in (ruler, a, b)]
    value = _pearson(ranks[0], ranks[1]) - _pearson(ranks[0], ranks[2])
    drawn = np.empty(n_boot)
    for k in range(n_boot):
        some = rng.integers(0, n, n)
        of, near, far = (rankdata(x[some]) for x in ranks)
        drawn[k] = _pearson(of, near) - _pearson(of, far)
    half = t.ppf(0.975, n - 1) * drawn.std(ddof=1)
    return Interval(value, value - half, value + half, n, 0)


def _both(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = numbers.finite(a), numbers.finite(b)
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} numbers beside {len(b)}; expected as many, one an image each")
    numbers.count(len(a), "the number of images", 4)
    for values in (a, b):
        if np.ptp(values) == 0:
            raise ValueError(f"all {len(a)} are {values[0]:g}: what is all the same has no ranks")
    return a, b


def _pearson(a: NDArray, b: NDArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
