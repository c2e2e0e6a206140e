"""Attacks of other papers: exact values, brute force as a reference, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from segleak_utils import metrics, representations
from segleak_utils.attacks import peers
from segleak_utils.attacks.peers import ImageRecipe

VOID = 255
TINY = ImageRecipe("resnet10t", epochs=4, batch=16, lr=3e-3, select_share=0.25)


# ------------------------------------------------------------------------------ whole images


def test_a_map_is_the_mean_over_squares_of_posterior_and_label():
    posterior = torch.full((1, 2, 2, 4), 0.5)
    posterior[0, :, 0, 0] = torch.tensor([1.0, 0.0])
    masks = torch.tensor([[[0, 1, 1, 1], [0, VOID, 1, 1]]])
    maps = peers.image_maps(posterior, masks, 2)
    assert maps.dtype == torch.uint8 and maps.shape == (1, 4, 1, 2)
    expected = np.array([[(1 + 3 * 0.5) / 4, 0.5], [3 * 0.5 / 4, 0.5], [2 / 4, 0], [1 / 4, 1]])
    np.testing.assert_allclose(maps[0, :, 0].numpy() / 255, expected, atol=0.5 / 255)
    with pytest.raises(ValueError, match=r"pool is 3; expected 1\.\.2"):
        peers.image_maps(posterior, masks, 3)


def toy_maps(n=160):
    """Members have a brighter first channel; nothing else differs."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 200, (n, 3, 40, 40), generator=generator, dtype=torch.uint8)
    member = np.arange(n) % 2 == 0
    maps[member, 0] += 40
    return maps, member


@pytest.mark.slow
def test_an_obvious_difference_is_learned_and_two_runs_are_one():
    maps, member = toy_maps()
    net, history, (scores, aside) = peers.train_image_attacker(TINY, maps, member, seed=3)
    assert len(scores) == len(aside) == 40 and aside.sum() == 20
    assert [h["epoch"] for h in history] == [1, 2, 3, 4]
    best = max(h["select_auc"] for h in history)
    assert best > 0.95
    assert metrics.auc(scores.astype(float), aside).value == pytest.approx(best)
    again = peers.train_image_attacker(TINY, maps, member, seed=3)
    weights, others = net.state_dict(), again[0].state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert again[1] == history and np.array_equal(again[2][0], scores)
    other = peers.train_image_attacker(replace(TINY, epochs=1), maps, member, seed=4)
    assert not np.array_equal(other[2][0], scores)
    # what the net says of the images does not hang on the batch they come in
    alone = peers.image_scores(net, maps, torch.tensor([5]))
    np.testing.assert_allclose(alone, peers.image_scores(net, maps)[5:6], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_labels_at_random_are_not_learned():
    maps, _ = toy_maps()
    maps[:, 0] //= 2
    member = np.random.default_rng(1).permutation(len(maps)) < 80
    _, history, _ = peers.train_image_attacker(TINY, maps, member, seed=0)
    assert history[-1]["select_auc"] < 0.8


def test_too_few_images_or_other_maps_are_refused():
    maps, member = toy_maps(40)
    with pytest.raises(ValueError, match="fewer than one batch"):
        peers.train_image_attacker(replace(TINY, batch=64), maps, member, seed=0)
    with pytest.raises(ValueError, match="40 members and 0 non-members"):
        peers.train_image_attacker(TINY, maps, np.ones(40, bool), seed=0)
    with pytest.raises(ValueError, match="expected uint8"):
        peers.train_image_attacker(TINY, maps.float(), member, seed=0)
    with pytest.raises(ValueError, match="expected uint8"):
        peers.train_image_attacker(TINY, maps, member[:-1], seed=0)


# -------------------------------------------------------------------------------- label-only


def toy_masks(n=3, size=(9, 11), n_classes=4):
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randint(0, n_classes, (n, 1, 3, 3), generator=generator).float()
    masks = torch.nn.functional.interpolate(coarse, size).long()[:, 0]
    masks[torch.rand(masks.shape, generator=generator) < 0.1] = VOID
    return masks


@pytest.mark.parametrize("within", [1, 2])
def test_a_boundary_is_where_a_loop_finds_another_class(within):
    masks = toy_masks().byte()
    found = representations.near_boundary(masks, within)
    expected = torch.zeros_like(masks, dtype=torch.bool)
    for i, row, column in np.ndindex(*masks.shape):
        top, left = max(0, row - within), max(0, column - within)
        window = masks[i, top : row + within + 1, left : column + within + 1]
        other = (window != masks[i, row, column]) & (window != VOID)
        expected[i, row, column] = masks[i, row, column] != VOID and other.any()
    assert torch.equal(found, expected) and found.any() and not found.all()


def test_void_makes_no_boundary():
    masks = torch.zeros(1, 6, 6, dtype=torch.uint8)
    masks[0, 2:4, 2:4] = VOID
    assert not representations.near_boundary(masks).any()


def test_rates_of_wrong_labels_by_hand():
    masks = torch.zeros(1, 1, 10, dtype=torch.uint8)
    masks[0, 0, 6:] = 1
    masks[0, 0, 9] = VOID
    # near the boundary: columns 4, 5 (class 0) and 6, 7 (class 1)
    predicted = masks.clone()
    predicted[0, 0, [0, 5, 6, 7]] = 2
    predicted[0, 0, 9] = 0  # void: neither right nor wrong
    found = peers.label_features(predicted, masks, 3)[0].reshape(3, 6)
    np.testing.assert_allclose(found[0], [1 / 4, 0, 0, 1 / 2, 1, 0])
    np.testing.assert_allclose(found[1], np.array([1, 0, 0, 1, 2, 0]) / 9)
    np.testing.assert_allclose(found[2], np.array([4, 1, 0, 2, 2, 0]) / 9)


def test_the_products_sum_up_to_the_share_of_wrong_pixels():
    masks = toy_masks()
    predicted = (masks + torch.randint(0, 2, masks.shape)) % 4
    found = peers.label_features(predicted.byte(), masks.byte(), 4)[:, 8:16].sum(1)
    kept = [m != VOID for m in masks]
    wrong = [(p != m)[k].double().mean() for p, m, k in zip(predicted, masks, kept, strict=True)]
    np.testing.assert_allclose(found, wrong)


def test_bad_labels_are_refused():
    masks = toy_masks().byte()
    with pytest.raises(ValueError, match="the same"):
        peers.label_features(masks[:, :4], masks, 4)
    with pytest.raises(ValueError, match="label 3"):
        peers.label_features(masks, masks, 3)
    with pytest.raises(ValueError, match="labelled pixel"):
        peers.label_features(masks, torch.full_like(masks, VOID), 4)


# ----------------------------------------------------------------------------- predictability


def test_predictability_is_what_a_ridge_of_scikit_learn_finds_for_each_image():
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(3, 6, 5, 8, generator=generator)
    targets = torch.rand(3, 4, 5, 8, generator=generator)
    weights = torch.rand(3, 5, 8, generator=generator)
    weights[:, 0, :3] = 0
    found = peers.predictability_errors(
        features, targets, weights, penalty=0.7, folds=4, seed=9
    ).numpy()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(9)).numpy()
    for i in range(3):
        x, y = (part[i].flatten(1).double().T.numpy() for part in (features, targets))
        w, total = weights[i].flatten().double().numpy(), 0.0
        for held_out in np.array_split(order, 4):
            rest = np.setdiff1d(order, held_out)
            fit = Ridge(0.7).fit(x[rest], y[rest], sample_weight=w[rest])
            error = np.abs(fit.predict(x[held_out]) - y[held_out]).mean(1)
            total += (error * w[held_out]).sum()
        assert found[i] == pytest.approx(total / w.sum(), rel=1e-6)


def test_a_label_that_follows_from_the_features_is_predictable():
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(2, 5, 8, 8, generator=generator)
    noise = torch.rand(2, 1, 8, 8, generator=generator)
    targets = torch.cat([features[:1, :1] * 2 + 3, noise[1:]])
    easy, hard = peers.predictability_errors(features, targets, torch.ones(2, 8, 8), penalty=1e-6)
    assert easy < 1e-6 and hard > 0.1


def test_bad_input_gives_no_predictability():
    features, targets, weights = torch.ones(2, 3, 4, 4), torch.ones(2, 2, 4, 4), torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match="shapes"):
        peers.predictability_errors(features, targets[:, :, :2], weights)
    with pytest.raises(ValueError, match="all void"):
        peers.predictability_errors(
            features, targets, weights * torch.tensor([0, 1])[:, None, None]
        )
    with pytest.raises(ValueError, match="NaN"):
        peers.predictability_errors(features * torch.nan, targets, weights)
    with pytest.raises(ValueError, match="penalty is 0; expected a number above 0"):
        peers.predictability_errors(features, targets, weights, penalty=0)


def test_the_weight_of_the_predictability_is_found():
    rng = np.random.default_rng(0)
    member, difficulty = np.arange(600) < 300, rng.random(600)
    losses = 1 + 3 * difficulty - 0.2 * member + 0.05 * rng.standard_normal(600)
    alpha = peers.best_alpha(losses, difficulty, member)
    assert alpha == pytest.approx(3, rel=0.2)
    nothing = peers.best_alpha(0.2 - 0.2 * member, difficulty, member)
    assert nothing == 0  # of equally good ones, the one that corrects least


@pytest.mark.parametrize(
    ("losses", "errors", "found"),
    [
        (np.ones(7), np.ones(8), "7 losses and 8 errors; expected one of each"),
        (np.ones(8), np.ones(1), "8 losses and 1 errors"),
        (-np.ones(8), np.ones(8), "losses go down to -1; expected all >= 0"),
        (np.ones(8), np.full(8, np.nan), "errors holds 8 NaN"),
        (np.ones((8, 1)), np.ones(8), "losses must be real numbers"),
    ],
)
def test_errors_go_with_their_losses(losses, errors, found):
    member, good = np.arange(8) < 4, (np.arange(8.0), np.ones(8))
    for ask in (
        lambda: peers.best_alpha(losses, errors, member),
        lambda: peers.predictability_attack((losses, errors), good, member),
        lambda: peers.predictability_attack(good, (losses, errors), member),
    ):
        with pytest.raises(ValueError, match=found):
            ask()


@pytest.mark.parametrize(
    "bad",
    [
        {"pool": 0},
        {"epochs": 1.5},
        {"batch": True},
        {"lr": 0},
        {"lr": np.nan},
        {"weight_decay": -1},
        {"select_share": 1},
        {"select_share": np.nan},
    ],
    ids=str,
)
def test_an_image_recipe_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match=rf"{next(iter(bad))} is"):
        peers.ImageRecipe(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"penalty": np.nan},
        {"penalty": -1},
        {"folds": 1},
        {"folds": 2.5},
        {"folds": 17},
        {"seed": None},
        {"seed": 0.5},
    ],
    ids=str,
)
def test_a_prediction_that_cannot_be_fitted_is_refused(bad):
    shown = torch.ones(2, 3, 4, 4), torch.ones(2, 2, 4, 4), torch.ones(2, 4, 4)
    with pytest.raises(ValueError, match=rf"{next(iter(bad))} is"):
        peers.predictability_errors(*shown, **bad)


def test_predictions_that_are_no_labels_are_refused():
    masks = toy_masks().byte()
    for bad in (masks.float(), masks == 0):
        with pytest.raises(ValueError, match="must be an integer tensor"):
            peers.label_features(bad, masks, 4)


def test_labels_of_maps_are_boolean():
    maps, member = toy_maps(40)
    with pytest.raises(ValueError, match="member must be boolean, found int64"):
        peers.train_image_attacker(TINY, maps, member.astype(int), seed=0)
