"""Intersection over union."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_victims import VOID, Oracle, scenes_of

from segleak_utils.victims import confusion_matrix, iou_of, mean_iou

# ---- intersection over union ---------------------------------------------------------------------


def plain_iou(predicted: np.ndarray, masks: np.ndarray, n_classes: int) -> np.ndarray:
    found = []
    for c in range(n_classes):
        true, called = masks == c, (predicted == c) & (masks != VOID)
        union = (true | called).sum()
        found.append((true & called).sum() / union if true.any() else np.nan)
    return np.array(found)


def test_confusion_and_iou_are_the_plain_loop():
    rng = np.random.default_rng(0)
    masks = rng.choice([0, 1, 2, 4, VOID], (3, 9, 11))  # class 3 is absent, but predicted
    predicted = rng.integers(0, 5, masks.shape)
    confusion = confusion_matrix(torch.from_numpy(predicted), torch.from_numpy(masks), 5)
    for true in range(5):
        for called in range(5):
            assert confusion[true, called] == ((masks == true) & (predicted == called)).sum()
    found = iou_of(confusion).numpy()
    assert found.dtype == np.float64 and np.isnan(found[3])
    np.testing.assert_allclose(found, plain_iou(predicted, masks, 5), equal_nan=True)


def test_only_void_gives_no_counts_and_no_iou():
    nothing = confusion_matrix(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), VOID), 3)
    assert nothing.sum() == 0 and iou_of(nothing).isnan().all()


def test_mean_iou_pools_over_images():
    scenes = scenes_of(5)
    assert mean_iou(Oracle(), scenes, 2) == 1
    left = Oracle(lambda images: (torch.arange(64) < 20).expand(len(images), 32, 64))
    masks = np.stack([mask.numpy() for _, mask in scenes])
    wrong = np.broadcast_to(np.arange(64) < 20, masks.shape)
    expected = plain_iou(np.where(wrong, (masks + 1) % 3, masks), masks, 3)
    assert mean_iou(left, scenes, 2) == pytest.approx(np.nanmean(expected))
    assert mean_iou(left, scenes, 5) == pytest.approx(np.nanmean(expected))


def test_a_prediction_beyond_the_classes_is_not_counted_as_another():
    with pytest.raises((ValueError, RuntimeError)):
        confusion_matrix(torch.tensor([[[4, 0]]]), torch.tensor([[[0, 0]]]), 3)


def test_small_integers_do_not_overflow():
    """18 * 19 + 18 does not fit into the byte that a mask has."""
    masks = torch.full((2, 3), 18, dtype=torch.uint8)
    counts = confusion_matrix(masks, masks, 19)
    assert counts[18, 18] == 6 and counts.sum() == 6


@pytest.mark.parametrize(
    ("predicted", "masks", "found"),
    [
        (
            torch.tensor([0.5, 1]),
            torch.tensor([0, 1]),
            "predictions are torch.float32; expected int",
        ),
        (torch.tensor([True, False]), torch.tensor([0, 1]), "predictions are torch.bool"),
        (torch.tensor([0, 1]), torch.tensor([0.0, 1]), "masks are torch.float32"),
        (torch.tensor([0]), torch.tensor([0, 1]), r"are \[1\] and \[2\]; expected the same shape"),
        (torch.tensor([[0, 1]]), torch.tensor([0, 1]), "expected the same shape"),
    ],
)
def test_what_are_no_labels_of_the_same_pixels_are_refused(predicted, masks, found):
    with pytest.raises(ValueError, match=found):
        confusion_matrix(predicted, masks, 2)


@pytest.mark.parametrize("bad", [0, 256, 2.0, True])
def test_a_number_of_classes_is_a_whole_one(bad):
    with pytest.raises(ValueError, match="n_classes is"):
        confusion_matrix(torch.tensor([0]), torch.tensor([0]), bad)


@pytest.mark.parametrize(
    "confusion",
    [
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(0, 0, dtype=torch.int64),
        torch.eye(2),
        torch.eye(2, dtype=torch.bool),
        torch.tensor([[3, -1], [0, 2]]),
    ],
)
def test_a_matrix_that_does_not_hold_counts_has_no_iou(confusion):
    with pytest.raises(ValueError, match=r"expected counts, integers >= 0 \[C, C\]"):
        iou_of(confusion)


def test_counts_of_a_byte_are_not_summed_in_a_byte():
    confusion = torch.tensor([[200, 100], [0, 50]], dtype=torch.uint8)
    assert iou_of(confusion).tolist() == pytest.approx([200 / 300, 50 / 150])


def test_a_model_of_other_classes_than_the_scenes_is_refused():
    with pytest.raises(ValueError, match="the model's answer has 4 classes, expected 3"):
        mean_iou(Oracle(n_classes=4), scenes_of(3))
