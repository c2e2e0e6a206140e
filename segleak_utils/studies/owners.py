"""Owners with several images: a victim trained on streets that were each seen several times.

The images of a street have façades, hedges, trees, posts and parked cars in common, as those of
real owners have things in common. Some images of a member's street were left out of the training:
do they give the street away, too? What was measured is in docs/owners.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segleak_utils import metrics
from segleak_utils.attacks.contests import BLIND, GLOBAL
from segleak_utils.attacks.references import CALIBRATED
from segleak_utils.data import Scenes
from segleak_utils.studies import beyond, experiment, networks, rows
from segleak_utils.studies.experiment import CITY
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import ROOT, Plan
from segleak_utils.synthstreets import draw

RESULTS = ROOT / "docs" / "owners.csv"
START = 230_000  # streets that no other network is trained on or attacked with
SEED = 90
MOMENTS = 6  # of each street
TRAINED = 4  # the first of them are in the training, where the street is a member's
ATTACKS = (BLIND, GLOBAL, CALIBRATED)


class Seen(BaseModel):
    """An image: the `moment` of a `street`, and each attack's score, higher for members.

    owner: whether images of its street are in the training; trained: whether this one is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    street: str
    moment: int
    owner: bool
    trained: bool
    blind: float
    loss: float
    structured: float


def scenes(plan: Plan) -> tuple[Scenes, Scenes, Scenes]:
    """Members' streets, others' (two and a half times as many), and some to stop by.

    A quarter as many streets as a victim has members, each with all of its moments.
    """
    n = plan.sizes.n_members // TRAINED
    counts = (n, 5 * n // 2, max(1, plan.sizes.n_held_out // TRAINED))
    everyone = draw(
        CITY, 0, START, sum(counts), moments=MOMENTS, root=plan.data_root, progress=plan.progress
    )
    ends = MOMENTS * np.cumsum([0, *counts])
    return tuple(everyone.subset(range(a, b)) for a, b in pairwise(ends))


def at_moments(of: Scenes, moments: Sequence[int]) -> Scenes:
    """These moments of streets that have all of theirs."""
    return of.subset([i for i in range(len(of)) if i % MOMENTS in moments])


def victim(plan: Plan) -> tuple[Network, Network]:
    """The victim beside the images that it was trained on and as many of each other street; and
    beside the images that were left out, those of members' streets first. Trained if need be.
    """
    ours, theirs, held_out = scenes(plan)
    first, rest = range(TRAINED), range(TRAINED, MOMENTS)
    given, others = at_moments(ours, first), at_moments(theirs, first)
    own = replace(plan, weights=plan.build / "owners")
    of = networks.load_or_train(
        own, "victim-streets", given, others, at_moments(held_out, first), seed=SEED
    )
    left_out = replace(of, members=at_moments(ours, rest), nonmembers=at_moments(theirs, rest))
    return of, left_out


def measure(plan: Plan, path: Path | None = None) -> list[Seen]:
    """Attack it image by image with the default attacker's two networks, which know no street.

    Prints the `table`; writes the scores to `path` (``build/owners.csv``).
    """
    shadows = experiment.networks(plan, "dependent", 2)
    found: list[Seen] = []
    for of, trained in zip(victim(plan), (True, False), strict=True):
        scored = beyond.contest(plan, "dependent", of, shadows, everyone=False)
        both = of.members + of.nonmembers
        values = zip(*(scored[name].scores for name in ATTACKS), strict=True)
        for i, (blind, loss, structured) in enumerate(values):
            found.append(
                Seen(
                    street=both.groups[i],
                    moment=int(both.ids[i].rsplit("-m", 1)[1]),
                    owner=bool(of.member[i]),
                    trained=trained and bool(of.member[i]),
                    blind=blind,
                    loss=loss,
                    structured=structured,
                )
            )
    rows.write(found, path or plan.build / "owners.csv")
    print(table(found))
    return found


def of_streets(
    found: Sequence[Seen], score: str, moments: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of these moments by street: float64 [S,M], and whose are members' streets: bool [S].

    score: "blind", "loss" or "structured". ValueError where a street lacks one of the moments.
    """
    by = {(seen.street, seen.moment): getattr(seen, score) for seen in found}
    owner = {seen.street: seen.owner for seen in found}
    try:
        scores = [[by[street, moment] for moment in moments] for street in owner]
    except KeyError as error:
        raise ValueError(f"no image of street and moment {error}; the table is torn") from error
    return np.array(scores, float), np.array(list(owner.values()))


def estimates(
    found: Sequence[Seen], score: str, moments: Sequence[int]
) -> dict[str, tuple[metrics.Interval, metrics.Interval | None]]:
    """AUC and TPR at 1 % FPR of these moments, by unit: an image, and a street's mean and highest.

    Intervals are over streets, for images by `metrics.grouped_auc` and `metrics.tpr_interval`. None
    where there are too few of others' to claim that FPR.
    """
    scores, owner = of_streets(found, score, moments)
    n, streets = len(moments), np.arange(len(owner)).repeat(len(moments))
    images = scores.ravel(), owner.repeat(n)
    rate = partial(metrics.tpr_interval, fpr=0.01, seed=0)
    enough = [(~member).sum() >= 100 for member in (images[1], owner)]
    by = {
        "one image": (
            metrics.grouped_auc(*images, streets),
            rate(*images, groups=streets) if enough[0] else None,
        )
    }
    for name, of in ((f"mean of {n}", scores.mean(1)), (f"highest of {n}", scores.max(1))):
        by[name] = metrics.auc(of, owner), rate(of, owner) if enough[1] else None
    return by


def table(found: Sequence[Seen]) -> str:
    """What one image, and several of a street, tell about it, as Markdown."""
    head = ["images of members' streets", "score of", "members / others"]
    head += ["blind baseline: AUC", "global loss: AUC", "structured regression: AUC"]
    head += ["TPR at 1 % FPR", "precision at 50 / 10 / 1 %"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for what, moments in (
        ("trained on", range(TRAINED)),
        ("left out of the training", range(TRAINED, MOMENTS)),
    ):
        by = {score: estimates(found, score, moments) for score in ("blind", "loss", "structured")}
        for unit, (area, tpr) in by["structured"].items():
            cells = [what, unit, f"{area.n_members} / {area.n_nonmembers}"]
            cells += [f"{by[score][unit][0]:.3}" for score in by]
            cells += [f"{tpr:.3}", metrics.precisions(tpr.value, 0.01)] if tpr else ["-", "-"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def shipped(path: Path = RESULTS) -> list[Seen]:
    """What was measured; FileNotFoundError, or ValueError for a damaged table."""
    return rows.read(path, Seen)
