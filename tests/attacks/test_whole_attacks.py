"""Whole attacks from `Outputs` alone, as somebody with a network of their own runs them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_networks import outputs, toy_case

from segleak_utils import attacks, metrics, representations
from segleak_utils.attacks import Outputs, calibration, contests, patchnets, peers, references

N = 40


def said(seed: int, *, surer: float = 0.0, n: int = N, size: int = 16) -> Outputs:
    """What a network says of images in blocks; of its members it is surer by as much."""
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 3, (n, size // 4, size // 4), generator=rng)
    masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
    member = np.arange(n) < n // 2
    right = torch.nn.functional.one_hot(masks, 3).movedim(-1, 1)
    sure = 1.5 + surer * torch.from_numpy(member).float().view(-1, 1, 1, 1)
    logits = sure * right + torch.randn(right.shape, generator=rng)
    return Outputs.of(logits.softmax(1), masks, member)


# ---- with references ----------------------------------------------------------------------------


@pytest.mark.slow
def test_all_attacks_with_references_find_a_leak_and_nothing_where_there_is_none():
    learned = [toy_case(200, seed, k=3, leak=0.1) for seed in (1, 2)]
    for leak, finds in ((0.1, True), (0.0, False)):
        of = toy_case(200, 3, k=3, leak=leak)
        found = {a.name: a for a in references.reference_attacks(of, learned)}
        assert found.keys() == {
            *references.LEARNED, contests.LOGISTIC,
        }  # fmt: skip
        area = metrics.auc(found[references.CALIBRATED].scores, of.member)
        assert (area.low > 0.5) == finds
    with pytest.raises(ValueError, match="no shadow to learn from"):
        references.reference_attacks(of, [])


def test_a_case_of_outputs_is_their_zones_side_by_side():
    shown = outputs(6, 0)
    others = [outputs(6, k, shown.masks) for k in (1, 2)]
    case = references.case(shown, others)
    zones = references.of_zones(shown)
    assert np.array_equal(zones, attacks.class_features(references.zones(shown)))
    assert np.array_equal(case.own, zones) and case.references.shape == (2, *zones.shape)
    assert np.array_equal(case.references[1], references.of_zones(others[1]))
    with pytest.raises(ValueError, match="no reference"):
        references.case(shown, [])
    with pytest.raises(ValueError, match="different images"):
        references.case(shown, [outputs(6, 1)])


def test_an_attack_by_loss_takes_its_threshold_from_the_shadows():
    of, learned = toy_case(20, 0, k=2), [toy_case(20, 1, k=2)]
    attack = references.by_loss("x", lambda known: -known.losses[0], of, learned)
    assert np.array_equal(attack.scores, -of.losses[0])
    own = -learned[0].losses[0]
    assert attack.threshold == metrics.best_threshold(own, learned[0].member)


def test_features_of_a_case_worked_by_hand():
    """One class, all of it inside: the victim's loss is 1, that of the two references 2 and 4."""
    row = np.array([[1.0, 0, 1, 0, 1, 0]])  # mean, mean times share, share; inside, boundary
    theirs = np.stack([row * [2, 1, 2, 1, 1, 1], row * [4, 1, 4, 1, 1, 1]])
    case = references.Case(row, theirs, np.array([True]))
    assert references.plain_features(case).tolist() == [[1, 1, 1]]
    assert references.class_features(case).tolist() == [[-2, -2, 1, 1, 1]]
    own, gained, sure, surer = references.image_features(case)[0]
    assert (own, gained) == (1, 2)
    assert sure == pytest.approx(calibration.confidence([1.0])[0])
    assert surer == pytest.approx(sure - calibration.confidence([2.0, 4.0]).mean())
    zones, image = references.zone_features(case), references.image_features(case)
    assert np.array_equal(references.structured_features(case), np.hstack([zones, image]))
    scaled = references.scaled_features(case)
    assert np.array_equal(scaled[:, :-1], zones)
    assert scaled[0, -1] == pytest.approx(2 / (np.sqrt(2) + 0.02))  # deviation of 2 and 4


def test_the_same_images_are_alike_and_others_are_not():
    shown = outputs(3, 0)
    calibration.check_alike(shown, outputs(3, 1, shown.masks))
    for other in (outputs(3, 1), outputs(2, 1, shown.masks[:2])):
        with pytest.raises(ValueError, match="different images"):
            calibration.check_alike(shown, other)


# ---- without references -------------------------------------------------------------------------


@pytest.mark.slow
def test_bars_from_outputs_find_a_leak_and_the_blind_one_does_not():
    shown, shadows = said(0, surer=0.3), [said(1, surer=0.3), said(2, surer=0.3)]
    rng = np.random.default_rng(0)
    looks = [rng.normal(size=(N, 3)) for _ in range(3)]
    of = contests.bars_of("mine", "dependent", shown, shadows, looks)
    assert [a.name for a in of.attacks] == [contests.BLIND, contests.GLOBAL, contests.LOGISTIC]
    assert metrics.auc(of[contests.GLOBAL].scores, of.member).low > 0.5
    member = np.concatenate([s.member for s in shadows])
    blind = contests.blind(looks[0], looks[1:], member)
    assert np.array_equal(of[contests.BLIND].scores, blind.scores)
    assert metrics.auc(blind.scores, of.member).contains(0.5)


@pytest.mark.slow
def test_what_is_learned_is_the_regression_and_its_threshold_is_out_of_fold():
    rng = np.random.default_rng(1)
    member = np.arange(100) < 50
    rows = rng.normal(size=(100, 2)) + member[:, None]
    attack = contests.learned("x", "rows", rows[:5], rows, member)
    model = attacks.logistic_attack(rows, member)
    assert np.allclose(attack.scores, model.decision_function(rows[:5]))
    assert -1.5 < attack.threshold < 1.5 and attack.representation == "rows"


# ---- those of other papers ----------------------------------------------------------------------


@pytest.mark.slow
def test_the_peers_run_on_outputs_alone():
    recipe = peers.ImageRecipe("resnet10t", epochs=1, batch=16, lr=3e-3, select_share=0.25)
    shown, shadows = said(0, surer=0.8, size=32), [said(1, surer=0.8, size=32)]
    found = peers.peer_attacks(shown, shadows, recipe=recipe)
    names = [peers.DICE, peers.TYPE_1, peers.TYPE_2, peers.LABEL_ONLY]
    assert [a.name for a in found] == names
    assert metrics.auc(found[0].scores, shown.member).low > 0.5
    for attack in found:
        assert attack.scores.shape == (N,) and np.isfinite([*attack.scores, attack.threshold]).all()
    bare = replace(shown, posteriors=None)
    with pytest.raises(ValueError, match="posteriors of these outputs were not kept"):
        peers.dice_scores(bare)
    with pytest.raises(ValueError, match="no shadow to learn from"):
        peers.peer_attacks(shown, [])


def test_dice_of_outputs_is_that_of_the_posteriors():
    shown = said(3, n=4)
    direct = representations.dice(shown.posteriors.float(), shown.masks.long())
    assert np.allclose(peers.dice_scores(shown), direct.numpy(), atol=1e-6)


def test_a_whole_image_attack_keeps_scores_and_takes_the_threshold_from_those_kept_aside():
    aside, member = np.array([3.0, 2, 1, 0]), np.array([True, True, False, False])
    attack = peers.whole_image_attack(peers.TYPE_2, np.float32([0.5, 2]), aside, member)
    assert attack.scores.tolist() == [0.5, 2] and attack.threshold == 1.5
    assert attack.representation == "posteriors + labels"
    net = peers.image_net(peers.ImageRecipe("resnet10t"), channels=6)
    assert net(torch.zeros(2, 6, 32, 32)).shape == (2, 2)


@pytest.mark.slow
def test_label_only_is_learned_from_errors():
    rng = np.random.default_rng(0)
    member = np.arange(80) < 40
    rows = rng.normal(size=(80, 6)) - 2.0 * member[:, None]  # members: fewer errors
    attack = peers.label_only_attack(rows, rows, member)
    assert attack.name == peers.LABEL_ONLY and metrics.auc(attack.scores, member).low > 0.9


# ---- networks -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_mixed_logits_are_the_networks_own_up_to_bf16():
    net = patchnets.deep_stem_resnet50(1).eval()
    patches = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact, mixed = net(patches), patchnets.mixed_logits(net, patches)
    assert mixed.dtype == torch.float32
    assert torch.allclose(mixed, exact, rtol=0.05, atol=0.05)


def test_dense_logits_of_a_map_of_one_patch_are_that_patchs():
    net = patchnets.PatchNet("loss map", 3, width=4).eval()
    maps = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        dense = patchnets.dense_logits(net, maps, 16)
        assert dense.shape == (1, 1, 1, 2) and torch.allclose(dense[0, 0], net(maps), atol=1e-5)


def test_bars_without_a_shadow_are_refused_by_name():
    shown = outputs(4, 0)
    with pytest.raises(ValueError, match="no shadow to learn from"):
        contests.bars_of("mine", "dependent", shown, [], [np.zeros((len(shown), 3))])
