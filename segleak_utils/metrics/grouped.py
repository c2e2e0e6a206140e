"""Intervals where images come in groups.

Of a patient or a drive all images stand or fall together: intervals over images would promise too
much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata, t

from segleak_utils.checks import numbers
from segleak_utils.metrics.intervals import Interval, clopper_pearson
from segleak_utils.metrics.rates import accusable, found_above, precisions, tpr_at_fpr


def group_numbers(member: ArrayLike, groups: Sequence[object]) -> tuple[int, int]:
    """How many groups hold members, and how many hold non-members.

    >>> group_numbers(np.array([True, True, False, False]), ["a", "b", "b", "b"])
    (2, 1)
    """
    member = numbers.labels(member, len(groups), of="groups")
    codes = _codes(groups, len(member))
    return len(np.unique(codes[member])), len(np.unique(codes[~member]))


def owners_of(member: ArrayLike, size: int, order: ArrayLike) -> tuple[NDArray, NDArray]:
    """Deal images to owners of so many each: images int [O,size], and bool [O], whose are members.

    member bool [n]; order: all images, int [n], dealt out as they come, members and non-members
    apart, so that neighbours of a kind have one owner. What is left over has none. ValueError for
    another order, or more images than a kind has.

    >>> owners_of(np.array([True, True, True, False, False]), 2, [4, 2, 0, 1, 3])
    (array([[2, 0],
           [4, 3]]), array([ True, False]))
    """
    order = np.asarray(order)
    member = numbers.labels(member, len(order), of="order")
    if order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(len(member))):
        raise ValueError(f"order is not one of the numbers 0..{len(member) - 1}, each once")
    least = min(member.sum(), (~member).sum())
    size = numbers.count(size, "size", 1, int(least))
    kinds = [order[member[order] == kind] for kind in (True, False)]
    dealt = [of[: len(of) // size * size].reshape(-1, size) for of in kinds]
    return np.concatenate(dealt), np.arange(sum(map(len, dealt))) < len(dealt[0])


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
    m, n = int(member.sum()), int((~member).sum())
    k = min(_kinds(codes, member))
    value, *placed = _placed(scores, member)
    if value in (0.0, 1.0):
        low, high = clopper_pearson(k if value else 0, k, level)
        return Interval(value, min(low, value), max(high, value), m, n, level)
    half = _half(placed, codes, member, level) / (value * (1 - value))
    low, high = expit(logit(value) - half), expit(logit(value) + half)
    return Interval(value, min(float(low), value), max(float(high), value), m, n, level)


def grouped_auc_difference(
    a: ArrayLike, b: ArrayLike, member: ArrayLike, groups: Sequence[object], level: float = 0.95
) -> Interval:
    """The AUC of scores `a` minus that of `b`, on the same images, with an interval over groups.

    As `grouped_auc`, of what each image adds to the one and to the other; [n] all. ValueError as
    there.

    >>> scores, member = np.array([3.0, 2, 1, 4, 0, 1, 2, 0]), np.arange(8) < 4
    >>> print(grouped_auc_difference(scores, 2 * scores, member, list("aabbccdd")))
    .00 [.00, .00]
    """
    a, member = numbers.scored(a, member)
    b, member = numbers.scored(b, member)
    level, codes = numbers.level(level), _codes(groups, len(a))
    _kinds(codes, member)
    (first, *ours), (second, *theirs) = _placed(a, member), _placed(b, member)
    apart = [x - y for x, y in zip(ours, theirs, strict=True)]
    value, half = first - second, _half(apart, codes, member, level)
    return Interval(
        value, value - half, value + half, int(member.sum()), int((~member).sum()), level
    )


def _kinds(codes: NDArray, member: NDArray) -> tuple[int, int]:
    """How many groups hold members and non-members; ValueError for a kind of one group."""
    a, b = (len(np.unique(codes[kind])) for kind in (member, ~member))
    if min(a, b) < 2:
        kind = "members" if a < 2 else "non-members"
        raise ValueError(f"all {kind} are of one group; expected two groups at least, better 20")
    return a, b


def _placed(scores: NDArray, member: NDArray) -> tuple[float, NDArray, NDArray]:
    """The AUC, and what each member and each non-member adds to it, their mean taken off."""
    inside, outside = scores[member], scores[~member]
    m, n = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    value = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    below = (ranks[:m] - rankdata(inside)) / n - value
    return value, below, 1 - (ranks[m:] - rankdata(outside)) / m - value


def _half(placed: Sequence[NDArray], codes: NDArray, member: NDArray, level: float) -> float:
    """Half the width of an interval over groups: Student's quantile times the standard error."""
    (a, b), every, n_codes = _kinds(codes, member), len(np.unique(codes)), codes.max() + 1
    ours, theirs = (
        np.bincount(codes[kind], part, n_codes)
        for kind, part in zip((member, ~member), placed, strict=True)
    )
    m, n = len(placed[0]), len(placed[1])
    first = a / (a - 1) * (ours**2).sum() / m**2
    second = b / (b - 1) * (theirs**2).sum() / n**2
    both = 2 * every / (every - 1) * (ours * theirs).sum() / (m * n)
    variance = max(first + second + both, 0.0)
    parts = first**2 / (a - 1) + second**2 / (b - 1)
    freedom = (first + second) ** 2 / parts if parts else every - 1
    return float(t.ppf(0.5 + level / 2, max(freedom, 1)) * np.sqrt(variance))


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

    With `groups`, whose each image is, [n], the same by as many images as these are worth where
    those of a group are alike, widened as Student's t is for so few groups: `n_boot` draws, by
    `seed`. tests/metrics/test_grouped.py simulates it: it covers, but for groups that are nearly
    all one (correlation .9) and an FPR below one in their number, where it may miss in a fifth of
    the cases. Without groups it is `tpr_at_fpr`, for which nothing is drawn. ValueError for an FPR
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
    accused = accusable(fpr, n)
    value = float(found_above(inside, outside, np.array([accused]))[0] / m)
    worth, theirs = _worth(scores, member, _codes(groups, len(scores)), accused, level)
    rng = np.random.default_rng(seed)
    share = rng.beta(fpr * theirs + 0.5, (1 - fpr) * theirs + 0.5, n_boot)
    above = np.minimum(np.floor(share * n + rng.random(n_boot)).astype(np.intp), n)
    most = found_above(inside, outside, above)  # the threshold lies between two non-members ...
    least = np.where(above > 0, found_above(inside, outside, np.maximum(above - 1, 0)), 0)
    hits = (least + rng.random(n_boot) * (most - least)) * (worth / m)  # ... or above all of them
    drawn = rng.beta(hits + 0.5, worth - hits + 0.5)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, min(float(low), value), max(float(high), value), m, n, level)


def tpr_cells(
    scores: ArrayLike, member: ArrayLike, fpr: float, groups: Sequence[object] | None = None
) -> tuple[str, str]:
    """Two cells of a table: `tpr_interval`, and the `precisions` of its estimate.

    Dashes where the non-members are too few to claim that FPR. ValueError as `tpr_interval` else.

    >>> tpr_cells(np.arange(300.0), np.arange(300) >= 200, fpr=0.1)
    ('1.000 [.975, 1.000]', '.91 / .53 / .09')
    >>> tpr_cells(np.arange(30.0), np.arange(30) >= 20, fpr=0.01)
    ('-', '-')
    """
    scores, member = numbers.scored(scores, member)
    fpr = numbers.real(fpr, "fpr", 0, 1, ends="(]")
    if fpr * (~member).sum() < 1 - 1e-9:
        return "-", "-"
    found = tpr_interval(scores, member, fpr, seed=0, groups=groups)
    return f"{found:.3}", precisions(found.value, fpr)


def _codes(groups: Sequence[object], n: int) -> NDArray[np.intp]:
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} scores; expected one for each image")
    names = [str(group) for group in groups]
    if "" in names or any(group is None for group in groups):
        raise ValueError("a group is empty; expected whose every image is")
    return np.unique(names, return_inverse=True)[1]


def _worth(
    scores: NDArray, member: NDArray, codes: NDArray, accused: int, level: float
) -> tuple[float, float]:
    """How many independent members, and non-members, those above the threshold are worth."""
    outside = np.append(-np.inf, np.sort(scores[~member]))
    threshold = outside[len(outside) - 1 - accused]
    found = []
    for kind in (member, ~member):
        own = np.unique(codes[kind], return_inverse=True)[1]
        n, k, size = len(own), own.max() + 1, np.bincount(own)
        if k < 2:
            raise ValueError("all members, or all non-members, are of one group; expected two")
        hit = scores[kind] > threshold
        share = hit.mean()
        # as they come out, and as they would with normal scores: at a low rate few hits tell little
        variance = k / (k - 1) * (np.bincount(own, hit - share) ** 2).sum() / n**2
        alike = _tail(_correlation(scores[kind], own), min(max(share, 0.5 / n), 1 - 0.5 / n))
        worth = n / (1 + ((size**2).sum() / n - 1) * alike)
        if variance > 0:
            worth = min(worth, share * (1 - share) / variance)
        found.append(worth * (norm.ppf(0.5 + level / 2) / t.ppf(0.5 + level / 2, k - 1)) ** 2)
    return found[0], found[1]


def _correlation(scores: NDArray, codes: NDArray) -> float:
    """Of two scores of one group, by an analysis of variance of their normal scores; at least 0."""
    n, size = len(scores), np.bincount(codes)
    z, k = norm.ppf((rankdata(scores) - 0.5) / n), len(size)
    if n == k:
        return 0.0  # each a group of its own
    mean = np.bincount(codes, z) / size
    between = (size * (mean - z.mean()) ** 2).sum() / (k - 1)
    within = ((z - mean[codes]) ** 2).sum() / (n - k)
    typical = (n - (size**2).sum() / n) / (k - 1)
    return float(np.clip((between - within) / (between + (typical - 1) * within), 0, 1))


def _tail(correlation: float, share: float) -> float:
    """Correlation of being among the highest `share`, of two normal scores so correlated (Plackett,
    Biometrika 41, 1954).

    >>> [round(_tail(r, 0.5), 3) for r in (0.0, 0.5, 1.0)]  # 2 asin(r) / pi
    [0.0, 0.333, 1.0]
    """
    nodes, weights = np.polynomial.legendre.leggauss(32)
    half = np.arcsin(correlation) / 2
    heights = np.exp(-(norm.isf(share) ** 2) / (1 + np.sin(half * (1 + nodes))))
    return float(half * (weights * heights).sum() / (2 * np.pi) / (share * (1 - share)))
