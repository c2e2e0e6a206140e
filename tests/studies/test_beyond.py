"""The fair contest: its lines and files, what it found, and the control that nothing is found."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from segleak_utils import metrics, synthstreets
from segleak_utils.attacks import AttackRecipe, contests, peers, references
from segleak_utils.attacks.contests import Attack, Contest
from segleak_utils.attacks.ensembles import ENSEMBLE, TWO_QUESTIONS
from segleak_utils.attacks.patchnets import REPRESENTATIONS
from segleak_utils.attacks.peers import ImageRecipe
from segleak_utils.attacks.variances import BAVARIA
from segleak_utils.attacks.whitebox import WHITE_BOX
from segleak_utils.studies import Plan, Sizes, asking, beyond, costs, experiment, rows
from segleak_utils.studies.beyond import Choice, Line
from segleak_utils.victims import Recipe

PEERS = (peers.DICE, peers.TYPE_1, peers.TYPE_2, peers.LABEL_ONLY, peers.SHAFRAN)


@pytest.fixture
def plan(contest_plan) -> Plan:
    return contest_plan


def toy_contest(n: int, seed: int = 0) -> Contest:
    rng = np.random.default_rng(seed)
    member = np.arange(n) < n // 2
    names = (contests.GLOBAL, references.DIFFERENCE, references.CALIBRATED)
    found = [
        Attack(name, "x", rng.normal(size=n) + k * member, 0.5) for k, name in enumerate(names)
    ]
    return Contest("victim-0", "dependent", member, tuple(found))


# ---- what was found ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_difficulty_is_the_large_lever(plan):
    victim = experiment.network(plan, "victim-0")
    of = beyond.contest(
        plan, "dependent", victim, experiment.networks(plan, "dependent", 2), everyone=False
    )
    names = [attack.name for attack in of.attacks]
    assert names[:2] == [contests.BLIND, contests.GLOBAL] and names[-1] == references.CALIBRATED
    assert metrics.auc(of[contests.BLIND].scores, of.member).contains(0.5)
    best = of[references.CALIBRATED]
    for other in (contests.GLOBAL, contests.LOGISTIC, references.DIFFERENCE):
        ahead = metrics.paired_auc_difference(
            best.scores, of[other].scores, of.member, seed=0, n_boot=500
        )
        assert ahead.value > 0, (other, ahead)
        # what a network or two lead by is less than their noise
        assert ahead.low > 0 or other == references.DIFFERENCE, (other, ahead)
    assert metrics.balanced_accuracy_at(best.scores, of.member, best.threshold).low > 0.7


@pytest.mark.slow
def test_a_network_that_was_never_trained_on_the_members_is_not_found_to_leak_them(plan):
    """The control: the attacks on a shadow, for the members of the victim."""
    victim = experiment.network(plan, "victim-0")
    suspect, *others = experiment.networks(plan, "dependent", 2)
    stranger = replace(suspect, members=victim.members, nonmembers=victim.nonmembers)
    known = asking.case(plan, stranger, others)
    learned = [asking.case(plan, suspect, others), asking.case(plan, others[0], [suspect])]
    for name, features in references.FEATURES.items():
        found, _ = references.regression(name, features, known, learned)
        assert metrics.auc(found.scores, known.member).contains(0.5), name


@pytest.mark.slow
def test_one_shadow_cannot_teach_the_calibrated_patches(plan):
    with pytest.raises(ValueError, match="another one as its reference"):
        beyond.train_calibrated_patches(plan, "attack-x", experiment.networks(plan, "dependent", 1))


@pytest.mark.slow
def test_every_attack_there_is_in_miniature(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(
        "segleak_utils.synthstreets.source.draw", partial(synthstreets.draw, height=64, width=128)
    )
    monkeypatch.setattr(
        "segleak_utils.studies.literature.predictability", lambda _, scenes: np.zeros(len(scenes))
    )
    monkeypatch.setattr(
        "segleak_utils.attacks.peers.ImageRecipe", partial(ImageRecipe, epochs=1, batch=8)
    )
    by_heart = {"flip": False, "crop_area": 1, "colour": 0, "check_every": 100}
    small = Plan(
        sizes=Sizes(n_members=16, n_nonmembers=20, n_shadow_nonmembers=16, n_held_out=2),
        recipe=Recipe(decoder_channels=8, epochs=2, batch=4, **by_heart),
        attack=AttackRecipe(patch=48, epochs=1, batch=8, width=4),
        further=(),
        weights=tmp_path / "weights",
        data_root=tmp_path / "data",
        progress=False,
    )
    victim = experiment.network(small, "victim-0")
    shadows = experiment.networks(small, "dependent", 2)
    of = beyond.contest(small, "dependent", victim, shadows, strongest=True)
    known = [contests.BLIND, contests.GLOBAL, contests.LOGISTIC]
    known += [contests.patch_attack(r) for r in REPRESENTATIONS]
    calibrated = [references.DIFFERENCE, references.LIRA, references.RMIA]
    calibrated += [references.PER_CLASS, references.ZONES, references.CALIBRATED, beyond.PATCHES]
    calibrated += [WHITE_BOX, BAVARIA, ENSEMBLE, TWO_QUESTIONS]
    assert [a.name for a in of.attacks] == [*known, *PEERS, *calibrated]
    assert all(a.scores.shape == (36,) and np.isfinite(a.scores).all() for a in of.attacks)
    assert np.isfinite([a.threshold for a in of.attacks]).all()
    monkeypatch.setattr("segleak_utils.studies.protected.public", lambda _: victim)
    seconds = costs.seconds_an_image(small, victim, shadows, n=2)
    assert {a.name for a in of.attacks} <= seconds.keys() and min(seconds.values()) > 0
    with pytest.raises(ValueError, match="n is 17"):
        costs.seconds_an_image(small, victim, shadows, n=17)
    found = beyond.lines(of, shadows, of[references.CALIBRATED].scores, seconds)
    assert all(line.seconds == seconds[line.attack] for line in found)
    needs = {line.attack: line.networks for line in found}
    assert {name for name, k in needs.items() if k == 0} == {*beyond.NO_NETWORK}
    assert {needs[name] for name in calibrated} == {2}
    asked = {line.attack: line.questions for line in found}
    assert asked.pop(TWO_QUESTIONS) == 2 and {*asked.values()} == {1}
    assert [line.attack for line in found if line.threat == "weights"] == [WHITE_BOX]
    assert seconds[TWO_QUESTIONS] > seconds[ENSEMBLE] > seconds[BAVARIA]


# ---- lines and files -----------------------------------------------------------------------------


@pytest.mark.slow
def test_lines_are_what_the_metrics_say(plan):
    of, shadows = toy_contest(300), experiment.networks(plan, "dependent", 1)
    best = of[references.CALIBRATED].scores
    found = {line.attack: line for line in beyond.lines(of, shadows, best)}
    for name, line in found.items():
        area = metrics.auc(of[name].scores, of.member)
        assert line.interval() == area
        tpr = metrics.tpr_at_fpr(of[name].scores, of.member, 0.01)
        assert line.interval("tpr_1") == tpr and line.tpr_01 is None  # 150 are too few for .1 %
        behind = metrics.paired_auc_difference(best, of[name].scores, of.member, seed=0)
        assert line.interval("behind") == behind
        rate = metrics.paired_tpr_difference(best, of[name].scores, of.member, 0.01, seed=0)
        assert line.interval("tpr_behind") == rate
    assert found[contests.GLOBAL].asked_once == 0
    assert found[references.DIFFERENCE].asked_once == 800  # the victim is the shadow's reference
    told = beyond.table([*found.values()])
    assert told.count("\n") == len(found) + 1 and "| - |" in told


def test_an_estimate_is_three_fields_of_a_row_and_comes_back():
    found = {
        "auc": metrics.Interval(0.6, 0.5, 0.7, 9, 90),
        "behind": metrics.Interval(0.1, -0.1, 0.2, 9, 90),
    }
    usual = {"victim": "v", "setting": "s", "attack": "a", "accuracy": 0.5, "networks": 2}
    row = Line(**usual, n_members=9, n_nonmembers=90, **rows.ends(found))
    assert (row.auc_low, row.behind_high) == (0.5, 0.2)
    assert {name: row.interval(name) for name in found} == found


def test_what_others_are_held_against_is_known_by_its_differences():
    usual = {"victim": "v", "setting": "s", "n_members": 9, "n_nonmembers": 9, "accuracy": 0.5}
    usual |= {"auc": 0.5, "auc_low": 0.4, "auc_high": 0.6, "networks": 2}

    def line(attack: str, *behind: float, **more: object) -> Line:
        ends = dict(zip(("behind", "behind_low", "behind_high"), behind, strict=True))
        return Line(attack=attack, **usual, **ends, **more)

    a, b = line("a", 0, 0, 0), line("b", 0, -0.1, 0.1)
    assert beyond.best_of([a, b, a]) == "a"
    with pytest.raises(ValueError, match="2 attacks that the others are held against"):
        beyond.best_of([a, line("b", 0, 0, 0)])
    with pytest.raises(ValueError, match="0 attacks"):
        beyond.best_of([a, b, line("a", 0.1, 0, 0.2)])
    opened = line("c", 0.1, 0, 0.2, threat="weights", questions=2, seconds=0.0123)
    *_, last = beyond.table([a, opened]).splitlines()
    assert "| c (has the weights) | 2 |" in last and last.endswith("| 2 | 12 |")


@pytest.mark.slow
def test_a_table_is_read_as_it_was_written(plan, tmp_path):
    shadows = experiment.networks(plan, "dependent", 2)
    of = toy_contest(300)
    found = beyond.lines(of, shadows, of[references.CALIBRATED].scores)
    beyond.write(found, tmp_path / "contest.csv")
    again = beyond.read(tmp_path / "contest.csv")
    assert [(x.attack, x.networks, x.tpr_01) for x in again] == [
        (x.attack, x.networks, x.tpr_01) for x in found
    ]
    assert again[0].auc == pytest.approx(found[0].auc, abs=1e-4)
    with pytest.raises(FileNotFoundError, match="docs/results"):
        beyond.read(tmp_path / "none.csv")
    (tmp_path / "contest.csv").write_text("victim,auc\nvictim-0,high\n", encoding="utf-8")
    with pytest.raises(ValueError, match="not a table of Line rows"):
        beyond.read(tmp_path / "contest.csv")


# ---- what is shipped -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> list[Line]:
    return beyond.read()


def test_the_shipped_contest_has_every_attack_on_every_victim(shipped):
    for victim in beyond.VICTIMS:
        own = [x for x in shipped if (x.victim, x.setting) == (victim, "dependent")]
        fair = {x.attack for x in own if x.networks in (0, 2)}
        assert {contests.BLIND, contests.GLOBAL, contests.LOGISTIC, *PEERS, beyond.PATCHES} <= fair
        assert {contests.patch_attack(r) for r in REPRESENTATIONS} <= fair
        for k in beyond.COUNTS:
            assert references.CALIBRATED in {x.attack for x in own if x.networks == k}
        assert {(x.n_members, x.n_nonmembers) for x in own} == {(400, 2000)}
        blind = next(x for x in own if x.attack == contests.BLIND)
        assert blind.interval().contains(0.5)
    assert {x.networks for x in shipped if x.setting == "independent"} >= {1, 2}


def test_the_best_attack_is_ahead_of_all_others_on_every_victim(shipped):
    """With eight networks, of all attacks with as many, and of all that have no use for them."""
    for victim in beyond.VICTIMS:
        own = [x for x in shipped if (x.victim, x.setting) == (victim, "dependent")]
        best = next(x for x in own if (x.attack, x.networks) == (references.CALIBRATED, 8))
        ours = (references.CALIBRATED, references.ZONES, references.PER_CLASS)
        for other in (x for x in own if x.attack not in ours):
            assert best.tpr_1 > other.tpr_1, (victim, other.attack)
            if other.networks == 8:
                assert other.behind_low > 0, (victim, other.attack)
            else:
                assert best.auc_low > other.auc or other.behind_low > 0, (victim, other.attack)
            if other.attack in (references.RMIA, references.LIRA) and other.networks == 8:
                assert other.tpr_behind_low > 0, (victim, other.attack)
    assert all(x.tpr_behind is not None for x in shipped)


def test_the_choices_are_of_shadows_and_the_chosen_one_is_the_best():
    found = beyond.read(beyond.CHOICES, Choice)
    assert {c.shadows for c in found} == {8}
    best = {c.variant: c for c in found}
    assert {*references.FEATURES} <= best.keys()
    simpler = [best[name].auc for name in references.FEATURES if name != references.CALIBRATED]
    assert best[references.CALIBRATED].auc >= max(simpler)
