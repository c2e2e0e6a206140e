"""Lower bounds on epsilon: by hand, against brute force, and where nothing may be said."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import beta, binom

from segleak_utils.metrics import (
    audited,
    bound_at,
    epsilon_bound,
    one_run,
    one_run_bound,
    one_run_p_value,
)
from segleak_utils.metrics.epsilon import _one_run_low
from segleak_utils.studies import epsilon

# ---- hits against false alarms -------------------------------------------------------------------


def test_a_perfect_attack_on_few_images_proves_what_can_be_worked_out_by_hand():
    # all of 10 found: the TPR is above .025 ** (1 / 10); no alarm among 20: FPR below 1 - that
    tpr, fpr = 0.025 ** (1 / 10), 1 - 0.025 ** (1 / 20)
    expected = max(math.log(tpr / fpr), math.log((1 - fpr) / (1 - tpr)))
    assert epsilon_bound(10, 10, 0, 20, 0) == pytest.approx(expected)
    less = max(math.log((tpr - 0.1) / fpr), math.log((1 - fpr - 0.1) / (1 - tpr)))
    assert epsilon_bound(10, 10, 0, 20, 0.1) == pytest.approx(less)


def test_it_is_the_larger_of_both_directions_of_clopper_pearson():
    for hits, n, alarms, m, delta, level in (
        (30, 100, 2, 200, 1e-4, 0.95),
        (99, 100, 100, 200, 1e-4, 0.95),
        (60, 100, 40, 100, 0.0, 0.9),
    ):
        tail = (1 - level) / 2
        tpr, fpr = beta.ppf(tail, hits, n - hits + 1), beta.ppf(1 - tail, alarms + 1, m - alarms)
        # the limits by their definition: so many hits or more are just that unlikely
        assert binom.sf(hits - 1, n, tpr) == pytest.approx(tail)
        assert binom.cdf(alarms, m, fpr) == pytest.approx(tail)
        both = math.log((tpr - delta) / fpr), math.log((1 - fpr - delta) / (1 - tpr))
        assert epsilon_bound(hits, n, alarms, m, delta, level) == pytest.approx(max(both))
        # accusing the others of the opposite is the same attack in the mirror
        mirrored = epsilon_bound(m - alarms, m, n - hits, n, delta, level)
        assert mirrored == pytest.approx(max(both))


@pytest.mark.parametrize("counts", [(0, 9, 0, 9), (9, 9, 9, 9), (5, 9, 5, 9), (0, 9, 9, 9)])
def test_where_nothing_can_be_said_it_is_zero(counts):
    assert epsilon_bound(*counts, 1e-4) == 0.0
    assert epsilon_bound(*counts, 0.99) == 0.0


def test_it_grows_with_images_and_falls_with_level_and_delta():
    def of(n=200, delta=1e-3, level=0.95):
        return epsilon_bound(n // 2, n, n // 20, n, delta, level)

    assert 0 < of(100) < of(200) < of(2000) < math.log(10)
    assert of(delta=0) > of(delta=0.1) > of(delta=0.3)
    assert of(level=0.5) > of(level=0.95) > of(level=0.999)


def test_both_limits_hold_together_at_the_level():
    """Of 2000 audits of epsilon-private answers, at most 5 % claim more than epsilon."""
    epsilon, n, rng = 1.0, 100, np.random.default_rng(0)
    tpr = math.e**epsilon / (1 + math.e**epsilon)  # randomised response: both directions tight
    pairs = rng.binomial(n, [tpr, 1 - tpr], (2000, 2))
    low = np.array([epsilon_bound(hits, n, alarms, n, 0) for hits, alarms in pairs])
    assert (low > epsilon).mean() <= 0.05
    assert 0.3 < low.mean() < epsilon


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ((11, 10, 0, 10), r"hits is 11; expected 0\.\.10"),
        ((-1, 10, 0, 10), r"hits is -1; expected 0\.\.10"),
        ((1, 10, 0, 0), "n_nonmembers is 0; expected 1"),
        ((0.5, 10, 0, 10), r"hits is 0\.5; expected a whole number"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts, match):
    with pytest.raises(ValueError, match=match):
        epsilon_bound(*counts, 1e-4)


@pytest.mark.parametrize("bad", [(-0.1, 0.95), (1, 0.95), (0, 0), (0, 1), (math.nan, 0.95)])
def test_so_are_a_delta_and_a_level_that_cannot_be(bad):
    with pytest.raises(ValueError, match=r"(delta|level) is .*; expected a number in [\[(]0, 1\)"):
        epsilon_bound(1, 2, 0, 2, *bad)
    with pytest.raises(ValueError, match=r"(delta|level) is .*; expected a number in [\[(]0, 1\)"):
        one_run_bound(np.arange(4.0), np.array([0, 0, 1, 1], bool), 4, *bad)


# ---- the threshold -------------------------------------------------------------------------------


def test_a_perfect_attack_reaches_what_half_of_the_images_can_show():
    member = np.arange(60) < 20
    of = audited(member + np.linspace(0, 0.5, 60), member, 1e-4, seed=0)
    assert (of.hits, of.n_members, of.alarms, of.n_nonmembers) == (10, 10, 0, 20)
    assert of.epsilon_low == of.largest == epsilon_bound(10, 10, 0, 20, 1e-4) > 0
    assert 0.5 <= of.threshold < 1.5


def test_the_threshold_is_the_best_of_the_half_that_is_not_counted():
    rng = np.random.default_rng(1)
    member = np.arange(400) < 150
    scores = rng.normal(size=400) + 2 * member
    of = audited(scores, member, 1e-4, seed=5)
    rng = np.random.default_rng(5)
    chosen = [rng.permutation(np.flatnonzero(group)) for group in (member, ~member)]
    chosen = np.concatenate([at[: len(at) // 2] for at in chosen])
    others = np.setdiff1d(np.arange(400), chosen)

    def bound(at, threshold):
        inside, outside = scores[at][member[at]], scores[at][~member[at]]
        hits, alarms = int((inside > threshold).sum()), int((outside > threshold).sum())
        return epsilon_bound(hits, len(inside), alarms, len(outside), 1e-4)

    best = max(bound(chosen, threshold) for threshold in scores[chosen])
    assert bound(chosen, of.threshold) == best
    assert of.epsilon_low == bound(others, of.threshold) > 0.5
    assert of == bound_at(scores[others], member[others], of.threshold, 1e-4)
    # what the counted half says has no part in the choice
    changed = scores.copy()
    changed[others] = rng.normal(size=len(others))
    assert audited(changed, member, 1e-4, seed=5).threshold == of.threshold
    assert audited(scores, member, 1e-4, seed=6) != of


def test_a_blind_attack_is_found_blind_as_often_as_the_level_says():
    rng = np.random.default_rng(2)
    member = np.arange(300) < 100
    draws = rng.normal(size=(200, 300))
    for level in (0.5, 0.95):
        found = [audited(scores, member, 0, seed=0, level=level).epsilon_low for scores in draws]
        assert np.mean(np.array(found) > 0) <= 1 - level
    # the best threshold of all, chosen on the images that are counted, proves what is not there
    oracle = [
        max(bound_at(scores, member, t, 0, level=0.5).epsilon_low for t in scores[::6])
        for scores in draws[:30]
    ]
    assert np.mean(np.array(oracle) > 0) > 0.5


def test_scores_that_are_all_the_same_prove_nothing():
    member = np.arange(40) < 20
    of = audited(np.zeros(40), member, 0, seed=0)
    assert of.epsilon_low == 0 and of.hits in (0, 10) and of.alarms in (0, 10)


def test_scores_that_cannot_be_audited_are_refused():
    member = np.arange(8) < 3
    with pytest.raises(ValueError, match=r"3 members and 5 non-members; expected at least 4"):
        audited(np.arange(8.0), member, 0, seed=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        audited(np.full(8, np.nan), member, 0, seed=0)
    with pytest.raises(ValueError, match="must be boolean"):
        bound_at(np.arange(8.0), member.astype(int), 0.5, 0)
    with pytest.raises(ValueError, match="threshold is NaN"):
        bound_at(np.arange(8.0), member, math.nan, 0)


# ---- one training --------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("n", [1, 4, 7])
def test_without_delta_the_p_value_is_that_of_all_outcomes_counted(n, epsilon):
    chance = math.exp(epsilon) / (1 + math.exp(epsilon))
    for right in range(n + 1):
        expected = sum(
            math.prod(chance if hit else 1 - chance for hit in outcome)
            for outcome in itertools.product((0, 1), repeat=n)
            if sum(outcome) >= right
        )
        assert one_run_p_value(n, n, right, epsilon, 0) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "guesses", "right"), [(10, 10, 9), (50, 20, 20), (50, 20, 0)])
def test_delta_adds_the_likeliest_shift_as_a_loop_has_it(n, guesses, right):
    epsilon, delta = 0.4, 1e-3
    chance = 1 / (1 + math.exp(-epsilon))
    shifts = [
        sum(binom.pmf(k, guesses, chance) for k in range(max(0, right - i), right)) / i
        for i in range(1, n + 1)
    ]
    expected = binom.sf(right - 1, guesses, chance) + 2 * n * delta * max(shifts)
    found = one_run_p_value(n, guesses, right, epsilon, delta)
    assert found == pytest.approx(min(expected, 1))


def test_the_bound_is_the_epsilon_at_which_the_p_value_meets_the_level():
    # all of 10 right: q ** 10 = .05
    chance = 0.05 ** (1 / 10)
    scores, included = np.arange(10.0), np.arange(10) >= 5
    assert one_run_bound(scores, included, 10, 0) == pytest.approx(math.log(chance / (1 - chance)))
    # the guesses of the paper's own example, 75 right of 100 on 1000 canaries
    low = _one_run_low(1000, 100, 75, 1e-4, 0.95)
    assert one_run_p_value(1000, 100, 75, low, 1e-4) == pytest.approx(0.05)
    assert low == pytest.approx(0.673, abs=1e-3)
    assert _one_run_low(1000, 100, 50, 1e-4, 0.95) == 0


def test_delta_can_take_all_of_it():
    scores, included = np.arange(10.0), np.arange(10) >= 5
    found = [one_run_bound(scores, included, 10, delta) for delta in (0, 1e-3, 1e-2, 0.5)]
    assert found == sorted(found, reverse=True) and found[0] > found[1] > found[-1] == 0


def test_the_ends_are_guessed_and_the_middle_is_not():
    #                 out        in  |   abstains   | out  in
    scores = np.array([-3.0, -2, -2.5, 0, 0.1, 0.2, 5, 7, 6])
    included = np.array([0, 0, 1, 0, 1, 0, 0, 1, 1], bool)
    of = one_run(scores, included, 6, 0)
    assert (of.right, of.guesses, of.n) == (4, 6, 9)
    of = one_run(scores, included, 5, 0)  # the odd one is an "in"
    assert (of.right, of.guesses) == (3, 5)
    assert one_run(scores, included, 1, 0).right == 1
    assert one_run(scores, included, 9, 0).guesses == 9
    assert of.largest == one_run(np.arange(5.0), np.arange(5) > 1, 5, 0).epsilon_low


def test_equal_scores_are_not_parted_by_their_order():
    included = np.arange(20) >= 10
    assert one_run(np.zeros(20), included, 20, 0).guesses == 0
    assert one_run_bound(np.zeros(20), included, 20, 0) == 0
    scores = np.array([0.0] * 3 + [1] * 14 + [2] * 3)
    of = one_run(scores, included, 12, 0)  # six at each end, but only three stand out
    assert (of.right, of.guesses) == (6, 6)


def answers(included, epsilon, rng):
    """Randomised response: each canary's coin, told rightly with chance e^eps / (1 + e^eps)."""
    true = rng.random(len(included)) < math.exp(epsilon) / (1 + math.exp(epsilon))
    return (included == true) + 1e-3 * rng.random(len(included))


def test_randomised_response_is_hardly_ever_found_to_leak_more_than_it_does():
    rng = np.random.default_rng(3)
    found = []
    for seed in range(200):
        included = epsilon.coins(1000, seed)
        found.append(one_run_bound(answers(included, 1.0, rng), included, 1000, 0))
    assert np.mean(np.array(found) < 1) >= 0.95
    assert 0.75 < np.mean(found) < 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scores": np.full(100, math.inf)}, "scores holds 100 NaN or infinite values"),
        ({"scores": np.zeros((100, 1))}, r"scores must be real numbers \[n\]"),
        ({"scores": np.arange(99.0)}, "scores has 99 entries but included"),
        ({"included": np.arange(100) % 2}, "included must be boolean"),
        ({"included": np.ones(100, bool)}, "100 of 100 canaries are included: that is no fair"),
        ({"n_guesses": 0}, r"n_guesses is 0; expected 1\.\.100"),
        ({"n_guesses": 101}, r"n_guesses is 101; expected 1\.\.100"),
    ],
)
def test_canaries_that_cannot_be_audited_are_refused(change, match):
    asked = {"scores": np.arange(100.0), "included": np.arange(100) % 2 == 0, "n_guesses": 10}
    with pytest.raises(ValueError, match=match):
        one_run_bound(**asked | change, delta=0)


def test_a_p_value_of_more_right_than_guessed_is_refused():
    with pytest.raises(ValueError, match=r"right is 11; expected 0\.\.10"):
        one_run_p_value(100, 10, 11, 1.0, 0)


@pytest.mark.parametrize("bad", [1.0, True, np.float64(3), "3", None, math.nan], ids=repr)
@pytest.mark.parametrize("name", ["n", "guesses", "right"])
def test_a_p_value_counts_in_whole_numbers(name, bad):
    asked = {"n": 10, "guesses": 4, "right": 2, "epsilon": 0.5, "delta": 0} | {name: bad}
    with pytest.raises(ValueError, match=rf"{name} is .*; expected a whole number"):
        one_run_p_value(**asked)


@pytest.mark.parametrize("bad", [-1, 1, 2, math.nan, math.inf, True])
def test_a_delta_that_cannot_be_is_refused_everywhere(bad):
    scores, included = np.arange(8.0), np.arange(8) >= 4
    for ask in (
        lambda: one_run_p_value(10, 4, 2, 0.5, bad),
        lambda: one_run(scores, included, 8, bad),
        lambda: one_run_bound(scores, included, 8, bad),
        lambda: epsilon_bound(4, 4, 0, 4, bad),
        lambda: bound_at(scores, included, 0.5, bad),
        lambda: audited(scores, included, bad, seed=0),
    ):
        with pytest.raises(ValueError, match=r"delta is .*; expected a number in \[0, 1\)"):
            ask()


def test_an_epsilon_that_cannot_be_is_refused_and_an_infinite_one_promises_nothing():
    for bad in (-0.1, math.nan, "1", True, -math.inf):
        with pytest.raises(ValueError, match=r"epsilon is .*; expected a number"):
            one_run_p_value(10, 4, 2, bad, 0)
    assert one_run_p_value(10, 4, 4, math.inf, 0) == 1


def test_counts_of_a_small_type_do_not_overflow():
    """200 - 100 + 1 of int8 and 200 + 100 of uint8 are other numbers."""
    expected = epsilon_bound(200, 250, 3, 250, 1e-4)
    tpr, fpr = beta.ppf(0.025, 200, 51), beta.ppf(0.975, 4, 247)
    assert expected == pytest.approx(math.log((tpr - 1e-4) / fpr))
    small = [np.uint8(count) for count in (200, 250, 3, 250)]
    assert epsilon_bound(*small, 1e-4) == expected
    expected = one_run_p_value(200, 150, 100, 0.5, 1e-3)
    assert one_run_p_value(*(np.uint8(x) for x in (200, 150, 100)), 0.5, 1e-3) == expected
    included = np.arange(200) % 2 == 0
    assert one_run(included * 1.0, included, np.uint8(200), 0).right == 200


@pytest.mark.parametrize("bad", [10.0, True, "10", None], ids=repr)
def test_a_number_of_guesses_is_a_whole_one(bad):
    with pytest.raises(ValueError, match=r"n_guesses is .*; expected a whole number"):
        one_run(np.arange(20.0), np.arange(20) % 2 == 0, bad, 0)


def test_no_canary_and_no_seed_are_refused():
    with pytest.raises(ValueError, match="the number of canaries is 0; expected at least 1"):
        one_run(np.zeros(0), np.zeros(0, bool), 1, 0)
    for bad in (None, 1.5, -1, True):
        with pytest.raises(ValueError, match="seed is"):
            audited(np.arange(20.0), np.arange(20) > 9, 0, seed=bad)


def test_what_is_masked_does_not_count_in_an_audit():
    hidden = np.ma.array(np.arange(20.0), mask=np.arange(20) > 15)
    for ask in (
        lambda: one_run(hidden, np.arange(20) % 2 == 0, 4, 0),
        lambda: audited(hidden, np.arange(20) > 9, 0, seed=0),
        lambda: bound_at(hidden, np.arange(20) > 9, 4.5, 0),
    ):
        with pytest.raises(ValueError, match="scores is a masked array"):
            ask()
