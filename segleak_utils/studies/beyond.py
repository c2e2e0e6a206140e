"""The fair contest: every attack there is on the same victims, with what each asks for.

K is the number of networks that an attacker trains. With K = 2 all attacks have the same two.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.pipeline import Pipeline

from segleak_utils import attacks, metrics
from segleak_utils.attacks import contests, ensembles, peers, references
from segleak_utils.attacks.contests import BLIND, GLOBAL, LOGISTIC, Attack, Contest, patch_attack
from segleak_utils.attacks.ensembles import ENSEMBLE, TWO_QUESTIONS, ensemble
from segleak_utils.attacks.patchnets import CALIBRATED_MAP
from segleak_utils.attacks.references import CALIBRATED, FEATURES
from segleak_utils.attacks.variances import BAVARIA, bavaria
from segleak_utils.attacks.whitebox import WHITE_BOX
from segleak_utils.studies import (
    asking,
    costs,
    experiment,
    literature,
    patchattacks,
    shelf,
    standard,
)
from segleak_utils.studies.asking import case, shadow_cases, with_references
from segleak_utils.studies.cache import cached
from segleak_utils.studies.experiment import Setting
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import ROOT, Plan
from segleak_utils.studies.rows import RESULTS as RESULTS
from segleak_utils.studies.rows import Line, ends, table, write
from segleak_utils.studies.rows import best_of as best_of
from segleak_utils.studies.rows import read as read

PATCHES = patch_attack(CALIBRATED_MAP)
# The last one was trained, and scored once, after all choices had been made.
VICTIMS = ("victim-0", "victim-1", "victim-2", "victim-3")
UNTOUCHED = VICTIMS[-1]
COUNTS = (1, 2, 4, 8)
CHOICES = ROOT / "docs" / "choices.csv"
# What needs no network of the attacker's for its scores: at most for a threshold.
NO_NETWORK = (BLIND, GLOBAL, peers.DICE)
# What the others are held against.
BEST = TWO_QUESTIONS
# Those that know the references, and how often each network is asked about an image.
ASKS = {**dict.fromkeys((*references.LEARNED, BAVARIA, ENSEMBLE), 1), TWO_QUESTIONS: 2}


def contest(
    plan: Plan,
    setting: Setting,
    victim: Network,
    shadows: Sequence[Network],
    *,
    everyone: bool = True,
    strongest: bool = False,
    seed: int = 0,
) -> Contest:
    """All attacks on a victim with these networks of the attacker's.

    `everyone`: those of the paper and of its peers as well; without, the blind baseline, the global
    loss, and what is learned of losses by zone. `strongest`: BaVarIA and the blended ensemble, by
    one question and by two, and beside `everyone`, where there are two networks, the white box.
    """
    of, learned = case(plan, victim, shadows), shadow_cases(plan, shadows, victim)
    found = references.reference_attacks(of, learned)
    if not everyone:
        loss = references.by_loss(GLOBAL, lambda known: -known.losses[0], of, learned)
        found = [_blind(plan, victim, shadows), loss, *found]
    else:
        known = standard.contest(plan, setting, victim, shadows, seed=seed).attacks
        found = [attack for attack in found if attack.name != LOGISTIC]  # one of the known ones
        found = [*known, *literature.peer_attacks(plan, victim, shadows), *found]
        if len(shadows) > 1:  # else the shadow has no reference of its own
            found.append(calibrated_patches(plan, setting, victim, shadows, seed=seed))
            if strongest:
                found.append(white_box(plan, victim, shadows))
    if strongest:
        found += blended(plan, victim, shadows)
    return Contest(victim.name, setting, victim.member, tuple(found))


def blended(plan: Plan, victim: Network, shadows: Sequence[Network]) -> list[Attack]:
    """BaVarIA, and the blended ensemble by one question an image, and by two; cached."""
    asked = {BAVARIA: 1, ENSEMBLE: 1, TWO_QUESTIONS: 2}

    def compute() -> dict[str, np.ndarray]:
        found = {}
        for name, n in asked.items():
            of = case(plan, victim, shadows, questions=n)
            learned = shadow_cases(plan, shadows, victim, questions=n)
            attack = bavaria(of, learned) if name == BAVARIA else ensemble(name, of, learned)
            found |= {name: attack.scores, f"{name}, threshold": np.array([attack.threshold])}
        return found

    key = {
        **victim.identity,
        "shadows": [of.identity for of in shadows],
        "trees": ensembles.TREES,
        "seeds": ensembles.SEEDS,
    }
    said = cached(plan.build, "blended", key, compute)
    seen = {name: "class losses + references'" for name in asked}
    seen[BAVARIA] = "mean loss + references'"
    return [Attack(n, seen[n], said[n], float(said[f"{n}, threshold"][0])) for n in asked]


def white_box(plan: Plan, victim: Network, shadows: Sequence[Network]) -> Attack:
    """The attack that has the weights of the victim: its head's gradients, beside the shadows'."""
    learned = [asking.opened(plan, a, [b for b in shadows if b is not a]) for a in shadows]
    return attacks.white_box(asking.opened(plan, victim, shadows), learned)


def _blind(plan: Plan, victim: Network, shadows: Sequence[Network]) -> Attack:
    looks = [asking.blind_features(plan, n.members, n.nonmembers) for n in (victim, *shadows)]
    member = np.concatenate([shadow.member for shadow in shadows])
    return contests.blind(looks[0], looks[1:], member)


def calibrated_patches(
    plan: Plan,
    setting: Setting,
    victim: Network,
    shadows: Sequence[Network],
    *,
    n_patches: int = experiment.N_PATCHES,
    seed: int = 0,
) -> Attack:
    """The patch attack on [loss map, calibrated map, label]: loaded if there, else trained."""
    name = patchattacks.attacker_name(setting, CALIBRATED_MAP)
    if shelf.shipped(plan.weights, name) is None:
        train_calibrated_patches(plan, name, shadows)
    hashes = {of.name: of.sha256 for of in shadows}
    net, entry = patchattacks.load_attacker(
        plan, name, CALIBRATED_MAP, hashes, victim.members.n_classes
    )

    def compute() -> dict[str, np.ndarray]:
        shown = with_references(plan, victim, shadows)
        how = {"n_patches": n_patches, "patch": plan.attack.patch, "seed": seed}
        return {"scores": attacks.score_outputs(net, shown, CALIBRATED_MAP, **how)}

    key = {
        **victim.identity,
        "attacker": entry["sha256"],
        "references": [of.fingerprint for of in shadows],
        "n_patches": n_patches,
        "patch": plan.attack.patch,
        "seed": seed,
    }
    scored = cached(plan.build, "calibrated patches", key, compute)["scores"]
    mean = scored.mean(1, dtype=np.float64)
    return Attack(PATCHES, CALIBRATED_MAP, mean, entry["threshold"], scored)


def train_calibrated_patches(plan: Plan, name: str, shadows: Sequence[Network]) -> None:
    """Train that patch attack on each shadow beside the others, and store it under this name.

    ValueError for less than two shadows.
    """
    if len(shadows) < 2:
        raise ValueError(f"{len(shadows)} shadow; a shadow needs another one as its reference")
    started = time.monotonic()
    shown = [with_references(plan, a, [b for b in shadows if b is not a]) for a in shadows]
    patchattacks.train_attacker(plan, name, CALIBRATED_MAP, shown, list(shadows), started)


def best_model(
    plan: Plan, victim: Network, shadows: Sequence[Network]
) -> tuple[references.Case, Pipeline, Attack]:
    """The best attack: what it knows of the victim's scenes, its linear model, its scores."""
    of = case(plan, victim, shadows)
    learned = shadow_cases(plan, shadows, victim)
    attack, model = references.regression(CALIBRATED, FEATURES[CALIBRATED], of, learned)
    return of, model, attack


def lines(
    of: Contest,
    shadows: Sequence[Network],
    best: np.ndarray,
    seconds: Mapping[str, float] | None = None,
    groups: Sequence[str] | None = None,
) -> list[Line]:
    """The contest as lines of the table; best: the scores [N] that the others are held against.

    groups: whose images they are, [N], if known; intervals are over groups then, and the TPR's
    difference, for which there is none, is left out.
    """
    first, alone = shadows[0], len(shadows) == 1
    # alone, a shadow has the victim for its reference
    learned = len(first.members) + len(first.nonmembers) if alone else 0
    found = []
    for attack in of.attacks:
        scores, member = attack.scores, of.member
        if groups is None:
            area = metrics.auc(scores, member)
            behind = metrics.paired_auc_difference(best, scores, member, seed=0)
        else:
            area = metrics.grouped_auc(scores, member, groups)
            behind = metrics.grouped_auc_difference(best, scores, member, groups)
        values = {"auc": area, "behind": behind}
        for name, fpr in (("tpr_1", 0.01), ("tpr_01", 0.001)):
            if area.n_nonmembers * fpr >= 1:
                values[name] = metrics.tpr_interval(scores, member, fpr, seed=0, groups=groups)
        if "tpr_1" in values and groups is None:
            values["tpr_behind"] = metrics.paired_tpr_difference(best, scores, member, 0.01, seed=0)
        found.append(
            Line(
                victim=of.victim,
                setting=of.setting,
                attack=attack.name,
                networks=0 if attack.name in NO_NETWORK else len(shadows),
                n_members=area.n_members,
                n_nonmembers=area.n_nonmembers,
                accuracy=metrics.balanced_accuracy_at(scores, member, attack.threshold).value,
                questions=2 if attack.name == TWO_QUESTIONS else 1,
                threat="weights" if attack.name == WHITE_BOX else "answers",
                asked_once=learned * ASKS.get(attack.name, 0),
                seconds=(seconds or {}).get(attack.name),
                **ends(values),
            )
        )
    return found


def beyond(plan: Plan, victims: Sequence[str] = VICTIMS, path: Path | None = None) -> list[Line]:
    """The contest on every victim, in both settings for the first, and with 1, 2, 4, 8 networks.

    Prints the lines, and writes them to `path` (``build/contest.csv``), those that are there after
    each victim and number of networks.
    """
    found: list[Line] = []
    for setting, name in (*(("dependent", v) for v in victims), ("independent", victims[0])):
        victim = experiment.network(plan, name)
        counts = COUNTS if setting == "dependent" else (1, 2)
        for count in sorted(counts, key=lambda k: k != 2):
            shadows = experiment.networks(plan, setting, count)
            of = contest(plan, setting, victim, shadows, everyone=count == 2, strongest=True)
            taken = costs.seconds_an_image(plan, victim, shadows)
            new = lines(of, shadows, of[BEST].scores, taken)
            new = [line for line in new if line.networks == count or count == 2]
            found += new
            print(table(new), flush=True)
            write(found, path or plan.build / "contest.csv")
    return found


class Choice(BaseModel):
    """A variant of the attack as it did on shadows: means over those, and how many they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    variant: str
    auc: float
    tpr_1: float
    shadows: int


def choices(plan: Plan, path: Path | None = None) -> list[Choice]:
    """What was chosen on shadows: each in the place of the victim, the others beside it.

    No image of a victim has a part in it. Prints the variants, and writes them to `path`
    (``build/choices.csv``).
    """
    shadows = experiment.networks(plan, "dependent", COUNTS[-1])
    variants = {**FEATURES, "classes, boundaries, deviations": references.scaled_features}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for target in shadows:
        others = [s for s in shadows if s is not target]
        of = case(plan, target, others)
        learned = shadow_cases(plan, others, target)
        for name, features in variants.items():
            scores = references.regression(name, features, of, learned)[0].scores
            tpr = metrics.tpr_at_fpr(scores, of.member, 0.01)
            rates[name].append((metrics.auc(scores, of.member).value, tpr.value))
    found = []
    for name, values in rates.items():
        auc, tpr = np.mean(values, 0)
        found.append(Choice(variant=name, auc=auc, tpr_1=tpr, shadows=len(shadows)))
        worth = metrics.precisions(tpr, 0.01)
        print(
            f"{name}: on {len(shadows)} shadows AUC {auc:.3f}, TPR at 1 % FPR {tpr:.3f}, precision "
            f"at priors of 50 / 10 / 1 % {worth}"
        )
    write(found, path or plan.build / "choices.csv")
    return found
