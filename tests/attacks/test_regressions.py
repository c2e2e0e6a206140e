"""The bars: global loss, class features, blind features, the regression and its stored form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from toy_outputs import VOID, C, outputs_of, scenes_of

from segleak_utils.attacks import (
    LinearAttack,
    blind_features,
    class_features,
    global_loss_scores,
    logistic_attack,
)
from segleak_utils.victims import read_weights, save_weights

# ---- the bars to be passed -----------------------------------------------------------------------


def test_global_loss_scores_are_minus_the_mean_over_labelled_pixels():
    shown = outputs_of(70)  # more than one batch
    loss, masks = shown.loss_maps[:, 0].double().numpy(), shown.masks.numpy()
    expected = [-one[mask != VOID].mean() for one, mask in zip(loss, masks, strict=True)]
    np.testing.assert_allclose(global_loss_scores(shown), expected, rtol=1e-6)


def test_class_features_are_mean_losses_their_sums_and_shares():
    shown = outputs_of(70)
    shown.masks[0][shown.masks[0] == 2] = 1  # class 2 is absent from image 0
    found = class_features(shown)
    assert found.shape == (70, 3 * C) and found.dtype == np.float64
    loss, masks = shown.loss_maps[:, 0].double().numpy(), shown.masks.numpy()
    for i in (0, 69):
        for c in range(C):
            at = masks[i] == c
            assert found[i, c] == pytest.approx(loss[i][at].mean() if at.any() else 0, rel=1e-5)
            share = at.sum() / (masks[i] != VOID).sum()
            assert found[i, 2 * C + c] == pytest.approx(share, rel=1e-5)
            assert found[i, C + c] == pytest.approx(found[i, c] * share, rel=1e-5)
    assert found[0, 2] == found[0, C + 2] == found[0, 2 * C + 2] == 0


def test_blind_features_are_shares_colours_and_the_gradient():
    scenes = scenes_of(3)
    found = blind_features(scenes)
    assert found.shape == (3, C + 7) and found.dtype == np.float64
    for row, (image, mask) in zip(found, scenes, strict=True):
        image, mask = image.double().numpy(), mask.numpy()
        shares = [(mask == c).sum() / (mask != VOID).sum() for c in range(C)]
        gradient = np.abs(np.diff(image, axis=-1)).mean()
        colours = [*image.mean((1, 2)), *image.std((1, 2), ddof=1), gradient]
        np.testing.assert_allclose(row, [*shares, *colours], rtol=1e-4)


def test_logistic_regression_finds_a_feature_and_refuses_nan():
    rng = np.random.default_rng(0)
    member = np.arange(200) % 2 == 0
    features = rng.normal(0, 1, (200, 5))
    features[:, 3] += 2 * member
    model = logistic_attack(features, member)
    assert roc_auc_score(member, model.decision_function(features)) > 0.85
    for bad in (np.nan, np.inf):
        features[7, 2] = bad
        with pytest.raises(ValueError, match="features holds 1 NaN or infinite"):
            logistic_attack(features, member)


def fitted_attack(n_features=5, seed=0):
    rng = np.random.default_rng(seed)
    member = np.arange(200) % 2 == 0
    features = rng.normal(3, 10, (200, n_features))
    features[:, 3] += 9 * member
    features[:, 1] = 7  # a class that is never there: no deviation to divide by
    return logistic_attack(features, member), features


def test_a_linear_attack_scores_as_the_regression_it_was_made_of():
    fitted, features = fitted_attack()
    found = LinearAttack.of(fitted).scores(features)
    assert found.shape == (200,) and found.dtype == np.float64
    np.testing.assert_allclose(found, fitted.decision_function(features), rtol=1e-9, atol=1e-12)
    narrow = LinearAttack.of(fitted).scores(features.astype(np.float32))
    np.testing.assert_allclose(narrow, found, atol=1e-5)
    assert len(LinearAttack.of(fitted).scores(features[:0])) == 0


def test_a_linear_attack_worked_by_hand():
    attack = LinearAttack(2)
    attack.mean += torch.tensor([1.0, 2.0])
    attack.scale += torch.tensor([2.0, 4.0])
    attack.weight += torch.tensor([3.0, -1.0])
    attack.bias += 0.5
    features = np.array([[1, 2], [3, 2], [1, 6]])
    assert attack.scores(features).tolist() == [0.5, 3.5, -0.5]


def test_a_linear_attack_survives_being_stored(tmp_path):
    fitted, features = fitted_attack()
    attack, path = LinearAttack.of(fitted), tmp_path / "attack.safetensors"
    save_weights(attack, path, {"n_features": 5}, torch.float64)
    again = LinearAttack(5)
    state, meta = read_weights(path)
    again.load_state_dict(state)
    assert meta == {"n_features": 5} and set(state) == {"mean", "scale", "weight", "bias"}
    # weights are read as float32
    np.testing.assert_allclose(again.scores(features), attack.scores(features), atol=1e-5)
    with pytest.raises(RuntimeError, match="size mismatch"):
        LinearAttack(4).load_state_dict(state)


def test_features_of_another_number_are_refused_by_a_linear_attack():
    fitted, features = fitted_attack()
    with pytest.raises((RuntimeError, ValueError)):
        LinearAttack.of(fitted).scores(features[:, :4])


@pytest.mark.parametrize(
    "labels",
    [["member", "other"] * 10, [1, 2] * 10, [-1, 1] * 10, [True, False] * 9],
    ids=["words", "1 and 2", "-1 and 1", "too few"],
)
def test_labels_that_are_not_who_is_a_member_are_refused(labels):
    with pytest.raises(ValueError, match=r"member must be boolean|20 entries but member is \[18\]"):
        logistic_attack(np.zeros((20, 2)), np.array(labels))


@pytest.mark.parametrize(
    ("features", "found"),
    [
        (np.zeros(20), r"features must be real numbers \[n, k\], found float64 \[20\]"),
        (np.zeros((20, 2, 1)), r"found float64 \[20, 2, 1\]"),
        (np.zeros((20, 0)), "of 0 features"),
        (np.zeros((19, 2)), "19 entries but member is"),
        (np.ma.array(np.zeros((20, 2)), mask=np.eye(20, 2)), "masked array"),
        (np.zeros((20, 2), bool), "found bool"),
    ],
)
def test_features_that_are_none_are_refused(features, found):
    with pytest.raises(ValueError, match=found):
        logistic_attack(features, np.arange(20) < 10)


def test_less_than_a_fold_of_a_kind_is_refused():
    for k in (0, 4, 16, 20):
        with pytest.raises(ValueError, match=f"{k} members and {20 - k} non-members .* at least 5"):
            logistic_attack(np.arange(40.0).reshape(20, 2), np.arange(20) < k)


@pytest.mark.parametrize("bad", [0, 1.5, True])
def test_a_linear_attack_has_a_number_of_features(bad):
    with pytest.raises(ValueError, match="n_features is"):
        LinearAttack(bad)


def test_a_linear_attack_asks_for_its_own_features():
    fitted, features = fitted_attack()
    attack, k = LinearAttack.of(fitted), features.shape[1]
    for other in (features[:, :1], np.hstack([features, features])):
        with pytest.raises(ValueError, match=rf"expected \[N, {k}\], those that the attack was"):
            attack.scores(other)
    hole = features.copy()
    hole[3, 0] = np.nan
    with pytest.raises(ValueError, match=r"features holds 1 NaN .* at index \[3, 0\]"):
        attack.scores(hole)
    with pytest.raises(ValueError, match="must be real numbers"):
        attack.scores(features[0])
