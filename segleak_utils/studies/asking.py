"""Who asks whom: what networks say of scenes, asked once and cached, as the core's `Outputs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from segleak_utils import attacks
from segleak_utils.attacks import Outputs
from segleak_utils.attacks.references import Case, of_zones
from segleak_utils.data import Scenes
from segleak_utils.studies.cache import cached
from segleak_utils.studies.networks import Network, check_apart
from segleak_utils.studies.plan import Plan
from segleak_utils.victims import posterior_batches


def asked(plan: Plan, reference: Network, of: Network) -> Outputs:
    """What a reference says of another network's scenes, loss maps and all; cached.

    Raises ValueError if it was trained on one of them.
    """
    check_apart(of, reference)
    return loss_outputs(plan, _on(reference, of))


def _on(reference: Network, of: Network) -> Network:
    return replace(reference, members=of.members, nonmembers=of.nonmembers)


def case(plan: Plan, of: Network, references: Sequence[Network]) -> Case:
    """Ask the network and the references about its scenes.

    Raises ValueError without a reference, or for one that was trained on some of the scenes.
    """
    if not references:
        raise ValueError(f"no reference for {of.name}; at least one is needed")
    for reference in references:
        check_apart(of, reference)
    own, *theirs = [told(plan, by, of) for by in (of, *references)]
    return Case(own, np.stack(theirs), of.member)


def told(plan: Plan, by: Network, of: Network) -> np.ndarray:
    """What a network says of another one's scenes by zone, members first: float64 [N,6C]; cached.

    Whether it was trained on some of them is not asked: see `case`.
    """
    return np.concatenate([_told_of(plan, by, scenes) for scenes in (of.members, of.nonmembers)])


def _told_of(plan: Plan, by: Network, scenes: Scenes) -> np.ndarray:
    """Losses of the zones [N,6C]; cached: a kilobyte an image, where its loss map has a hundred."""

    def compute() -> dict[str, np.ndarray]:
        name = plan.progress and f"{by.name}, {len(scenes)} scenes"
        shown = attacks.ask(by.model, scenes, scenes.subset(range(0)), progress=name or None)
        return {"zones": of_zones(shown)}

    key = {"network": by.sha256, "scenes": scenes.digest}
    return cached(plan.build, "zones", key, compute)["zones"]


def shadow_cases(plan: Plan, shadows: Sequence[Network], victim: Network) -> list[Case]:
    """What the attacker learns from: each shadow beside all others.

    With a single shadow its reference is the victim, which has not seen the shadow's scenes
    either: the attacker asks it about their own images.
    """
    others = [[b for b in shadows if b is not a] or [victim] for a in shadows]
    return [case(plan, a, theirs) for a, theirs in zip(shadows, others, strict=True)]


def loss_outputs(plan: Plan, of: Network) -> Outputs:
    """Loss maps of a network on its members and non-members; cached (100 kB an image).

    Each group for itself: networks may have their non-members in common.
    """
    kept = [_loss_maps(plan, of, scenes) for scenes in (of.members, of.nonmembers)]
    loss, masks = (torch.cat([torch.from_numpy(k[key]) for k in kept]) for key in ("loss", "masks"))
    return Outputs(loss, masks, of.member, of.members.n_classes)


def _loss_maps(plan: Plan, of: Network, scenes: Scenes) -> dict[str, np.ndarray]:
    def compute() -> dict[str, np.ndarray]:
        told = of.name if plan.progress else None
        shown = attacks.ask(of.model, scenes, scenes.subset(range(0)), progress=told)
        return {"loss": shown.loss_maps.numpy(), "masks": shown.masks.numpy()}

    return cached(plan.build, "loss maps", {"network": of.sha256, "scenes": scenes.digest}, compute)


def answers_of(of: Network, *, progress: str | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """A network's posteriors and masks on its members, then its non-members, as a stream."""
    for scenes in (of.members, of.nonmembers):
        yield from posterior_batches(of.model, scenes, progress=progress)


def blind_features(plan: Plan, members: Scenes, nonmembers: Scenes) -> np.ndarray:
    """`attacks.blind_features` of members, then non-members; cached."""

    def compute() -> dict[str, np.ndarray]:
        both = [attacks.blind_features(scenes) for scenes in (members, nonmembers)]
        return {"features": np.concatenate(both)}

    key = {"members": members.digest, "nonmembers": nonmembers.digest}
    return cached(plan.build, "blind", key, compute)["features"]


def with_references(plan: Plan, of: Network, references: Sequence[Network]) -> Outputs:
    """A network's outputs on its scenes, and the mean loss maps of references that never saw them.

    float16 as all loss maps; ValueError without a reference.
    """
    if not references:
        raise ValueError(f"no reference for {of.name}; at least one is needed")
    shown = loss_outputs(plan, of)
    total = shown.loss_maps.float().zero_()
    for reference in references:
        total += asked(plan, reference, of).loss_maps
    return replace(shown, references=(total / len(references)).half())
