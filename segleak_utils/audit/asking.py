"""Asking a network about the pictures of an audit, once, and keeping numbers an image.

Posteriors pass by: of each image there stay its losses on a coarse grid, sums by zone (each class
inside and near its boundaries), and the same of each release that is tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segleak_utils import representations
from segleak_utils.audit.networks import Network
from segleak_utils.audit.parts import AT_ONCE, Parts, Row, in_parts
from segleak_utils.audit.pictures import Picture
from segleak_utils.audit.pixels import Reader
from segleak_utils.audit.recorded import Recorded
from segleak_utils.audit.said import Said
from segleak_utils.data import VOID
from segleak_utils.defenses import Release
from segleak_utils.representations import near_boundary, structured_loss_map
from segleak_utils.victims import processes

VERSION = 2  # of what is kept: raise it when numbers change
FLOATS = 2**26  # of posteriors at once at most, 256 MB: the network may take ten times that
NOTHING = Release()


@dataclass(frozen=True, eq=False)
class Asked:
    """What a network said of some pictures: numbers in `said`, maps on disk.

    `said` has one `Said` for each release, by its name; "nothing" is the answer as it is.
    """

    pictures: tuple[Picture, ...]
    said: dict[str, Said]
    identity: str
    parts: Parts

    def loss_map(self, i: int) -> NDArray[np.float32]:
        """The losses kept of the picture at position i, float32 [h,w]; void is 0."""
        return self.parts.one("loss", i).astype(np.float32)

    def mask(self, i: int) -> NDArray[np.uint8]:
        """Its labels on the same grid, uint8 [h,w]."""
        return self.parts.one("mask", i)


def ask(
    network: Network,
    pictures: Sequence[Picture],
    reader: Reader,
    folder: Path,
    *,
    releases: Sequence[Release] = (),
    grid: int,
    batch: int,
    seed: int = 0,
    progress: str | None = None,
) -> Asked:
    """Ask about all pictures, or read what was asked before: it is kept in `folder`.

    grid: pixels of an image that are kept, at most; batch: images at a time, fewer where they are
    large. Noise of a release follows from `seed`, the network and the
    picture's name. ValueError, naming the picture's
    file, for what cannot be read or answered.
    """
    if not pictures:
        raise ValueError("no pictures to ask about")
    releases = (NOTHING, *(of for of in releases if of != NOTHING))
    names = [str(of) for of in releases]
    if isinstance(network, Recorded):
        network.refuse_shared(pictures)
    # of a network without weights it follows from an answer, which may differ in its last digits
    identity = processes.of_first(network.identity(reader.read(pictures[0])[0]))
    told = f"{VERSION} {identity} {grid} {names} {seed}"
    keys = [
        # answers on file may be found by list and name, too
        hashlib.sha256(f"{told} {of.member} {of.id} {reader.key_of(of)}".encode()).hexdigest()
        for of in pictures
    ]

    checked = isinstance(network, Recorded)

    def compute(positions: Sequence[int]) -> list[Row]:
        nonlocal checked
        rows: dict[int, Row] = {}
        chosen = [pictures[i] for i in positions]
        for at, images, masks in _alike(chosen, reader, batch):
            group = [chosen[i] for i in at]
            stride = stride_of(masks.shape[1:], grid)
            if not checked:
                network.check(images, stride)
                checked = True
            posterior, stride = network.posteriors(images, group, stride)
            masks = masks[:, ::stride, ::stride]
            for i, one, mask in zip(at, posterior, masks, strict=True):
                if bool((mask == VOID).all()):
                    raise ValueError(
                        f"{chosen[i].mask}: no labelled pixel on every {stride}th row and column; "
                        "leave the picture out, or raise data.grid"
                    )
                # not of a file's date: a copy of the folder gives the same noise
                noise = _generator(seed, f"{identity} {chosen[i].member} {chosen[i].id}")
                rows[i] = _row(one[None], mask[None], releases, noise)
        return [rows[i] for i in range(len(positions))]

    kept = in_parts(folder / identity[:16], keys, compute, at_once=AT_ONCE, progress=progress)
    said = _said(kept, pictures, names, reader.n_classes)
    return Asked(tuple(pictures), said, identity, kept)


def stride_of(shape: Sequence[int], grid: int) -> int:
    """The least stride with which at most `grid` pixels of an image (H, W) are kept.

    >>> stride_of((512, 1024), 128 * 256)
    4
    """
    stride = 1
    while -(-shape[0] // stride) * -(-shape[1] // stride) > grid:
        stride += 1
    return stride


def _alike(
    pictures: Sequence[Picture], reader: Reader, batch: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Positions, images and masks, a batch of one size at a time, of bounded memory."""
    waiting: list[tuple[int, Tensor, Tensor]] = []

    def together() -> tuple[list[int], Tensor, Tensor]:
        at, images, masks = zip(*waiting, strict=True)
        waiting.clear()
        return list(at), torch.stack(images), torch.stack(masks)

    for i, picture in enumerate(pictures):
        image, mask = reader.read(picture)
        if waiting and waiting[0][2].shape != mask.shape:
            yield together()
        waiting.append((i, image, mask))
        if len(waiting) >= max(1, min(batch, FLOATS // (reader.n_classes * mask.numel()))):
            yield together()
    if waiting:
        yield together()


def _generator(seed: int, of: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {of}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _row(
    posterior: Tensor, mask: Tensor, releases: Sequence[Release], noise: torch.Generator
) -> Row:
    """All that is kept of one picture: posterior float32 [1,C,h,w], mask int64 [1,h,w]."""
    n_classes = posterior.shape[1]
    labelled = (mask != VOID).flatten()
    near = near_boundary(mask).flatten()[labelled]
    labels = mask.flatten()[labelled]
    zone = labels + n_classes * near
    pixels = torch.bincount(zone, minlength=2 * n_classes).double()
    row: Row = {"mask": mask[0].byte().numpy()}
    for k, release in enumerate(releases):
        released = release(posterior, noise, check=False)
        loss = structured_loss_map(released, mask, check=False).flatten()[labelled]
        predicted = most_probable(released[0]).flatten()[labelled]
        cells = torch.bincount(labels * n_classes + predicted, minlength=n_classes**2)
        row[f"zones {k}"] = _by_zone(loss, zone, pixels)
        row[f"labels {k}"] = _by_zone((predicted != labels).double(), zone, pixels)
        dice = representations.dice(released, mask, check=False)
        row[f"dice {k}"] = dice.double().numpy()
        row[f"confusion {k}"] = cells.view(n_classes, n_classes).int().numpy()
        if k == 0:
            map_ = torch.zeros(labelled.numel())
            map_[labelled] = loss.float()
            row["loss"] = map_.view(mask.shape[1:]).half().numpy()
    return row


def most_probable(posterior: Tensor) -> Tensor:
    """The most probable class of each pixel of [C,...], of equal ones the first: int64 [...].

    ``argmax(0)``, which is not vectorised and takes ten times as long.

    >>> most_probable(torch.tensor([[0.2, 0.4], [0.4, 0.4], [0.4, 0.2]]))
    tensor([1, 0])
    """
    n = len(posterior)
    place = torch.arange(n, 0, -1, dtype=torch.uint8).view(-1, *[1] * (posterior.ndim - 1))
    return n - ((posterior == posterior.amax(0)) * place).amax(0).long()


def _by_zone(values: Tensor, zone: Tensor, pixels: Tensor) -> NDArray[np.float64]:
    """Mean of the values in each zone (0 where there is none), that times its share, its share."""
    total = torch.bincount(zone, weights=values.double(), minlength=len(pixels))
    n = pixels.sum()
    return torch.cat([total / pixels.clamp(min=1), total / n, pixels / n]).numpy()


def _said(
    kept: Parts, pictures: Sequence[Picture], names: Sequence[str], n_classes: int
) -> dict[str, Said]:
    n, wide = len(pictures), 6 * n_classes
    rows = {
        k: {
            "zones": np.empty((n, wide)),
            "labels": np.empty((n, wide)),
            "dice": np.empty(n),
            "totals": np.zeros((2, n_classes, n_classes), np.int64),
        }
        for k in range(len(names))
    }
    for i in kept.by_file():
        for k, of in rows.items():
            of["zones"][i], of["labels"][i] = kept.one(f"zones {k}", i), kept.one(f"labels {k}", i)
            of["dice"][i] = kept.one(f"dice {k}", i)[0]
            of["totals"][int(pictures[i].member)] += kept.one(f"confusion {k}", i)
    ids = tuple(of.id for of in pictures)
    return {name: Said(ids, **rows[k]) for k, name in enumerate(names)}
