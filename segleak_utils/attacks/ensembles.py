"""The blended ensemble: the structured regression beside boosted trees, and BaVarIA for a feature.

A linear model cannot say "low loss on cars, if there are many of them and the references agree";
trees can, but need more images for what is linear. Their mean is better than either. Choices (the
trees, the weights, what is asked) were made on shadows: `beyond --strongest`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from segleak_utils import metrics
from segleak_utils.attacks import regressions, variances
from segleak_utils.attacks.contests import Attack
from segleak_utils.attacks.references import Case, structured_features
from segleak_utils.checks import numbers

ENSEMBLE = "blended ensemble"
TWO_QUESTIONS = "blended ensemble, two questions"
SEEDS = tuple(range(5))
_LEAST_DEVIATION = 1e-3  # of trees that had too few images for a single split
# Few leaves and a few features a split: trees that differ, on some thousand images.
TREES = {
    "max_iter": 100,
    "learning_rate": 0.05,
    "max_leaf_nodes": 4,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "max_features": 0.3,
    "early_stopping": False,
}


def features(of: Case, prior: variances.Prior) -> NDArray[np.float64]:
    """`references.structured_features`, and BaVarIA's score: [N,F]."""
    return np.column_stack([structured_features(of), variances.scores(of, prior)])


class Blend:
    """A logistic regression and boosted trees, fitted on one set of rows.

    Each score is divided by the deviation that such scores have on shadow images which their model
    has not seen (`deviations`, in the order of the models); the trees together count as much as the
    regression.
    """

    def __init__(self, models: Sequence[BaseEstimator], deviations: Sequence[float]) -> None:
        self.models, self.deviations = list(models), np.asarray(deviations, float)

    def scores(self, rows: np.ndarray) -> NDArray[np.float64]:
        """Membership scores [N] of features [N,F]; ValueError for what is not finite."""
        rows = numbers.finite(rows, "features", "[n, k]")
        return blended([_said(model, rows) for model in self.models], self.deviations)


def _said(model: BaseEstimator, rows: np.ndarray) -> NDArray[np.float64]:
    return model.decision_function(rows)


def blended(scores: Sequence[np.ndarray], deviations: Sequence[float]) -> NDArray[np.float64]:
    """The first of the scores [M][N] and the mean of the others, all in deviations: [N].

    >>> blended([[2.0, 4.0], [1.0, 0.0], [3.0, 0.0]], [2.0, 1.0, 1.0])  # (1 + 2) / 2, (2 + 0) / 2
    array([1.5, 1. ])
    """
    linear, *trees = (np.asarray(s) / d for s, d in zip(scores, deviations, strict=True))
    return (linear + np.mean(trees, 0)) / 2


def fit(
    rows: np.ndarray, member: np.ndarray, groups: np.ndarray, seeds: Sequence[int] = SEEDS
) -> tuple[Blend, NDArray[np.float64]]:
    """A `Blend` of features [N,F], and its scores out of fold [N], from which thresholds come.

    groups: int [N], which rows stay together in a fold. ValueError as `regressions.logistic_attack`
    and for one group.
    """
    rows = numbers.finite(rows, "features", "[n, k]")
    member = numbers.labels(member, len(rows), of="features")
    found = len(np.unique(groups))
    if found < 2:
        raise ValueError(f"{found} group of images; expected at least two, for the folds")
    trees = [HistGradientBoostingClassifier(**TREES, random_state=seed) for seed in seeds]

    def fitted(models: Sequence[BaseEstimator], chosen: np.ndarray) -> list[BaseEstimator]:
        linear = regressions.logistic_attack(rows[chosen], member[chosen])
        return [linear, *(clone(tree).fit(rows[chosen], member[chosen]) for tree in models)]

    apart = np.zeros((2, len(rows)))
    folds = GroupKFold(min(regressions.FOLDS, found)).split(rows, member, groups)
    for k, (learn_on, rest) in enumerate(folds):  # trees differ by their seed alone: one a fold
        both = fitted([trees[k % len(trees)]], learn_on)
        apart[:, rest] = [_said(model, rows[rest]) for model in both]
    linear, tree = np.maximum(apart.std(1), _LEAST_DEVIATION)
    blend = Blend(fitted(trees, np.arange(len(rows))), [linear, *[tree] * len(trees)])
    return blend, blended(apart, [linear, tree])


Score = Callable[[Case], NDArray[np.float64]]


def learn(
    learned: Sequence[Case], seen: Callable[[Case, variances.Prior], np.ndarray] = features
) -> tuple[Score, NDArray[np.float64]]:
    """What scores a case, learned on the shadows beside their references; their own out of fold.

    ValueError without a shadow.
    """
    if not learned:
        raise ValueError("no shadow to learn from; at least one is needed")
    prior = variances.prior_of(learned)
    rows = np.concatenate([seen(shadow, prior) for shadow in learned])
    member = np.concatenate([shadow.member for shadow in learned])
    blend, own = fit(rows, member, groups_of(learned))
    return lambda of: blend.scores(seen(of, prior)), own


def ensemble(name: str, of: Case, learned: Sequence[Case]) -> Attack:
    """The attack on one victim, learned on the shadows beside their references.

    A shadow has K - 1 references where the victim has K: `asking.shadow_cases` says what can be
    done about it, and docs/results.md what it changes. ValueError without a shadow.
    """
    score, own = learn(learned)
    threshold = metrics.best_threshold(own, np.concatenate([shadow.member for shadow in learned]))
    return Attack(name, "class losses + references'", score(of), threshold)


def groups_of(learned: Sequence[Case]) -> NDArray[np.int64]:
    """Which images stay together in a fold: those of a shadow, where there are enough shadows."""
    sizes = [len(of.member) for of in learned]
    if len(learned) >= 4:
        return np.repeat(np.arange(len(learned)), sizes)
    return np.arange(sum(sizes))
