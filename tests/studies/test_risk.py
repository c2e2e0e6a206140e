"""The halves: who was trained on what, what is kept, and what a stopped run goes on with."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from segleak_utils.studies import risk
from segleak_utils.studies.plan import Plan, Sizes


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    home = tmp_path_factory.mktemp("risk")
    small = Plan(Sizes(n_members=8, n_held_out=2), progress=False)
    recipe = small.recipe.model_copy(update={"epochs": 2})
    return replace(small, recipe=recipe, weights=home / "weights", data_root=home / "data")


@pytest.fixture(autouse=True)
def build(plan, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(plan.weights.parent / "build"))


@pytest.fixture(scope="module")
def halves(plan):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLEAK_BUILD", str(plan.weights.parent / "build"))
        return risk.grid(plan, 2, jobs=1)


def test_every_scene_is_inside_half_of_the_networks():
    for k in (2, 4, 10):
        found = risk.inside(k, 40)
        assert (found.sum(0) == k // 2).all() and (found.sum(1) == 20).all()
        assert (risk.inside(k + 2, 40)[:k] == found).all()
    assert not (risk.inside(2, 40, seed=1) == risk.inside(2, 40)).all()
    for n_networks, n_images in ((3, 40), (2, 41)):
        with pytest.raises(ValueError, match="expected even numbers"):
            risk.inside(n_networks, n_images)


@pytest.mark.slow
def test_losses_add_up_and_members_have_less(plan, halves):
    assert halves.losses.shape == (2, 2, 16, 38) and halves.shares.shape == (16, 38)
    assert np.allclose(halves.shares.sum(1), 1, atol=2e-3)
    assert not halves.losses[:, :, halves.shares == 0].any()
    assert (halves.losses[:, 0, halves.shares > 0] > 0).mean() > 0.95
    assert halves.ids[0].startswith("harbour-s0-180000") and len(set(halves.ids)) == 16
    plain, flipped = halves.losses.sum(-1).swapaxes(0, 1)
    assert (plain != flipped).all() and np.abs(plain - flipped).mean() < 0.1 * plain.mean()


@pytest.mark.slow
def test_a_second_run_trains_nobody_and_a_damaged_file_is_named(plan, halves, monkeypatch):
    def trains(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(risk.networks, "load_or_train", trains)
    again = risk.grid(plan, 2, jobs=1)
    assert np.array_equal(again.losses, halves.losses)
    path = plan.build / "risk" / "network-01.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(ValueError, match=r"network-01.safetensors is not what .*manifest"):
        risk.answers(plan, 1)
    path.write_bytes(whole)
    with pytest.raises(AssertionError, match="trained again"):
        risk.answers(replace(plan, recipe=plan.recipe.model_copy(update={"epochs": 1})), 0)


@pytest.mark.slow
def test_what_is_shipped_comes_first(plan, halves, monkeypatch):
    shipped = plan.weights / "shipped"
    shutil.copytree(plan.build / "risk", shipped)
    monkeypatch.setattr(risk, "SHIPPED", shipped)
    monkeypatch.setenv("SEGLEAK_BUILD", str(plan.weights.parent / "other"))
    monkeypatch.setattr(risk.networks, "load_or_train", None)
    assert np.array_equal(risk.grid(plan, 2, jobs=1).losses, halves.losses)


def test_the_shipped_networks_are_whole_pairs():
    """Each file is the manifest's, and answers for as many scenes; the keys: notebook 07."""
    known = risk.manifest(risk.SHIPPED)
    assert sorted(known) == [f"network-{k:02}" for k in range(len(known))] and len(known) % 2 == 0
    for name, entry in known.items():
        said = risk._kept(risk.SHIPPED, name, entry["key"])
        assert said["losses"].shape == (2, 800, 38) and said["losses"].dtype == np.float16
        assert np.isfinite(said["losses"]).all() and said["losses"].min() >= 0
        assert said["miou"][0] > said["miou"][1]


def made(n_networks: int, n_images: int, exposed: int) -> risk.Halves:
    """Networks that know the first `exposed` scenes, and tell nothing of the others."""
    rng, inside = np.random.default_rng(3), risk.inside(n_networks, n_images)
    losses = 1 + rng.gamma(4, 0.05, (n_networks, 2, n_images, 6))
    losses[:, :, :exposed] -= 0.3 * inside[:, None, :exposed, None]
    mious = np.full((n_networks, 2), 0.4)
    ids = tuple(f"s{i}" for i in range(n_images))
    return risk.Halves(inside, losses, np.full((n_images, 6), 1 / 6), mious, ids)


def test_the_exposed_stand_out_and_labels_dealt_anew_tell_nothing(plan, monkeypatch, capsys):
    halves = made(32, 400, 40)
    monkeypatch.setattr(risk, "grid", lambda *_, **__: halves)
    risk.risk(plan, 32)
    shown = capsys.readouterr().out
    cells = [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith("| g")]
    assert [row[0] for row in cells] == [
        "global loss", "global loss, by chance", "global loss, two questions",
        "global loss, two questions, by chance",
    ]  # fmt: skip
    values = np.array([[float(x) for x in row[1:]] for row in cells])
    assert abs(values[1, 0] - 0.5) < 0.01 and 0.09 < values[1, 1] < 0.11  # .104 with 32 networks
    assert 0.1 <= values[0, -1] < 0.12 and values[1, -1] < 0.01
    rows = (plan.build / "risk" / "risk.csv").read_text().splitlines()
    assert rows[0] == (
        "scene,networks,global loss AUC,global loss SE,"
        '"global loss, two questions AUC","global loss, two questions SE"'
    )
    assert len(rows) == 401 and float(rows[1].split(",")[2]) > 0.95
    with pytest.raises(ValueError, match="2 networks: expected an even number, 4 or more"):
        risk.risk(plan, 2)


def test_more_networks_and_larger_differences_rank_scenes_more_surely():
    rng, n = np.random.default_rng(0), 400
    inside = risk.inside(16, n)

    def of(spread: float) -> tuple[float, float]:
        risks = 1 + spread * rng.random(n)
        losses = np.zeros((16, 2, n, 38), np.float32)
        losses[..., 0] = 9 - (risks * inside + rng.standard_normal((16, n)))[:, None]
        whole = risk.Halves(inside, losses, np.zeros((n, 38)), np.zeros((16, 2)), ())
        return risk.sharpness(whole, 8), risk.sharpness(whole, 16)

    none, some, much = of(0), of(2), of(5)
    assert max(none) < 0.2 < some[1] < much[1] <= 1 and some[0] < much[0]


def test_dealing_anew_keeps_pairs_and_changes_half():
    halves = made(8, 4000, 0)
    anew = risk.dealt_anew(halves.inside, np.random.default_rng(0))
    assert (anew.sum(0) == 4).all() and (anew[::2] ^ anew[1::2]).all()
    assert abs((anew != halves.inside).mean() - 0.5) < 0.02


def test_another_recipe_has_a_place_and_a_key_of_its_own(plan, monkeypatch):
    drawn = [of.ids for of in risk.scenes(plan)]
    assert len(drawn[0]) == 16
    keys, places = set(), set()
    for name, changes in risk.RECIPES.items():
        own, shipped, made = risk.of_recipe(plan, name)
        assert own.recipe == plan.recipe.model_copy(update=changes)
        keys.add(risk.key_of(own, 0, risk.inside(2, 16)[0], *risk.scenes(plan)))
        places |= {shipped, made}
    assert len(keys) == len(risk.RECIPES) and len(places) == 2 * len(risk.RECIPES)
    for call in (risk.collect, risk.grid):
        with pytest.raises(ValueError, match="recipe 'none'; expected one of 'default'"):
            call(plan, 2, recipe="none")


def test_every_recipe_that_is_shipped_comes_in_whole_pairs():
    for name in risk.RECIPES:
        of = Plan(progress=False)
        folder = risk.of_recipe(of, name)[1]
        names = sorted(risk.manifest(folder))
        assert len(names) % 2 == 0 and len(names) >= 8
        assert names == [f"network-{k:02}" for k in range(len(names))]
        assert {path.stem for path in folder.glob("*.safetensors")} == set(names)
