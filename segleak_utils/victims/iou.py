"""How good a network is: intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segleak_utils.data import VOID, Scenes
from segleak_utils.victims.asking import posterior_batches


def mean_iou(model: nn.Module, scenes: Scenes, batch: int = 16) -> float:
    """Mean over the classes present of intersection over union, pooled over all images."""
    confusion = torch.zeros(scenes.n_classes, scenes.n_classes, dtype=torch.int64)
    for posterior, masks in posterior_batches(model, scenes, batch):
        confusion += confusion_matrix(posterior.argmax(1), masks, scenes.n_classes)
    return iou_of(confusion).nanmean().item()


def confusion_matrix(predicted: Tensor, masks: Tensor, n_classes: int) -> Tensor:
    """Pixel counts int64 [C (true), C (predicted)] over the non-void pixels.

    Raises ValueError for a predicted or true class outside 0..C-1.

    >>> predicted, masks = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255])
    >>> confusion_matrix(predicted, masks, 2)  # rows: true; the void pixel does not count
    tensor([[1, 1],
            [0, 1]])
    """
    keep = masks != VOID
    for kind, found in (("predicted", predicted[keep]), ("true", masks[keep])):
        if found.numel() and not 0 <= found.min() <= found.max() < n_classes:
            wrong = found.min().item() if found.min() < 0 else found.max().item()
            raise ValueError(f"{kind} class {wrong}; expected 0..{n_classes - 1}")
    pairs = masks[keep].long() * n_classes + predicted[keep]  # a uint8 would overflow
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes)


def iou_of(confusion: Tensor) -> Tensor:
    """Intersection over union per class, float64 [C]; NaN where a class is absent throughout.

    >>> iou_of(torch.tensor([[1, 1, 0], [0, 2, 0], [0, 0, 0]]))  # 1/2, 2/3, and an absent class
    tensor([0.5000, 0.6667,    nan], dtype=torch.float64)
    """
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return torch.where(confusion.sum(1) > 0, hits / union, torch.nan)
