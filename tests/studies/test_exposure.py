"""Attackers of several means on networks trained on halves: who asks whom, and what they find."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from segleak_utils import metrics
from segleak_utils.attacks import calibration, contests, online, references
from segleak_utils.data import Scenes
from segleak_utils.studies import exposure, risk
from segleak_utils.studies.plan import Plan


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path))
    return replace(Plan(), progress=False)


@pytest.fixture(scope="module")
def halves():
    """Ten networks of two classes, 120 scenes; half of the scenes lack one zone."""
    rng, inside = np.random.default_rng(0), risk.inside(10, 120)
    shares = rng.dirichlet(np.ones(4), 120)
    shares[:60, 3] = 0
    shares /= shares.sum(1, keepdims=True)
    mean = rng.gamma(4, 0.1, (120, 4)) * np.exp(rng.normal(0, 0.1, (10, 2, 120, 4)))
    mean *= np.exp(-0.15 * inside[:, None, :, None])
    ids = tuple(f"s{i}" for i in range(120))
    return risk.Halves(
        inside, (mean * shares).astype("f4"), shares.astype("f4"), np.ones((10, 2)), ids
    )


def test_nobody_is_attacked_by_itself_or_its_other_half():
    for victim in range(10):
        theirs = exposure.attackers(victim, 8, of=10)
        assert sorted({*theirs, 2 * (victim // 2), 2 * (victim // 2) + 1}) == list(range(10))
        few = exposure.attackers(victim, 6, of=10)
        assert (few == theirs[:6]).all() and (few[::2] % 2 == 0).all()
    for n in (10, 7, 4):
        with pytest.raises(ValueError, match=r"n_networks is|networks of 10; expected an even"):
            exposure.attackers(0, n, of=10)


def test_features_are_means_sums_and_shares(halves):
    found = exposure.features(halves)
    mean, total, share = np.split(found, 3, -1)
    assert found.shape == (10, 120, 12) and (share == halves.shares).all()
    assert np.allclose(mean * share, total) and np.allclose(total, halves.losses[:, 0])
    assert (mean[:, :60, 3] == 0).all()
    assert np.allclose(exposure.features(halves, 1)[..., 4:8], halves.losses[:, 1])


def test_who_has_networks_of_an_images_own_finds_more(plan, halves):
    found = exposure.online_scores(plan, halves, 8)
    assert list(found) == [online.ONLINE, exposure.LIRA, online.STRUCTURED]
    areas = {name: metrics.mean_auc(s, halves.inside, seed=0) for name, s in found.items()}
    loss = -halves.losses[:, 0].sum(-1)
    assert areas[online.ONLINE].low > metrics.mean_auc(loss, halves.inside, seed=0).high
    # each victim's scores are those of the core's attacks
    known, theirs = exposure.features(halves), exposure.attackers(3, 8, of=10)
    alone = online.structured_online(known[3], known[theirs], halves.inside[theirs])
    np.testing.assert_array_equal(found[online.STRUCTURED][3], alone.scores)
    sure = calibration.confidence(halves.losses[:, 0].sum(-1, dtype=np.float64))
    sides = online.by_side(sure[theirs], halves.inside[theirs])
    for name, fixed in ((online.ONLINE, True), (exposure.LIRA, False)):
        by_hand = calibration.lira_online(sure[3], *sides, fixed=fixed)
        assert found[name][3] == pytest.approx(by_hand)
    some = exposure.online_scores(plan, halves, 8, [3, 4])
    np.testing.assert_array_equal(some[online.STRUCTURED][0], alone.scores)


def test_other_answers_are_another_entry(plan, halves):
    first = exposure.online_scores(plan, halves, 6, [0])
    again = exposure.online_scores(plan, halves, 6, [0])
    assert all((again[name] == s).all() for name, s in first.items())
    assert list(again) == list(first)
    other = replace(halves, losses=halves.losses * 1.1)
    assert (
        exposure.online_scores(plan, other, 6, [0])[online.ONLINE] != first[online.ONLINE]
    ).any()


def test_the_default_attacker_has_references_of_its_own(plan, halves, monkeypatch):
    """Two stand-ins that never saw the scenes: what they said, and what they learn from."""
    rng = np.random.default_rng(1)
    shares = halves.shares.astype(np.float64)
    means = rng.gamma(4, 0.1, (2, 120, 4)) * (shares > 0)
    told = [np.hstack([mean, mean * shares, shares]) for mean in means]
    images = rng.integers(0, 256, (120, 3, 2, 2), dtype=np.uint8)
    scenes = Scenes.from_arrays(images, np.zeros((120, 2, 2), np.uint8), halves.ids, ["a", "b"])
    known = exposure.features(halves)
    learned = [
        references.Case(known[k], np.stack([told[0], known[k + 2]]), halves.inside[k])
        for k in (0, 1)
    ]
    shadows = [Named(k, scenes, scenes, halves.inside[k]) for k in (0, 1)]
    looks = iter([rng.random((120, 3)) for _ in range(3)])
    monkeypatch.setattr(risk, "scenes", lambda plan: (scenes, scenes))
    monkeypatch.setattr(exposure.experiment, "networks", lambda plan, setting, n: shadows[:n])
    monkeypatch.setattr(exposure.asking, "told", lambda plan, one, of: told[one.k])
    monkeypatch.setattr(exposure.asking, "shadow_cases", lambda *_: learned)
    monkeypatch.setattr(exposure.asking, "blind_features", lambda *_: next(looks))
    found = exposure.offline_scores(plan, halves)
    loss = halves.losses[:, 0].sum(-1, dtype=np.float64)
    mean = np.mean([one[:, 4:8].sum(1) for one in told], 0)
    assert found[contests.GLOBAL] == pytest.approx(-loss)
    assert found[references.DIFFERENCE] == pytest.approx(mean - loss)
    for k in (0, 5):
        case = references.Case(known[k], np.stack(told), halves.inside[k])
        features = references.FEATURES[references.CALIBRATED]
        attack, _ = references.regression(references.CALIBRATED, features, case, learned)
        assert found[references.CALIBRATED][k] == pytest.approx(attack.scores)
    assert (found[contests.BLIND] == found[contests.BLIND][0]).all()


@dataclass(frozen=True)
class Named:
    """A network that says nothing: what is asked of it is put in its place."""

    k: int
    members: Scenes
    nonmembers: Scenes
    member: np.ndarray
