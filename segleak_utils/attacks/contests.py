"""All attacks on one victim, side by side: scores of the same images, thresholds of the shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import cross_val_predict

from segleak_utils import metrics
from segleak_utils.attacks.outputs import Outputs
from segleak_utils.attacks.patchnets import Representation
from segleak_utils.attacks.regressions import (
    FOLDS,
    class_features,
    global_loss_scores,
    logistic_attack,
)
from segleak_utils.checks import numbers


@dataclass(frozen=True)
class Attack:
    """One attack's result on one victim: a score an image, and the threshold of the shadows.

    scores: float64 [N], higher = member; patch_scores: float32 [N,P] for patch attacks. `rule`:
    where the threshold comes from. ValueError for scores that are not finite [N], a threshold that
    is NaN, or patch scores of other images.
    """

    name: str
    representation: str
    scores: np.ndarray
    threshold: float
    patch_scores: np.ndarray | None = None
    rule: str = "the shadows' threshold"

    def __post_init__(self) -> None:
        named = f"scores of {self.name!r}"
        scores = numbers.finite(self.scores, named)
        numbers.threshold(self.threshold)
        if self.patch_scores is not None:
            patches = numbers.finite(self.patch_scores, f"patch {named}", "[N, P]")
            if len(patches) != len(scores) or not patches.size:
                found = f"{list(patches.shape)} for {len(scores)} images"
                raise ValueError(f"patch {named} are {found}; expected [{len(scores)}, P]")


@dataclass(frozen=True)
class Contest:
    """All attacks on one victim, on the same images; member: bool [N], else ValueError."""

    victim: str
    setting: str
    member: np.ndarray
    attacks: tuple[Attack, ...]

    def __post_init__(self) -> None:
        for attack in self.attacks:
            of = f"{attack.name!r} in {self.victim!r}"
            numbers.labels(self.member, len(attack.scores), of=of)

    def __getitem__(self, name: str) -> Attack:
        for attack in self.attacks:
            if attack.name == name:
                return attack
        known = ", ".join(attack.name for attack in self.attacks)
        raise KeyError(f"no attack {name!r} in this contest; there are: {known}")


BLIND, GLOBAL, LOGISTIC = "blind baseline", "global loss", "per-class logistic regression"


def patch_attack(representation: Representation) -> str:
    """Name of the patch attack on a representation, as the tables have it.

    >>> patch_attack("loss map")
    'patches, loss map'
    """
    return f"patches, {representation}"


def learned(
    name: str, seen: str, of_victim: np.ndarray, of_shadows: np.ndarray, member: np.ndarray
) -> Attack:
    """A logistic regression on features [N,K] of the shadows' images, asked about the victim's."""
    model = logistic_attack(of_shadows, member)
    # out of fold: scores of images the model was fitted on would put the threshold too high
    own = cross_val_predict(model, of_shadows, member, cv=FOLDS, method="decision_function")
    scores = model.decision_function(of_victim)
    return Attack(name, seen, scores, metrics.best_threshold(own, member))


def blind(of_victim: np.ndarray, of_shadows: list[np.ndarray], member: np.ndarray) -> Attack:
    """The blind baseline, from `attacks.blind_features` of the victim's images and each shadow's;
    member: bool, of the shadows' images."""
    rows = np.concatenate(of_shadows)
    return learned(BLIND, "images and masks only", of_victim, rows, member)


def bars_of(
    name: str, setting: str, shown: Outputs, shadows: list[Outputs], looks: list[np.ndarray]
) -> Contest:
    """Blind baseline, global loss and per-class regression, from what victim and shadows showed.

    looks: `attacks.blind_features` of the victim's images, then of each shadow's. ValueError
    without a shadow.
    """
    if not shadows:
        raise ValueError(
            "no shadow to learn from; without one there are scores that learn nothing, such as "
            "attacks.global_loss_scores"
        )
    member = np.concatenate([o.member for o in shadows])
    classes = (
        class_features(shown),
        np.concatenate([class_features(o) for o in shadows]),
    )
    found = [
        blind(looks[0], looks[1:], member),
        learned(LOGISTIC, "class losses + shares", *classes, member),
    ]
    own = np.concatenate([global_loss_scores(o) for o in shadows])
    scores = global_loss_scores(shown).astype(np.float64)
    threshold = metrics.best_threshold(own, member)
    found.insert(1, Attack(GLOBAL, "mean loss", scores, threshold))
    return Contest(name, setting, shown.member, tuple(found))
