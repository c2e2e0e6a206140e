"""References that imitate: trained on the attacker's images to answer as the network they stand by.

GLiRA (Galichin et al. 2024) and IMIA (Du et al. 2025) find that such references vary less around
the victim than those of the labels alone. Here they take the place of the attacker's networks: as
many, on the same images, by the same recipe. IMIA's second half, in which they learn the attacked
images too, is `studies.taught`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segleak_utils import metrics
from segleak_utils.attacks import calibration, ensembles, references
from segleak_utils.attacks.references import Case
from segleak_utils.studies import asking, beyond, experiment, networks, rows
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import ROOT, Plan
from segleak_utils.studies.rows import Measured

RESULTS = ROOT / "docs" / "imitation.csv"
SEED = 120
# Who is attacked: first a shadow, on which the choice is made (`chosen`), last a victim that nobody
# had looked at before it.
TARGETS = ("shadow-dependent-2", "victim-0", "victim-5")
N_SHADOWS = 2  # with plain references two trainings, with imitative ones six: see `trainings`
PLAIN, IMITATIVE, BOTH = "labels alone", "imitative", "both"
ATTACKS = (
    references.DIFFERENCE,
    references.LIRA,
    references.RMIA,
    references.CALIBRATED,
    ensembles.ENSEMBLE,
    ensembles.TWO_QUESTIONS,
)


class Attacked(Measured):
    """An attack on a target, beside two others.

    `more` is its AUC minus that of the one, `ahead` minus that of the other, each on the same
    images (paired bootstrap), and with ``tpr_`` the same of the TPR at 1 % FPR.
    """

    target: str
    attack: str
    n_members: int
    n_nonmembers: int
    auc: float
    auc_low: float
    auc_high: float
    tpr_1: float
    tpr_1_low: float
    tpr_1_high: float
    more: float
    more_low: float
    more_high: float
    tpr_more: float
    tpr_more_low: float
    tpr_more_high: float
    ahead: float
    ahead_low: float
    ahead_high: float
    tpr_ahead: float
    tpr_ahead_low: float
    tpr_ahead_high: float


class Compared(Attacked):
    """An attack on a target with one kind of references; n_references: how many of them.

    `trainings`: of the attacker's networks, those that imitate among them. `more` is beside the
    same attack with plain references, `ahead` beside the best one with the plain ones alone,
    `ahead_4` beside the best one with four plain ones, which are fewer trainings than imitation
    takes. `unexplained`: how far the target's confidence lies from its references' mean, the
    deviation over non-members.
    """

    references: str
    n_references: int
    trainings: int
    ahead_4: float
    ahead_4_low: float
    ahead_4_high: float
    tpr_ahead_4: float
    tpr_ahead_4_low: float
    tpr_ahead_4_high: float
    unexplained: float


def beside(
    scores: NDArray[np.float64],
    member: NDArray[np.bool_],
    others: Mapping[str, NDArray[np.float64]],
) -> dict[str, float]:
    """AUC and TPR at 1 % FPR, and both minus those of other scores, as fields of `Attacked`."""
    values = {"auc": metrics.auc(scores, member)}
    values["tpr_1"] = metrics.tpr_at_fpr(scores, member, 0.01)
    for word, other in others.items():
        pair = scores, other, member
        values[word] = metrics.paired_auc_difference(*pair, seed=0)
        values[f"tpr_{word}"] = metrics.paired_tpr_difference(*pair, 0.01, seed=0)
    return rows.ends(values)


def imitator(plan: Plan, of: Network, source: Network) -> Network:
    """A network that was trained on a shadow's members to answer as another network.

    Kept in ``build/imitations``. It costs that network one question about each of these images.
    """
    own = replace(plan, weights=plan.build / "imitations")
    held_out = experiment.roles(plan, source.name)[2]
    seed = SEED + int(source.name.rpartition("-")[2])
    name = f"{source.name}-as-{of.name}"
    scenes = source.members, source.nonmembers, held_out
    return networks.load_or_train(own, name, *scenes, seed=seed, imitated=of)


def cases(
    plan: Plan, of: Network, shadows: Sequence[Network], *, questions: int = 1
) -> dict[str, tuple[Case, list[Case]]]:
    """The network's images beside each kind of references, and the shadows' beside the same kind.

    A shadow is imitated by means of the other shadows' images. questions: as `asking.case`.
    ValueError for less than two shadows.
    """
    if len(shadows) < 2:
        raise ValueError(f"{len(shadows)} shadow; a shadow needs another one as its reference")
    found: dict[str, list[Case]] = {kind: [] for kind in (PLAIN, IMITATIVE, BOTH)}
    for target in (of, *shadows):
        plain = [one for one in shadows if one is not target]
        like = [imitator(plan, target, source) for source in plain]
        for kind, beside in ((PLAIN, plain), (IMITATIVE, like), (BOTH, [*plain, *like])):
            found[kind].append(asking.case(plan, target, beside, questions=questions))
    return {kind: (first, learned) for kind, (first, *learned) in found.items()}


def trainings(kind: str, n_shadows: int) -> int:
    """How many networks an attacker trains: the shadows, and who imitates them and the victim.

    >>> trainings(PLAIN, 2), trainings(IMITATIVE, 2)
    (2, 6)
    """
    return n_shadows if kind == PLAIN else n_shadows * (n_shadows + 1)


def compared(
    plan: Plan, of: Network, shadows: Sequence[Network], four: Sequence[Network]
) -> list[Compared]:
    """The attacks with each kind of references, beside those with plain ones and the best ones.

    four: the plain networks of the attacker who trains these instead of imitators.
    """
    member = of.member
    best, best_4 = (
        {a.name: a.scores for a in beyond.blended(plan, of, plain)}[beyond.BEST]
        for plain in (shadows, four)
    )
    once, twice = (cases(plan, of, shadows, questions=n) for n in (1, 2))
    scored = {kind: _scores(once[kind], twice[kind]) for kind in once}
    found = []
    for kind, (case, _) in once.items():
        sure, theirs = (calibration.confidence(loss)[..., ~member] for loss in case.losses)
        for name in ATTACKS:
            scores = scored[kind][name]
            others = {"more": scored[PLAIN][name], "ahead": best, "ahead_4": best_4}
            found.append(
                Compared(
                    target=of.name,
                    attack=name,
                    references=kind,
                    n_references=len(case.references),
                    trainings=trainings(kind, len(shadows)),
                    n_members=int(member.sum()),
                    n_nonmembers=int((~member).sum()),
                    unexplained=float((sure - theirs.mean(0)).std(ddof=1)),
                    **beside(scores, member, others),
                )
            )
    return found


def chosen(found: Sequence[Compared]) -> tuple[str, str]:
    """The attack and the kind of references with the highest AUC on the shadow, `TARGETS[0]`."""
    best = max((x for x in found if x.target == TARGETS[0]), key=lambda x: x.auc)
    return best.attack, best.references


def _scores(
    once: tuple[Case, Sequence[Case]], twice: tuple[Case, Sequence[Case]]
) -> dict[str, NDArray[np.float64]]:
    found = references.reference_attacks(*once)
    found.append(ensembles.ensemble(ensembles.ENSEMBLE, *once))
    found.append(ensembles.ensemble(ensembles.TWO_QUESTIONS, *twice))
    return {attack.name: attack.scores for attack in found}


def imitation(
    plan: Plan, targets: Sequence[str] = TARGETS, path: Path | None = None
) -> list[Compared]:
    """Attacks with references, by the kind of these, on each target; an attacker of two networks.

    Prints each target's table, and writes all rows to `path` (``build/imitation.csv``), those that
    are there after each target.
    """
    plain = experiment.networks(plan, "dependent", 5)
    found: list[Compared] = []
    for name in targets:
        others = [one for one in plain if one.name != name]
        found += compared(plan, experiment.network(plan, name), others[:N_SHADOWS], others[:4])
        print(table([row for row in found if row.target == name]), flush=True)
        rows.write(found, path or plan.build / "imitation.csv")
    return found


def table(found: Sequence[Compared]) -> str:
    """The rows as a table in Markdown."""
    compared_with = {
        "more": "that with plain ones",
        "ahead": "the best one's with two plain ones",
        "ahead_4": "with four plain ones",
    }
    head = ["target", "attack", "references", "trainings", "AUC", "TPR at 1 % FPR"]
    head += ["precision at 50 / 10 / 1 %"]
    for words in compared_with.values():
        head += [f"AUC minus {words}", "TPR minus its"]
    out = [f"| {' | '.join([*head, 'unexplained'])} |", "|" + "---|" * (len(head) + 1)]
    for row in found:
        cells = [row.target, row.attack, f"{row.references}, {row.n_references}"]
        cells += [str(row.trainings), f"{row.interval():.3}", f"{row.interval('tpr_1'):.3}"]
        cells += [metrics.precisions(row.tpr_1, 0.01)]
        for name in compared_with:
            cells += [f"{row.interval(end + name):+.3}" for end in ("", "tpr_")]
        out.append(f"| {' | '.join([*cells, f'{row.unexplained:.2f}'])} |")
    return "\n".join(out)
