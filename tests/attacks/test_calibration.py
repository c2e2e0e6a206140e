"""Calibrated attacks against their formulas, written out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from segleak_utils import attacks
from segleak_utils.attacks import Outputs, calibration

C = 3


def outputs(n: int, seed: int, masks: torch.Tensor | None = None) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    if masks is None:
        masks = torch.randint(0, C, (n, 6, 8), generator=generator, dtype=torch.uint8)
        masks[:, 0] = 255
    loss = torch.rand(n, 1, 6, 8, generator=generator) * (masks != 255)[:, None]
    return Outputs(loss.half(), masks, np.arange(n) < n // 2, C)


def test_the_calibrated_loss_map_is_the_difference_in_deviations():
    loss, references = torch.rand(2, 1, 4, 5), torch.rand(3, 2, 1, 4, 5)
    found = calibration.calibrated_loss_map(loss, references)
    torch.testing.assert_close(found, loss - (references[0] + references[1] + references[2]) / 3)
    scaled = calibration.calibrated_loss_map(loss, references, scaled=True)
    one = references[:, 1, 0, 2, 3].numpy()
    expected = (loss[1, 0, 2, 3].item() - one.mean()) / (one.std(ddof=1) + 1e-3)
    assert scaled[1, 0, 2, 3].item() == pytest.approx(expected, rel=1e-5)
    alone = calibration.calibrated_loss_map(loss, references[:1])
    torch.testing.assert_close(alone, loss - references[0])


def test_void_stays_zero():
    shown, reference = outputs(2, 0), outputs(2, 1)
    reference = replace(reference, loss_maps=reference.loss_maps * (shown.masks != 255)[:, None])
    found = calibration.calibrated_loss_map(shown.loss_maps, reference.loss_maps[None])
    assert not found[:, :, 0].any()


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (3, 2, 1, 4, 6), (0, 2, 1, 4, 5)])
def test_maps_that_do_not_go_together_are_refused(shape):
    with pytest.raises(ValueError, match="expected"):
        calibration.calibrated_loss_map(torch.zeros(2, 1, 4, 5), torch.zeros(shape))


def test_one_reference_has_no_deviation():
    with pytest.raises(ValueError, match="at least two"):
        calibration.calibrated_loss_map(
            torch.zeros(2, 1, 4, 5), torch.zeros(1, 2, 1, 4, 5), scaled=True
        )
    with pytest.raises(ValueError, match="at least two"):
        calibration.lira_offline(np.zeros(3), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="at least two"):
        calibration.lira_online(np.zeros(3), np.zeros((1, 3)), np.zeros((2, 3)))


def test_features_are_differences_shares_and_the_victims_own():
    shown = outputs(4, 0)
    reference = outputs(4, 1, shown.masks)
    found = calibration.calibrated_features(shown, reference)
    own, theirs = (attacks.class_features(of) for of in (shown, reference))
    assert found.shape == (4, 5 * C)
    np.testing.assert_allclose(found[:, :C], own[:, :C] - theirs[:, :C])
    np.testing.assert_allclose(
        found[:, C : 2 * C], found[:, :C] * found[:, 2 * C : 3 * C], rtol=1e-4, atol=1e-6
    )  # class losses are float32
    np.testing.assert_allclose(found[:, 2 * C : 3 * C], own[:, 2 * C :])
    np.testing.assert_allclose(found[:, 3 * C :], own[:, : 2 * C])


def test_references_on_other_images_are_refused():
    for ask in (
        lambda: calibration.calibrated_features(outputs(4, 0), outputs(4, 1)),
        lambda: calibration.difference_scores(outputs(4, 0), [outputs(5, 0)]),
    ):
        with pytest.raises(ValueError, match="different images"):
            ask()


def test_the_difference_is_the_references_mean_loss_minus_the_victims():
    shown = outputs(3, 0)
    references = [outputs(3, k, shown.masks) for k in (1, 2)]
    losses = [of.loss_maps.double().sum((1, 2, 3)) / 40 for of in (shown, *references)]
    expected = (losses[1] + losses[2]) / 2 - losses[0]
    found = calibration.difference_scores(shown, references)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)


def test_the_confidence_is_the_logit_of_the_probability():
    p = np.array([0.01, 0.5, 0.999])
    found = calibration.confidence(-np.log(p))
    np.testing.assert_allclose(found, np.log(p / (1 - p)), rtol=1e-9, atol=1e-9)
    assert np.isfinite(calibration.confidence(np.zeros(1))).all()


def test_offline_lira_orders_as_its_one_sided_test():
    rng = np.random.default_rng(0)
    target, out = rng.normal(size=40), rng.normal(size=(5, 40)) * rng.uniform(0.5, 2, 40)
    test = norm.cdf(target, out.mean(0), out.std(0, ddof=1))  # 1 - Pr[Z > target]
    found = calibration.lira_offline(target, out)
    assert (np.argsort(found) == np.argsort(test)).all()
    fixed = calibration.lira_offline(target, out, fixed=True)
    pooled = math.sqrt(out.var(0, ddof=1).mean())
    np.testing.assert_allclose(fixed, (target - out.mean(0)) / pooled)
    alone = calibration.lira_offline(target, out[:1], fixed=True)
    np.testing.assert_allclose(alone, target - out[0])


@pytest.mark.parametrize("fixed", [False, True])
def test_online_lira_is_the_log_likelihood_ratio(fixed):
    rng = np.random.default_rng(1)
    target, inside, out = rng.normal(size=30), rng.normal(1, 1, (6, 30)), rng.normal(0, 2, (4, 30))
    found = calibration.lira_online(target, inside, out, fixed=fixed)
    sd = [
        np.sqrt(np.full(30, of.var(0, ddof=1).mean())) if fixed else of.std(0, ddof=1)
        for of in (inside, out)
    ]
    expected = norm.logpdf(target, inside.mean(0), sd[0]) - norm.logpdf(target, out.mean(0), sd[1])
    np.testing.assert_allclose(found, expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([0.0, 0.3, 1.0]))
def test_rmia_is_the_share_of_the_population_that_is_beaten(seed, gamma, a):
    rng = np.random.default_rng(seed)
    x, z = (-rng.exponential(size=n) for n in (7, 11))
    out_x, out_z = (-rng.exponential(size=(3, n)) for n in (7, 11))
    found = calibration.rmia(x, out_x, z, out_z, gamma=gamma, a=a)
    for i in range(7):
        p_x = ((1 + a) * np.exp(out_x[:, i]).mean() + 1 - a) / 2
        beaten = 0
        for j in range(11):
            p_z = ((1 + a) * np.exp(out_z[:, j]).mean() + 1 - a) / 2
            beaten += (np.exp(x[i]) / p_x) / (np.exp(z[j]) / p_z) >= gamma
        assert found[i] == pytest.approx(beaten / 11)


@pytest.mark.parametrize(
    "gamma, a, named",
    [(g, 1, "gamma is") for g in (0, -1, np.nan, np.inf, True)]
    + [(1, a, "a is") for a in (-0.1, 1.5, np.nan, np.inf, True)],
)
def test_rmia_refuses_impossible_settings(gamma, a, named):
    with pytest.raises(ValueError, match=named):
        calibration.rmia(*[np.zeros(2), np.zeros((1, 2))] * 2, gamma=gamma, a=a)


def test_confidences_of_another_shape_or_not_finite_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        calibration.lira_offline(np.zeros(3), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="shapes"):
        calibration.lira_offline(np.zeros(3), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="NaN"):
        calibration.lira_offline(np.array([0, np.nan, 0]), np.zeros((2, 3)))


def test_nan_and_infinities_are_no_confidences_whatever_the_test():
    good, many = np.zeros(3), np.array([[0.0] * 3, [1.0] * 3])
    for bad in (np.nan, np.inf, -np.inf):
        hole, holes = np.where(np.arange(3) == 1, bad, good), many.copy()
        holes[1, 2] = bad
        for ask in (
            lambda hole=hole: calibration.lira_offline(hole, many),
            lambda holes=holes: calibration.lira_offline(good, holes),
            lambda hole=hole: calibration.lira_online(hole, many, many),
            lambda holes=holes: calibration.lira_online(good, holes, many),
            lambda holes=holes: calibration.lira_online(good, many, holes),
            lambda hole=hole: calibration.likelihood_ratio(hole, -many),
            lambda holes=holes: calibration.likelihood_ratio(good, -holes),
            lambda holes=holes: calibration.rmia(good, -many, good, -holes),
            lambda hole=hole: calibration.confidence(hole),
        ):
            with pytest.raises(ValueError, match="holds 1 NaN or infinite"):
                ask()


def test_an_empty_population_is_refused():
    with pytest.raises(ValueError, match="shapes"):
        calibration.rmia(np.zeros(2), np.zeros((1, 2)), np.zeros(0), np.zeros((1, 0)))


def test_losses_for_log_probabilities_are_refused_and_the_other_way_round():
    losses = np.array([0.5, 2.0])
    expected = np.log(np.exp(-losses) / np.exp(-2 * losses))
    assert calibration.likelihood_ratio(-losses, -2 * losses[None]) == pytest.approx(expected)
    for target, out in ((losses, -losses[None]), (-losses, losses[None])):
        with pytest.raises(ValueError, match="log-probabilities go up to 2, expected all <= 0"):
            calibration.likelihood_ratio(target, out)
    with pytest.raises(ValueError, match="losses go down to -2, expected all >= 0"):
        calibration.confidence(-losses)
    assert calibration.confidence([np.log(2)]) == pytest.approx(0)


def test_a_victim_is_not_its_own_reference():
    shown, other = outputs(4, 0), outputs(4, 1, outputs(4, 0).masks)
    for ask in (
        lambda: calibration.difference_scores(shown, [other, shown]),
        lambda: calibration.calibrated_features(shown, shown),
        lambda: calibration.calibrated_loss_map(
            shown.loss_maps, torch.stack([other.loss_maps, shown.loss_maps])
        ),
    ):
        with pytest.raises(ValueError, match="the victim cannot be its own reference"):
            ask()
    expected = attacks.global_loss_scores(shown) - attacks.global_loss_scores(other)
    assert calibration.difference_scores(shown, [other]) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="no reference"):
        calibration.difference_scores(shown, [])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_loss_maps_are_finite_and_not_negative(bad):
    loss, theirs = torch.rand(2, 1, 4, 5), torch.rand(3, 2, 1, 4, 5)
    hole, holes = loss.clone(), theirs.clone()
    hole[1, 0, 2, 3] = holes[2, 1, 0, 2, 3] = bad
    for pair in ((hole, theirs), (loss, holes)):
        with pytest.raises(ValueError, match="expected finite floating-point losses >= 0"):
            calibration.calibrated_loss_map(*pair)


def test_the_reference_that_is_the_victim_is_named_by_its_place():
    calibration.refuse_itself([False, False])
    with pytest.raises(ValueError, match="reference 1 has the victim's own losses"):
        calibration.refuse_itself([False, True])
