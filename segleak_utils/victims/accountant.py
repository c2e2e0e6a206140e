"""The accountant: what a private training promises, before it has taken a step.

(epsilon, delta) of so many steps with Gaussian noise, each with a share of the members, by Opacus'
accountants; for adding or removing one image, and for *replacing* one, which is what whoever
compares an image that is in with one that is out has to be held against. Gopi, Lee and Wutschitz,
"Numerical composition of differential privacy", NeurIPS 2021 (the tight accountant, PRV); Dong,
Roth and Su, "Gaussian differential privacy", JRSS B 2022 (the group's trade-off curve).
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV, compute_safe_domain_size

from segleak_utils.checks import numbers
from segleak_utils.metrics import curve_epsilon, gaussian_epsilon, loss_curve
from segleak_utils.metrics.tradeoff import LARGEST_MU

SMALLEST_NOISE = 0.3  # below, the accountant needs gigabytes to say that nothing is promised
LARGEST_NOISE = 1000  # beyond any use; an infinite one keeps the accountant busy for ever
LARGEST_STEPS = 10**9
# Below, the tight accountant's own rounding is larger; above, what is promised says nothing, and
# RDP's epsilon may be negative.
DELTAS = (1e-12, 1e-2)
# Points of the tight accountant's grid: 8 million take 5 seconds and more than a gigabyte.
LARGEST_GRID = 2**23
EPSILON_ERROR = 0.01  # Opacus' own
LOSS_ERROR = 0.05  # where a whole curve is asked for, many times


@dataclass(frozen=True)
class Privacy:
    """What a training promises: (epsilon, delta) for *adding or removing* one image.

    `accountant` has computed it: ``rdp`` is somewhat pessimistic, where the tight one cannot.
    Both `replacing` and it hold for data sets of any size: rate, steps and clip norm are public.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    clip_norm: float
    sampling_rate: float
    steps: int
    accountant: str = "prv"

    @property
    def replacing(self) -> float | None:
        """Epsilon for *replacing* one image; None where the accountant cannot tell."""
        if self.noise_multiplier == 0:
            return math.inf
        asked = self.noise_multiplier, self.sampling_rate, self.steps, self.delta
        try:
            return replacing(*asked)
        except AccountantError:
            return None

    def __str__(self) -> str:
        by = "" if self.accountant == "prv" else ", by RDP, since the tight accountant cannot do it"
        if self.noise_multiplier == 0:
            return "no noise, so nothing is promised (ε = ∞)"
        other = self.replacing
        least = "" if self.sampling_rate == 1 else "at most "
        other = "not computed" if other is None else f"{least}{other:.2f}"
        return (
            f"ε = {self.epsilon:.2f} for adding or removing one image, {other} for replacing one, "
            f"at δ = {self.delta:g} after {self.steps} steps (noise multiplier "
            f"{self.noise_multiplier:g}, rate {self.sampling_rate:g}{by})"
        )


class AccountantError(ValueError):
    """An accountant cannot compute this epsilon: too large a grid, or no finite number."""


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float,
    *,
    accountant: Literal["prv", "rdp"] = "prv",
) -> float:
    """The ε that Opacus' accountant gives for so many steps, for adding or removing one image.

    Infinite without noise.

    ``prv`` (Gopi et al. 2021) is tight, ``rdp`` fast and somewhat pessimistic; never below 0.
    Raises ValueError for noise that is neither 0 nor in `SMALLEST_NOISE`..`LARGEST_NOISE`, a rate
    outside 0..1, steps that are no whole number above 0, a delta outside `DELTAS` (it must be far
    below one over the number of members, or who publishes one of them keeps the promise), and
    where the tight accountant would need too large a grid.

    >>> round(epsilon(12, 1.0, 16, 1e-4, accountant="rdp"), 2), epsilon(0, 1.0, 16, 1e-4)
    (1.19, inf)
    """
    noise, rate, steps, delta = _asked(noise_multiplier, sampling_rate, steps, delta)
    if accountant not in ("prv", "rdp"):
        raise ValueError(f"accountant {accountant!r}; expected 'prv' or 'rdp'")
    if noise == 0:
        return math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RDP's remark on its best order
        found = _tight(noise, rate, steps, delta) if accountant == "prv" else math.nan
        if accountant == "rdp":
            counts = RDPAccountant()
            counts.history = [(noise, rate, steps)]
            found = counts.get_epsilon(delta)
    if not math.isfinite(found):
        raise AccountantError(
            f"the {accountant} accountant gives {found} for noise {noise:g}, rate {rate:g} and "
            f"{steps} steps; expected a finite epsilon: use more noise or fewer steps"
        )
    return max(0.0, float(found))


def _asked(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> tuple:
    noise = numbers.real(noise_multiplier, "noise_multiplier", 0, LARGEST_NOISE)
    if 0 < noise < SMALLEST_NOISE:
        raise ValueError(f"noise_multiplier is {noise}; expected 0 or >= {SMALLEST_NOISE}")
    rate = numbers.real(sampling_rate, "sampling_rate", 0, 1, ends="(]")
    steps = numbers.count(steps, "steps", 1, LARGEST_STEPS)
    delta = numbers.real(delta, "delta", *DELTAS)
    return noise, rate, steps, delta


def _tight(noise: float, rate: float, steps: int, delta: float) -> float:
    """The tight accountant's epsilon; AccountantError where its grid is too large, or it fails."""
    asked = f"noise {noise:g}, rate {rate:g}, {steps} steps and delta {delta:g}"
    mend = 'use accountant="rdp", more noise or fewer steps'
    _check_grid(noise, rate, steps, delta)
    counts = PRVAccountant()
    counts.history = [(noise, rate, steps)]
    try:
        return counts.get_epsilon(delta, eps_error=EPSILON_ERROR)
    except (RuntimeError, ValueError) as error:
        raise AccountantError(f"the prv accountant fails for {asked} ({error}): {mend}") from None


def _check_grid(noise: float, rate: float, steps: int, delta: float) -> None:
    points = grid_points(noise, rate, steps, delta)
    asked = f"noise {noise:g}, rate {rate:g}, {steps} steps and delta {delta:g}"
    mend = 'use accountant="rdp", more noise or fewer steps'
    if not points <= LARGEST_GRID:
        raise AccountantError(
            f"the prv accountant needs a grid of {points:.2g} points for {asked}; expected at "
            f"most {LARGEST_GRID:.2g}, about a gigabyte: {mend}"
        )


def promise(
    noise_multiplier: float, clip_norm: float, sampling_rate: float, steps: int, delta: float
) -> Privacy:
    """What so many steps promise: by the tight accountant, or by RDP where that one cannot do it.

    Raises ValueError as `epsilon` for what no training can be.

    >>> promise(12, 1.0, 1.0, 16, 1e-4).accountant, promise(0.5, 1.0, 1.0, 2000, 1e-4).accountant
    ('prv', 'rdp')
    """
    clip_norm = numbers.real(clip_norm, "clip_norm", 0, ends="()")
    asked, accountant = (noise_multiplier, sampling_rate, steps, delta), "prv"
    try:
        found = epsilon(*asked)
    except AccountantError:
        found, accountant = epsilon(*asked, accountant="rdp"), "rdp"
    return Privacy(
        found, delta, noise_multiplier, clip_norm, sampling_rate, steps, accountant=accountant
    )


def privacy_loss(
    noise_multiplier: float, sampling_rate: float, steps: int, delta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The tight accountant's own privacy loss: losses [n], ascending, and their chances [n].

    The loss is log P(sums | a member more) / P(sums | without), the chance that with the member.
    `metrics.loss_curve` makes the trade-off curve of it. Raises ValueError as `epsilon`, and for no
    noise.

    >>> losses, chances = privacy_loss(2.0, 1.0, 4, 1e-4)
    >>> round(float(losses @ chances), 2)  # mu 1: half its square
    0.5
    """
    noise, rate, steps, delta = _asked(noise_multiplier, sampling_rate, steps, delta)
    if noise == 0:
        raise ValueError("noise_multiplier is 0; expected more: without noise the loss is infinite")
    _check_grid(noise, rate, steps, delta)
    counts = PRVAccountant()
    counts.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = counts._get_dprv(eps_error=LOSS_ERROR, delta_error=delta / 1000)
    return found.domain.ts, np.maximum(found.pmf, 0)


@functools.lru_cache(maxsize=64)
def replacing(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """The ε for *replacing* one image, where `epsilon` is that for adding or removing one.

    With all members in each step the sums differ by twice the clip norm at most, so it is that of
    half the noise (exact). Of sampled members it is at most what removing one and adding another
    allow together, by the accountant's own curve (Dong et al. 2022, theorem 2.14). Raises
    ValueError as `epsilon`.

    >>> round(replacing(12, 1.0, 16, 1e-4), 1)
    2.4
    """
    noise, rate, steps, delta = _asked(noise_multiplier, sampling_rate, steps, delta)
    if noise == 0:
        return math.inf
    mu = 2 * math.sqrt(steps) / noise
    tail = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    all_in = gaussian_epsilon(mu, delta) if mu <= LARGEST_MU else tail
    if rate == 1:
        return all_in
    losses, chances = privacy_loss(noise, rate, steps, delta)
    # what the transform's rounding leaves far out counts as an infinite loss
    some = chances > 1e-13 * chances.max()
    losses, chances = losses[some], chances[some]
    adding = loss_curve(losses, chances)
    # the same loss read from its other end; rounding up to all is on the safe side
    alarms = np.append(0, np.cumsum(chances)).clip(0, 1)
    hits = np.append(0, np.cumsum(chances * np.exp(-losses)))
    hits = (hits + max(0.0, 1 - hits[-1])).clip(0, 1)
    found = curve_epsilon(lambda fpr: adding(np.interp(fpr, alarms, hits, right=1.0)), delta)
    return min(all_in, found + 2 * LOSS_ERROR)  # each of the two is off by as much


def grid_points(noise: float, rate: float, steps: int, delta: float) -> float:
    """How many points the tight accountant would lay out, as its own formula has it.

    It spans what RDP says may be lost, both ways, in meshes of error / sqrt(steps log(12 / error of
    delta) / 2), where delta may be off by a thousandth (Gopi et al. 2021).

    >>> grid_points(1.0, 1.0, 100, 1e-4) < 1e7 < grid_points(0.3, 1.0, 300, 1e-4)
    True
    """
    off = delta / 1000
    mechanism = PoissonSubsampledGaussianPRV(rate, noise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RDP's remark on its best order
        span = compute_safe_domain_size([mechanism], [steps], EPSILON_ERROR, off)
    return float(2 * span * math.sqrt(steps * math.log(12 / off) / 2) / EPSILON_ERROR)
