"""References that are trained here, from more images of the kind; each is a shadow, too.

A network's members are its own; what no network was trained on is shared. They land beside the
audit (`OUT/references`), are found there again, and an interrupted training goes on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from segleak_utils.audit.config import Answers, Audit, Data, Pairs, Size
from segleak_utils.audit.looks import Looks, look
from segleak_utils.audit.pictures import Picture, of_pairs
from segleak_utils.audit.pixels import Reader, scenes_of
from segleak_utils.victims import (
    Recipe,
    load_victim,
    padded,
    processes,
    save_weights,
    train_victim,
)
from segleak_utils.victims.clusters import engine, one_thread
from segleak_utils.whole import alone

VERSION = 1
LEAST = 10  # members of a reference: fewer teach neither a network nor an attack
HELD_OUT = 0.1  # share of the images that training stops by


@dataclass(frozen=True, eq=False)
class Trained:
    """A reference that was trained here, how it answers, its members and its non-members."""

    model: torch.nn.Module
    answers: Answers
    lists: tuple[Picture, ...]


@dataclass(frozen=True)
class Plan:
    """What one reference is trained on: recipe, seed, its members, and what it stops by."""

    recipe: Recipe
    seed: int
    members: tuple[Picture, ...]
    held_out: tuple[Picture, ...]
    data: Data
    size: Size
    path: Path


def trained(
    told: Audit, reader: Reader, looks: Looks, *, base: Path, progress: bool
) -> list[Trained]:
    """The references of `told.train_references`: loaded if they are there, else trained.

    ValueError for too few images, or images that are audited; ConnectionError where no Dask
    scheduler answers.
    """
    how = told.train_references
    pairs = Pairs(images=how.images, masks=how.masks)
    base = base.absolute()  # a worker of a cluster may be elsewhere
    pictures = of_pairs(pairs, told.data, member=False, base=base)
    name = "looking at references' images" if progress else None
    found = look(pictures, reader, base / told.out / "kept", progress=name)
    known = set(looks.pixels)
    pictures = _first_of_each(pictures, found.pixels, known)
    size = how.size or told.data.size or _size_of(pictures[0], reader)
    parts = split(len(pictures), how.count, told.seed)
    recipe = how.recipe or Recipe(n_classes=reader.n_classes)
    recipe = recipe.model_copy(update={"n_classes": reader.n_classes})
    least = max(LEAST, recipe.batch)
    if len(parts[0]) < least:
        raise ValueError(
            f"{len(pictures)} images in {how.images} give each of {how.count} references "
            f"{len(parts[0])} members; at least {least} are needed: bring more images, or train "
            "fewer references"
        )
    *own, outside, held_out = ([pictures[i] for i in part] for part in parts)
    folder = base / told.out / "references"
    plans = [
        _plan(recipe, told.seed + k, members, held_out, reader, size, folder)
        for k, members in enumerate(own)
    ]
    if processes.is_first():
        _train_all(plans, how.jobs, how.cluster, progress)
    processes.wait()
    answers = Answers(returns="logits", batch=told.answers.batch, device=told.answers.device)
    return [
        Trained(
            padded(load_victim(plan.path)[0]),
            answers,
            (
                *(replace(of, member=True) for of in plan.members),
                *(replace(of, member=False) for of in outside),
            ),
        )
        for plan in plans
    ]


def split(n: int, count: int, seed: int) -> list[list[int]]:
    """Positions 0..n-1 in `count` equal parts of members, one of non-members, and held-out ones.

    >>> [len(part) for part in split(100, 2, seed=0)]
    [30, 30, 30, 10]
    """
    order = np.random.default_rng(seed).permutation(n).tolist()
    held_out = max(1, round(HELD_OUT * n))
    each = (n - held_out) // (count + 1)
    parts = [sorted(order[k * each : (k + 1) * each]) for k in range(count + 1)]
    return [*parts, sorted(order[len(order) - held_out :])]


def _first_of_each(
    pictures: Sequence[Picture], pixels: Sequence[str], audited: set[str]
) -> list[Picture]:
    found: dict[str, Picture] = {}
    for picture, key in zip(pictures, pixels, strict=True):
        if key in audited:
            raise ValueError(
                f"{picture.image} is in the audited lists, too: references must not be trained on "
                "the images that are audited; take it out of train_references"
            )
        found.setdefault(key, picture)
    return list(found.values())


def _size_of(picture: Picture, reader: Reader) -> Size:
    """Of the first picture, brought to multiples of 32, as the networks need."""
    _, mask = reader.read(picture)
    return tuple(max(64, round(side / 32) * 32) for side in mask.shape)


def _plan(
    recipe: Recipe,
    seed: int,
    members: Sequence[Picture],
    held_out: Sequence[Picture],
    reader: Reader,
    size: Size,
    folder: Path,
) -> Plan:
    sized = Reader(reader.data, size)
    keys = [sized.key_of(of) for of in (*members, *held_out)]
    text = f"{VERSION} {recipe.model_dump_json()} {seed} {size} {keys}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    path = folder / f"reference-{digest[:16]}.safetensors"
    return Plan(recipe, seed, tuple(members), tuple(held_out), reader.data, size, path)


def _train_all(
    plans: Sequence[Plan], jobs: int | None, cluster: str | None, progress: bool
) -> None:
    missing = [plan for plan in plans if not plan.path.exists()]
    if not missing:
        return
    jobs = min(jobs or os.cpu_count() or 1, len(missing))
    if jobs == 1 and cluster is None:
        for plan in missing:
            train(plan, progress)
        return
    import joblib

    with engine(cluster):
        work = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
        for name in work(joblib.delayed(_alone)(plan) for plan in missing):
            if progress:
                print(f"{name}: trained", flush=True)


def train(plan: Plan, progress: bool = False) -> str:
    """Train one reference and store it; nothing where it is there already. Its name."""
    with alone(plan.path):
        if not plan.path.exists():
            reader = Reader(plan.data, plan.size)
            scenes = [scenes_of(part, reader) for part in (plan.members, plan.held_out)]
            checkpoint = plan.path.with_suffix(".checkpoint")
            model, history = train_victim(
                plan.recipe, *scenes, seed=plan.seed, checkpoint=checkpoint,
                progress=plan.path.stem if progress else None,
            )  # fmt: skip
            meta = {"kind": "victim", "recipe": plan.recipe.model_dump(), "seed": plan.seed,
                    "metrics": {"loss": history[-1]["loss"]}}  # fmt: skip
            save_weights(model, plan.path, meta)
            checkpoint.unlink(missing_ok=True)
    return plan.path.stem


def _alone(plan: Plan) -> str:
    """What a worker does."""
    with one_thread():
        return train(plan)
