"""A victim that is known by what it answered: posteriors on file stand in for the network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from segleak_utils import representations
from segleak_utils.data.examples import Examples, Kind, values


def content(image: Tensor) -> bytes:
    """What an image float32 [3,H,W] is recognised by."""
    return hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).digest()


class Recorded(nn.Module):
    """A victim that answers with what is on file: images [N,3,H,W] → log-posteriors [N,19,H,W].

    It knows the images of its folder, pixel by pixel as their `Scenes` give them; for any other
    ValueError. The answers stay on disk until they are asked for. Their softmax is the posterior on
    file, divided by its sum.
    """

    def __init__(self, files: Mapping[bytes, Path]) -> None:
        super().__init__()
        self.files = dict(files)

    def get_extra_state(self) -> str:
        """What its answers depend on: the images, and sizes and dates of the files."""
        files = ((image.hex(), path.stat()) for image, path in sorted(self.files.items()))
        return repr([(image, stat.st_size, stat.st_mtime_ns) for image, stat in files])

    def set_extra_state(self, state: str) -> None:
        """Nothing is loaded: the files are there or not."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.answer(image) for image in images]).to(images.device)

    def answer(self, image: Tensor) -> Tensor:
        """Log-posterior float32 [1,19,H,W] of one image."""
        path = self.files.get(content(image))
        if path is None:
            raise ValueError(
                f"no answer is on file for this image {tuple(image.shape)}: a recorded victim "
                f"knows only the {len(self.files)} images of its folder, unchanged"
            )
        posterior = values(path)
        posterior /= posterior.sum(1, keepdim=True)
        return posterior.clamp(min=representations.SMALLEST_PROBABILITY).log()


def recorded(of: Examples, kind: Kind) -> Recorded:
    """The victim of that kind of an example folder, as far as it has been recorded.

    FileNotFoundError where the folder has none of that kind.
    """
    images = (one[0] for scenes in (of.members, of.nonmembers) for one in scenes)
    return Recorded(dict(zip(map(content, images), of.of(kind), strict=True)))
