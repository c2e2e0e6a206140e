"""Online LiRA in miniature: who is trained on what, and that it finds a victim's members."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from segleak_utils import metrics, synthstreets
from segleak_utils.attacks.online import OFFLINE, ONLINE
from segleak_utils.studies import Plan, Sizes, experiment, online
from segleak_utils.victims import Recipe


@pytest.mark.slow
def test_members_learned_by_heart_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(
        "segleak_utils.synthstreets.source.draw", partial(synthstreets.draw, height=32, width=64)
    )
    by_heart = {"flip": False, "crop_area": 1, "colour": 0, "check_every": 100}
    plan = Plan(
        sizes=Sizes(n_members=24, n_nonmembers=30, n_shadow_nonmembers=4, n_held_out=2),
        recipe=Recipe(decoder_channels=16, epochs=20, batch=6, **by_heart),
        weights=tmp_path / "weights",
        data_root=tmp_path / "data",
        progress=False,
    )
    victim = experiment.network(plan, "victim-0")
    of = online.contest(plan, victim, n_networks=4)
    assert of.member.sum() == 24 and len(of.member) == 48
    for name in (ONLINE, OFFLINE):
        assert metrics.auc(of[name].scores, of.member).low > 0.5, name
    monkeypatch.setattr(
        "segleak_utils.victims.train_victim", lambda *_, **__: pytest.fail("trained again")
    )
    again = online.contest(plan, victim, n_networks=4)
    np.testing.assert_array_equal(again[ONLINE].scores, of[ONLINE].scores)
