"""The command under torchrun: each process asks about a shard, and the result is that of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from toy_audits import C, write_lists

from segleak_utils.audit import command
from segleak_utils.victims.processes import run_processes

TESTS = Path(__file__).parents[1]
NETS = """
import os
from pathlib import Path
from toy_audits import Colours

class Counting(Colours):
    def forward(self, images):
        asked = Path(__file__).with_name(f"asked{os.environ.get('RANK', '')}.txt")
        with asked.open("a") as file:
            file.write("x" * len(images))
        return super().forward(images)

net, reference = Counting(), Counting(tilt=0.5)
"""


def asked(root: Path) -> dict[str, int]:
    """How many images each process has asked about since this was last looked at."""
    found = {}
    for path in sorted(root.glob("asked*.txt")):
        found[path.stem.removeprefix("asked")] = len(path.read_text())
        path.unlink()
    return found


def result(folder: Path) -> tuple[str, dict]:
    """All that an audit wrote of images, and its findings but how they came about."""
    content = json.loads((folder / "audit.json").read_text())
    for key in ("seconds", "command", "config"):
        content["audited"].pop(key)
    return (folder / "images.csv").read_text(), content


@pytest.mark.slow
def test_the_command_under_torchrun_finds_what_one_process_finds(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    write_lists(tmp_path, n=26)
    (tmp_path / "nets_of_shards.py").write_text(NETS)
    pairs = {
        part: {"images": f"{part}/images", "masks": f"{part}/masks"}
        for part in ("members", "nonmembers")
    }
    told = {
        "data": {"n_classes": C} | pairs,
        "answers": {"model": "nets_of_shards:net", "returns": "logits"},
        "references": [{"model": "nets_of_shards:reference", "returns": "logits"}],
        "relabellings": 40,
        "resamples": 200,
    }
    path = tmp_path / "audit.yml"
    path.write_text(yaml.safe_dump(told))
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    line = ["--no-install", "audit", str(path), "--quiet", "--out"]
    assert run_processes(2, "segleak_utils.run", [*line, str(shared)]) == 0
    # half of 52 images, two networks; four more of each show that it answers alike
    assert asked(tmp_path) == {"0": 60, "1": 60}
    assert command.main([str(path), "--quiet", "--out", str(alone)]) == 0
    assert asked(tmp_path) == {"": 112}
    assert result(shared) == result(alone)
    assert command.main([str(path), "--quiet", "--out", str(shared)]) == 0
    assert asked(tmp_path) == {}  # all was there
