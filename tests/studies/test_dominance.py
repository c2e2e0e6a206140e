"""Which defence nobody should choose: by paired intervals, and never by a third decimal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from segleak_utils import metrics, victims
from segleak_utils.attacks.contests import LOGISTIC, Attack, Contest
from segleak_utils.metrics import Interval
from segleak_utils.studies import dominance
from segleak_utils.studies.frontier import ADAPTIVE, NAIVE, Measured
from segleak_utils.studies.offers import Service

RNG = np.random.default_rng(0)
MEMBER = np.arange(120) < 60
SCENES = torch.from_numpy(RNG.integers(5, 40, (60, 3, 3)))
DIFFERENCES = [Interval(v, v - 0.1, v + 0.1, 9, 9) for v in (-0.2, -0.05, 0.0, 0.05, 0.2)]


def spoilt(share: float, luck: int = 0) -> torch.Tensor:
    """The same true classes, a share of the hits (and some by luck) moved to another class."""
    found = SCENES.clone() + torch.diag_embed(torch.full((60, 3), 60))
    moved = (found.diagonal(dim1=1, dim2=2) * share).long()
    if luck:
        some = np.random.default_rng(luck).integers(-9, 10, moved.shape)
        moved = (moved + torch.from_numpy(some)).clamp(min=0)
    for c in range(3):
        found[:, c, c] -= moved[:, c]
        found[:, c, (c + 1) % 3] += moved[:, c]
    return found


def measured(name: str, shift: float, share: float, images=("a", "b"), luck=0) -> Measured:
    scores = np.random.default_rng(1).normal(0, 1, 120) + shift * MEMBER
    scores += 0.01 * luck * np.random.default_rng(2).normal(0, 1, 120)
    attack = Attack(LOGISTIC, "classes", scores, 0.0)
    contest = Contest("victim", "dependent", MEMBER, (attack,))
    counts = spoilt(share, luck)
    miou = victims.iou_of(counts.sum(0)).nanmean().item()
    return Measured(Service(name, name), contest, contest, miou, 0.1, 60, counts, images)


def test_a_third_decimal_dominates_nobody():
    near = [measured("one", 1.0, 0.2), measured("two", 1.001, 0.2, luck=5)]
    assert near[0].miou != near[1].miou
    assert dominance.dominated(near, NAIVE) == {"one": [], "two": []}
    found = dominance.dominated(
        [*near, measured("worse", 1.0, 0.6), measured("quiet", 0.0, 0.2)], ADAPTIVE
    )
    assert found["worse"] and "quiet" in found["worse"] and found["quiet"] == []
    assert found["one"] == ["quiet"]


def test_nobody_dominates_and_is_dominated():
    for leak, use in itertools.product(DIFFERENCES, DIFFERENCES):
        back = [Interval(-d.value, -d.high, -d.low, 9, 9) for d in (leak, use)]
        assert not (dominance.better(leak, use) and dominance.better(*back))
        inside = leak.contains(0) and use.contains(0)
        assert not (inside and dominance.better(leak, use))
    same = measured("one", 1.0, 0.2)
    assert dominance.dominated([same, same], NAIVE)["one"] == []


def test_two_leaks_that_hold_guessing_do_not_differ():
    quiet = [measured("a", 0.0, 0.3), measured("b", 0.05, 0.3)]
    assert all(metrics.auc(of.naive[LOGISTIC].scores, MEMBER).contains(0.5) for of in quiet)
    assert dominance.dominated(quiet, NAIVE) == {"a": [], "b": []}


def test_services_of_other_members_are_compared_apart():
    other = [measured("a", 3.0, 0.2), measured("b", 0.0, 0.2, images=("c", "b"))]
    assert dominance.dominated(other, NAIVE) == {"a": ["b"], "b": []}
    a, b = DIFFERENCES[1], DIFFERENCES[3]
    apart = dominance.independent(a, b)
    assert apart.value == pytest.approx(-0.1) and apart.high - apart.low > b.high - b.low


def test_a_difference_of_mean_ious_is_paired_and_its_value_is_plain():
    a, b = spoilt(0.1), spoilt(0.12)
    found = victims.mean_iou_difference(a, b, seed=0)
    plain = [victims.iou_of(of.sum(0)).nanmean().item() for of in (a, b)]
    assert found.value == pytest.approx(plain[0] - plain[1], abs=1e-12)
    assert found.low > 0 and found.n_nonmembers == 60
    again = victims.mean_iou_difference(b, a, seed=0)
    assert again.value == -found.value and again.high == pytest.approx(-found.low)
    assert str(victims.mean_iou_difference(a, a, seed=0)) == ".00 [.00, .00]"
    with pytest.raises(ValueError, match="not the same images"):
        victims.mean_iou_difference(a, b.flip(0), seed=0)
    with pytest.raises(ValueError, match=r"counts are \[3, 3\]"):
        victims.mean_iou_difference(a[0], b[0], seed=0)


def test_a_class_that_few_images_have_counts_where_it_is_drawn():
    rare = torch.zeros(20, 2, 2, dtype=torch.int64)
    rare[:, 0, 0] = 10
    rare[0, 1, 1] = 5
    wrong = rare.clone()
    wrong[0, 1] = torch.tensor([5, 0])
    found = victims.mean_iou_difference(rare, wrong, seed=0)
    assert found.low == 0 and found.high > 0.4  # not drawn: no difference at all


def test_all_differences_at_once_are_those_of_pairs():
    scores = [RNG.normal(0, 1, 120) + k * MEMBER for k in range(3)]
    found = metrics.auc_differences(scores, MEMBER, seed=3, n_boot=200)
    for a, b in itertools.permutations(range(3), 2):
        pair = metrics.paired_auc_difference(scores[a], scores[b], MEMBER, seed=3, n_boot=200)
        assert found[a][b].value == pytest.approx(pair.value, abs=1e-12)
        assert (found[a][b].low, found[a][b].high) == pytest.approx((pair.low, pair.high))


def test_to_leak_less_and_serve_worse_is_a_choice_and_no_dominance():
    less, worse = Interval(-0.2, -0.3, -0.1, 9, 9), Interval(-0.1, -0.15, -0.05, 0, 9)
    even, good = Interval(0.0, -0.1, 0.1, 9, 9), Interval(0.1, 0.05, 0.15, 0, 9)
    assert not dominance.better(less, worse) and not dominance.better(good, good)
    assert dominance.better(less, even) and dominance.better(even, good)
