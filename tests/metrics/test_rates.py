"""The TPR at an FPR, its paired difference, precision: simulated, by hand, against slow twins."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import beta, expon, gamma, norm
from scipy.stats import t as student

from segleak_utils.metrics import (
    Interval,
    paired_tpr_difference,
    precision_at,
    precision_of,
    precisions,
    rates,
    tpr_at_fpr,
    tpr_interval,
)
from segleak_utils.metrics.intervals import clopper_pearson


def bell(shift: float, spread: float = 1):
    return (
        lambda rng, n: rng.normal(shift, spread, n),
        lambda rng, n: rng.normal(0, 1, n),
        lambda fpr: norm(shift, spread).sf(norm.isf(fpr)),
    )


FAMILIES = {  # members' scores, non-members', and the true TPR at an FPR
    "AUC .5": bell(0),
    "AUC .75": bell(0.954),
    "AUC .9": bell(1.812),
    "members spread": bell(0, 2),
    "gamma": (
        lambda rng, n: rng.gamma(6, 1, n),
        lambda rng, n: rng.gamma(2, 1, n),
        lambda fpr: gamma(6).sf(gamma(2).isf(fpr)),
    ),
    "exponential": (
        lambda rng, n: rng.exponential(3, n),
        lambda rng, n: rng.exponential(1, n),
        lambda fpr: fpr ** (1 / 3),
    ),
    "heavy tail": (
        lambda rng, n: rng.normal(3, 1, n),
        lambda rng, n: rng.standard_t(3, n),
        lambda fpr: norm.sf(student(3).isf(fpr) - 3),
    ),
    "a few found": (
        lambda rng, n: rng.normal(0, 1, n) + 6 * (rng.random(n) < 0.1),
        lambda rng, n: rng.normal(0, 1, n),
        lambda fpr: 0.1 * norm.sf(norm.isf(fpr) - 6) + 0.9 * fpr,
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("m", "n", "fpr", "draws", "most"),
    [
        (400, 2000, 0.1, 1000, 0.98), (400, 2000, 0.01, 1000, 0.98), (100, 120, 0.1, 1000, 0.98),
        # one or two non-members above the threshold: it covers, and is wider than it need be
        (400, 2000, 0.001, 300, 1), (100, 120, 0.01, 300, 1),
    ],
)  # fmt: skip
def test_the_interval_of_a_tpr_covers(name, m, n, fpr, draws, most):
    """Three standard errors of .95 are .021 with 1000 draws."""
    members, others, truth = FAMILIES[name]
    rng, member, covered = np.random.default_rng(1), np.arange(m + n) < m, 0
    for _ in range(draws):
        scores = np.concatenate([members(rng, m), others(rng, n)])
        covered += tpr_at_fpr(scores, member, fpr).contains(truth(fpr))
    assert 0.93 <= covered / draws <= most


@pytest.mark.parametrize("name", ["AUC .9", "gamma", "heavy tail"])
def test_an_interval_over_the_members_alone_does_not(name):
    members, others, truth = FAMILIES[name]
    rng, m, n, covered = np.random.default_rng(1), 400, 2000, 0
    for _ in range(500):
        hits = (members(rng, m) > np.sort(others(rng, n))[-21]).sum()
        low, high = clopper_pearson(int(hits), m, 0.95)
        covered += low <= truth(0.01) <= high
    assert covered / 500 < 0.85


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("fpr", [0.02, 0.1, 0.7])
def test_the_interval_is_that_of_draws_by_hand(ties, fpr):
    rng = np.random.default_rng(3)
    member = np.arange(130) < 50
    scores = rng.normal(0, 1, 130) + member
    scores = scores.round(1) if ties else scores
    outside, drawn = -np.sort(-scores[~member]), []
    for _ in range(40_000):
        above = (rng.random(80) < fpr).sum()  # non-members above the true threshold
        upper = outside[above - 1] if above else np.inf
        lower = outside[above] if above < 80 else -np.inf
        least, most = ((scores[member] > bar).sum() for bar in (upper, lower))
        hits = rng.integers(least, most + 1)
        drawn.append(rng.beta(hits + 0.5, 50 - hits + 0.5))
    found = tpr_at_fpr(scores, member, fpr)
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.006)


@pytest.mark.parametrize("shift", [-9, 0, 2, 9])  # none is found, some, all
@pytest.mark.parametrize(
    ("m", "n", "fpr"), [(2, 2, 0.5), (3, 600, 0.01), (400, 20, 1), (40, 100, 0.1)]
)
def test_an_end_is_where_the_mixture_has_its_share_wherever_the_first_guess_lies(m, n, fpr, shift):
    member = np.arange(m + n) < m
    scores = np.random.default_rng(5).normal(0, 1, m + n) + shift * member
    hits, weights = rates._hits(np.sort(scores[:m]), np.sort(scores[m:]), fpr)
    for share in (0.0005, 0.025, 0.25, 0.75, 0.975, 0.9995):
        plain = brentq(
            lambda rate, share=share: weights @ beta.cdf(rate, hits + 0.5, m - hits + 0.5) - share,
            *(0, 1), xtol=1e-12,
        )  # fmt: skip
        assert rates._quantile(hits, weights, m, share) == pytest.approx(plain, abs=1e-7), share


def test_without_groups_there_is_one_interval_and_no_seed_in_it():
    rng = np.random.default_rng(4)
    member = np.arange(600) < 200
    scores = rng.normal(0, 1, 600) + member
    one = tpr_at_fpr(scores, member, 0.01, 0.9)
    assert one == tpr_interval(scores, member, 0.01, seed=0, level=0.9)
    assert one == tpr_interval(scores, member, 0.01, seed=1, level=0.9, n_boot=100)


def test_few_nonmembers_make_a_wide_interval_and_a_higher_level_a_wider_one():
    rng = np.random.default_rng(5)
    few, many = (np.arange(100 + n) < 100 for n in (100, 10_000))
    score = {len(of): rng.normal(0, 1, len(of)) + 2 * of for of in (few, many)}
    wide, narrow = (tpr_at_fpr(score[len(of)], of, 0.01) for of in (few, many))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.low < 0.05  # the threshold may lie above all hundred
    low, high = clopper_pearson(round(100 * narrow.value), 100, 0.95)
    assert narrow.high - narrow.low == pytest.approx(high - low, rel=0.15)
    wider = tpr_at_fpr(score[len(many)], many, 0.01, 0.99)
    assert wider.low < narrow.low < narrow.high < wider.high


def test_ends_that_can_be_told():
    """All members above all others, and nobody above anybody: Jeffreys' ends for all and none."""
    member = np.arange(700) < 200
    all_of = tpr_at_fpr(member * 1.0 + np.arange(700) / 1e4, member, 0.1)
    assert (all_of.value, all_of.high) == (1, 1) and all_of.low == pytest.approx(0.9876, abs=1e-3)
    none = tpr_at_fpr(-1.0 * member, member, 0.1)
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(1 - all_of.low)
    assert tpr_at_fpr(np.zeros(700), member, 0.1).value == 0


def test_a_large_table_takes_no_time():
    member = np.arange(200_000) < 100_000
    scores = np.random.default_rng(6).normal(0, 1, 200_000) + member
    begun = time.perf_counter()
    found = tpr_at_fpr(scores, member, 0.5)
    paired_tpr_difference(scores, -scores, member, 0.01, seed=0, n_boot=200)
    assert time.perf_counter() - begun < 20 and found.contains(norm.cdf(1))


# ---- paired difference ---------------------------------------------------------------------------


def twins(shift_a: float, shift_b: float, shared: float = 0.5):
    """Two bells' scores that share so much of their variance, and the true difference."""

    def draw(rng, m, n):
        member, z = np.arange(m + n) < m, rng.normal(size=(3, m + n))
        own = shared**0.5 * z[0] + (1 - shared) ** 0.5 * z[1:]
        return own[0] + shift_a * member, own[1] + shift_b * member, member

    return draw, lambda fpr: np.diff([norm.sf(norm.isf(fpr) - s) for s in (shift_b, shift_a)])[0]


def gammas(a: float, b: float):
    def draw(rng, m, n):
        member, common = np.arange(m + n) < m, rng.gamma(1, 1, m + n)
        own = [common + rng.gamma(np.where(member, k, 2) - 1) for k in (a, b)]
        return *own, member

    return draw, lambda fpr: np.diff([gamma(k).sf(gamma(2).isf(fpr)) for k in (b, a)])[0]


def exponentials(a: float, b: float):
    def draw(rng, m, n):
        member, z = np.arange(m + n) < m, rng.normal(size=(3, m + n))
        own = expon.isf(norm.cdf((z[0] + z[1:]) / 2**0.5))
        return own[0] * np.where(member, a, 1), own[1] * np.where(member, b, 1), member

    return draw, lambda fpr: fpr ** (1 / a) - fpr ** (1 / b)


def heavies(a: float, b: float):
    def draw(rng, m, n):
        member, z = np.arange(m + n) < m, rng.normal(size=(3, m + n))
        own = (z[0] + z[1:]) / 2**0.5 * np.where(member, 1, (3 / rng.chisquare(3, m + n)) ** 0.5)
        return own[0] + a * member, own[1] + b * member, member

    return draw, lambda fpr: np.diff([norm.sf(student(3).isf(fpr) - s) for s in (b, a)])[0]


def few(a: float, b: float):
    def draw(rng, m, n):
        member, z = np.arange(m + n) < m, rng.normal(size=(3, m + n))
        own, u = (z[0] + z[1:]) / 2**0.5, rng.random(m + n)
        return own[0] + 6 * (u < a) * member, own[1] + 6 * (u < b) * member, member

    return draw, lambda fpr: (a - b) * (norm.sf(norm.isf(fpr) - 6) - fpr)


PAIRS = {  # two scores of the same images and who is a member; the true difference at an FPR
    "as good": twins(0.954, 0.954),
    "AUC .9 and .75": twins(1.812, 0.954),
    "guessing": twins(0, 0),
    "nearly the same": twins(1.812, 1.6, 0.9),
    "gamma": gammas(6, 4),
    "exponential": exponentials(3, 2),
    "heavy tail": heavies(3, 2),
    "a few found": few(0.2, 0.1),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("m", "n", "fpr"), [(400, 2000, 0.1), (400, 2000, 0.01), (100, 120, 0.1)])
def test_the_paired_interval_covers(name, m, n, fpr):
    """Of 300 draws, three standard errors of .95 being .038. Two scores that are nearly the same
    leave little to cover but the roughness of both curves, and the interval is wider than need be.
    """
    draw, truth = PAIRS[name]
    most = 1 if name == "nearly the same" else 0.985 if n == 2000 else 0.995
    rng, covered = np.random.default_rng(2), 0
    for seed in range(300):
        found = paired_tpr_difference(*draw(rng, m, n), fpr, seed=seed, n_boot=300)
        covered += found.contains(truth(fpr))
    assert 0.92 <= covered / 300 <= most


def test_a_score_against_itself_is_exactly_zero():
    a, _, member = PAIRS["gamma"][0](np.random.default_rng(0), 50, 100)
    x = paired_tpr_difference(a, a**3, member, 0.1, seed=0)
    assert (x.value, x.low, x.high) == (0, 0, 0) and (x.n_members, x.n_nonmembers) == (50, 100)


def test_pairing_finds_what_two_intervals_hide():
    a, b, member = twins(1.812, 1.3, 0.9)[0](np.random.default_rng(0), 400, 2000)
    one, two = (tpr_at_fpr(s, member, 0.1) for s in (a, b))
    assert one.low < two.high + 0.05
    x = paired_tpr_difference(a, b, member, 0.1, seed=0)
    assert x.value == pytest.approx(one.value - two.value) and x.low > 0
    assert x.high - x.low < 0.8 * np.hypot(one.high - one.low, two.high - two.low)
    y = paired_tpr_difference(b, a, member, 0.1, seed=0)
    assert y.value == -x.value and (y.low, y.high) == pytest.approx((-x.high, -x.low), abs=0.01)
    assert x == paired_tpr_difference(a, b, member, 0.1, seed=0)
    assert x != paired_tpr_difference(a, b, member, 0.1, seed=1)


@pytest.mark.parametrize(("m", "n", "fpr"), [(400, 2000, 0.01), (100, 120, 0.1), (100, 120, 1)])
def test_against_one_that_finds_nobody_it_is_the_interval_of_the_tpr(m, n, fpr):
    """A score that puts all members last: the difference is the other's TPR."""
    a, _, member = PAIRS["AUC .9 and .75"][0](np.random.default_rng(1), m, n)
    last = np.where(member, -99, a)
    alone = tpr_at_fpr(a, member, fpr)
    x = paired_tpr_difference(a, last, member, fpr, seed=0, n_boot=20_000)
    if fpr == 1:  # everybody is accused by both
        assert x.value == 0 and x.high - x.low < 0.2
        return
    assert x.value == alone.value
    assert (x.low, x.high) == pytest.approx((alone.low, alone.high), abs=0.015)


def test_what_cannot_be_compared_is_refused():
    a, b, member = PAIRS["gamma"][0](np.random.default_rng(0), 50, 120)
    with pytest.raises(ValueError, match="120 non-members"):
        paired_tpr_difference(a, b, member, 0.001, seed=0)
    with pytest.raises(ValueError, match="scores_b"):
        paired_tpr_difference(a, b * np.nan, member, 0.1, seed=0)
    with pytest.raises(ValueError, match="n_boot"):
        paired_tpr_difference(a, b, member, 0.1, seed=0, n_boot=10)
    with pytest.raises(ValueError, match="seed"):
        paired_tpr_difference(a, b, member, 0.1, seed=None)


# ---- precision -----------------------------------------------------------------------------------


def test_the_precision_of_the_issue():
    assert [round(precision_at(0.35, 0.01, p), 2) for p in (0.5, 0.1, 0.01)] == [0.97, 0.8, 0.26]
    assert precisions(0.35, 0.01) == ".97 / .80 / .26"
    assert precisions(0, 0.01) == ".00 / .00 / .00" and precisions(1, 1e-9)[:4] == "1.00"
    with pytest.raises(ValueError, match="nobody is accused"):
        precision_at(0, 0, 0.5)


def test_the_interval_of_a_precision_is_that_of_the_tpr():
    rate = Interval(0.35, 0.0, 0.5, 100, 900)
    found = precision_of(rate, 0.01, 0.01)
    ends = [precision_at(tpr, 0.01, 0.01) for tpr in (rate.value, rate.low, rate.high)]
    assert [found.value, found.low, found.high] == ends and found.low == 0
    assert (found.n_members, found.n_nonmembers, found.level) == (100, 900, 0.95)
    half = precision_of(rate, 0.35, 0.5)  # as many of each are accused
    assert half.value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="nobody is accused"):
        precision_of(rate, 0, 0.5)
