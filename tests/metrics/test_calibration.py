"""The calibration error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segleak_utils.metrics import calibration_counts, calibration_error

few = settings(max_examples=60, deadline=None)


# ---- calibration ---------------------------------------------------------------------------------


def plain_calibration(confidence, right, n_bins):
    """Bins [k/n, (k+1)/n), the last with its end; the weighted gap of each."""
    error = 0.0
    for k in range(n_bins):
        here = (confidence >= k / n_bins) & (confidence < (k + 1) / n_bins)
        if k == n_bins - 1:
            here |= confidence == 1
        if here.any():
            error += here.mean() * abs(confidence[here].mean() - right[here].mean())
    return error


def test_calibration_worked_by_hand():
    confidence = torch.tensor([[0.1, 0.2], [0.6, 1.0]])
    right = torch.tensor([[False, True], [True, False]])
    counts = calibration_counts(confidence, right, 2)
    assert counts.dtype == torch.float64
    torch.testing.assert_close(counts, torch.tensor([[2, 0.3, 1], [2, 1.6, 1]]).double())
    assert calibration_error(counts) == pytest.approx((0.7 + 0.6) / 4)


@few
@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(1, 20))
def test_the_calibration_error_is_the_plain_loop_and_adds_up_over_batches(seed, n, n_bins):
    rng = np.random.default_rng(seed)
    confidence, right = rng.random(n), rng.random(n) < 0.6
    confidence[rng.random(n) < 0.1] = 1  # as after argmax
    whole = calibration_counts(torch.tensor(confidence), torch.tensor(right), n_bins)
    assert (
        whole.shape == (n_bins, 3) and whole[:, 0].sum() == n and whole[:, 2].sum() == right.sum()
    )
    expected = plain_calibration(confidence, right, n_bins)
    assert calibration_error(whole) == pytest.approx(expected, abs=1e-12)
    cut = n // 3
    parts = [
        calibration_counts(torch.tensor(confidence[part]), torch.tensor(right[part]), n_bins)
        for part in (slice(cut), slice(cut, n))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    assert 0 <= calibration_error(whole) <= 1


def test_a_calibrated_model_has_no_error_and_a_sure_wrong_one_all_of_it():
    sure = torch.ones(6)
    assert calibration_error(calibration_counts(sure, sure > 0)) == 0
    assert calibration_error(calibration_counts(sure, sure < 0)) == 1
    half = torch.full((4,), 0.5)
    assert calibration_error(calibration_counts(half, torch.arange(4) < 2)) == 0
    # Too sure and too unsure do not cancel in different bins.
    mixed, right = torch.tensor([0.9, 0.1]), torch.tensor([False, True])
    assert calibration_error(calibration_counts(mixed, right)) == pytest.approx(0.9)


def test_rounding_just_above_one_is_still_a_confidence():
    counts = calibration_counts(torch.tensor([1 + 1e-6]), torch.tensor([True]))
    assert counts[-1, 0] == 1 and calibration_error(counts) < 1e-5


@pytest.mark.parametrize("bad", [-0.01, 1.01, float("nan"), float("inf")])
def test_confidences_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match=r"confidences must be in 0\.\.1"):
        calibration_counts(torch.tensor([0.5, bad]), torch.tensor([True, True]))


@pytest.mark.parametrize("shape", [(5,), (2, 2), (3, 2)])
def test_confidences_of_other_pixels_than_the_right_ones_are_refused(shape):
    with pytest.raises(ValueError, match="one for each pixel"):
        calibration_counts(torch.full((2, 3), 0.5), torch.ones(shape, dtype=torch.bool))


def test_no_pixel_has_no_calibration_error():
    counts = calibration_counts(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert counts.shape == (15, 3) and counts.sum() == 0
    with pytest.raises(ValueError, match="no labelled pixel"):
        calibration_error(counts)


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, float("nan")], ids=repr)
def test_bins_are_a_whole_number_of_them(bad):
    with pytest.raises(ValueError, match=r"n_bins is .*; expected"):
        calibration_counts(torch.tensor([0.5]), torch.tensor([True]), bad)


def test_confidences_are_floats_and_right_is_boolean():
    for pair in (
        (torch.tensor([1]), torch.tensor([True])),
        (torch.tensor([0.5]), torch.tensor([1])),
        (torch.tensor([0.5]), torch.tensor([0.7])),
    ):
        with pytest.raises(ValueError, match="expected floats and booleans"):
            calibration_counts(*pair)


@pytest.mark.parametrize(
    "row", [[1, 0.5, 2], [1, 1.5, 1], [-1, 0, 0], [1, float("nan"), 1], [float("inf"), 1, 1]]
)
def test_counts_that_cannot_be_have_no_calibration_error(row):
    with pytest.raises(ValueError, match="expected those of calibration_counts"):
        calibration_error(torch.tensor([[2.0, 1.0, 1.0], row]))
    with pytest.raises(ValueError, match=r"counts are \[3\]; expected \[n_bins, 3\]"):
        calibration_error(torch.ones(3))
