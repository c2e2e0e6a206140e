"""Training side by side, in real processes."""

from __future__ import annotations

from segleak_utils import experiment, training, victims
from segleak_utils.experiment import Plan, Sizes, manifest, network
from segleak_utils.victims import Recipe


def test_two_networks_are_trained_in_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path / "build"))
    plan = Plan(
        sizes=Sizes(n_members=8, n_nonmembers=4, n_shadow_nonmembers=4, n_held_out=2),
        recipe=Recipe(epochs=1, batch=4),
        weights=tmp_path / "weights",
        data_root=tmp_path / "data",
        progress=False,
    )
    names = ["victim-0", "shadow-dependent-0"]
    for name in names:
        experiment.roles(plan, name)
    training._side_by_side(plan, training._network_apart, names)
    assert manifest(plan.weights).keys() == set(names)
    assert not any((plan.build / "training").iterdir())
    for name in names:
        assert network(plan, name).sha256 == victims.sha256(plan.weights / f"{name}.safetensors")
