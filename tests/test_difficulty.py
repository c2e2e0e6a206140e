"""What K networks know of an image: zones, cases, and the attacks on them, on toy networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from segleak_utils import attacks, calibration, contests, difficulty, experiment, metrics
from segleak_utils.attacks import Outputs
from segleak_utils.difficulty import Case
from segleak_utils.experiment import Plan

C, H, W = 4, 16, 24


def outputs(n: int, seed: int, masks=None) -> Outputs:
    rng = torch.Generator().manual_seed(seed)
    loss = torch.rand(n, 1, H, W, generator=rng) * 3
    if masks is None:
        masks = torch.randint(0, C, (n, H // 4, W // 4), generator=rng).byte()
        masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
        masks[:, :2] = 255
    loss[(masks == 255)[:, None]] = 0
    return Outputs(loss.half(), masks, np.arange(n) < n // 2, C)


def told(shown: Outputs) -> np.ndarray:
    return attacks.class_features(difficulty.zones(shown))


def toy_case(n: int, seed: int, k: int, leak: float = 0.0) -> Case:
    """A case whose members have a lower loss by `leak`; references do not know them."""
    shown = outputs(n, seed)
    theirs = [outputs(n, seed + 100 + j, shown.masks) for j in range(k)]
    member = torch.from_numpy(shown.member)[:, None, None, None]
    loss = torch.where(member, shown.loss_maps * (1 - leak), shown.loss_maps)
    own = told(replace(shown, loss_maps=loss))
    return Case(own, np.stack([told(of) for of in theirs]), shown.member)


def test_zones_split_each_class_at_its_boundaries():
    shown = outputs(3, 0)
    split = difficulty.zones(shown)
    assert split.n_classes == 2 * C
    labelled = shown.masks != 255
    assert torch.equal(split.masks[labelled] % C, shown.masks[labelled])
    assert (split.masks[~labelled] == 255).all()
    for n, y, x in ((0, 4, 5), (1, 9, 11), (2, 15, 0)):
        window = shown.masks[n, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        near = len({*window.flatten().tolist()} - {255}) > 1
        assert (split.masks[n, y, x] >= C) == near


def test_more_classes_than_a_byte_has_room_for_are_refused():
    with pytest.raises(ValueError, match="128 classes; expected at most 127"):
        difficulty.zones(replace(outputs(1, 0), n_classes=128))


def test_classes_are_brought_back_from_zones():
    shown = outputs(5, 1)
    found = difficulty.classes(told(shown))
    np.testing.assert_allclose(found, attacks.class_features(shown), atol=2e-6)
    both = np.stack([told(shown)] * 2)
    np.testing.assert_allclose(difficulty.classes(both)[1], found)


def test_the_losses_of_a_case_are_global_losses():
    shown = outputs(4, 2)
    theirs = [outputs(4, 3, shown.masks), outputs(4, 4, shown.masks)]
    of = Case(told(shown), np.stack([told(o) for o in theirs]), shown.member)
    own, out = of.losses
    np.testing.assert_allclose(own, -attacks.global_loss_scores(shown), rtol=1e-5)
    assert out.shape == (2, 4)
    np.testing.assert_allclose(
        difficulty.scores(2)[difficulty.DIFFERENCE](of),
        calibration.difference_scores(shown, theirs),
        atol=1e-5,
    )


def test_one_deviation_an_image_takes_more_than_two_references():
    assert difficulty.LIRA_EACH not in difficulty.scores(2)
    assert difficulty.LIRA_EACH in difficulty.scores(3)
    of = toy_case(6, 0, 1)
    own, out = (calibration.confidence(loss) for loss in of.losses)
    np.testing.assert_allclose(difficulty.scores(1)[difficulty.LIRA](of), own - out[0])


def test_a_regression_finds_a_leak_and_nothing_where_there_is_none():
    learned = [toy_case(200, k, 2, 0.1) for k in (1, 2)]
    for leak, low, high in ((0.1, 0.9, 1.0), (0.0, 0.35, 0.65)):
        of = toy_case(200, 5, 2, leak)
        attack, model = difficulty.regression("toy", difficulty.class_features, of, learned)
        assert low <= metrics.auc(attack.scores, of.member).value <= high
        rows = difficulty.class_features(of)
        np.testing.assert_array_equal(model.decision_function(rows), attack.scores)
    own = metrics.balanced_accuracy_at(
        learned[0].own[:, 2 * C :].sum(1) * 0 + attack.scores, of.member, attack.threshold
    )
    assert own.value < 0.65  # nothing leaks, so the shadows' threshold gains nothing


def test_features_beside_features_of_other_images_are_refused():
    own, other = told(outputs(4, 0)), told(outputs(4, 9))
    with pytest.raises(ValueError, match="different images"):
        calibration.beside(own, other)
    with pytest.raises(ValueError, match=r"expected both \[N,3C\]"):
        calibration.beside(own, other[:3])


@pytest.fixture
def plan(contest_plan) -> Plan:
    return contest_plan


def test_a_reference_that_was_trained_on_the_images_is_refused(plan):
    victim = experiment.network(plan, "victim-0")
    again = replace(victim, name="reference")
    for ask in (difficulty.asked, lambda p, r, v: difficulty.case(p, v, [r])):
        with pytest.raises(ValueError, match="share"):
            ask(plan, again, victim)
    with pytest.raises(ValueError, match="no reference for victim-0"):
        difficulty.case(plan, victim, [])


def test_there_are_eight_networks_of_the_city_and_two_of_the_other(plan):
    with pytest.raises(ValueError, match=r"9 networks, dependent: expected 1\.\.8"):
        difficulty.networks(plan, "dependent", 9)
    with pytest.raises(ValueError, match=r"expected 1\.\.2"):
        difficulty.networks(plan, "independent", 3)
    with pytest.raises(ValueError, match=r"0 networks"):
        difficulty.networks(plan, "dependent", 0)


@pytest.mark.timeout(600)
def test_with_one_network_the_victim_is_the_reference_of_the_shadow(plan):
    victim, (shadow,) = (
        experiment.network(plan, "victim-0"),
        difficulty.networks(plan, "dependent", 1),
    )
    (learned,) = difficulty.shadow_cases(plan, [shadow], victim)
    assert learned.references.shape[0] == 1 and learned.member.sum() == 400
    found = {a.name: a for a in difficulty.calibrated_attacks(plan, victim, [shadow])}
    member = np.arange(600) < 400
    plain = metrics.auc(found[contests.LOGISTIC].scores, member)
    for name in (difficulty.DIFFERENCE, difficulty.RMIA, difficulty.PER_CLASS):
        assert metrics.auc(found[name].scores, member).value > plain.value
