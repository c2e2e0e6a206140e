"""Where a victim leaks: in which pixels, which classes, which regions, and for which images.

All of it is read off victims that were attacked before; nothing is learned or chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import label
from scipy.stats import spearmanr
from sklearn.pipeline import Pipeline
from torch import Tensor

from segleak_utils import metrics
from segleak_utils.attacks.calibration import check_alike
from segleak_utils.attacks.outputs import Outputs
from segleak_utils.attacks.references import Case, classes
from segleak_utils.checks import numbers, tensors
from segleak_utils.data import VOID
from segleak_utils.metrics import Interval, rank_correlation

LEAST_PIXELS = 20  # of a class or a region: a mean over fewer says little
LEAST_IMAGES = 50  # of members and of non-members, for an AUC to be of use


@dataclass(frozen=True)
class Evidence:
    """A linear attack's score, pixel by pixel: maps float32 [N,H,W], constant the same for all.

    An image's score is the sum of its map and the constant; void pixels are 0.
    """

    maps: Tensor
    constant: float


def evidence_maps(model: Pipeline, shown: Outputs, references: Sequence[Outputs]) -> Evidence:
    """The score of a regression on `references.zone_features`, taken apart exactly.

    shown: the victim's outputs with `references.zones` for masks; references: the same images and
    masks. A feature is a mean over a zone's pixels (or over all, or a share of them), so each pixel
    has its part: weight times what it adds. ValueError without references, for other masks than the
    victim's, or a model of another number of features.
    """
    theirs = _mean_loss(shown, references).double()
    weights, constant = _weights(model, shown.n_classes)
    own = shown.loss_maps[:, 0].double()
    zone = torch.where(shown.masks == VOID, shown.n_classes, shown.masks.long()).flatten(1)
    inside = torch.zeros(len(zone), shown.n_classes + 1, dtype=torch.float64)
    inside.scatter_add_(1, zone, torch.ones_like(zone, dtype=torch.float64))
    labelled = inside[:, :-1].sum(1, keepdim=True)
    mean, total, share, own_mean, own_total = weights
    gained = _of_pixels(mean / inside[:, :-1].clamp(min=1) + total / labelled, zone)
    alone = _of_pixels(own_mean / inside[:, :-1].clamp(min=1) + own_total / labelled, zone)
    there = _of_pixels(share / labelled, zone)
    parts = gained * (own - theirs).flatten(1) + alone * own.flatten(1) + there
    return Evidence(parts.view(own.shape).float(), constant)


def _mean_loss(shown: Outputs, references: Sequence[Outputs]) -> Tensor:
    """The references' mean loss of each pixel, float32 [N,H,W], of the victim's images only."""
    if not references:
        raise ValueError("no reference: the attack compares a victim with at least one")
    for reference in references:
        check_alike(shown, reference)
    return torch.stack([of.loss_maps for of in references]).float().mean(0)[:, 0]


def _weights(model: Pipeline, n_zones: int) -> tuple[Tensor, float]:
    """Weights [5, zones] of the unscaled features, in the order of `calibration.beside`."""
    scaler, linear = model.steps[0][1], model.steps[1][1]
    weight = linear.coef_[0] / scaler.scale_
    if len(weight) != 5 * n_zones:
        raise ValueError(f"the model has {len(weight)} features; expected {5 * n_zones}, 5 a zone")
    constant = float(linear.intercept_[0] - weight @ scaler.mean_)
    return torch.from_numpy(weight).view(5, 1, n_zones), constant


def _of_pixels(of_zones: Tensor, zone: Tensor) -> Tensor:
    """[N,zones] brought to the pixels [N,HW]; void gets 0."""
    return torch.cat([of_zones, torch.zeros_like(of_zones[:, :1])], 1).gather(1, zone)


@dataclass(frozen=True)
class Leak:
    """How well one part of the images alone tells members; n is the images that have the part."""

    name: str
    auc: Interval
    share: float


def class_leak(of: Case, names: Sequence[str], n_pixels: int) -> list[Leak]:
    """AUC of the references' mean loss minus the victim's, for each class by itself.

    Among the images with about 20 pixels of the class or more (n_pixels: of an image, void too);
    classes that too few images have are left out. share: of the labelled pixels. In the order of
    the names.
    """
    own, theirs = classes(of.own), classes(of.references.mean(0))
    n, n_pixels = len(names), numbers.count(n_pixels, "n_pixels", 1)
    if own.shape[1] != 3 * n:
        raise ValueError(f"{n} names for {own.shape[1] // 3} classes")
    found = []
    for k, name in enumerate(names):
        there = own[:, 2 * n + k] * n_pixels >= LEAST_PIXELS
        found += _leak(name, theirs[:, k] - own[:, k], there, of.member, own[:, 2 * n + k].mean())
    return found


def bin_leak(
    shown: Outputs, references: Sequence[Outputs], which: Tensor, bins: Mapping[str, tuple]
) -> list[Leak]:
    """The same for pixels by some quantity: which, [N,H,W], in `low <= which < high` of each bin.

    The quantity must not depend on the victim, or members would get into other bins than others.
    ValueError for another shape of it, NaN in it, bins without low < high, without references, or
    for other masks than the victim's.
    """
    if which.shape != shown.masks.shape:
        raise ValueError(f"which is {tuple(which.shape)}; expected {tuple(shown.masks.shape)}")
    if which.is_floating_point() and bool(which.isnan().any()):
        raise ValueError("which holds NaN, which lies in no bin; give each pixel a number")
    for name, (low, high) in bins.items():
        if not low < high:
            raise ValueError(f"bin {name!r} is {low} to {high}; expected low < high")
    gained = _mean_loss(shown, references) - shown.loss_maps[:, 0].float()
    labelled = shown.masks != VOID
    found = []
    for name, (low, high) in bins.items():
        inside = labelled & (which >= low) & (which < high)
        pixels = inside.sum((1, 2))
        mean = (gained * inside).sum((1, 2)) / pixels.clamp(min=1)
        share = float(pixels.sum() / labelled.sum())
        there = (pixels >= LEAST_PIXELS).numpy()
        found += _leak(name, mean.double().numpy(), there, shown.member, share)
    return found


def _leak(name: str, scores, there, member, share) -> list[Leak]:
    kinds = [int((there & kind).sum()) for kind in (member, ~member)]
    if min(kinds) < LEAST_IMAGES:
        return []
    return [Leak(name, metrics.auc(scores[there], member[there]), float(share))]


def region_sizes(masks: Tensor) -> Tensor:
    """Of each pixel, how many its region has: int32 [N,H,W]; void is 0.

    A region is what hangs together of one class, by edges. masks: integer [N,H,W], else ValueError.

    >>> region_sizes(torch.tensor([[[0, 0, 1, 255], [1, 1, 1, 0]]], dtype=torch.uint8))
    tensor([[[2, 2, 4, 0],
             [4, 4, 4, 1]]], dtype=torch.int32)
    """
    tensors.mask_shape(masks)
    out = np.zeros(masks.shape, np.int32)
    for mask, sizes in zip(masks.numpy(), out, strict=True):
        for k in np.unique(mask[mask != VOID]):
            regions, _ = label(mask == k)
            counts = np.bincount(regions.ravel())
            counts[0] = 0
            sizes += counts[regions].astype(np.int32)
    return torch.from_numpy(out)


def found(scores: np.ndarray, member: np.ndarray, fpr: float) -> np.ndarray:
    """Which members an attack finds while it accuses `fpr` of the non-members: bool [members].

    The threshold is that of `metrics.tpr_at_fpr`, whose ValueErrors are raised here too.

    >>> found(np.array([9.0, 8, 3, 7, 2, 1, 0]), np.arange(7) < 3, fpr=0.25)  # above the 2
    array([ True,  True,  True])
    """
    metrics.tpr_at_fpr(scores, member, fpr)
    scores, member = numbers.scored(scores, member)
    outside = np.sort(scores[~member])
    accused = int(np.floor(fpr * len(outside) + 1e-9))
    threshold = outside[-accused - 1] if accused < len(outside) else -np.inf
    return scores[member] > threshold


@dataclass(frozen=True)
class Agreement:
    """Members found by two attackers at one FPR, of n: by each, by both, by both if by chance.

    rank: Spearman's correlation of their scores of the members.
    """

    fpr: float
    n: int
    first: int
    second: int
    both: int
    rank: float

    @property
    def chance(self) -> float:
        return self.first * self.second / self.n


def agreement(a: np.ndarray, b: np.ndarray, member: np.ndarray, fpr: float) -> Agreement:
    """Do two attackers that have no network in common find the same members?

    a, b: scores [N] of the same images; ValueError as `found`, and where the members' scores are
    all the same, which have no rank.

    >>> scores, member = np.array([3.0, 2, 0, 1, 0, 0, 0]), np.arange(7) < 3
    >>> of = agreement(scores, scores, member, fpr=0.25)
    >>> of.first, of.second, of.both, round(of.chance, 2), round(of.rank, 2)
    (2, 2, 2, 1.33, 1.0)
    """
    a, _ = numbers.scored(a, member, "a")
    b, member = numbers.scored(b, member, "b")
    one, two = found(a, member, fpr), found(b, member, fpr)
    _refuse_constant(a[member])
    _refuse_constant(b[member])
    rank = float(spearmanr(a[member], b[member]).statistic)
    return Agreement(fpr, len(one), int(one.sum()), int(two.sum()), int((one & two).sum()), rank)


def _refuse_constant(scores: np.ndarray) -> None:
    if np.ptp(scores) == 0:
        raise ValueError(
            f"all {len(scores)} members score {scores[0]:g}: what is all the same has no ranks"
        )


def traits(of: Case, scores: np.ndarray, names: Sequence[str]) -> dict[str, Interval]:
    """What goes with a high score among the members: `correlates` of them.

    scores: [N], finite. ValueError for others, another number of names, scores that are all the
    same, and less than four members.
    """
    scores = numbers.finite(scores)
    member = numbers.labels(of.member, len(scores))
    if 6 * len(names) != of.own.shape[1]:
        raise ValueError(f"{len(names)} names for {of.own.shape[1] // 6} classes")
    numbers.count(int(member.sum()), "the number of members", 4)
    shares = classes(of.own)[:, 2 * len(names) :]
    return correlates(shares[member], of.losses[1].mean(0)[member], scores[member], names)


def correlates(
    shares: np.ndarray, difficulty: np.ndarray, scores: np.ndarray, names: Sequence[str]
) -> dict[str, Interval]:
    """What goes with a high score: Spearman's rank correlations, largest first.

    With the share of each class (shares: [N,C]) that half of the images have, and with how hard
    the image is to networks that never saw it (difficulty: [N], nats). 95 % intervals by Fisher's
    transformation (Bonett and Wright's variance). ValueError for other shapes, values that are not
    finite, scores that are all the same, and less than four images.

    >>> rng = np.random.default_rng(0)
    >>> shares, difficulty = rng.dirichlet([1, 1], 200), rng.random(200)
    >>> found = correlates(shares, difficulty, difficulty**2, ["road", "car"])
    >>> print(next(iter(found)), found["share of car"].contains(0))
    difficulty: the references' loss True
    """
    scores, difficulty = numbers.finite(scores), numbers.finite(difficulty, "difficulty")
    shares = numbers.finite(shares, "shares", "[N, C]")
    if shares.shape != (len(scores), len(names)) or difficulty.shape != scores.shape:
        raise ValueError(
            f"shares are {list(shares.shape)} and difficulties {list(difficulty.shape)} for "
            f"{len(scores)} scores and {len(names)} classes"
        )
    _refuse_constant(scores)
    values = {"difficulty: the references' loss": difficulty}
    for k, name in enumerate(names):
        if (shares[:, k] > 0).mean() >= 0.5:
            values[f"share of {name}"] = shares[:, k]
    out = {}
    for name, value in values.items():
        out[name] = rank_correlation(value, scores)
    return dict(sorted(out.items(), key=lambda item: -abs(item[1].value)))
