"""Bounds from whole trade-off curves: against slow twins, and how often they claim too much."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta, binom, norm

from segleak_utils.metrics import (
    approximate_curve,
    epsilon_bound,
    gaussian_bound,
    gaussian_curve,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    guesses_bound,
    joint_beta_bound,
    loss_curve,
    lowest,
    one_run,
    one_run_excess,
    one_run_gaussian,
    one_run_gaussian_bound,
    one_run_p_value,
    refuted_by,
)

# ---- curves --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mu", "epsilon"), [(0.1, 0.0), (1 / 3, 0.5), (1.0, 1.0), (3.0, 9.0)])
def test_the_delta_of_a_gaussian_is_the_gap_of_its_densities(mu, epsilon):
    def gap(x):
        return max(0.0, norm.pdf(x, mu) - math.exp(epsilon) * norm.pdf(x))

    begin = epsilon / mu + mu / 2  # where the one density becomes e^eps times the other
    expected = quad(gap, begin, begin + 12)[0]
    assert gaussian_delta(epsilon, mu) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("delta", [1e-9, 1e-4, 0.1])
def test_epsilon_and_mu_are_each_others_inverse(delta):
    for mu in (0.4, 1, 4, 20, 60):
        epsilon = gaussian_epsilon(mu, delta)
        assert math.log(gaussian_delta(epsilon, mu)) == pytest.approx(math.log(delta), rel=1e-6)
        assert gaussian_mu(epsilon, delta) == pytest.approx(mu, rel=1e-6)
    assert gaussian_epsilon(0, delta) == 0 == gaussian_epsilon(gaussian_mu(0, delta), delta)


def test_the_curve_of_a_gaussian_is_the_envelope_of_all_its_epsilons():
    fpr = np.linspace(0.01, 0.99, 9)
    lines = [
        approximate_curve(epsilon, gaussian_delta(epsilon, 1.0))(fpr)
        for epsilon in np.linspace(0, 8, 2000)
    ]
    assert np.min(lines, 0) == pytest.approx(gaussian_curve(1.0)(fpr), abs=1e-6)


def test_a_curve_of_losses_is_that_of_the_best_test():
    """Two answers of randomised response, told twice: all 16 ways to accuse, and mixtures."""
    chance = 0.7
    with_it = np.array([chance**2, chance * (1 - chance), chance * (1 - chance), (1 - chance) ** 2])
    without = with_it[::-1]
    best = {0.0: 0.0}
    for accused in itertools.product((0, 1), repeat=4):
        alarms, hits = without @ accused, with_it @ accused
        best[round(alarms, 9)] = max(best.get(round(alarms, 9), 0), hits)
    loss = 2 * math.log(chance / (1 - chance))
    curve = loss_curve([-loss, 0, loss], [with_it[3], 2 * with_it[1], with_it[0]])
    corners = {(1 - chance) ** 2: chance**2, 1 - chance**2: 1 - (1 - chance) ** 2}
    for alarms, hits in best.items():
        assert hits <= curve(np.array([alarms]))[0] + 1e-9
    for alarms, hits in corners.items():
        assert curve(np.array([alarms]))[0] == pytest.approx(hits)
    # a loss without end is found without an alarm
    assert loss_curve([0.0], [0.9])(np.array([0.0]))[0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("losses", "chances", "match"),
    [
        ([0.0, 0.0], [0.5, 0.5], "do not ascend"),
        ([0.0, 1.0], [0.5], "2 losses and 1 chances"),
        ([], [], "0 losses"),
        ([0.0, 1.0], [1.5, -0.5], "chances of -0.5"),
        ([0.0, 1.0], [1.0, 0.5], "sum of 1.5"),
        ([0.0, np.inf], [0.5, 0.5], "NaN or infinite"),
    ],
)
def test_losses_that_cannot_be_are_refused(losses, chances, match):
    with pytest.raises(ValueError, match=match):
        loss_curve(np.array(losses), np.array(chances))


# ---- hits and alarms -----------------------------------------------------------------------------

COUNTS = [(300, 500, 180, 500), (40, 50, 2, 60), (500, 500, 0, 500), (9, 10, 0, 10)]


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_gaussian_and_clopper_pearson_are_the_difference_of_two_quantiles(counts):
    hits, n, alarms, m = counts
    tpr = beta.ppf(0.025, hits, n - hits + 1)
    fpr = beta.ppf(0.975, alarms + 1, m - alarms)
    expected = gaussian_epsilon(max(0.0, norm.ppf(tpr) - norm.ppf(fpr)), 1e-4)
    assert gaussian_bound(*counts, 1e-4) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_joint_beta_is_the_share_of_draws_from_both_posteriors(counts):
    hits, n, alarms, m = counts
    rng = np.random.default_rng(0)
    tpr = rng.beta(hits + 0.5, n - hits + 0.5, 400_000)
    fpr = rng.beta(alarms + 0.5, m - alarms + 0.5, 400_000)
    mu = np.quantile(norm.ppf(tpr) - norm.ppf(fpr), 0.05)
    found = gaussian_bound(*counts, 1e-4, interval="joint-beta")
    assert found == pytest.approx(gaussian_epsilon(mu, 1e-4), rel=0.02)
    delta = 1e-3
    with np.errstate(divide="ignore"):
        one = np.log(np.maximum(tpr - delta, 0) / fpr)
        other = np.log(np.maximum(1 - fpr - delta, 0) / (1 - tpr))
    low = max(0.0, np.quantile(np.maximum(one, other), 0.05))
    assert joint_beta_bound(*counts, delta) == pytest.approx(low, rel=0.02, abs=0.01)


def test_a_curve_says_more_than_one_point_of_it_and_joint_more_than_two_limits():
    counts, delta = (2831, 5000, 2169, 5000), 1e-4
    plain, joint = epsilon_bound(*counts, delta), joint_beta_bound(*counts, delta)
    exact = gaussian_bound(*counts, delta)
    most = gaussian_bound(*counts, delta, interval="joint-beta")
    assert 0 < plain < joint < exact < most < gaussian_epsilon(1 / 3, delta)
    assert gaussian_bound(5, 10, 5, 10, delta) == joint_beta_bound(5, 10, 5, 10, delta) == 0


def test_an_epsilon_and_a_curve_refute_the_same():
    """`epsilon_bound` is where (epsilon, delta)'s own curve is no longer refuted."""
    counts = 300, 500, 120, 400
    low = epsilon_bound(*counts, 1e-3)
    assert low > 0
    for epsilon, refuted in ((low - 1e-4, True), (low + 1e-4, False)):
        assert (refuted_by(approximate_curve(epsilon, 1e-3), *counts) > 0) is refuted


def failures(interval: str, n: int, mu: float, at: float) -> float:
    """How often audits at threshold `at` refute a Gaussian that keeps its promise, exactly.

    All pairs of counts, each with its chance: nothing is left to luck.
    """
    tpr, fpr = norm.sf(at - mu), norm.sf(at)
    least, most = binom.ppf([1e-6, 1 - 1e-6], n, fpr).astype(int)
    curve, wrong, hits = gaussian_curve(mu), 0.0, 0
    for alarms in range(least, most + 1):  # the fewest hits that refute rise with the alarms
        while hits <= n and refuted_by(curve, hits, n, alarms, n, interval=interval) <= 0:
            hits += 1
        wrong += binom.pmf(alarms, n, fpr) * binom.sf(hits - 1, n, tpr)
    return wrong


@pytest.mark.parametrize(
    ("interval", "n", "most"),
    [
        ("clopper-pearson", 30, 0.05),
        ("clopper-pearson", 500, 0.05),
        # a credible bound, not a confidence bound: with few canaries in the tail it errs more
        ("joint-beta", 30, 0.08),
        ("joint-beta", 300, 0.055),
    ],
)
def test_of_all_audits_of_a_gaussian_few_claim_too_much(interval, n, most):
    rates = [failures(interval, n, mu, at) for mu, at in ((1 / 3, 1 / 6), (1.3, 0.65), (2, 1.5))]
    assert 0 < max(rates) <= most


# ---- one training --------------------------------------------------------------------------------


def naive_excess(mu: float, n: int, guesses: int, right: int, tau: float) -> float:
    """Algorithm 3 of Mahloujifar et al. with lists, as it is printed."""
    r, h = [0.0] * (right + 1), [0.0] * (right + 1)
    r[right], h[right] = tau * right / n, tau * (guesses - right) / n
    for i in reversed(range(right)):
        inverse_blow_up = norm.cdf(norm.ppf(min(r[i + 1], 1.0)) - mu)
        h[i] = max(h[i + 1], inverse_blow_up)
        r[i] = r[i + 1] + i / (guesses - i) * (h[i] - h[i + 1])
    return r[0] + h[0] - guesses / n


@pytest.mark.parametrize(
    ("n", "guesses", "right"), [(100, 100, 70), (1000, 100, 75), (1000, 1000, 560), (50, 10, 10)]
)
def test_the_f_dp_of_one_run_is_the_published_recursion(n, guesses, right):
    for mu in (0.05, 0.3, 1.0, 3.0):
        expected = naive_excess(mu, n, guesses, right, 0.05)
        found = one_run_excess(gaussian_curve(mu), n, guesses, right)
        assert (found > 0) == (expected > 0)
        if expected < 0.5:  # above, a share is cut at 1
            assert found == pytest.approx(expected, abs=1e-9)
    low = one_run_gaussian_bound(n, guesses, right, 1e-4)
    mu = gaussian_mu(low, 1e-4)
    if low:
        assert naive_excess(mu * 0.999, n, guesses, right, 0.05) > 0
    assert naive_excess(mu * 1.001, n, guesses, right, 0.05) <= 1e-9


def test_it_counts_the_same_guesses_and_proves_more_of_them():
    rng = np.random.default_rng(0)
    included = rng.random(4000) < 0.5
    scores = rng.standard_normal(4000) + included
    plain = one_run(scores, included, 400, 1e-4)
    curve = one_run_gaussian(scores, included, 400, 1e-4)
    assert (plain.right, plain.guesses, plain.n) == (curve.right, curve.guesses, curve.n)
    assert 0 < plain.epsilon_low < curve.epsilon_low < gaussian_epsilon(1.0, 1e-4)
    assert plain.epsilon_low == guesses_bound(4000, 400, plain.right, 1e-4)
    assert one_run_p_value(4000, 400, plain.right, plain.epsilon_low, 1e-4) == pytest.approx(0.05)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_of_many_trainings_few_are_found_to_leak_more_than_they_do(share):
    rng, n, mu = np.random.default_rng(1), 1000, 1.0
    promised, found = gaussian_epsilon(mu, 1e-4), []
    for _ in range(200):
        included = rng.random(n) < 0.5
        scores = rng.standard_normal(n) + mu * included
        found.append(one_run_gaussian(scores, included, round(share * n), 1e-4).epsilon_low)
    assert np.mean(np.array(found) > promised) <= 0.05
    assert np.mean(found) > 0.2 * promised


def test_a_parameter_is_found_between_its_ends():
    assert lowest(lambda x: -1.0, 2, 9) == 2
    assert lowest(lambda x: 1.0, 2, 9) == 9
    assert lowest(lambda x: 5 - x, 2, 9) == pytest.approx(5)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: gaussian_bound(1, 2, 0, 2, 0), r"delta is 0.*\(0, 1\)"),
        (lambda: gaussian_bound(3, 2, 0, 2, 1e-4), "hits is 3"),
        (lambda: gaussian_bound(1, 2, 0, 2, 1e-4, interval="wald"), "interval 'wald'; expected"),
        (lambda: gaussian_bound(1, 2, 0, 2, 1e-4, level=1), "level is 1"),
        (lambda: gaussian_epsilon(-1, 0.1), "mu is -1"),
        (lambda: gaussian_epsilon(math.nan, 0.1), "mu is nan"),
        (lambda: gaussian_mu(1e6, 0.1), "epsilon is 1000000"),
        (lambda: gaussian_delta(-1, 1), "epsilon is -1"),
        (lambda: gaussian_curve(61), "mu is 61"),
        (lambda: approximate_curve(math.inf, 0), "epsilon is inf"),
        (lambda: joint_beta_bound(1, 2, 0, 2, 1), "delta is 1"),
        (lambda: one_run_excess(gaussian_curve(1), 10, 11, 5), "guesses is 11"),
        (lambda: one_run_gaussian_bound(10, 5, 6, 1e-4), "right is 6"),
        (lambda: one_run_gaussian_bound(10, 5, 5, 0), "delta is 0"),
        (lambda: guesses_bound(10, 5, 6, 1e-4), "right is 6"),
    ],
)
def test_what_cannot_be_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
