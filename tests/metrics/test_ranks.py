"""Rank correlations: against scipy, their intervals simulated, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from segleak_utils.metrics import paired_rank_difference, rank_correlation


def test_it_is_scipys_number():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 60))  # with ties
    assert rank_correlation(a, b).value == pytest.approx(spearmanr(a, b).statistic)
    c = rng.random(60)
    gap = spearmanr(a, b).statistic - spearmanr(a, c).statistic
    assert paired_rank_difference(a, b, c, seed=0).value == pytest.approx(gap)
    assert paired_rank_difference(a, b, c, seed=1) == paired_rank_difference(a, b, c, seed=1)


@pytest.mark.parametrize(
    ("n", "near", "far", "other"),
    [(800, 0.6, 0.4, 0.3), (200, 0.5, 0.5, 0.2), (800, 0.9, 0.8, 0.8)],
)
def test_nineteen_of_twenty_intervals_hold_the_truth(n, near, far, other):
    mixed = np.linalg.cholesky(np.array([[1, near, far], [near, 1, other], [far, other, 1]]))
    true_near, true_far = (6 / np.pi * np.arcsin(r / 2) for r in (near, far))
    rng, held = np.random.default_rng(0), np.zeros(2)
    for _ in range(120):
        ruler, a, b = mixed @ rng.standard_normal((3, n))
        held[0] += rank_correlation(ruler, np.exp(a)).contains(true_near)
        gap = paired_rank_difference(ruler, a, b, seed=0, n_boot=200)
        held[1] += gap.contains(true_near - true_far)
    assert (np.abs(held / 120 - 0.95) < 0.04).all()


def test_what_has_no_ranks_is_refused():
    with pytest.raises(ValueError, match="3 numbers beside 4"):
        rank_correlation([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="all 4 are 2: what is all the same has no ranks"):
        rank_correlation([1, 2, 3, 4], [2, 2, 2, 2])
    with pytest.raises(ValueError, match="the number of images is 3"):
        rank_correlation([1, 2, 3], [1, 2, 3])
