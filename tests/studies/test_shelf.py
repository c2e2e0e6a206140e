"""The shelf of weights: names that are names, and several writers at once."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from segleak_utils.studies import Plan, shelf, weights
from segleak_utils.studies.plan import ROOT, WEIGHTS
from segleak_utils.victims import read_weights
from segleak_utils.whole import sha256

PATHS = ["../x", "/tmp/x", "a/b", r"a\b", r"C:\x", "c:x", "", ".", "..", ".x", "x\n", "x\0", "~/x"]
ENTRY = {"sha256": "0" * 64}


@pytest.mark.parametrize("name", PATHS)
def test_a_name_that_is_a_path_is_refused_wherever_it_comes_from(tmp_path, name):
    folder = tmp_path / "weights"
    shelf.write_manifest(folder, {"good": ENTRY})
    (tmp_path / "x.safetensors").write_text("somebody's")
    with pytest.raises(ValueError, match="is no name of weights"):
        shelf.shipped(folder, name)
    with pytest.raises(ValueError, match="is no name of weights"):
        shelf.ship(folder, name, {"w": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match="is no name of weights"):
        shelf.write_manifest(folder, {name: ENTRY})
    with pytest.raises(ValueError, match="is no name of weights"):
        shelf.remove(folder, [name])
    (folder / "manifest.json").write_text(json.dumps({"good": ENTRY, name: ENTRY}))
    plan = Plan(weights=folder)
    for what in (
        lambda: shelf.manifest(folder),
        lambda: weights.forget(plan, [name]),
        lambda: shelf.shipped(folder, "good"),
        lambda: shelf.adopt(tmp_path / "other", folder),
    ):
        with pytest.raises(ValueError, match=r"manifest\.json is damaged .*is no name of weights"):
            what()
    assert (tmp_path / "x.safetensors").read_text() == "somebody's"
    kept = {path.name for path in tmp_path.rglob("*.safetensors")}
    assert kept == {"x.safetensors"}


def test_the_names_of_all_that_is_shipped_are_names():
    assert shelf.manifest(WEIGHTS)


def test_what_is_made_from_another_is_forgotten_with_it(tmp_path):
    for name, of in (("a", {}), ("b", {"public": "a"}), ("c", {})):
        meta = {key: shelf.manifest(tmp_path)[value]["sha256"] for key, value in of.items()}
        shelf.ship(tmp_path, name, {"w": torch.full((2,), float(ord(name)))}, meta)
    weights.forget(Plan(weights=tmp_path), ["a"])
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"c.safetensors", "manifest.json"}
    assert shelf.manifest(tmp_path).keys() == {"c"}


def _ship_many(folder: Path, who: int) -> None:
    torch.set_num_threads(1)
    for k in range(30):
        name, tensors = f"net-{who}-{k}", {"w": torch.tensor([who, k], dtype=torch.float32)}
        if k % 3 == 0:
            shelf.ship(folder, name, tensors, {"who": who})
        elif k % 3 == 1:
            shelf.write_manifest(folder, {name: {**ENTRY, "who": who}})
        else:
            apart = folder.parent / f"apart-{who}-{k}"
            shelf.ship(apart, name, tensors, {"who": who})
            weights._adopt(Plan(weights=folder), Plan(weights=apart))


@pytest.mark.slow
def test_of_four_writers_at_once_none_loses_an_entry(tmp_path):
    context, folder = multiprocessing.get_context("spawn"), tmp_path / "weights"
    writers = [context.Process(target=_ship_many, args=(folder, who)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    entries = shelf.manifest(folder)
    assert list(entries) == sorted(f"net-{who}-{k}" for who in range(4) for k in range(30))
    for name, entry in entries.items():
        path = shelf.shipped(folder, name)
        if path is not None:
            assert sha256(path) == entry["sha256"]
            assert read_weights(path)[1]["who"] == entry["who"]
    assert len(list(folder.glob("*.safetensors"))) == 80 and not list(folder.glob("*.part"))


def test_a_lock_beside_the_manifest_disturbs_neither_git_nor_listings(tmp_path):
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git, or no clone")
    shutil.copy(ROOT / ".gitignore", tmp_path)
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    folder = tmp_path / "weights"
    shelf.ship(folder, "a", {"w": torch.zeros(2)}, {})
    assert (folder / ".manifest.json.lock").exists()
    told = [*git, "status", "--porcelain", "--untracked-files=all"]
    shown = subprocess.run(told, check=True, capture_output=True, text=True).stdout
    assert sorted(line.split()[1] for line in shown.splitlines()) == [
        ".gitignore",
        "weights/a.safetensors",
        "weights/manifest.json",
    ]
    assert {path.name for path in folder.glob("*.safetensors")} == {"a.safetensors"}
