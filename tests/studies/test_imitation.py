"""Imitative references in miniature: who is imitated by means of whose images, and the table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from segleak_utils import synthstreets
from segleak_utils.attacks import ensembles, references
from segleak_utils.attacks.online import paired_halves
from segleak_utils.studies import Plan, Sizes, experiment, imitation, rows, taught
from segleak_utils.victims import Recipe


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(
        "segleak_utils.synthstreets.source.draw", partial(synthstreets.draw, height=32, width=64)
    )
    return Plan(
        sizes=Sizes(n_members=12, n_nonmembers=100, n_shadow_nonmembers=12, n_held_out=2),
        recipe=Recipe(decoder_channels=8, epochs=1, batch=6),
        shadow_seeds=(0, 1, 2, 3, 4),
        weights=tmp_path / "weights",
        data_root=tmp_path / "data",
        progress=False,
    )


@pytest.mark.slow
def test_each_network_is_imitated_on_others_images_and_once(plan, monkeypatch):
    shadows, of = experiment.networks(plan, "dependent", 2), experiment.network(plan, "victim-0")
    experiment.networks(plan, "dependent", 5)
    told = imitation.cases(plan, of, shadows)
    assert [len(told[kind][0].references) for kind in told] == [2, 2, 4]
    assert [len(case.references) for case in told[imitation.BOTH][1]] == [2, 2]
    names = {path.stem for path in (plan.build / "imitations").glob("*.safetensors")}
    assert names == {
        "shadow-dependent-0-as-victim-0",
        "shadow-dependent-1-as-victim-0",
        "shadow-dependent-1-as-shadow-dependent-0",
        "shadow-dependent-0-as-shadow-dependent-1",
    }
    monkeypatch.setattr(
        "segleak_utils.victims.train_victim", lambda *_, **__: pytest.fail("trained again")
    )
    found = imitation.imitation(plan, ["victim-0"])
    kinds = {imitation.PLAIN: 2, imitation.IMITATIVE: 2, imitation.BOTH: 4}
    assert [(x.references, x.n_references, x.attack) for x in found] == [
        (kind, n, attack) for kind, n in kinds.items() for attack in imitation.ATTACKS
    ]
    for x in found:
        assert (x.n_members, x.n_nonmembers) == (12, 100) and x.unexplained > 0
        plain = (x.more, x.more_low, x.tpr_more) == (0, 0, 0)
        assert plain == (x.references == imitation.PLAIN)
        assert x.ahead_low <= x.ahead <= x.ahead_high
        assert x.trainings == (2 if x.references == imitation.PLAIN else 6)
    level = {(x.attack, x.references) for x in found if (x.ahead, x.ahead_low) == (0, 0)}
    assert level == {(ensembles.TWO_QUESTIONS, imitation.PLAIN)}
    assert all(x.ahead_4 != x.ahead for x in found)
    again = rows.read(plan.build / "imitation.csv", imitation.Compared)
    assert [x.attack for x in again] == [x.attack for x in found]
    # the same name, another network to be imitated
    with pytest.raises(ValueError, match="imitates another network, or none; train it again"):
        imitation.imitator(plan, replace(of, model=shadows[0].model), shadows[1])
    with pytest.raises(ValueError, match="1 shadow; a shadow needs another one"):
        imitation.cases(plan, of, shadows[:1])


def test_what_is_shipped_is_of_every_target_and_kind():
    found = rows.read(imitation.RESULTS, imitation.Compared)
    assert {x.target for x in found} == {*imitation.TARGETS}
    assert len(found) == len(imitation.TARGETS) * 3 * len(imitation.ATTACKS)
    by = {(x.target, x.attack, x.references): x for x in found}
    for target in imitation.TARGETS:  # what docs/results.md and notebook 06 say
        lira = by[target, references.LIRA, imitation.IMITATIVE]
        assert lira.more_low > 0
        assert lira.unexplained < by[target, references.LIRA, imitation.PLAIN].unexplained
    picked = imitation.chosen(found)
    assert picked == (ensembles.TWO_QUESTIONS, imitation.IMITATIVE)
    for target in imitation.TARGETS:
        best = by[(target, *picked)]
        assert best.ahead_low > 0 and not best.interval("ahead_4").excludes(0)
    assert best.interval("tpr_ahead").contains(0) and best.interval("tpr_ahead_4").contains(0)
    assert not by[target, picked[0], imitation.BOTH].interval("ahead_4").excludes(0)


@pytest.mark.slow
def test_each_pupil_learns_its_half_and_goes_on_from_its_imitator(plan, monkeypatch):
    monkeypatch.setattr(taught, "EPOCHS", 1)
    sizes = Sizes(n_members=100, n_nonmembers=100, n_shadow_nonmembers=12, n_held_out=2)
    plan = replace(plan, sizes=sizes)
    experiment.networks(plan, "dependent", 5)
    found = taught.teaching(plan, ["victim-0"])
    assert [x.attack for x in found] == [*taught.ATTACKS]
    assert {(x.n_members, x.n_nonmembers) for x in found} == {(100, 100)}
    first, second = (x for x in found if x.attack in taught.ATTACKS[:2])
    assert (first.more, first.tpr_more, second.ahead, second.tpr_ahead) == (0, 0, 0, 0)
    assert next(x for x in found if x.attack == taught.CONTROL).interval().contains(0.5)
    names = {path.stem for path in (plan.build / "taught").glob("*.safetensors")}
    imitators = [f"shadow-dependent-{k}-as-victim-0" for k in range(2)]
    assert names == {f"{name}-{k}" for name in imitators for k in range(2)}
    of = experiment.network(plan, "victim-0")
    shadows = experiment.networks(plan, "dependent", 2)
    starts = [imitation.imitator(plan, of, shadow) for shadow in shadows]
    inside = paired_halves(200, [taught.SEED, taught.SEED + 1])
    assert (inside[::2] ^ inside[1::2]).all() and (inside.sum(1) == 100).all()
    known = taught.pupils(plan, of, starts, inside)
    both = of.members + of.nonmembers
    assert [x.members.ids for x in known] == [
        [both.ids[k] for k in row.nonzero()[0]] for row in inside
    ]
    # what they began with counts: another imitator, another pupil
    with pytest.raises(ValueError, match="began as another network, or none; train it again"):
        taught.pupils(plan, of, [starts[0], replace(starts[1], model=starts[0].model)], inside)


def test_what_is_shipped_of_pupils_is_of_every_target():
    found = rows.read(taught.RESULTS, imitation.Attacked)
    assert [(x.target, x.attack) for x in found] == [
        (target, attack) for target in taught.TARGETS for attack in taught.ATTACKS
    ]
    for x in found:
        assert (x.n_members, x.n_nonmembers) == (400, 400)
        if x.attack == taught.CONTROL:
            assert x.interval().contains(0.5), x
        # what docs/results.md says
        if x.attack == taught.PASSED_ON:
            assert x.auc_low > 0.55, x
        if x.attack == taught.HALFWAY:
            assert x.more_low > 0 and x.tpr_more_low > 0 and x.ahead_low > 0, x
            assert not x.interval("tpr_ahead").excludes(0), x
    on_shadow = [x for x in found if x.target == taught.TARGETS[0]]
    assert max(on_shadow, key=lambda x: x.auc).attack == taught.HALFWAY
