"""Lower bounds on epsilon where the promise is a whole trade-off curve, not (epsilon, delta) alone.

A curve says for each false alarm rate how many hits a promise allows. DP-SGD promises more than one
point of it: with all members in each step it is Gaussian differential privacy, and the accountant
knows the curve of the others. So whatever an attack shows refutes all curves below it, and the
lowest curve that is left has the epsilon. Dong, Roth and Su, "Gaussian differential privacy", JRSS
B 2022; Nasr et al., "Tight auditing of differentially private machine learning", USENIX Security
2023; Zanella-Beguelin et al., "Bayesian estimation of differential privacy", ICML 2023;
Mahloujifar, Melis and Chaudhuri, "Auditing f-differential privacy in one run", ICML 2025.

Hits and alarms must come from independent trials, at a threshold that was fixed without them:
canaries of one training, each in by a coin, are that if none has a part in the score of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import beta

from segleak_utils.checks import numbers
from segleak_utils.metrics.epsilon import OneRun, guessed, rate_limits

Curve = Callable[[NDArray], NDArray]  # false alarm rates [...] -> the largest TPR allowed [...]
Interval = Literal["clopper-pearson", "joint-beta"]

LARGEST_MU = 60.0  # epsilon is then beyond 1800: no count tells it from infinity
NODES = 400  # points of the posterior of the false alarm rate


# ------------------------------------------------------------------------------------- the curves


def gaussian_delta(epsilon: float, mu: float) -> float:
    """The delta that mu-Gaussian differential privacy has at an epsilon (Dong et al., cor. 1).

    Raises ValueError for an epsilon or a mu that is negative or not finite.

    >>> round(gaussian_delta(1.0, mu=0.5), 4)
    0.0068
    """
    epsilon, mu = numbers.real(epsilon, "epsilon", 0), numbers.real(mu, "mu", 0, LARGEST_MU)
    return math.exp(_log_delta(epsilon, mu)) if mu else 0.0


def _log_delta(epsilon: float, mu: float) -> float:
    above = log_ndtr(mu / 2 - epsilon / mu)
    below = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(above + np.log(-np.expm1(min(below - above, -1e-300))))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon that mu-Gaussian differential privacy has at a delta.

    T steps with all members and noise multiplier s are mu = sqrt(T) / s. Raises ValueError for a mu
    outside 0..`LARGEST_MU` and a delta outside (0, 1).

    >>> round(gaussian_epsilon(np.sqrt(16) / 12, 1e-4), 2)
    1.07
    """
    mu, delta = numbers.real(mu, "mu", 0, LARGEST_MU), numbers.real(delta, "delta", 0, 1, ends="()")
    if 2 * ndtr(mu / 2) - 1 <= delta:
        return 0.0
    high = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))  # the tail's own bound
    return float(brentq(lambda e: _log_delta(e, mu) - math.log(delta), 0, high))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu whose Gaussian differential privacy has this epsilon at this delta.

    Raises ValueError for an epsilon that is negative, or beyond that of `LARGEST_MU`, and for a
    delta outside (0, 1).

    >>> round(gaussian_mu(gaussian_epsilon(0.7, 1e-5), 1e-5), 6)
    0.7
    """
    delta = numbers.real(delta, "delta", 0, 1, ends="()")
    largest = gaussian_epsilon(LARGEST_MU, delta)
    epsilon = numbers.real(epsilon, "epsilon", 0, largest)
    low = 2 * float(ndtri((1 + delta) / 2))  # below, epsilon is 0
    if epsilon == 0:
        return low
    return float(brentq(lambda mu: gaussian_epsilon(mu, delta) - epsilon, low, LARGEST_MU))


def gaussian_curve(mu: float) -> Curve:
    """The curve of mu-Gaussian differential privacy: TPR = Phi(Phi^-1(FPR) + mu).

    >>> curve = gaussian_curve(1.0)
    >>> curve(np.array([0.0, 0.5, 1.0])).round(4)
    array([0.    , 0.8413, 1.    ])
    """
    mu = numbers.real(mu, "mu", 0, LARGEST_MU)
    return lambda fpr: ndtr(ndtri(fpr) + mu)


def approximate_curve(epsilon: float, delta: float) -> Curve:
    """The curve of (epsilon, delta): the smaller of both its lines.

    >>> approximate_curve(math.log(4), 0.0)(np.array([0.1, 0.2, 0.6])).round(4)
    array([0.4, 0.8, 0.9])
    """
    epsilon = numbers.real(epsilon, "epsilon", 0)
    delta = numbers.real(delta, "delta", 0, 1, ends="[)")

    def curve(fpr: NDArray) -> NDArray:
        one = math.exp(min(epsilon, 700)) * fpr + delta
        other = 1 - math.exp(-epsilon) * (1 - delta - fpr)
        return np.clip(np.minimum(one, other), 0, 1)

    return curve


def loss_curve(losses: ArrayLike, chances: ArrayLike) -> Curve:
    """The curve of a privacy loss: losses [n], ascending, with their chances [n] for a member.

    A loss is the log of how much likelier the mechanism's answer is with the member than without
    it; the curve is that of the likelihood ratio's test (Neyman and Pearson), straight between its
    corners. What the chances lack to 1 is an infinite loss. Raises ValueError for losses that do
    not ascend, and chances that are negative or more than 1 in all.

    >>> curve = loss_curve([-np.log(3), np.log(3)], [0.25, 0.75])  # randomised response
    >>> curve(np.array([0.125, 0.25, 0.625])).round(4)
    array([0.375, 0.75 , 0.875])
    """
    losses, chances = numbers.finite(losses, "losses"), numbers.finite(chances, "chances")
    if losses.shape != chances.shape or not len(losses):
        raise ValueError(f"{len(losses)} losses and {len(chances)} chances; expected as many, > 0")
    if (np.diff(losses) <= 0).any():
        raise ValueError("losses do not ascend; expected each larger than the one before")
    if (chances < 0).any() or chances.sum() > 1 + 1e-6:
        raise ValueError(f"chances of {chances.min():g} up to a sum of {chances.sum():g}")
    sure = max(0.0, 1 - chances.sum())
    alarms = np.append(0, np.cumsum((chances * np.exp(-losses))[::-1])).clip(0, 1)
    hits = np.append(sure, sure + np.cumsum(chances[::-1])).clip(0, 1)
    return lambda fpr: np.interp(fpr, alarms, hits, right=1.0)


def curve_epsilon(curve: Curve, delta: float) -> float:
    """The epsilon that a promise with this curve has at a delta.

    The least with curve(fpr) <= e^epsilon fpr + delta at every false alarm rate; looked for down to
    rates of 1e-18. Raises ValueError for a delta outside (0, 1).

    >>> round(curve_epsilon(gaussian_curve(1.0), 1e-4), 3) == round(gaussian_epsilon(1.0, 1e-4), 3)
    True
    """
    delta = numbers.real(delta, "delta", 0, 1, ends="()")

    def lost(fpr: NDArray) -> NDArray:
        return np.log(np.maximum(curve(fpr) - delta, 1e-300)) - np.log(fpr)

    rates = np.geomspace(1e-18, 1, 4000)
    for _ in range(2):  # the second time between the neighbours of the best
        best = int(np.argmax(lost(rates)))
        low, high = rates[max(best - 1, 0)], rates[min(best + 1, len(rates) - 1)]
        top = float(lost(rates)[best])
        rates = np.geomspace(low, high, 4000)
    return max(0.0, top)


# ------------------------------------------------------------------- hits against false alarms


def refuted_by(
    curve: Curve,
    hits: int,
    n_members: int,
    alarms: int,
    n_nonmembers: int,
    level: float = 0.95,
    *,
    interval: Interval = "clopper-pearson",
) -> float:
    """By how much hits and alarms are beyond a curve: above 0, the curve is refuted at the level.

    ``clopper-pearson``: the lower limit of the TPR minus what the curve allows at the upper limit
    of the FPR; each fails with probability (1 - level) / 2, whatever the rates are.
    ``joint-beta``: how credible it is that the rates lie beyond the curve, minus the level, where
    both rates have the posteriors of Jeffreys' prior (Zanella-Beguelin et al. 2023). It spends the
    level once instead of twice, and is a credible bound, not one for every pair of rates: the tests
    simulate how often it fails. Raises ValueError for counts that are no integers or out of range,
    a level outside (0, 1), or another interval.

    >>> refuted_by(gaussian_curve(0.5), 900, 1000, 100, 1000) > 0
    True
    """
    hits, n, alarms, m = numbers.counts(hits, n_members, alarms, n_nonmembers)
    level = numbers.level(level)
    if interval == "clopper-pearson":
        tpr, fpr = rate_limits([hits], n, [alarms], m, level)
        return float((tpr - curve(fpr))[0])
    if interval != "joint-beta":
        raise ValueError(f"interval {interval!r}; expected 'clopper-pearson' or 'joint-beta'")
    shares = (np.arange(NODES) + 0.5) / NODES
    fprs = beta.ppf(shares, alarms + 0.5, m - alarms + 0.5)
    return float(beta.sf(curve(fprs), hits + 0.5, n - hits + 0.5).mean() - level)


def gaussian_bound(
    hits: int,
    n_members: int,
    alarms: int,
    n_nonmembers: int,
    delta: float,
    level: float = 0.95,
    *,
    interval: Interval = "clopper-pearson",
) -> float:
    """Lower bound on epsilon if the promise is Gaussian differential privacy (all members a step).

    Nasr et al. 2023, section 4. `interval` as in `refuted_by`, whose ValueErrors it raises, too.

    >>> round(gaussian_bound(2831, 5000, 2169, 5000, 1e-4), 2)  # mu 1/3 at its own threshold
    0.82
    >>> gaussian_bound(500, 1000, 500, 1000, 1e-4)
    0.0
    """
    delta = numbers.real(delta, "delta", 0, 1, ends="()")
    counts = hits, n_members, alarms, n_nonmembers
    mu = lowest(
        lambda mu: refuted_by(gaussian_curve(mu), *counts, level, interval=interval), 0, LARGEST_MU
    )
    return gaussian_epsilon(mu, delta)


def joint_beta_bound(
    hits: int, n_members: int, alarms: int, n_nonmembers: int, delta: float, level: float = 0.95
) -> float:
    """Lower bound on epsilon, of (epsilon, delta) alone, by the joint posterior of both rates.

    Never far below `epsilon_bound` and often above it: its own example. Raises ValueError as
    `refuted_by`, and for a delta outside [0, 1).

    >>> round(joint_beta_bound(2831, 5000, 2169, 5000, 1e-4), 2)
    0.23
    """
    delta = numbers.real(delta, "delta", 0, 1, ends="[)")
    counts = hits, n_members, alarms, n_nonmembers

    def excess(epsilon: float) -> float:
        curve = approximate_curve(epsilon, delta)
        return refuted_by(curve, *counts, level, interval="joint-beta")

    return lowest(excess, 0, 700)


def lowest(
    excess: Callable[[float], float], low: float, high: float, *, tolerance: float = 1e-9
) -> float:
    """The first of the parameters low..high whose curve is not refuted: excess falls through 0.

    `low` where nothing is refuted; `high` where all are.

    >>> lowest(lambda x: 2 - x, 0, 10)
    2.0
    """
    if excess(low) <= 0:
        return float(low)
    if excess(high) > 0:
        return float(high)
    return float(brentq(excess, low, high, xtol=tolerance))


# --------------------------------------------------------------------------------- one training


def one_run_excess(curve: Curve, n: int, guesses: int, right: int, level: float = 0.95) -> float:
    """By how much guesses on the canaries of one training are beyond a symmetric curve.

    Above 0, the curve is refuted at the level: algorithm 3 of Mahloujifar et al. 2025, for coins.
    Raises ValueError unless these are whole numbers with 0 <= right <= guesses <= n, n > 0.

    >>> one_run_excess(gaussian_curve(0.2), n=1000, guesses=200, right=150) > 0
    True
    """
    n = numbers.count(n, "n", 1, numbers.LARGEST)
    guesses = numbers.count(guesses, "guesses", 0, n)
    right, level = numbers.count(right, "right", 0, guesses), numbers.level(level)
    # the share of right guesses, and of wrong ones, where so many or more are right
    share, wrong = (1 - level) * right / n, (1 - level) * (guesses - right) / n
    for i in range(right - 1, -1, -1):
        # what the curve leaves of wrong guesses beside so many right ones: its inverse blow-up
        least = 1 - float(curve(1 - share))
        if least <= wrong:
            break  # neither of the two changes any more
        share = min(share + i / (guesses - i) * (least - wrong), 1.0)
        wrong = least
    return share + wrong - guesses / n


def one_run_gaussian(
    scores: ArrayLike, included: ArrayLike, n_guesses: int, delta: float, level: float = 0.95
) -> OneRun:
    """The guesses of `one_run`, bounded by Gaussian differential privacy's whole curve.

    Mahloujifar et al. 2025. Raises ValueError as `one_run`, and for a delta of 0.

    >>> included = np.arange(100) % 2 == 0
    >>> found = one_run_gaussian(included * 1.0, included, n_guesses=100, delta=1e-4)
    >>> found.right, found.guesses, found.epsilon_low == found.largest > 3
    (100, 100, True)
    """
    delta, level = numbers.real(delta, "delta", 0, 1, ends="()"), numbers.level(level)
    right, guesses, n = guessed(scores, included, n_guesses)
    low, largest = (one_run_gaussian_bound(n, guesses, r, delta, level) for r in (right, guesses))
    return OneRun(low, right, guesses, n, delta, level, largest)


def one_run_gaussian_bound(
    n: int, guesses: int, right: int, delta: float, level: float = 0.95
) -> float:
    """Lower bound on epsilon from so many right guesses on n canaries: see `one_run_gaussian`.

    >>> round(one_run_gaussian_bound(1000, 100, 75, 1e-4), 2)
    0.84
    """
    delta = numbers.real(delta, "delta", 0, 1, ends="()")
    mu = lowest(
        lambda mu: one_run_excess(gaussian_curve(mu), n, guesses, right, level), 0, LARGEST_MU
    )
    return gaussian_epsilon(mu, delta)
