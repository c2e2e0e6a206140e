"""Intervals over groups: simulated, and against slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

import segleak_utils.metrics.grouped as grouped
from segleak_utils.metrics import (
    auc,
    group_numbers,
    grouped_auc,
    grouped_auc_difference,
    owners_of,
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


@pytest.mark.parametrize(
    ("n_groups", "each", "alike", "shift", "fpr", "mixed"),
    [
        (4, 25, 0.5, 0, 0.1, False), (4, 25, 0.9, 1, 0.1, False), (6, 25, 0.5, 1, 0.01, False),
        (10, 20, 0.9, 1, 0.01, False), (10, 20, 0.5, 2.5, 0.1, False), (10, 20, 0.1, 1, 0.1, True),
        (20, 20, 0.5, 2.5, 0.01, False), (20, 20, 0.5, 1, 0.1, True), (60, 10, 0.9, 0, 0.1, False),
    ],
)  # fmt: skip
def test_the_tpr_by_group_covers_where_that_by_image_does_not(
    n_groups, each, alike, shift, fpr, mixed
):
    """`n_groups` of each kind, correlated by `alike`. A bootstrap over groups had .77 to .97."""
    rng, truth = np.random.default_rng(3), norm.sf(norm.isf(fpr) - shift)
    groups = np.repeat(np.arange(2 * n_groups), each)
    member = np.arange(len(groups)) % 2 == 0 if mixed else groups % 2 == 0
    covered = plainly = 0
    for k in range(200):
        own = rng.normal(0, alike**0.5, 2 * n_groups)[groups]
        scores = own + rng.normal(0, (1 - alike) ** 0.5, len(groups)) + shift * member
        found = tpr_interval(scores, member, fpr, seed=k, groups=groups, n_boot=400)
        plain = tpr_interval(scores, member, fpr, seed=k, n_boot=400)
        assert found.value == plain.value
        covered += found.contains(truth)
        plainly += plain.contains(truth)
    # of ten owners that are nearly one image each, one in a hundred cannot be told
    assert covered / 200 >= (0.8 if alike == 0.9 and fpr * n_groups < 1 else 0.92)
    if alike >= 0.5 and fpr == 0.1 and not mixed:
        assert plainly / 200 < 0.8


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


def test_images_are_worth_what_their_likeness_leaves():
    rng, member = np.random.default_rng(5), np.arange(800) % 2 == 0
    groups = np.arange(800) // 2 // 20 * 2 + np.arange(800) % 2  # 20 of each kind, of 20 images
    widen = (norm.ppf(0.975) / student.ppf(0.975, 19)) ** 2

    def worth(scores: np.ndarray) -> tuple[float, float]:
        return grouped._worth(scores, member, groups, 40, 0.95)

    same = rng.normal(0, 1, 40)[groups] + 1e-6 * rng.normal(0, 1, 800)
    assert np.allclose(worth(same), 20 * widen, rtol=0.1)
    apart = np.mean([worth(rng.normal(0, 1, 800)) for _ in range(20)], 0)
    assert (apart > 250 * widen).all() and (apart <= 400 * widen).all()


def test_correlations_are_what_was_put_in():
    rng, codes = np.random.default_rng(6), np.repeat(np.arange(2000), 3)
    for rho in (0.0, 0.3, 0.8):
        z = rng.normal(0, rho**0.5, 2000)[codes] + rng.normal(0, (1 - rho) ** 0.5, 6000)
        assert abs(grouped._correlation(np.exp(z), codes) - rho) < 0.04
        pairs = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 200_000)
        high = pairs > norm.isf(0.1)
        both = (high.all(1).mean() - 0.01) / 0.09
        assert abs(grouped._tail(rho, 0.1) - both) < 0.01
    assert grouped._correlation(z, np.arange(6000)) == 0


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


def test_owners_have_neighbours_of_their_own_kind_and_nobody_shares_one():
    rng = np.random.default_rng(4)
    member, order = rng.random(50) < 0.4, rng.permutation(50)
    for size in (1, 3, 7):
        images, whose = owners_of(member, size, order)
        assert images.shape[1] == size and len(np.unique(images)) == images.size
        assert (member[images] == whose[:, None]).all()
        assert whose.sum() == member.sum() // size and (~whose).sum() == (~member).sum() // size
        place = np.argsort(order)[images]
        kinds = [np.sort(np.argsort(order)[member == kind]) for kind in (True, False)]
        for row, kind in zip(place, whose, strict=True):  # neighbours, of their kind
            at = np.searchsorted(kinds[0 if kind else 1], row)
            assert (np.diff(at) == 1).all() and at[0] % size == 0


@pytest.mark.parametrize(
    ("order", "size", "said"),
    [
        ([0, 1, 2, 2], 1, "order is not one of the numbers 0..3, each once"),
        ([0.0, 1.0, 2.0, 3.0], 1, "order is not one of"),
        ([0, 1, 2], 1, "order has 3 entries"),
        ([0, 1, 2, 3], 3, "size is 3; expected 1..2"),
        ([0, 1, 2, 3], 0, "size is 0; expected 1..2"),
    ],
)
def test_owners_of_nothing_are_refused(order, size, said):
    with pytest.raises(ValueError, match=said):
        owners_of(np.array([True, False, True, False]), size, order)


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize(("score", "shift"), [(np.mean, 1.2), (np.max, 1.2), (np.mean, 2)])
def test_the_intervals_of_dealt_owners_cover(score, shift, alike):
    """100 owners of members, as in notebook 07, AUC .75 to .99. Dealt by what makes scores alike
    the intervals are wide."""
    rng, areas, rates = np.random.default_rng(5), [], []
    for _ in range(300):
        member, hard = np.arange(2400) < 400, rng.normal(size=2400)
        scores = rng.normal(size=2400) + member * (shift + 0.5 * hard) + 0.5 * hard
        order = np.argsort(hard) if alike else rng.permutation(2400)
        images, whose = owners_of(member, 4, order)
        areas.append(auc(score(scores[images], 1), whose))
        rates.append(tpr_at_fpr(score(scores[images], 1), whose, 0.01))
    for found in (areas, rates):
        covered = np.mean([one.contains(np.mean([x.value for x in found])) for one in found])
        assert 0.92 <= covered <= (1 if alike else 0.985)


@pytest.mark.parametrize(("n_groups", "gap"), [(24, 0.0), (24, 0.5), (80, 0.3)])
def test_a_difference_by_group_covers(n_groups, gap):
    rng, held, n = np.random.default_rng(4), 0, 300
    member = np.repeat(np.arange(n_groups) % 2 == 0, 10)
    groups = np.repeat(np.arange(n_groups), 10)
    truth = norm.cdf((1 + gap) / 2**0.5) - norm.cdf(1 / 2**0.5)
    for _ in range(n):
        both, own = rng.normal(0, 0.5, (1, n_groups)), rng.normal(0, 0.5, (2, n_groups))
        scores = (both + own)[:, groups] + rng.normal(0, 0.5**0.5, (2, len(groups)))
        scores += np.array([[1 + gap], [1]]) * member
        found = grouped_auc_difference(*scores, member, groups)
        held += found.contains(truth)
    assert 0.92 <= held / n <= 0.985
    assert found.value == auc(scores[0], member).value - auc(scores[1], member).value
    same = grouped_auc_difference(scores[0], scores[0], member, groups)
    assert (same.low, same.high) == (0, 0)
    with pytest.raises(ValueError, match="all non-members are of one group"):
        grouped_auc_difference(*scores[:, :30], np.repeat([True, False, True], 10), groups[:30])
