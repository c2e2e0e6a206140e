"""Victims and shadows with a defence inside their training: dropout, or DP-SGD.

A *variant* of ``victim-0`` or ``shadow-dependent-0`` has its scenes and another training. DP-SGD
comes in the two ways a practitioner would try: from scratch with many more members, and as the
fine-tuning of a network that was trained on *public* scenes, those of another city.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import torch

from segleak_utils import victims
from segleak_utils.data import Scenes
from segleak_utils.studies import experiment, networks
from segleak_utils.studies.experiment import CITY
from segleak_utils.studies.networks import Network, both_miou
from segleak_utils.studies.plan import Plan
from segleak_utils.studies.shelf import manifest, ship, shipped
from segleak_utils.synthstreets import draw
from segleak_utils.victims import Recipe
from segleak_utils.victims.accountant import Privacy
from segleak_utils.victims.dpsgd import DPRecipe, Schedule, train_private_victim, trained_names

PUBLIC = "public"
PUBLIC_CITY = "oldtown"
PUBLIC_START = 700_000  # scenes that no victim, shadow or non-member has
SCRATCH_START = {"victim-0": 130_000, "shadow-dependent-0": 530_000}
SCRATCH_TIMES = 5  # as many members as the plain victim
PRIVATE_METRICS = ("member_miou", "train_loss")


@dataclass(frozen=True)
class Training:
    """How a variant is trained: what it changes in the recipe, its private part, where it starts.

    `tuned`: from the public network, of which it keeps all that is not trained.
    """

    changes: Mapping[str, object]
    private: DPRecipe | None = None
    tuned: bool = False

    def recipe(self, plan: Plan) -> Recipe:
        return Recipe(**{**plan.recipe.model_dump(), **self.changes})

    def planned(self, plan: Plan) -> int:
        """The number of members that the training is for, which is public."""
        return plan.sizes.n_members * (1 if self.tuned or self.private is None else SCRATCH_TIMES)

    def schedule(self, plan: Plan) -> Schedule:
        """Its steps, if it is by DP-SGD: of the plan, not of the members (`DPRecipe.schedule`)."""
        return self.private.schedule(self.planned(plan))


# Never stopped early: a one-cycle schedule is at its best towards its end.
PUBLIC_TRAINING = Training({"norm": "group", "patience": 100})
# Crops and colours cost DP-SGD more than they give: its noise hides details anyway.
_PRIVATE = {"norm": "group", "crop_area": 1.0, "colour": 0.0}
_TUNING = DPRecipe(noise_multiplier=0, batch=400, epochs=16, lr=4e-3, trained="few")
TRAININGS: dict[str, Training] = {
    "dropout": Training({"dropout": 0.3}),
    **{
        f"tuned-{noise}": Training(
            _PRIVATE, _TUNING.model_copy(update={"noise_multiplier": noise}), tuned=True
        )
        for noise in (0, 12)
    },
    "scratch-1": Training(
        _PRIVATE, DPRecipe(noise_multiplier=1, batch=250, epochs=10, lr=2e-3, crop=64)
    ),
}


def names(plan: Plan) -> list[str]:
    """All networks of this module, in the order of their training."""
    return [PUBLIC, *(f"{role}-{variant}" for variant in TRAININGS for role in SCRATCH_START)]


def parts(name: str) -> tuple[str, str]:
    """``victim-0-dropout`` as its role and its variant; two empty strings for another name."""
    for role in SCRATCH_START:
        if name.startswith(f"{role}-"):
            return role, name.removeprefix(f"{role}-")
    return "", ""


def public_scenes(plan: Plan) -> tuple[Scenes, Scenes]:
    """Scenes of another city to train the public network on, as many as members, and held out."""
    count = plan.sizes.n_members
    whole = _draw(plan, PUBLIC_CITY, PUBLIC_START, count + max(1, plan.sizes.n_held_out))
    return whole.subset(range(count)), whole.subset(range(count, len(whole)))


def scenes(plan: Plan, role: str, variant: str) -> tuple[Callable[[], Scenes], Scenes, Scenes]:
    """All members (drawn when asked for), those that are attacked, and the non-members."""
    members, nonmembers, _ = experiment.roles(plan, role)
    if not variant.startswith("scratch"):
        return (lambda: members), members, nonmembers
    start, sizes = SCRATCH_START[role], plan.sizes
    count = SCRATCH_TIMES * sizes.n_members
    if role != "victim-0":
        nonmembers = _draw(plan, CITY, start + count, sizes.n_shadow_nonmembers)
    shown = _draw(plan, CITY, start, sizes.n_members)
    return (lambda: _draw(plan, CITY, start, count)), shown, nonmembers


def _draw(plan: Plan, city: str, start: int, count: int) -> Scenes:
    return draw(city, 0, start, count, root=plan.data_root, progress=plan.progress)


def public(plan: Plan) -> Network:
    """The public network; its `nonmembers` are the held-out scenes."""
    own = replace(plan, recipe=PUBLIC_TRAINING.recipe(plan))
    members, held_out = public_scenes(plan)
    return networks.load_or_train(own, PUBLIC, members, held_out, held_out, seed=100)


def network(plan: Plan, role: str, variant: str) -> Network:
    """A variant of ``victim-0`` or ``shadow-dependent-0``: loaded if there, else trained.

    Raises ValueError for an unknown role or variant, and for a file of other members, of another
    recipe, or that was tuned from another public network.
    """
    if variant not in TRAININGS or role not in SCRATCH_START:
        raise ValueError(f"unknown network {role}-{variant}; known: {', '.join(names(plan)[1:])}")
    how, name = TRAININGS[variant], f"{role}-{variant}"
    everyone, members, nonmembers = scenes(plan, role, variant)
    if how.private is None:
        held_out = experiment.roles(plan, role)[2]
        own = replace(plan, recipe=how.recipe(plan))
        return networks.load_or_train(own, name, members, nonmembers, held_out, seed=_seed(name))
    base = public(plan) if how.tuned else None
    if shipped(plan.weights, name) is None:
        _train(plan, name, how, everyone(), members, nonmembers, base)
    entry = manifest(plan.weights)[name]
    expected = {
        "recipe": how.recipe(plan),
        "private": how.private.model_dump(),
        "members_digest": members.digest,
        "public": base and base.sha256,
        "sampling rate or steps": (how.schedule(plan).sampling_rate, how.schedule(plan).steps),
    }
    said = entry["privacy"]
    found = {
        **entry,
        "recipe": Recipe(**entry["recipe"]),  # recipes gain fields with defaults
        "sampling rate or steps": (said["sampling_rate"], said["steps"]),
    }
    wrong = [key for key, value in expected.items() if found.get(key) != value]
    if wrong:
        raise ValueError(
            f"{name} in {plan.weights} has another {' and '.join(wrong)} than expected; train it "
            f"again: python3 -m segleak_utils.run weights {name}"
        )
    state, meta = victims.read_weights(shipped(plan.weights, name), entry["sha256"])
    model = victims.build_victim(how.recipe(plan))
    if base is not None:  # the file has the tuned part alone: the rest is public, word for word
        state = base.model.state_dict() | state
    model.load_state_dict(state)
    model = model.eval().to(victims.best_device(), memory_format=torch.channels_last)
    return Network(name, model, meta, entry["sha256"], members, nonmembers)


def promise(of: Network) -> Privacy | None:
    """The (epsilon, delta) of a network and what they come from; None without DP-SGD."""
    return Privacy(**of.meta["privacy"]) if of.meta.get("privacy") else None


def public_metrics(metrics: Mapping[str, object]) -> dict[str, object]:
    """Of a private training's numbers those that no member has a part in but through the weights.

    Losses and mean IoU of the members are exact functions of private images, computed beside the
    mechanism: whoever publishes them promises nothing any more, whatever epsilon the weights have.
    """
    return {k: v for k, v in metrics.items() if k not in PRIVATE_METRICS}


def _seed(name: str) -> int:
    return zlib.crc32(name.encode()) % 10_000  # its own for each, whatever else is in the list


def _train(plan, name, how: Training, everyone, members, nonmembers, base) -> None:
    started = time.monotonic()
    seed = _seed(name)
    checkpoint = plan.build / "checkpoints" / f"{name}-{members.digest[:8]}.pt"
    model, history, promised = train_private_victim(
        how.recipe(plan),
        how.private,
        everyone,
        planned=how.planned(plan),
        seed=seed,
        start=base and base.model.state_dict(),
        checkpoint=checkpoint,
        progress=name if plan.progress else None,
        line=networks.bar_line,
    )
    own = trained_names(model, how.private.trained)
    kept = {k: v for k, v in model.state_dict().items() if k in own} if how.tuned else model
    meta = {
        "kind": "network",
        "recipe": how.recipe(plan).model_dump(),
        "private": how.private.model_dump(),
        "privacy": asdict(promised) | {"epsilon": finite(promised.epsilon)},
        "public": base and base.sha256,
        "seed": seed,
        "members": f"{len(everyone)}: {everyone.ids[0]} … {everyone.ids[-1]}",
        "members_digest": members.digest,
        "metrics": {
            **both_miou(model, members, nonmembers),
            "train_loss": [round(h["loss"], 4) for h in history],
            "seconds": round(time.monotonic() - started),
        },
    }
    if how.private.noise_multiplier:
        meta["metrics"] = public_metrics(meta["metrics"])
    ship(plan.weights, name, kept, meta)
    checkpoint.unlink(missing_ok=True)


def finite(epsilon: float) -> float | None:
    """JSON has no infinity: no privacy is null there."""
    return epsilon if epsilon < float("inf") else None
