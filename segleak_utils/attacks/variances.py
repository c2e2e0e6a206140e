"""BaVarIA: a variance of its own for each image from few references, by a conjugate prior.

Brännvall, "Exponential-family membership inference: from LiRA and RMIA to BaVarIA", arXiv
2603.11799. LiRA needs many references for a variance an image, and takes one for all where there
are few. Here both are the ends of one scale: a normal-inverse-gamma prior says what means and
variances are usual, and each image's references move it as far as they can. The prior is fitted on
shadows (the paper leaves it open on what). Throughout, a higher score means "member".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammaln

from segleak_utils.attacks import calibration
from segleak_utils.attacks.contests import Attack
from segleak_utils.attacks.references import Case, by_loss
from segleak_utils.checks import numbers

BAVARIA = "BaVarIA"


@dataclass(frozen=True)
class Prior:
    """What is usual: variances ~ inverse gamma(shape, scale), means ~ N(mean, variance / weight).

    `weight`: how many references the usual mean is worth; twice `shape`: the same of the variance.
    ValueError for what is not finite, or not above 0 where it must be.
    """

    mean: float
    weight: float
    shape: float
    scale: float

    def __post_init__(self) -> None:
        numbers.real(self.mean, "mean")
        for name in ("weight", "shape", "scale"):
            numbers.real(getattr(self, name), name, 0, ends="()")

    def after(self, values: NDArray) -> tuple[NDArray, float, float, NDArray]:
        """The same four once the values [K,N] of N images were seen: [N], float, float, [N]."""
        k = len(values)
        weight, average = self.weight + k, values.mean(0)
        moved = (self.weight * self.mean + k * average) / weight
        within = ((values - average) ** 2).sum(0)
        between = self.weight * k * (average - self.mean) ** 2 / weight
        return moved, weight, self.shape + k / 2, self.scale + (within + between) / 2


def deviations(target: np.ndarray, out: np.ndarray, prior: Prior) -> NDArray[np.float64]:
    """How far above what the references lead to expect the victim lies, in deviations: [N].

    target: confidences [N] (`calibration.confidence`); out: [K,N], of networks that did not see the
    images. The location and scale are those of the predictive Student distribution. Its degrees of
    freedom are the same for all images, so this is also the order of the paper's distribution
    function. One reference is enough. ValueError for other shapes, and values that are not finite.

    >>> usual = Prior(mean=0.0, weight=1.0, shape=1.0, scale=1.0)
    >>> deviations([2.0], [[1.0], [1.0]], usual)  # 2 - 2/3, in deviations of sqrt(8/9)
    array([1.41421356])
    """
    target = numbers.finite(target, "the victim's confidences", "[N]")
    out = numbers.finite(out, "the references' confidences", "[K, N]")
    if out.shape[1:] != target.shape or not out.size:
        raise ValueError(f"shapes {target.shape} and {out.shape}; expected [N] and [K,N], K >= 1")
    mean, weight, shape, scale = prior.after(out)
    return (target - mean) / np.sqrt(scale * (weight + 1) / (shape * weight))


def log_evidence(values: np.ndarray, prior: Prior) -> NDArray[np.float64]:
    """Log density of each image's values [K,N] under the prior, means and variances unknown: [N].

    >>> usual = Prior(mean=0.0, weight=1.0, shape=0.5, scale=0.5)
    >>> np.exp(log_evidence([[0.0]], usual))  # Student, 1 degree of freedom, scale² 2: 1/(π√2)
    array([0.22507908])
    """
    values = numbers.finite(values, "values", "[K, N]")
    k = len(values)
    _, weight, shape, scale = prior.after(values)
    constant = gammaln(shape) - gammaln(prior.shape) + prior.shape * np.log(prior.scale)
    constant += (np.log(prior.weight) - np.log(weight) - k * np.log(2 * np.pi)) / 2
    return constant - shape * np.log(scale)


def fit_prior(values: np.ndarray) -> Prior:
    """The prior under which the values [K,N] of N images are likeliest (empirical Bayes).

    Each image's K values are of networks that did not see it. ValueError for less than two values
    an image, less than ten images, or values that are all the same.
    """
    values = numbers.finite(values, "values", "[K, N]")
    if values.ndim != 2 or len(values) < 2 or values.shape[1] < 10 or not values.std() > 0:
        raise ValueError(
            f"values are {list(values.shape)}, deviation {values.std():.3g}; expected [K, N], at "
            "least two different ones of each of ten images or more, to tell the scatter within "
            "an image from that between images"
        )
    centre, spread = values.mean(), values.std()
    scaled = (values - centre) / spread

    def prior_of(x: NDArray) -> Prior:
        return Prior(x[0], *np.exp(np.clip(x[1:], -12, 12)))

    within = max(float(scaled.var(0, ddof=1).mean()), 1e-4)
    start = np.array([0.0, np.log(within), np.log(2.0), np.log(2.0 * within)])
    found = minimize(lambda x: -log_evidence(scaled, prior_of(x)).mean(), start, method="L-BFGS-B")
    best = prior_of(found.x)
    return Prior(
        *(float(x) for x in (centre + spread * best.mean, best.weight, best.shape)),
        float(spread**2 * best.scale),
    )


def prior_of(learned: Sequence[Case]) -> Prior:
    """The prior of the shadows: fitted on what they and their references say of non-members.

    No network that is asked has seen these, so that K references give K + 1 values an image.
    ValueError for shadows with other numbers of references, and as `fit_prior`.
    """
    if len({len(of.references) for of in learned}) != 1:
        raise ValueError("no shadow, or shadows with other numbers of references; expected as many")
    values = []
    for of in learned:
        own, theirs = (calibration.confidence(loss) for loss in of.losses)
        values.append(np.vstack([own[None], theirs])[:, ~of.member])
    return fit_prior(np.concatenate(values, 1))


def scores(of: Case, prior: Prior) -> NDArray[np.float64]:
    """`deviations` of a network's confidences beside its references': [N]."""
    return deviations(*(calibration.confidence(loss) for loss in of.losses), prior)


def bavaria(of: Case, learned: Sequence[Case]) -> Attack:
    """The attack on one victim: `scores` with the shadows' prior, the threshold theirs, too."""
    prior = prior_of(learned)
    return by_loss(BAVARIA, lambda known: scores(known, prior), of, learned)
