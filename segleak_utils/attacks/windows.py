"""Square windows of maps: where patches are cut, and the cutting."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def patch_corners(
    n_images: int, n_patches: int, size: tuple[int, int], patch: int, generator: torch.Generator
) -> Tensor:
    """Random upper left corners of square patches, int64 [N,P,2] (row, column), uniform.

    Raises ValueError for a patch larger than the map or a number of patches below 1.

    >>> patch_corners(1, 2, (4, 4), 4, torch.Generator())  # a patch as large as the map
    tensor([[[0, 0],
             [0, 0]]])
    """
    if not 1 <= patch <= min(size) or n_patches < 1:
        raise ValueError(
            f"{n_patches} patches of {patch}x{patch} from maps of {size[0]}x{size[1]}: need at "
            "least one patch, no larger than the map"
        )
    rows = torch.randint(size[0] - patch + 1, (n_images, n_patches), generator=generator)
    columns = torch.randint(size[1] - patch + 1, (n_images, n_patches), generator=generator)
    return torch.stack([rows, columns], -1)


def crop(maps: Tensor, corners: Tensor, patch: int) -> Tensor:
    """Cut patches: maps [N,K,H,W], corners [N,P,2] → [N*P,K,patch,patch].

    >>> maps = torch.arange(9.0).view(1, 1, 3, 3)
    >>> crop(maps, torch.tensor([[[1, 0]]]), patch=2)[0, 0]  # row 1, column 0
    tensor([[3., 4.],
            [6., 7.]])
    """
    return torch.cat([*cut(maps, corners, patch, at_once=max(1, corners.shape[:2].numel()))])


def cut(maps: Tensor, corners: Tensor, patch: int, at_once: int) -> Iterator[Tensor]:
    """The patches in the order of `crop`, a few at a time."""
    windows = maps.unfold(2, patch, 1).unfold(3, patch, 1)
    image = torch.arange(len(maps)).repeat_interleave(corners.shape[1])
    rows, columns = corners.reshape(-1, 2).unbind(-1)
    for i in range(0, len(image), at_once):
        some = slice(i, i + at_once)
        patches = windows[image[some], :, rows[some], columns[some]]
        yield patches.contiguous(memory_format=torch.channels_last)
