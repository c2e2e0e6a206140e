"""The standard contest on one victim: the bars, the patch attacks, and the rows of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from segleak_utils import attacks, metrics
from segleak_utils.attacks import patchnets
from segleak_utils.attacks.contests import Attack, Contest, bars_of, patch_attack
from segleak_utils.attacks.patchnets import Representation
from segleak_utils.running import results
from segleak_utils.studies import published
from segleak_utils.studies.asking import answers_of, blind_features, loss_outputs
from segleak_utils.studies.cache import cached, keep
from segleak_utils.studies.experiment import (
    N_PATCHES,
    PATCH,
    SETTINGS,
    VICTIM_SEEDS,
    Setting,
    network,
    setting_name,
)
from segleak_utils.studies.networks import Network, check_apart
from segleak_utils.studies.patchattacks import attacker, attacker_name, load_attacker
from segleak_utils.studies.plan import Plan
from segleak_utils.studies.shelf import manifest, shipped
from segleak_utils.whole import sha256

Trained = Mapping[Representation, tuple[patchnets.PatchNet, dict]]  # with its entry on the shelf


def bars(plan: Plan, setting: str, victim: Network, shadows: list[Network]) -> Contest:
    """The cheap attacks that a patch attack has to pass: blind, global loss, per-class regression.

    All learning and all thresholds come from the shadows.
    Raises ValueError where the victim's scenes and a shadow's overlap.
    """
    _check_shadows(victim, shadows)
    return bars_of(
        victim.name,
        setting_name(plan, setting),
        loss_outputs(plan, victim),
        [loss_outputs(plan, of) for of in shadows],
        [blind_features(plan, of.members, of.nonmembers) for of in (victim, *shadows)],
    )


def _check_shadows(victim: Network, shadows: list[Network]) -> None:
    """Raise ValueError without a shadow, or for one that shares scenes with the victim."""
    if not shadows:
        raise ValueError("no shadow to learn from; at least one is needed")
    for of in shadows:
        check_apart(victim, of)


def contest(
    plan: Plan,
    setting: str,
    victim: Network,
    shadows: list[Network],
    *,
    n_patches: int = N_PATCHES,
    seed: int = 0,
    also: Sequence[Trained] = (),
) -> Contest:
    """Every attack on one victim: the `bars`, then the patch attacks, which see the same patches.

    `also`: attackers of other contests on this victim, scored in the same pass and kept for them.
    Raises ValueError where the victim's scenes and a shadow's overlap.
    """
    _check_shadows(victim, shadows)
    trained = {r: attacker(plan, setting, r, shadows) for r in patchnets.REPRESENTATIONS}
    # before the bars, which need the loss maps that this pass keeps
    scored = _patch_scores(plan, victim, [trained, *also], n_patches, seed)
    cheap = bars(plan, setting, victim, shadows)
    found = list(cheap.attacks)
    for representation in trained:  # a cached file keeps them in another order
        patches = scored[representation]
        found.append(
            Attack(
                patch_attack(representation),
                representation,
                patches.mean(1, dtype=np.float64),
                trained[representation][1]["threshold"],
                patches,
            )
        )
    if plan.attackers is not None:
        found += published_attacks(plan, victim, n_patches, seed)
    return replace(cheap, attacks=tuple(found))


def published_attacks(plan: Plan, victim: Network, n_patches: int, seed: int) -> list[Attack]:
    """The published attackers on a victim, by their margin: no shadow has chosen their threshold.

    They say "member" where the member logit is the larger one.
    """
    files = published.public_attackers(plan.attackers)

    def compute() -> dict[str, np.ndarray]:
        nets = {r: published.load_attacker(path, r, plan.dilated) for r, path in files.items()}
        told = f"published attackers on {victim.name}" if plan.progress else None
        answers = answers_of(plan, victim, progress=told)
        return attacks.stream_scores(answers, nets, n_patches=n_patches, patch=PATCH, seed=seed)

    key = {
        **victim.identity,
        "attackers": {r: sha256(path) for r, path in files.items()},
        "dilated": plan.dilated,
        "n_patches": n_patches,
        "patch": PATCH,
        "seed": seed,
    }
    scored = cached(plan.build, "published", key, compute)
    rule = "the published threshold, a margin of 0,"
    return [
        Attack(
            f"{patch_attack(r)} (published)",
            r,
            scored[r].mean(1, dtype=np.float64),
            threshold=0.0,
            patch_scores=scored[r],
            rule=rule,
        )
        for r in files
    ]


def _patch_scores(
    plan: Plan, victim: Network, groups: Sequence[Trained], n_patches: int, seed: int
) -> dict[Representation, np.ndarray]:
    """Patch scores [N,P] of the first group of attackers; cached.

    Where they are not known yet, those of the other groups are found in the same pass over the
    victim's posteriors.
    """

    def key_of(trained: Trained) -> dict[str, object]:
        return {
            **victim.identity,
            "attackers": {r: entry["sha256"] for r, (_, entry) in trained.items()},
            "n_patches": n_patches,
            "patch": plan.attack.patch,
            "seed": seed,
        }

    def compute() -> dict[str, np.ndarray]:
        told = f"attacks on {victim.name}" if plan.progress else None
        how = {"n_patches": n_patches, "patch": plan.attack.patch, "seed": seed}
        nets = {(k, r): net for k, of in enumerate(groups) for r, (net, _) in of.items()}
        scored = attacks.stream_scores(answers_of(plan, victim, progress=told), nets, **how)
        first, *others = [{r: scored[k, r] for r in of} for k, of in enumerate(groups)]
        for of, found in zip(groups[1:], others, strict=True):
            keep(plan.build, "patches", key_of(of), found)
        return first

    return cached(plan.build, "patches", key_of(groups[0]), compute)


def default_contest(
    plan: Plan, setting: Setting, victim_seed: int = 0, *, n_patches: int = N_PATCHES, seed: int = 0
) -> Contest:
    """The contest on SynthStreets, with the shipped networks and attackers.

    The first victim is attacked in both settings, sooner or later: one pass does for both.
    """
    victim = network(plan, f"victim-{victim_seed}")
    shadows = [network(plan, f"shadow-{setting}-{k}") for k in plan.shadow_seeds]
    others = [s for s in SETTINGS if s != setting and victim_seed == VICTIM_SEEDS[0]]
    also = [of for s in others if (of := _on_the_shelf(plan, s, victim.members.n_classes))]
    how = {"n_patches": n_patches, "seed": seed, "also": also}
    return contest(plan, setting, victim, shadows, **how)


def _on_the_shelf(plan: Plan, setting: Setting, n_classes: int) -> Trained:
    """The patch attackers of a setting, without its shadows; none unless all are there."""
    names = {r: attacker_name(setting, r) for r in patchnets.REPRESENTATIONS}
    shadows = [f"shadow-{setting}-{k}" for k in plan.shadow_seeds]
    if not all(shipped(plan.weights, name) for name in (*names.values(), *shadows)):
        return {}
    of = {name: manifest(plan.weights)[name]["sha256"] for name in shadows}
    return {r: load_attacker(plan, name, r, of, n_classes) for r, name in names.items()}


def rows(
    of: Contest, notebook: str, groups: Sequence[str] | None = None
) -> list[results.ResultRow]:
    """The contest as rows of the final table; `groups`: whose images they are, [N], if known.

    Then the intervals of AUC and TPR are over groups.
    """
    out = []
    for attack in of.attacks:
        pair = attack.scores, of.member
        area = metrics.auc(*pair) if groups is None else metrics.grouped_auc(*pair, groups)
        values = {"auc": area.value, "auc_low": area.low, "auc_high": area.high}
        if area.n_nonmembers >= 1 / results.TPR_FPR:
            tpr = metrics.tpr_interval(*pair, results.TPR_FPR, seed=0, groups=groups)
            values |= {"tpr_at_1pct": tpr.value, "tpr_low": tpr.low, "tpr_high": tpr.high}
            worth = (metrics.precision_at(tpr.value, results.TPR_FPR, p) for p in metrics.PRIORS)
            values |= dict(zip(results.PRECISIONS, worth, strict=True))
        accuracy = metrics.balanced_accuracy_at(attack.scores, of.member, attack.threshold)
        out.append(
            results.ResultRow(
                notebook=notebook,
                victim=of.victim,
                setting=of.setting,
                attack=attack.name,
                representation=attack.representation,
                n_members=area.n_members,
                n_nonmembers=area.n_nonmembers,
                note=f"balanced accuracy at {attack.rule} {accuracy}",
                **values,
            )
        )
    return out
