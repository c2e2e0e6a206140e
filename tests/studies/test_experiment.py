"""The whole chain in miniature, what is shipped, and what is done about damaged files."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from segleak_utils import synthstreets, victims
from segleak_utils.attacks import AttackRecipe
from segleak_utils.attacks.contests import BLIND, GLOBAL, LOGISTIC, Contest, patch_attack
from segleak_utils.attacks.patchnets import REPRESENTATIONS, PatchNet
from segleak_utils.running import results
from segleak_utils.studies import (
    Plan,
    Sizes,
    camvid,
    experiment,
    offers,
    protected,
    standard,
    weights,
)
from segleak_utils.studies.experiment import network
from segleak_utils.studies.networks import check_apart
from segleak_utils.studies.patchattacks import attacker, slug
from segleak_utils.studies.plan import WEIGHTS
from segleak_utils.studies.shelf import manifest, shipped
from segleak_utils.studies.standard import default_contest, rows
from segleak_utils.studies.weights import train_weights
from segleak_utils.victims import Recipe
from segleak_utils.victims.accountant import epsilon
from segleak_utils.victims.dpsgd import DPRecipe
from segleak_utils.whole import sha256

SHIPPED = WEIGHTS
SHADOW = "shadow-dependent-0"
# No augmentation and few members: a victim that learns its members by heart in seconds.
BY_HEART = {"flip": False, "crop_area": 1, "colour": 0, "check_every": 100}


@dataclass(frozen=True)
class Mini:
    """A miniature of the default experiment, trained from nothing, and its result."""

    plan: Plan
    contest: Contest


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    small = partial(synthstreets.draw, height=64, width=128)
    plan = Plan(
        sizes=Sizes(n_members=40, n_nonmembers=120, n_shadow_nonmembers=40, n_held_out=8),
        recipe=Recipe(decoder_channels=16, epochs=25, **BY_HEART),
        attack=AttackRecipe(patch=48, epochs=20, batch=16, width=16),
        shadow_seeds=(0,),
        further=(),
        weights=root / "weights",
        data_root=root / "data",
        progress=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLEAK_BUILD", str(root / "build"))
        patch.setattr("segleak_utils.synthstreets.source.draw", small)
        yield Mini(plan, default_contest(plan, "dependent"))


@pytest.fixture
def copied(mini, tmp_path) -> Plan:
    """The miniature's plan with weights of its own, to be spoilt."""
    shutil.copytree(mini.plan.weights, tmp_path / "weights")
    return replace(mini.plan, weights=tmp_path / "weights")


@pytest.fixture
def no_training(mini, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something is trained again")

    monkeypatch.setattr("segleak_utils.victims.train_victim", refuse)
    monkeypatch.setattr("segleak_utils.attacks.train_attacker", refuse)


def cache_of(plan: Plan) -> list[Path]:
    return sorted((plan.build / "cache").iterdir())


# ---- the chain -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_miniature_finds_the_leak(mini):
    table = {row.attack: row for row in rows(mini.contest, "mini")}
    learned = [patch_attack(r) for r in REPRESENTATIONS]
    assert list(table) == [BLIND, GLOBAL, LOGISTIC, *learned]
    for row in table.values():
        assert (row.victim, row.setting) == ("victim-0", "dependent")
        assert (row.n_members, row.n_nonmembers) == (40, 120)
        assert row.tpr_low <= row.tpr_at_1pct <= row.tpr_high
        assert "balanced accuracy at the shadows' threshold" in row.note
    assert table[BLIND].auc_low < 0.5 < table[BLIND].auc_high
    assert table[GLOBAL].auc_low > 0.5
    assert table[patch_attack("loss map + label")].auc_low > 0.5
    assert table[patch_attack("concatenation")].auc_low > 0.5


@pytest.mark.slow
def test_a_victim_is_better_on_its_members_and_says_how_it_was_made(mini):
    entry = manifest(mini.plan.weights)["victim-0"]
    found = entry["metrics"]
    assert found["member_miou"] > found["nonmember_miou"] > 0
    assert len(found["train_loss"]) == 25 and found["train_loss"][-1] < found["train_loss"][0]
    assert Recipe(**entry["recipe"]) == mini.plan.recipe
    assert not list((mini.plan.build / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_contest_is_asked_by_name(mini):
    chosen = mini.contest[patch_attack("loss map")]
    assert chosen.patch_scores.shape == (160, 6)
    np.testing.assert_allclose(chosen.scores, chosen.patch_scores.mean(1), rtol=1e-5)
    assert mini.contest.member.sum() == 40 and mini.contest.member[:40].all()
    with pytest.raises(KeyError, match="no attack 'patches' in this contest; there are: blind"):
        mini.contest["patches"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_table_with_and_without_the_cache(mini, no_training):
    expected = rows(mini.contest, "mini")
    assert rows(default_contest(mini.plan, "dependent"), "mini") == expected
    shutil.rmtree(mini.plan.build / "cache")
    again = default_contest(mini.plan, "dependent")
    assert rows(again, "mini") == expected
    for a, b in zip(again.attacks, mini.contest.attacks, strict=True):
        assert np.array_equal(a.scores, b.scores)
    other = default_contest(mini.plan, "dependent", seed=1)
    one, two = (c[patch_attack("loss map")].scores for c in (again, other))
    assert not np.array_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_a_torn_cache_entry_is_computed_again(mini, no_training, damage):
    expected = rows(mini.contest, "mini")
    shutil.rmtree(mini.plan.build / "cache")  # another test keeps a second seed in it
    default_contest(mini.plan, "dependent")
    for path in cache_of(mini.plan):
        content = path.read_bytes()
        torn = {"empty": b"", "half": content[: len(content) // 2], "text": b"nothing"}
        path.write_bytes(torn[damage])
    assert rows(default_contest(mini.plan, "dependent"), "mini") == expected
    assert all(path.stat().st_size > 100 for path in cache_of(mini.plan))


@pytest.mark.slow
def test_an_attacker_or_a_network_of_another_recipe_is_refused(mini, no_training):
    other = replace(mini.plan, attack=replace(mini.plan.attack, patch=32))
    with pytest.raises(ValueError, match=r"attack-dependent-loss-map .* another recipe"):
        default_contest(other, "dependent")
    other = replace(mini.plan, recipe=Recipe(epochs=3))
    with pytest.raises(ValueError, match=r"victim-0 .* another recipe"):
        network(other, "victim-0")


@pytest.mark.slow
def test_a_second_training_trains_only_what_is_missing(copied, no_training, monkeypatch, capsys):
    asked = []
    for module in (experiment, weights):
        monkeypatch.setattr(module, "SETTINGS", ("dependent", "dependent"))
    monkeypatch.setattr("segleak_utils.studies.experiment.VICTIM_SEEDS", (0,))
    monkeypatch.setattr(
        "segleak_utils.studies.weights._side_by_side", lambda _, __, what: asked.extend(what)
    )
    # test_frontier.py has these
    monkeypatch.setattr("segleak_utils.studies.protected.names", lambda _: [])
    monkeypatch.setattr("segleak_utils.studies.offers.services", lambda: ())
    train_weights(plan=copied)
    assert asked == [] and "complete after" in capsys.readouterr().out
    (copied.weights / "victim-0.safetensors").unlink()
    (copied.weights / f"attack-dependent-{slug('loss map')}.safetensors").unlink()
    train_weights(plan=copied)
    assert asked[0] == "victim-0" and set(asked[1:]) == {("dependent", "loss map")}


# ---- what is damaged or does not belong together -------------------------------------------------


@pytest.mark.slow
def test_a_corrupt_weight_file_is_named(copied, no_training):
    path = copied.weights / "victim-0.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"victim-0\.safetensors is not the file the manifest nam"):
        network(copied, "victim-0")
    path = copied.weights / f"attack-dependent-{slug('loss map')}.safetensors"
    path.write_bytes(b"")
    shadows = [network(copied, SHADOW)]
    with pytest.raises(ValueError, match=r"loss-map\.safetensors is not the file the manifest nam"):
        attacker(copied, "dependent", "loss map", shadows)


@pytest.mark.slow
def test_a_weight_file_without_its_line_in_the_manifest_is_refused(copied, no_training):
    path = copied.weights / "manifest.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    del entries["victim-0"]
    path.write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(ValueError, match=r"victim-0\.safetensors is not in the manifest; delete"):
        network(copied, "victim-0")
    assert shipped(copied.weights, "victim-7") is None


@pytest.mark.parametrize(
    "text", ["", '{"victim-0": ', "[1]", '{"victim-0": {}}', '{"a": {"sha256":1}}']
)
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged .*restore it from git"):
        manifest(tmp_path)


def test_no_manifest_means_nothing_is_shipped(tmp_path):
    assert manifest(tmp_path) == {} and shipped(tmp_path, "victim-0") is None


@pytest.mark.slow
def test_weights_of_other_members_are_refused(copied, no_training):
    fewer = replace(copied, sizes=replace(copied.sizes, n_members=39))
    with pytest.raises(ValueError, match=r"victim-0 in .* was trained on other scenes"):
        network(fewer, "victim-0")


@pytest.mark.slow
def test_an_attacker_of_other_shadows_is_refused(copied, no_training):
    other = replace(network(copied, SHADOW), sha256="0" * 64)
    with pytest.raises(ValueError, match="attack-dependent-loss-map was trained on other shadows"):
        attacker(copied, "dependent", "loss map", [other])


@pytest.mark.slow
def test_victim_and_shadow_must_not_share_scenes(mini):
    victim, shadow = network(mini.plan, "victim-0"), network(mini.plan, SHADOW)
    check_apart(victim, shadow)
    both = replace(shadow, members=shadow.members + victim.nonmembers.subset([3]))
    with pytest.raises(ValueError, match=r"victim_nonmembers and shadow_members share 1 ids"):
        standard.contest(mini.plan, "dependent", victim, [both])


@pytest.mark.slow
def test_unknown_names_are_named(mini):
    with pytest.raises(ValueError, match=r"unknown network 'victim-9'; known: shadow-dependent-0"):
        network(mini.plan, "victim-9")
    with pytest.raises(ValueError, match="setting 'other'; expected one of"):
        experiment.split(mini.plan, "other")
    with pytest.raises(ValueError, match="preset 'fast'; expected one of quick, full"):
        experiment.plan_of("fast")


@pytest.mark.slow
def test_a_contest_needs_a_shadow(mini):
    with pytest.raises(ValueError, match="shadow"):
        standard.contest(mini.plan, "dependent", network(mini.plan, "victim-0"), [])


# ---- what is shipped -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def entries() -> dict[str, dict]:
    if not (SHIPPED / "manifest.json").is_file():
        pytest.skip("no weights/manifest.json yet: python3 -m segleak_utils.run weights")
    return manifest(SHIPPED)


def test_what_is_shipped_is_whole_and_documented(entries):
    files = {path.stem for path in SHIPPED.glob("*.safetensors")}
    assert files <= set(entries)
    for name in files:
        path, entry = SHIPPED / f"{name}.safetensors", entries[name]
        assert sha256(path) == entry["sha256"], name
        _, meta = victims.read_weights(path, entry["sha256"])
        assert meta == {key: value for key, value in entry.items() if key != "sha256"}, name
        assert {"torch", "timm", "numpy", "segmentation-models-pytorch"} == set(entry["versions"])
        if entry["kind"] != "network":
            of = {entries[of]["sha256"] for of in entry["shadows"]}
            assert of == {*entry["shadows"].values()}, name
        if entry["kind"] == "regression":
            assert np.isfinite([*entry["thresholds"].values()]).all(), name
            continue
        private = (entry.get("private") or {}).get("noise_multiplier")
        # exact functions of private images are no part of what a private training publishes
        published = entry["metrics"].get("train_loss", "nothing")
        assert isinstance(entry["seed"], int) and published, name
        assert (published == "nothing") == bool(private), name
        assert ("member_miou" in entry["metrics"]) == (entry["kind"] == "network" and not private)
        made = Recipe if entry["kind"] == "network" else AttackRecipe
        assert made(**entry["recipe"])
        if entry["kind"] == "attacker":
            assert np.isfinite(entry["threshold"]), name
    size = sum(path.stat().st_size for path in SHIPPED.iterdir())
    assert size <= 40 * 2**20  # of 50 MiB in all: later experiments need some, too


def test_a_private_network_is_shipped_with_its_promise(entries):
    private = {name: entry for name, entry in entries.items() if entry.get("private")}
    assert private
    for name, entry in private.items():
        recipe, said = DPRecipe(**entry["private"]), entry["privacy"]
        if recipe.noise_multiplier == 0:
            assert said["epsilon"] is None, name
            continue
        again = epsilon(recipe.noise_multiplier, said["sampling_rate"], said["steps"], recipe.delta)
        assert said["epsilon"] == pytest.approx(again, rel=1e-6), name
        assert (said["delta"], said["clip_norm"]) == (recipe.delta, recipe.clip_norm)
        count = int(entry["members"].split(":")[0])
        assert said["delta"] < 1 / count and said["sampling_rate"] <= recipe.batch / count, name
        base = entries[protected.PUBLIC]["sha256"] if "tuned" in name else None
        assert entry["public"] == base, name


def test_every_network_and_attacker_is_shipped(entries):
    wanted = {f"attack-{s}-{slug(r)}" for s in experiment.SETTINGS for r in REPRESENTATIONS}
    files = {path.stem for path in SHIPPED.glob("*.safetensors")}
    missing = {*experiment.network_names(Plan()), *Plan().further, *wanted} - files
    if missing:
        pytest.skip(f"weights/ is not complete yet: {', '.join(sorted(missing))}")
    for name in (*experiment.network_names(Plan()), *Plan().further):
        assert Recipe(**entries[name]["recipe"]) == Plan().recipe


def test_every_defended_network_and_its_attackers_are_shipped(entries):
    scenario = offers.synthstreets(Plan())
    wanted = {*protected.names(Plan())}
    for service in offers.services():
        names = offers.attacker_names(scenario, service)
        wanted |= {names[key] for key in (*service.representations, LOGISTIC)}
    assert wanted <= {path.stem for path in SHIPPED.glob("*.safetensors")} & set(entries)


# ---- CamVid --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_camvid_goes_the_same_way(camvid_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr("segleak_utils.studies.camvid.SIZE", (64, 96))
    plan = Plan(
        recipe=Recipe(n_classes=11, decoder_channels=8, epochs=1, **BY_HEART),
        attack=AttackRecipe(patch=48, epochs=1, batch=16, width=4),
        weights=tmp_path / "weights",
        progress=False,
    )
    table = camvid.camvid_experiment(camvid_root, "quick", plan)
    names = [BLIND, GLOBAL, LOGISTIC, *map(patch_attack, REPRESENTATIONS)]
    expected = [(f"camvid-victim-{s}", s, name) for s in experiment.SETTINGS for name in names]
    assert [(row.victim, row.setting, row.attack) for row in table] == expected
    printed = capsys.readouterr().out
    for setting in experiment.SETTINGS:
        assert f"camvid-victim-{setting}: mIoU" in printed
    assert results.read() == table
    for row in table:
        assert row.notebook == "camvid" and min(row.n_members, row.n_nonmembers) >= 20
        assert 0 < row.auc_low <= row.auc <= row.auc_high < 1


@pytest.mark.slow
def test_attackers_scored_beside_others_have_the_scores_that_they_have_alone(
    mini, tmp_path, monkeypatch
):
    victim = network(mini.plan, "victim-0")
    few = replace(
        victim, members=victim.members.subset([0, 1]), nonmembers=victim.nonmembers.subset([0])
    )
    groups = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets = {r: PatchNet(r, 19, 4).eval() for r in ("loss map", "concatenation")}
        groups.append({r: (net, {"sha256": f"{seed} {r}"}) for r, net in nets.items()})
    score = partial(standard._patch_scores, mini.plan, few, n_patches=2, seed=0)
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "alone"))
    alone = [score(groups=[group]) for group in groups]
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "together"))
    first = score(groups=groups)
    monkeypatch.setattr(standard, "answers_of", None)  # the others are there
    for found, expected in zip((first, score(groups=groups[1:])), alone, strict=True):
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[r], expected[r]) for r in expected)
    assert not np.array_equal(alone[0]["loss map"], alone[1]["loss map"])
