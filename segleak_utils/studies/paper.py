"""The paper's own settings, on Cityscapes, BDD100K and Mapillary Vistas: from lists to the table.

A setting is a file in ``configs/``. Its steps leave what they made in one folder, by default
``build/paper/NAME``, and do only what is missing there: ``train`` (victims and shadow, over one or
several processes), ``posteriors`` (a store for each network), ``attack`` (ResNet-50 on patches of
the shadow's store, then every victim). docs/reproduce.md says how to run them and what differs
from the paper.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from segleak_utils import attacks, data, metrics, victims
from segleak_utils.attacks import AttackRecipe, Outputs, contests, patchnets
from segleak_utils.attacks.contests import Attack, Contest
from segleak_utils.attacks.patchnets import Representation
from segleak_utils.data import Scenes, Split, lists
from segleak_utils.running import results
from segleak_utils.studies import experiment, patchattacks, shelf, standard
from segleak_utils.studies.plan import Plan
from segleak_utils.victims import store, street
from segleak_utils.victims.processes import is_first, run_processes
from segleak_utils.victims.processes import processes as joined
from segleak_utils.victims.store import Store
from segleak_utils.victims.street import StreetRecipe
from segleak_utils.whole import write_whole

DataSet = Literal["cityscapes", "bdd100k", "mapillary"]
Arch = Literal["upernet", "pspnet", "deeplabv3plus"]
REPRESENTATIONS: tuple[Representation, ...] = ("loss map", "concatenation")
SOURCES = {
    "cityscapes": data.cityscapes,
    "bdd100k": data.bdd100k,
    "mapillary": data.mapillary,
}


class Setting(BaseModel):
    """A file of ``configs/``: who is trained on what, and how it is attacked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    setting: Literal["dependent", "independent"]
    shadow_data: DataSet
    victims: tuple[Arch, ...] = Field(min_length=1)
    shadow: Arch
    training: dict = Field(description="fields of StreetRecipe, the same for all networks")
    networks: dict[Arch, dict] = Field({}, description="fields that differ, by architecture")
    sizes: dict[DataSet, tuple[int, int]] = Field({}, description="(height, width) to resize to")
    attack: AttackRecipe = AttackRecipe()
    n_patches: int = Field(experiment.N_PATCHES, ge=1, le=1000)
    counts: dict[str, tuple[int, int]] | None = Field(
        None, description="members and non-members of victim and shadow; the published ones if None"
    )
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _sound(self) -> Setting:
        if (self.setting == "dependent") != (self.shadow_data == "cityscapes"):
            raise ValueError(
                "dependent means that the shadow has Cityscapes too, independent that it has not"
            )
        if len(set(self.victims)) < len(self.victims):
            raise ValueError(f"victims {', '.join(self.victims)}: one of them is named twice")
        for arch in (*self.victims, self.shadow):
            self.recipe(arch)  # a wrong field shows now, not after the first training
        return self

    def recipe(self, arch: Arch) -> StreetRecipe:
        return StreetRecipe(arch=arch, **{**self.training, **self.networks.get(arch, {})})

    @property
    def names(self) -> list[str]:
        """All networks, the shadow first."""
        return [f"shadow-{self.shadow}", *(f"victim-{arch}" for arch in self.victims)]


def load(path: Path) -> Setting:
    """A setting from its file; FileNotFoundError, or ValueError naming what is wrong in it."""
    if not path.is_file():
        known = sorted(str(p) for p in path.parent.glob("*.yml"))
        raise FileNotFoundError(f"no setting at {path}; there are: {', '.join(known) or 'none'}")
    try:
        return Setting(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(f"{path} is not a setting: {error}") from error
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors()]
        raise ValueError(f"{path}: {'; '.join(wrong)}") from error


@dataclass(frozen=True)
class Run:
    """A setting with its data sets' folders (`roots`), the published lists' folder or None, and
    the folder for all that is made."""

    setting: Setting
    roots: Mapping[str, Path]
    folder: Path
    lists: Path | None = None

    @cached_property
    def sources(self) -> dict[str, Scenes]:
        """The data sets of this setting, not read yet."""
        needed = dict.fromkeys(["cityscapes", self.setting.shadow_data])
        missing = [name for name in needed if name not in self.roots]
        if missing:
            raise ValueError(f"no folder given for {missing[0]}: add --root {missing[0]}=DIR")
        sizes = self.setting.sizes
        return {n: SOURCES[n](self.roots[n], size=sizes.get(n)) for n in needed}

    @cached_property
    def split(self) -> Split:
        """Who trains on what: the published lists, or lists by seed, kept in ``splits/``."""
        of, kept = self.setting, self.folder / "splits"
        where = of.setting, of.shadow_data
        if self.lists is None:
            self._draw(kept, where)
        return lists.load(*where, self.sources, self.lists or kept, counts=of.counts)

    def _draw(self, kept: Path, where: tuple[str, str]) -> None:
        """Draw the lists by seed, unless they are there; ValueError if drawn in another way."""
        of, told = self.setting, kept / "drawn.json"
        how = json.loads(json.dumps({"seed": of.seed, "counts": of.counts}))
        if not told.is_file():
            made = lists.generate(*where, self.sources, seed=of.seed, counts=of.counts)
            lists.save(made, kept, *where, self.roots)
            write_whole(told, json.dumps(how) + "\n")
        elif (found := json.loads(told.read_text(encoding="utf-8"))) != how:
            raise ValueError(
                f"the lists in {kept} were drawn with {found}, the setting has {how}: take another "
                "folder (--out), or delete this one with all that was trained on it"
            )

    def scenes(self, name: str) -> tuple[Scenes, Scenes]:
        """Members and non-members of a network."""
        side = name.split("-")[0]
        return tuple(getattr(self.split, f"{side}_{kind}") for kind in ("members", "nonmembers"))

    @property
    def plan(self) -> Plan:
        return Plan(weights=self.folder / "weights", attack=self.setting.attack)

    def trained(self, name: str) -> tuple[Path, str]:
        """File and SHA-256 of a trained network.

        FileNotFoundError if it is not trained yet; ValueError if it was trained on other members
        than these, or as the setting does not say.
        """
        path = shelf.shipped(self.plan.weights, name)
        if path is None:
            raise FileNotFoundError(
                f"{name} is not trained yet, there is no file in {self.plan.weights}: run the step "
                "train first"
            )
        entry = shelf.manifest(self.plan.weights)[name]
        if entry["members"] != _ids(self.scenes(name)[0]):
            raise ValueError(
                f"{path} was trained on other members than these lists name; its scores would "
                "mean nothing. Use its lists, or another folder (--out)"
            )
        _check_made(path, entry["training"], self.training(name))
        return path, entry["sha256"]

    def training(self, name: str) -> dict:
        """How a network is trained, as its entry in the manifest says it."""
        recipe = self.setting.recipe(name.split("-")[1])
        seed = self.setting.seed + self.setting.names.index(name)
        kept = recipe.model_dump(mode="json", exclude={"workers", "encoder_weights"})
        kept |= {"pretrained": recipe.encoder_weights is not None, "seed": seed}
        return kept | {"images": list(self.scenes(name)[0].shape)}


def _check_made(path: Path, found: dict, expected: dict) -> None:
    """ValueError for a file that was made in another way than the setting says."""
    other = [k for k in expected | found if found.get(k) != expected.get(k)]
    if other:
        was, now = ({k: of.get(k) for k in other} for of in (found, expected))
        raise ValueError(
            f"{path} was made with {was}, the setting says {now}: take another folder (--out), or "
            "delete the file to make it again"
        )


def _ids(scenes: Scenes) -> str:
    """A digest of which images these are; unlike `Scenes.digest` it survives a copied folder."""
    return hashlib.sha256("\n".join(scenes.ids).encode()).hexdigest()


# -------------------------------------------------------------------------------------- train


def train_network(run: Run, name: str) -> None:
    """Train one network; in each process, where there are several. The first one stores it."""
    recipe = run.setting.recipe(name.split("-")[1])
    members, _ = run.scenes(name)
    first = is_first()
    model, history = street.train_street_victim(
        recipe,
        members,
        seed=run.training(name)["seed"],
        checkpoint=run.folder / "checkpoints" / f"{name}.pt",
        progress=name,
    )
    if first:
        meta = {"kind": "network", "members": _ids(members), "n_members": len(members)}
        meta |= {"training": run.training(name)}
        meta |= {"train_loss": [round(h["loss"], 4) for h in history]}
        path = run.plan.weights / f"{name}.safetensors"
        digest = street.save_street_victim(model, path, recipe, meta)
        shelf.write_manifest(run.plan.weights, {name: {"sha256": digest, **meta}})
        (run.folder / "checkpoints" / f"{name}.pt").unlink(missing_ok=True)


def train(run: Run, config: Path, *, only: str | None = None, processes: int | None = None) -> None:
    """Train the networks that are missing, each by `processes` processes (None: one a GPU).

    `config` is the file of the setting: torchrun's processes read it themselves.
    """
    processes = max(1, torch.cuda.device_count()) if processes is None else processes
    if only is not None and only not in run.setting.names:
        raise ValueError(f"no network {only!r} in this setting; {', '.join(run.setting.names)}")
    for name in [only] if only else run.setting.names:
        if shelf.shipped(run.plan.weights, name) is not None:
            run.trained(name)
            print(f"{name}: trained already")
            continue
        recipe, (members, _) = run.setting.recipe(name.split("-")[1]), run.scenes(name)
        steps = recipe.epochs * (len(members) // recipe.batch)
        print(
            f"{name}: {recipe.encoder}, {len(members)} members, {recipe.epochs} epochs, {steps} "
            f"steps of {recipe.batch} crops of {recipe.crop[0]}x{recipe.crop[1]}, {processes} "
            "process(es); the bar says how long",
            flush=True,
        )
        if processes == 1:
            train_network(run, name)
            continue
        roots = [f"{data}={Path(root).resolve()}" for data, root in run.roots.items()]
        told = {"config": str(config.resolve()), "roots": roots, "network": name}
        told |= {"lists": run.lists and str(run.lists.resolve()), "out": str(run.folder.resolve())}
        code = run_processes(processes, "segleak_utils.studies.paper", [json.dumps(told)])
        if code:
            raise ValueError(f"training {name} failed (exit code {code}); its reason is above")


# --------------------------------------------------------------------------------- posteriors


def posteriors(run: Run, *, workers: int = 0, progress: bool = True) -> None:
    """A store of posteriors for each network, on its members and non-members."""
    for name in run.setting.names:
        path, digest = run.trained(name)
        model, _ = victims.load_victim(path, digest)
        members, nonmembers = run.scenes(name)
        device = victims.best_device()
        model = victims.padded(model.to(device))

        def query(images: torch.Tensor, model=model, device=device) -> torch.Tensor:
            return victims.posteriors_at(model, images.to(device), stride=store.STRIDE)

        store.write(
            run.folder / "stores" / name,
            members + nonmembers,
            query,
            name=name,
            identity=digest,
            n_classes=members.n_classes,
            workers=workers,
            progress=progress,
        )


def shown(run: Run, name: str) -> Outputs:
    """What a network gave away, from its store; the posteriors stay on disk."""
    members, nonmembers = run.scenes(name)
    _, digest = run.trained(name)
    kept = Store.open(run.folder / "stores" / name)
    if kept.identity != store.identity_of(digest, members + nonmembers):
        raise ValueError(
            f"{kept.folder} holds the answers of another network, or on other images than these "
            "lists name: delete it and run the step posteriors again"
        )
    member = np.arange(kept.n) < len(members)
    return Outputs(kept.losses(), kept.masks(), member, kept.n_classes, kept.posteriors())


def mean_iou(of: Outputs, chosen: np.ndarray) -> float:
    """Mean IoU on the store's grid, of the images `chosen` (bool [N])."""
    some = of.subset(chosen)
    confusion = torch.zeros(of.n_classes, of.n_classes, dtype=torch.int64)
    for i in range(0, len(some), 32):
        predicted = some.posteriors[i : i + 32].float().argmax(1)
        masks = some.masks[i : i + 32].long()
        confusion += victims.confusion_matrix(predicted, masks, of.n_classes)
    return victims.iou_of(confusion).nanmean().item()


# ------------------------------------------------------------------------------------- attack


def attacker(run: Run, representation: Representation, learned: Outputs) -> tuple:
    """The patch attacker on a representation, trained on the shadow's store; its threshold."""
    plan, shadow = run.plan, run.setting.names[0]
    name = f"attack-{patchattacks.slug(representation)}"
    shadows = {shadow: shelf.manifest(plan.weights)[shadow]["sha256"]}
    recipe = replace(run.setting.attack, representation=representation)
    made = {**vars(recipe), "seed": run.setting.seed}
    n_channels = patchnets.channels(representation, learned.n_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.setting.seed)
        net = patchnets.deep_stem_resnet50(n_channels)
    if shelf.shipped(plan.weights, name) is None:
        checkpoint = run.folder / "checkpoints" / f"{name}-{shadows[shadow][:8]}.pt"
        net, history, (scores, member) = attacks.train_attacker(
            recipe, [learned], seed=run.setting.seed, net=net, checkpoint=checkpoint, progress=name
        )
        meta = {"kind": "attacker", "shadows": shadows, "recipe": made}
        meta |= {"threshold": metrics.best_threshold(scores, member), "history": history}
        shelf.ship(plan.weights, name, net, meta)
        checkpoint.unlink(missing_ok=True)
    patchattacks.check_shadows(plan, name, shadows)
    entry, path = shelf.manifest(plan.weights)[name], shelf.shipped(plan.weights, name)
    _check_made(path, entry["recipe"], made)
    state, _ = victims.read_weights(path, entry["sha256"])
    net.load_state_dict(state)
    return net.eval().to(victims.best_device()), entry["threshold"]


def contest_all(run: Run) -> list[Contest]:
    """The bars and both patch attacks, by random patches and by all windows, on every victim.

    All learning is from the shadow's store.
    """
    learned = shown(run, run.setting.names[0])
    mixed = victims.has_bf16(victims.best_device())
    trained = {r: attacker(run, r, learned) for r in REPRESENTATIONS}
    looks = []
    for side in ("victim", "shadow"):  # all victims have the same images
        scenes = run.scenes(side)
        looks.append(np.concatenate([attacks.blind_features(part) for part in scenes]))
    out = []
    for name in run.setting.names[1:]:
        of = shown(run, name)
        cheap = contests.bars_of(name, run.setting.setting, of, [learned], looks)
        found = list(cheap.attacks)
        for r, (net, threshold) in trained.items():
            patches = attacks.score_outputs(
                net,
                of,
                r,
                n_patches=run.setting.n_patches,
                patch=run.setting.attack.patch,
                seed=run.setting.seed,
                mixed=mixed,
                progress=f"{name}, {r}",
            )
            scores = patches.mean(1, dtype=np.float64)
            found.append(Attack(contests.patch_attack(r), r, scores, threshold, patches))
            every = _every_window(net, of, r, run.setting.attack.patch, mixed)
            found.append(Attack(f"all windows, {r}", r, every, threshold))
        out.append(replace(cheap, attacks=tuple(found)))
    return out


def _every_window(net, of: Outputs, r: Representation, patch: int, mixed: bool) -> np.ndarray:
    """The mean score of all windows of each image, float64 [N]: what more and more patches near."""
    parts = [
        attacks.dense_scores(net, of.maps(r, slice(i, i + 16)), patch, mixed=mixed).flatten(1)
        for i in range(0, len(of), 16)
    ]
    return torch.cat(parts).double().mean(1).numpy()


def attack(run: Run) -> list[results.ResultRow]:
    """Train the attackers, attack every victim, write and print the table; its rows."""
    rows = []
    for contest in contest_all(run):
        rows += standard.rows(contest, f"paper, {run.folder.name}")
    lines = ["| network | mean IoU, members | mean IoU, non-members |", "|---|---|---|"]
    for name in run.setting.names:
        of = shown(run, name)
        both = (mean_iou(of, kind) for kind in (of.member, ~of.member))
        lines.append(f"| {name} | {' | '.join(f'{m:.3f}' for m in both)} |")
    text = "\n".join([results.table(rows), "", *lines, ""])
    write_whole(run.folder / "table.md", text)
    results.record(rows)
    print(text)
    return rows


# ------------------------------------------------------------------------------- command line


def run_of(config: Path, roots: list[str], lists: Path | None, out: Path | None) -> Run:
    """The run that a command line asks for; `roots` are texts ``NAME=DIR``."""
    folders = {}
    for text in roots:
        name, equals, folder = text.partition("=")
        if name not in SOURCES or not equals:
            raise ValueError(f"--root {text}: expected NAME=DIR, NAME one of {', '.join(SOURCES)}")
        folders[name] = Path(folder)
    folder = out or results.build_folder() / "paper" / config.stem
    return Run(load(config), folders, folder, lists)


def _worker() -> None:
    """What torchrun starts in each process: the run as JSON, and the network to train."""
    told = json.loads(sys.argv[1])
    paths = {key: told[key] and Path(told[key]) for key in ("config", "lists", "out")}
    with joined():
        train_network(run_of(roots=told["roots"], **paths), told["network"])


if __name__ == "__main__":
    _worker()
