"""The white box: what it sees beside losses, and bad norms."""

from __future__ import annotations

import numpy as np
import pytest
from toy_networks import C, toy_case

from segleak_utils import attacks, metrics
from segleak_utils.attacks import references, whitebox
from segleak_utils.attacks.whitebox import Opened


def opened(n: int, seed: int, *, leak: float) -> Opened:
    """Losses that tell nothing, and members' gradients that are smaller by `leak`."""
    case, rng = toy_case(n, seed, k=2), np.random.default_rng(seed)
    hard = rng.gamma(4, 1, (n, 1 + C))
    own = hard * (1 - leak * case.member[:, None]) * rng.uniform(0.9, 1.1, hard.shape)
    return Opened(case, own, hard * rng.uniform(0.9, 1.1, (2, *hard.shape)))


def test_gradients_tell_what_losses_do_not():
    learned = [opened(80, seed, leak=0.2) for seed in (1, 2)]
    for leak, finds in ((0.2, True), (0.0, False)):
        of = opened(80, 3, leak=leak)
        area = metrics.auc(attacks.white_box(of, learned).scores, of.case.member)
        assert area.low > 0.7 if finds else area.contains(0.5)


def test_features_are_losses_log_norms_and_their_gain():
    of = opened(10, 1, leak=0.1)
    found = whitebox.features(of)
    n = found.shape[1] - 2 * (1 + C)
    assert np.array_equal(found[:, :n], references.structured_features(of.case))
    np.testing.assert_allclose(found[:, n : n + 1 + C], np.log(of.own), rtol=1e-4, atol=1e-5)
    gain = np.log(of.theirs[0] * of.theirs[1]) / 2 - np.log(of.own)
    np.testing.assert_allclose(found[:, n + 1 + C :], gain, rtol=1e-3, atol=1e-5)


def test_bad_norms_are_named():
    of = opened(10, 1, leak=0.1)
    with pytest.raises(ValueError, match=r"expected \[N, 1\+C\] and \[2, N, 1\+C\]"):
        Opened(of.case, of.own, of.theirs[:1])
    with pytest.raises(ValueError, match="rows of norms >= 0"):
        Opened(of.case, -of.own, of.theirs)
    with pytest.raises(ValueError, match="expected 10, as the case"):
        Opened(of.case, of.own[:5], of.theirs[:, :5])
    with pytest.raises(ValueError, match="norms"):
        Opened(of.case, of.own * np.nan, of.theirs)
    with pytest.raises(ValueError, match="no shadow to learn from"):
        attacks.white_box(of, [])
