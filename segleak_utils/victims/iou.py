"""How good a network is: intersection over union."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from segleak_utils.checks import numbers
from segleak_utils.data import VOID, Scenes
from segleak_utils.metrics import Interval
from segleak_utils.victims.asking import posterior_batches


def mean_iou(model: nn.Module, scenes: Scenes, batch: int = 16) -> float:
    """Mean over the classes present of intersection over union, pooled over all images.

    Raises ValueError for a model of another number of classes than the scenes', or void alone.
    """
    confusion = torch.zeros(scenes.n_classes, scenes.n_classes, dtype=torch.int64)
    for posterior, masks in posterior_batches(model, scenes, batch):
        confusion += confusion_matrix(posterior.argmax(1), masks, scenes.n_classes)
    if not confusion.any():
        raise ValueError("no labelled pixel in these scenes, so no IoU: give scenes with labels")
    return iou_of(confusion).nanmean().item()


def confusion_matrix(predicted: Tensor, masks: Tensor, n_classes: int) -> Tensor:
    """Pixel counts int64 [C (true), C (predicted)] over the non-void pixels.

    Raises ValueError for a predicted or true class outside 0..C-1, for other shapes of the two, and
    for what are no integers (a predicted probability is no class).

    >>> predicted, masks = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255])
    >>> confusion_matrix(predicted, masks, 2)  # rows: true; the void pixel does not count
    tensor([[1, 1],
            [0, 1]])
    """
    n_classes = numbers.count(n_classes, "n_classes", 1, VOID)
    for kind, labels in (("predictions", predicted), ("masks", masks)):
        if not isinstance(labels, Tensor):
            raise ValueError(f"{kind} are {type(labels).__name__}; expected a tensor of integers")
        if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"{kind} are {labels.dtype}; expected integers: take argmax(1), say")
    if predicted.shape != masks.shape:
        found = f"{list(predicted.shape)} and {list(masks.shape)}"
        raise ValueError(f"predictions and masks are {found}; expected the same shape")
    void = masks == VOID
    pairs = []
    for kind, labels in (("predicted", predicted), ("true", masks)):
        labels = labels.long().masked_fill(void, 0)  # a uint8 would overflow below
        low, high = labels.aminmax() if labels.numel() else (0, 0)
        if not 0 <= low <= high < n_classes:
            wrong = int(low) if low < 0 else int(high)
            raise ValueError(f"{kind} class {wrong}; expected 0..{n_classes - 1}")
        pairs.append(labels)
    cells = (pairs[1] * n_classes + pairs[0]).masked_fill_(void, n_classes**2).flatten()
    counts = torch.bincount(cells, minlength=n_classes**2 + 1)[:-1]  # without the void pixels
    return counts.view(n_classes, n_classes)


def iou_of(confusion: Tensor) -> Tensor:
    """Intersection over union per class, float64 [C]; NaN where a class is absent throughout.

    Raises ValueError unless `confusion` holds counts, integers >= 0 [C, C].

    >>> iou_of(torch.tensor([[1, 1, 0], [0, 2, 0], [0, 0, 0]]))  # 1/2, 2/3, and an absent class
    tensor([0.5000, 0.6667,    nan], dtype=torch.float64)
    """
    if not isinstance(confusion, Tensor):
        raise ValueError(f"confusion is {type(confusion).__name__}; expected a tensor of counts")
    square = confusion.ndim == 2 and confusion.shape[0] == confusion.shape[1] > 0
    whole = confusion.dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)
    if not (square and whole) or bool((confusion < 0).any()):
        found = f"{confusion.dtype} {list(confusion.shape)}"
        raise ValueError(
            f"confusion is {found}; expected counts, integers >= 0 [C, C], as of confusion_matrix"
        )
    confusion = confusion.long()  # sums of a small type would overflow
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return torch.where(confusion.sum(1) > 0, hits / union, torch.nan)


def mean_iou_difference(
    a: Tensor, b: Tensor, *, seed: int, n_boot: int = 2000, level: float = 0.95
) -> Interval:
    """Mean IoU of predictions a minus that of predictions b of the same images, pooled over them.

    a, b: counts [N, C, C], a `confusion_matrix` of each image. Percentile interval of a paired
    bootstrap over images; a class that no drawn image has is left out of both means. ValueError
    for other images, whose true classes differ, and for no images at all.

    >>> right = torch.tensor([[[4, 0], [0, 2]], [[1, 0], [0, 3]]])
    >>> print(mean_iou_difference(right, right.flip(2), seed=0))  # all of it wrong
    1.00 [1.00, 1.00]
    """
    if a.ndim != 3 or a.shape != b.shape or not len(a):
        found = f"{list(a.shape)} and {list(b.shape)}"
        raise ValueError(f"counts are {found}; expected [N, C, C] of the same N > 0 images")
    if not torch.equal(a.sum(2), b.sum(2)):
        raise ValueError("the true classes of a and b differ: these are not the same images")
    numbers.count(n_boot, "n_boot", 100)
    rng = np.random.default_rng(numbers.count(seed, "seed"))
    n = len(a)
    # the first row is the estimate: every image once
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), n_boot)])
    means = _weighted_mean_iou(a, weights) - _weighted_mean_iou(b, weights)
    tail = (1 - numbers.level(level)) / 2
    value, (low, high) = float(means[0]), np.quantile(means[1:], [tail, 1 - tail])
    return Interval(value, min(value, float(low)), max(value, float(high)), 0, n, level)


def _weighted_mean_iou(confusions: Tensor, weights: np.ndarray) -> np.ndarray:
    """Mean IoU [B] of images [N, C, C] that count as often as weights [B, N] say."""
    counts = confusions.double().numpy()
    true, called = (weights @ counts.sum(axis) for axis in (2, 1))
    hits = weights @ counts.diagonal(axis1=1, axis2=2)
    share = np.divide(hits, true + called - hits, out=np.zeros_like(hits), where=true > 0)
    return share.sum(1) / (true > 0).sum(1)
