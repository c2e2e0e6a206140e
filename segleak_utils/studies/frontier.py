"""Every defence against an attacker who does not know it and one who does, and what it costs.

The naive attacker learned on shadows without a defence, the adaptive one on shadows that are
offered as the victim is (`offers`). The price is paid by those who use the service: mean IoU and
calibration error on scenes that the victim has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segleak_utils import attacks, metrics, representations, victims
from segleak_utils.attacks import Outputs, contests
from segleak_utils.attacks.contests import BLIND, GLOBAL, LOGISTIC, Attack, Contest
from segleak_utils.attacks.patchnets import Representation
from segleak_utils.data import VOID
from segleak_utils.running import results
from segleak_utils.studies import asking, experiment, protected, standard
from segleak_utils.studies.cache import cached
from segleak_utils.studies.networks import Network
from segleak_utils.studies.offers import (
    NOTHING,
    Attackers,
    Scenario,
    Service,
    attackers,
    offered,
)
from segleak_utils.victims.accountant import Privacy

VERSION = 2  # part of every cache key: raise it when cached numbers change
NAIVE, ADAPTIVE = "naive", "adaptive"
SEEN = {GLOBAL: "mean loss", LOGISTIC: "class losses + shares"}


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
        seen = {r for _, r in self.patches}
        maps = {r: attacks.represent(released, masks, r) for r in seen}
        for (who, r), generator in self.patches.items():
            net = self.attackers[who].nets[r]
            patches = attacks.patch_scores(net, maps[r], self.n_patches, self.patch, generator)
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
