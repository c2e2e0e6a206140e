"""References that imitate: trained on the attacker's images to answer as the network they stand by.

GLiRA (Galichin et al. 2024) and IMIA (Du et al. 2025) find that such references vary less around
the victim than those of the labels alone. Here they take the place of the attacker's networks: as
many, on the same images, by the same recipe. IMIA's second half, in which they learn the attacked
images too, is left out: it asks for a training for every set of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segleak_utils import metrics
from segleak_utils.attacks import calibration, ensembles, references
from segleak_utils.attacks.references import Case
from segleak_utils.studies import asking, beyond, experiment, networks, rows, strongest
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import ROOT, Plan

RESULTS = ROOT / "docs" / "imitation.csv"
SEED = 120
# Who is attacked: first a shadow, on which choices may be made, last who has no part in any.
TARGETS = ("shadow-dependent-2", "victim-0", strongest.FRESH)
PLAIN, IMITATIVE, BOTH = "labels alone", "imitative", "both"
ATTACKS = (
    references.DIFFERENCE,
    references.LIRA,
    references.RMIA,
    references.CALIBRATED,
    ensembles.ENSEMBLE,
)


class Compared(BaseModel):
    """An attack on a target with one kind of references; n_references: how many of them.

    `more` is its AUC minus that with plain ones, `ahead` minus that of the best attack with as many
    plain networks, each on the same images (paired bootstrap); `tpr_more` and `tpr_ahead` are the
    same of the TPR at 1 % FPR. `unexplained`: how far the target's confidence lies from its
    references' mean, the deviation over non-members.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    target: str
    attack: str
    references: str
    n_references: int
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
    unexplained: float

    def interval(self, name: str = "auc") -> metrics.Interval:
        """One of its numbers with its interval, by the number's name."""
        values = (getattr(self, name + end) for end in ("", "_low", "_high"))
        return metrics.Interval(*values, self.n_members, self.n_nonmembers, 0.95)


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


def cases(plan: Plan, of: Network, shadows: Sequence[Network]) -> dict[str, tuple[Case, list]]:
    """The network's images beside each kind of references, and the shadows' beside the same kind.

    A shadow is imitated by means of the other shadows' images. ValueError for less than two.
    """
    if len(shadows) < 2:
        raise ValueError(f"{len(shadows)} shadow; a shadow needs another one as its reference")
    found: dict[str, list[Case]] = {kind: [] for kind in (PLAIN, IMITATIVE, BOTH)}
    for target in (of, *shadows):
        plain = [one for one in shadows if one is not target]
        like = [imitator(plan, target, source) for source in plain]
        for kind, beside in ((PLAIN, plain), (IMITATIVE, like), (BOTH, [*plain, *like])):
            found[kind].append(asking.case(plan, target, beside))
    return {kind: (first, learned) for kind, (first, *learned) in found.items()}


def compared(plan: Plan, of: Network, shadows: Sequence[Network]) -> list[Compared]:
    """The attacks with each kind of references, beside those with plain ones and the best one."""
    told = cases(plan, of, shadows)
    member = of.member
    best = {a.name: a.scores for a in beyond.blended(plan, of, shadows)}[beyond.BEST]
    scored = {kind: _scores(*case) for kind, case in told.items()}
    found = []
    for kind, (case, _) in told.items():
        sure, theirs = (calibration.confidence(loss)[..., ~member] for loss in case.losses)
        for name in ATTACKS:
            scores, plain = scored[kind][name], scored[PLAIN][name]
            values = {"auc": metrics.auc(scores, member)}
            values["tpr_1"] = metrics.tpr_at_fpr(scores, member, 0.01)
            for word, other in (("more", plain), ("ahead", best)):
                pair = scores, other, member
                values[word] = metrics.paired_auc_difference(*pair, seed=0)
                values[f"tpr_{word}"] = metrics.paired_tpr_difference(*pair, 0.01, seed=0)
            ends = (("", "value"), ("_low", "low"), ("_high", "high"))
            found.append(
                Compared(
                    target=of.name,
                    attack=name,
                    references=kind,
                    n_references=len(case.references),
                    n_members=int(member.sum()),
                    n_nonmembers=int((~member).sum()),
                    unexplained=float((sure - theirs.mean(0)).std(ddof=1)),
                    **{n + end: getattr(v, part) for n, v in values.items() for end, part in ends},
                )
            )
    return found


def _scores(of: Case, learned: Sequence[Case]) -> dict[str, NDArray[np.float64]]:
    found = references.reference_attacks(of, learned)
    found.append(ensembles.ensemble(ensembles.ENSEMBLE, of, learned))
    return {attack.name: attack.scores for attack in found}


def imitation(
    plan: Plan, targets: Sequence[str] = TARGETS, path: Path | None = None
) -> list[Compared]:
    """Attacks with references, by the kind of these, on each target; an attacker of two networks.

    Prints each target's table, and writes all rows to `path` (``build/imitation.csv``), those that
    are there after each target.
    """
    shadows = experiment.networks(plan, "dependent", 2)
    found: list[Compared] = []
    for name in targets:
        found += compared(plan, experiment.network(plan, name), shadows)
        print(table([row for row in found if row.target == name]), flush=True)
        rows.write(found, path or plan.build / "imitation.csv")
    return found


def table(found: Sequence[Compared]) -> str:
    """The rows as a table in Markdown."""
    head = ["target", "attack", "references", "AUC", "TPR at 1 % FPR", "precision at 50 / 10 / 1 %"]
    head += ["AUC minus that with plain ones", "TPR minus theirs", "AUC minus the best one's"]
    head += ["TPR minus its", "unexplained"]
    out = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in found:
        cells = [row.target, row.attack, f"{row.references}, {row.n_references}"]
        cells += [f"{row.interval():.3}", f"{row.interval('tpr_1'):.3}"]
        cells += [metrics.precisions(row.tpr_1, 0.01)]
        cells += [
            f"{row.interval(name):+.3}" for name in ("more", "tpr_more", "ahead", "tpr_ahead")
        ]
        out.append(f"| {' | '.join([*cells, f'{row.unexplained:.2f}'])} |")
    return "\n".join(out)
