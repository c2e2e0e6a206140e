"""White box: the structured regression beside gradients of the head. It needs the weights.

An image that was learned has a small gradient, like a small loss; by class the two are not the
same. Nasr, Shokri and Houmansadr, "Comprehensive privacy analysis of deep learning", IEEE S&P 2019,
have gradients for features; norms by class, beside references', are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import cross_val_predict

from segleak_utils import metrics
from segleak_utils.attacks import regressions
from segleak_utils.attacks.contests import Attack
from segleak_utils.attacks.references import Case, structured_features
from segleak_utils.checks import numbers

WHITE_BOX = "white box: structured regression + gradients of the head"
_LEAST = 1e-6  # a class that is nowhere in an image may have no gradient


@dataclass(frozen=True)
class Opened:
    """A `Case`, and norms of gradients: own [N,1+C], theirs [K,N,1+C] (`victims.gradients`).

    ValueError for other shapes, norms that are not finite, or below 0.
    """

    case: Case
    own: np.ndarray
    theirs: np.ndarray

    def __post_init__(self) -> None:
        own = numbers.finite(self.own, "own norms", "[N, 1+C]")
        theirs = numbers.finite(self.theirs, "the references' norms", "[K, N, 1+C]")
        wanted = self.case.references.shape[:2]
        if own.ndim != 2 or theirs.shape != (wanted[0], *own.shape):
            found = f"{list(own.shape)} and {list(theirs.shape)}"
            raise ValueError(f"norms are {found}; expected [N, 1+C] and [{wanted[0]}, N, 1+C]")
        if len(own) != wanted[1] or min(own.min(), theirs.min()) < 0:
            raise ValueError(f"{len(own)} rows of norms >= 0; expected {wanted[1]}, as the case")


def features(of: Opened) -> NDArray[np.float64]:
    """`references.structured_features`, log norms, and what they gain on references: [N,F].

    >>> np.log(0.5 + _LEAST) < 0  # norms are compared as ratios
    np.True_
    """
    own, theirs = np.log(of.own + _LEAST), np.log(of.theirs + _LEAST)
    return np.hstack([structured_features(of.case), own, theirs.mean(0) - own])


def white_box(of: Opened, learned: Sequence[Opened]) -> Attack:
    """A logistic regression on the shadows' `features`, and what it says of the victim's images.

    ValueError without a shadow.
    """
    if not learned:
        raise ValueError("no shadow to learn from; at least one is needed")
    rows = np.concatenate([features(shadow) for shadow in learned])
    member = np.concatenate([shadow.case.member for shadow in learned])
    model = regressions.logistic_attack(rows, member)
    own = cross_val_predict(model, rows, member, cv=regressions.FOLDS, method="decision_function")
    threshold = metrics.best_threshold(own, member)
    return Attack(WHITE_BOX, "losses + gradients", model.decision_function(features(of)), threshold)
