"""Imitative references in miniature: who is imitated by means of whose images, and the table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from segleak_utils import synthstreets
from segleak_utils.studies import Plan, Sizes, experiment, imitation
from segleak_utils.victims import Recipe


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(
        "segleak_utils.synthstreets.source.draw", partial(synthstreets.draw, height=32, width=64)
    )
    return Plan(
        sizes=Sizes(n_members=12, n_nonmembers=100, n_shadow_nonmembers=100, n_held_out=2),
        recipe=Recipe(decoder_channels=8, epochs=1, batch=6),
        weights=tmp_path / "weights",
        data_root=tmp_path / "data",
        progress=False,
    )


@pytest.mark.slow
def test_each_network_is_imitated_on_others_images_and_once(plan, monkeypatch):
    shadows, of = experiment.networks(plan, "dependent", 2), experiment.network(plan, "victim-0")
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
    lines = imitation.imitation(plan, ["victim-0"]).splitlines()
    assert len(lines) == 4 + 3 * len(imitation.SHOWN)
    for line in lines[4 : 4 + len(imitation.SHOWN)]:  # plain ones minus themselves
        assert "| +.000 [+.000, +.000] | +.000 [+.000, +.000] |" in line
    # the same name, another network to be imitated
    with pytest.raises(ValueError, match="imitates another network, or none; train it again"):
        imitation.imitator(plan, replace(of, model=shadows[0].model), shadows[1])
    with pytest.raises(ValueError, match="1 shadow; a shadow needs another one"):
        imitation.cases(plan, of, shadows[:1])
