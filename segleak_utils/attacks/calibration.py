"""Calibrated attacks: a victim's loss beside that of references, which never saw the image.

Most of the scatter of losses is difficulty, which a network that was not trained on an image knows
as well. Watson et al., "On the importance of difficulty calibration in membership inference
attacks", ICLR 2022; Carlini et al., "Membership inference attacks from first principles", IEEE S&P
2022 (LiRA); Zarifzadeh, Liu and Shokri, "Low-cost high-power membership inference attacks", ICML
2024 (RMIA). All of them speak of classification; here an image has a loss in each pixel.
Throughout, a higher score means "member".
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from segleak_utils.attacks.outputs import Outputs
from segleak_utils.attacks.regressions import class_features, global_loss_scores
from segleak_utils.checks import numbers, tensors

_ROUNDING = 1e-6  # how far below 0 a loss of float32 may be
_LEAST_DEVIATION = 1e-3  # two references may agree on a pixel to the last digit


def calibrated_loss_map(loss: Tensor, references: Tensor, *, scaled: bool = False) -> Tensor:
    """Loss of each pixel minus the references' mean, float32 [N,1,H,W]; void stays 0.

    loss: [N,1,H,W]; references: the same images' loss maps of K networks, [K,N,1,H,W]. With
    `scaled` it is divided by the references' standard deviation there. Negative where the victim
    does better than they do. ValueError for other shapes, losses that are not finite and >= 0, a
    reference that is the victim itself, or `scaled` with one reference.

    >>> references = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1)
    >>> loss = torch.full((1, 1, 1, 1), 0.5)
    >>> calibrated_loss_map(loss, references).item()  # the victim does better than both
    -1.0
    """
    if references.ndim != 5 or references.shape[1:] != loss.shape or not len(references):
        found = f"{tuple(loss.shape)} and {tuple(references.shape)}"
        raise ValueError(f"loss maps are {found}; expected [N,1,H,W] and [K,N,1,H,W], K >= 1")
    if scaled and len(references) < 2:
        raise ValueError("one reference has no deviation; give at least two, or scaled=False")
    for name, part in (("loss map", loss), ("references", references)):
        low, high = (float(value) for value in tensors.extremes(part)) if part.numel() else (0, 0)
        if not part.is_floating_point() or not low >= -_ROUNDING or not np.isfinite(high):
            found = f"{part.dtype}, from {low:.3g} to {high:.3g}"
            raise ValueError(f"{name}: {found}; expected finite floating-point losses >= 0")
    if loss.any():
        refuse_itself(torch.equal(loss, one) for one in references)
    references = references.float()
    calibrated = loss.float() - references.mean(0)
    return calibrated / (references.std(0) + _LEAST_DEVIATION) if scaled else calibrated


def calibrated_features(shown: Outputs, reference: Outputs) -> np.ndarray:
    """What a regression sees of a victim and one reference on the same images: float64 [N,5C].

    Of each class its mean loss minus the reference's, that times the class's share of the pixels,
    the share; and the victim's own mean loss, and that times the share.
    ValueError where the two are not about the same masks, or are the same network.
    """
    check_alike(shown, reference)
    return beside(*(class_features(of) for of in (shown, reference)))


def beside(own: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """`calibrated_features` from the two's `attacks.class_features` [N,3C].

    ValueError for other shapes, values that are not finite, or shares of the classes that are not
    the same in both.

    >>> own = np.array([[1.0, 0.25, 0.25]])  # of one class: mean loss, that times the share, share
    >>> beside(own, np.array([[3.0, 0.75, 0.25]]))  # two differences, the share, own loss twice
    array([[-2.  , -0.5 ,  0.25,  1.  ,  0.25]])
    """
    if own.shape != theirs.shape or own.ndim != 2 or own.shape[1] % 3:
        raise ValueError(f"features are {own.shape} and {theirs.shape}; expected both [N,3C]")
    own, theirs = (numbers.finite(part, "features", "[n, 3C]") for part in (own, theirs))
    loss, shares = np.split(own, [own.shape[1] // 3 * 2], axis=1)
    theirs, other = np.split(theirs, [own.shape[1] // 3 * 2], axis=1)
    if not np.allclose(shares, other, atol=1e-6):
        raise ValueError("victim and reference were asked about different images: shares differ")
    return np.hstack([loss - theirs, shares, loss])


def difference_scores(shown: Outputs, references: list[Outputs]) -> np.ndarray:
    """The references' mean global loss minus the victim's, float64 [N].

    ValueError without references, for other masks, or the victim among its references.
    """
    if not references:
        raise ValueError("no reference: the attack compares a victim with at least one")
    for reference in references:
        check_alike(shown, reference)
    losses = [-global_loss_scores(of).astype(np.float64) for of in (shown, *references)]
    return np.mean(losses[1:], 0) - losses[0]


def confidence(loss: np.ndarray) -> np.ndarray:
    """Logit of the geometric mean of the true classes' probabilities, of global losses: float64.

    LiRA's log(p / (1 - p)), with p = exp(-loss), of any shape. ValueError for a loss that is not
    finite, or below 0.

    >>> confidence([np.log(2), np.log(4)])  # p = 1/2 and 1/4: log(1), log(1/3)
    array([ 0.        , -1.09861229])
    """
    loss = numbers.finite(loss, "losses", "[...]")
    if loss.size and loss.min() < -_ROUNDING:
        raise ValueError(
            f"losses go down to {loss.min():.3g}, expected all >= 0: give losses, not scores"
        )
    return -loss - np.log(-np.expm1(-np.maximum(loss, 1e-12)))


def lira_offline(target: np.ndarray, out: np.ndarray, *, fixed: bool = False) -> np.ndarray:
    """How far above the references' confidences the victim's lies, in deviations: float64 [N].

    target: [N]; out: [K,N], of networks that did not see the images. The order of the images is
    that of LiRA's offline, one-sided test. `fixed`: one deviation for all images,
    which is what a few references allow. ValueError for K = 1 without it, or for other shapes.

    >>> lira_offline([2.0], [[0.0], [2.0]])  # mean 1, deviation sqrt(2)
    array([0.70710678])
    """
    target, out = _confidences(target, out, "confidences")
    if not fixed and len(out) < 2:
        raise ValueError("one reference has no deviation; give at least two, or fixed=True")
    distance = target - out.mean(0)
    return distance if len(out) < 2 else distance / _deviation(out, fixed)


def lira_online(
    target: np.ndarray, inside: np.ndarray, out: np.ndarray, *, fixed: bool = False
) -> np.ndarray:
    """Log-likelihood ratio of the victim's confidence, "trained on it" to "not": float64 [N].

    target: [N]; inside: [K,N], of networks that were trained on the images; out: [K',N], of others.
    Two normal distributions an image, as in LiRA; `fixed`: each with one
    deviation for all images. ValueError for less than two networks of a kind, or other shapes.

    >>> lira_online(np.array([2.0]), [[1.0], [3.0]], [[-1.0], [1.0]])  # at the mean of those inside
    array([1.])
    """
    ratio = 0.0
    for kind, sign in ((inside, 1), (out, -1)):
        values, of = _confidences(target, kind, "confidences")
        if len(of) < 2:
            raise ValueError(f"{len(of)} networks of a kind; expected at least two of each")
        deviation = _deviation(of, fixed)
        normal = -(((values - of.mean(0)) / deviation) ** 2) / 2 - np.log(deviation)
        ratio += sign * normal
    return ratio


def likelihood_ratio(target: np.ndarray, out: np.ndarray, *, a: float = 1.0) -> np.ndarray:
    """RMIA's Pr(image | victim) / Pr(image), as a logarithm: float64 [N].

    Log-probabilities (minus global losses): target [N], and out [K,N] of the references. Theirs are
    brought from "not trained on it" to "in or out" by `a` (offline RMIA: ((1 + a) p_out + 1 - a) /
    2; 1 leaves them as they are). ValueError for other shapes, values that are not finite or above
    0 (losses, say), or an `a` outside 0..1.

    >>> likelihood_ratio(np.log([0.8]), np.log([[0.2], [0.6]]))  # log(.8 / .4)
    array([0.69314718])
    """
    a = numbers.real(a, "a", 0, 1)
    target, out = _confidences(target, out, "log-probabilities")
    highest = max(target.max(), out.max())
    if highest > _ROUNDING:
        raise ValueError(
            f"log-probabilities go up to {highest:.3g}, expected all <= 0: give minus the losses"
        )
    return target - np.log(((1 + a) * np.exp(out).mean(0) + 1 - a) / 2)


def rmia(
    target: np.ndarray,
    out: np.ndarray,
    target_population: np.ndarray,
    out_population: np.ndarray,
    *,
    gamma: float = 1.0,
    a: float = 1.0,
) -> np.ndarray:
    """Share of a population that the image's `likelihood_ratio` beats by `gamma`: float64 [N].

    The log-probabilities of N images, and those of M others that the victim was not trained on.
    The images come in the order of their ratios, whatever the population; a small one has many
    share a place. ValueError for other shapes or ranges.

    >>> target, out = np.log([0.8, 0.4]), np.log([[0.4, 0.4]])
    >>> rmia(target, out, np.log([0.45, 0.9]), np.log([[0.5, 0.3]]))  # 2 and 1 against .9, 3
    array([0.5, 0.5])
    """
    gamma = numbers.real(gamma, "gamma", 0, ends="()")
    own = likelihood_ratio(target, out, a=a)
    others = likelihood_ratio(target_population, out_population, a=a)
    beaten = np.searchsorted(np.sort(others), own - np.log(gamma), side="right")
    return beaten / len(others)


def _deviation(out: np.ndarray, fixed: bool) -> np.ndarray:
    """Standard deviation of each image's confidences [K,N] → [N]; `fixed`: that of all, pooled."""
    variance = out.var(0, ddof=1)
    return np.sqrt(
        np.maximum(np.full_like(variance, variance.mean()) if fixed else variance, 1e-12)
    )


def _confidences(target: np.ndarray, out: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    target = numbers.finite(target, f"the victim's {name}", "[...]")
    out = numbers.finite(out, f"the networks' {name}", "[...]")
    if target.ndim != 1 or out.ndim != 2 or out.shape[1:] != target.shape or not out.size:
        raise ValueError(f"shapes {target.shape} and {out.shape}; expected [N] and [K,N], K >= 1")
    return target, out


def check_alike(shown: Outputs, reference: Outputs) -> None:
    """Raise ValueError unless two networks were asked about the same images.

    As far as masks and losses tell: other masks are other images, the same losses in each pixel are
    the same network.
    """
    if shown.masks.shape != reference.masks.shape or not torch.equal(shown.masks, reference.masks):
        raise ValueError(
            "victim and reference were asked about different images (their masks differ); ask the "
            "reference about the victim's, in the same order"
        )
    if shown.loss_maps.any():
        refuse_itself([torch.equal(shown.loss_maps, reference.loss_maps)])


def refuse_itself(same: Iterable[bool]) -> None:
    """Raise ValueError if a reference says what the victim says: then the attack would be void."""
    for k, is_same in enumerate(same):
        if is_same:
            raise ValueError(
                f"reference {k} has the victim's own losses, to the last digit: the victim cannot "
                "be its own reference; give networks that were not trained on its members"
            )
