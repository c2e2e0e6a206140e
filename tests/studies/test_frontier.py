"""Defended networks and services in miniature: trained, attacked by both attackers, priced."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch

from segleak_utils import data, synthstreets, victims
from segleak_utils.attacks import AttackRecipe, LinearAttack
from segleak_utils.attacks.contests import BLIND, GLOBAL, LOGISTIC, patch_attack
from segleak_utils.defenses import Release
from segleak_utils.representations import check_posterior
from segleak_utils.studies import (
    Plan,
    Sizes,
    experiment,
    frontier,
    offers,
    protected,
    shelf,
    standard,
    weights,
)
from segleak_utils.studies.frontier import ADAPTIVE, NAIVE, Measured
from segleak_utils.studies.offers import NOTHING, Scenario, Service
from segleak_utils.studies.plan import SHADOW_SEEDS
from segleak_utils.studies.protected import PUBLIC, Training
from segleak_utils.studies.shelf import manifest
from segleak_utils.victims import Recipe
from segleak_utils.victims.dpsgd import DPRecipe

WANTED = ("loss map",)
NOISE = Service("noise 0.3", "Gaussian noise", release=Release("Gaussian noise", 0.3))
ARGMAX = Service("argmax", "argmax", release=Release("argmax"))
SOFT = Service("temperature 4", "cheap releases", release=Release("temperature", 4))
PASSES = Service("dropout, 2 passes", "dropout", "dropout", passes=2)
TUNED = Service("DP tuned-9", "DP-SGD, fine-tuned", "tuned-9")
CHOSEN = (NOTHING, ARGMAX, NOISE, SOFT, PASSES, TUNED)
EACH = dict.fromkeys(CHOSEN, WANTED)
PRIVATE = {"norm": "group", "crop_area": 1.0, "colour": 0.0}
DP = DPRecipe(noise_multiplier=9, batch=16, epochs=1, lr=1e-3)
SMALL = {
    "dropout": Training({"dropout": 0.3}),
    "tuned-9": Training(PRIVATE, DP.model_copy(update={"trained": "decoder"}), tuned=True),
    "scratch-9": Training(PRIVATE, DP),
}


@dataclass(frozen=True)
class Mini:
    scenario: Scenario
    found: dict[str, Measured]

    @property
    def plan(self) -> Plan:
        return self.scenario.plan


@pytest.fixture(scope="module")
def mini(tmp_path_factory):
    root = tmp_path_factory.mktemp("frontier")
    small = partial(synthstreets.draw, height=64, width=64)
    plan = Plan(
        sizes=Sizes(n_members=16, n_nonmembers=110, n_shadow_nonmembers=16, n_held_out=4),
        recipe=Recipe(decoder_channels=8, epochs=1, batch=8),
        attack=AttackRecipe(patch=32, epochs=1, batch=8, width=8, select_share=0.25),
        shadow_seeds=(0,),
        weights=root / "weights",
        data_root=root / "data",
        progress=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGLEAK_BUILD", str(root / "build"))
        patch.setattr("segleak_utils.synthstreets.source.draw", small)
        patch.setattr(protected, "draw", small)
        patch.setattr(protected, "TRAININGS", SMALL)
        patch.setattr(protected, "SCRATCH_TIMES", 2)
        scenario = offers.synthstreets(plan)
        found = frontier.measure(scenario, CHOSEN, wanted=EACH, n_priced=20)
        yield Mini(scenario, {of.service.name: of for of in found})


def no_pass(monkeypatch) -> None:
    def refuse(*_, **__):
        raise AssertionError("a network is asked again")

    monkeypatch.setattr("segleak_utils.victims.posterior_batches", refuse)


# ---- services ------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", offers.RELEASES, ids=lambda s: s.name)
def test_what_a_service_releases_is_a_distribution(service):
    """The law that every release has to keep; a new one in RELEASES is tested at once."""
    rng = torch.Generator().manual_seed(0)
    posterior = torch.randn(2, 19, 5, 7, generator=rng).mul(3).softmax(1)
    before = posterior.clone()
    released = [service.release(posterior, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert released[0].shape == posterior.shape and torch.equal(*released)
    check_posterior(released[0])
    assert torch.equal(posterior, before)
    with pytest.raises(ValueError, match="negative probability"):
        service.release(posterior - 0.5, torch.Generator())


def test_services_are_chosen_by_name_beside_no_defence():
    found = offers.named(["top 3", "argmax", "top 3"])
    assert [service.name for service in found] == ["no defence", "top 3", "argmax"]
    names = [service.name for service in offers.services()]
    assert len(set(names)) == len(names)
    with pytest.raises(ValueError, match="no service 'top 4'; there are: no defence, argmax"):
        offers.named(["top 4"])


@pytest.mark.slow
def test_every_service_meets_both_attackers_and_has_a_price(mini):
    assert list(mini.found) == [service.name for service in CHOSEN]
    for name, of in mini.found.items():
        assert (of.naive is of.adaptive) == (name == "no defence")
        for who in (NAIVE, ADAPTIVE):
            contest = of.contest(who)
            names = [attack.name for attack in contest.attacks]
            assert names == [BLIND, GLOBAL, LOGISTIC, patch_attack("loss map")]
            assert contest.member.sum() == 16 and len(contest.member) == 126
            for attack in contest.attacks:
                assert attack.scores.shape == (126,) and np.isfinite(attack.scores).all()
        assert 0 <= of.miou <= 1 and 0 <= of.ece <= 1 and of.n_priced == 20


@pytest.mark.slow
def test_without_a_defence_the_scores_are_those_of_the_contest(mini):
    shadows = mini.scenario.shadows("")
    expected = standard.contest(mini.plan, "dependent", mini.scenario.victim(""), shadows)
    found = mini.found["no defence"].naive
    for name in (BLIND, GLOBAL, LOGISTIC, patch_attack("loss map")):
        np.testing.assert_allclose(found[name].scores, expected[name].scores, 1e-5, 1e-6)
        assert found[name].threshold == pytest.approx(expected[name].threshold)


@pytest.mark.slow
def test_a_release_that_keeps_the_classes_keeps_the_mean_iou_and_not_the_calibration(mini):
    plain, argmax, soft = (mini.found[name] for name in ("no defence", "argmax", "temperature 4"))
    assert argmax.miou == pytest.approx(plain.miou) and soft.miou == pytest.approx(plain.miou)
    assert len({plain.ece, argmax.ece, soft.ece}) == 3


@pytest.mark.slow
def test_argmax_leaves_an_error_of_one_minus_the_accuracy(mini):
    victim = mini.scenario.victim("")
    right = total = 0
    for posterior, masks in victims.posterior_batches(
        victim.model, victim.nonmembers.subset(range(20))
    ):
        labelled = masks != data.VOID
        right += int((posterior.argmax(1) == masks)[labelled].sum())
        total += int(labelled.sum())
    assert mini.found["argmax"].ece == pytest.approx(1 - right / total)


@pytest.mark.slow
def test_a_second_look_comes_from_the_cache_and_is_the_same(mini, monkeypatch):
    no_pass(monkeypatch)
    again = frontier.measure(mini.scenario, CHOSEN, wanted=EACH, n_priced=20)
    for of in again:
        before = mini.found[of.service.name]
        assert (of.miou, of.ece) == (before.miou, before.ece)
        for attack in of.adaptive.attacks:
            assert np.array_equal(attack.scores, before.adaptive[attack.name].scores)


@pytest.mark.slow
def test_a_service_is_measured_alike_alone_and_beside_others(mini, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path))
    (alone,) = frontier.measure(mini.scenario, [NOISE], wanted=EACH, n_priced=20)
    for who in (NAIVE, ADAPTIVE):
        for attack in alone.contest(who).attacks:
            before = mini.found["noise 0.3"].contest(who)[attack.name]
            assert np.array_equal(attack.scores, before.scores)


@pytest.mark.slow
def test_another_seed_draws_other_noise(mini):
    (other,) = frontier.measure(mini.scenario, [NOISE], wanted=EACH, n_priced=20, seed=1)
    before = mini.found["noise 0.3"].naive[GLOBAL].scores
    assert not np.array_equal(other.naive[GLOBAL].scores, before)


@pytest.mark.slow
def test_naive_and_adaptive_learn_from_different_answers(mini):
    naive, adaptive = (
        offers.attackers(mini.scenario, service, WANTED) for service in (NOTHING, NOISE)
    )
    assert not set(naive.hashes.values()) & set(adaptive.hashes.values())
    assert not torch.equal(naive.regression.weight, adaptive.regression.weight)
    for of, who in ((naive, NAIVE), (adaptive, ADAPTIVE)):
        contest = mini.found["noise 0.3"].contest(who)
        for name in (GLOBAL, LOGISTIC, patch_attack("loss map")):
            assert contest[name].threshold == of.thresholds[name]


@pytest.mark.slow
def test_rows_say_who_attacked_and_what_it_costs(mini):
    table = frontier.rows(mini.found.values(), "04_defenses")
    assert len({row.key for row in table}) == len(table)
    assert sum(row.attack == BLIND for row in table) == len(CHOSEN)
    noisy = [row for row in table if row.victim == "victim-0, noise 0.3"]
    assert [row.attack for row in noisy] == [
        BLIND,
        *(f"{who}: {a}" for who in (NAIVE, ADAPTIVE)
          for a in (GLOBAL, LOGISTIC, patch_attack("loss map"))),
    ]  # fmt: skip
    assert all("mean IoU" in row.note and "calibration error" in row.note for row in table)
    text = frontier.table(list(mini.found.values()))
    assert text.count("| noise 0.3 | adaptive |") == 3 and text.count("| - | blind base") == 6


@pytest.mark.slow
def test_attackers_of_other_shadows_are_refused(mini, tmp_path):
    spoilt = _copy(mini, tmp_path)
    entries = manifest(spoilt.plan.weights)
    name = offers.attacker_names(spoilt, NOISE)[LOGISTIC]
    entries[name]["shadows"] = {"shadow-dependent-0": "0" * 64}
    shelf.write_manifest(spoilt.plan.weights, entries)
    with pytest.raises(ValueError, match=f"{name} was trained on other shadows"):
        offers.attackers(spoilt, NOISE, WANTED)


@pytest.mark.slow
def test_the_regression_survives_being_stored(mini):
    of = offers.attackers(mini.scenario, NOISE, WANTED).regression
    assert isinstance(of, LinearAttack) and of.scale.dtype == torch.float64
    name = offers.attacker_names(mini.scenario, NOISE)[LOGISTIC]
    entry = manifest(mini.plan.weights)[name]
    assert entry["kind"] == "regression" and set(entry["thresholds"]) == {LOGISTIC, GLOBAL}


def test_the_default_services_have_names_and_files_of_their_own():
    found = offers.services()
    scenario = offers.synthstreets(Plan())
    files = [f for s in found for f in offers.attacker_names(scenario, s).values()]
    assert len(set(files)) == len(files) and len({s.name for s in found}) == len(found)
    assert all(" " not in file and "," not in file for file in files)


# ---- networks ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tuned_network_ships_only_what_was_tuned_and_keeps_the_public_encoder(mini):
    tuned = protected.network(mini.plan, "victim-0", "tuned-9")
    state, _ = victims.read_weights(mini.plan.weights / "victim-0-tuned-9.safetensors")
    assert state and all(key.startswith(("net.decoder", "net.segm")) for key in state)
    public = protected.public(mini.plan).model.state_dict()
    moved = [k for k, v in tuned.model.state_dict().items() if not torch.equal(v, public[k])]
    assert moved and not any(key.startswith("net.encoder") for key in moved)
    promised = protected.promise(tuned)
    assert promised.noise_multiplier == 9 and promised.steps == 1 and promised.sampling_rate == 1
    assert 0 < promised.epsilon < 1 and promised.delta == 1e-4
    assert protected.promise(protected.public(mini.plan)) is None


@pytest.mark.slow
def test_from_scratch_there_are_more_members_and_the_first_are_attacked(mini):
    everyone, shown, nonmembers = protected.scenes(mini.plan, "shadow-dependent-0", "scratch-9")
    assert len(everyone()) == 32 and shown.ids == everyone().ids[:16]
    assert not set(everyone().ids) & set(nonmembers.ids)
    victim = protected.network(mini.plan, "victim-0", "scratch-9")
    assert len(victim.members) == 16 and victim.meta["members"].startswith("32:")
    plain = experiment.roles(mini.plan, "victim-0")
    assert not set(victim.members.ids) & {*plain[0].ids, *plain[1].ids}


def test_no_scene_has_two_roles():
    plan = Plan(sizes=Sizes(), progress=False)
    taken = set()
    ranges = {"public": (protected.PUBLIC_START, plan.sizes.n_members + plan.sizes.n_held_out)}
    for role, start in protected.SCRATCH_START.items():
        n = protected.SCRATCH_TIMES * plan.sizes.n_members + plan.sizes.n_shadow_nonmembers
        ranges[role] = (start, n)
    for k in experiment.VICTIM_SEEDS:
        ranges[f"victim-{k}"] = (100_000 + 10_000 * k, 500)
    for k in SHADOW_SEEDS:
        ranges[f"shadow-{k}"] = (500_000 + 10_000 * k, 900)
    ranges["non-members"] = (0, 5000)
    for name, (start, count) in ranges.items():
        own = set(range(start, start + count))
        assert not own & taken, name
        taken |= own


@pytest.mark.slow
def test_an_unknown_variant_and_another_recipe_are_refused(mini, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown network victim-0-tuned-7; known: victim-0-drop"):
        protected.network(mini.plan, "victim-0", "tuned-7")
    louder = SMALL | {"tuned-9": replace(SMALL["tuned-9"], private=DP)}
    monkeypatch.setattr("segleak_utils.studies.protected.TRAININGS", louder)
    with pytest.raises(ValueError, match=r"has another private than expected; train it again: .*9"):
        protected.network(mini.plan, "victim-0", "tuned-9")


# ---- retraining ----------------------------------------------------------------------------------


def _copy(mini: Mini, tmp_path) -> Scenario:
    """The miniature with weights of its own, to be spoilt."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in mini.plan.weights.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return offers.synthstreets(replace(mini.plan, weights=folder))


@pytest.mark.slow
def test_what_was_made_from_a_forgotten_network_goes_with_it(mini, tmp_path):
    plan = _copy(mini, tmp_path).plan
    before = set(manifest(plan.weights))
    weights.forget(plan, [PUBLIC])
    gone = before - set(manifest(plan.weights))
    assert {PUBLIC, "victim-0-tuned-9", "shadow-dependent-0-tuned-9"} < gone
    assert any(name.startswith("attack-dependent-DP-tuned-9") for name in gone)
    assert not any("dropout" in name or "noise" in name for name in gone)
    assert {path.stem for path in plan.weights.glob("*.safetensors")} == before - gone
    with pytest.raises(ValueError, match="'victim-7' is not in the manifest; known: attack-"):
        weights.forget(plan, ["victim-7"])


@pytest.mark.slow
def test_a_worker_trains_a_private_network_and_the_attackers_of_a_service(mini, tmp_path):
    scenario = _copy(mini, tmp_path)
    plan, name = scenario.plan, "victim-0-tuned-9"
    (plan.weights / f"{name}.safetensors").unlink()
    weights._adopt(plan, weights._protected_apart(plan, name))
    # the weights, not the files: those also hold how many seconds it took
    again, first = (protected.network(p, "victim-0", "tuned-9").model for p in (plan, mini.plan))
    for (key, ours), theirs in zip(
        again.state_dict().items(), first.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), key
    files = offers.attacker_names(scenario, ARGMAX)
    kept = manifest(plan.weights)[files["loss map"]]
    (plan.weights / f"{files[LOGISTIC]}.safetensors").unlink()
    weights._adopt(plan, weights._service_apart(plan, "argmax"))
    after = manifest(plan.weights)
    assert after[files["loss map"]] == kept and set(files.values()) <= set(after)
    assert np.isfinite(after[files["concatenation"]]["threshold"])
    assert json.loads((plan.weights / "manifest.json").read_text()) == after
