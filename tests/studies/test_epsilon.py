"""The audit of DP-SGD: canaries, rows and verdicts."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segleak_utils.attacks import Outputs, references
from segleak_utils.attacks.contests import GLOBAL, LOGISTIC
from segleak_utils.data import Scenes
from segleak_utils.metrics import Bound, OneRun
from segleak_utils.studies import Plan, epsilon, offers, protected
from segleak_utils.studies.epsilon import Row
from segleak_utils.victims import Recipe, build_victim
from segleak_utils.victims.accountant import Privacy
from segleak_utils.victims.dpsgd import DPRecipe, train_private_victim

# ---- canaries ------------------------------------------------------------------------------------


def scenes_of(n: int, start: int = 0, side: int = 8) -> Scenes:
    rng = np.random.default_rng(start)
    masks = rng.integers(0, 3, (n, side, 2 * side), dtype=np.uint8)
    masks[:, 0] = 255
    images = rng.integers(0, 256, (n, 3, side, 2 * side), dtype=np.uint8)
    return Scenes.from_arrays(images, masks, [f"s{start + i}" for i in range(n)], ("a", "b", "c"))


def test_a_mislabelled_canary_has_the_mask_of_the_next():
    plain = scenes_of(4)
    of = epsilon.with_masks_of_others(plain)
    for i in range(4):
        assert torch.equal(of[i][0], plain[i][0])
        assert torch.equal(of[i][1], plain[(i + 1) % 4][1])
    assert of.class_names == plain.class_names and not set(of.ids) & set(plain.ids)
    assert of.digest not in (plain.digest, epsilon.with_masks_of_others(scenes_of(4, 9)).digest)
    with pytest.raises(ValueError, match="1 scene; expected at least 2"):
        epsilon.with_masks_of_others(plain.subset([0]))


def test_coins_are_fair_and_repeatable():
    assert np.array_equal(epsilon.coins(50, 1), epsilon.coins(50, 1))
    assert not np.array_equal(epsilon.coins(50, 1), epsilon.coins(50, 2))
    assert 4800 < epsilon.coins(10_000, 0).sum() < 5200


def test_canaries_are_scenes_that_nobody_else_has():
    """Victims and shadows have 10 000 indices each, up to victim 39 and shadow 49."""
    assert epsilon.CANARY_START >= 500_000 + 10_000 * 50
    assert epsilon.CANARY_START > protected.PUBLIC_START + 500


class Learner(torch.nn.Module):
    """Says 'class 0', a little more or less firmly; much more of images whose pixel it knows."""

    def __init__(self, known=None):
        super().__init__()
        self.known = known

    def forward(self, images):
        logits = torch.full((len(images), 3, *images.shape[-2:]), -1.0)
        for logit, pixel in zip(logits, images[:, :, 0, 0].tolist(), strict=True):
            own = self.known is not None
            logit[0] += 1.0 + own * pixel[0] / 10 + 3.0 * (own and pixel in self.known)
        return logits


def noise(city, seed, start, n, **_) -> Scenes:
    assert (city, seed, start) == ("harbour", 0, epsilon.CANARY_START)
    images = np.random.default_rng(0).integers(0, 256, (n, 3, 8, 16), dtype=np.uint8)
    masks = np.zeros((n, 8, 16), np.uint8)
    return Scenes.from_arrays(images, masks, [f"c{i}" for i in range(n)], ("a", "b", "c"))


@pytest.fixture
def world(monkeypatch, tmp_path):
    """No drawing and no training: canaries of noise, and a training that learns them by heart."""
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path))
    seen = []

    def train(recipe, private, members, *, planned, seed, start, checkpoint, **_):
        seen.append(SimpleNamespace(private=private, members=members, seed=seed, planned=planned))
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.touch()
        epsilon = 1.08 if private.noise_multiplier else math.inf
        promised = Privacy(epsilon, private.delta, private.noise_multiplier, 1.0, 1.0, 16)
        return Learner([image[:, 0, 0].tolist() for image, _ in members]), [], promised

    monkeypatch.setattr("segleak_utils.studies.epsilon.draw", noise)
    monkeypatch.setattr("segleak_utils.studies.epsilon.train_private_victim", train)
    public = SimpleNamespace(model=Learner(), fingerprint="base")
    monkeypatch.setattr("segleak_utils.studies.protected.public", lambda plan: public)
    return Plan(progress=False), seen


def test_a_training_that_learns_by_heart_is_caught_by_its_canaries(world):
    plan, seen = world
    row = epsilon.canary_run(plan, "tuned-0", n=100)
    of = row.bound
    assert (of.guesses, of.right, of.n, of.delta) == (25, 25, 100, 1e-4)
    assert of.epsilon_low == of.largest > 1.5
    assert row.promised is None and row.verdict == "no promise"
    assert row.network == "canaries-tuned-0"
    assert seen[0].members.ids == [f"c{i}" for i in np.flatnonzero(epsilon.coins(100, 0))]
    # a public number, not how many the coins have put in
    assert seen[0].private.batch == seen[0].planned == 50 != len(seen[0].members)
    # a training that promises privacy and learns by heart has a bug
    assert epsilon.canary_run(plan, "tuned-12", n=100).broken


def test_a_training_is_done_once_and_a_finished_one_leaves_no_checkpoint(world):
    plan, seen = world
    row = epsilon.canary_run(plan, "tuned-0", n=64)
    assert epsilon.canary_run(plan, "tuned-0", n=64) == row and len(seen) == 1
    assert not list(plan.build.glob("checkpoints/*"))
    epsilon.canary_run(plan, "tuned-0", n=64, seed=1)
    other = epsilon.canary_run(plan, "tuned-0", n=64, mislabelled=True)
    assert len(seen) == 3 and seen[1].members.ids != seen[0].members.ids
    assert other.network == "canaries-tuned-0-mislabelled"
    assert all(name.endswith("-mislabelled") for name in seen[2].members.ids)


def test_canaries_for_a_training_without_a_public_network_are_refused(world):
    plan, _ = world
    for variant in ("scratch-1", "dropout", "tuned-7"):
        with pytest.raises(
            ValueError, match=f"variant '{variant}'; expected one of tuned-0, tuned"
        ):
            epsilon.canary_run(plan, variant)
    with pytest.raises(ValueError, match="63 canaries, expected at least 64"):
        epsilon.canary_run(plan, "tuned-0", n=63)


@pytest.mark.slow
def test_a_real_training_on_canaries(world, monkeypatch):
    """One epoch without noise, on small pictures: it runs, and proves next to nothing."""
    plan, _ = world
    plan = replace(plan, recipe=Recipe(norm="group", decoder_channels=16, n_classes=3))
    private = DPRecipe(noise_multiplier=0, batch=16, epochs=1, lr=1e-3, trained="few")
    still = {"norm": "group", "crop_area": 1.0, "colour": 0.0}
    monkeypatch.setattr(
        protected, "TRAININGS", {"tuned-0": protected.Training(still, private, tuned=True)}
    )
    recipe = Recipe(**plan.recipe.model_dump() | still)
    public = SimpleNamespace(model=build_victim(recipe).eval(), fingerprint="base")
    monkeypatch.setattr("segleak_utils.studies.protected.public", lambda plan: public)
    monkeypatch.setattr(
        "segleak_utils.studies.epsilon.draw", lambda *_, **__: scenes_of(64, side=32)
    )
    monkeypatch.setattr("segleak_utils.studies.epsilon.train_private_victim", train_private_victim)
    row = epsilon.canary_run(plan, "tuned-0", n=64)
    assert row.bound.guesses == 16 and row.bound.epsilon_low < 1 and row.promised is None


# ---- the table -----------------------------------------------------------------------------------


def row_of(epsilon_low: float, promised: float | None, largest: float = 5.0) -> Row:
    bound = Bound(epsilon_low, 0.0, 3, 200, 4, 1000, 1e-4, 0.95, largest)
    return Row("victim-0-tuned-12", GLOBAL, promised, bound, promised and 2 * promised)


def test_a_lower_bound_above_the_promise_is_called_a_bug():
    row = row_of(2.3, 1.1)
    assert row.broken and row.verdict == "ABOVE THE PROMISE: a bug"
    assert "| 1.10 | 2.20 |" in (told := epsilon.table([row]))
    assert "| 2.30 (95 %, δ = 0.0001) |" in told
    assert "ABOVE THE PROMISE: a bug |" in told


def test_members_beside_others_are_held_against_replacing_and_coins_against_adding():
    """An image that is in is compared with another one that is out: that exchanges two."""
    exchanged = row_of(1.2, 1.1)
    assert exchanged.against == 2.2 and not exchanged.broken
    coins = replace(exchanged, bound=OneRun(1.2, 70, 150, 600, 1e-4, 0.95, 3.0))
    assert coins.against == 1.1 and coins.broken
    unknown = replace(exchanged, replacing=None)
    assert not unknown.broken and unknown.verdict == "too few images to refute it"


def test_below_it_nothing_is_claimed_of_the_promise():
    for row, verdict in (
        (row_of(0.3, 1.1), "not refuted"),
        (row_of(0.0, 6.8), "too few images to refute it"),
        (row_of(0.3, None), "no promise"),
    ):
        assert not row.broken and row.verdict == verdict
        told = epsilon.table([row])
        assert f"| hits 3/200, alarms 4/1000 | 5.00 | {verdict} |" in told and "bug" not in told
        assert "does not prove the promise loose" in told
    run = OneRun(0.0, 70, 150, 600, 1e-4, 0.95, 3.0)
    told = epsilon.table([Row("canaries", epsilon.DIFFERENCE, None, run)])
    assert "| canaries | - | - |" in told and "70 of 150 guesses right, 600 canaries" in told


def shown_of(gap: float, n: int = 200) -> Outputs:
    """Half of the images are members; their loss is lower by the gap."""
    generator = torch.Generator().manual_seed(0)
    member = np.arange(n) < n // 2
    loss = 2 + torch.rand(n, 1, 4, 4, generator=generator)
    loss -= gap * torch.from_numpy(member).float()[:, None, None, None]
    return Outputs(loss.half(), torch.zeros(n, 4, 4, dtype=torch.uint8), member, 3)


def test_a_network_has_a_row_for_each_attack(monkeypatch):
    shown, unaware = shown_of(1.5), shown_of(0.0)
    of = SimpleNamespace(
        name="victim-0-tuned-12",
        meta={"privacy": {"epsilon": 1.08, "delta": 1e-3, "noise_multiplier": 12, "clip_norm": 1,
                          "sampling_rate": 1, "steps": 16}},
    )  # fmt: skip
    asked_for = []

    def attackers(scenario, service, wanted):
        asked_for.append((service.slug, wanted))
        return SimpleNamespace(regression=SimpleNamespace(scores=lambda features: -features[:, 0]))

    monkeypatch.setattr("segleak_utils.studies.offers.attackers", attackers)
    monkeypatch.setattr("segleak_utils.studies.asking.loss_outputs", lambda plan, of: shown)
    monkeypatch.setattr("segleak_utils.studies.protected.public", lambda plan: "public")
    monkeypatch.setattr(
        "segleak_utils.studies.asking.asked",
        lambda plan, reference, of: {"public": unaware}[reference],
    )
    service = {s.variant: s for s in offers.services()}["tuned-12"]
    plan = Plan(progress=False)
    rows = epsilon.of_network(plan, of, service, tuned=True)
    assert [row.attack for row in rows] == [GLOBAL, LOGISTIC, epsilon.DIFFERENCE]
    assert asked_for == [("tuned-multiplier-12", ())]
    for row in rows:
        assert (row.network, row.promised, row.bound.delta) == (of.name, 1.08, 1e-3)
        assert (row.bound.n_members, row.bound.n_nonmembers) == (50, 50)
        assert row.broken and row.bound.epsilon_low == row.bound.largest  # it leaks all there is
    of.meta = {}
    monkeypatch.setattr(
        "segleak_utils.studies.experiment.networks", lambda plan, setting, count: ["a", "b"][:count]
    )
    best = SimpleNamespace(scores=-shown.loss_maps[:, 0, 0, 0].numpy())
    monkeypatch.setattr(
        "segleak_utils.studies.beyond.best_model", lambda plan, of, shadows: (None, None, best)
    )
    rows = epsilon.of_network(plan, of, offers.NOTHING, tuned=False)
    assert [row.attack for row in rows] == [GLOBAL, LOGISTIC, references.CALIBRATED]
    assert {(row.promised, row.bound.delta) for row in rows} == {(None, 1e-4)}


def test_the_audit_goes_through_all_variants_and_prints(monkeypatch, capsys):
    seen = []

    def of_network(plan, of, service, *, tuned):
        seen.append((of, service.variant, tuned))
        return [row_of(0.1, 1.1)]

    monkeypatch.setattr("segleak_utils.studies.epsilon.of_network", of_network)
    scenario = SimpleNamespace(victim=lambda variant: f"victim-0 {variant}")
    monkeypatch.setattr("segleak_utils.studies.offers.synthstreets", lambda plan: scenario)
    rows = epsilon.audit(Plan(progress=False))
    assert seen == [
        ("victim-0 ", "", False),
        ("victim-0 tuned-0", "tuned-0", True),
        ("victim-0 tuned-12", "tuned-12", True),
        ("victim-0 scratch-1", "scratch-1", False),
    ]
    assert capsys.readouterr().out == epsilon.table(rows) + "\n" and len(rows) == 4
