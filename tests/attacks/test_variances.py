"""BaVarIA against slow twins: integrals in place of conjugate formulas, and a known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from toy_networks import toy_case

from segleak_utils import attacks, metrics
from segleak_utils.attacks import calibration, variances
from segleak_utils.attacks.variances import Prior

USUAL = Prior(mean=0.5, weight=0.7, shape=2.5, scale=1.3)


def naive_density(values: np.ndarray, prior: Prior) -> float:
    """Density of one image's values, mean and variance integrated out on a grid."""
    variance = np.exp(np.linspace(-6, 6, 301))[:, None]
    mean = np.linspace(-25, 25, 1001)[None]
    joint = stats.invgamma.pdf(variance, prior.shape, scale=prior.scale)
    joint = joint * stats.norm.pdf(mean, prior.mean, np.sqrt(variance / prior.weight))
    for value in values:
        joint = joint * stats.norm.pdf(value, mean, np.sqrt(variance))
    inner = integrate.trapezoid(joint, mean[0], axis=1)
    return float(integrate.trapezoid(inner, variance[:, 0]))


@pytest.mark.parametrize("values", [[0.2], [1.5, -0.4], [3.0, 2.0, 2.5]])
def test_the_evidence_is_the_integral_over_means_and_variances(values):
    found = np.exp(variances.log_evidence(np.array(values)[:, None], USUAL))
    assert found[0] == pytest.approx(naive_density(np.array(values), USUAL), rel=2e-3)


@pytest.mark.parametrize("out", [[0.2], [1.5, -0.4], [3.0, 2.0, 2.5]])
def test_deviations_are_those_of_the_predictive_distribution(out):
    """Student with 2 * shape degrees of freedom: the ratio of two evidences, value by value."""
    out = np.array(out)
    degrees = 2 * (USUAL.shape + len(out) / 2)
    for value in (-2.0, 0.3, 4.0):
        t = variances.deviations([value], out[:, None], USUAL)[0]
        scale = 1 / (variances.deviations([1.0], out[:, None], USUAL)[0]
                     - variances.deviations([0.0], out[:, None], USUAL)[0])  # fmt: skip
        both = naive_density(np.append(out, value), USUAL) / naive_density(out, USUAL)
        assert stats.t.pdf(t, degrees) / scale == pytest.approx(both, rel=4e-3)


def test_a_variance_moves_as_far_as_the_references_can_tell():
    out = np.array([[0.0, 0.0], [0.1, 4.0]])
    firm = Prior(mean=0.0, weight=1e-6, shape=1e6, scale=1e6)  # one variance, no usual mean: LiRA
    loose = Prior(mean=0.0, weight=1e-6, shape=1e-3, scale=1e-3)
    target = np.array([1.05, 3.0])
    distance = target - out.mean(0)
    np.testing.assert_allclose(
        variances.deviations(target, out, firm), distance / np.sqrt(1.5), rtol=1e-4
    )
    alone = calibration.lira_offline(target, out)
    free = variances.deviations(target, out, loose)
    assert free[0] > 3 * free[1] and alone[0] > 3 * alone[1]


def test_the_prior_is_found_again_where_it_was_true():
    rng = np.random.default_rng(0)
    truth = Prior(mean=2.0, weight=0.25, shape=3.0, scale=0.8)
    variance = stats.invgamma.rvs(truth.shape, scale=truth.scale, size=4000, random_state=rng)
    mean = rng.normal(truth.mean, np.sqrt(variance / truth.weight))
    values = rng.normal(mean, np.sqrt(variance), (4, 4000))
    found = variances.fit_prior(values)
    assert found.mean == pytest.approx(truth.mean, abs=0.1)
    for name in ("weight", "shape", "scale"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.25), name
    likelier = variances.log_evidence(values, found).sum()
    for other in (truth, Prior(found.mean, found.weight, found.shape * 2, found.scale * 2)):
        assert likelier >= variances.log_evidence(values, other).sum()
    moved = variances.fit_prior(10 + 3 * values)  # other units, the same images
    assert moved.mean == pytest.approx(10 + 3 * found.mean, abs=0.05)
    assert moved.shape == pytest.approx(found.shape, rel=0.05)


def test_the_prior_knows_no_member_and_the_attack_finds_members():
    learned = [toy_case(200, seed, k=2, leak=0.1) for seed in (1, 2)]
    values = [
        np.vstack([part[None] if part.ndim == 1 else part for part in of.losses])[:, ~of.member]
        for of in learned
    ]
    by_hand = variances.fit_prior(calibration.confidence(np.concatenate(values, 1)))
    assert variances.prior_of(learned) == by_hand
    for leak, finds in ((0.1, True), (0.0, False)):
        of = toy_case(200, 3, k=2, leak=leak)
        found = attacks.bavaria(of, learned)
        assert (metrics.auc(found.scores, of.member).low > 0.5) == finds
        own, out = (calibration.confidence(loss) for loss in of.losses)
        assert np.array_equal(found.scores, variances.deviations(own, out, by_hand))
    assert found.threshold != 0 and np.isfinite(found.threshold)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="weight"):
        Prior(0.0, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"expected \[N\] and \[K,N\]"):
        variances.deviations([0.0, 1.0], [[0.0]], USUAL)
    with pytest.raises(ValueError, match="at least two different ones"):
        variances.fit_prior(np.random.default_rng(0).normal(size=(1, 50)))
    with pytest.raises(ValueError, match="at least two different ones"):
        variances.fit_prior(np.ones((2, 50)))
    with pytest.raises(ValueError, match="expected as many"):
        variances.prior_of([toy_case(20, 1, k=2), toy_case(20, 2, k=3)])
    with pytest.raises(ValueError, match="expected as many"):
        variances.prior_of([])
