"""How leakage grows: victims with more members, longer trainings, other augmentation, other sizes.

A grid around the default victim, one axis at a time. Each cell is a victim of its own, attacked
with the shipped shadows: they have the default recipe, whatever the cell's is. A finished cell is
a file; a run that was stopped goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import joblib
from pydantic import BaseModel, ConfigDict, ValidationError

from segleak_utils import metrics
from segleak_utils.attacks import contests, ensembles, references
from segleak_utils.data import Scenes
from segleak_utils.studies import asking, beyond, experiment, networks
from segleak_utils.studies.experiment import CITY
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import ROOT, Plan
from segleak_utils.studies.rows import Measured, ends
from segleak_utils.synthstreets import draw
from segleak_utils.victims import Recipe
from segleak_utils.victims.clusters import engine, one_thread
from segleak_utils.whole import write_whole

VERSION = 3  # part of every cell's key: raise it when its numbers change
RESULTS = ROOT / "docs" / "growth.csv"
START = 160_000  # scenes that no other network is trained on or attacked with
SEED = 40
SIMPLE = (contests.BLIND, contests.GLOBAL, references.DIFFERENCE, references.CALIBRATED)
# The strongest, which ask once and twice: a victim that was trained with flips may know them, too.
ATTACKS = (*SIMPLE, ensembles.ENSEMBLE, ensembles.TWO_QUESTIONS)


class Cell(BaseModel):
    """One victim of the grid: its place on an axis, its number of members, its recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    axis: str
    value: str
    n_members: int
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.axis} {self.value}".strip().replace(" ", "-")


class Point(Measured):
    """One attack on one cell, as a line of the table. `n_*` are the images that are attacked."""

    axis: str
    value: str
    attack: str
    auc: float
    auc_low: float
    auc_high: float
    tpr_1: float
    tpr_1_low: float
    tpr_1_high: float
    n_members: int
    n_nonmembers: int
    member_miou: float
    nonmember_miou: float
    parameters: int
    seconds: int


DEFAULT = "default"


def grid(plan: Plan) -> list[Cell]:
    """The cells: the default victim first, then each axis without it."""
    # never stopped early, or an axis would also change how long a victim is trained
    base = plan.recipe.model_copy(update={"patience": 1000})
    n = plan.sizes.n_members
    cells = [Cell(axis=DEFAULT, value="", n_members=n, recipe=base)]

    def add(axis: str, value: str, n_members: int = n, **changes: object) -> None:
        recipe = Recipe(**{**base.model_dump(), **changes})
        cells.append(Cell(axis=axis, value=value, n_members=n_members, recipe=recipe))

    for share in (0.25, 0.5, 2):
        add("members", str(round(n * share)), round(n * share))
    for share in (0.25, 0.5, 2):
        epochs = max(1, round(base.epochs * share))
        add("epochs", str(epochs), epochs=epochs)
    add("augmentation", "none", flip=False, crop_area=1.0, colour=0.0)
    add("augmentation", "flip", flip=True, crop_area=1.0, colour=0.0)
    for channels in (8, 128):
        add("model size", f"decoder {channels}", decoder_channels=channels)
    add("model size", "larger encoder", encoder="tu-edgenext_x_small")
    return cells


def axes(points: Sequence[Point], plan: Plan) -> dict[str, list[Point]]:
    """The points by axis and in its order; the default victim has its place on every one."""
    places = {"members": str(plan.sizes.n_members), "epochs": str(plan.recipe.epochs)}
    places |= {"augmentation": "all", "model size": "decoder 32"}
    order = {
        "augmentation": ["none", "flip", places["augmentation"]],
        "model size": ["decoder 8", "decoder 32", "decoder 128", "larger encoder"],
    }
    found = {}
    for axis, value in places.items():
        own = [p for p in points if p.axis == axis]
        own += [
            p.model_copy(update={"axis": axis, "value": value}) for p in points if p.axis == DEFAULT
        ]
        rank = order[axis].index if axis in order else int
        found[axis] = sorted(own, key=lambda p, rank=rank: rank(p.value))
    return found


def scenes(plan: Plan, n_members: int) -> tuple[Scenes, Scenes, Scenes]:
    """Members, non-members and held-out scenes; fewer members are the first ones of more."""
    most, sizes = 2 * plan.sizes.n_members, plan.sizes
    if not 1 <= n_members <= most:
        raise ValueError(f"{n_members} members: expected 1..{most}, twice the default")
    everyone = draw(
        CITY, 0, START, most + sizes.n_held_out, root=plan.data_root, progress=plan.progress
    )
    others = experiment.split(plan, "dependent").victim_nonmembers
    held_out = everyone.subset(range(most, most + sizes.n_held_out))
    return everyone.subset(range(n_members)), others, held_out


def measure(plan: Plan, cell: Cell) -> list[Point]:
    """Train the cell's victim and attack it; kept in ``build/growth`` and read from there again."""
    members, nonmembers, held_out = scenes(plan, cell.n_members)
    shadows = experiment.networks(plan, "dependent", 2)
    key = key_of(cell, members, nonmembers, shadows)
    path = plan.build / "growth" / f"{cell.name}.json"
    kept = _kept(path, key)
    if kept is not None:
        return kept
    own = replace(plan, recipe=cell.recipe, weights=plan.build / "growth" / cell.name)
    victim = networks.load_or_train(own, cell.name, members, nonmembers, held_out, seed=SEED)
    found = _points(plan, cell, victim, shadows)
    content = {"key": key, "points": [point.model_dump() for point in found]}
    write_whole(path, json.dumps(content, indent=1))
    return found


def key_of(cell: Cell, members: Scenes, nonmembers: Scenes, shadows: Sequence[Network]) -> str:
    """Hex key of all that a cell's points depend on."""
    parts = {
        "version": VERSION,
        "attacks": ATTACKS,
        "cell": cell.model_dump(),
        "seed": SEED,
        "members": members.digest,
        "nonmembers": nonmembers.digest,
        "shadows": [of.sha256 for of in shadows],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _kept(path: Path, key: str) -> list[Point] | None:
    """The points of a finished cell; None where there are none, or torn ones, or of another key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] == key:
            return [Point(**point) for point in content["points"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError, ValidationError):
        pass
    return None


def _points(plan: Plan, cell: Cell, victim: Network, shadows: Sequence[Network]) -> list[Point]:
    # the first members of all cells: as many for each axis, and the same ones
    attacked = victim.members.subset(range(min(len(victim.members), plan.sizes.n_members)))
    victim = replace(victim, members=attacked)
    of = beyond.contest(plan, "dependent", victim, shadows, everyone=False, strongest=True)
    said = victim.meta["metrics"]
    found = []
    for name in ATTACKS:
        scores = of[name].scores
        area, tpr = metrics.auc(scores, of.member), metrics.tpr_at_fpr(scores, of.member, 0.01)
        found.append(
            Point(
                axis=cell.axis,
                value=cell.value,
                attack=name,
                **ends({"auc": area, "tpr_1": tpr}),
                n_members=area.n_members,
                n_nonmembers=area.n_nonmembers,
                member_miou=said["member_miou"],
                nonmember_miou=said["nonmember_miou"],
                parameters=sum(p.numel() for p in victim.model.parameters()),
                seconds=said["seconds"],
            )
        )
    return found


def growth(
    plan: Plan,
    cells: Sequence[Cell] | None = None,
    *,
    jobs: int | None = None,
    cluster: str | None = None,
    path: Path | None = None,
) -> list[Point]:
    """Measure the grid, a process a core, or on the workers of a Dask cluster at that address.

    Writes the table to `path` (``build/growth/growth.csv``). All workers of a cluster need this
    checkout and the plan's folders. ConnectionError where no cluster answers.
    """
    cells = grid(plan) if cells is None else list(cells)
    scenes(plan, max(cell.n_members for cell in cells))  # before two workers draw the same ones
    shadows = experiment.networks(plan, "dependent", 2)
    asking.shadow_cases(plan, shadows, shadows[0])
    with engine(cluster):
        work = joblib.Parallel(n_jobs=jobs or os.cpu_count(), return_as="generator_unordered")
        longest = sorted(cells, key=lambda c: -c.n_members * c.recipe.epochs)
        build = str(plan.build)
        begun = time.monotonic()
        for done in work(joblib.delayed(_alone)(plan, cell, build) for cell in longest):
            minutes = (time.monotonic() - begun) / 60
            print(f"{done}: done, {minutes:.1f} minutes of this run", flush=True)
    found = [point for cell in cells for point in measure(plan, cell)]
    beyond.write(found, path or plan.build / "growth" / "growth.csv")
    return found


def _alone(plan: Plan, cell: Cell, build: str) -> str:
    """What a worker does."""
    os.environ["SEGLEAK_BUILD"] = build
    with one_thread():
        measure(replace(plan, progress=False), cell)
    return cell.name
