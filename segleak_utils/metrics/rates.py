"""The TPR at a low FPR, its difference between two attacks, and what an accusation is worth.

Here a threshold is a quantile of the non-members, and with few of them above it that is a matter of
luck. So these intervals cover both groups: which members were drawn, and where the threshold came
to lie.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betainc, betaincinv
from scipy.stats import binom

from segleak_utils.checks import numbers
from segleak_utils.metrics.intervals import Interval

PRIORS = (0.5, 0.1, 0.01)  # shares of members among those asked about
NEGLIGIBLE = 1e-12  # chance of a number of false alarms that is left out of the sums
AT_ONCE = 2**22  # images by resamples in memory


def tpr_at_fpr(scores: ArrayLike, member: ArrayLike, fpr: float, level: float = 0.95) -> Interval:
    """Share of members found while at most `fpr` of the non-members are accused.

    scores [n], higher = member; member bool [n]; fpr in (0, 1]. The threshold is the smallest that
    keeps the observed rate of false alarms at or below `fpr`; non-members tied with it are not
    accused.

    The interval speaks of the TPR at the threshold whose *true* rate of false alarms is `fpr`, and
    covers both groups. How many of the n non-members lie above that threshold is binomial (n, fpr),
    whatever the scores are; so it lies between two known non-members, and any number of the members
    between them may be above it, each as likely. Given the number above it, the rate has Jeffreys'
    Beta (Brown, Cai and DasGupta, Statistical Science 16, 2001). The ends are quantiles of this
    mixture, summed over all numbers: nothing is drawn. tests/metrics/test_rates.py simulates it: it
    covers .93 to .98, and more only where fpr times n is 1 or 2, or a handful of members is to be
    found. There the threshold may lie above all non-members, and the lower end is near 0 for any
    attack.

    Raises ValueError for an fpr below 1/n, which no number of non-members n can show, and for what
    `metrics.auc` refuses.

    >>> scores = [9, 8, 3, 7, 2, 1, 0]
    >>> tpr_at_fpr(scores, np.arange(7) < 3, fpr=0.25).value  # one of four may be accused: the 7
    1.0
    >>> print(tpr_at_fpr(np.arange(300.0), np.arange(300) >= 200, fpr=0.1))  # in order
    1.00 [.98, 1.00]
    """
    scores, member = numbers.scored(scores, member)
    level = numbers.level(level)
    fpr = numbers.real(fpr, "fpr", 0, 1, ends="(]")
    inside, outside = np.sort(scores[member]), np.sort(scores[~member])
    m, n = len(inside), len(outside)
    value = float(found_above(inside, outside, np.array([accusable(fpr, n)]))[0] / m)
    hits, weights = _hits(inside, outside, fpr)
    low, high = (_quantile(hits, weights, m, 0.5 + side * level / 2) for side in (-1, 1))
    return Interval(value, min(low, value), max(high, value), m, n, level)


def paired_tpr_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    member: ArrayLike,
    fpr: float,
    *,
    seed: int,
    n_boot: int = 2000,
    level: float = 0.95,
) -> Interval:
    """TPR of attack a at an FPR minus that of attack b, both scored on the same images.

    scores_a, scores_b [n], in the same order; member bool [n]. Percentiles of `n_boot` draws of a
    Bayesian bootstrap (Rubin, Annals of Statistics 9, 1981), non-members and members apart: each
    draw weighs the non-members once for both attacks, which gives each its threshold, and then
    weighs the members by whether they lie above both, one or none of the two (Dirichlet, with
    Jeffreys' half for each of the four). So what the two attacks share cancels, and one of them
    alone has the spread of `tpr_at_fpr`. An ordinary bootstrap cannot put a threshold above the
    highest non-member. tests/metrics/test_rates.py simulates it: it covers .94 to .98, and up to
    .99 where the two scores are nearly the same. Two scores of one order give exactly 0 [0, 0].
    ValueError as `tpr_at_fpr`, for no seed and for fewer than 100 draws.

    >>> member, order = np.arange(200) < 50, np.arange(200.0)
    >>> str(paired_tpr_difference(-order, np.exp(-order / 9), member, 0.1, seed=0))  # the same
    '.00 [.00, .00]'
    """
    seed, n_boot = numbers.count(seed, "seed"), numbers.count(n_boot, "n_boot", 100)
    scores_a, checked = numbers.scored(scores_a, member, "scores_a")
    scores_b, _ = numbers.scored(scores_b, member, "scores_b")
    level = numbers.level(level)
    fpr = numbers.real(fpr, "fpr", 0, 1, ends="(]")
    both = np.stack([scores_a, scores_b])
    inside, outside = both[:, checked], both[:, ~checked]
    m, n = inside.shape[1], outside.shape[1]
    accused = np.array([accusable(fpr, n)])
    found = [
        found_above(np.sort(a), np.sort(b), accused)[0]
        for a, b in zip(inside, outside, strict=True)
    ]
    value = float(int(found[0]) - int(found[1])) / m
    ranks = np.unique(scores_a, return_inverse=True)[1], np.unique(scores_b, return_inverse=True)[1]
    if np.array_equal(*ranks):
        return Interval(0.0, 0.0, 0.0, m, n, level)
    rng = np.random.default_rng(seed)
    above = _both_above(inside, outside, fpr, rng, n_boot)
    # members above a alone, b alone, and both or none: the last two are one cell, of two halves
    only_a, only_b, rest = (
        rng.standard_gamma(count + half)
        for count, half in zip(above, (0.5, 0.5, 1), strict=True)
    )  # fmt: skip
    drawn = (only_a - only_b) / (only_a + only_b + rest)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, min(float(low), value), max(float(high), value), m, n, level)


def precision_at(tpr: float, fpr: float, prior: float) -> float:
    """Share of accusations that are right, where a share `prior` of those asked about is a member.

    >>> round(precision_at(0.35, 0.01, 0.01), 2)
    0.26
    """
    tpr, fpr = numbers.real(tpr, "tpr", 0, 1), numbers.real(fpr, "fpr", 0, 1)
    prior = numbers.real(prior, "prior", 0, 1)
    right, wrong = prior * tpr, (1 - prior) * fpr
    if right + wrong == 0:
        raise ValueError("nobody is accused, so no accusation is right or wrong")
    return right / (right + wrong)


def precision_of(rate: Interval, fpr: float, prior: float) -> Interval:
    """`precision_at` of a TPR at that FPR (`tpr_at_fpr`), with its interval.

    It grows with the TPR, so its ends are those of the TPR's interval; like that it speaks of the
    threshold whose true rate of false alarms is `fpr`. ValueError as `precision_at`.

    >>> print(precision_of(Interval(0.35, 0.2, 0.5, 100, 900), 0.01, 0.01))
    .26 [.17, .34]
    """
    value, low, high = (precision_at(tpr, fpr, prior) for tpr in (rate.value, rate.low, rate.high))
    return Interval(value, low, high, rate.n_members, rate.n_nonmembers, rate.level)


def precisions(tpr: float, fpr: float) -> str:
    """`precision_at` at priors of 50, 10 and 1 %, as tables have it beside a TPR.

    >>> precisions(0.35, 0.01)
    '.97 / .80 / .26'
    """
    found = (f"{precision_at(tpr, fpr, prior):.2f}" for prior in PRIORS)
    return " / ".join(text.removeprefix("0") for text in found)


def accusable(fpr: float, n: int) -> int:
    """How many of n non-members may be accused at this FPR; ValueError where that is none."""
    # The small addend is for products such as .29 * 100 = 28.999999999999996.
    accused = int(np.floor(fpr * n + 1e-9))
    if accused < 1:
        raise ValueError(
            f"TPR at FPR {fpr:g} cannot be claimed with {n} non-members: the smallest claimable "
            f"FPR is 1/{n} = {1 / n:.2g}; score more non-members"
        )
    return accused


def found_above(
    inside: NDArray[np.float64], outside: NDArray[np.float64], accused: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Members strictly above the smallest threshold that accuses so many non-members at most, [k].

    inside [m] and outside [n] are sorted, accused [k] is in 0..n.
    """
    padded = np.concatenate([[-np.inf], outside])
    thresholds = padded[len(outside) - accused]
    return len(inside) - np.searchsorted(inside, thresholds, side="right")


def _hits(
    inside: NDArray, outside: NDArray, fpr: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Numbers of members above the threshold of that true FPR, and how likely each of them is."""
    m = len(inside)
    alarms, chance = _alarms(len(outside), fpr)
    most = found_above(inside, outside, alarms)
    least = np.where(alarms > 0, found_above(inside, outside, np.maximum(alarms - 1, 0)), 0)
    each = chance / (most - least + 1)
    steps = np.zeros(m + 2)
    np.add.at(steps, least, each)
    np.subtract.at(steps, most + 1, each)
    weights = np.cumsum(steps)[: m + 1]
    hits = np.flatnonzero(weights > NEGLIGIBLE)
    return hits, weights[hits] / weights[hits].sum()


@lru_cache(maxsize=32)  # a table asks for the same groups again and again
def _alarms(n: int, fpr: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """How many of n non-members may lie above the true threshold, and how likely that is."""
    alarms = np.arange(n + 1)
    chance = binom.pmf(alarms, n, fpr)
    alarms, chance = alarms[chance > NEGLIGIBLE], chance[chance > NEGLIGIBLE]
    alarms.flags.writeable = chance.flags.writeable = False
    return alarms, chance


def _quantile(hits: NDArray, weights: NDArray, m: int, share: float) -> float:
    """Where the mixture of Jeffreys' Betas for these hits of m has that share below it."""
    a, b = hits + 0.5, m - hits + 0.5

    def excess(rate: float) -> float:
        return weights @ betainc(a, b, rate) - share

    # one Beta of the same mean and variance says about where: fewer steps than from 0 and 1
    means = a / (m + 1)
    mean = weights @ means
    variance = weights @ (means * (1 - means) / (m + 2) + (means - mean) ** 2)
    size = mean * (1 - mean) / variance - 1
    tail = min(share, 1 - share) / 4
    low, high = betaincinv(mean * size, (1 - mean) * size, [share - tail, share + tail])
    if excess(low) > 0:
        low, high = 0, low
    elif excess(high) < 0:
        low, high = high, 1
    return float(brentq(excess, low, high, xtol=1e-8))


def _both_above(
    inside: NDArray, outside: NDArray, fpr: float, rng: np.random.Generator, n_boot: int
) -> tuple[NDArray[np.intp], ...]:
    """Members above the threshold of a alone, of b alone, and of both or none: three times [b].

    inside [2, m], outside [2, n]. The share of non-members between two neighbours, and at the ends,
    is Dirichlet(1, ..., 1); each non-member's share is the one from itself up to the next above.
    """
    (m, n), found = (inside.shape[1], outside.shape[1]), []
    order = np.argsort(-outside, 1, kind="stable")
    # no threshold lies lower than so many non-members, but for one draw in 10^9
    far = min(n, int(binom.isf(1e-12, n, fpr)) + 2)
    near = np.unique(order[:, :far])
    place = np.searchsorted(near, order[:, :far])
    padded = np.concatenate([np.full((2, 1), np.inf), -np.sort(-outside, 1)[:, :far]], 1)
    ascending = np.sort(inside, 1)
    over = np.stack(
        [m - np.searchsorted(a, t, side="right") for a, t in zip(ascending, padded, strict=True)]
    )  # members above the k-th highest non-member; none above all of them
    ranks = np.argsort(np.argsort(-inside, 1, kind="stable"), 1, kind="stable")
    at_once = max(1, AT_ONCE // (m + len(near)))
    for start in range(0, n_boot, at_once):
        block = min(at_once, n_boot - start)
        weights = rng.standard_exponential((block, len(near)))
        total = weights.sum(1) + rng.standard_gamma(n + 1 - len(near), block)
        hits = []
        for k in range(2):
            summed = np.cumsum(weights[:, place[k]], 1) / total[:, None]
            summed = np.concatenate([np.zeros((block, 1)), summed], 1)
            above = (summed[:, 1:] <= fpr).sum(1)  # non-members above the threshold
            row, below = np.arange(block), np.minimum(above + 1, far)
            reached = summed[row, above]
            gap = np.where(above < n, summed[row, below], 1) - reached
            least, most = over[k, above], np.where(above < n, over[k, below], m)
            share = np.clip((fpr - reached) / np.maximum(gap, 1e-300), 0, 1)
            hits.append(least + np.minimum((share * (most - least + 1)).astype(int), most - least))
        called = [ranks[k] < hits[k][:, None] for k in range(2)]
        only_a, only_b = (called[k] & ~called[1 - k] for k in range(2))
        found.append(np.stack([only_a.sum(1), only_b.sum(1)]))
    a, b = np.concatenate(found, 1)
    return a, b, m - a - b
