"""Online LiRA in miniature: who is trained on what, and that it finds a victim's members."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from segleak_utils import data, experiment, metrics, online, splits, victims
from segleak_utils.experiment import Plan, Sizes
from segleak_utils.victims import Recipe


def test_every_image_is_in_half_of_the_networks():
    inside = online.halves(60, 4, seed=3)
    assert inside.shape == (4, 60) and (inside.sum(0) == 2).all()
    assert (inside.sum(1) == 30).all()
    choices, counts = np.unique(inside, axis=1, return_counts=True)
    assert choices.shape[1] == 6 and (counts == 10).all()
    np.testing.assert_array_equal(inside, online.halves(60, 4, seed=3))
    assert (inside != online.halves(60, 4, seed=4)).any()
    for n in (2, 5):
        with pytest.raises(ValueError, match=f"{n} networks: expected an even number"):
            online.halves(60, n, seed=0)


def test_members_learned_by_heart_are_found(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(splits, "synthstreets", partial(data.synthstreets, height=64, width=128))
    by_heart = {"flip": False, "crop_area": 1, "colour": 0, "check_every": 100}
    plan = Plan(
        sizes=Sizes(n_members=24, n_nonmembers=30, n_shadow_nonmembers=4, n_held_out=2),
        recipe=Recipe(decoder_channels=16, epochs=25, batch=4, **by_heart),
        weights=tmp_path / "weights",
        data_root=tmp_path / "data",
        progress=False,
    )
    victim = experiment.network(plan, "victim-0")
    of = online.contest(plan, victim)
    assert of.member.sum() == 24 and len(of.member) == 48
    for name in (online.ONLINE, online.OFFLINE):
        assert metrics.auc(of[name].scores, of.member).low > 0.5, name
    monkeypatch.setattr(victims, "train_victim", lambda *_, **__: pytest.fail("trained again"))
    again = online.contest(plan, victim)
    np.testing.assert_array_equal(again[online.ONLINE].scores, of[online.ONLINE].scores)
