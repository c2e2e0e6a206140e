"""What a network said about some images, as the attacker keeps it: the seam of the whole house.

Whoever has a network asks it (`ask`, or ten lines of their own) and hands the `Outputs` over; no
attack takes a network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from segleak_utils import representations
from segleak_utils.attacks.patchnets import CALIBRATED_MAP, REPRESENTATIONS, Representation
from segleak_utils.attacks.windows import crop
from segleak_utils.checks import numbers, tensors
from segleak_utils.data import VOID, Scenes
from segleak_utils.victims import loss_batches, posterior_batches
from segleak_utils.victims.store import Posteriors


def represent(posterior: Tensor, masks: Tensor, representation: Representation) -> Tensor:
    """A representation float32 [B,K,H,W] of posteriors [B,C,H,W] that were checked before."""
    if representation == "loss map":
        return representations.structured_loss_map(posterior, masks, check=False)
    if representation == "loss map + label":
        return representations.labelled_loss_map(posterior, masks, check=False)
    if representation == "concatenation":
        return representations.concatenation(posterior, masks, check=False)
    raise ValueError(f"unknown representation {representation!r}; known: {REPRESENTATIONS}")


@dataclass(frozen=True)
class Outputs:
    """What one network gave away on some scenes, as the attacker keeps it.

    loss_maps: float16 [N,1,H,W]; masks: uint8 [N,H,W]; member: bool [N], whether the network was
    trained on the scene; posteriors: float16 [N,C,H,W] or None where only the loss was kept;
    those of a `store` stay on disk until some are asked for. references: float16 [N,1,H,W], the
    mean loss maps of networks that never saw the images, or None where nobody asked one.
    """

    loss_maps: Tensor
    masks: Tensor
    member: np.ndarray
    n_classes: int
    posteriors: Tensor | Posteriors | None = None
    references: Tensor | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless all parts are about the same images."""
        n, found = len(self.masks), {"member": self.member.shape, "loss_maps": self.loss_maps.shape}
        grid = tuple(self.masks.shape[1:])
        expected = {"member": (n,), "loss_maps": (n, 1, *grid)}
        if self.references is not None:
            found["references"], expected["references"] = self.references.shape, (n, 1, *grid)
        if self.posteriors is not None:
            found["posteriors"] = self.posteriors.shape
            expected["posteriors"] = (n, self.n_classes, *grid)
        for name, shape in expected.items():
            if tuple(found[name]) != shape:
                raise ValueError(f"{name} is {tuple(found[name])}; expected {shape}, as the masks")
        if self.member.dtype != bool:
            raise ValueError(f"member is {self.member.dtype}; expected bool: write `labels == 1`")

    @classmethod
    def of(
        cls, posteriors: Tensor, masks: Tensor, member: np.ndarray, *, keep_posteriors: bool = True
    ) -> Outputs:
        """From posteriors float [N,C,H,W], masks integer [N,H,W] (255 is void) and member bool [N].

        Memory: without `keep_posteriors` only the losses stay. Raises ValueError for what
        `representations.check_posterior` refuses, and for another `member`.

        >>> posteriors = torch.tensor([[[[0.5]], [[0.5]]], [[[0.25]], [[0.75]]]])
        >>> shown = Outputs.of(posteriors, torch.tensor([[[0]], [[1]]]), np.array([True, False]))
        >>> shown.loss_maps.flatten()
        tensor([0.6934, 0.2876], dtype=torch.float16)
        """
        tensors.mask_shape(masks)
        member = numbers.labels(member, len(masks), of="masks")
        loss = representations.structured_loss_map(posteriors, masks).half()
        kept = posteriors.half() if keep_posteriors else None
        return cls(loss, masks.byte(), member, posteriors.shape[1], kept)

    def __len__(self) -> int:
        return len(self.masks)

    @cached_property
    def digest(self) -> str:
        """Hex key of what was said: losses, references' losses, labels and who is a member."""
        content = hashlib.sha256(f"{self.n_classes}".encode())
        for part in (self.loss_maps, self.masks, self.references):
            if part is not None:
                content.update(f"{part.dtype} {tuple(part.shape)}".encode())
                content.update(part.contiguous().numpy().tobytes())
        content.update(self.member.tobytes())
        return content.hexdigest()

    def subset(self, indices: np.ndarray) -> Outputs:
        """The outputs on the images at `indices`, int or bool."""
        chosen = torch.arange(len(self))[torch.from_numpy(np.asarray(indices))]
        kept = None if self.posteriors is None else self.posteriors.index_select(0, chosen)
        theirs = None if self.references is None else self.references[chosen]
        return replace(
            self,
            loss_maps=self.loss_maps[chosen],
            masks=self.masks[chosen],
            member=self.member[indices],
            posteriors=kept,
            references=theirs,
        )

    def cut(self, corners: Tensor, patch: int) -> Outputs:
        """One square patch of each image; corners: int64 [N,1,2]."""
        kept = None if self.posteriors is None else crop(self.posteriors[:], corners, patch)
        theirs = None if self.references is None else crop(self.references, corners, patch)
        return replace(
            self,
            loss_maps=crop(self.loss_maps, corners, patch),
            masks=crop(self.masks[:, None], corners, patch)[:, 0],
            posteriors=kept,
            references=theirs,
        )

    def maps(self, representation: Representation, indices: Tensor | slice) -> Tensor:
        """The representation float32 [B,K,H,W] of the images at `indices`."""
        masks = self.masks[indices].long()
        if representation == "concatenation":
            if self.posteriors is None:
                raise ValueError(
                    "the posteriors of these outputs were not kept; collect them with "
                    "keep_posteriors=True"
                )
            return represent(self.posteriors[indices].float(), masks, representation)
        loss_maps = self.loss_maps[indices].float()
        if representation == "loss map":
            return loss_maps
        label = representations.one_hot(masks, self.n_classes)
        if representation == "loss map + label":
            return torch.cat([loss_maps, label], 1)
        if representation == CALIBRATED_MAP:
            if self.references is None:
                raise ValueError(
                    "no reference was asked about these images; give `references`, the mean loss "
                    "maps of networks that never saw them"
                )
            calibrated = loss_maps - self.references[indices].float()
            return torch.cat([loss_maps, calibrated, label], 1)
        raise ValueError(f"unknown representation {representation!r}; known: {REPRESENTATIONS}")


def ask(
    model: nn.Module,
    members: Scenes,
    nonmembers: Scenes,
    *,
    keep_posteriors: bool = False,
    release: Callable[[Tensor], Tensor] | None = None,
    progress: str | None = None,
) -> Outputs:
    """Query a network on scenes it was trained on and on scenes it was not.

    `release` is a defence that its posteriors pass through.
    """
    how = {"keep_posteriors": keep_posteriors, "release": release, "progress": progress}
    n, grid = len(members) + len(nonmembers), members.shape or nonmembers.shape
    if not n:
        raise ValueError("neither members nor non-members: there is nothing to ask about")
    whole = {
        "loss_maps": torch.empty(n, 1, *grid, dtype=torch.float16),
        "masks": torch.empty(n, *grid, dtype=torch.uint8),
    }
    if keep_posteriors:
        whole["posteriors"] = torch.empty(n, members.n_classes, *grid, dtype=torch.float16)
    done = 0
    for part in ask_in_parts(model, members, nonmembers, **how):
        for name, kept in whole.items():
            kept[done : done + len(part)] = getattr(part, name)
        done += len(part)
    member = np.arange(n) < len(members)
    return Outputs(member=member, n_classes=members.n_classes, **whole)


def ask_in_parts(
    model: nn.Module,
    members: Scenes,
    nonmembers: Scenes,
    *,
    keep_posteriors: bool = False,
    release: Callable[[Tensor], Tensor] | None = None,
    progress: str | None = None,
) -> Iterator[Outputs]:
    """`ask` a batch at a time, in order: for what needs the outputs once, and memory for no more.

    >>> masks = np.array([[[0]], [[1]], [[1]]], np.uint8)
    >>> images = np.arange(9, dtype=np.uint8).reshape(3, 3, 1, 1)
    >>> scenes = Scenes.from_arrays(images, masks, list("abc"), ["road", "car"])
    >>> def model(images):  # one sixteenth and fifteen, whatever it sees
    ...     return torch.tensor([1.0, 15.0]).log().view(1, 2, 1, 1).expand(len(images), 2, 1, 1)
    >>> parts = ask_in_parts(model, scenes.subset([0]), scenes.subset([1, 2]))
    >>> for part in parts:
    ...     print(part.member, *(f"{loss:.2f}" for loss in part.loss_maps.flatten()))
    [ True] 2.77
    [False False] 0.06 0.06
    """
    for scenes, inside in ((members, True), (nonmembers, False)):
        done = 0
        name = progress and f"{progress}, {len(scenes)} scenes"
        plain = release is None and not keep_posteriors
        batches = loss_batches if plain else posterior_batches
        for said, masks in batches(model, scenes, progress=name):
            _refuse_unlabelled(masks, scenes.ids[done : done + len(masks)])
            done += len(masks)
            posterior = None
            if not plain:
                posterior = said if release is None else release(said)
                said = representations.structured_loss_map(posterior, masks)
            kept = posterior.half() if keep_posteriors else None
            member = np.full(len(masks), inside)
            yield Outputs(said.half(), masks.byte(), member, scenes.n_classes, kept)


def _refuse_unlabelled(masks: Tensor, ids: Sequence[str]) -> None:
    """ValueError, naming the scene, where no pixel is labelled: it has no loss."""
    void = (masks == VOID).flatten(1).all(1)
    if void.any():
        raise ValueError(
            f"{ids[int(void.nonzero()[0])]}: no pixel is labelled, all are void; leave the scene "
            "out, or give its labels"
        )
