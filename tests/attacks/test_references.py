"""What K networks know of an image: zones, cases, and the attacks on them, on toy networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_networks import C, outputs, told, toy_case

from segleak_utils import attacks, metrics
from segleak_utils.attacks import calibration, references
from segleak_utils.attacks.references import Case


def test_zones_split_each_class_at_its_boundaries():
    shown = outputs(3, 0)
    split = references.zones(shown)
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
        references.zones(replace(outputs(1, 0), n_classes=128))


def test_classes_are_brought_back_from_zones():
    shown = outputs(5, 1)
    found = references.classes(told(shown))
    np.testing.assert_allclose(found, attacks.class_features(shown), atol=2e-6)
    both = np.stack([told(shown)] * 2)
    np.testing.assert_allclose(references.classes(both)[1], found)


def test_the_losses_of_a_case_are_global_losses():
    shown = outputs(4, 2)
    theirs = [outputs(4, 3, shown.masks), outputs(4, 4, shown.masks)]
    of = Case(told(shown), np.stack([told(o) for o in theirs]), shown.member)
    own, out = of.losses
    np.testing.assert_allclose(own, -attacks.global_loss_scores(shown), rtol=1e-5)
    assert out.shape == (2, 4)
    np.testing.assert_allclose(
        references.scores(2)[references.DIFFERENCE](of),
        calibration.difference_scores(shown, theirs),
        atol=1e-5,
    )


def test_one_deviation_an_image_takes_more_than_two_references():
    assert references.LIRA_EACH not in references.scores(2)
    assert references.LIRA_EACH in references.scores(3)
    of = toy_case(6, 0, 1)
    own, out = (calibration.confidence(loss) for loss in of.losses)
    np.testing.assert_allclose(references.scores(1)[references.LIRA](of), own - out[0])


@pytest.mark.slow
def test_a_regression_finds_a_leak_and_nothing_where_there_is_none():
    learned = [toy_case(200, k, 2, 0.1) for k in (1, 2)]
    for leak, low, high in ((0.1, 0.9, 1.0), (0.0, 0.35, 0.65)):
        of = toy_case(200, 5, 2, leak)
        attack, model = references.regression("toy", references.class_features, of, learned)
        assert low <= metrics.auc(attack.scores, of.member).value <= high
        rows = references.class_features(of)
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
def row():
    """Three images of one class, all inside: mean loss, that times the share, share."""
    return np.array([[1.0, 0, 0.5, 0, 0.5, 0], [2, 0, 2, 0, 1, 0], [4, 0, 1, 0, 0.25, 0]])


def test_a_case_is_of_the_same_images_in_the_same_order(row):
    member = np.array([True, False, False])
    theirs = np.stack([row * [2, 1, 2, 1, 1, 1], row * [3, 1, 3, 1, 1, 1]])
    case = references.Case(row, theirs, member)
    assert case.losses[0].tolist() == [0.5, 2, 1] and case.losses[1][1].tolist() == [1.5, 6, 3]
    with pytest.raises(ValueError, match="in another order: their shares of the zones differ"):
        references.Case(row, theirs[:, [1, 0, 2]], member)
    with pytest.raises(ValueError, match="in another order"):
        references.Case(row, np.stack([theirs[0], theirs[1][::-1]]), member)


def test_a_case_has_no_victim_among_its_references(row):
    theirs = np.stack([row * [2, 1, 2, 1, 1, 1], row])
    with pytest.raises(ValueError, match="reference 1 has the victim's own losses"):
        references.Case(row, theirs, np.array([True, False, False]))
    shown = outputs(4, 0)
    with pytest.raises(ValueError, match="the victim cannot be its own reference"):
        references.case(shown, [outputs(4, 1, shown.masks), shown])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"own": np.full((3, 6), np.nan)}, "own holds 18 NaN"),
        ({"references": np.full((1, 3, 6), np.inf)}, "references holds 18 NaN or infinite"),
        ({"references": np.zeros((3, 6))}, "references must be real numbers"),
        ({"references": np.zeros((0, 3, 6))}, "expected"),
        ({"references": np.zeros((1, 3, 7))}, "expected"),
        ({"member": np.array([1, 0, 0])}, "member must be boolean"),
        ({"member": np.array([True, False])}, "3 entries but member"),
        ({"own": np.zeros((3, 5)), "references": np.ones((1, 3, 5))}, "expected"),
        ({"own": np.zeros((0, 6)), "references": np.ones((1, 0, 6)), "member": np.ones(0, bool)},
         "expected"),
    ],
)  # fmt: skip
def test_a_case_that_cannot_be_is_refused(row, change, found):
    good = {"own": row, "references": row[None] * [2, 1, 2, 1, 1, 1]}
    with pytest.raises(ValueError, match=found):
        references.Case(**good | {"member": np.array([True, False, False])} | change)


def test_zones_of_many_classes_are_those_of_few(monkeypatch):
    """Above 127 classes both kinds of zones are looked at apart: with the same result."""
    shown = outputs(9, 3)
    shown.masks[0] = 0  # nothing lies near a boundary
    shown.masks[1] = (torch.arange(shown.masks[1].numel()) % 2).view_as(shown.masks[1])  # all does
    few = references.of_zones(shown)
    monkeypatch.setattr(references, "VOID", 2 * shown.n_classes - 1)
    with pytest.raises(ValueError, match="to be halved"):
        references.zones(shown)
    monkeypatch.undo()
    many = replace(shown, n_classes=200)
    found = references.of_zones(many).reshape(9, 3, 2, 200)
    assert np.allclose(found[..., : shown.n_classes].reshape(9, -1), few)
    assert not found[..., shown.n_classes :].any()
