"""Square windows of maps: where patches are cut, and the cutting."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segleak_utils.checks import numbers


def patch_corners(
    n_images: int, n_patches: int, size: tuple[int, int], patch: int, generator: torch.Generator
) -> Tensor:
    """Random upper left corners of square patches, int64 [N,P,2] (row, column), uniform.

    Raises ValueError for a patch larger than the map, a number of patches below 1, and for what are
    no whole numbers.

    >>> patch_corners(1, 2, (4, 4), 4, torch.Generator())  # a patch as large as the map
    tensor([[[0, 0],
             [0, 0]]])
    """
    n_images = numbers.count(n_images, "n_images")
    for name, value in (("n_patches", n_patches), ("patch", patch)):
        numbers.count(value, name, -numbers.LARGEST)  # below, both are named beside the map
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
    """The patches in the order of `crop`, a few at a time.

    Raises ValueError for corners that are not integer [N,P,2], or whose patches leave the map: a
    negative one would be cut from the other side.
    """
    patch, at_once = numbers.count(patch, "patch", 1), numbers.count(at_once, "at_once", 1)
    _check_corners(maps, corners, patch)
    places = [(i, *corner) for i, of in enumerate(corners.tolist()) for corner in of]
    kind = {"dtype": maps.dtype, "device": maps.device, "memory_format": torch.channels_last}
    for k in range(0, len(places), at_once):
        some = places[k : k + at_once]
        patches = torch.empty(len(some), maps.shape[1], patch, patch, **kind)
        for one, (i, row, column) in zip(patches, some, strict=True):
            one.copy_(maps[i, :, row : row + patch, column : column + patch])
        yield patches


def _check_corners(maps: Tensor, corners: Tensor, patch: int) -> None:
    whole = not (corners.is_floating_point() or corners.dtype == torch.bool)
    if maps.ndim != 4 or corners.ndim != 3 or corners.shape[::2] != (len(maps), 2) or not whole:
        found = f"{list(maps.shape)} and {corners.dtype} {list(corners.shape)}"
        raise ValueError(f"maps and corners are {found}; expected [N,K,H,W] and integer [N,P,2]")
    last = torch.tensor(maps.shape[2:]) - patch
    if bool((corners < 0).any()) or bool((corners > last).any()):
        raise ValueError(
            f"a patch of {patch} pixels leaves the maps of {list(maps.shape[2:])}: expected "
            f"corners from 0 to {last.tolist()}"
        )
