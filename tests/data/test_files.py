"""Files by themselves: read as they are stored, written whole or not at all, hashed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from contextlib import closing, suppress

import numpy as np
import pytest
import torch
from PIL import Image

from segleak_utils import data
from segleak_utils.data import examples, imagefiles, keep_freed_memory, labels, workers
from segleak_utils.data.workers import THREADS, end_with_parent, in_processes, lean_children
from segleak_utils.whole import replace_file, sha256


def pair_of(tmp_path, height=2, width=3):
    """An image of one colour and a mask that counts its pixels."""
    image, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    Image.new("RGB", (width, height), (10, 20, 30)).save(image, quality=100)
    counted = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    Image.fromarray(counted).save(mask)
    return (image, mask), counted


def test_a_pair_is_read_as_it_is_stored(tmp_path):
    pair, counted = pair_of(tmp_path)
    assert imagefiles.grid(pair[0]) == imagefiles.grid(pair[1]) == (2, 3)
    image, mask = imagefiles.read_pair(pair, lambda ids, name: ids + 1, size=None)
    assert image.dtype == np.uint8 and image.shape == (3, 2, 3)
    assert np.abs(image[:, 0, 0].astype(int) - (10, 20, 30)).max() <= 2  # JPEG
    assert mask.tolist() == (counted + 1).tolist()
    image, mask = imagefiles.read_pair(pair, lambda ids, name: ids, size=(4, 6))
    assert image.shape == (3, 4, 6) and mask.tolist() == counted.repeat(2, 0).repeat(2, 1).tolist()


def test_scenes_of_files_are_the_files(tmp_path):
    pair, counted = pair_of(tmp_path)
    scenes = data.files([pair], ["a"], [f"class {k}" for k in range(6)])
    image, mask = scenes[0]
    assert mask.tolist() == counted.tolist() and mask.dtype == torch.int64
    assert image.dtype == torch.float32 and abs(float(image[2].mean()) - 30 / 255) < 0.01
    with pytest.raises(ValueError, match=r"a\.png: label 4, 5; expected 0\.\.3"):
        data.files([pair], ["a"], ["a", "b", "c", "d"])[0]


def test_the_first_missing_folder_is_named(tmp_path):
    imagefiles.expect_folders("Streets", tmp_path, (tmp_path,))
    with pytest.raises(FileNotFoundError, match=r"two: no such folder, expected Streets in"):
        imagefiles.expect_folders("Streets", tmp_path, (tmp_path, tmp_path / "two"))


def test_converted_labels_name_their_file():
    table, ids = labels.MAPILLARY_TABLE, np.array([[13, 65]], np.uint8)
    told = {"expected": "ids of Vistas", "mend": "take others"}
    assert labels.converted(ids, "a.png", table, **told).tolist() == [[0, 255]]
    with pytest.raises(ValueError, match=r"a\.png: label 200; expected ids of Vistas; take others"):
        labels.converted(ids[:, :1] + np.uint8(187), "a.png", table, **told)
    with pytest.raises(ValueError, match=r"a\.png: 16 bits a label"):
        labels.converted(ids.astype(np.uint16), "a.png", table, **told)


def test_a_stored_posterior_is_what_numpy_wrote(tmp_path):
    posterior = np.random.default_rng(0).dirichlet(np.ones(19), (2, 3)).transpose(2, 0, 1)
    np.save(tmp_path / "a.npy", posterior.astype(np.float32))
    assert examples.stored(tmp_path / "a.npy").tolist() == posterior.astype(np.float32).tolist()


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    replace_file(path, lambda part: part.write_bytes(b"whole"))
    assert path.read_bytes() == b"whole"
    assert sha256(path) == hashlib.sha256(b"whole").hexdigest()

    def torn(part):
        part.write_bytes(b"ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(path, torn)
    assert path.read_bytes() == b"whole" and [p.name for p in path.parent.iterdir()] == ["a.txt"]
    with pytest.raises(FileNotFoundError, match=r"no file .*b\.txt"):
        sha256(tmp_path / "b.txt")


def test_lean_children_find_one_thread_and_everything_is_put_back(monkeypatch):
    monkeypatch.setenv(THREADS[0], "7")
    monkeypatch.delenv(THREADS[1], raising=False)
    with lean_children():
        assert all(os.environ[name] == "1" for name in THREADS)
    assert os.environ[THREADS[0]] == "7" and THREADS[1] not in os.environ


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_are_done_in_order_by_processes_of_their_own(workers):
    jobs = range(7)
    made = list(in_processes(_done_by, jobs, workers, chunksize=2))
    assert [job for job, _, _ in made] == list(jobs)
    assert ({os.getpid()} == {pid for _, pid, _ in made}) == (workers == 1)
    assert workers == 1 or {threads for _, _, threads in made} == {"1"}
    with closing(in_processes(_done_by, jobs, workers)) as begun:
        assert next(begun)[0] == 0


@pytest.mark.parametrize(("share", "processes"), [("1", 1), ("2", 2), ("", 3), ("many", 3)])
def test_a_process_that_has_its_share_of_the_cores_starts_no_more_workers(
    share, processes, monkeypatch
):
    # beside another notebook a second worker has no core, and takes a second of one to start
    monkeypatch.setenv("OMP_NUM_THREADS", share)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    asked = []
    monkeypatch.setattr(
        workers, "ProcessPoolExecutor", lambda n, *_, **__: asked.append(n) or 1 / 0
    )
    with suppress(ZeroDivisionError):
        assert len(list(in_processes(_done_by, range(4), None))) == 4
    assert asked == [processes] * (processes > 1)


def _done_by(job: int) -> tuple[int, int, str | None]:
    return job, os.getpid(), os.environ.get(THREADS[0])


def _wait_for_the_parent_to_go(after: float = 60.0) -> None:
    end_with_parent()
    print("waits", flush=True)
    time.sleep(after)


def test_a_worker_ends_with_its_parent_even_if_that_is_killed():
    script = """
import multiprocessing, test_files
child = multiprocessing.get_context("spawn").Process(target=test_files._wait_for_the_parent_to_go)
child.start()
child.join()
"""
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=here) as parent:
        assert parent.stdout.readline() == "waits\n"
        parent.kill()
        started = time.monotonic()
        assert parent.stdout.read() == ""  # at its end both have let go of the pipe
    assert time.monotonic() - started < 20


@pytest.mark.skipif(not keep_freed_memory(), reason="another allocator than glibc's")
def test_freed_memory_is_kept_for_the_next_tensor():
    script = """
import resource, sys, torch
from segleak_utils.data import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
def asked_for():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16, 19, 128, 256)  # 40 MB: ten thousand pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
found = [asked_for() for _ in range(20)]  # an aligned block fits a freed one only after a while
print(sum(found[-5:]))
"""
    pages = {
        how: int(subprocess.check_output([sys.executable, "-c", script, how], text=True))
        for how in ("keep", "return")
    }
    assert pages["keep"] < pages["return"] / 10
