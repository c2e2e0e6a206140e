"""IMIA's second half: references that imitate the network go on to learn half of the images.

Du et al. 2025. Of each pair of an imitator's pupils one has learned an image in question and the
other has not: so there is a reference for "in", too, which answers as the network does. As with
online LiRA there is a training for every set of images that is asked about, but a shorter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segleak_utils import metrics
from segleak_utils.attacks import calibration, ensembles, references
from segleak_utils.attacks.online import by_side, halfway, imia, paired_halves
from segleak_utils.studies import asking, experiment, imitation, networks, rows
from segleak_utils.studies.imitation import IMITATIVE, N_SHADOWS, TARGETS, Attacked, beside
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import ROOT, Plan

RESULTS = ROOT / "docs" / "taught.csv"
SEED = 140
EPOCHS = 20  # the paper's
LR = 3e-4  # a tenth of the recipe's: what is taught on top shall not undo the imitation
IMIA, HALFWAY = "IMIA", "halfway between in and out"
PASSED_ON = "imitators alone, the network is not asked"
CONTROL = "the same of a network that saw none of the images"
# The first two have the imitative references alone, and the others are held against them. The last
# two compare networks with the attacker's plain ones: the imitators, who were told about other
# images only (Jagielski et al. 2023), and for a control a stranger.
ATTACKS = (references.LIRA, ensembles.TWO_QUESTIONS, IMIA, HALFWAY, PASSED_ON, CONTROL)


def pupils(
    plan: Plan, pool: Network, imitators: Sequence[Network], inside: NDArray[np.bool_]
) -> list[Network]:
    """Each imitator after it has learned the images of its two rows of `inside`.

    Kept in ``build/taught``.
    """
    both = pool.members + pool.nonmembers
    held_out = experiment.roles(plan, "shadow-dependent-0")[2]
    shorter = {"epochs": EPOCHS, "check_every": EPOCHS, "lr": LR}
    recipe = plan.recipe.model_copy(update=shorter)
    own = replace(plan, recipe=recipe, weights=plan.build / "taught")
    found = []
    for k, chosen in enumerate(inside):
        start = imitators[k // 2]
        parts = [both.subset(np.flatnonzero(which)) for which in (chosen, ~chosen)]
        how = {"seed": SEED + k, "start": start}
        found.append(networks.load_or_train(own, f"{start.name}-{k % 2}", *parts, held_out, **how))
    return found


def compared(
    plan: Plan, of: Network, shadows: Sequence[Network], stranger: Network
) -> list[Attacked]:
    """The attacks of somebody who has imitated `of` on the shadows' images, and then taught.

    stranger: a network that was trained on none of these images, for the control.
    """
    pool = replace(of, nonmembers=of.nonmembers.subset(range(len(of.members))))
    imitators = [imitation.imitator(plan, of, source) for source in shadows]
    inside = paired_halves(len(pool.member), [SEED + k for k in range(len(imitators))])
    taught = pupils(plan, pool, imitators, inside)
    networks.check_apart(pool, stranger)
    own, theirs = (asking.confidence(plan, by, pool) for by in (of, stranger))
    plain, out, learned = (
        np.stack([asking.confidence(plan, by, pool) for by in kind])
        for kind in (shadows, imitators, taught)
    )
    within, _ = by_side(learned, inside)
    twice = imitation.cases(plan, pool, shadows, questions=2)[IMITATIVE]
    scored = {
        references.LIRA: calibration.lira_offline(own, out, fixed=True),
        ensembles.TWO_QUESTIONS: ensembles.ensemble(ensembles.TWO_QUESTIONS, *twice).scores,
        IMIA: imia(own, within, out),
        HALFWAY: halfway(own, within, out),
        PASSED_ON: out.mean(0) - plain.mean(0),
        CONTROL: theirs - plain.mean(0),
    }
    found = []
    for name, scores in scored.items():
        others = {"more": scored[ATTACKS[0]], "ahead": scored[ATTACKS[1]]}
        found.append(
            Attacked(
                target=of.name,
                attack=name,
                n_members=int(pool.member.sum()),
                n_nonmembers=int((~pool.member).sum()),
                **beside(scores, pool.member, others),
            )
        )
    return found


def teaching(
    plan: Plan, targets: Sequence[str] = TARGETS, path: Path | None = None
) -> list[Attacked]:
    """The attacks on each target, the first of which is a shadow: what is chosen is chosen there.

    Prints each target's table, and writes all rows to `path` (``build/taught.csv``), those that
    are there after each target.
    """
    plain = experiment.networks(plan, "dependent", 5)
    found: list[Attacked] = []
    for name in targets:
        others = [one for one in plain if one.name != name]
        found += compared(plan, experiment.network(plan, name), others[:N_SHADOWS], others[-1])
        print(table([row for row in found if row.target == name]), flush=True)
        rows.write(found, path or plan.build / "taught.csv")
    return found


def table(found: Sequence[Attacked]) -> str:
    """The rows as a table in Markdown."""
    head = ["target", "attack", "AUC", "TPR at 1 % FPR", "precision at 50 / 10 / 1 %"]
    for words in ("LiRA's", "the ensemble's"):
        head += [f"AUC minus {words}", "TPR minus its"]
    out = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in found:
        cells = [row.target, row.attack, f"{row.interval():.3}", f"{row.interval('tpr_1'):.3}"]
        cells += [metrics.precisions(row.tpr_1, 0.01)]
        for name in ("more", "ahead"):
            cells += [f"{row.interval(end + name):+.3}" for end in ("", "tpr_")]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)
