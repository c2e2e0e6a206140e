"""Calibrated attacks: a victim's loss beside that of references, which never saw the image.

Most of the scatter of losses is difficulty, which a network that was not trained on an image knows
as well. Watson et al., "On the importance of difficulty calibration in membership inference
attacks", ICLR 2022; Carlini et al., "Membership inference attacks from first principles", IEEE S&P
2022 (LiRA); Zarifzadeh, Liu and Shokri, "Low-cost high-power membership inference attacks", ICML
2024 (RMIA). All of them speak of classification; here an image has a loss in each pixel.
Throughout, a higher score means "member".
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from segleak_utils import attacks
from segleak_utils.attacks import Outputs

_LEAST_DEVIATION = 1e-3  # two references may agree on a pixel to the last digit


def calibrated_loss_map(loss: Tensor, references: Tensor, *, scaled: bool = False) -> Tensor:
    """Loss of each pixel minus the references' mean, float32 [N,1,H,W]; void stays 0.

    loss: [N,1,H,W]; references: the same images' loss maps of K networks, [K,N,1,H,W]. With
    `scaled` it is divided by the references' standard deviation there. Negative where the victim
    does better than they do. ValueError for other shapes, or for `scaled` with one reference.
    """
    if references.ndim != 5 or references.shape[1:] != loss.shape or not len(references):
        found = f"{tuple(loss.shape)} and {tuple(references.shape)}"
        raise ValueError(f"loss maps are {found}; expected [N,1,H,W] and [K,N,1,H,W], K >= 1")
    if scaled and len(references) < 2:
        raise ValueError("one reference has no deviation; give at least two, or scaled=False")
    references = references.float()
    calibrated = loss.float() - references.mean(0)
    return calibrated / (references.std(0) + _LEAST_DEVIATION) if scaled else calibrated


def calibrated_features(shown: Outputs, reference: Outputs) -> np.ndarray:
    """What a regression sees of a victim and one reference on the same images: float64 [N,5C].

    Of each class its mean loss minus the reference's, that times the class's share of the pixels,
    the share; and the victim's own mean loss, and that times the share.
    ValueError where the two are not about the same masks.
    """
    _check_alike(shown, reference)
    own, theirs = (attacks.class_features(of) for of in (shown, reference))
    n = shown.n_classes
    differences = own[:, : 2 * n] - theirs[:, : 2 * n]
    return np.hstack([differences, own[:, 2 * n :], own[:, : 2 * n]])


def difference_scores(shown: Outputs, references: list[Outputs]) -> np.ndarray:
    """The references' mean global loss minus the victim's, float64 [N]."""
    for reference in references:
        _check_alike(shown, reference)
    losses = [-attacks.global_loss_scores(of).astype(np.float64) for of in (shown, *references)]
    return np.mean(losses[1:], 0) - losses[0]


def confidence(shown: Outputs) -> np.ndarray:
    """Logit of the geometric mean of the true classes' probabilities, float64 [N].

    LiRA's log(p / (1 - p)), with p = exp(-global loss).
    """
    loss = -attacks.global_loss_scores(shown).astype(np.float64)
    return -loss - np.log(-np.expm1(-np.maximum(loss, 1e-12)))


def lira_offline(target: np.ndarray, out: np.ndarray, *, fixed: bool = False) -> np.ndarray:
    """How far above the references' confidences the victim's lies, in deviations: float64 [N].

    target: [N]; out: [K,N], of networks that did not see the images. The order of the images is
    that of LiRA's offline, one-sided test. `fixed`: one deviation for all images,
    which is what a few references allow. ValueError for K = 1 without it, or for other shapes.
    """
    target, out = _confidences(target, out)
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
    """
    ratio = np.zeros(len(target))
    for kind, sign in ((inside, 1), (out, -1)):
        values, of = _confidences(target, kind)
        if len(of) < 2:
            raise ValueError(f"{len(of)} networks of a kind; expected at least two of each")
        deviation = _deviation(of, fixed)
        normal = -(((values - of.mean(0)) / deviation) ** 2) / 2 - np.log(deviation)
        ratio += sign * normal
    return ratio


def rmia(
    target: np.ndarray,
    out: np.ndarray,
    target_population: np.ndarray,
    out_population: np.ndarray,
    *,
    gamma: float = 1.0,
    a: float = 1.0,
) -> np.ndarray:
    """Share of a population that the image's likelihood ratio beats by `gamma`: float64 [N].

    Log-probabilities (minus global losses): target [N] and out [K,N] of the images, and the same of
    a population of M other images that the victim was not trained on. The reference probability of
    an image is that of the references, brought to "in or out" by `a` (offline RMIA:
    ((1 + a) p_out + 1 - a) / 2; 1 leaves it as it is). ValueError for other shapes or ranges.
    """
    if gamma <= 0 or not 0 <= a <= 1:
        raise ValueError(f"gamma {gamma}, a {a}: expected gamma > 0 and a in 0..1")
    ratios = []
    for own, references in ((target, out), (target_population, out_population)):
        own, references = _confidences(own, references)
        theirs = np.exp(references).mean(0)
        ratios.append(own - np.log(((1 + a) * theirs + 1 - a) / 2))
    beaten = np.searchsorted(np.sort(ratios[1]), ratios[0] - np.log(gamma), side="right")
    return beaten / len(ratios[1])


def _deviation(out: np.ndarray, fixed: bool) -> np.ndarray:
    """Standard deviation of each image's confidences [K,N] → [N]; `fixed`: that of all, pooled."""
    variance = out.var(0, ddof=1)
    return np.sqrt(
        np.maximum(np.full_like(variance, variance.mean()) if fixed else variance, 1e-12)
    )


def _confidences(target: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target, out = np.asarray(target, np.float64), np.asarray(out, np.float64)
    if target.ndim != 1 or out.ndim != 2 or out.shape[1:] != target.shape or not out.size:
        raise ValueError(f"shapes {target.shape} and {out.shape}; expected [N] and [K,N], K >= 1")
    if not (np.isfinite(target).all() and np.isfinite(out).all()):
        raise ValueError("confidences hold NaN or infinite values")
    return target, out


def _check_alike(shown: Outputs, reference: Outputs) -> None:
    if shown.masks.shape != reference.masks.shape or not torch.equal(shown.masks, reference.masks):
        raise ValueError(
            "victim and reference were asked about different images (their masks differ); ask the "
            "reference about the victim's, in the same order"
        )
