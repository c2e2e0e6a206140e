"""What an attack proves of epsilon: lower confidence bounds, from many images or from one training.

(epsilon, delta) bounds every attack's hits by its false alarms, so an attack that does better
refutes the promise. Jagielski, Ullman and Oprea, "Auditing differentially private machine
learning", NeurIPS 2020; Nasr et al., "Adversary instantiation", IEEE S&P 2021; Steinke, Nasr and
Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023. The other way round nothing
follows: a lower bound far below the promise may mean a weak attack or few images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import beta, binom, binomtest

from segleak_utils.checks import numbers
from segleak_utils.metrics.separation import roc

UNFAIR = 1e-6  # fair coins fall so unevenly once in a million audits


# ------------------------------------------------------------------- hits against false alarms


@dataclass(frozen=True)
class Bound:
    """What hits and false alarms at one threshold prove of epsilon.

    `largest` is what a perfect attack would prove with as many images.
    """

    epsilon_low: float
    threshold: float
    hits: int
    n_members: int
    alarms: int
    n_nonmembers: int
    delta: float
    level: float
    largest: float


def epsilon_bound(
    hits: int,
    n_members: int,
    alarms: int,
    n_nonmembers: int,
    delta: float,
    level: float = 0.95,
) -> float:
    """Lower confidence bound on epsilon from hits among members and alarms among non-members.

    The larger of log((TPR - delta) / FPR) and its mirror image log((1 - FPR - delta) / (1 - TPR))
    (Jagielski et al. 2020, section 3; Nasr et al. 2021), with the lower limit of the TPR and the
    upper one of the FPR, one-sided Clopper-Pearson limits that fail with probability
    (1 - level) / 2 each. Both directions need the same two limits, so no third share of the level
    is spent. 0 where nothing can be said. Raises ValueError for counts that are no integers or out
    of range, delta outside 0..1 or a level outside (0, 1).

    >>> round(epsilon_bound(400, 400, 0, 2000, delta=1e-4), 2)  # a perfect attack on as many images
    6.29
    >>> epsilon_bound(40, 400, 200, 2000, delta=1e-4)  # 10 % of both: nothing can be said
    0.0
    """
    hits, n_members, alarms, n_nonmembers = numbers.counts(hits, n_members, alarms, n_nonmembers)
    delta, level = _delta(delta), numbers.level(level)
    found = _log_ratio(np.array([hits]), n_members, np.array([alarms]), n_nonmembers, delta, level)
    return max(0.0, float(found[0]))


def audited(
    scores: ArrayLike, member: ArrayLike, delta: float, *, seed: int, level: float = 0.95
) -> Bound:
    """Lower bound on epsilon from an attack's scores [n], higher = member.

    The threshold is the one with the largest bound on a random half (by `seed`) of the members and
    of the non-members; hits and alarms are counted on the other half, which it has not seen. One
    training has one set of members, so here an image that is in stands beside one that is out: the
    promise is about one image more or less, the comparison exchanges one for another.
    Raises ValueError as `metrics.roc`, and for fewer than four members or non-members.
    """
    delta, level = _delta(delta), numbers.level(level)
    scores, member = numbers.scored(scores, member)
    if min(member.sum(), (~member).sum()) < 4:
        found = f"{member.sum()} members and {(~member).sum()} non-members"
        raise ValueError(f"{found}; expected at least 4 of each, to choose on half of them")
    rng = np.random.default_rng(numbers.count(seed, "seed"))
    choose = np.zeros(len(scores), bool)
    for group in (member, ~member):
        at = np.flatnonzero(group)
        choose[rng.permutation(at)[: len(at) // 2]] = True
    curve = roc(scores[choose], member[choose])
    counts = (curve.tpr * curve.n_members, curve.fpr * curve.n_nonmembers)
    hits, alarms = (np.rint(count).astype(int) for count in counts)
    found = _log_ratio(hits, curve.n_members, alarms, curve.n_nonmembers, delta, level)
    best = int(np.argmax(found))
    threshold = below = curve.thresholds[best]
    if best and np.isfinite(below):  # half-way to the next score, as `metrics.best_threshold`
        middle = below / 2 + curve.thresholds[best - 1] / 2
        threshold = middle if below <= middle < curve.thresholds[best - 1] else below
    return bound_at(scores[~choose], member[~choose], threshold, delta, level=level)


def bound_at(
    scores: ArrayLike, member: ArrayLike, threshold: float, delta: float, *, level: float = 0.95
) -> Bound:
    """Lower bound on epsilon at a threshold that was chosen on *other* images (the shadow's, say).

    Raises ValueError as `metrics.roc`, and for a threshold that is NaN.

    >>> member = np.arange(200) < 100
    >>> bound = bound_at(member * 1.0, member, 0.5, delta=0)
    >>> bound.hits, bound.alarms, bound.epsilon_low == bound.largest
    (100, 0, True)
    """
    scores, member = numbers.scored(scores, member)
    delta, level, threshold = _delta(delta), numbers.level(level), numbers.threshold(threshold)
    accused = scores > threshold
    n, m = int(member.sum()), int((~member).sum())
    hits, alarms = int(accused[member].sum()), int(accused[~member].sum())
    low = epsilon_bound(hits, n, alarms, m, delta, level)
    largest = epsilon_bound(n, n, 0, m, delta, level)
    return Bound(low, threshold, hits, n, alarms, m, delta, level, largest)


def rate_limits(
    hits: ArrayLike, n_members: int, alarms: ArrayLike, n_nonmembers: int, level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower limit of the TPR and the upper one of the FPR: float64, of the counts' shape.

    One-sided Clopper-Pearson limits that fail with probability (1 - level) / 2 each. Counts are
    taken as they are: who has them checks them (`checks.numbers.counts`).

    >>> [limit.round(3) for limit in rate_limits([0, 50], 100, [0, 100], 100)]
    [array([0.   , 0.398]), array([0.036, 1.   ])]
    """
    half, hits, alarms = (1 - level) / 2, np.asarray(hits), np.asarray(alarms)
    tpr = beta.ppf(half, np.maximum(hits, 1), n_members - hits + 1)
    fpr = beta.ppf(1 - half, alarms + 1, np.maximum(n_nonmembers - alarms, 1))
    return np.where(hits > 0, tpr, 0.0), np.where(alarms < n_nonmembers, fpr, 1.0)


def _log_ratio(hits, n: int, alarms, m: int, delta: float, level: float) -> NDArray[np.float64]:
    """The bound of each pair of counts, below 0 (or -inf) where it says nothing."""
    tpr, fpr = rate_limits(hits, n, alarms, m, level)
    with np.errstate(divide="ignore"):
        one = np.log(np.maximum(tpr - delta, 0)) - np.log(fpr)
        other = np.log(np.maximum(1 - fpr - delta, 0)) - np.log1p(-tpr)
    return np.maximum(one, other)


# --------------------------------------------------------------------------------- one training


@dataclass(frozen=True)
class OneRun:
    """What the guesses about `n` canaries prove of epsilon.

    `largest` is what as many guesses would prove if all were right.
    """

    epsilon_low: float
    right: int
    guesses: int
    n: int
    delta: float
    level: float
    largest: float


def one_run(
    scores: ArrayLike, included: ArrayLike, n_guesses: int, delta: float, level: float = 0.95
) -> OneRun:
    """Guess the canaries with the highest scores in, those with the lowest out; count and bound.

    Half of the `n_guesses` go to each end (the odd one to "in"), the rest abstains; so does a group
    of equal scores that does not fit as a whole, since their order would say what their scores do
    not. `included`, bool [n], must come from an independent fair coin for each canary, and
    `n_guesses` from elsewhere than these scores. Steinke et al. 2023, section 5.
    Raises ValueError for scores that are not finite or of another length, `included` that is not
    boolean or so uneven that no fair coin did it, and `n_guesses` outside 1..n.

    >>> included = np.arange(100) % 2 == 0
    >>> found = one_run(included * 1.0, included, n_guesses=100, delta=0)
    >>> found.right, found.guesses, round(found.epsilon_low, 2)
    (100, 100, 3.49)
    """
    delta, level = _delta(delta), numbers.level(level)
    right, guesses, n = guessed(scores, included, n_guesses)
    low, largest = (_one_run_low(n, guesses, r, delta, level) for r in (right, guesses))
    return OneRun(low, right, guesses, n, delta, level, largest)


def guessed(scores: ArrayLike, included: ArrayLike, n_guesses: int) -> tuple[int, int, int]:
    """How many guesses are right, how many are made, and on how many canaries: see `one_run`.

    >>> guessed(np.array([3.0, 1, 2, 0]), np.array([True, True, False, False]), n_guesses=2)
    (2, 2, 4)
    """
    scores = numbers.finite(scores)
    included = numbers.labels(included, len(scores), "included")
    n = numbers.count(len(scores), "the number of canaries", 1)
    n_guesses = numbers.count(n_guesses, "n_guesses", 1, n)
    check_coins(included)
    ascending, lowest = np.sort(scores), n_guesses // 2
    highest = n_guesses - lowest
    floor = ascending[n - highest - 1] if highest < n else -np.inf
    said_in = scores > floor
    said_out = scores < ascending[lowest] if lowest else np.zeros(n, bool)
    guesses = int(said_in.sum() + said_out.sum())
    right = int((said_in & included).sum() + (said_out & ~included).sum())
    return right, guesses, n


def check_coins(included: NDArray[np.bool_]) -> None:
    """Raise ValueError for canaries that no fair coin has put in or left out."""
    n = len(included)
    if binomtest(int(included.sum()), n).pvalue < UNFAIR:
        raise ValueError(
            f"{included.sum()} of {n} canaries are included: that is no fair coin. The audit needs "
            "each of them included with probability 1/2, independently"
        )


def one_run_bound(
    scores: ArrayLike, included: ArrayLike, n_guesses: int, delta: float, level: float = 0.95
) -> float:
    """Lower confidence bound on epsilon from a single training: that of `one_run`."""
    return one_run(scores, included, n_guesses, delta, level).epsilon_low


def one_run_p_value(n: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """How likely `right` of the guesses on n canaries are if training is (epsilon, delta)-private.

    At most P[B >= right] + 2 n delta max over i of P[right > B >= right - i] / i, where B counts
    the successes of as many guesses that are right with probability e^epsilon / (1 + e^epsilon)
    (Steinke et al. 2023, section 5). Raises ValueError unless these are whole numbers with
    0 <= right <= guesses <= n, for an epsilon below 0 or NaN (an infinite one promises nothing),
    and a delta outside [0, 1).

    >>> one_run_p_value(n=10, guesses=4, right=4, epsilon=0, delta=0)  # four fair coins
    0.0625
    """
    n = numbers.count(n, "n", 0, numbers.LARGEST)
    guesses = numbers.count(guesses, "guesses", 0, n)
    right = numbers.count(right, "right", 0, guesses)
    epsilon = np.inf if epsilon == np.inf else numbers.real(epsilon, "epsilon", 0)
    delta = _delta(delta)
    chance = expit(epsilon)
    value = binom.sf(right - 1, guesses, chance)
    if delta and right:
        below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
        value += 2 * n * delta * (below / np.arange(1, right + 1)).max()
    return float(min(value, 1))


def guesses_bound(n: int, guesses: int, right: int, delta: float, level: float = 0.95) -> float:
    """Lower bound on epsilon from so many right guesses on n canaries: see `one_run`.

    Raises ValueError as `one_run_p_value`, and for a level outside (0, 1).

    >>> round(guesses_bound(1000, 100, 75, 1e-4), 2)
    0.67
    """
    one_run_p_value(n, guesses, right, 0.0, delta)  # checks what it is given
    return _one_run_low(n, guesses, right, _delta(delta), numbers.level(level))


def _one_run_low(n: int, guesses: int, right: int, delta: float, level: float) -> float:
    def excess(epsilon: float) -> float:
        return one_run_p_value(n, guesses, right, epsilon, delta) - (1 - level)

    if excess(0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0, high))


def _delta(delta: float) -> float:
    return numbers.real(delta, "delta", 0, 1, ends="[)")
