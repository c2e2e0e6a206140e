"""Victims and shadows with the scenes they were trained on: loaded if there, else trained."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from segleak_utils import victims
from segleak_utils.data import Scenes, Split
from segleak_utils.studies.plan import WEIGHTS, Plan
from segleak_utils.studies.shelf import manifest, ship, shipped
from segleak_utils.victims import Recipe

bar_line = 0  # where a worker that trains beside others draws its progress bar


def again(plan: Plan, name: str) -> str:
    """How something on the shelf of that plan is trained again."""
    if plan.weights == WEIGHTS:
        return f"python3 -m segleak_utils.run weights {name}"
    return f"delete {plan.weights / name}.safetensors, and run this again"


@dataclass(frozen=True)
class Network:
    """A trained victim or shadow with the scenes that it was and was not trained on.

    sha256: of the file that it was loaded from. What is kept of its answers goes by `identity`.
    """

    name: str
    model: nn.Module
    meta: dict
    sha256: str
    members: Scenes
    nonmembers: Scenes

    @property
    def member(self) -> np.ndarray:
        """Which of its scenes, members first, are members: bool [N]."""
        return np.arange(len(self.members) + len(self.nonmembers)) < len(self.members)

    @cached_property
    def fingerprint(self) -> str:
        """Who answers: computed from the weights, never told."""
        return victims.fingerprint(self.model)

    @property
    def identity(self) -> dict[str, str]:
        """What its answers depend on: who is asked, and about what."""
        return {
            "network": self.fingerprint,
            "members": self.members.digest,
            "nonmembers": self.nonmembers.digest,
        }

    def flipped(self) -> Network:
        """The same network beside its scenes right for left: a second question about each."""
        return replace(self, members=self.members.flipped(), nonmembers=self.nonmembers.flipped())


def load_or_train(
    plan: Plan,
    name: str,
    members: Scenes,
    nonmembers: Scenes,
    held_out: Scenes,
    *,
    seed: int,
    dtype: torch.dtype = torch.float16,
    imitated: Network | None = None,
    start: Network | None = None,
) -> Network:
    """The network of that name in `plan.weights`, trained on `members` if it is not there yet.

    `imitated`: whose answers on the members it learns to give, beside the labels; `start`: from
    whose weights on it is trained.
    """
    others = {"imitated": imitated, "start": start}
    others = {key: of for key, of in others.items() if of is not None}
    if shipped(plan.weights, name) is None:
        _train_network(plan, name, members, nonmembers, held_out, seed, dtype, others)
    entry = manifest(plan.weights)[name]
    for key, what in (("imitated", "imitates"), ("start", "began as")):
        if entry.get(key) != (others[key].fingerprint if key in others else None):
            raise ValueError(
                f"{name} in {plan.weights} {what} another network, or none; train it again: "
                f"{again(plan, name)}"
            )
    if entry.get("members_digest") != members.digest:
        raise ValueError(
            f"{name} in {plan.weights} was trained on other scenes than this experiment's members; "
            f"its scores would mean nothing. Train it again: {again(plan, name)}"
        )
    if Recipe(**entry["recipe"]) != plan.recipe:
        raise ValueError(
            f"{name} in {plan.weights} was trained by another recipe: {entry['recipe']}, expected "
            f"{plan.recipe.model_dump()}. Use that recipe, or train it again: {again(plan, name)}"
        )
    model, meta = victims.load_victim(shipped(plan.weights, name), entry["sha256"])
    return Network(name, model, meta, entry["sha256"], members, nonmembers)


def _train_network(plan, name, members, nonmembers, held_out, seed, dtype, others) -> None:
    checkpoint = plan.build / "checkpoints" / f"{name}-{members.digest[:8]}.pt"
    started = time.monotonic()
    answers = None
    if "imitated" in others:
        batches = victims.posterior_batches(others["imitated"].model, members)
        answers = torch.cat([posterior.half() for posterior, _ in batches])
    model, history = victims.train_victim(
        plan.recipe,
        members,
        held_out,
        seed=seed,
        checkpoint=checkpoint,
        progress=name if plan.progress else None,
        line=bar_line,
        answers=answers,
        start=others["start"].model if "start" in others else None,
    )
    meta = {
        "kind": "network",
        **{key: of.fingerprint for key, of in others.items()},
        "recipe": plan.recipe.model_dump(),
        "seed": seed,
        "members": f"{len(members)}: {members.ids[0]} … {members.ids[-1]}",
        "members_digest": members.digest,
        "metrics": {
            **both_miou(model, members, nonmembers),
            "held_out_miou": [
                [h["epoch"], round(h["held_out_miou"], 4)] for h in history if "held_out_miou" in h
            ],
            "train_loss": [round(h["loss"], 4) for h in history],
            "seconds": round(time.monotonic() - started),
        },
    }
    ship(plan.weights, name, model, meta, dtype)
    checkpoint.unlink(missing_ok=True)


def both_miou(model: nn.Module, members: Scenes, nonmembers: Scenes) -> dict[str, float]:
    """Mean IoU on up to 200 members and as many non-members, for the manifest."""
    groups = {"member_miou": members, "nonmember_miou": nonmembers}
    return {
        name: round(victims.mean_iou(model, scenes.subset(range(min(200, len(scenes))))), 4)
        for name, scenes in groups.items()
    }


def check_apart(victim: Network, shadow: Network) -> None:
    """Raise ValueError unless victim and shadow have no scene in common."""
    Split(victim.members, victim.nonmembers, shadow.members, shadow.nonmembers)
