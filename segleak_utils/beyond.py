"""Beyond the paper: the shadows as references too, against every attack of the contest.

No network is trained for it: a shadow that has not seen an image says how hard that image is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.model_selection import GroupKFold, cross_val_predict

from segleak_utils import attacks, calibration, contests, experiment, metrics, results
from segleak_utils.attacks import Outputs
from segleak_utils.contests import Attack, Contest
from segleak_utils.experiment import Network, Plan, Setting

DIFFERENCE = "global loss minus references'"
LIRA = "LiRA, offline, fixed variance"
CALIBRATED = "calibrated per-class regression"


def asked(plan: Plan, reference: Network, of: Network) -> Outputs:
    """What a reference says of another network's scenes; cached.

    Raises ValueError if it was trained on one of them.
    """
    experiment.check_apart(of, reference)
    scenes = {"members": of.members, "nonmembers": of.nonmembers}
    return experiment.loss_outputs(plan, replace(reference, **scenes))


def contest(
    plan: Plan, setting: Setting, victim_seed: int = 0, *, n_patches: int = 6, seed: int = 0
) -> Contest:
    """Every attack on a victim of SynthStreets, then the calibrated ones.

    The references are the shadows. A regression learns on each shadow beside each other shadow, and
    what it says of the victim beside each of them is averaged.
    """
    victim = experiment.network(plan, f"victim-{victim_seed}")
    shadows = [experiment.network(plan, f"shadow-{setting}-{k}") for k in plan.shadow_seeds]
    if len(shadows) < 2:
        raise ValueError(f"{len(shadows)} shadow; a shadow needs another one as its reference")
    others = experiment.contest(plan, setting, victim, shadows, n_patches=n_patches, seed=seed)
    shown = experiment.loss_outputs(plan, victim)
    references = [asked(plan, shadow, victim) for shadow in shadows]
    learned = [
        (experiment.loss_outputs(plan, a), [asked(plan, b, a) for b in shadows if b is not a])
        for a in shadows
    ]
    found = [*_by_difference(shown, references, learned), _regression(shown, references, learned)]
    return replace(others, attacks=(*others.attacks, *found))


def beyond(plan: Plan) -> list[results.ResultRow]:
    """The contest on every victim, in both settings for the first; prints and records the rows."""
    rows = []
    for setting, victim_seed in (("dependent", 0), ("dependent", 1), ("independent", 0)):
        rows += contests.rows(contest(plan, setting, victim_seed), "beyond")
    print(results.table(rows))
    results.record(rows)
    return rows


def _by_difference(shown, references, learned) -> list[Attack]:
    """The attacks on global losses; their thresholds are the shadows'."""
    cases = [(shown, references), *learned]
    member = np.concatenate([of.member for of, _ in learned])
    out = []
    for name, score in ((DIFFERENCE, calibration.difference_scores), (LIRA, _lira)):
        scores, *own = [score(*case) for case in cases]
        threshold = metrics.best_threshold(np.concatenate(own), member)
        out.append(Attack(name, "mean loss + references", scores, threshold))
    return out


def _lira(shown: Outputs, references: list[Outputs]) -> np.ndarray:
    out = np.stack([calibration.confidence(reference) for reference in references])
    return calibration.lira_offline(calibration.confidence(shown), out, fixed=True)


def _regression(shown, references, learned) -> Attack:
    rows, member, image = [], [], []
    for k, (own, others) in enumerate(learned):
        for reference in others:
            rows.append(calibration.calibrated_features(own, reference))
            member.append(own.member)
            image.append(np.arange(len(own)) + k * 1_000_000)
    rows, member, image = (np.concatenate(parts) for parts in (rows, member, image))
    model = attacks.logistic_attack(rows, member)
    # out of fold, and no image in two folds: one beside several references is still one image
    out_of_fold = cross_val_predict(
        model, rows, member, groups=image, cv=GroupKFold(5), method="decision_function"
    )
    scores = [
        model.decision_function(calibration.calibrated_features(shown, reference))
        for reference in references
    ]
    threshold = metrics.best_threshold(out_of_fold, member)
    return Attack(CALIBRATED, "class losses + references'", np.mean(scores, 0), threshold)
