"""Intervals over groups: simulated, and against slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from segleak_utils.metrics import (
    auc,
    group_numbers,
    grouped_auc,
    tpr_at_fpr,
    tpr_interval,
)


def clustered(rng: np.random.Generator, n_groups: int, each: int, shift: float, mixed: bool):
    """Scores, half their variance the group's; members are whole groups, or half of each."""
    groups = np.repeat(np.arange(n_groups), each)
    member = np.arange(len(groups)) % 2 == 0 if mixed else groups % 2 == 0
    scores = rng.normal(0, 0.7, n_groups)[groups] + rng.normal(0, 0.7, len(groups))
    return scores + shift * member, member, [f"g{i}" for i in groups]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("n_groups", "shift"), [(12, 0.6), (40, 0), (40, 1.2)])
def test_the_auc_by_group_covers_where_that_by_image_does_not(mixed, n_groups, shift):
    rng, truth = np.random.default_rng(2), norm.cdf(shift / (0.98 * 2) ** 0.5)
    by_group = by_image = 0
    for _ in range(400):
        scores, member, groups = clustered(rng, n_groups, 12, shift, mixed)
        found = grouped_auc(scores, member, groups)
        assert found.value == auc(scores, member).value
        by_group += found.contains(truth)
        by_image += auc(scores, member).contains(truth)
    assert 0.92 <= by_group / 400 <= 0.985
    if not mixed:
        assert by_image / 400 < 0.75


def test_the_tpr_by_group_is_wider_and_covers():
    rng, truth, covered, wider = (
        np.random.default_rng(3),
        norm.sf(norm.isf(0.1) - 1 / 0.98**0.5),
        0,
        0,
    )
    for k in range(200):
        scores, member, groups = clustered(rng, 60, 10, 1, False)
        found = tpr_interval(scores, member, 0.1, seed=k, groups=groups, n_boot=400)
        plain = tpr_interval(scores, member, 0.1, seed=k, n_boot=400)
        assert found.value == plain.value
        covered += found.contains(truth)
        wider += found.high - found.low > plain.high - plain.low
    assert covered / 200 >= 0.91 and wider > 190


def test_every_image_its_own_group_is_delong():
    rng = np.random.default_rng(0)
    member = np.arange(300) < 100
    scores = rng.normal(0, 1, 300) + member
    single = grouped_auc(scores, member, range(300))
    plain = auc(scores, member)
    assert single.value == plain.value
    assert np.allclose([single.low, single.high], [plain.low, plain.high], atol=2e-3)


def test_estimates_are_those_of_the_plain_statistics():
    rng = np.random.default_rng(0)
    for ties in (False, True):
        member = np.arange(500) < 200
        scores = rng.normal(0, 1, 500) + member
        scores = scores.round(1) if ties else scores
        for fpr in (0.01, 0.1, 0.5, 1.0):
            plain = tpr_at_fpr(scores, member, fpr)
            groups = [f"{i % 50}" for i in range(500)]
            assert tpr_interval(scores, member, fpr, seed=0) == plain
            assert tpr_interval(scores, member, fpr, seed=0, groups=groups).value == plain.value


def test_the_resampling_of_groups_is_what_a_slow_loop_does():
    """Each resample's TPR, drawn by hand with the same counts."""
    from segleak_utils.metrics import grouped

    rng = np.random.default_rng(5)
    scores, member, groups = clustered(rng, 10, 6, 1, False)
    codes = np.unique(groups, return_inverse=True)[1]
    fast = grouped._by_groups(scores, member, codes, 0.2, np.random.default_rng(1), 50)
    again, slow = np.random.default_rng(1), []
    kinds = [np.unique(codes[kind]) for kind in (member, ~member)]
    picks = [again.integers(len(kind), size=(50, len(kind))) for kind in kinds]
    for k in range(50):
        rows = np.concatenate(
            [
                np.flatnonzero(codes == g)
                for kind, p in zip(kinds, picks, strict=True)
                for g in kind[p[k]]
            ]
        )
        slow.append(tpr_at_fpr(scores[rows], member[rows], 0.2).value)
    assert np.allclose(fast, slow)


def test_perfect_separation_claims_no_more_than_its_groups():
    member = np.arange(80) < 40
    found = grouped_auc(member * 1.0, member, [f"{i // 10}" for i in range(80)])
    assert found.value == 1 and 0.3 < found.low < 0.5
    assert auc(member * 1.0, member).low > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": ["a"] * 9}, "9 groups for 10 scores"),
        ({"groups": [""] * 10}, "a group is empty"),
        ({"groups": [None] * 10}, "a group is empty"),
        ({"groups": ["a"] * 5 + list("vwxyz")}, "all members are of one group"),
        ({"groups": [*"vwxyz", *"aaaaa"]}, "all non-members are of one group"),
        ({"scores": np.full(10, np.nan)}, "NaN"),
        ({"member": np.arange(10)}, "must be boolean"),
    ],
)
def test_groups_that_cannot_be_are_refused(change, message):
    told = {"scores": np.arange(10.0), "member": np.arange(10) < 5, "groups": list("abcdefghij")}
    with pytest.raises(ValueError, match=message):
        grouped_auc(**(told | change))
    assert group_numbers(told["member"], told["groups"]) == (5, 5)
    with pytest.raises(ValueError):
        tpr_interval(told["scores"], told["member"], 0.01, seed=0)
