"""Each image's own AUC: against the truth, against ranks, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from segleak_utils.metrics import auc, binormal_auc


def halves(k: int, n: int) -> np.ndarray:
    return np.random.default_rng(1).permuted(np.arange(k) < k // 2)[:, None].repeat(n, 1)


@pytest.mark.parametrize("k", [16, 32, 64])
@pytest.mark.parametrize("truth", [0.5, 0.75, 0.9])
def test_estimates_are_right_and_errors_are_those_of_repetitions(k, truth):
    inside = halves(k, 4000)
    shift = norm.ppf(truth) * 2**0.5
    scores = np.random.default_rng(k).normal(0, 1, inside.shape) + shift * inside
    found, errors = binormal_auc(scores, inside)
    assert abs(found.mean() - truth) < 0.012
    assert abs(np.sqrt((errors**2).mean()) / found.std() - 1) < 0.12
    ranks = np.array([auc(scores[:, i], inside[:, i]).value for i in range(300)])
    assert found[:300].std() <= ranks.std() * 1.02  # no worse than ranks where scores are normal


def test_errors_are_those_that_were_computed_beforehand():
    """By Hanley and McNeil's formula .104 at AUC .5 with 32 networks, .073 with 64."""
    for k, error in ((32, 0.104), (64, 0.073)):
        inside = halves(k, 4000)
        scores = np.random.default_rng(k).normal(0, 1, inside.shape)
        assert abs(binormal_auc(scores, inside)[1].mean() - error) < 0.01


def test_scale_place_and_order_of_networks_do_not_matter():
    rng, inside = np.random.default_rng(0), halves(12, 50)
    scores = rng.normal(0, 1, inside.shape) + inside
    found = binormal_auc(scores, inside)
    order = rng.permutation(12)
    for same in (binormal_auc(7 * scores + 3, inside), binormal_auc(scores[order], inside[order])):
        assert np.allclose(found, same)
    assert np.allclose(binormal_auc(-scores, inside)[0], 1 - found[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.full((4, 2), np.nan)}, "NaN"),
        ({"inside": np.ones((4, 2))}, r"inside is float64 \[4, 2\]; expected bool \[4, 2\]"),
        ({"inside": np.ones((4, 3), bool)}, r"bool \[4, 3\]; expected bool \[4, 2\]"),
        ({"inside": np.arange(8).reshape(4, 2) < 7}, "image 0: 4 networks .* and 0 were not"),
        ({"scores": np.zeros((4, 2))}, "image 0: all networks of a kind score it alike"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    told = {"scores": np.arange(8.0).reshape(4, 2), "inside": np.arange(8).reshape(4, 2) < 4}
    with pytest.raises(ValueError, match=message):
        binormal_auc(**(told | change))
