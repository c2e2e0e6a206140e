"""Rank correlations of images' numbers, and whether one is closer than another."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr, t

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
    rank = float(spearmanr(a, b).statistic)
    half = 1.96 * np.sqrt((1 + rank**2 / 2) / (len(a) - 3))
    middle = np.arctanh(np.clip(rank, -1 + 1e-9, 1 - 1e-9))
    low, high = np.tanh([middle - half, middle + half]).tolist()
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
    whole = np.ones((1, n))
    value = float(_rank_gap(ruler, a, b, whole)[0])
    drawn = []
    for start in range(0, n_boot, 200):  # bounded memory
        times = rng.multinomial(n, np.full(n, 1 / n), min(200, n_boot - start))
        drawn.append(_rank_gap(ruler, a, b, times.astype(float)))
    half = float(t.ppf(0.975, n - 1) * np.concatenate(drawn).std(ddof=1))
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


def _rank_gap(ruler: NDArray, a: NDArray, b: NDArray, times: NDArray) -> NDArray[np.float64]:
    """Rank correlation of a with the ruler minus that of b, each image so many times: [B]."""
    of, near, far = (_ranks(x, times) for x in (ruler, a, b))

    def correlation(x: NDArray, y: NDArray) -> NDArray:
        x, y = (z - (times * z).sum(1, keepdims=True) / times.sum(1, keepdims=True) for z in (x, y))
        return (times * x * y).sum(1) / np.sqrt((times * x**2).sum(1) * (times * y**2).sum(1))

    return correlation(of, near) - correlation(of, far)


def _ranks(x: NDArray, times: NDArray) -> NDArray[np.float64]:
    """Middle ranks of numbers [n] that are there so many times, float [B,n]: [B,n].

    >>> _ranks(np.array([5.0, 1, 5]), np.array([[1.0, 2, 1]]))
    array([[3.5, 1.5, 3.5]])
    """
    order = np.argsort(x, kind="stable")
    _, starts, codes = np.unique(x[order], return_index=True, return_inverse=True)
    alike = np.add.reduceat(times[:, order], starts, axis=1)
    middle = np.cumsum(alike, 1) - alike + (alike + 1) / 2
    found = np.empty_like(times)
    found[:, order] = middle[:, codes]
    return found
