"""Metrics against scikit-learn, published tables, brute force, and simulated coverage."""

from __future__ import annotations

import math
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from scipy.stats import binomtest, norm, ttest_ind
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from segleak_utils.metrics import (
    Interval,
    accuracy_at,
    auc,
    balanced_accuracy_at,
    best_threshold,
    mean_difference,
    paired_auc_difference,
    roc,
    share_of_difference,
    tpr_at_fpr,
)
from segleak_utils.metrics.intervals import clopper_pearson
from segleak_utils.metrics.separation import _delong

few = settings(max_examples=60, deadline=None)


def draw(seed, m=60, n=90, shift=1.0, decimals=None):
    """Binormal scores; few decimals make ties."""
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(shift, 1, m), rng.normal(0, 1, n)])
    if decimals is not None:
        scores = scores.round(decimals)
    return scores, np.arange(m + n) < m


@st.composite
def tied_scores(draw_from):
    m, n = draw_from(st.integers(2, 12)), draw_from(st.integers(2, 12))
    values = st.lists(st.integers(-5, 5), min_size=m + n, max_size=m + n)
    order = draw_from(st.permutations(range(m + n)))
    return np.array(draw_from(values)), (np.arange(m + n) < m)[np.array(order)]


# ---- Interval ------------------------------------------------------------------------------------


def test_an_interval_reads_as_in_a_table():
    x = Interval(0.6312, 0.5978, 0.6649, 400, 2000)
    assert str(x) == f"{x}" == ".63 [.60, .66]"
    assert f"{x:.3}" == ".631 [.598, .665]"
    assert f"{Interval(1, 0.99, 1, 5, 5)}" == "1.00 [.99, 1.00]"
    difference = Interval(0.041, -0.001, 0.08, 400, 2000)
    assert f"{difference:+.3}" == "+.041 [-.001, +.080]"
    assert f"{difference}" == ".04 [.00, .08]"  # not "-.00"
    with pytest.raises(ValueError, match="format"):
        f"{x:.3e}"


def test_an_interval_knows_what_it_holds():
    x = Interval(0.6, 0.5, 0.7, 10, 10)
    assert x.contains(0.5) and x.contains(0.7) and x.excludes(0.49) and not x.excludes(0.6)
    with pytest.raises(ValueError, match="not an interval"):
        Interval(0.6, 0.7, 0.5, 10, 10)
    with pytest.raises(ValueError, match="is nan; expected a number that is finite"):
        Interval(0.6, float("nan"), 0.7, 10, 10)


# ---- ROC and AUC ---------------------------------------------------------------------------------


@few
@given(tied_scores())
def test_auc_is_the_share_of_ordered_pairs_ties_counting_half(case):
    scores, member = case
    inside, outside = scores[member][:, None], scores[~member]
    pairs = ((inside > outside) + 0.5 * (inside == outside)).mean()
    result = auc(scores, member)
    assert result.value == pytest.approx(pairs, abs=1e-12)
    assert result.value == pytest.approx(roc_auc_score(member, scores), abs=1e-12)
    assert 0 <= result.low <= result.value <= result.high <= 1
    assert (result.n_members, result.n_nonmembers) == (member.sum(), (~member).sum())


@few
@given(tied_scores())
def test_every_roc_point_is_what_its_threshold_gives(case):
    scores, member = case
    curve = roc(scores, member)
    for fpr, tpr, threshold in zip(curve.fpr, curve.tpr, curve.thresholds, strict=True):
        called = scores > threshold
        assert (fpr, tpr) == (called[~member].mean(), called[member].mean())
    assert (curve.fpr[0], curve.tpr[0]) == (0, 0) and (curve.fpr[-1], curve.tpr[-1]) == (1, 1)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(auc(scores, member).value)
    assert curve.smallest_fpr == 1 / (~member).sum()


@few
@given(tied_scores())
def test_no_metric_but_a_threshold_sees_a_monotone_transformation(case):
    scores, member = case
    other = scores.astype(float) ** 3 + 7  # strictly increasing, exact on small integers
    assert auc(scores, member) == auc(other, member)
    assert tpr_at_fpr(scores, member, 0.5) == tpr_at_fpr(other, member, 0.5)
    assert paired_auc_difference(scores, other, member, seed=0, n_boot=100).high == 0
    a, b = roc(scores, member), roc(other, member)
    assert np.array_equal(a.fpr, b.fpr) and np.array_equal(a.tpr, b.tpr)
    # The threshold moves along with the scores and calls the same images members.
    at = [balanced_accuracy_at(s, member, best_threshold(s, member)) for s in (scores, other)]
    assert at[0] == at[1]


@few
@given(tied_scores())
def test_turning_the_score_round_mirrors_the_auc(case):
    scores, member = case
    a, b = auc(scores, member), auc(-scores, member)
    assert (1 - b.value, 1 - b.high, 1 - b.low) == pytest.approx((a.value, a.low, a.high))


@pytest.mark.parametrize("decimals", [None, 0])
def test_delong_variance_is_the_pairwise_formula(decimals):
    scores, member = draw(0, decimals=decimals)
    inside, outside = scores[member], scores[~member]
    pairs = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    expected = np.cov(pairs.mean(1)) / len(inside) + np.cov(pairs.mean(0)) / len(outside)
    assert _delong(inside, outside)[1] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("decimals", [None, 0])
def test_delong_and_the_bootstrap_agree(decimals):
    scores, member = draw(1, m=200, n=400, shift=0.8, decimals=decimals)
    a = auc(scores, member)
    b = auc(scores, member, method="bootstrap", seed=0)
    assert a.value == b.value
    assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.08)
    assert (b.low, b.high) == pytest.approx((a.low, a.high), abs=0.006)
    assert b == auc(scores, member, method="bootstrap", seed=0)
    assert b != auc(scores, member, method="bootstrap", seed=1)


@pytest.mark.parametrize("truth", [0.5, 0.65, 0.9])
def test_the_95_percent_interval_covers_the_truth(truth):
    shift = norm.ppf(truth) * np.sqrt(2)
    hits = sum(auc(*draw(seed, m=80, n=160, shift=shift)).contains(truth) for seed in range(400))
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize(
    ("m", "n", "truth", "spread"),
    [
        (400, 2000, 0.97, 1), (400, 2000, 0.99, 1.6), (100, 500, 0.95, 1), (100, 500, 0.97, 1.6),
        (100, 500, 0.99, 1), (100, 120, 0.97, 1.6), (50, 200, 0.99, 1),
    ],
)  # fmt: skip
def test_near_one_students_t_on_the_logit_scale_covers(m, n, truth, spread):
    """Members have a deviation of `spread`. Normal quantiles hold in .85 to .94 of these cases."""
    rng, shift = np.random.default_rng(7), norm.ppf(truth) * np.sqrt(1 + spread**2)
    member = np.arange(m + n) < m
    good = normal = plain = 0
    for _ in range(400):
        scores = rng.normal(size=m + n) * np.where(member, spread, 1) + shift * member
        good += auc(scores, member).contains(truth)
        value, variance, _ = _delong(scores[member], scores[~member])
        plain += abs(value - truth) <= 1.96 * np.sqrt(variance)
        half = 1.96 * np.sqrt(variance) / max(value * (1 - value), 1e-9)
        normal += abs(logit(value) - logit(truth)) <= half if value < 1 else True
    assert 0.925 <= good / 400 <= 0.985
    assert plain <= normal <= good and plain < good


def test_at_a_middling_auc_students_quantile_is_the_normal_one():
    scores, member = draw(3, m=400, n=2000, shift=norm.ppf(0.9) * np.sqrt(2))
    found = auc(scores, member)
    value, variance, _ = _delong(scores[member], scores[~member])
    half = norm.ppf(0.975) * np.sqrt(variance) / (value * (1 - value))
    assert (found.low, found.high) == pytest.approx(
        (expit(logit(value) - half), expit(logit(value) + half)), abs=0.0005
    )


@pytest.mark.parametrize("method", ["delong", "bootstrap"])
def test_perfect_separation_is_not_certainty(method):
    scores, member = np.arange(60), np.arange(60) >= 40
    x = auc(scores, member, method=method, seed=0)
    assert (x.value, x.high) == (1, 1)
    assert x.low == pytest.approx(0.025 ** (1 / 20))  # 20 disjoint pairs, all in order
    x = auc(-scores, member, method=method, seed=0)
    assert (x.value, x.low) == (0, 0) and x.high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_a_constant_score_is_a_coin():
    assert str(auc(np.zeros(20), np.arange(20) < 10)) == ".50 [.50, .50]"


def test_a_higher_level_gives_a_wider_interval():
    scores, member = draw(2)
    wide, narrow = auc(scores, member, 0.99), auc(scores, member, 0.8)
    assert wide.low < narrow.low < narrow.high < wide.high and wide.level == 0.99


# ---- paired difference ---------------------------------------------------------------------------


def test_a_score_against_itself_is_exactly_zero():
    scores, member = draw(3)
    x = paired_auc_difference(scores, scores.copy(), member, seed=0)
    assert (x.value, x.low, x.high) == (0, 0, 0) and x.contains(0)


def test_pairing_finds_a_difference_that_overlapping_intervals_hide():
    rng = np.random.default_rng(0)
    member = np.arange(700) < 200
    difficulty = rng.normal(0, 1, 700)  # shared by both attacks, says nothing about membership
    good = difficulty + 0.6 * member + 0.1 * rng.normal(0, 1, 700)
    poor = difficulty + 0.4 * member + 0.1 * rng.normal(0, 1, 700)
    a, b = auc(good, member), auc(poor, member)
    assert a.low < b.high  # one by one they overlap
    x = paired_auc_difference(good, poor, member, seed=0)
    assert x.value == pytest.approx(a.value - b.value) and x.low > 0
    y = paired_auc_difference(poor, good, member, seed=0)
    assert (y.value, y.low, y.high) == pytest.approx((-x.value, -x.high, -x.low))
    assert x == paired_auc_difference(good, poor, member, seed=0)
    # Shuffled within the groups the scores are no longer paired, and the difference drowns.
    poor[member], poor[~member] = rng.permutation(poor[member]), rng.permutation(poor[~member])
    assert paired_auc_difference(good, poor, member, seed=0).contains(0)


def test_the_bootstrap_is_the_resampled_auc():
    scores, member = draw(4, m=15, n=25, decimals=0)
    other = np.random.default_rng(5).normal(size=40)
    rng, values = np.random.default_rng(9), []
    for _ in range(2000):
        inside, outside = rng.integers(15, size=15), rng.integers(15, 40, size=25)
        a, b = (_delong(s[inside], s[outside])[0] for s in (scores, other))
        values.append(a - b)
    x = paired_auc_difference(scores, other, member, seed=0)
    assert (x.low, x.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)


@pytest.mark.slow
def test_the_paired_interval_covers_the_truth():
    truth = norm.cdf(0.8 / np.sqrt(2)) - norm.cdf(0.4 / np.sqrt(2))
    hits = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        member = np.arange(200) < 80
        base = rng.normal(0, 0.8**0.5, 200)
        a = base + 0.8 * member + rng.normal(0, 0.2**0.5, 200)
        b = base + 0.4 * member + rng.normal(0, 0.2**0.5, 200)
        hits += paired_auc_difference(a, b, member, seed=seed, n_boot=400).contains(truth)
    assert 0.90 <= hits / 200 <= 0.99


def test_two_thousand_resamples_of_a_real_table_take_no_time():
    scores, member = draw(6, m=400, n=2000)
    start = time.perf_counter()
    paired_auc_difference(scores, scores[::-1], member, seed=0)
    assert time.perf_counter() - start < 5


# ---- TPR at FPR ----------------------------------------------------------------------------------


def test_tpr_at_fpr_worked_by_hand():
    nonmembers, members = np.arange(100), np.array([98.5, 99.5, 94, 95, 50])
    scores, member = np.r_[members, nonmembers], np.arange(105) < 5
    assert tpr_at_fpr(scores, member, 0.01).value == 2 / 5  # threshold 98, one accused
    assert tpr_at_fpr(scores, member, 0.05).value == 3 / 5  # threshold 94, strictly above
    assert tpr_at_fpr(scores, member, 0.0599).value == 3 / 5
    assert tpr_at_fpr(scores, member, 1).value == 1


def test_non_members_tied_at_the_threshold_are_not_accused():
    scores = np.r_[np.full(10, 1.0), np.full(5, 1.0), np.zeros(95)]
    member = np.arange(110) < 10
    assert tpr_at_fpr(scores, member, 0.04).value == 0  # accusing one means accusing five
    assert tpr_at_fpr(scores, member, 0.05).value == 1


@few
@given(tied_scores(), st.floats(0.5, 1))
def test_the_rate_of_false_alarms_is_kept_and_no_better_threshold_exists(case, fpr):
    scores, member = case
    curve = roc(scores, member)
    n = (~member).sum()  # .07 * 100 is 7.000000000000001: a billionth of an image is none
    best = curve.tpr[curve.fpr * n <= fpr * n + 1e-9].max()
    assert tpr_at_fpr(scores, member, fpr).value == best


def test_clopper_pearson_as_tabulated():
    # 10 of 50: 10.0 % to 33.7 %; 0 of 20: upper 16.8 % = 1 - .025^(1/20).
    assert clopper_pearson(10, 50, 0.95) == pytest.approx((0.1003, 0.3372), abs=1e-4)
    assert clopper_pearson(0, 20, 0.95) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))


@pytest.mark.parametrize("n", [1, 2, 50, 3000])
def test_clopper_pearson_is_that_of_scipys_test(n):
    for hits in {0, 1, n // 2, n - 1, n}:
        limits = binomtest(hits, n).proportion_ci(0.9, "exact")
        assert clopper_pearson(hits, n, 0.9) == pytest.approx((limits.low, limits.high), abs=1e-9)


def test_no_tpr_is_claimed_below_one_over_n():
    scores, member = draw(7, m=50, n=500)
    tpr_at_fpr(scores, member, 1 / 500)
    with pytest.raises(ValueError, match=r"500 non-members.*1/500 = 0.002"):
        tpr_at_fpr(scores, member, 0.001)
    with pytest.raises(ValueError, match="fpr is 0"):
        tpr_at_fpr(scores, member, 0)
    with pytest.raises(ValueError, match=r"fpr is 1.5"):
        tpr_at_fpr(scores, member, 1.5)


@pytest.mark.parametrize("fpr, n", [(0.29, 100), (0.0003, 10_000), (0.1, 2000), (0.001, 3000)])
def test_rounding_never_costs_an_accusation(fpr, n):
    # In floating point .29 * 100 and .0003 * 10 000 fall short of 29 and 3.
    k = round(fpr * n)
    scores = np.r_[n - k - 0.5, n - k - 1.5, np.arange(n)]
    assert tpr_at_fpr(scores, np.arange(n + 2) < 2, fpr).value == 0.5


# ---- thresholds and accuracy ---------------------------------------------------------------------


@few
@given(tied_scores())
def test_best_threshold_beats_every_other(case):
    scores, member = case
    chosen = balanced_accuracy_at(scores, member, best_threshold(scores, member)).value
    others = [balanced_accuracy_at(scores, member, t).value for t in np.arange(-6, 6, 0.5)]
    assert chosen >= max(others) - 1e-12 and chosen >= 0.5


def test_best_threshold_lies_half_way_and_survives_neighbouring_floats():
    member = np.array([False, False, True, True])
    assert best_threshold(np.array([0.0, 1.0, 2.0, 3.0]), member) == 1.5
    low = np.nextafter(1.0, 2.0)
    scores = np.array([low, low, np.nextafter(low, 2.0), np.nextafter(low, 2.0)])
    assert balanced_accuracy_at(scores, member, best_threshold(scores, member)).value == 1


def test_accuracies_are_scikit_learns_and_their_intervals_hold_them():
    scores, member = draw(8, m=50, n=250)
    called = scores > 0.4
    plain, balanced = accuracy_at(scores, member, 0.4), balanced_accuracy_at(scores, member, 0.4)
    assert plain.value == pytest.approx((called == member).mean())
    assert balanced.value == pytest.approx(balanced_accuracy_score(member, called))
    assert plain.low < plain.value < plain.high
    assert balanced.low < balanced.value < balanced.high
    # With fewer members than non-members the balanced one is the less certain.
    assert balanced.high - balanced.low > plain.high - plain.low


def test_balanced_accuracy_covers_the_truth():
    truth = (norm.cdf(0.5) + norm.cdf(0.5)) / 2
    hits = sum(
        balanced_accuracy_at(*draw(seed, m=60, n=200), 0.5).contains(truth) for seed in range(400)
    )
    assert 0.92 <= hits / 400 <= 0.98


def test_calling_nobody_a_member_looks_good_only_unbalanced():
    scores, member = draw(9, m=20, n=180)
    assert accuracy_at(scores, member, np.inf).value == 0.9
    assert balanced_accuracy_at(scores, member, np.inf).value == 0.5


# ---- difference of means -------------------------------------------------------------------------


def test_the_difference_of_means_is_welchs():
    values, member = draw(21, m=4, n=3)
    found = mean_difference(values, member)
    expected = ttest_ind(values[member], values[~member], equal_var=False).confidence_interval()
    assert found.value == pytest.approx(values[member].mean() - values[~member].mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.n_members, found.n_nonmembers) == (4, 3)


def test_the_difference_of_constants_is_exact():
    member = np.arange(5) < 2
    found = mean_difference(member * 2.0, member)
    assert (found.value, found.low, found.high) == (2, 2, 2)


# ---- shares of such a difference -----------------------------------------------------------------


def test_a_share_and_what_is_left_of_it_make_one():
    rng, member = np.random.default_rng(3), np.arange(300) < 100
    part, rest = rng.normal(0, 1, 300) + 2 * member, rng.normal(0, 1, 300) + member
    one, other = (share_of_difference(x, part + rest, member) for x in (part, rest))
    assert one.value == pytest.approx(2 / 3, abs=0.1)
    # the two ends change places
    assert (one.value, one.low, one.high) == pytest.approx(
        (1 - other.value, 1 - other.high, 1 - other.low)
    )
    turned = share_of_difference(-part, -part - rest, ~member)
    assert (turned.low, turned.high) == pytest.approx((one.low, one.high))
    whole = share_of_difference(part, part, member)
    assert (whole.value, whole.low, whole.high) == pytest.approx((1, 1, 1))


def test_a_share_holds_the_truth_as_often_as_it_says():
    """400 experiments, a part and a rest that rise and fall together."""
    rng, member = np.random.default_rng(0), np.arange(300) < 100
    held = 0
    for _ in range(400):
        hard = rng.exponential(1, 300)
        part, rest = hard * rng.random(300) - 0.3 * member, hard - 0.6 * member
        held += share_of_difference(part, part + rest, member, 0.8).contains(1 / 3)
    assert 0.74 < held / 400 < 0.86


def test_a_share_of_nothing_is_refused():
    scores, member = draw(11)
    with pytest.raises(ValueError, match="not clear of 0; a share of it is anything"):
        share_of_difference(scores, np.tile([0.0, 1.0], len(member))[: len(member)], member)


# ---- errors --------------------------------------------------------------------------------------

METRICS = {
    "roc": roc,
    "auc": auc,
    "paired": lambda s, y: paired_auc_difference(s, s, y, seed=0),
    "tpr": lambda s, y: tpr_at_fpr(s, y, 0.1),
    "accuracy": lambda s, y: accuracy_at(s, y, 0),
    "balanced": lambda s, y: balanced_accuracy_at(s, y, 0),
    "threshold": best_threshold,
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_bad_scores_and_labels_are_refused_by_name(metric):
    scores, member = draw(10)
    spoilt = scores.copy()
    for bad in (np.nan, np.inf, -np.inf):
        spoilt[7] = bad
        with pytest.raises(ValueError, match="1 NaN or infinite values, the first at index 7"):
            metric(spoilt, member)
    with pytest.raises(ValueError, match=r"150 entries but member is \[149\]"):
        metric(scores, member[1:])
    with pytest.raises(ValueError, match="member must be boolean, found int64"):
        metric(scores, member.astype(np.int64))
    with pytest.raises(ValueError, match="0 members among 150"):
        metric(scores, np.zeros(150, bool))
    with pytest.raises(ValueError, match="1 non-members among 150"):
        metric(scores, np.arange(150) != 3)
    with pytest.raises(ValueError, match=r"must be real numbers \[n\]"):
        metric(scores[:, None], member)
    with pytest.raises(ValueError, match="must be real numbers"):
        metric(scores.astype(str), member)
    with pytest.raises(ValueError, match="0 members among 0"):
        metric(np.zeros(0), np.zeros(0, bool))


def test_bad_options_are_refused_by_name():
    scores, member = draw(11)
    with pytest.raises(ValueError, match="scores_b holds 1 NaN"):
        paired_auc_difference(scores, np.r_[np.nan, scores[1:]], member, seed=0)
    with pytest.raises(ValueError, match="scores_b has 149 entries"):
        paired_auc_difference(scores, scores[1:], member, seed=0)
    with pytest.raises(ValueError, match="method 'wald'"):
        auc(scores, member, method="wald")
    with pytest.raises(ValueError, match="needs a seed"):
        auc(scores, member, method="bootstrap")
    with pytest.raises(ValueError, match="n_boot is 10"):
        paired_auc_difference(scores, scores, member, seed=0, n_boot=10)
    with pytest.raises(ValueError, match="level is 95"):
        auc(scores, member, 95)
    with pytest.raises(ValueError, match="threshold is NaN"):
        accuracy_at(scores, member, float("nan"))


def test_torch_tensors_and_float32_are_welcome():
    scores, member = draw(12)
    scores = scores.astype(np.float32)
    assert auc(torch.from_numpy(scores), torch.from_numpy(member)) == auc(scores, member)


@pytest.mark.parametrize(("m", "n", "decimals"), [(40, 100, 9), (60, 30, 0), (25, 400, 1)])
def test_the_bootstrap_is_that_of_the_matrix_of_all_pairs(m, n, decimals):
    """Counts of a resample on both sides of the whole matrix: what is done without it, exactly."""
    rng = np.random.default_rng(m)
    member = rng.permutation(m + n) < m
    a = np.round(rng.normal(size=m + n) + member, decimals)
    b = np.round(a + rng.normal(size=m + n), decimals)

    def signs(scores):
        return np.sign(scores[member][:, None] - scores[~member])

    def means(pairs, draws):
        counts = [
            np.stack([np.bincount(draws.integers(k, size=k), minlength=k) for _ in range(200)])
            for k in (m, n)
        ]
        return np.einsum("bm,mn,bn->b", counts[0], pairs, counts[1]) / (m * n)

    ends = 0.5 - 0.95 / 2, 0.5 + 0.95 / 2
    found = paired_auc_difference(a, b, member, seed=3, n_boot=200)
    difference = signs(a) - signs(b)
    assert found.value == difference.mean() / 2
    expected = np.quantile(means(difference, np.random.default_rng(3)) / 2, ends)
    assert (found.low, found.high) == tuple(expected)
    alone = auc(a, member, method="bootstrap", seed=3, n_boot=200)
    expected = np.quantile(0.5 + means(signs(a), np.random.default_rng(3)) / 2, ends)
    assert (alone.low, alone.high) == tuple(expected)


def test_ten_thousand_of_each_are_compared_in_little_memory():
    """A matrix of all pairs would take 400 MB, in float32."""
    rng = np.random.default_rng(0)
    member = np.arange(20_000) < 10_000
    a = rng.normal(size=20_000) + member
    tracemalloc.start()
    found = paired_auc_difference(a, a + rng.normal(size=20_000), member, seed=0, n_boot=500)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.low > 0 and peak < 200 * 2**20


def test_a_method_is_checked_before_a_perfect_score_makes_it_needless():
    scores, member = np.arange(10.0), np.arange(10) >= 5
    with pytest.raises(ValueError, match="method 'boot': expected 'delong' or 'bootstrap'"):
        auc(scores, member, method="boot")
    with pytest.raises(ValueError, match="needs a seed"):
        auc(scores, member, method="bootstrap")
    assert auc(scores, member, method="bootstrap", seed=0).value == 1


@pytest.mark.parametrize("bad", [0, -5, 99, 150.0, True, math.nan, None], ids=repr)
def test_resamples_are_a_whole_number_of_at_least_100(bad):
    scores, member = draw(11)
    for ask in (
        lambda: auc(scores, member, method="bootstrap", seed=0, n_boot=bad),
        lambda: paired_auc_difference(scores, scores, member, seed=0, n_boot=bad),
    ):
        with pytest.raises(
            ValueError, match=r"n_boot is .*; expected (a whole number|at least 100)"
        ):
            ask()


@pytest.mark.parametrize("bad", [1.5, -1, True, "0"], ids=repr)
def test_a_seed_is_a_whole_number(bad):
    scores, member = draw(11)
    for ask in (
        lambda: auc(scores, member, method="bootstrap", seed=bad),
        lambda: paired_auc_difference(scores, scores, member, seed=bad),
    ):
        with pytest.raises(ValueError, match=r"seed is .*; expected"):
            ask()


@pytest.mark.parametrize("bad", [0, -0.1, 1.01, math.nan, math.inf, True, "0.1", None], ids=repr)
def test_a_false_positive_rate_lies_above_0_and_within_1(bad):
    with pytest.raises(ValueError, match=r"fpr is .*; expected a number"):
        tpr_at_fpr(*draw(11), bad)


@pytest.mark.parametrize("bad", [math.nan, True, None, "0"], ids=repr)
def test_a_threshold_is_a_number(bad):
    for measure in (accuracy_at, balanced_accuracy_at):
        with pytest.raises(ValueError, match="threshold is"):
            measure(*draw(11), bad)


@pytest.mark.parametrize("bad", [0, 1, 95, -0.1, math.nan, True, None], ids=repr)
def test_every_level_lies_between_0_and_1(bad):
    scores, member = draw(11)
    for ask in (
        lambda: auc(scores, member, bad),
        lambda: paired_auc_difference(scores, scores, member, seed=0, level=bad),
        lambda: tpr_at_fpr(scores, member, 0.5, bad),
        lambda: mean_difference(scores, member, bad),
        lambda: share_of_difference(scores, member * 9.0 + scores, member, bad),
        lambda: accuracy_at(scores, member, 0, bad),
        lambda: balanced_accuracy_at(scores, member, 0, bad),
    ):
        with pytest.raises(ValueError, match="level is"):
            ask()


@pytest.mark.parametrize("level", [1e-9, 0.01, 0.5, 0.999])
def test_an_estimate_lies_within_its_interval_at_any_level(level):
    scores, member = draw(11)
    rough = scores.round()
    for of in (
        auc(rough, member, level),
        auc(rough, member, level, "bootstrap", seed=1, n_boot=100),
        paired_auc_difference(scores, rough, member, seed=1, n_boot=100, level=level),
        tpr_at_fpr(rough, member, 0.3, level),
        mean_difference(rough, member, level),
        share_of_difference(rough, rough + 9 * member, member, level),
        accuracy_at(rough, member, 0, level),
        balanced_accuracy_at(rough, member, 0, level),
    ):
        assert of.low <= of.value <= of.high and of.level == level


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"value": 0.8}, r"not an interval: 0\.8 \[0\.5, 0\.7\], expected finite low <= value"),
        ({"value": 0.4}, "not an interval"),
        ({"value": math.nan}, "value is nan; expected a number that is finite"),
        ({"n_members": -1}, "n_members is -1; expected at least 0"),
        ({"n_members": 1.5}, "n_members is 1.5; expected a whole number"),
        ({"n_nonmembers": True}, "n_nonmembers is True; expected a whole number"),
        ({"level": 95}, "level is 95"),
        ({"level": 0}, "level is 0"),
    ],
    ids=str,
)
def test_an_interval_that_cannot_be_is_refused(change, found):
    good = {"value": 0.6, "low": 0.5, "high": 0.7, "n_members": 10, "n_nonmembers": 0}
    with pytest.raises(ValueError, match=found):
        Interval(**good | change)
    assert str(Interval(**good)) == ".60 [.50, .70]"
