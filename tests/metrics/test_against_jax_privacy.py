"""Our bounds on epsilon against those of jax_privacy (the group `compare`)."""

from __future__ import annotations

import numpy as np
import pytest

from segleak_utils import metrics

auditing = pytest.importorskip("jax_privacy.auditing", reason="pip install segleak[compare]")

DELTA, LEVEL = 1e-4, 0.95


def scores_of(seed: int, n: int = 3000, mu: float = 1.0):
    rng = np.random.default_rng(seed)
    included = rng.random(n) < 0.5
    return rng.standard_normal(n) + mu * included, included


def theirs(scores, included, method: str, threshold: float | None = None, **options) -> float:
    auditor = auditing.CanaryScoreAuditor(scores[included], scores[~included])
    how = {} if threshold is None else {"threshold_strategy": auditing.Explicit(threshold)}
    return getattr(auditor, method)(1 - LEVEL, DELTA, **how, **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.5, 1.5])
def test_one_threshold_and_clopper_pearson(seed, threshold):
    scores, included = scores_of(seed)
    ours = metrics.bound_at(scores, included, threshold, DELTA)
    found = theirs(scores, included, "epsilon_clopper_pearson", threshold, one_sided=False)
    assert found == pytest.approx(ours.epsilon_low, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [1.0, 2.0])
@pytest.mark.parametrize(
    ("method", "bound"),
    [
        ("epsilon_one_run", metrics.guesses_bound),
        ("epsilon_one_run_fdp", metrics.one_run_gaussian_bound),
    ],
)
def test_one_run_from_the_same_guesses(method, bound, seed, threshold):
    scores, included = scores_of(seed)
    accused = scores > threshold
    counts = len(scores), int(accused.sum()), int((accused & included).sum())
    found = theirs(scores, included, method, threshold)
    assert found > 0.1
    assert found == pytest.approx(bound(*counts, DELTA, LEVEL), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_dp_where_they_have_one_threshold_to_correct_for(seed):
    """They take the best of all thresholds and pay for each; with coarse scores there are few."""
    scores, included = scores_of(seed)
    coarse = (scores > 0.5).astype(float)
    auditor = auditing.CanaryScoreAuditor(coarse[included], coarse[~included])
    tried = len(auditor._fn_counts)  # the ends are counted as thresholds, too
    hits, alarms = int(coarse[included].sum()), int(coarse[~included].sum())
    n, m = int(included.sum()), int((~included).sum())
    ours = metrics.gaussian_bound(hits, n, alarms, m, DELTA, 1 - (1 - LEVEL) / tried)
    assert theirs(coarse, included, "epsilon_from_gdp") == pytest.approx(ours, abs=1e-4)
    assert ours < metrics.gaussian_bound(hits, n, alarms, m, DELTA, LEVEL)
