"""Who is at risk: networks of one recipe, each trained on a random half of the same scenes.

For every scene half of the networks were trained on it and half were not, so that its own risk can
be told, and not only that of the pool (Knolle et al., Nature 2026). A finished network is a file of
what it says of all scenes; a run that was stopped goes on with what is missing. Those of the
default plan are shipped.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from torch import nn

from segleak_utils import attacks
from segleak_utils.attacks.contests import GLOBAL
from segleak_utils.attacks.online import paired_halves
from segleak_utils.attacks.references import of_zones
from segleak_utils.checks import numbers
from segleak_utils.data import VOID, Scenes
from segleak_utils.metrics import binormal_auc, rank_correlation
from segleak_utils.representations import class_shares, near_boundary
from segleak_utils.studies import beyond, networks
from segleak_utils.studies.experiment import CITY
from segleak_utils.studies.plan import Plan
from segleak_utils.studies.shelf import manifest, write_manifest
from segleak_utils.synthstreets import draw
from segleak_utils.victims.clusters import engine, one_thread
from segleak_utils.whole import sha256, write_whole

VERSION = 1  # part of every network's key: raise it when its numbers change
START = 180_000  # scenes that no other network is trained on or attacked with
SEED = 80
SHIPPED = beyond.RESULTS.parent / "risk"
WAYS = ("plain", "flipped")  # how each network is asked about each scene
DEFAULT = "default"
RECIPES = {  # whose networks are trained on the same halves, and what is changed for them
    DEFAULT: {},
    "half as long": {"epochs": 18},
    "another network": {"arch": "deeplabv3plus", "encoder": "tu-mobilenetv3_small_100"},
}
LEVELS = (0.6, 0.7, 0.8, 0.9, 0.95)  # of an AUC, above which scenes are counted
BY_CHANCE = 20  # times that labels are dealt out anew
ONE, TWO = GLOBAL, f"{GLOBAL}, two questions"


@dataclass(frozen=True, eq=False)
class Halves:
    """What K networks say of the same N scenes, each trained on half of them.

    inside: bool [K,N], who was trained on what, each scene half of the networks; losses: float32
    [K,2,N,2C], for each way of asking (`WAYS`) the part of a scene's mean loss that lies in each
    zone, so that they add up to it; shares: float32 [N,2C], of the labelled pixels; miou: float64
    [K,2], mean IoU on members and non-members; ids: the scenes' names.
    """

    inside: NDArray[np.bool_]
    losses: NDArray[np.float32]
    shares: NDArray[np.float32]
    miou: NDArray[np.float64]
    ids: tuple[str, ...]


def inside(n_networks: int, n_images: int, seed: int = SEED) -> NDArray[np.bool_]:
    """Which scenes each network is trained on: bool [K,N], half of all, and each by half of them.

    Networks go in pairs, one on a random half, one on the rest: more of them leave the first as
    they are. ValueError for odd numbers.

    >>> inside(4, 6).sum(0), inside(4, 6).sum(1)
    (array([2, 2, 2, 2, 2, 2]), array([3, 3, 3, 3]))
    >>> bool((inside(8, 6)[:4] == inside(4, 6)).all())
    True
    """
    n_networks, n_images = (
        numbers.count(n_networks, "n_networks", 2),
        numbers.count(n_images, "n", 2),
    )
    if n_networks % 2 or n_images % 2:
        raise ValueError(f"{n_networks} networks, {n_images} images: expected even numbers")
    return paired_halves(n_images, [[seed, pair] for pair in range(n_networks // 2)])


def scenes(plan: Plan) -> tuple[Scenes, Scenes]:
    """The scenes, twice as many as a victim's members, and those that trainings stop by."""
    n, more = 2 * plan.sizes.n_members, plan.sizes.n_held_out
    everyone = draw(CITY, 0, START, n + more, root=plan.data_root, progress=plan.progress)
    return everyone.subset(range(n)), everyone.subset(range(n, n + more))


def of_recipe(plan: Plan, recipe: str) -> tuple[Plan, Path, Path]:
    """The plan with that recipe of `RECIPES`, and where its networks' answers are: shipped, made.

    ValueError for an unknown one.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe {recipe!r}; expected one of {', '.join(map(repr, RECIPES))}")
    changed = plan.recipe.model_copy(update=RECIPES[recipe])
    below = "" if recipe == DEFAULT else recipe.replace(" ", "-")
    return replace(plan, recipe=changed), SHIPPED / below, plan.build / "risk" / below


def answers(
    plan: Plan, k: int, drawn: tuple[Scenes, Scenes] | None = None, *, recipe: str = DEFAULT
) -> dict[str, NDArray]:
    """What the k-th network says of all scenes: shipped, from ``build/risk``, or after a training.

    losses: float16 [2,N,2C]; miou: float64 [2], as in `Halves`. drawn: `scenes`, if they are there.
    """
    of, held_out = drawn or scenes(plan)
    plan, shipped, folder = of_recipe(plan, recipe)
    chosen = inside(k + 2 - k % 2, len(of))[k]
    name, key = f"network-{k:02}", key_of(plan, k, chosen, of, held_out)
    for place in (shipped, folder):
        known = _kept(place, name, key)
        if known is not None:
            return known
    own = replace(plan, weights=folder / name)
    parts = [of.subset(np.flatnonzero(which)) for which in (chosen, ~chosen)]
    network = networks.load_or_train(own, name, *parts, held_out, seed=SEED + k)
    mious = network.meta["metrics"]
    found = {
        "losses": np.stack([_by_zone(network.model, one) for one in (of, of.flipped())]),
        "miou": np.array([mious["member_miou"], mious["nonmember_miou"]]),
    }
    path = folder / f"{name}.safetensors"
    write_whole(path, save(found))
    write_manifest(folder, {name: {"sha256": sha256(path), "key": key}})
    return found


def key_of(plan: Plan, k: int, chosen: NDArray[np.bool_], of: Scenes, held_out: Scenes) -> str:
    """Hex key of all that a network's answers depend on."""
    parts = {
        "version": VERSION,
        "recipe": plan.recipe.model_dump(),
        "seed": SEED + k,
        "inside": np.packbits(chosen).tobytes().hex(),
        "scenes": [of.digest, held_out.digest],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def grid(
    plan: Plan,
    n_networks: int,
    *,
    recipe: str = DEFAULT,
    jobs: int | None = None,
    cluster: str | None = None,
) -> Halves:
    """Train and ask so many networks, one a core, or on the workers of a Dask cluster.

    What is there is not trained again. All workers of a cluster need this checkout and the plan's
    folders. ConnectionError where no cluster answers.
    """
    of_recipe(plan, recipe)  # refuses an unknown one, and then an odd number, before a training
    inside(n_networks, 2)
    scenes(plan)  # before two workers draw the same ones
    begun, build = time.monotonic(), str(plan.build)
    with engine(cluster):
        work = joblib.Parallel(n_jobs=jobs or os.cpu_count(), return_as="generator_unordered")
        for k in work(joblib.delayed(_alone)(plan, k, build, recipe) for k in range(n_networks)):
            minutes = (time.monotonic() - begun) / 60
            print(f"network {k}: done, {minutes:.1f} minutes of this run", flush=True)
    return collect(plan, n_networks, recipe=recipe)


def collect(plan: Plan, n_networks: int | None = None, *, recipe: str = DEFAULT) -> Halves:
    """What so many networks said; what is missing is trained here and now.

    None: as many as are shipped. ValueError where none is, and for an unknown recipe.
    """
    shipped = of_recipe(plan, recipe)[1]
    if n_networks is None:
        n_networks = len(manifest(shipped))
        if not n_networks:
            raise ValueError(f"{shipped} holds no networks' answers; give their number")
    of, held_out = scenes(plan)
    found = [answers(plan, k, (of, held_out), recipe=recipe) for k in range(n_networks)]
    return Halves(
        inside(n_networks, len(of)),
        np.stack([one["losses"] for one in found]).astype(np.float32),
        _shares(of),
        np.stack([one["miou"] for one in found]),
        tuple(of.ids),
    )


def scores_of(of: Halves) -> dict[str, NDArray[np.float64]]:
    """What each network's answers say of each scene, higher for members: float64 [K,N], by name."""
    total = of.losses.sum(-1, dtype=np.float64)
    return {ONE: -total[:, 0], TWO: -total.mean(1)}


def sharpness(of: Halves, n_networks: int) -> float:
    """How surely the first so many networks rank the scenes by their own AUCs, 0 to 1.

    Two halves of them agree by a rank correlation; all together would agree with as many others
    by that much (Spearman and Brown). By the global loss. 0 where the halves do not agree.
    """
    scores, inside_ = scores_of(of)[ONE][:n_networks], of.inside[:n_networks]
    every_second = np.arange(n_networks) // 2 % 2 == 0
    halves = (binormal_auc(scores[w], inside_[w])[0] for w in (every_second, ~every_second))
    between = max(rank_correlation(*halves).value, 0.0)
    return 2 * between / (1 + between)


def dealt_anew(of: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Labels [K,N] with which nothing can be told: in each pair, scene by scene, a coin decides."""
    return of ^ rng.integers(0, 2, (len(of) // 2, of.shape[1])).astype(bool).repeat(2, 0)


def table(of: Halves, seed: int = 0) -> str:
    """How many scenes have an AUC of their own above some levels, beside what chance gives."""
    k, n = of.inside.shape
    head = ["score", "mean AUC", "standard error", *(f"above {level:g}" for level in LEVELS)]
    lines = [
        f"{k} networks, each trained on half of {n} scenes (mean IoU {of.miou[:, 0].mean():.2f} on "
        f"members, {of.miou[:, 1].mean():.2f} on others)",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for name, scores in scores_of(of).items():
        rng = np.random.default_rng(seed)
        anew = [binormal_auc(scores, dealt_anew(of.inside, rng)) for _ in range(BY_CHANCE)]
        chance = tuple(np.concatenate(part) for part in zip(*anew, strict=True))
        for row, (areas, errors) in ((name, binormal_auc(scores, of.inside)),
                                     (f"{name}, by chance", chance)):  # fmt: skip
            shares = [f"{(areas > level).mean():.3f}" for level in LEVELS]
            typical = f"{np.sqrt((errors**2).mean()):.3f}"
            lines.append(f"| {' | '.join([row, f'{areas.mean():.3f}', typical, *shares])} |")
    return "\n".join(lines)


def risk(
    plan: Plan,
    n_networks: int,
    *,
    recipe: str = DEFAULT,
    jobs: int | None = None,
    cluster: str | None = None,
) -> Halves:
    """The `grid`; prints its `table`, and writes each scene's AUCs to ``build/risk/risk.csv``
    (another recipe's to its own folder there).

    ValueError for fewer than four networks: each scene needs two on either side.
    """
    if n_networks < 4:
        raise ValueError(f"{n_networks} networks: expected an even number, 4 or more, better 32")
    found = grid(plan, n_networks, recipe=recipe, jobs=jobs, cluster=cluster)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["scene", "networks", *(f"{a} {b}" for a in (ONE, TWO) for b in ("AUC", "SE"))])
    own = [binormal_auc(scores, found.inside) for scores in scores_of(found).values()]
    columns = [part for pair in own for part in pair]
    for name, *numbers_ in zip(found.ids, *columns, strict=True):
        writer.writerow([name, n_networks, *(f"{x:.4f}" for x in numbers_)])
    path = of_recipe(plan, recipe)[2] / "risk.csv"
    write_whole(path, text.getvalue())
    print(f"{table(found)}\n\n{path}")
    return found


def _alone(plan: Plan, k: int, build: str, recipe: str) -> int:
    """What a worker does."""
    os.environ["SEGLEAK_BUILD"] = build
    with one_thread():
        answers(replace(plan, progress=False), k, recipe=recipe)
    return k


def _kept(folder: Path, name: str, key: str) -> dict[str, NDArray] | None:
    """A finished network's answers; None where there are none, or of another key.

    ValueError for a file that is not the one in the manifest.
    """
    path, entry = folder / f"{name}.safetensors", manifest(folder).get(name)
    if entry is None or entry.get("key") != key or not path.is_file():
        return None
    if sha256(path) != entry["sha256"]:
        raise ValueError(
            f"{path} is not what {folder}/manifest.json says; delete it, or restore it"
        )
    return load_file(path)


def _by_zone(model: nn.Module, of: Scenes) -> NDArray[np.float16]:
    """Parts of the mean loss by zone: float16 [N,2C]."""
    parts = attacks.ask_in_parts(model, of, of.subset(range(0)))
    return np.concatenate([np.split(of_zones(part), 3, 1)[1] for part in parts]).astype(np.float16)


def _shares(of: Scenes) -> NDArray[np.float32]:
    """Shares of the labelled pixels by zone: float32 [N,2C]."""
    found = []
    for _, masks in of.batches(64):
        near = near_boundary(masks) & (masks != VOID)
        found.append(class_shares(masks + of.n_classes * near, 2 * of.n_classes).numpy())
    return np.concatenate(found)
