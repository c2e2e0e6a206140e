"""Files that are whole or not there, and what happens to those of writers that were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from segleak_utils import whole

ROOT = Path(__file__).resolve().parents[1]

WRITER = """
import sys, time
from pathlib import Path
from segleak_utils.whole import replace_file


def write(part):
    part.write_text("half of")
    print("begun", flush=True)
    time.sleep(60)


replace_file(Path(sys.argv[1]), write)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kill -9 is POSIX's")
def test_what_a_killed_writer_left_is_swept_by_the_next_and_only_that(tmp_path):
    path = tmp_path / "file[1].json"
    whole.write_whole(path, "old")
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    process.stdout.readline()
    (left,) = tmp_path.glob("*.part")
    whole.write_whole(path, "the writer is alive")
    assert left.exists()
    process.kill()
    process.communicate()
    others = [
        tmp_path / f"file[1].json.{os.getpid()}-1.part",
        tmp_path / "other.json.999999-1.part",
    ]
    for other in others:
        other.write_text("somebody's")
    assert left.exists() and path.read_text() == "the writer is alive"
    whole.write_whole(path, "new")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others]) and path.read_text() == "new"


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from segleak_utils.whole import alone\n"
        "with alone(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "a")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    process.stdout.readline()
    with pytest.raises(TimeoutError):
        whole.alone(tmp_path / "a").acquire(timeout=0.2)
    process.kill()
    process.communicate()
    began = time.monotonic()
    with whole.alone(tmp_path / "a"):
        assert time.monotonic() - began < 5


def test_a_checksum_knows_names_types_shapes_values_and_the_text():
    usual = {"a": np.arange(6, dtype=np.int32), "b": np.zeros((0, 2)), "c": np.ones(())}
    assert whole.checksum(dict(reversed(usual.items()))) == whole.checksum(usual)
    others = [
        usual | {"a": np.arange(6, dtype=np.uint32)},
        usual | {"a": np.arange(6, dtype=np.int32).reshape(2, 3)},
        usual | {"a": np.arange(6, dtype=np.int32)[::-1]},
        usual | {"b": np.zeros((2, 0))},
        {"A": usual["a"], "b": usual["b"], "c": usual["c"]},
    ]
    found = {whole.checksum(arrays) for arrays in (usual, *others)}
    assert len(found | {whole.checksum(usual, "text")}) == 7
    strided = np.arange(12, dtype=np.int32).reshape(2, 6)[:, ::2]
    assert whole.checksum({"a": strided}) == whole.checksum({"a": strided.copy()})
