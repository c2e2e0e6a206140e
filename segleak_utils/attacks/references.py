"""Attacks that know how hard an image is: K networks of the attacker's, as shadows and references.

An attacker trains K networks of the victim's city. Each is a shadow to learn from, and a reference
for whatever it was not trained on. What a network says of an image is kept as one number a zone,
each class inside and near its boundaries: all attacks on losses are made of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline

from segleak_utils import metrics
from segleak_utils.attacks import calibration, regressions
from segleak_utils.attacks.contests import GLOBAL, LOGISTIC, Attack
from segleak_utils.attacks.outputs import Outputs
from segleak_utils.checks import numbers
from segleak_utils.data import VOID
from segleak_utils.representations import near_boundary

DIFFERENCE = "global loss minus references'"
LIRA = "LiRA, offline, fixed variance"
LIRA_EACH = "LiRA, offline, a variance an image"
RMIA = "RMIA"
PER_CLASS = "calibrated per-class regression"
ZONES = "calibrated regression, classes and boundaries"
CALIBRATED = "calibrated structured regression"
# Their thresholds, at least, come from shadows beside references.
LEARNED = (DIFFERENCE, LIRA, LIRA_EACH, RMIA, PER_CLASS, ZONES, CALIBRATED)
RMIA_A = (0.0, 0.25, 0.5, 0.75, 1.0)


def zones(shown: Outputs) -> Outputs:
    """The outputs with each class in two: C..2C-1 are what lies within 2 pixels of a boundary.

    Posteriors, which are of whole classes, are left out.
    ValueError for more than 127 classes, whose zones do not fit beside void (255).

    >>> posteriors = torch.full((1, 2, 1, 6), 0.5)
    >>> masks = torch.tensor([[[0, 0, 0, 0, 1, 255]]])
    >>> zones(Outputs.of(posteriors, masks, np.array([True]))).masks  # 2 and 3: near the boundary
    tensor([[[  0,   0,   2,   2,   3, 255]]], dtype=torch.uint8)
    """
    if 2 * shown.n_classes > VOID:
        raise ValueError(f"{shown.n_classes} classes; expected at most {VOID // 2}, to be halved")
    masks = shown.masks
    near = torch.cat([near_boundary(part) for part in masks.split(64)]) & (masks != VOID)
    halved = {"masks": masks + shown.n_classes * near.byte(), "n_classes": 2 * shown.n_classes}
    return replace(shown, **halved, posteriors=None)


@dataclass(frozen=True)
class Case:
    """What is known of a network's scenes: its own losses by zone, and those of references.

    own: float64 [N,6C], `attacks.class_features` of the `zones`; references: [K,N,6C]; member:
    bool [N]. ValueError for what these are not, and for the network among its own references.
    """

    own: np.ndarray
    references: np.ndarray
    member: np.ndarray

    def __post_init__(self) -> None:
        """Raise ValueError unless all is finite and about the same images, of other networks.

        Shares of the zones that differ betray other images, or another order of them.
        """
        own = numbers.finite(self.own, "own", "[N, 6C]")
        theirs = numbers.finite(self.references, "references", "[K, N, 6C]")
        numbers.labels(self.member, len(own), of="own")
        if theirs.shape[1:] != own.shape or not len(theirs) or own.shape[1] % 6 or not own.size:
            found = f"{list(own.shape)} and {list(theirs.shape)}"
            raise ValueError(f"own and references are {found}; expected [N, 6C] and [K, N, 6C]")
        n = own.shape[1] // 3
        if not np.allclose(theirs[..., 2 * n :], own[:, 2 * n :], atol=1e-6):
            raise ValueError(
                "own and references were asked about different images, or in another order: their "
                "shares of the zones differ"
            )
        if own[:, : 2 * n].any():
            calibration.refuse_itself(np.array_equal(own, one) for one in theirs)

    @cached_property
    def losses(self) -> tuple[np.ndarray, np.ndarray]:
        """Global losses, [N] and [K,N]: the zones' losses times their shares, added up."""
        n = self.own.shape[-1] // 3
        return tuple(of[..., n : 2 * n].sum(-1) for of in (self.own, self.references))


def case(shown: Outputs, references: Sequence[Outputs]) -> Case:
    """What a network and its references said of the same images, brought together.

    ValueError without a reference, for one that was asked about other images (other masks), or one
    that is the network itself (the same losses).

    >>> member, masks = np.array([True]), torch.tensor([[[0, 1]]])
    >>> def said(p):
    ...     posterior = torch.tensor([p, 1 - p]).view(1, 2, 1, 1).repeat(1, 1, 1, 2)
    ...     return Outputs.of(posterior, masks, member)
    >>> own, theirs = case(said(0.5), [said(0.25), said(0.75)]).losses
    >>> own.round(2), theirs.round(2)  # log 2; and (log 4 + log 4/3) / 2 for both references
    (array([0.69]), array([[0.84],
           [0.84]]))
    """
    if not references:
        raise ValueError("no reference: the attack compares a network with at least one")
    for reference in references:
        calibration.check_alike(shown, reference)
    own, *theirs = (of_zones(of) for of in (shown, *references))
    return Case(own, np.stack(theirs), shown.member)


def averaged(questions: Sequence[Case]) -> Case:
    """Several questions about the same images as one: the means of their losses.

    Each question is an image, or its flip, or another view of it (Yu et al., "How does data
    augmentation affect privacy in machine learning?", AAAI 2021), put to the network and to its
    references alike. ValueError without a question, or for questions about other images: members,
    or shares of the zones, that differ.
    """
    if not questions:
        raise ValueError("no question: expected at least one")
    first, *others = questions
    if not others:
        return first
    n = first.own.shape[1] // 3 * 2
    for other in others:
        alike = first.own.shape == other.own.shape and np.array_equal(first.member, other.member)
        if not alike or not np.allclose(first.own[:, n:], other.own[:, n:], atol=1e-6):
            raise ValueError("questions about different images: members or shares differ")
    own, theirs = (np.mean([getattr(q, part) for q in questions], 0) for part in
                   ("own", "references"))  # fmt: skip
    return Case(own, theirs, first.member)


def thinned(of: Case) -> list[Case]:
    """The same images with one reference less, each of the K left out in turn; K cases.

    A shadow is learned from beside K - 1 references: so few the victim has here, too. ValueError
    for a single reference.
    """
    if len(of.references) < 2:
        raise ValueError("one reference: none would be left")
    return [
        replace(of, references=np.delete(of.references, k, 0)) for k in range(len(of.references))
    ]


def of_zones(shown: Outputs) -> np.ndarray:
    """What a network said by zone: float64 [N,6C], `attacks.class_features` of the `zones`.

    Of any number of classes: where zones have no room beside void, both kinds are looked at apart.
    """
    if 2 * shown.n_classes <= VOID:
        return regressions.class_features(zones(shown))
    near = torch.cat([near_boundary(part) for part in shown.masks.split(64)])
    labelled = (shown.masks != VOID).flatten(1).sum(1).double()
    parts = []
    for part in (~near, near):
        masks = shown.masks.masked_fill(~part, VOID)
        pixels = (masks != VOID).flatten(1).sum(1).double()
        some = np.flatnonzero(pixels.numpy())
        found = np.zeros((len(shown), 3 * shown.n_classes))
        if len(some):
            there = replace(shown, masks=masks, posteriors=None).subset(some)
            found[some] = regressions.class_features(there)
        mean, total, share = np.split(found, 3, 1)
        of_all = (pixels / labelled).numpy()[:, None]
        parts.append((mean, total * of_all, share * of_all))
    return np.hstack([part for kind in zip(*parts, strict=True) for part in kind])


def classes(features: np.ndarray) -> np.ndarray:
    """Features of zones [...,6C] brought back to those of classes [...,3C].

    >>> classes(np.array([1.0, 3.0, 0.75, 0.75, 0.75, 0.25]))  # of both zones: mean, sum, share
    array([1.5, 1.5, 1. ])
    """
    _, total, share = np.split(features, 3, -1)
    total, share = (part[..., : part.shape[-1] // 2] + part[..., part.shape[-1] // 2 :]
                    for part in (total, share))  # fmt: skip
    mean = np.divide(total, share, out=np.zeros_like(total), where=share > 0)
    return np.concatenate([mean, total, share], -1)


def reference_attacks(of: Case, learned: Sequence[Case]) -> list[Attack]:
    """All attacks that know how hard an image is; learning and thresholds are the shadows'.

    of: the victim's images; learned: those of each shadow, beside references of its own.
    ValueError without a shadow.
    """
    if not learned:
        raise ValueError("no shadow to learn from; at least one is needed")
    found = [
        by_loss(name, score, of, learned) for name, score in scores(len(of.references)).items()
    ]
    found.append(rmia(of, learned))
    for name, features in FEATURES.items():
        found.append(regression(name, features, of, learned)[0])
    return found


Score = Callable[[Case], np.ndarray]


def scores(k: int) -> dict[str, Score]:
    """The attacks on global losses that K references allow."""
    found = {DIFFERENCE: lambda of: of.losses[1].mean(0) - of.losses[0], LIRA: _lira}
    return found | ({LIRA_EACH: lambda of: _lira(of, fixed=False)} if k > 2 else {})


def _lira(of: Case, fixed: bool = True) -> np.ndarray:
    own, out = (calibration.confidence(loss) for loss in of.losses)
    return calibration.lira_offline(own, out, fixed=fixed or len(out) < 2)


def by_loss(name: str, score: Score, of: Case, learned: Sequence[Case]) -> Attack:
    """An attack that learns nothing but its threshold."""
    own = np.concatenate([score(shadow) for shadow in learned])
    member = np.concatenate([shadow.member for shadow in learned])
    threshold = metrics.best_threshold(own, member)
    seen = "mean loss" if name == GLOBAL else "mean loss + references'"
    return Attack(name, seen, score(of), threshold)


def rmia(of: Case, learned: Sequence[Case]) -> Attack:
    """RMIA's likelihood ratio, its `a` chosen on the shadows.

    The population that it is compared with in the paper does not change the order.
    """

    def score(known: Case, a: float) -> np.ndarray:
        own, out = known.losses
        return calibration.likelihood_ratio(-own, -out, a=a)

    member = np.concatenate([shadow.member for shadow in learned])
    on_shadows = {a: np.concatenate([score(c, a) for c in learned]) for a in RMIA_A}
    best = max(RMIA_A, key=lambda a: metrics.auc(on_shadows[a], member).value)
    threshold = metrics.best_threshold(on_shadows[best], member)
    return Attack(RMIA, "mean loss + references'", score(of, best), threshold)


def plain_features(of: Case) -> np.ndarray:
    """Of the victim alone: `attacks.class_features`."""
    return classes(of.own)


def class_features(of: Case) -> np.ndarray:
    """`calibration.calibrated_features` beside the references' mean, of classes."""
    return calibration.beside(classes(of.own), classes(of.references.mean(0)))


def zone_features(of: Case) -> np.ndarray:
    """`calibration.calibrated_features` beside the references' mean, of zones."""
    return calibration.beside(of.own, of.references.mean(0))


def image_features(of: Case) -> np.ndarray:
    """Of the whole image: loss and confidence of the victim, and what they gain on references."""
    own, theirs = of.losses
    sure, others = calibration.confidence(own), calibration.confidence(theirs)
    return np.stack([own, theirs.mean(0) - own, sure, sure - others.mean(0)], 1)


def structured_features(of: Case) -> np.ndarray:
    """`zone_features` and `image_features`: a sum over zones cannot make a confidence."""
    return np.hstack([zone_features(of), image_features(of)])


def scaled_features(of: Case) -> np.ndarray:
    """`zone_features`, and each class's difference in deviations of the references, too."""
    own, theirs = (classes(part)[..., : of.own.shape[1] // 6] for part in (of.own, of.references))
    deviation = theirs.std(0, ddof=1) + 0.02  # a class of few pixels may have none
    return np.hstack([zone_features(of), np.clip((theirs.mean(0) - own) / deviation, -5, 5)])


FEATURES = {
    LOGISTIC: plain_features,
    PER_CLASS: class_features,
    ZONES: zone_features,
    CALIBRATED: structured_features,
}


def regression(
    name: str, features: Score, of: Case, learned: Sequence[Case]
) -> tuple[Attack, Pipeline]:
    """A logistic regression on the shadows' features, and what it says of the victim's."""
    rows = np.concatenate([features(shadow) for shadow in learned])
    member = np.concatenate([shadow.member for shadow in learned])
    model = regressions.logistic_attack(rows, member)
    # out of fold, shadow by shadow where there are enough of them
    shadow = np.repeat(np.arange(len(learned)), [len(c.member) for c in learned])
    groups = shadow if len(learned) >= 4 else np.arange(len(member))
    folds = GroupKFold(min(5, len(np.unique(groups))))
    own = cross_val_predict(
        model, rows, member, groups=groups, cv=folds, method="decision_function"
    )
    threshold = metrics.best_threshold(own, member)
    said = model.decision_function(features(of))
    seen = "class losses + shares" if name == LOGISTIC else "class losses + references'"
    return Attack(name, seen, said, threshold), model
