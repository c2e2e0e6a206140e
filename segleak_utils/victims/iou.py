"""How good a network is: intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segleak_utils.checks import numbers
from segleak_utils.data import VOID, Scenes
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
