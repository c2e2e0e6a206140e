"""Where a victim leaks: exact maps, classes, regions, and the images found; and their pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_networks import C, H, W, outputs, told

from segleak_utils import attacks, figures, metrics
from segleak_utils.attacks import evidence, references
from segleak_utils.attacks.references import Case
from segleak_utils.metrics import Interval


@pytest.fixture(scope="module")
def toy():
    """A victim and two references on the same images, zones for masks, and a case of them."""
    shown = outputs(160, 3)
    loss = shown.loss_maps.clone()
    loss[torch.from_numpy(shown.member)] *= 0.8
    shown = replace(shown, loss_maps=loss)
    theirs = [outputs(160, 50 + k, shown.masks) for k in range(2)]
    case = Case(told(shown), np.stack([told(of) for of in theirs]), shown.member)
    return references.zones(shown), [references.zones(of) for of in theirs], case


def test_the_maps_add_up_to_the_score(toy):
    shown, others, case = toy
    rows = references.zone_features(case)
    model = attacks.logistic_attack(rows, case.member)
    found = evidence.evidence_maps(model, shown, others)
    assert found.maps.shape == (160, H, W) and found.maps.dtype == torch.float32
    assert (found.maps[shown.masks == 255] == 0).all()
    total = found.maps.double().sum((1, 2)).numpy() + found.constant
    np.testing.assert_allclose(total, model.decision_function(rows), atol=2e-3)


def test_evidence_refuses_what_does_not_belong_together(toy):
    shown, others, case = toy
    model = attacks.logistic_attack(references.zone_features(case), case.member)
    with pytest.raises(ValueError, match="no reference"):
        evidence.evidence_maps(model, shown, [])
    with pytest.raises(ValueError, match="masks differ"):
        evidence.evidence_maps(model, shown, [references.zones(outputs(160, 4))])
    other = attacks.logistic_attack(references.class_features(case), case.member)
    with pytest.raises(ValueError, match=f"{5 * C} features; expected {10 * C}"):
        evidence.evidence_maps(other, shown, others)


def test_a_class_tells_what_a_loop_tells(toy):
    shown, others, case = toy
    rows = evidence.class_leak(case, [f"class {k}" for k in range(C)], H * W)
    masks = torch.where(shown.masks < 2 * C, shown.masks % C, shown.masks)
    assert [row.name for row in rows] == [f"class {k}" for k in range(C)]
    for k, row in enumerate(rows):
        scores, member = [], []
        for i in range(len(shown)):
            inside = masks[i] == k
            if inside.sum() < evidence.LEAST_PIXELS:
                continue
            theirs = np.mean([of.loss_maps[i, 0][inside].float().mean() for of in others])
            scores.append(theirs - float(shown.loss_maps[i, 0][inside].float().mean()))
            member.append(shown.member[i])
        expected = metrics.auc(np.array(scores), np.array(member))
        assert row.auc.n_members == expected.n_members
        assert row.auc.value == pytest.approx(expected.value, abs=1e-3)
    with pytest.raises(ValueError, match="3 names for 4 classes"):
        evidence.class_leak(case, ["a", "b", "c"], H * W)


def test_a_class_that_few_images_have_is_left_out(toy):
    *_, case = toy
    few = case.own.copy()
    few[30:, 4 * C :: C] = 0  # class 0 is nowhere but in 30 images of members
    few[30:, 4 * C + C :: 2 * C] = 0
    theirs = case.references.copy()
    theirs[..., 4 * C :] = few[:, 4 * C :]
    rows = evidence.class_leak(replace(case, own=few, references=theirs), list("abcd"), H * W)
    assert "a" not in [row.name for row in rows] and len(rows) >= 2


def test_bins_share_the_pixels_out(toy):
    shown, others, _ = toy
    which = torch.arange(W).expand(len(shown), H, W)
    bins = {"left": (0, W // 2), "right": (W // 2, W), "nowhere": (W, 2 * W)}
    rows = evidence.bin_leak(shown, others, which, bins)
    assert [row.name for row in rows] == ["left", "right"]
    assert sum(row.share for row in rows) == pytest.approx(1)
    with pytest.raises(ValueError, match="which is"):
        evidence.bin_leak(shown, others, which[:2], bins)
    with pytest.raises(ValueError, match="masks differ"):
        evidence.bin_leak(shown, [references.zones(outputs(160, 4))], which, bins)
    with pytest.raises(ValueError, match="no reference"):
        evidence.bin_leak(shown, [], which, bins)


def test_regions_hang_together_by_edges():
    masks = torch.tensor([[[1, 1, 0, 255], [1, 0, 1, 255], [2, 2, 2, 0]]], dtype=torch.uint8)
    expected = [[3, 3, 1, 0], [3, 1, 1, 0], [3, 3, 3, 1]]
    assert evidence.region_sizes(masks)[0].tolist() == expected


def test_the_members_found_are_those_of_the_rate():
    rng = np.random.default_rng(0)
    member = np.arange(400) < 100
    scores = rng.normal(size=400) + member
    for fpr in (0.01, 0.1):
        rate = metrics.tpr_at_fpr(scores, member, fpr).value
        assert evidence.found(scores, member, fpr).mean() == pytest.approx(rate)
    with pytest.raises(ValueError, match="cannot be claimed"):
        evidence.found(scores, member, 0.001)


def test_two_attackers_agree_as_far_as_their_scores_do():
    rng = np.random.default_rng(1)
    member = np.arange(3000) < 1000
    base, noise = rng.normal(size=(2, 3000)) + member
    same = evidence.agreement(base, base, member, 0.05)
    assert same.both == same.first == same.second and same.rank == pytest.approx(1)
    apart = evidence.agreement(base, noise, member, 0.05)
    assert apart.both == pytest.approx(apart.chance, abs=4 * np.sqrt(apart.chance))


def test_what_goes_with_a_high_score_is_found(toy):
    *_, case = toy
    scores = case.losses[1].mean(0) * 3
    rows = evidence.traits(case, scores, list("abcd"))
    first = next(iter(rows))
    assert first == "difficulty: the references' loss" and rows[first].value > 0.99
    assert all(row.low <= row.value <= row.high for row in rows.values())


def test_the_pictures_are_drawn():
    rng = np.random.default_rng(2)
    maps = torch.from_numpy(rng.normal(size=(2, 8, 16))).float()
    rows = {f"scene {k}": (torch.rand(3, 8, 16), maps[k].abs(), maps[k].abs(), maps[k] / 1e3)
            for k in range(2)}  # fmt: skip
    figure = figures.render_leak_maps(rows)
    assert [a.get_title() for a in figure.axes[:4]][-1] == "evidence"
    member = np.arange(60) < 20
    a, b = rng.normal(size=(2, 60)) + member
    assert figures.render_two_attackers(a, b, member, (1.0, 1.2), 0.05).axes[0].get_xlabel()
    interval = Interval(0.6, 0.5, 0.7, 20, 40)
    grown = {f"axis {k}": {"x": {"1": interval, "2": interval}} for k in range(3)}
    figure = figures.render_growth(grown)
    assert [axis.get_xlabel() for axis in figure.axes[:3]] == list(grown)
    assert not figure.axes[3].get_visible()
    figure = figures.render_bounds([("plain", None, 1.5, 5.5), ("private", 1.0, 0.0, 5.5)])
    assert figure.axes[0].get_xlabel() == "ε"


BAD_SCORES = [
    (np.where(np.arange(160) == 7, np.nan, np.arange(160.0)), "1 NaN or infinite values"),
    (np.arange(159.0), "159 entries but member"),
    (np.ma.array(np.arange(160.0), mask=np.arange(160) == 3), "masked array"),
    (np.arange(160) > 80, "must be real numbers"),
]


@pytest.mark.parametrize(("scores", "refused"), BAD_SCORES, ids=lambda x: str(x)[:12])
def test_scores_that_are_none_prove_nothing(toy, scores, refused):
    case, good = toy[-1], np.arange(160.0)
    for ask in (
        lambda: evidence.found(scores, case.member, 0.1),
        lambda: evidence.agreement(scores, good, case.member, 0.1),
        lambda: evidence.agreement(good, scores, case.member, 0.1),
        lambda: evidence.traits(case, scores, list("abcd")),
    ):
        with pytest.raises(ValueError, match=refused):
            ask()


def test_labels_that_are_not_boolean_are_refused(toy):
    member, good = toy[-1].member.astype(int), np.arange(160.0)
    for ask in (
        lambda: evidence.found(good, member, 0.1),
        lambda: evidence.agreement(good, good, member, 0.1),
    ):
        with pytest.raises(ValueError, match="member must be boolean, found int64"):
            ask()


def test_lists_are_found_as_arrays_are():
    scores, member = [9, 8, 3, 7, 2, 1, 0], [True, True, True, False, False, False, False]
    assert evidence.found(scores, member, 0.25).tolist() == [True, True, True]


def test_what_is_all_the_same_has_no_ranks(toy):
    case, good = toy[-1], np.arange(160.0)
    flat = np.where(case.member, 1.0, good)
    for ask in (
        lambda: evidence.agreement(flat, good, case.member, 0.1),
        lambda: evidence.traits(case, flat, list("abcd")),
    ):
        with pytest.raises(ValueError, match="members score 1: what is all the same has no ranks"):
            ask()


def test_traits_need_all_names_and_some_members(toy):
    case, good = toy[-1], np.arange(160.0)
    with pytest.raises(ValueError, match="3 names for 4 classes"):
        evidence.traits(case, good, list("abc"))
    few = replace(case, member=np.arange(160) < 3)
    with pytest.raises(ValueError, match="the number of members is 3; expected at least 4"):
        evidence.traits(few, good, list("abcd"))


def test_bins_that_cannot_be_are_refused(toy):
    shown, others, _ = toy
    which = torch.arange(W).expand(len(shown), H, W).float()
    for low, high in ((3, 3), (5, 1), (float("nan"), 2), (0, float("nan"))):
        with pytest.raises(ValueError, match=f"bin 'x' is {low} to {high}; expected low < high"):
            evidence.bin_leak(shown, others, which, {"x": (low, high)})
    hole = which.clone()
    hole[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="which holds NaN"):
        evidence.bin_leak(shown, others, hole, {"x": (0, 9)})
    with pytest.raises(ValueError, match="victim cannot be its own reference"):
        evidence.bin_leak(shown, [*others, shown], which, {"x": (0, 9)})


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_a_number_of_pixels_is_a_whole_one(toy, bad):
    with pytest.raises(ValueError, match="n_pixels is"):
        evidence.class_leak(toy[-1], list("abcd"), bad)


def test_regions_are_of_masks():
    with pytest.raises(ValueError, match="must be an integer tensor"):
        evidence.region_sizes(torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match=r"must be \[N, H, W\]"):
        evidence.region_sizes(torch.zeros(2, 2, dtype=torch.uint8))
