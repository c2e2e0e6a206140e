"""Trained attackers on the shelf: loaded if there, else trained on the shadows' outputs."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import torch

from segleak_utils import attacks, metrics, victims
from segleak_utils.attacks import Outputs, patchnets
from segleak_utils.attacks.patchnets import Representation
from segleak_utils.studies import networks
from segleak_utils.studies.networks import Network, again
from segleak_utils.studies.plan import Plan
from segleak_utils.studies.shelf import manifest, ship, shipped


def slug(representation: Representation) -> str:
    """The representation in a file name."""
    return representation.replace(" + ", "+").replace(" ", "-")


def attacker_name(setting: str, representation: Representation) -> str:
    """Under which the patch attacker of a setting is stored."""
    return f"attack-{setting}-{slug(representation)}"


def attacker(
    plan: Plan, setting: str, representation: Representation, shadows: list[Network]
) -> tuple[patchnets.PatchNet, dict]:
    """The patch attacker of that setting: loaded if there, else trained on the shadows' outputs.

    Its entry in the manifest (returned too) has the threshold chosen on shadow images that took no
    part in its training, and the SHA-256 of the shadows it learned from: an attacker of other
    shadows raises ValueError.
    """
    name = attacker_name(setting, representation)
    if shipped(plan.weights, name) is None:
        _train_attacker(plan, name, representation, shadows)
    of = {shadow.name: shadow.sha256 for shadow in shadows}
    return load_attacker(plan, name, representation, of, shadows[0].members.n_classes)


def load_attacker(
    plan: Plan, name: str, representation: Representation, shadows: dict[str, str], n_classes: int
) -> tuple[patchnets.PatchNet, dict]:
    """A stored patch attacker and its entry; `shadows`: name → SHA-256 of those it learned from."""
    entry = manifest(plan.weights)[name]
    check_shadows(plan, name, shadows)
    wanted = asdict(replace(plan.attack, representation=representation))
    if entry["recipe"] != wanted:
        raise ValueError(
            f"{name} in {plan.weights} was trained by another recipe: {entry['recipe']}, expected "
            f"{wanted}. Use that recipe, or train it again: {again(plan, name)}"
        )
    state, meta = victims.read_weights(shipped(plan.weights, name), entry["sha256"])
    net = patchnets.PatchNet(representation, n_classes, meta["recipe"]["width"])
    net.load_state_dict(state)
    return net.eval().to(victims.best_device(), memory_format=torch.channels_last), entry


def check_shadows(plan: Plan, name: str, shadows: dict[str, str]) -> None:
    """Raise ValueError for an attacker that learned from other shadows than these."""
    if manifest(plan.weights)[name]["shadows"] != shadows:
        raise ValueError(
            f"{name} was trained on other shadows than those in {plan.weights}; train it again: "
            f"{again(plan, name)}"
        )


def _train_attacker(plan, name, representation, shadows) -> None:
    started = time.monotonic()
    shown = [
        attacks.ask(
            of.model,
            of.members,
            of.nonmembers,
            keep_posteriors=representation == "concatenation",
        )
        for of in shadows
    ]
    train_attacker(plan, name, representation, shown, shadows, started)


def train_attacker(
    plan: Plan,
    name: str,
    representation: Representation,
    shown: list[Outputs],
    shadows: list[Network],
    started: float,
) -> None:
    """Train a patch attacker on what the shadows have shown, and store it under that name."""
    recipe = replace(plan.attack, representation=representation)
    net, history, (scores, member) = attacks.train_attacker(
        recipe, shown, seed=1, progress=name if plan.progress else None, line=networks.bar_line
    )
    meta = {
        "kind": "attacker",
        "recipe": asdict(recipe),
        "seed": 1,
        "shadows": {of.name: of.sha256 for of in shadows},
        "threshold": metrics.best_threshold(scores, member),
        "metrics": {
            "select_auc": [round(h["select_auc"], 4) for h in history],
            "train_loss": [round(h["loss"], 4) for h in history],
            "seconds": round(time.monotonic() - started),
        },
    }
    ship(plan.weights, name, net, meta)
