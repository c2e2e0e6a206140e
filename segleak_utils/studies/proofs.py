"""What the scores of canaries prove of epsilon, by every bound that one training allows.

Threshold and number of guesses are fixed on a *rehearsal*, sums that are drawn as the training has
promised.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segleak_utils.checks import numbers
from segleak_utils.metrics import (
    epsilon_bound,
    gaussian_curve,
    guessed,
    guesses_bound,
    joint_beta_bound,
    lowest,
    one_run_excess,
    rate_limits,
    refuted_by,
)
from segleak_utils.metrics.tradeoff import LARGEST_MU
from segleak_utils.studies.canaries import N_CANARIES, scores
from segleak_utils.studies.promises import Family, both_ways, family
from segleak_utils.victims.accountant import Privacy

REHEARSED = 20_000  # canaries in, and as many out, on which threshold and guesses are chosen


@dataclass(frozen=True)
class Choice:
    """What is fixed before a canary is scored: a threshold, and each bound's number of guesses."""

    threshold: float
    guesses: int  # (epsilon, delta), Steinke et al.
    guesses_curve: int  # the whole curve, Mahloujifar et al.


Score = Callable[[NDArray[np.float64], Privacy], NDArray[np.float64]]
Drawn = Callable[[np.random.Generator, Privacy, int], NDArray[np.bool_]]


def poisson(rng: np.random.Generator, privacy: Privacy, n: int) -> NDArray[np.bool_]:
    """Which of n records are in which step, bool [steps, n]: each by itself."""
    return rng.random((privacy.steps, n)) < privacy.sampling_rate


def rehearse(
    privacy: Privacy,
    n: int = N_CANARIES,
    *,
    score: Score = scores,
    drawn: Drawn = poisson,
    seed: int = 1,
    level: float = 0.95,
    of: Family | None = None,
) -> Choice:
    """Choose threshold and guesses on sums that are drawn as the training has promised.

    The threshold and the shares of guesses with the largest bounds, if n canaries did as those of
    the rehearsal. No canary of the audit has a part in it, so nothing is spent. `drawn`: as the
    attacker believes that records are sampled, where that is not as promised.
    """
    rng, of = np.random.default_rng(seed), of or family(privacy)
    shape = privacy.steps, REHEARSED
    noise = privacy.noise_multiplier * rng.standard_normal((2, *shape))
    inside = score(noise[0] + drawn(rng, privacy, REHEARSED), privacy)
    outside = score(noise[1], privacy)
    both = np.concatenate([inside, outside])
    thresholds = np.quantile(both, np.concatenate([[0.002, 0.005], np.linspace(0.01, 0.995, 198)]))
    half = n // 2
    while True:
        hits, alarms = (
            np.rint(half * (group[:, None] > thresholds).mean(0)) for group in (inside, outside)
        )
        tpr, fpr = rate_limits(hits, half, alarms, half, level)

        def excess(x: float, tpr=tpr, fpr=fpr) -> NDArray:
            return tpr - of.curve(x)(fpr)

        at = lowest(lambda x: float(excess(x).max()), of.low, of.high, tolerance=of.tolerance)
        if at > of.low or half > 100 * REHEARSED:
            break
        half *= 4  # so few canaries prove nothing at any threshold: which is best for more of them?
    threshold = float(thresholds[int(np.argmax(excess(at)))])
    coins = np.arange(2 * REHEARSED) < REHEARSED
    best = {"plain": (0.0, 2), "curve": (0.0, 2)}
    for share in np.geomspace(0.01, 1, 12):
        right, made, _ = guessed(both, coins, max(2, round(share * 2 * REHEARSED)))
        guesses = max(2, round(share * n))
        right = min(guesses, math.floor(guesses * right / max(made, 1)))
        plain = guesses_bound(n, guesses, right, privacy.delta, level)
        # by Gaussian curves: they are quick, and only say how many to guess
        curve = lowest(
            lambda mu, g=guesses, r=right: one_run_excess(gaussian_curve(mu), n, g, r, level),
            0,
            LARGEST_MU,
        )
        for name, found in (("plain", plain), ("curve", curve)):
            best[name] = max(best[name], (found, guesses))
    return Choice(threshold, best["plain"][1], best["curve"][1])


# --------------------------------------------------------------------------------------- the bounds

STEINKE = "one run, (ε, δ)"
ONE_RUN = "one run, {}"
CLOPPER = "{}, Clopper-Pearson"
JOINT = "{}, joint beta"
ONE = "one threshold, Clopper-Pearson"
ONE_JOINT = "one threshold, joint beta"


@dataclass(frozen=True)
class Proof:
    """One bound: `largest` is what a perfect attack on as many canaries would prove.

    `decides`: the audit's verdict goes by this one, which was named before.
    """

    method: str
    epsilon_low: float
    largest: float
    counts: str
    decides: bool = False


def proofs(
    found: NDArray[np.float64],
    included: NDArray[np.bool_],
    privacy: Privacy,
    choice: Choice,
    *,
    level: float = 0.95,
    of: Family | None = None,
) -> list[Proof]:
    """Every bound from the canaries' scores [n] and their coins [n].

    The verdict is that of the whole curve by Clopper-Pearson: the only one of them that is both
    tight and exact at any number of canaries.
    """
    of, delta = of or family(privacy), privacy.delta
    found, included = numbers.scored(found, included)
    accused = found > choice.threshold
    n, m = int(included.sum()), int((~included).sum())
    hits, alarms = int(accused[included].sum()), int(accused[~included].sum())
    said = f"hits {hits}/{n}, alarms {alarms}/{m}"
    out = []

    def add(method: str, bound: Callable[[bool], float], counts: str, decides=False) -> None:
        out.append(Proof(method.format(of.name), bound(False), bound(True), counts, decides))

    def one_run(guesses: int, bound: Callable[[int, int, int], float], method: str) -> None:
        right, made, of_n = guessed(found, included, guesses)
        counts = f"{right} of {made} guesses right"
        add(method, lambda best: bound(of_n, made, made if best else right), counts)

    one_run(
        choice.guesses, lambda n, made, right: guesses_bound(n, made, right, delta, level), STEINKE
    )
    one_run(
        choice.guesses_curve,
        lambda n, made, right: of.bound(
            lambda curve: one_run_excess(
                curve if privacy.sampling_rate == 1 else both_ways(curve), n, made, right, level
            )
        ),
        ONE_RUN,
    )
    for method, interval in ((CLOPPER, "clopper-pearson"), (JOINT, "joint-beta")):
        add(
            method,
            lambda best, interval=interval: of.bound(
                lambda curve: refuted_by(
                    curve,
                    *((n, n, 0, m) if best else (hits, n, alarms, m)),
                    level,
                    interval=interval,
                )
            ),
            said,
            decides=method == CLOPPER,
        )
    for method, bound in ((ONE, epsilon_bound), (ONE_JOINT, joint_beta_bound)):
        add(
            method,
            lambda best, bound=bound: bound(
                *((n, n, 0, m) if best else (hits, n, alarms, m)), delta, level
            ),
            said,
        )
    return out
