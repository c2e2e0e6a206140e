"""Services: victims as they are offered, and the attackers who know, or do not know, how.

A *service* is a victim as it is offered: which network answers, and what is released of its
posterior. Its attackers learned on shadows that are offered in the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from sklearn.model_selection import cross_val_predict

from segleak_utils import attacks, metrics, victims
from segleak_utils.attacks import LinearAttack, contests
from segleak_utils.attacks.contests import GLOBAL, LOGISTIC
from segleak_utils.attacks.patchnets import REPRESENTATIONS, PatchNet, Representation
from segleak_utils.data import Scenes
from segleak_utils.defenses import Release
from segleak_utils.studies import experiment, networks, protected, shelf
from segleak_utils.studies.networks import Network
from segleak_utils.studies.patchattacks import check_shadows, load_attacker, slug, train_attacker
from segleak_utils.studies.plan import Plan
from segleak_utils.studies.shelf import manifest, shipped
from segleak_utils.victims import mc_dropout

STDS = (0.03, 0.1, 0.3, 1.0)
AS_IT_IS = Release()


@dataclass(frozen=True)
class Service:
    """A victim as it is offered. `passes` > 0: that many random passes with dropout on.

    `variant` is the network's training as `protected` names it; "" is the plain one. Where no
    shadow is trained in that way (not `known`), there are naive attackers only.
    `representations`: what the patch attackers of the full table look at.
    """

    name: str
    family: str
    variant: str = ""
    release: Release = AS_IT_IS
    passes: int = 0
    representations: tuple[Representation, ...] = ("loss map + label",)
    known: bool = True

    @property
    def slug(self) -> str:
        """The part of an attacker's file name that stands for this service; "" for no defence."""
        plain = not self.variant and self.release == AS_IT_IS
        return "" if plain else self.name.replace(", ", "-").replace(" ", "-")


NOTHING = Service("no defence", "no defence", representations=REPRESENTATIONS)
RELEASES = (
    NOTHING,
    Service("argmax", "argmax", release=Release("argmax"), representations=REPRESENTATIONS),
    *(
        Service(f"noise {s:g}", "Gaussian noise", release=Release("Gaussian noise", s))
        for s in STDS
    ),
    Service("top 3", "cheap releases", release=Release("top-k", 3)),
    Service("one digit", "cheap releases", release=Release("rounding", 1)),
    Service("temperature 4", "cheap releases", release=Release("temperature", 4)),
)
# The second victim of the paper's example folder.
PUBLISHED = Service("DP-SGD (published)", "DP-SGD, published", "dpsgd", known=False)
DROPOUT = (
    Service("dropout", "dropout", "dropout"),
    Service("dropout, 4 passes", "dropout", "dropout", passes=4),
)


def services() -> tuple[Service, ...]:
    """All of the default's services: those of the plain victim first, then variant by variant."""
    private = []
    for variant, how in protected.TRAININGS.items():
        if how.private is not None:
            noise, start = how.private.noise_multiplier, "tuned" if how.tuned else "scratch"
            name = f"{start}, multiplier {noise:g}" if noise else f"{start}, no noise"
            family = "DP-SGD, fine-tuned" if how.tuned else "DP-SGD, from scratch"
            private.append(Service(name, family, variant))
    return (*RELEASES, *DROPOUT, *private)


def named(names: Sequence[str]) -> list[Service]:
    """No defence, and the default's services of these names; ValueError for an unknown name."""
    known = {service.name: service for service in services()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no service {unknown[0]!r}; there are: {', '.join(known)}")
    return [known[name] for name in dict.fromkeys([NOTHING.name, *names])]


@dataclass(frozen=True)
class Scenario:
    """Where victim and shadows of each variant come from; SynthStreets and CamVid have one each.

    `victim(variant)` loads or trains; `shadows(variant)` too, and is not asked as long as the
    attackers that learned from `shadow_names(variant)` are there. `shadow_scenes` are the members
    and non-members of the plain shadows.
    """

    plan: Plan
    setting: str
    victim: Callable[[str], Network]
    shadow_names: Callable[[str], list[str]]
    shadows: Callable[[str], list[Network]]
    shadow_scenes: Callable[[], list[tuple[Scenes, Scenes]]]


def synthstreets(plan: Plan) -> Scenario:
    """The default: ``victim-0`` in the dependent setting. Trained variants have one shadow."""
    role = "shadow-dependent-0"
    plain = [f"shadow-dependent-{k}" for k in plan.shadow_seeds]

    def shadows(variant: str) -> list[Network]:
        if variant:
            return [protected.network(plan, role, variant)]
        return [experiment.network(plan, name) for name in plain]

    def victim(variant: str) -> Network:
        if variant:
            return protected.network(plan, "victim-0", variant)
        return experiment.network(plan, "victim-0")

    def names(variant: str) -> list[str]:
        return [f"{role}-{variant}"] if variant else plain

    def scenes() -> list[tuple[Scenes, Scenes]]:
        return [experiment.roles(plan, name)[:2] for name in plain]

    return Scenario(plan, "dependent", victim, names, shadows, scenes)


def on_examples(plan: Plan) -> Scenario:
    """The paper's example folder: its victims by SGD and (variant ``dpsgd``) by DP-SGD.

    The shadows are SynthStreets' plain ones.
    """
    names = {"": "victim-0", PUBLISHED.variant: "victim-1"}
    return replace(
        synthstreets(plan), victim=lambda variant: experiment.network(plan, names[variant])
    )


def worlds(plan: Plan) -> tuple[Scenario, Scenario]:
    """Where releases are measured, and where trainings are: two worlds if the plan has examples."""
    home = synthstreets(replace(plan, examples=None))
    return (home if plan.examples is None else on_examples(plan)), home


def offered(service: Service, of: Network, seed: int) -> Network:
    """The network as the service has it answer: with dropout on, where it does."""
    if not service.passes:
        return of
    return replace(of, model=mc_dropout(of.model, service.passes, seed=seed))


# ---------------------------------------------------------------------------------- attackers


@dataclass(frozen=True)
class Attackers:
    """Those who learned on one kind of shadow: patch attackers and the per-class regression.

    `hashes` are those of their files; thresholds are those of the shadows.
    """

    nets: dict[Representation, PatchNet]
    regression: LinearAttack
    thresholds: dict[str, float]
    hashes: dict[str, str]

    def only(self, wanted: Sequence[Representation]) -> Attackers:
        """Without the patch attackers on other representations."""
        kept = {key: self.hashes[key] for key in [*wanted, LOGISTIC]}
        return replace(self, nets={r: self.nets[r] for r in wanted}, hashes=kept)


def attacker_names(scenario: Scenario, service: Service) -> dict[str, str]:
    """File names of a service's attackers, by representation, and of its regression."""
    start = "-".join(part for part in ("attack", scenario.setting, service.slug) if part)
    names = {r: f"{start}-{slug(r)}" for r in REPRESENTATIONS}
    return names | {LOGISTIC: f"{start}-regression"}


def attackers(scenario: Scenario, service: Service, wanted: Sequence[Representation]) -> Attackers:
    """The attackers who know that service: loaded if there, else trained on its shadows."""
    plan, names = scenario.plan, attacker_names(scenario, service)
    needed = [*wanted, LOGISTIC]
    if any(shipped(plan.weights, names[key]) is None for key in needed):
        train_attackers(scenario, service, wanted)
    entries = manifest(plan.weights)
    of = {name: entries[name]["sha256"] for name in scenario.shadow_names(service.variant)}
    name = names[LOGISTIC]
    check_shadows(plan, name, of)
    entry = entries[name]
    state, _ = victims.read_weights(shipped(plan.weights, name), entry["sha256"])
    regression = LinearAttack(len(state["mean"]))
    regression.load_state_dict(state)
    thresholds = dict(entry["thresholds"])
    nets = {}
    for r in wanted:
        n_classes = len(state["mean"]) // 3
        nets[r], found = load_attacker(plan, names[r], r, of, n_classes)
        thresholds[contests.patch_attack(r)] = found["threshold"]
    hashes = {key: entries[names[key]]["sha256"] for key in needed}
    return Attackers(nets, regression, thresholds, hashes)


def train_attackers(scenario: Scenario, service: Service, wanted: Sequence[Representation]) -> None:
    """Train what is missing of a service's attackers, on its shadows' outputs."""
    plan, names = scenario.plan, attacker_names(scenario, service)
    missing = [r for r in wanted if shipped(plan.weights, names[r]) is None]
    shadows = scenario.shadows(service.variant)
    started = time.monotonic()
    shown = []
    for k, shadow in enumerate(shadows):
        generator = torch.Generator().manual_seed(1000 + k)
        of = offered(service, shadow, seed=1000 + k)
        shown.append(
            attacks.ask(
                of.model,
                of.members,
                of.nonmembers,
                keep_posteriors="concatenation" in missing,
                release=partial(service.release, generator=generator, check=False),
                progress=of.name if plan.progress and not networks.bar_line else None,
            )
        )
    if shipped(plan.weights, names[LOGISTIC]) is None:
        _train_regression(plan, names[LOGISTIC], shown, shadows)
    for r in missing:
        train_attacker(plan, names[r], r, shown, shadows, started)
        started = time.monotonic()


def _train_regression(plan, name, shown, shadows) -> None:
    member = np.concatenate([o.member for o in shown])
    features = np.concatenate([attacks.class_features(o) for o in shown])
    fitted = attacks.logistic_attack(features, member)
    own = cross_val_predict(fitted, features, member, cv=5, method="decision_function")
    losses = np.concatenate([attacks.global_loss_scores(o) for o in shown])
    meta = {
        "kind": "regression",
        "shadows": {of.name: of.sha256 for of in shadows},
        "thresholds": {
            LOGISTIC: metrics.best_threshold(own, member),
            GLOBAL: metrics.best_threshold(losses, member),
        },
        "metrics": {"select_auc": round(metrics.auc(own, member).value, 4)},
    }
    shelf.ship(plan.weights, name, LinearAttack.of(fitted), meta, torch.float64)
