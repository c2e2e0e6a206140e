"""Every defence against an attacker who does not know it and one who does, and what it costs.

A *service* is a victim as it is offered: which network answers, and what is released of its
posterior. The naive attacker learned on shadows without a defence, the adaptive one on shadows
that are offered in the same way. The price is paid by those who use the service: mean IoU and
calibration error on scenes that the victim has not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from sklearn.model_selection import cross_val_predict
from torch import Tensor

from segleak_utils import attacks, metrics, representations, victims
from segleak_utils.attacks import LinearAttack, Outputs, contests
from segleak_utils.attacks.contests import BLIND, GLOBAL, LOGISTIC, Attack, Contest
from segleak_utils.attacks.patchnets import REPRESENTATIONS, PatchNet, Representation
from segleak_utils.data import VOID, Scenes
from segleak_utils.defenses import Release
from segleak_utils.running import results
from segleak_utils.studies import (
    asking,
    experiment,
    networks,
    protected,
    shelf,
    standard,
)
from segleak_utils.studies.cache import cached
from segleak_utils.studies.networks import Network
from segleak_utils.studies.patchattacks import check_shadows, load_attacker, slug, train_attacker
from segleak_utils.studies.plan import Plan
from segleak_utils.studies.shelf import manifest, shipped
from segleak_utils.victims import mc_dropout
from segleak_utils.victims.accountant import Privacy

VERSION = 2  # part of every cache key: raise it when cached numbers change
STDS = (0.03, 0.1, 0.3, 1.0)
NAIVE, ADAPTIVE = "naive", "adaptive"
AS_IT_IS = Release()
SEEN = {GLOBAL: "mean loss", LOGISTIC: "class losses + shares"}


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


# ---------------------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Measured:
    """One service: both attackers on the same images, and the price of the defence.

    miou, ece: mean IoU and expected calibration error of what is released, on `n_priced`
    non-members; confusions: int32 [n_priced, C, C], theirs. `images`: digests of the members and of
    the non-members.
    """

    service: Service
    naive: Contest
    adaptive: Contest
    miou: float
    ece: float
    n_priced: int
    confusions: Tensor
    images: tuple[str, str]
    privacy: Privacy | None = None

    def contest(self, who: str) -> Contest:
        return {NAIVE: self.naive, ADAPTIVE: self.adaptive}[who]


def measure(
    scenario: Scenario,
    chosen: Sequence[Service],
    *,
    wanted: Mapping[Service, Sequence[Representation]] | None = None,
    n_patches: int = experiment.N_PATCHES,
    seed: int = 0,
    n_priced: int = 200,
) -> list[Measured]:
    """Attack and price services, in one pass over the posteriors of each network; cached.

    Patch attackers look at what is `wanted` of a service (those that are not named: at nothing), or
    at each service's own representations; both attackers are given the same patches. Noise is drawn
    from `seed` for each service anew.
    """
    seen = {s: s.representations if wanted is None else wanted.get(s, ()) for s in chosen}
    naive = attackers(scenario, NOTHING, list(dict.fromkeys(r for of in seen.values() for r in of)))
    found: dict[Service, Measured] = {}
    groups: dict[tuple[str, int], list[Service]] = {}
    for service in chosen:
        groups.setdefault((service.variant, service.passes), []).append(service)
    for (variant, _), group in groups.items():
        victim = scenario.victim(variant)
        both = {}
        for service in group:
            own = seen[service]
            before = naive.only(own)
            told = service.slug and service.known
            knows = attackers(scenario, service, own) if told else before
            both[service] = before, knows
        numbers = _numbers(scenario, victim, both, n_patches, seed, n_priced)
        blind = _blind(scenario, victim)
        for service, arrays in numbers.items():
            found[service] = _measured(
                scenario, victim, service, both[service], arrays, blind, n_priced
            )
    return [found[service] for service in chosen]


def _key(scenario, victim, service, both, n_patches, seed, n_priced) -> dict[str, object]:
    return {
        "version": VERSION,
        **victim.identity,
        "release": service.release,
        "passes": service.passes,
        "attackers": [of.hashes for of in both],
        "n_patches": n_patches,
        "patch": scenario.plan.attack.patch,
        "seed": seed,
        "n_priced": n_priced,
    }


def _numbers(scenario, victim, both, n_patches, seed, n_priced) -> dict[Service, dict]:
    """Scores and price of several services of one network; only what is not cached is computed."""
    plan, out, missing = scenario.plan, {}, []

    def absent() -> dict:
        raise LookupError

    for service, who in both.items():
        try:
            key = _key(scenario, victim, service, who, n_patches, seed, n_priced)
            out[service] = cached(plan.build, "service", key, absent)
        except LookupError:
            missing.append(service)
    if missing:
        watchers = [_Watcher(plan, s, both[s], n_patches, seed) for s in missing]
        model = offered(missing[0], victim, seed).model
        for kind, scenes in enumerate((victim.members, victim.nonmembers)):
            priced = n_priced if kind else 0
            told = f"{victim.name}, {len(missing)} releases" if plan.progress else None
            for posterior, masks in victims.posterior_batches(model, scenes, progress=told):
                representations.check_posterior(posterior, masks)
                for watcher in watchers:
                    watcher.look(posterior, masks, priced)
                priced = max(0, priced - len(masks))
        for service, watcher in zip(missing, watchers, strict=True):
            key = _key(scenario, victim, service, both[service], n_patches, seed, n_priced)
            out[service] = cached(plan.build, "service", key, watcher.arrays)
    return out


class _Watcher:
    """Collects what the attackers make of one service, and what its users get, batch by batch."""

    def __init__(self, plan, service: Service, both, n_patches: int, seed: int) -> None:
        self.release, self.patch, self.n_patches = service.release, plan.attack.patch, n_patches
        self.noise = torch.Generator().manual_seed(seed)
        self.attackers = dict(zip((NAIVE, ADAPTIVE), both, strict=True))
        if both[0] is both[1]:
            del self.attackers[ADAPTIVE]
        # one generator each, all with one seed: every attacker is given the same patches
        self.patches = {
            (who, r): torch.Generator().manual_seed(seed)
            for who, of in self.attackers.items()
            for r in of.nets
        }
        self.kept: dict[str, list] = {}
        self.confusions: list[Tensor] = []  # one an image
        self.counts: Tensor | int = 0

    def look(self, posterior: Tensor, masks: Tensor, priced: int) -> None:
        released = self.release(posterior, self.noise, check=False)
        n_classes = released.shape[1]
        loss = representations.structured_loss_map(released, masks, check=False)
        shown = Outputs(loss.half(), masks.byte(), np.zeros(len(masks), bool), n_classes)
        self.keep(GLOBAL, attacks.global_loss_scores(shown))
        features = attacks.class_features(shown)
        for who, of in self.attackers.items():
            self.keep(f"{who} {LOGISTIC}", of.regression.scores(features))
        for (who, r), generator in self.patches.items():
            maps = attacks.represent(released, masks, r)
            net = self.attackers[who].nets[r]
            patches = attacks.patch_scores(net, maps, self.n_patches, self.patch, generator)
            self.keep(f"{who} {r}", patches.numpy())
        if priced:
            self.price(released[:priced], masks[:priced])

    def keep(self, name: str, values: np.ndarray) -> None:
        self.kept.setdefault(name, []).append(values)

    def price(self, released: Tensor, masks: Tensor) -> None:
        confidence, predicted = released.max(1)
        pairs = zip(predicted, masks, strict=True)
        self.confusions += [victims.confusion_matrix(*pair, released.shape[1]) for pair in pairs]
        labelled = masks != VOID
        right = predicted[labelled] == masks[labelled]
        self.counts = self.counts + metrics.calibration_counts(confidence[labelled], right)

    def arrays(self) -> dict[str, np.ndarray]:
        joined = {name: np.concatenate(parts) for name, parts in self.kept.items()}
        priced = {"confusions": torch.stack(self.confusions).int(), "calibration": self.counts}
        return joined | {name: counts.numpy() for name, counts in priced.items()}


def _blind(scenario: Scenario, victim: Network) -> Attack:
    """The blind baseline of a victim's scenes; it learns on the plain shadows' scenes."""
    plan = scenario.plan
    shadows = scenario.shadow_scenes()
    looks = [asking.blind_features(plan, *pair) for pair in shadows]
    member = np.concatenate([np.arange(len(m) + len(n)) < len(m) for m, n in shadows])
    of_victim = asking.blind_features(plan, victim.members, victim.nonmembers)
    return contests.blind(of_victim, looks, member)


def _measured(scenario, victim, service, both, arrays, blind, n_priced) -> Measured:
    member = victim.member

    def contest(who: str, of: Attackers) -> Contest:
        found = [blind]
        scores = arrays[GLOBAL].astype(np.float64)
        found.append(Attack(GLOBAL, SEEN[GLOBAL], scores, of.thresholds[GLOBAL]))
        scores = arrays[f"{who} {LOGISTIC}"]
        found.append(Attack(LOGISTIC, SEEN[LOGISTIC], scores, of.thresholds[LOGISTIC]))
        for r in of.nets:
            patches, name = arrays[f"{who} {r}"], contests.patch_attack(r)
            scores = patches.mean(1, dtype=np.float64)
            found.append(Attack(name, r, scores, of.thresholds[name], patches))
        named = f"{victim.name}, {service.name}"
        setting = experiment.setting_name(scenario.plan, scenario.setting)
        return Contest(named, setting, member, tuple(found))

    naive = contest(NAIVE, both[0])
    adaptive = naive if both[0] is both[1] else contest(ADAPTIVE, both[1])
    confusions = torch.from_numpy(arrays["confusions"])
    return Measured(
        service,
        naive,
        adaptive,
        miou=victims.iou_of(confusions.sum(0)).nanmean().item(),
        ece=metrics.calibration_error(torch.from_numpy(arrays["calibration"])),
        n_priced=min(n_priced, len(victim.nonmembers)),
        confusions=confusions,
        images=(victim.members.digest, victim.nonmembers.digest),
        privacy=protected.promise(victim),
    )


def rows(found: Sequence[Measured], notebook: str) -> list[results.ResultRow]:
    """All services as rows of the final table."""
    out = []
    for of in found:
        price = f"mean IoU {of.miou:.3f}, calibration error {of.ece:.3f}"
        for who in (NAIVE,) if of.naive is of.adaptive else (NAIVE, ADAPTIVE):
            for row in standard.rows(of.contest(who), notebook):
                if who == ADAPTIVE and row.attack == BLIND:
                    continue
                if row.attack != BLIND and of.service.slug:
                    row = row.model_copy(update={"attack": f"{who}: {row.attack}"})
                out.append(row.model_copy(update={"note": f"{price}; {row.note}"}))
    return out


def table(found: Sequence[Measured], groups: Sequence[str] | None = None) -> str:
    """A line for each service, attacker and attack, as Markdown.

    groups: whose images they are, members first, if known; intervals are over groups then.
    """
    lines = [
        "| defence | attacker | attack | AUC | TPR at 1 % FPR | precision at 50 / 10 / 1 % "
        "| mean IoU | calibration error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for of in found:
        alone = of.naive is of.adaptive
        for who in (NAIVE,) if alone else (NAIVE, ADAPTIVE):
            contest = of.contest(who)
            for attack in contest.attacks:
                if attack.name == BLIND and who == ADAPTIVE:
                    continue
                knows = who if of.service.slug and attack.name != BLIND else "-"
                pair = attack.scores, contest.member
                area = metrics.auc(*pair) if groups is None else metrics.grouped_auc(*pair, groups)
                cells = [of.service.name, knows, attack.name, f"{area:.3}"]
                cells += metrics.tpr_cells(*pair, results.TPR_FPR, groups)
                cells += [f"{of.miou:.3f}", f"{of.ece:.3f}"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
