"""The blended ensemble: what it is made of, that it finds a leak, and none where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold
from toy_networks import toy_case

from segleak_utils import attacks, metrics
from segleak_utils.attacks import ensembles, references, regressions, variances


@pytest.fixture(scope="module")
def learned():
    return [toy_case(60, seed, k=2, leak=0.2) for seed in (1, 2)]


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setitem(ensembles.TREES, "max_iter", 8)


def test_it_is_the_mean_of_a_regression_and_of_trees_in_deviations(learned):
    """By hand, model by model and fold by fold."""
    prior = variances.prior_of(learned)
    rows = np.concatenate([ensembles.features(of, prior) for of in learned])
    member = np.concatenate([of.member for of in learned])
    of = toy_case(60, 3, k=2, leak=0.2)
    seen = ensembles.features(of, prior)
    trees = [
        lambda s=s: HistGradientBoostingClassifier(**ensembles.TREES, random_state=s)
        for s in range(5)
    ]

    def fitted(make, chosen):
        if make is None:
            return regressions.logistic_attack(rows[chosen], member[chosen])
        return make().fit(rows[chosen], member[chosen])

    everything, linear, tree = np.arange(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
    for k, (learn, rest) in enumerate(GroupKFold(5).split(rows, member, everything)):
        linear[rest] = fitted(None, learn).decision_function(rows[rest])
        tree[rest] = fitted(trees[k], learn).decision_function(rows[rest])
    scores = [fitted(make, everything).decision_function(seen) for make in (None, *trees)]
    found = attacks.ensemble("it", of, learned)
    by_hand = (scores[0] / linear.std() + sum(scores[1:]) / 5 / tree.std()) / 2
    np.testing.assert_allclose(found.scores, by_hand, rtol=1e-9)
    threshold = metrics.best_threshold((linear / linear.std() + tree / tree.std()) / 2, member)
    assert found.threshold == pytest.approx(threshold)
    assert metrics.auc(found.scores, of.member).low > 0.5


def test_features_are_the_structured_ones_and_bavaria(learned):
    prior = variances.prior_of(learned)
    found = ensembles.features(learned[0], prior)
    assert np.array_equal(found[:, :-1], references.structured_features(learned[0]))
    assert np.array_equal(found[:, -1], variances.scores(learned[0], prior))


def test_no_leak_is_found_where_there_is_none(learned):
    of = toy_case(200, 4, k=2)
    assert metrics.auc(attacks.ensemble("it", of, learned).scores, of.member).contains(0.5)


def test_shadows_stay_whole_in_folds_where_there_are_enough(learned):
    assert np.array_equal(ensembles.groups_of(learned), np.arange(120))
    assert np.array_equal(ensembles.groups_of(learned * 2), np.arange(4).repeat(60))


def test_trees_without_a_split_leave_the_order_to_the_regression():
    rng, member = np.random.default_rng(0), np.arange(24) < 12
    rows = rng.normal(size=(24, 3)) + member[:, None]
    blend, own = ensembles.fit(rows, member, np.arange(24))
    assert np.isfinite(own).all()
    linear = regressions.logistic_attack(rows, member).decision_function(rows)
    assert np.array_equal(np.argsort(blend.scores(rows)), np.argsort(linear))


def test_bad_input_is_named(learned):
    with pytest.raises(ValueError, match="no shadow to learn from"):
        attacks.ensemble("it", learned[0], [])
    rows, member = np.ones((20, 3)), np.arange(20) < 10
    with pytest.raises(ValueError, match="1 group of images"):
        ensembles.fit(rows, member, np.zeros(20, int))
    rows[3, 1] = np.nan
    with pytest.raises(ValueError, match="features"):
        ensembles.fit(rows, member, np.arange(20))


# ---- several questions, and fewer references -----------------------------------------------------


def test_questions_are_averaged_and_must_be_about_the_same_images():
    first = toy_case(20, 1, k=2)
    second = replace(first, own=first.own * np.repeat([3.0, 3.0, 1.0], first.own.shape[1] // 3))
    found = references.averaged([first, second])
    own, theirs = found.losses
    np.testing.assert_allclose(own, 2 * first.losses[0])
    np.testing.assert_allclose(theirs, first.losses[1])
    assert references.averaged([first]) is first
    with pytest.raises(ValueError, match="different images"):
        references.averaged([first, toy_case(20, 2, k=2)])
    with pytest.raises(ValueError, match="different images"):
        references.averaged([first, replace(second, member=~second.member)])
    with pytest.raises(ValueError, match="no question"):
        references.averaged([])


def test_thinning_leaves_each_reference_out_once():
    of = toy_case(20, 1, k=3)
    found = references.thinned(of)
    assert [len(part.references) for part in found] == [2, 2, 2]
    assert np.array_equal(found[1].references, of.references[[0, 2]])
    assert np.array_equal(found[1].own, of.own)
    with pytest.raises(ValueError, match="none would be left"):
        references.thinned(toy_case(20, 1, k=1))
