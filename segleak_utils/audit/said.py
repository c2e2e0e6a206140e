"""What a network said of N images, reduced to numbers an image: all that attacks need.

Posteriors are seen once, batch by batch, and never kept: memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from segleak_utils.checks import numbers
from segleak_utils.victims.iou import iou_of


@dataclass(frozen=True, eq=False)
class Said:
    """What one network said of N images, on the grid that is kept of each.

    ids: N names; zones: float64 [N,6C], as `attacks.references.of_zones`; dice: float64 [N], mean
    Dice; labels: float64 [N,6C], as `attacks.peers.label_features`; totals: int64 [2,C,C], pixel
    counts (true, predicted) of all non-members and of all members.
    """

    ids: tuple[str, ...]
    zones: NDArray[np.float64]
    dice: NDArray[np.float64]
    labels: NDArray[np.float64]
    totals: NDArray[np.int64]

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name in ("zones", "dice", "labels"):
            form = "[N]" if name == "dice" else "[N, K]"
            found = numbers.finite(getattr(self, name), name, form)
            if len(found) != n:
                raise ValueError(f"{name} has {len(found)} rows for {n} images")

    @property
    def losses(self) -> NDArray[np.float64]:
        """Global losses, float64 [N]: mean over an image's labelled pixels."""
        third = self.zones.shape[1] // 3
        return self.zones[:, third : 2 * third].sum(1)

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Shares of the labelled pixels that are predicted right, float64 [N]."""
        third = self.labels.shape[1] // 3
        return 1 - self.labels[:, third : 2 * third].sum(1)

    def at(self, indices: Sequence[int] | NDArray) -> Said:
        """The same of the images at these positions (the totals are of all, still)."""
        rows = np.arange(len(self.ids))[np.asarray(indices)]
        kept = {name: getattr(self, name)[rows] for name in ("zones", "dice", "labels")}
        return replace(self, ids=tuple(self.ids[i] for i in rows), **kept)

    def miou(self, member: bool) -> float | None:
        """Mean IoU over the members' or the non-members' pixels; None where none is labelled."""
        total = self.totals[int(member)]
        if not total.sum():
            return None
        return float(iou_of(torch.from_numpy(total)).nanmean())
