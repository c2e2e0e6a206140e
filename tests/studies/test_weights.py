"""Training side by side, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from segleak_utils.attacks.patchnets import CALIBRATED_MAP
from segleak_utils.studies import Plan, Sizes, beyond, experiment, weights
from segleak_utils.studies.experiment import network
from segleak_utils.studies.patchattacks import attacker_name
from segleak_utils.studies.shelf import manifest
from segleak_utils.victims import Recipe
from segleak_utils.whole import sha256


@pytest.mark.slow
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
    weights._side_by_side(plan, weights._network_apart, names)
    assert manifest(plan.weights).keys() == set(names)
    assert not any((plan.build / "training").iterdir())
    for name in names:
        assert network(plan, name).sha256 == sha256(plan.weights / f"{name}.safetensors")


def test_the_attackers_on_the_calibrated_map_are_trained_too(tmp_path, monkeypatch):
    """Each with both shadows of its setting; with a single shadow there is no reference for it."""
    missing = {attacker_name(setting, CALIBRATED_MAP) for setting in experiment.SETTINGS}
    asked = []
    monkeypatch.setattr(weights, "shipped", lambda folder, name: None if name in missing else name)
    monkeypatch.setattr(
        weights, "_side_by_side", lambda plan, train, what: asked.extend((train, w) for w in what)
    )
    weights.train_weights(plan=Plan(weights=tmp_path, shadow_seeds=(0,)))
    assert asked == []
    weights.train_weights(plan=Plan(weights=tmp_path))
    assert asked == [(weights._calibrated_apart, setting) for setting in experiment.SETTINGS]
    trained = []
    monkeypatch.setattr(experiment, "networks", lambda plan, setting, count: networks[:count])
    networks = [SimpleNamespace(sha256=name) for name in "abc"]
    monkeypatch.setattr(beyond, "train_calibrated_patches", lambda *of: trained.append(of))
    apart = weights._calibrated_apart(Plan(weights=tmp_path), "independent")
    assert trained == [(apart, "attack-independent-calibrated-loss-map", networks[:2])]
    assert apart.weights != tmp_path


SCRIPT = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from segleak_utils.studies import Plan, weights


def train(plan, item):
    Path(sys.argv[1], item).touch()
    print(item, flush=True)
    time.sleep(60)


if __name__ == "__main__":
    weights._side_by_side(Plan(), train, ["a", "b", "c", "d", "e", "f", "g", "h"])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGKILL", 9)])
def test_a_signal_ends_the_training_and_begins_no_other_network(tmp_path, end):
    script, begun = tmp_path / "script.py", tmp_path / "begun"
    script.write_text(SCRIPT)
    begun.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(begun)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
        # a shell's background job ignores SIGINT; the test must not inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for _ in range(min(8, os.cpu_count() or 1)):  # until all workers are at work
            process.stdout.readline()
        before = set(begun.iterdir())
        if end == signal.SIGINT:
            os.killpg(process.pid, end)  # what a terminal does
        else:
            process.send_signal(end)  # the parent alone, as a scheduler or `timeout` does
        process.communicate(timeout=20)  # would not end while a worker holds the pipes
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0
    assert set(begun.iterdir()) == before
