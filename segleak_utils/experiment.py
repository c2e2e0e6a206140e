"""The main job end to end: a victim, its leak, attacks learned on shadows, a table with intervals.

The default experiment lives on SynthStreets: two victims of one city, two shadows of the same city
(dependent), two of another (independent). What is shipped in ``weights/`` is loaded, checked
against its SHA-256; what is missing is trained. What is costly to compute again is kept in
``build/cache`` under a key of everything it depends on.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from segleak_utils import attacks, examples, metrics, patchnets, results, splits, victims
from segleak_utils.attacks import AttackRecipe, Outputs
from segleak_utils.contests import (  # noqa: F401 - whoever runs a contest reads it here too
    BLIND,
    GLOBAL,
    LOGISTIC,
    Attack,
    Contest,
    bars_of,
    patch_attack,
    rows,
)
from segleak_utils.data import Scenes
from segleak_utils.patchnets import Representation
from segleak_utils.splits import Split
from segleak_utils.victims import Recipe

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "weights"
bar_line = 0  # where a worker that trains beside others draws its progress bar
VERSION = 2  # part of every cache key: raise it when cached numbers change

Setting = Literal["dependent", "independent"]
SETTINGS: tuple[Setting, ...] = ("dependent", "independent")
CITY = "harbour"
SHADOW_CITY = {"dependent": CITY, "independent": "oldtown"}
VICTIM_SEEDS = (0, 1)
SHADOW_SEEDS = (0, 1)
# Further networks of the city for notebook 06, and the seed of each one's training.
FURTHER = {"victim-2": 11, "victim-3": 12, **{f"shadow-dependent-{k}": 20 + k for k in range(2, 8)}}

# The paper draws 90x90 patches from the 128x256 grid and averages over 6 of them by default.
PATCH, N_PATCHES = 90, 6


@dataclass(frozen=True)
class Sizes:
    """How many scenes each role has."""

    n_members: int = 400
    n_nonmembers: int = 2000
    n_shadow_nonmembers: int = 400
    n_held_out: int = 100


@dataclass(frozen=True)
class Plan:
    """Everything the default experiment is made of; tests run a miniature of it.

    `weights` is where networks and attackers are looked for and stored, `data_root` where scenes
    are cached, `build` where everything else goes. `further`: those of `FURTHER` that are shipped,
    as int8. With `examples`, the paper's folder, the victims
    are the recorded ones; `attackers` is a folder of published ones, to be scored beside ours.
    """

    sizes: Sizes = field(default_factory=Sizes)
    recipe: Recipe = field(default_factory=Recipe)
    attack: AttackRecipe = field(default_factory=AttackRecipe)
    shadow_seeds: tuple[int, ...] = SHADOW_SEEDS
    further: tuple[str, ...] = tuple(name for name in FURTHER if name != "victim-3")
    weights: Path = WEIGHTS
    data_root: Path = ROOT / "data"
    examples: Path | None = None
    attackers: Path | None = None
    dilated: bool = False
    progress: bool = True

    @property
    def build(self) -> Path:
        return results.build_folder()


def plan_of(preset: str, data_root: Path = ROOT / "data", **published) -> Plan:
    """The default experiment as a notebook's preset has it: ``quick`` scores fewer non-members.

    `published`: `examples`, `attackers` and `dilated` as in `Plan`; FileNotFoundError for a folder
    that is not there.
    """
    n_nonmembers = {"quick": 2000, "full": 5000}
    if preset not in n_nonmembers:
        raise ValueError(f"preset {preset!r}; expected one of {', '.join(n_nonmembers)}")
    plan = Plan(Sizes(n_nonmembers=n_nonmembers[preset]), data_root=Path(data_root), **published)
    for name, folder in (("examples", plan.examples), ("attackers", plan.attackers)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(
                f"{name}: no folder {folder.resolve()}; a notebook sees a relative path from "
                "notebooks/, so give an absolute one"
            )
    return plan


def split(plan: Plan, setting: Setting, *, victim_seed: int = 0, shadow_seed: int = 0) -> Split:
    """Members and non-members of a victim and of one of its shadows, on SynthStreets."""
    if setting not in SETTINGS:
        raise ValueError(f"setting {setting!r}; expected one of {SETTINGS}")
    return splits.synthstreets_split(
        CITY,
        victim_seed,
        SHADOW_CITY[setting],
        shadow_seed,
        **asdict(plan.sizes),
        root=plan.data_root,
        progress=plan.progress,
    )


# ------------------------------------------------------------------- networks: load, else train


def manifest(folder: Path) -> dict[str, dict]:
    """The entries of ``manifest.json``, by name; empty where there is none."""
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(entry["sha256"], str) for entry in entries.values()):
            return entries
        raise ValueError("an entry has no sha256")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from git") from error


PACKAGES = ("torch", "timm", "numpy", "segmentation-models-pytorch")


def ship(
    plan: Plan,
    name: str,
    model: nn.Module | Mapping[str, Tensor],
    meta: dict,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Store weights and their line in the manifest."""
    meta = {**meta, "versions": {p: importlib.metadata.version(p) for p in PACKAGES}}
    digest = victims.save_weights(model, plan.weights / f"{name}.safetensors", meta, dtype)
    entries = manifest(plan.weights) | {name: {"sha256": digest, **meta}}
    write_manifest(plan.weights, entries)


def write_manifest(folder: Path, entries: dict[str, dict]) -> None:
    text = json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False)
    results.write_whole(folder / "manifest.json", text + "\n")


def shipped(plan: Plan, name: str) -> Path | None:
    """The weight file of that name, or None where it is to be trained.

    Raises ValueError for a file without its line in the manifest: nobody vouches for it.
    """
    path, entries = plan.weights / f"{name}.safetensors", manifest(plan.weights)
    if not path.is_file():
        return None
    if name not in entries:
        raise ValueError(f"{path} is not in the manifest; delete it to train it again")
    return path


@dataclass(frozen=True)
class Network:
    """A trained victim or shadow with the scenes that it was and was not trained on."""

    name: str
    model: nn.Module
    meta: dict
    sha256: str
    members: Scenes
    nonmembers: Scenes


def network_names(plan: Plan) -> list[str]:
    """Names of all victims and shadows of the experiment, in the order of their training."""
    shadows = [[f"shadow-{s}-{k}" for k in plan.shadow_seeds] for s in SETTINGS]
    return [*shadows[0], *(f"victim-{k}" for k in VICTIM_SEEDS), *shadows[1]]


def roles(plan: Plan, name: str) -> tuple[Scenes, Scenes, Scenes]:
    """Members, non-members and held-out scenes of a network of that name."""
    known = [*network_names(plan), *FURTHER]
    if name not in known:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(known)}")
    kind, *setting, seed = name.split("-")
    if kind == "victim":
        whole = split(plan, "dependent", victim_seed=int(seed))
        return whole.victim_members, whole.victim_nonmembers, whole.victim_held_out
    whole = split(plan, setting[0], shadow_seed=int(seed))
    return whole.shadow_members, whole.shadow_nonmembers, whole.shadow_held_out


def network(plan: Plan, name: str) -> Network:
    """A victim (``victim-0``) or shadow (``shadow-dependent-0``): loaded if there, else trained.

    With examples the two victims are recorded ones: that of SGD, and that of DP-SGD.
    """
    if plan.examples is not None and name in RECORDED:
        return recorded(plan, RECORDED[name])
    scenes = roles(plan, name)
    # Each network has a seed of its own: victim and shadow must not start from one point.
    if name in FURTHER:
        return load_or_train(plan, name, *scenes, seed=FURTHER[name], dtype=torch.int8)
    return load_or_train(plan, name, *scenes, seed=1 + network_names(plan).index(name))


RECORDED = dict(zip((f"victim-{k}" for k in VICTIM_SEEDS), examples.KINDS, strict=True))


def recorded(plan: Plan, kind: examples.Kind) -> Network:
    """A victim of the example folder: it answers with the posteriors on file."""
    of = examples.read(plan.examples)
    model, digest = of.victim(kind), of.digest(kind)

    def compute() -> dict[str, np.ndarray]:
        both = both_miou(model, of.members, of.nonmembers)
        return {name: np.array(value) for name, value in both.items()}

    mious = {name: float(value) for name, value in cached(plan, ("miou", digest), compute).items()}
    meta = {"kind": "recorded", "metrics": mious}
    return Network(f"examples-{kind}", model, meta, digest, of.members, of.nonmembers)


def setting_name(plan: Plan, setting: str) -> str:
    """The setting as tables have it: with examples the shadows are of a drawn city in any case."""
    return f"drawn shadows, {SHADOW_CITY[setting]}" if plan.examples else setting


def note(plan: Plan) -> str:
    """What to know of the examples, as a paragraph of Markdown; nothing without them."""
    return f"\n\n{examples.note('drawn cities')}" if plan.examples else ""


def load_or_train(
    plan: Plan,
    name: str,
    members: Scenes,
    nonmembers: Scenes,
    held_out: Scenes,
    *,
    seed: int,
    dtype: torch.dtype = torch.float16,
) -> Network:
    """The network of that name in `plan.weights`, trained on `members` if it is not there yet."""
    if shipped(plan, name) is None:
        _train_network(plan, name, members, nonmembers, held_out, seed, dtype)
    entry = manifest(plan.weights)[name]
    if entry.get("members_digest") != members.digest:
        raise ValueError(
            f"{name} in {plan.weights} was trained on other scenes than this experiment's members; "
            "its scores would mean nothing. Train it again: python3 -m segleak_utils.run weights "
            "--force"
        )
    if Recipe(**entry["recipe"]) != plan.recipe:
        raise ValueError(
            f"{name} in {plan.weights} was trained by another recipe: {entry['recipe']}, expected "
            f"{plan.recipe.model_dump()}. Use that recipe, or train it again: "
            "python3 -m segleak_utils.run weights --force"
        )
    model, meta = victims.load_victim(shipped(plan, name), entry["sha256"])
    return Network(name, model, meta, entry["sha256"], members, nonmembers)


def _train_network(plan, name, members, nonmembers, held_out, seed, dtype) -> None:
    checkpoint = plan.build / "checkpoints" / f"{name}-{members.digest[:8]}.pt"
    started = time.monotonic()
    model, history = victims.train_victim(
        plan.recipe,
        members,
        held_out,
        seed=seed,
        checkpoint=checkpoint,
        progress=name if plan.progress else None,
        line=bar_line,
    )
    meta = {
        "kind": "network",
        "recipe": plan.recipe.model_dump(),
        "seed": seed,
        "members": f"{len(members)}: {members.ids[0]} … {members.ids[-1]}",
        "members_digest": members.digest,
        "metrics": {
            **both_miou(model, members, nonmembers),
            "held_out_miou": [
                [h["epoch"], round(h["held_out_miou"], 4)] for h in history if "held_out_miou" in h
            ],
            "train_loss": [round(h["loss"], 4) for h in history],
            "seconds": round(time.monotonic() - started),
        },
    }
    ship(plan, name, model, meta, dtype)
    checkpoint.unlink(missing_ok=True)


def both_miou(model: nn.Module, members: Scenes, nonmembers: Scenes) -> dict[str, float]:
    """Mean IoU on up to 200 members and as many non-members, for the manifest."""
    groups = {"member_miou": members, "nonmember_miou": nonmembers}
    return {
        name: round(victims.mean_iou(model, scenes.subset(range(min(200, len(scenes))))), 4)
        for name, scenes in groups.items()
    }


# -------------------------------------------------------------------------------------- cache


def cached(plan: Plan, key_parts: tuple, compute: Callable[[], dict[str, np.ndarray]]) -> dict:
    """Arrays from the cache, or computed and kept; a torn entry is computed again."""
    text = json.dumps([VERSION, *map(str, key_parts)])
    path = plan.build / "cache" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError):
            path.unlink()
    arrays = compute()
    victims.replace_file(path, lambda part: save_file(arrays, part))
    return arrays


def loss_outputs(plan: Plan, of: Network) -> Outputs:
    """Loss maps of a network on its members and non-members; cached (100 kB an image).

    Each group for itself: networks may have their non-members in common.
    """
    kept = [_loss_maps(plan, of, scenes) for scenes in (of.members, of.nonmembers)]
    loss, masks = (torch.cat([torch.from_numpy(k[key]) for k in kept]) for key in ("loss", "masks"))
    return Outputs(loss, masks, np.arange(len(masks)) < len(of.members), of.members.n_classes)


def _loss_maps(plan: Plan, of: Network, scenes: Scenes) -> dict[str, np.ndarray]:
    def compute() -> dict[str, np.ndarray]:
        told = of.name if plan.progress else None
        shown = attacks.outputs(of.model, scenes, scenes.subset(range(0)), progress=told)
        return {"loss": shown.loss_maps.numpy(), "masks": shown.masks.numpy()}

    return cached(plan, ("loss maps", of.sha256, scenes.digest), compute)


# ---------------------------------------------------------------------------------- attackers


def slug(representation: Representation) -> str:
    """The representation in a file name."""
    return representation.replace(" + ", "+").replace(" ", "-")


def attacker(
    plan: Plan, setting: str, representation: Representation, shadows: list[Network]
) -> tuple[patchnets.PatchNet, dict]:
    """The patch attacker of that setting: loaded if there, else trained on the shadows' outputs.

    Its entry in the manifest (returned too) has the threshold chosen on shadow images that took no
    part in its training, and the SHA-256 of the shadows it learned from: an attacker of other
    shadows raises ValueError.
    """
    name = f"attack-{setting}-{slug(representation)}"
    if shipped(plan, name) is None:
        _train_attacker(plan, name, representation, shadows)
    of = {shadow.name: shadow.sha256 for shadow in shadows}
    return load_attacker(plan, name, representation, of, shadows[0].members.n_classes)


def load_attacker(
    plan: Plan, name: str, representation: Representation, shadows: dict[str, str], n_classes: int
) -> tuple[patchnets.PatchNet, dict]:
    """A stored patch attacker and its entry; `shadows`: name → SHA-256 of those it learned from."""
    entry = manifest(plan.weights)[name]
    check_shadows(plan, name, shadows)
    wanted = asdict(replace(plan.attack, representation=representation))
    if entry["recipe"] != wanted:
        raise ValueError(
            f"{name} in {plan.weights} was trained by another recipe: {entry['recipe']}, expected "
            f"{wanted}. Use that recipe, or train it again: "
            "python3 -m segleak_utils.run weights --force"
        )
    state, meta = victims.read_weights(shipped(plan, name), entry["sha256"])
    net = patchnets.PatchNet(representation, n_classes, meta["recipe"]["width"])
    net.load_state_dict(state)
    return net.eval().to(victims.best_device(), memory_format=torch.channels_last), entry


def check_shadows(plan: Plan, name: str, shadows: dict[str, str]) -> None:
    """Raise ValueError for an attacker that learned from other shadows than these."""
    if manifest(plan.weights)[name]["shadows"] != shadows:
        raise ValueError(
            f"{name} was trained on other shadows than those in {plan.weights}; train it again: "
            "python3 -m segleak_utils.run weights --force"
        )


def _train_attacker(plan, name, representation, shadows) -> None:
    started = time.monotonic()
    shown = [
        attacks.outputs(
            of.model,
            of.members,
            of.nonmembers,
            keep_posteriors=representation == "concatenation",
        )
        for of in shadows
    ]
    train_attacker(plan, name, representation, shown, shadows, started)


def train_attacker(
    plan: Plan,
    name: str,
    representation: Representation,
    shown: list[Outputs],
    shadows: list[Network],
    started: float,
) -> None:
    """Train a patch attacker on what the shadows have shown, and store it under that name."""
    recipe = replace(plan.attack, representation=representation)
    net, history, (scores, member) = attacks.train_attacker(
        recipe, shown, seed=1, progress=name if plan.progress else None, line=bar_line
    )
    meta = {
        "kind": "attacker",
        "recipe": asdict(recipe),
        "seed": 1,
        "shadows": {of.name: of.sha256 for of in shadows},
        "threshold": metrics.best_threshold(scores, member),
        "metrics": {
            "select_auc": [round(h["select_auc"], 4) for h in history],
            "train_loss": [round(h["loss"], 4) for h in history],
            "seconds": round(time.monotonic() - started),
        },
    }
    ship(plan, name, net, meta)


# ------------------------------------------------------------------------------------ contest


def bars(plan: Plan, setting: str, victim: Network, shadows: list[Network]) -> Contest:
    """The cheap attacks that a patch attack has to pass: blind, global loss, per-class regression.

    All learning and all thresholds come from the shadows.
    Raises ValueError where the victim's scenes and a shadow's overlap.
    """
    if not shadows:
        raise ValueError("no shadow to learn from; at least one is needed")
    for of in shadows:
        check_apart(victim, of)
    return bars_of(
        victim.name,
        setting_name(plan, setting),
        loss_outputs(plan, victim),
        [loss_outputs(plan, of) for of in shadows],
        [blind_features(plan, of.members, of.nonmembers) for of in (victim, *shadows)],
    )


def contest(
    plan: Plan,
    setting: str,
    victim: Network,
    shadows: list[Network],
    *,
    n_patches: int = N_PATCHES,
    seed: int = 0,
) -> Contest:
    """Every attack on one victim: the `bars`, then the patch attacks, which see the same patches.

    Raises ValueError where the victim's scenes and a shadow's overlap.
    """
    cheap = bars(plan, setting, victim, shadows)
    found = list(cheap.attacks)
    trained = {r: attacker(plan, setting, r, shadows) for r in attacks.REPRESENTATIONS}
    scored = _patch_scores(plan, victim, trained, n_patches, seed)
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
    files = examples.public_attackers(plan.attackers)
    scenes = victim.members, victim.nonmembers

    def compute() -> dict[str, np.ndarray]:
        nets = {r: examples.load_attacker(path, r, plan.dilated) for r, path in files.items()}
        told = f"published attackers on {victim.name}" if plan.progress else None
        return attacks.stream_scores(
            victim.model, scenes, nets, n_patches=n_patches, patch=PATCH, seed=seed, progress=told
        )

    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files.values()]
    of = victim.sha256, *(part.digest for part in scenes), *hashes, plan.dilated
    scored = cached(plan, ("published", *of, n_patches, PATCH, seed), compute)
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


def check_apart(victim: Network, shadow: Network) -> None:
    """Raise ValueError unless victim and shadow have no scene in common."""
    Split(victim.members, victim.nonmembers, shadow.members, shadow.nonmembers)


def blind_features(plan: Plan, members: Scenes, nonmembers: Scenes) -> np.ndarray:
    """`attacks.blind_features` of members, then non-members; cached."""

    def compute() -> dict[str, np.ndarray]:
        both = [attacks.blind_features(scenes) for scenes in (members, nonmembers)]
        return {"features": np.concatenate(both)}

    return cached(plan, ("blind", members.digest, nonmembers.digest), compute)["features"]


def _patch_scores(plan, victim, trained, n_patches, seed) -> dict[Representation, np.ndarray]:
    """Patch scores [N,P] of every attacker in one pass over the victim's posteriors; cached."""
    nets = {representation: net for representation, (net, _) in trained.items()}

    def compute() -> dict[str, np.ndarray]:
        told = f"attacks on {victim.name}" if plan.progress else None
        return attacks.stream_scores(
            victim.model,
            (victim.members, victim.nonmembers),
            nets,
            n_patches=n_patches,
            patch=plan.attack.patch,
            seed=seed,
            progress=told,
        )

    of = [entry["sha256"] for _, entry in trained.values()]
    scenes = victim.members.digest, victim.nonmembers.digest
    return cached(
        plan, ("patches", victim.sha256, *scenes, *of, n_patches, plan.attack.patch, seed), compute
    )


def default_contest(
    plan: Plan, setting: Setting, victim_seed: int = 0, *, n_patches: int = N_PATCHES, seed: int = 0
) -> Contest:
    """The contest on SynthStreets, with the shipped networks and attackers."""
    victim = network(plan, f"victim-{victim_seed}")
    shadows = [network(plan, f"shadow-{setting}-{k}") for k in plan.shadow_seeds]
    return contest(plan, setting, victim, shadows, n_patches=n_patches, seed=seed)
