"""The default experiment on SynthStreets: who there is, and on which scenes.

Two victims of one city, two shadows of the same city (dependent), two of another (independent), and
further networks of the city. What is shipped in ``weights/`` is loaded and checked against its
SHA-256; what is missing is trained. With the authors' example folder, the victims are the recorded
ones.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from segleak_utils import synthstreets, victims
from segleak_utils.data import Scenes, Split, examples
from segleak_utils.studies import published
from segleak_utils.studies.cache import cached
from segleak_utils.studies.networks import Network, both_miou, load_or_train
from segleak_utils.studies.plan import FURTHER, ROOT, UNSHIPPED, Plan, Sizes

Setting = Literal["dependent", "independent"]
SETTINGS: tuple[Setting, ...] = ("dependent", "independent")
CITY = "harbour"
SHADOW_CITY = {"dependent": CITY, "independent": "oldtown"}
VICTIM_SEEDS = (0, 1)

# The paper draws 90x90 patches from the 128x256 grid and averages over 6 of them by default.
PATCH, N_PATCHES = 90, 6


def plan_of(preset: str, data_root: Path = ROOT / "data", **published) -> Plan:
    """The default experiment as a notebook's preset has it: ``quick`` scores fewer non-members.

    `published`: `examples`, `attackers` and `dilated` as in `Plan`; FileNotFoundError for a folder
    that is not there.
    """
    n_nonmembers = {"quick": 2000, "full": 5000}
    if preset not in n_nonmembers:
        raise ValueError(f"preset {preset!r}; expected one of {', '.join(n_nonmembers)}")
    plan = Plan(Sizes(n_nonmembers=n_nonmembers[preset]), data_root=Path(data_root), **published)
    for name, folder in (("examples", plan.examples), ("attackers", plan.attackers)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(
                f"{name}: no folder {folder.resolve()}; a notebook sees a relative path from "
                "notebooks/, so give an absolute one"
            )
    return plan


def split(plan: Plan, setting: Setting, *, victim_seed: int = 0, shadow_seed: int = 0) -> Split:
    """Members and non-members of a victim and of one of its shadows, on SynthStreets."""
    if setting not in SETTINGS:
        raise ValueError(f"setting {setting!r}; expected one of {SETTINGS}")
    return synthstreets.split(
        CITY,
        victim_seed,
        SHADOW_CITY[setting],
        shadow_seed,
        **asdict(plan.sizes),
        root=plan.data_root,
        progress=plan.progress,
    )


def network_names(plan: Plan) -> list[str]:
    """Names of all victims and shadows of the experiment, in the order of their training."""
    shadows = [[f"shadow-{s}-{k}" for k in plan.shadow_seeds] for s in SETTINGS]
    return [*shadows[0], *(f"victim-{k}" for k in VICTIM_SEEDS), *shadows[1]]


def roles(plan: Plan, name: str) -> tuple[Scenes, Scenes, Scenes]:
    """Members, non-members and held-out scenes of a network of that name."""
    known = [*network_names(plan), *FURTHER]
    if name not in known:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(known)}")
    kind, *setting, seed = name.split("-")
    if kind == "victim":
        whole = split(plan, "dependent", victim_seed=int(seed))
        return whole.victim_members, whole.victim_nonmembers, whole.victim_held_out
    whole = split(plan, setting[0], shadow_seed=int(seed))
    return whole.shadow_members, whole.shadow_nonmembers, whole.shadow_held_out


def network(plan: Plan, name: str) -> Network:
    """A victim (``victim-0``) or shadow (``shadow-dependent-0``): loaded if there, else trained.

    Those that are not shipped (`plan.UNSHIPPED`) are kept in ``build/weights``.
    With examples the two victims are recorded ones: that of SGD, and that of DP-SGD.
    """
    if plan.examples is not None and name in RECORDED:
        return recorded(plan, RECORDED[name])
    scenes = roles(plan, name)
    if name in UNSHIPPED:
        plan = replace(plan, weights=plan.build / "weights")
    # Each network has a seed of its own: victim and shadow must not start from one point.
    if name in FURTHER:
        return load_or_train(plan, name, *scenes, seed=FURTHER[name], dtype=torch.int8)
    return load_or_train(plan, name, *scenes, seed=1 + network_names(plan).index(name))


def networks(plan: Plan, setting: Setting, count: int) -> list[Network]:
    """The first `count` networks that an attacker of that setting has trained.

    ValueError for more than there are: eight of the victim's city, two of the other.
    """
    names = [f"shadow-{setting}-{k}" for k in plan.shadow_seeds]
    names += [n for n in FURTHER if n in plan.further and n.startswith(f"shadow-{setting}")]
    if not 1 <= count <= len(names):
        raise ValueError(f"{count} networks, {setting}: expected 1..{len(names)}")
    return [network(plan, name) for name in names[:count]]


RECORDED = dict(zip((f"victim-{k}" for k in VICTIM_SEEDS), examples.KINDS, strict=True))


def recorded(plan: Plan, kind: examples.Kind) -> Network:
    """A victim of the example folder: it answers with the posteriors on file."""
    of = examples.read(plan.examples)
    model, digest = victims.recorded(of, kind), of.digest(kind)

    def compute() -> dict[str, np.ndarray]:
        both = both_miou(model, of.members, of.nonmembers)
        return {name: np.array(value) for name, value in both.items()}

    mious = {
        name: float(value)
        for name, value in cached(plan.build, "miou", {"answers": digest}, compute).items()
    }
    meta = {"kind": "recorded", "metrics": mious}
    return Network(f"examples-{kind}", model, meta, digest, of.members, of.nonmembers)


def setting_name(plan: Plan, setting: str) -> str:
    """The setting as tables have it: with examples the shadows are of a drawn city in any case."""
    return f"drawn shadows, {SHADOW_CITY[setting]}" if plan.examples else setting


def note(plan: Plan) -> str:
    """What to know of the examples, as a paragraph of Markdown; nothing without them."""
    return f"\n\n{published.note('drawn cities')}" if plan.examples else ""
