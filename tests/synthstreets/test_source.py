"""SynthStreets as a source of scenes: drawn once, by processes that end with their parent."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from segleak_utils.data import VOID, Scenes
from segleak_utils.synthstreets import draw, mislabelled, render_scene
from segleak_utils.synthstreets.cache import drawn_once

# ---------------------------------------------------------------------------------- SynthStreets


def synth(root: Path, start: int = 0, count: int = 3, **given) -> Scenes:
    given = {"height": 32, "width": 64, "root": root, "progress": False} | given
    return draw("harbour", 0, start, count, **given)


def test_synthstreets_is_the_renderer_cached(tmp_path, monkeypatch):
    scenes = synth(tmp_path, 5)
    image, mask = render_scene("harbour", 0, 6, 32, 64)
    assert scenes.ids == ["harbour-s0-000005", "harbour-s0-000006", "harbour-s0-000007"]
    assert scenes.n_classes == 19
    assert torch.equal(scenes[1][0], torch.from_numpy(image).permute(2, 0, 1) / 255)
    assert torch.equal(scenes[1][1], torch.from_numpy(mask).long())
    shifted = synth(tmp_path, 6)  # an index is the identity of a scene, however the range is cut
    assert shifted.ids[0] == scenes.ids[1] and torch.equal(shifted[0][0], scenes[1][0])
    assert shifted.subset([0, 1]).digest == scenes.subset([1, 2]).digest
    # the second time nothing is drawn
    monkeypatch.setattr("segleak_utils.synthstreets.cache.in_processes", None)
    assert torch.equal(synth(tmp_path, 5)[1][0], scenes[1][0])


def test_a_street_has_its_moments_one_after_the_other(tmp_path):
    scenes = synth(tmp_path, 5, 2, moments=3)
    assert scenes.ids == [f"harbour-s0-00000{n}-m{k}" for n in (5, 6) for k in range(3)]
    assert list(scenes.groups) == ["harbour-s0-000005"] * 3 + ["harbour-s0-000006"] * 3
    image, mask = render_scene("harbour", 0, 6, 32, 64, moment=1)
    assert torch.equal(scenes[4][0], torch.from_numpy(image).permute(2, 0, 1) / 255)
    assert torch.equal(scenes[4][1], torch.from_numpy(mask).long())
    assert torch.equal(synth(tmp_path, 6, 1, moments=2)[1][0], scenes[4][0])
    wrong = mislabelled(scenes, workers=1)
    careful = render_scene("harbour", 0, 6, 32, 64, careful=True, moment=1)[1]
    both = (mask != VOID) & (careful != VOID)
    np.testing.assert_array_equal(wrong[4], (mask != careful) & both)
    with pytest.raises(ValueError, match="moments is 0, expected 1 or more"):
        synth(tmp_path, moments=0)


def test_workers_start_without_torch(tmp_path, monkeypatch):
    # each would take a second more, two a range, while a notebook waits for its scenes
    jobs = []
    for where in ("cache", "annotator"):
        monkeypatch.setattr(
            f"segleak_utils.synthstreets.{where}.in_processes",
            lambda work, keys, *_, **__: jobs.append(work) or (work(key) for key in keys),
        )
    mislabelled(synth(tmp_path, 5))
    script = "import pickle, sys; pickle.load(sys.stdin.buffer); print('torch' in sys.modules)"
    for job in jobs:
        ran = subprocess.run(
            [sys.executable, "-c", script], input=pickle.dumps(job), capture_output=True
        )
        assert ran.stdout.split() == [b"False"], (job, ran.stderr.decode())
    assert len(jobs) == 2


def left(caches: Path) -> list[Path]:
    """What lies there beside the locks."""
    return [path for path in caches.iterdir() if path.suffix != ".lock"]


def shown(root: Path) -> Path:
    """The one cache that is there."""
    (cache,) = left(root / "synthstreets")
    return cache


def draw_black(index: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((32, 64, 3), np.uint8), np.full((32, 64), index, np.uint8)


@pytest.mark.parametrize("damage", ["flip", "cut", "meta", "lost", "stale"])
def test_a_torn_or_stale_cache_is_drawn_again(tmp_path, damage):
    expected = synth(tmp_path / "whole")[2][0]
    del (scenes := synth(tmp_path))._rows
    cache = shown(tmp_path)
    file, meta = cache / "images.npy", cache / "meta.json"
    if damage == "flip":  # the size is right, one byte is not
        content = bytearray(file.read_bytes())
        content[-1] ^= 255
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "meta":
        meta.write_text('{"na')
    elif damage == "lost":
        (cache / "masks.npy").unlink()
    else:
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"name": "another-v0"}))
    with pytest.warns(UserWarning, match="harbour-s0-0-3.*torn"):
        scenes = synth(tmp_path)
    assert torch.equal(scenes[2][0], expected)
    assert shown(tmp_path) == cache


def test_a_failed_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        yield render_scene("harbour", 0, 0, 32, 64)
        raise KeyboardInterrupt

    monkeypatch.setattr("segleak_utils.synthstreets.cache.in_processes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synth(tmp_path)
    assert left(tmp_path / "synthstreets") == []


# A script without an `if __name__ == "__main__"` guard, as a user writes it.
SCRIPT = """
import sys
print("script runs")
from segleak_utils import synthstreets
given = {{"height": 32, "width": 64, "root": sys.argv[1], "workers": 2}}
scenes = synthstreets.draw("harbour", 0, 0, {count}, **given)
print(scenes.digest)
"""


def script(tmp_path: Path, count: int) -> subprocess.Popen:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(count=count))
    repository = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, str(path), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(repository)},
        start_new_session=True,
        preexec_fn=_heeds_ctrl_c if os.name == "posix" else None,
    )


def _heeds_ctrl_c() -> None:
    """A job that a shell put in the background would hand down that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_parallel_drawing_gives_the_same_pixels_and_shows_progress(tmp_path):
    out, err = script(tmp_path, 61).communicate(timeout=60)
    assert out.splitlines()[0] == "script runs" and out.count("script runs") == 1, err
    assert "61/61" in err
    parallel = synth(tmp_path, 0, 61)  # from the cache that the script wrote
    for i in (0, 24, 25, 60):
        image, mask = render_scene("harbour", 0, i, 32, 64)
        assert torch.equal(parallel[i][0], torch.from_numpy(image).permute(2, 0, 1) / 255)
        assert torch.equal(parallel[i][1], torch.from_numpy(mask).long())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="sends POSIX signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGKILL", 9)])
def test_a_drawing_that_is_ended_leaves_no_cache_and_no_worker(tmp_path, end):
    process = script(tmp_path, 100_000)
    caches = tmp_path / "synthstreets"
    for _ in range(600):  # until the drawing has begun
        if caches.exists() and any(caches.glob(".*/images.npy")):
            break
        time.sleep(0.05)
    time.sleep(1)
    if end == signal.SIGINT:
        os.killpg(process.pid, end)  # what a terminal does
    else:
        process.send_signal(end)  # the parent alone, as a scheduler or `timeout` does
    try:
        _, err = process.communicate(timeout=30)  # would not end while a worker holds the pipes
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode != 0
    if end == signal.SIGINT:
        assert "KeyboardInterrupt" in err and left(caches) == []
    if end == getattr(signal, "SIGKILL", 9):
        (half,) = left(caches)
        name = half.name.removeprefix(".").partition(f".{process.pid}-")[0]
        others = [caches / f".{name}.{os.getpid()}-abc.part", caches / ".other-v1.999999-abc.part"]
        for other in others:
            other.mkdir()
        drawn_once(caches / name, draw_black, range(3), (32, 64), progress=False)
        assert sorted(left(caches)) == sorted([*others, caches / name])
        return
    assert not any(caches.glob("[!.]*"))  # nothing that could be taken for a whole cache


@pytest.mark.slow
def test_of_several_processes_that_want_a_cache_one_draws_it(tmp_path):
    wanting = [script(tmp_path, 61) for _ in range(4)]
    told = [process.communicate(timeout=120) for process in wanting]
    assert [process.returncode for process in wanting] == [0] * 4, told
    assert len({out for out, _ in told}) == 1
    assert sum("61/61" in err for _, err in told) == 1
    assert not any("disk full" in err or "torn" in err for _, err in told)
    assert shown(tmp_path).name.startswith("harbour")


def test_a_folder_that_cannot_be_written_is_an_os_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        synth(tmp_path / "file")


def test_synthstreets_refuses_what_it_cannot_draw(tmp_path):
    with pytest.raises(ValueError, match=r"'atlantis' is unknown, expected one of .*harbour"):
        draw("atlantis", 0, 0, 1, root=tmp_path)
    for start, count in ((-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=f"start {start}, count {count}: expected"):
            synth(tmp_path, start, count)
