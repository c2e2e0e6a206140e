"""Our numbers against those of the Adversarial Robustness Toolbox, where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from segleak_utils import metrics
from segleak_utils.attacks import peers

pytest.importorskip("art", reason="adversarial-robustness-toolbox is not installed")
from art.attacks.inference.membership_inference import LabelOnlyGapAttack
from art.estimators.classification import BlackBoxClassifier
from art.metrics.privacy import get_roc_for_fpr, get_roc_for_multi_fprs

RATES = (0.01, 0.02, 0.05, 0.1, 0.5)
VOID = 255


def scores_of(seed: int, decimals: int) -> tuple[np.ndarray, np.ndarray]:
    """300 members and 400 others; few decimals make ties."""
    rng = np.random.default_rng(seed)
    member = np.arange(700) < 300
    return np.round(rng.standard_normal(700) + 0.8 * member, decimals), member


@pytest.mark.parametrize("seed", range(5))
def test_tpr_at_fpr_is_theirs(seed):
    scores, member = scores_of(seed, 12)
    ours = [metrics.tpr_at_fpr(scores, member, rate).value for rate in RATES]
    found, theirs, thresholds = get_roc_for_multi_fprs(scores, member.astype(int), np.array(RATES))
    np.testing.assert_allclose(theirs, ours, atol=1e-12)
    # They call a score *at* their threshold a member, we call one *above* ours.
    for fpr, tpr, threshold in zip(found, theirs, thresholds, strict=True):
        assert tpr == pytest.approx((scores[member] >= threshold).mean())
        assert fpr == pytest.approx((scores[~member] >= threshold).mean())


@pytest.mark.parametrize("decimals", [2, 1])
@pytest.mark.parametrize("seed", range(5))
def test_with_ties_they_may_find_less_but_never_more(seed, decimals):
    """They read the rate off scikit-learn's ROC, which leaves out points between two others on a
    straight line. Without ties such a line is upright or level, and nothing is lost. A tie between
    members and others is a slanted one, and its point may be what the rate allows."""
    scores, member = scores_of(seed, decimals)
    fpr, tpr, _ = roc_curve(member, scores, drop_intermediate=False)
    for rate in RATES:
        ours = metrics.tpr_at_fpr(scores, member, rate).value
        assert ours == pytest.approx(tpr[fpr <= rate].max(), abs=1e-12)
        ((_, theirs, _),) = get_roc_for_fpr(scores, member.astype(int), targeted_fpr=rate)
        assert theirs <= ours + 1e-12


def test_a_tie_on_a_straight_line_is_what_they_leave_out():
    """Four levels, each with one member and one other: the ROC is the diagonal."""
    scores, member = np.repeat([4.0, 3, 2, 1], 2), np.array([True, False] * 4)
    assert metrics.tpr_at_fpr(scores, member, 0.5).value == 0.5
    assert get_roc_for_fpr(scores, member.astype(int), targeted_fpr=0.5)[0][:2] == (0.25, 0.25)


def test_the_gap_attack_calls_as_many_pixels_members_as_are_right():
    """The mean of its calls over an image is one minus the sum of our products of errors."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 4, (3, 16, 24), generator=generator, dtype=torch.uint8)
    predicted = torch.where(torch.rand(masks.shape, generator=generator) < 0.3, 0, masks)
    masks[torch.rand(masks.shape, generator=generator) < 0.1] = VOID
    features = peers.label_features(predicted, masks, 4)
    wrong = features[:, 8:16].sum(1)
    for image, mask, ours in zip(predicted, masks, wrong, strict=True):
        said, truth = (part[mask != VOID].long().numpy() for part in (image, mask))
        answers = BlackBoxClassifier(lambda x: np.eye(4)[x[:, 0].astype(int)], (1,), 4)
        calls = LabelOnlyGapAttack(answers).infer(said[:, None], truth)
        assert calls.mean() == pytest.approx(1 - ours, abs=1e-12)
