"""Intervals where images come in groups.

Of a patient or a drive all images stand or fall together: intervals over images would promise too
much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import rankdata, t

from segleak_utils.checks import numbers
from segleak_utils.metrics.intervals import Interval, clopper_pearson
from segleak_utils.metrics.rates import accusable, found_above, tpr_at_fpr

AT_ONCE = 2**24  # counts of a bootstrap in memory


def group_numbers(member: ArrayLike, groups: Sequence[object]) -> tuple[int, int]:
    """How many groups hold members, and how many hold non-members.

    >>> group_numbers(np.array([True, True, False, False]), ["a", "b", "b", "b"])
    (2, 1)
    """
    member = numbers.labels(member, len(groups), of="groups")
    codes = _codes(groups, len(member))
    return len(np.unique(codes[member])), len(np.unique(codes[~member]))


def grouped_auc(
    scores: ArrayLike, member: ArrayLike, groups: Sequence[object], level: float = 0.95
) -> Interval:
    """The AUC, with an interval over groups of images instead of images.

    scores [n]; member bool [n]; groups: whose each image is, [n]. DeLong's variance of clustered
    data (Obuchowski, Biometrics 53, 1997), on the logit scale, with the quantile of Student's t for
    as many groups as there are. Perfect separation has the exact interval for as many disjoint
    pairs as there are groups of the rarer kind. ValueError for a kind of one group: nothing can be
    said of others then; and for what `auc` refuses.

    >>> scores, member = np.array([3.0, 2, 1, 4, 0, 1, 2, 0]), np.arange(8) < 4
    >>> every = grouped_auc(scores, member, list("abcdefgh"))
    >>> every.value == grouped_auc(scores, member, list("aabbccdd")).value
    True
    """
    scores, member = numbers.scored(scores, member)
    level, codes = numbers.level(level), _codes(groups, len(scores))
    inside, outside = scores[member], scores[~member]
    m, n = len(inside), len(outside)
    a, b = (len(np.unique(codes[kind])) for kind in (member, ~member))
    if min(a, b) < 2:
        kind = "members" if a < 2 else "non-members"
        raise ValueError(f"all {kind} are of one group; expected two groups at least, better 20")
    ranks = rankdata(np.concatenate([inside, outside]))
    value = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    if value in (0.0, 1.0):
        k = min(a, b)
        low, high = clopper_pearson(k if value else 0, k, level)
        return Interval(value, min(low, value), max(high, value), m, n, level)
    below = (ranks[:m] - rankdata(inside)) / n - value
    above = 1 - (ranks[m:] - rankdata(outside)) / m - value
    n_codes = codes.max() + 1
    ours = np.bincount(codes[member], below, n_codes)
    theirs = np.bincount(codes[~member], above, n_codes)
    every = len(np.unique(codes))
    first = a / (a - 1) * (ours**2).sum() / m**2
    second = b / (b - 1) * (theirs**2).sum() / n**2
    both = 2 * every / (every - 1) * (ours * theirs).sum() / (m * n)
    variance = max(first + second + both, 0.0)
    parts = first**2 / (a - 1) + second**2 / (b - 1)
    freedom = (first + second) ** 2 / parts if parts else every - 1
    half = t.ppf(0.5 + level / 2, max(freedom, 1)) * np.sqrt(variance) / (value * (1 - value))
    low, high = expit(logit(value) - half), expit(logit(value) + half)
    return Interval(value, min(float(low), value), max(float(high), value), m, n, level)


def tpr_interval(
    scores: ArrayLike,
    member: ArrayLike,
    fpr: float,
    *,
    seed: int,
    groups: Sequence[object] | None = None,
    n_boot: int = 2000,
    level: float = 0.95,
) -> Interval:
    """`tpr_at_fpr`, with an interval over groups of images where they are given.

    With `groups`, whose each image is, [n], whole groups of members and of non-members are drawn
    with replacement (`n_boot` times, by `seed`), threshold and all; tests/metrics/test_grouped.py
    simulates it. Without, it is `tpr_at_fpr`, for which nothing is drawn. ValueError for an FPR
    below 1/n, and for what `tpr_at_fpr` refuses.

    >>> scores, member = np.arange(300.0), np.arange(300) >= 200
    >>> tpr_interval(scores, member, 0.01, seed=0).value
    1.0
    """
    scores, member = numbers.scored(scores, member)
    level, fpr = numbers.level(level), numbers.real(fpr, "fpr", 0, 1, ends="(]")
    seed, n_boot = numbers.count(seed, "seed"), numbers.count(n_boot, "n_boot", 100)
    if groups is None:
        return tpr_at_fpr(scores, member, fpr, level)
    inside, outside = np.sort(scores[member]), np.sort(scores[~member])
    m, n = len(inside), len(outside)
    value = float(found_above(inside, outside, np.array([accusable(fpr, n)]))[0] / m)
    rng = np.random.default_rng(seed)
    drawn = _by_groups(scores, member, _codes(groups, len(scores)), fpr, rng, n_boot)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, min(float(low), value), max(float(high), value), m, n, level)


def _codes(groups: Sequence[object], n: int) -> NDArray[np.intp]:
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} scores; expected one for each image")
    names = [str(group) for group in groups]
    if "" in names or any(group is None for group in groups):
        raise ValueError("a group is empty; expected whose every image is")
    return np.unique(names, return_inverse=True)[1]


def _by_groups(
    scores: NDArray,
    member: NDArray,
    codes: NDArray,
    fpr: float,
    rng: np.random.Generator,
    n_boot: int,
) -> NDArray[np.float64]:
    """TPRs of resamples of whole groups; those of one kind apart from those with both."""
    n_codes = codes.max() + 1
    holds = np.stack(
        [np.bincount(codes[kind], minlength=n_codes) > 0 for kind in (member, ~member)]
    )
    kinds = [np.flatnonzero(holds[0] & ~holds[1]), np.flatnonzero(~holds[0] & holds[1]),
             np.flatnonzero(holds[0] & holds[1])]  # fmt: skip
    if min(holds.sum(1)) < 2:
        raise ValueError("all members, or all non-members, are of one group; expected two at least")
    order = np.argsort(-scores[~member], kind="stable")
    outside, their = scores[~member][order], codes[~member][order]
    inside, our = scores[member], codes[member]
    found = []
    at_once = max(1, AT_ONCE // len(scores))
    for start in range(0, n_boot, at_once):
        block = min(at_once, n_boot - start)
        weights = np.zeros((block, n_codes))
        for kind in kinds:
            if len(kind):
                picks = rng.integers(len(kind), size=(block, len(kind)))
                rows = np.arange(block)[:, None] * n_codes
                counts = np.bincount((rows + kind[picks]).ravel(), minlength=block * n_codes)
                weights += counts.reshape(block, n_codes)
        above = np.cumsum(weights[:, their], 1)
        total = above[:, -1:]
        # the first non-member that would make one accusation too many is the threshold
        place = (above <= np.floor(fpr * total + 1e-9)).sum(1)
        thresholds = np.append(outside, -np.inf)[place]
        ours = weights[:, our]
        hits = (ours * (inside > thresholds[:, None])).sum(1)
        found.append(np.divide(hits, ours.sum(1), out=np.zeros(block), where=ours.sum(1) > 0))
    return np.concatenate(found)
