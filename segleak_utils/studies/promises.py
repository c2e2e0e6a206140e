"""The promises that a private training is held against: trade-off curves, strictest to laxest.

With all members in each step a promise is Gaussian differential privacy; of sampled ones the
accountant knows the curve.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segleak_utils.metrics import gaussian_curve, gaussian_epsilon, loss_curve, lowest
from segleak_utils.metrics.tradeoff import LARGEST_MU, Curve
from segleak_utils.victims import accountant
from segleak_utils.victims.accountant import Privacy

# Of the noise that was promised, divided by that of the curves that are compared.
STRICTEST, LAXEST = 1 / 20, 4


@dataclass(frozen=True)
class Family:
    """The promises of such trainings, from the strictest to the laxest, along one number."""

    name: str
    curve: Callable[[float], Curve]
    epsilon: Callable[[float], float]
    low: float
    high: float
    tolerance: float

    def bound(self, excess: Callable[[Curve], float]) -> float:
        """The epsilon of the strictest promise that is not refuted; 0 where none is."""
        at = lowest(lambda x: excess(self.curve(x)), self.low, self.high, tolerance=self.tolerance)
        return self.epsilon(at) if at > self.low else 0.0


def family(privacy: Privacy) -> Family:
    """Gaussian differential privacy if all members are in each step, else the accountant's curve.

    Along mu, or along the noise: how much less of it there is than was promised.
    """
    q, steps, delta, noise = (
        privacy.sampling_rate,
        privacy.steps,
        privacy.delta,
        privacy.noise_multiplier,
    )
    if q == 1:
        return Family(
            "Gaussian DP",
            gaussian_curve,
            lambda mu: gaussian_epsilon(mu, delta),
            0.0,
            LARGEST_MU,
            1e-9,
        )
    least = noise
    while least / 1.1 >= accountant.SMALLEST_NOISE and accountant.grid_points(
        least / 1.1, q, steps, delta
    ) < (2**21):
        least /= 1.1
    least = max(least, noise / LAXEST)
    low, high = max(noise / accountant.LARGEST_NOISE, STRICTEST), noise / least
    points = np.concatenate([np.geomspace(low, 0.5, 6)[:-1], np.geomspace(0.5, high, 24)])
    return Family(
        "accountant's curve",
        lambda x: _between(points, x, lambda at: _sampled(noise / at, q, steps, delta)),
        lambda x: accountant.promise(noise / x, privacy.clip_norm, q, steps, delta).epsilon,
        low,
        high,
        1e-4,
    )


def _between(points: NDArray[np.float64], x: float, of: Callable[[float], Curve]) -> Curve:
    """The curve at x, straight between those at the two points around it: each takes a second."""
    k = int(np.clip(np.searchsorted(points, x), 1, len(points) - 1))
    below, above = of(float(points[k - 1])), of(float(points[k]))
    share = (x - points[k - 1]) / (points[k] - points[k - 1])
    return lambda fpr: (1 - share) * below(fpr) + share * above(fpr)


@functools.lru_cache(maxsize=256)
def _sampled(noise: float, rate: float, steps: int, delta: float) -> Curve:
    losses, chances = accountant.privacy_loss(noise, rate, steps, delta)
    some = chances > 0
    return loss_curve(losses[some], chances[some])


def both_ways(curve: Curve) -> Curve:
    """The larger of a curve and its mirror image: what bounds hits *and* rejections."""
    grid = np.concatenate([[0], np.logspace(-12, -2, 200), np.linspace(0.01, 1, 2000)])
    allowed = curve(grid)
    order = np.argsort(1 - allowed, kind="stable")
    alarms, hits = (1 - allowed)[order], (1 - grid)[order]
    return lambda fpr: np.maximum(curve(np.asarray(fpr)), np.interp(fpr, alarms, hits, right=1.0))
