"""How well a membership score separates members from non-members, with its uncertainty.

Conventions: one score per image, the image is the unit; a higher score means "member"; `member` is
a boolean array; an image is called a member if its score is *strictly above* a threshold. Every
number comes as an `Interval` with the two sample sizes. All functions raise ValueError for scores
that are NaN or infinite, labels that are not boolean, arrays of different lengths and fewer than
two members or non-members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest, norm, rankdata, t
from sklearn.metrics import roc_curve

from segleak_utils.checks import numbers
from segleak_utils.metrics.intervals import Interval, clopper_pearson


@dataclass(frozen=True)
class Roc:
    """Points of a ROC, from (0, 0) to (1, 1): calling `scores > thresholds[i]` members gives them.

    fpr, tpr, thresholds: float64 [k]; thresholds fall, the last is -inf.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    n_members: int
    n_nonmembers: int

    @property
    def smallest_fpr(self) -> float:
        """1/n: below it a curve is drawn by no non-member at all."""
        return 1 / self.n_nonmembers


def roc(scores: ArrayLike, member: ArrayLike) -> Roc:
    """Every operating point of a score [n], collinear ones included; tied scores move together.

    >>> curve = roc([3, 2, 1, 0], np.array([True, False, True, False]))
    >>> curve.fpr, curve.tpr
    (array([0. , 0. , 0.5, 0.5, 1. ]), array([0. , 0.5, 0.5, 1. , 1. ]))
    """
    scores, member = numbers.scored(scores, member)
    fpr, tpr, at_least = roc_curve(member, scores, drop_intermediate=False)
    # scikit-learn calls ">= threshold" positive; ">" gives the same points one threshold later.
    thresholds = np.append(at_least[1:], -np.inf)
    return Roc(fpr, tpr, thresholds, int(member.sum()), int((~member).sum()))


def auc(
    scores: ArrayLike,
    member: ArrayLike,
    level: float = 0.95,
    method: str = "delong",
    *,
    seed: int | None = None,
    n_boot: int = 2000,
) -> Interval:
    """Area under the ROC: the chance that a member scores above a non-member, ties counting half.

    method "delong": the variance of DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988) from
    midranks (Sun and Xu, IEEE Signal Processing Letters 21, 2014), put on the logit scale, where
    the interval stays inside 0..1, with the quantile of Student's t: near 1 the variance is that of
    a few images out of order and so itself uncertain, as far as the kurtosis of what each image
    adds says (Satterthwaite). Without either the interval is too short there
    (tests/metrics/test_separation.py simulates all three).
    method "bootstrap": percentiles over `n_boot` resamples, members and non-members apart; needs
    `seed`.

    Both variances vanish when the separation is perfect, which would claim certainty. Then the
    interval is the exact binomial one for min(members, non-members) disjoint pairs, all of them in
    order: conservative, but it covers. A score that is the same for all images is .5 [.5, .5].
    The interval covers the sampling of images, not the training of victim, shadow and attacker.

    >>> auc([3, 2, 1, 0], np.array([True, False, True, False])).value  # 3 of 4 pairs in order
    0.75
    """
    if method not in ("delong", "bootstrap"):
        raise ValueError(f"method {method!r}: expected 'delong' or 'bootstrap'")
    if method == "bootstrap":
        seed, n_boot = _bootstrap(seed, n_boot)
    scores, member = numbers.scored(scores, member)
    level = numbers.level(level)
    inside, outside = scores[member], scores[~member]
    value, variance, freedom = _delong(inside, outside)
    n = min(len(inside), len(outside))
    if value in (0.0, 1.0):
        low, high = clopper_pearson(n if value else 0, n, level)
    elif method == "delong":
        half = t.ppf(0.5 + level / 2, freedom) * np.sqrt(variance) / (value * (1 - value))
        low, high = expit(logit(value) - half), expit(logit(value) + half)
    else:
        pairs = [(_Pairs.of(inside, outside), 1)]
        means = _resampled_means(pairs, len(inside), len(outside), seed, n_boot)
        low, high = _percentiles(0.5 + means / 2, level)
    # at a tiny level the estimate may lie outside by a rounding or between two resamples
    low, high = min(float(low), value), max(float(high), value)
    return Interval(value, low, high, len(inside), len(outside), level)


def paired_auc_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    member: ArrayLike,
    *,
    seed: int,
    n_boot: int = 2000,
    level: float = 0.95,
) -> Interval:
    """AUC of attack a minus AUC of attack b, both scored on the same images in the same order.

    Percentile interval of a paired bootstrap, members and non-members resampled apart: each
    resample takes the same images for both attacks, so the difficulty they share cancels. An
    interval above 0 says that a wins even where the two separate intervals overlap. A score that
    orders every pair alike in both attacks gives exactly 0 [0, 0].

    >>> member = np.arange(20) < 10
    >>> order = np.arange(20.0)
    >>> str(paired_auc_difference(-order, np.exp(-order), member, seed=0))  # the same order
    '.00 [.00, .00]'
    """
    seed, n_boot = _bootstrap(seed, n_boot)
    scores_a, checked = numbers.scored(scores_a, member, "scores_a")
    scores_b, _ = numbers.scored(scores_b, member, "scores_b")
    level = numbers.level(level)
    a, b = (_Pairs.of(scores[checked], scores[~checked]) for scores in (scores_a, scores_b))
    m, n = len(a.below), len(a.order)
    once = np.ones((1, m)), np.ones((1, n))
    value = float((a.balance(*once) - b.balance(*once))[0] / (m * n)) / 2
    low, high = _percentiles(_resampled_means([(a, 1), (b, -1)], m, n, seed, n_boot) / 2, level)
    return Interval(value, min(low, value), max(high, value), m, n, level)


def auc_differences(
    scores: Sequence[ArrayLike],
    member: ArrayLike,
    *,
    seed: int,
    n_boot: int = 2000,
    level: float = 0.95,
) -> list[list[Interval]]:
    """`paired_auc_difference` of each of K scores [n] of the same images minus each, [K][K].

    Each is resampled once, not once for each other.

    >>> member = np.arange(20) < 10
    >>> found = auc_differences([np.arange(20.0), -np.arange(20.0)], member, seed=0)
    >>> print(found[1][0], found[0][0])
    1.00 [1.00, 1.00] .00 [.00, .00]
    """
    seed, n_boot = _bootstrap(seed, n_boot)
    level, values, resampled = numbers.level(level), [], []
    for k, of in enumerate(scores):
        checked, inside = numbers.scored(of, member, f"scores[{k}]")
        pairs = _Pairs.of(checked[inside], checked[~inside])
        m, n = len(pairs.below), len(pairs.order)
        once = np.ones((1, m)), np.ones((1, n))
        values.append(pairs.balance(*once)[0] / (m * n))
        resampled.append(_resampled_means([(pairs, 1)], m, n, seed, n_boot))

    def minus(a: int, b: int) -> Interval:
        value = float(values[a] - values[b]) / 2
        low, high = _percentiles((resampled[a] - resampled[b]) / 2, level)
        return Interval(value, min(low, value), max(high, value), m, n, level)

    return [[minus(a, b) for b in range(len(values))] for a in range(len(values))]


def mean_difference(values: ArrayLike, member: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of `values` [n] over the members minus that over the non-members (Welch's interval).

    >>> mean_difference([3, 5, 1, 1], np.array([True, True, False, False])).value
    3.0
    """
    values, member = numbers.scored(values, member, "values")
    level = numbers.level(level)
    inside, outside = values[member], values[~member]
    parts = np.array([x.var(ddof=1) / len(x) for x in (inside, outside)])
    value, half = float(inside.mean() - outside.mean()), 0.0
    if parts.any():  # else both groups are constant
        freedom = parts.sum() ** 2 / (parts**2 / (len(inside) - 1, len(outside) - 1)).sum()
        half = float(t.ppf(0.5 + level / 2, freedom) * np.sqrt(parts.sum()))
    return Interval(value, value - half, value + half, len(inside), len(outside), level)


def share_of_difference(
    part: ArrayLike, whole: ArrayLike, member: ArrayLike, level: float = 0.95
) -> Interval:
    """Share of the difference of means of `whole` [n] that is the difference of means of `part`.

    E.g. what some pixels add to the gap of the mean loss. Fieller's interval for a ratio of two
    differences that were measured on the same images; it may reach below 0 and above 1. ValueError
    where the difference of `whole` is not clear of 0 at this level: a share of it is anything.

    >>> member = np.arange(6) < 3
    >>> whole = np.array([1.0, 2, 3, 7, 8, 9])
    >>> round(share_of_difference(whole / 2, whole, member).value, 3)
    0.5
    """
    parts, checked = numbers.scored(part, member, "part")
    wholes, _ = numbers.scored(whole, member, "whole")
    level = numbers.level(level)
    both = [np.stack([parts[kind], wholes[kind]]) for kind in (checked, ~checked)]
    of_part, of_whole = both[0].mean(1) - both[1].mean(1)
    spread = sum(np.cov(group) / group.shape[1] for group in both)
    z = norm.ppf(0.5 + level / 2)
    # all rho with (of_part - rho of_whole)^2 <= z^2 var(of_part - rho of_whole)
    a = of_whole**2 - z**2 * spread[1, 1]
    if a <= 0:
        raise ValueError(
            f"the difference of the means of `whole` is {of_whole:.3g}, which is not clear of 0; "
            "a share of it is anything"
        )
    b, c = of_part * of_whole - z**2 * spread[0, 1], of_part**2 - z**2 * spread[0, 0]
    half, value = np.sqrt(max(b**2 - a * c, 0)) / a, float(of_part / of_whole)
    low, high = min(b / a - half, value), max(b / a + half, value)
    n_members, n_nonmembers = (group.shape[1] for group in both)
    return Interval(value, float(low), float(high), n_members, n_nonmembers, level)


def best_threshold(scores: ArrayLike, member: ArrayLike) -> float:
    """Threshold with the highest balanced accuracy on these scores; call it on *shadow* scores.

    It lies half-way between two scores; of equally good ones it is the highest (fewest false
    alarms). Chosen on the victim's own scores it would be an oracle, not an attack.

    >>> best_threshold([3, 2, 1, 0], np.array([True, True, False, False]))
    1.5
    """
    curve = roc(scores, member)
    best = int(np.argmax(curve.tpr - curve.fpr))
    below = curve.thresholds[best]
    if best == 0 or not np.isfinite(below):
        return float(below)  # call nobody, or everybody, a member
    above = curve.thresholds[best - 1]
    middle = below / 2 + above / 2
    # Between two neighbouring floats the middle may round up to the upper one and lose it.
    return float(middle if below <= middle < above else below)


def accuracy_at(
    scores: ArrayLike, member: ArrayLike, threshold: float, level: float = 0.95
) -> Interval:
    """Share of images called right at a threshold that was fixed elsewhere (on the shadow).

    Clopper-Pearson interval over all images. With unequal groups this number mostly says how the
    larger group fares (2000 of 2400 non-members: "never a member" scores .83): prefer
    `balanced_accuracy_at`.

    >>> accuracy_at([3, 2, 1, 0], np.array([True, True, False, False]), 2.5).value
    0.75
    """
    right, member = _calls(scores, member, threshold)
    level = numbers.level(level)
    low, high = clopper_pearson(int(right.sum()), len(right), level)
    return Interval(float(right.mean()), low, high, int(member.sum()), int((~member).sum()), level)


def balanced_accuracy_at(
    scores: ArrayLike, member: ArrayLike, threshold: float, level: float = 0.95
) -> Interval:
    """Mean of the share of members and the share of non-members called right; guessing gives .5.

    The Wilson intervals of the two shares, which are independent, are combined by the square-root
    rule of Newcombe (Statistics in Medicine 17, 1998) for their sum.

    >>> member = np.arange(6) < 2
    >>> balanced_accuracy_at([3, 1, 2, 0, 0, 0], member, 1.5).value  # 1 of 2, and 3 of 4
    0.625
    """
    right, member = _calls(scores, member, threshold)
    level = numbers.level(level)
    shares = np.array([right[member].mean(), right[~member].mean()])
    limits = np.array(
        [
            binomtest(int(part.sum()), len(part)).proportion_ci(level, "wilson")
            for part in (right[member], right[~member])
        ]
    )
    value = float(shares.mean())
    down, up = np.hypot(*(shares - limits[:, 0])) / 2, np.hypot(*(limits[:, 1] - shares)) / 2
    low, high = max(0.0, value - float(down)), min(1.0, value + float(up))
    return Interval(value, low, high, int(member.sum()), int((~member).sum()), level)


def _calls(
    scores: ArrayLike, member: ArrayLike, threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images are called right, and the checked labels."""
    scores, member = numbers.scored(scores, member)
    return (scores > numbers.threshold(threshold)) == member, member


def _delong(inside: NDArray, outside: NDArray) -> tuple[float, float, float]:
    """AUC, its variance, and that one's degrees of freedom. Midranks: ties are halves; O(n log n).

    A variance of n values of kurtosis k has a relative variance of (k - 1) / n.
    """
    m, n = len(inside), len(outside)
    ranks = rankdata(np.concatenate([inside, outside]))
    # Of each member, the share of non-members below it; of each non-member, of members above it.
    below = (ranks[:m] - rankdata(inside)) / n
    above = 1 - (ranks[m:] - rankdata(outside)) / m
    # From the sum of ranks, halves and integers, so that perfect separation is exactly 1.
    value = float((ranks[:m].sum() - m * (m + 1) / 2) / (m * n))
    variance = unsure = 0.0
    for each in (below, above):
        squares = (each - each.mean()) ** 2
        part = float(squares.sum() / (len(each) - 1) / len(each))
        variance += part
        if part:
            unsure += part**2 * (np.mean(squares**2) / squares.mean() ** 2 - 1) / (2 * len(each))
    return value, variance, variance**2 / unsure if unsure > 0 else np.inf


@dataclass(frozen=True)
class _Pairs:
    """Members against non-members, pair by pair, without a matrix of all pairs.

    order: how the non-members are sorted; below, upto: of each member, how many non-members score
    lower, and how many no higher, both int [m].
    """

    order: NDArray[np.intp]
    below: NDArray[np.intp]
    upto: NDArray[np.intp]

    @classmethod
    def of(cls, inside: NDArray[np.float64], outside: NDArray[np.float64]) -> _Pairs:
        order = np.argsort(outside, kind="stable")
        ends = (np.searchsorted(outside[order], inside, side) for side in ("left", "right"))
        return cls(order, *ends)

    def balance(self, members: NDArray, nonmembers: NDArray) -> NDArray[np.float64]:
        """Pairs in which the member scores higher minus those in which it scores lower: [b].

        members [b, m], nonmembers [b, n]: how often each image is there, in b resamples. Whole
        numbers, so the sums are exact.
        """
        upto = np.cumsum(nonmembers[:, self.order], 1, dtype=np.float64)
        upto = np.concatenate([np.zeros_like(upto[:, :1]), upto], 1)
        won = upto[:, self.below] + upto[:, self.upto] - upto[:, -1:]
        return np.einsum("bm,bm->b", members, won, dtype=np.float64)


def _bootstrap(seed: int | None, n_boot: int) -> tuple[int, int]:
    """What a bootstrap needs; fewer than 100 resamples have no tail of 2.5 %."""
    if seed is None:
        raise ValueError("the bootstrap needs a seed: pass seed=0, say")
    return numbers.count(seed, "seed"), numbers.count(n_boot, "n_boot", 100)


def _resampled_means(
    pairs: Sequence[tuple[_Pairs, int]], m: int, n: int, seed: int, n_boot: int
) -> NDArray[np.float64]:
    """Mean balance of the pairs, each with its sign, over `n_boot` resamples of m members and,
    apart, n non-members: [n_boot]. Time n log n, memory of some million counts at the most."""
    rng = np.random.default_rng(seed)
    sums, at_once = [], max(1, min(250, 2**23 // (m + n)))
    for start in range(0, n_boot, at_once):
        block = min(at_once, n_boot - start)
        counts = _counts(rng, m, block), _counts(rng, n, block)
        sums.append(sum(sign * of.balance(*counts) for of, sign in pairs))
    return np.concatenate(sums) / (m * n)


def _counts(rng: np.random.Generator, n: int, n_boot: int) -> NDArray[np.intp]:
    """How often each of n images is drawn in n draws with replacement, [n_boot, n]."""
    drawn = rng.integers(n, size=(n_boot, n)) + n * np.arange(n_boot)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * n_boot).reshape(n_boot, n)


def _percentiles(resampled: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(resampled, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
