"""Every cached step knows all that its numbers depend on: change a part, and it looks elsewhere.

A step is called with small stand-ins, and stopped where it looks for its entry.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file
from toy_victims import SMALL, scenes_of

from segleak_utils.attacks import AttackRecipe
from segleak_utils.attacks.peers import ImageRecipe
from segleak_utils.defenses import Release
from segleak_utils.studies import (
    Plan,
    asking,
    beyond,
    cache,
    epsilon,
    experiment,
    exposure,
    faults,
    frontier,
    growth,
    labelling,
    literature,
    offers,
    protected,
    risk,
    standard,
    tightness,
)
from segleak_utils.studies.networks import Network
from segleak_utils.victims import Recipe, accountant, build_victim
from segleak_utils.victims.dpsgd import DPRecipe
from segleak_utils.whole import checksum

STUDIES = Path(cache.__file__).parent


class Asked(Exception):
    """The step has looked for its entry."""


def scenes(digest: str) -> SimpleNamespace:
    return SimpleNamespace(digest=digest, n_classes=19)


def network(sha256="a", members="m", nonmembers="n") -> SimpleNamespace:
    return SimpleNamespace(
        name="victim-0",
        model=None,
        sha256=sha256,
        fingerprint=sha256,
        members=scenes(members),
        nonmembers=scenes(nonmembers),
        identity={"network": sha256, "members": members, "nonmembers": nonmembers},
    )


def plan_of(**parts: object) -> Plan:
    return replace(Plan(progress=False), **parts)


class Patched:
    """What a step is given: it may put stand-ins into the modules for the time of the call."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.folder = patch, folder

    def put(self, target: str, value: object) -> None:
        self.patch.setattr(f"segleak_utils.studies.{target}", value)


# ---- the steps: what is called, and each of its inputs with another value of it ------------------

WHO = {"network": ("a", "b"), "members": ("m", "o"), "nonmembers": ("n", "o")}
PATCHES = {"n_patches": (6, 7), "patch": (90, 80), "seed": (0, 1)}


def loss_maps(_, network_, scenes_):
    asking._loss_maps(Plan(), network(network_), scenes(scenes_))


def zones(_, network_, scenes_):
    asking._told_of(Plan(), network(network_), scenes(scenes_))


def gradients(_, network_, scenes_):
    of = SimpleNamespace(members=scenes(scenes_), nonmembers=scenes("n"))
    asking._gradients(Plan(progress=False), network(network_), of)


def blended(given, network_, members, nonmembers, shadow, second, trees, seeds):
    given.put("beyond.ensembles.TREES", trees)
    given.put("beyond.ensembles.SEEDS", seeds)
    shadows = [network(shadow), network("s", members=second)]
    beyond.blended(Plan(), network(network_, members, nonmembers), shadows)


def blind(_, members, nonmembers):
    asking.blind_features(Plan(), scenes(members), scenes(nonmembers))


def mislabelled(_, scenes_):
    labelling._mislabelled_in(Plan(), scenes(scenes_))


def miou(given, answers):
    read = SimpleNamespace(digest=lambda kind: answers, members=None, nonmembers=None)
    given.put("experiment.examples.read", lambda root: read)
    given.put("experiment.victims.recorded", lambda of, kind: None)
    experiment.recorded(Plan(), "sgd")


def answers(_, network_, members, nonmembers):
    literature._answers(Plan(), network(network_, members, nonmembers))


def survey(_, network_, members, nonmembers):
    asking.survey(Plan(), network(network_, members, nonmembers))


def whole_image_learned(_, network_, members, nonmembers, second, recipe, seed):
    shadows = [network(network_, members, nonmembers), network(second)]
    literature._whole_image(Plan(), network("v"), shadows, recipe, seed)


def whole_image(_, network_, members, nonmembers, shadow, recipe, seed):
    victim = network(network_, members, nonmembers)
    literature._whole_image(Plan(), victim, [network(shadow)], recipe, seed)


def predictability(given, scenes_, features):
    given.put("protected.public", lambda plan: network(features))
    literature.predictability(Plan(), scenes(scenes_))


def published(given, network_, members, nonmembers, attacker, dilated, n_patches, seed):
    path = given.folder / "loss.pth.tar"
    path.write_text(attacker)
    given.put("published.public_attackers", lambda folder: {"loss map": path})
    victim = network(network_, members, nonmembers)
    standard.published_attacks(plan_of(dilated=dilated), victim, n_patches, seed)


def patches(_, network_, members, nonmembers, attacker, n_patches, patch, seed):
    plan = plan_of(attack=AttackRecipe(patch=patch))
    trained = {"loss map": (None, {"sha256": attacker}), "concatenation": (None, {"sha256": "c"})}
    victim = network(network_, members, nonmembers)
    standard._patch_scores(plan, victim, [trained], n_patches, seed)


def calibrated_patches(
    given, network_, members, nonmembers, attacker, reference, n_patches, patch, seed
):
    given.put("shelf.shipped", lambda folder, name: Path("there"))
    given.put("patchattacks.load_attacker", lambda *_: (None, {"sha256": attacker}))
    plan = plan_of(attack=AttackRecipe(patch=patch))
    victim = network(network_, members, nonmembers)
    how = {"n_patches": n_patches, "seed": seed}
    beyond.calibrated_patches(plan, "dependent", victim, [network(reference)], **how)


def service(
    _,
    network_,
    members,
    nonmembers,
    release,
    passes,
    naive,
    adaptive,
    n_patches,
    patch,
    seed,
    priced,
):
    plan = plan_of(attack=AttackRecipe(patch=patch))
    offered = offers.Service("s", "family", release=release, passes=passes)
    both = [SimpleNamespace(hashes={"loss map": sha256}) for sha256 in (naive, adaptive)]
    victim = network(network_, members, nonmembers)
    key = frontier._key(SimpleNamespace(plan=plan), victim, offered, both, n_patches, seed, priced)
    frontier.cached(plan.build, "service", key, dict)


def canaries(given, public, canaries_, seed, recipe, private):
    drawn = SimpleNamespace(digest=canaries_, subset=lambda at: scenes("members"))
    given.put("epsilon.draw", lambda *_, **__: drawn)
    given.put("protected.public", lambda plan: network(public))
    given.patch.setitem(
        protected.TRAININGS, "tuned-12", protected.Training({}, private, tuned=True)
    )
    epsilon.canary_run(plan_of(recipe=recipe), "tuned-12", n=64, seed=seed)


def gradient_canaries(given, public, scenes_, recipe, private, run, n):
    given.put("protected.public", lambda plan: network(public))
    given.put("protected.public_scenes", lambda plan: (scenes(scenes_), scenes("held out")))
    given.patch.setitem(
        protected.TRAININGS, "tuned-12", protected.Training({}, private, tuned=True)
    )
    step = SimpleNamespace(privacy=accountant.promise(12, 1.0, 1.0, 16, 1e-4))
    given.put("copied.copy_of", lambda *_, **__: step)
    tightness.watched(plan_of(recipe=recipe), run, n)


def image_moves(given, public, scenes_, recipe, clip_norm):
    some = SimpleNamespace(subset=lambda at: scenes(scenes_))
    given.put("protected.public", lambda plan: network(public))
    given.put("protected.public_scenes", lambda plan: (None, some))
    faults.image_moves(plan_of(recipe=recipe), clip_norm)


def online_scores(_, answers, n_networks, victims):
    inside = risk.inside(10, 4)
    shares = np.full((4, 6), 1 / 6, np.float32)
    losses = np.full((10, 2, 4, 6), answers, np.float32)
    halves = risk.Halves(inside, losses, shares, np.ones((10, 2)), tuple("abcd"))
    exposure.online_scores(Plan(), halves, n_networks, victims)


def growth_cell(_, members, nonmembers, shadow, axis, recipe, n_members):
    cell = growth.Cell(axis=axis, value="1", n_members=n_members, recipe=recipe)
    shadows = [network(shadow), network("second")]
    raise Asked(growth.key_of(cell, scenes(members), scenes(nonmembers), shadows))


RECIPES = {"recipe": (Recipe(), Recipe(epochs=1))}
IMAGE_RECIPES = {"recipe": (ImageRecipe(), ImageRecipe(pool=4))}
PRIVATE = DPRecipe(noise_multiplier=12, batch=16, epochs=1, lr=1e-3)
RUN = tightness.Run("tuned-12", 12.0, 1.0, 0)
STEPS: dict[str, tuple[Callable, dict[str, tuple]]] = {
    "loss maps": (loss_maps, {"network_": ("a", "b"), "scenes_": ("m", "o")}),
    "zones": (zones, {"network_": ("a", "b"), "scenes_": ("m", "o")}),
    "gradients": (gradients, {"network_": ("a", "b"), "scenes_": ("m", "o")}),
    "blended": (
        blended,
        {
            "shadow": ("c", "d"),
            "second": ("e", "f"),
            "trees": ({"max_iter": 1}, {"max_iter": 2}),
            "seeds": ((0, 1), (0, 2)),
        },
    ),
    "online scores": (
        online_scores,
        {"answers": (0.5, 0.6), "n_networks": (6, 8), "victims": ([0, 1], [0, 2])},
    ),
    "blind": (blind, {"members": ("m", "o"), "nonmembers": ("n", "o")}),
    "mislabelled": (mislabelled, {"scenes_": ("m", "o")}),
    "miou": (miou, {"answers": ("a", "b")}),
    "answers": (answers, {}),
    "survey": (survey, {}),
    "whole image, learned": (
        whole_image_learned,
        {"second": ("c", "d"), **IMAGE_RECIPES, "seed": (0, 1)},
    ),
    "whole image": (whole_image, {"shadow": ("c", "d"), **IMAGE_RECIPES, "seed": (0, 1)}),
    "predictability": (predictability, {"scenes_": ("m", "o"), "features": ("f", "g")}),
    "published": (
        published,
        {"attacker": ("x", "y"), "dilated": (False, True), "n_patches": (6, 7), "seed": (0, 1)},
    ),
    "patches": (patches, {"attacker": ("x", "y"), **PATCHES}),
    "calibrated patches": (
        calibrated_patches,
        {"attacker": ("x", "y"), "reference": ("r", "s"), **PATCHES},
    ),
    "service": (
        service,
        {
            "release": (Release("top-k", 2), Release("top-k", 3)),
            "passes": (0, 4),
            "naive": ("x", "y"),
            "adaptive": ("x", "y"),
            **PATCHES,
            "priced": (200, 100),
        },
    ),
    "canaries": (
        canaries,
        {
            "public": ("p", "q"),
            "canaries_": ("c", "d"),
            "seed": (0, 1),
            **RECIPES,
            "private": (PRIVATE, PRIVATE.model_copy(update={"lr": 2e-3})),
        },
    ),
    "gradient canaries": (
        gradient_canaries,
        {
            "public": ("p", "q"),
            "scenes_": ("c", "d"),
            **RECIPES,
            "private": (PRIVATE, PRIVATE.model_copy(update={"lr": 2e-3})),
            "run": (RUN, replace(RUN, added=0.75)),
            "n": (100, 200),
        },
    ),
    "image moves": (
        image_moves,
        {"public": ("p", "q"), "scenes_": ("c", "d"), **RECIPES, "clip_norm": (1.0, 2.0)},
    ),
    "growth": (
        growth_cell,
        {
            "members": ("m", "o"),
            "nonmembers": ("n", "o"),
            "shadow": ("s", "t"),
            "axis": ("epochs", "members"),
            **RECIPES,
            "n_members": (10, 20),
        },
    ),
}
ASKED_ABOUT = {"answers", "survey", "whole image, learned", "whole image", "published", "patches"}
for _name in (*ASKED_ABOUT, "calibrated patches", "service", "blended"):
    STEPS[_name][1].update({("network_" if k == "network" else k): v for k, v in WHO.items()})


@pytest.fixture
def entry_of(monkeypatch, tmp_path):
    """The entry that a step looks for when it is called with these inputs."""

    def look(name: str, inputs: dict[str, object]) -> str:
        with monkeypatch.context() as patch:

            def stop(build, step, key, compute):
                if step == name:
                    raise Asked(cache.entry(build, step, key).name)
                return {f"{kind} {what}": np.zeros(4) for kind in KINDS for what in WHAT}

            for module in (
                *(
                    asking,
                    beyond,
                    epsilon,
                    experiment,
                    exposure,
                    faults,
                    frontier,
                    labelling,
                    literature,
                    standard,
                ),
                tightness,
            ):
                if hasattr(module, "cached"):
                    patch.setattr(module, "cached", stop)
            with pytest.raises(Asked) as asked:
                STEPS[name][0](Patched(patch, tmp_path), **inputs)
            return str(asked.value)

    return look


KINDS, WHAT = ("whole image, Type-I", "whole image, Type-II"), ("aside", "member")
CASES = [(name, part) for name, (_, inputs) in STEPS.items() for part in inputs]


@pytest.mark.parametrize(("name", "part"), CASES, ids=lambda of: of)
def test_another_input_means_another_entry(name, part, entry_of):
    usual = {key: values[0] for key, values in STEPS[name][1].items()}
    changed = usual | {part: STEPS[name][1][part][1]}
    assert entry_of(name, usual) == entry_of(name, dict(usual))
    assert entry_of(name, changed) != entry_of(name, usual)


def test_every_cached_step_is_tested():
    """A step that is added to a study belongs into STEPS, too."""
    found = set()
    for path in STUDIES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "cached":
                found.add(ast.literal_eval(node.args[1]))
    assert found == STEPS.keys() - {"growth"}


def test_step_version_and_every_name_are_part_of_an_entry(tmp_path, monkeypatch):
    key = {"a": 1, "b": "x"}
    usual = cache.entry(tmp_path, "step", key)
    assert cache.entry(tmp_path, "step", dict(reversed(key.items()))) == usual
    others = [
        cache.entry(tmp_path, "other", key),
        cache.entry(tmp_path, "step", {"a": 1}),
        cache.entry(tmp_path, "step", {"a": "x", "b": 1}),
        cache.entry(tmp_path, "step", {"a": 1, "c": "x"}),
    ]
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    others.append(cache.entry(tmp_path, "step", key))
    assert len({usual, *others}) == 6


def test_what_was_computed_is_read_again_and_only_then(tmp_path):
    made = []

    def compute():
        made.append(1)
        return {"values": np.arange(3.0) + len(made)}

    for key in ({"seed": 0}, {"seed": 0}, {"seed": 1}, {"seed": 0}):
        found = cache.cached(tmp_path, "step", key, compute)["values"]
        assert found.tolist() == ([1, 2, 3] if key["seed"] == 0 else [2, 3, 4])
    assert len(made) == 2


def spoil(path: Path) -> None:
    """Turn one bit of the last array over."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["bit", "torn", "empty", "another key's", "older"])
def test_a_spoilt_entry_is_removed_and_computed_again(tmp_path, damage):
    key = {"seed": 0}
    cache.keep(tmp_path, "step", key, {"a": np.arange(3.0), "b": np.ones((2, 0), np.float32)})
    cache.keep(tmp_path, "step", {"seed": 1}, {"a": np.arange(3.0) + 1})
    path, other = (cache.entry(tmp_path, "step", {"seed": k}) for k in (0, 1))
    assert cache.kept(tmp_path, "step", key)["a"].tolist() == [0, 1, 2]
    if damage == "bit":
        spoil(path)
    elif damage == "another key's":
        other.replace(path)
    elif damage == "older":  # written before entries had checksums
        save_file({"a": np.arange(3.0)}, path)
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "torn" else b"")
    assert cache.kept(tmp_path, "step", key) is None
    assert not path.exists()
    found = cache.cached(tmp_path, "step", key, lambda: {"a": np.zeros(1)})
    assert found["a"].tolist() == [0] and path.exists()


def test_the_checksums_cost_little():
    """At most 60 ms of an entry of 236 MB here; the bound is for a machine ten times as slow."""
    array = np.zeros(50_000_000, np.uint8)
    began = time.perf_counter()
    checksum({"a": array})
    assert time.perf_counter() - began < 0.5


def test_a_network_is_known_by_its_weights_whatever_it_is_called(tmp_path, monkeypatch):
    """Two models under one string for a SHA-256 once got each other's loss maps."""
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path))
    members, nonmembers = scenes_of(2), scenes_of(2, 1)
    one, two = (build_victim(SMALL, seed=seed).eval() for seed in (1, 2))
    nets = [Network("x", net, {}, "", members, nonmembers) for net in (one, two)]
    first, second = (asking.loss_outputs(plan_of(), net).loss_maps for net in nets)
    assert not first.equal(second)
    again = Network("y", one, {}, "other", members, nonmembers)
    assert again.identity == nets[0].identity != nets[1].identity
