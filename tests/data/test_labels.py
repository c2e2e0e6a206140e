"""Label tables and the conversion of Mapillary's labels."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trees import CITYSCAPES_IDS, MAPILLARY_IDS, mapillary_tree, save

from segleak_utils.data import convert_mapillary, imagefiles, mapillary, to_train_ids
from segleak_utils.data.labels import FOREIGN, MAPILLARY_TABLE, MAPILLARY_TRAIN_IDS, TRAIN_ID_TABLE
from segleak_utils.data.streets import CITYSCAPES_TABLE

TABLES = {
    "TRAIN_ID": TRAIN_ID_TABLE,
    "CITYSCAPES": CITYSCAPES_TABLE,
    "MAPILLARY": MAPILLARY_TABLE,
}

# ---------------------------------------------------------------------------------------- tables


def test_the_tables_are_those_of_the_data_sets():
    for table, ids, known in (
        (CITYSCAPES_TABLE, [(i,) for i in CITYSCAPES_IDS], 34),
        (MAPILLARY_TABLE, MAPILLARY_IDS, 66),
    ):
        expected = np.full(256, FOREIGN)
        expected[:known] = 255
        for train_id, stored in enumerate(ids):
            expected[list(stored)] = train_id
        assert table.dtype == np.uint8 and np.array_equal(table, expected)
        assert not table.flags.writeable
    assert MAPILLARY_TRAIN_IDS == MAPILLARY_IDS


def test_to_train_ids_is_the_loop_over_classes():
    labels = np.random.default_rng(0).integers(0, 66, (3, 5, 7), dtype=np.uint8)
    expected = np.full_like(labels, 255)
    for train_id, ids in enumerate(MAPILLARY_IDS):
        for i in ids:
            expected[labels == i] = train_id
    found = to_train_ids(labels, MAPILLARY_TABLE)
    assert found.dtype == np.uint8 and np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("table", "labels", "message"),
    [
        ("TRAIN_ID", [7, 23, 26], "label 23, 26: these look like Cityscapes labelIds"),
        ("TRAIN_ID", [0, 30, 65], "label 30, 65: these look like Mapillary Vistas ids"),
        ("TRAIN_ID", [0, 200], "label 200$"),
        ("CITYSCAPES", [0, 18, 255], "label 255: these look like train ids"),
        ("CITYSCAPES", [0, 65], "label 65: these look like Mapillary"),
        ("CITYSCAPES", [0, 26, 255], "label 255$"),
        ("MAPILLARY", [0, 13, 255], "label 255: these look like train ids"),
        ("MAPILLARY", [0, 13, 66, 123], r"label 66, 123: Vistas v2\.0 has 124 classes; v1\.2 is"),
        ("MAPILLARY", [124], "label 124$"),
    ],
)
def test_foreign_ids_are_errors_that_guess_whose_they_are(table, labels, message):
    with pytest.raises(ValueError, match=message):
        to_train_ids(np.array(labels, np.uint8), TABLES[table])


def test_labels_of_another_type_are_refused():
    with pytest.raises(ValueError, match=r"int64 and uint8 \(256,\), expected uint8"):
        to_train_ids(np.array([1]), CITYSCAPES_TABLE)


def broken(path: Path, values: list[int], mode: str = "L") -> None:
    """Give the label file other labels, of the same size."""
    height, width = np.asarray(Image.open(path)).shape[:2]
    labels = np.resize(np.array(values, np.uint8), (height, width))
    Image.fromarray(labels).convert(mode).save(path)


# ------------------------------------------------------------------------------------ conversion


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_conversion_of_a_tree(tmp_path):
    before = contents(mapillary_tree(tmp_path / "raw", 3, 2))
    expected = mapillary(mapillary_tree(tmp_path / "done", 3, 2, converted=True), size=(16, 32))
    assert convert_mapillary(tmp_path / "raw", workers=2, progress=False) == (5, 0)
    found = mapillary(tmp_path / "raw", size=(16, 32))
    assert found.ids == expected.ids
    for (_, mask), (_, other) in zip(found, expected, strict=True):
        assert torch.equal(mask, other)
    after = contents(tmp_path / "raw")
    assert {name: after[name] for name in before} == before  # no original was touched
    assert convert_mapillary(tmp_path / "raw", progress=False) == (0, 5)
    assert contents(tmp_path / "raw") == after


def test_conversion_of_a_package_of_vistas_2_and_of_one_part(tmp_path):
    root = mapillary_tree(tmp_path, 2, 1)
    (root / "training" / "v1.2").mkdir()
    (root / "training" / "labels").rename(root / "training" / "v1.2" / "labels")
    shutil.rmtree(root / "validation")
    assert convert_mapillary(root, workers=1, progress=False) == (2, 0)
    assert len(mapillary(root, ["training"], size=(8, 8))) == 2
    shutil.rmtree(root / "training" / "v1.2")
    with pytest.raises(FileNotFoundError, match=r"training.labels: no such folder, expected Map"):
        convert_mapillary(root)


def test_an_interrupted_conversion_goes_on_where_it_stopped(tmp_path, monkeypatch):
    root = mapillary_tree(tmp_path / "raw", 4, 1)
    saved, plain = [], Image.Image.save

    def interrupted(image, path, **kwargs):
        plain(image, path, **kwargs)
        saved.append(path)
        if len(saved) == 3:  # between writing and renaming
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_mapillary(root, workers=1, progress=False)
    monkeypatch.undo()
    there = [path for path in root.rglob("cityscapes_labels/*")]
    assert len(there) == 2 and all(path.suffix == ".png" for path in there)
    stats = [path.stat().st_mtime_ns for path in there]
    assert convert_mapillary(root, workers=1, progress=False) == (3, 2)
    assert [path.stat().st_mtime_ns for path in there] == stats
    whole = mapillary_tree(tmp_path / "whole", 4, 1)
    convert_mapillary(whole, workers=1, progress=False)
    assert contents(root) == contents(whole)


SCRIPT = """
import sys
from segleak_utils.data import convert_mapillary
print(convert_mapillary(sys.argv[1], workers=2))
"""  # without an `if __name__ == "__main__"` guard, as a user writes it


@pytest.mark.parametrize("end", ["ctrl-c", "kill"])
def test_a_conversion_by_processes_that_is_ended_leaves_no_torn_file_and_no_worker(tmp_path, end):
    root = mapillary_tree(tmp_path, 1, 1)
    labels = next((root / "training" / "labels").iterdir())
    save(labels, np.random.default_rng(0).integers(0, 66, (1000, 1500), dtype=np.uint8))
    for number in range(300):  # the same file under many names: the signal comes before the end
        os.link(labels, labels.with_stem(f"{number:022d}"))
    whole = len(list(root.rglob("labels/*.png")))
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", root],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        # a shell that runs the tests in the background has them ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(1200):  # until the first label is there
        if any(root.rglob("cityscapes_labels/*.png")) or process.poll() is not None:
            break
        time.sleep(0.05)
    if end == "kill":
        process.kill()  # the parent alone
    else:
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    try:
        _, err = process.communicate(timeout=60)  # would not end while a worker holds the pipes
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode != 0 and ("KeyboardInterrupt" in err or end == "kill")
    there = list(root.rglob("cityscapes_labels/*.png"))
    assert 0 < len(there) < whole
    assert end == "kill" or len(there) == len(list(root.rglob("cityscapes_labels/*")))
    for path in there:
        imagefiles.read_labels(path)


def test_ids_of_vistas_2_are_refused_and_nothing_is_written_for_them(tmp_path):
    root = mapillary_tree(tmp_path, 1, 1)
    label = next((root / "training" / "labels").iterdir())
    broken(label, [0, 66, 123])
    match = rf"{label.name}: label 66, 123: Vistas v2\.0 has 124 classes; v1\.2 is expected"
    with pytest.raises(ValueError, match=match):
        convert_mapillary(root, workers=1, progress=False)
    assert list(root.rglob("cityscapes_labels/*")) == []


def test_originals_are_never_overwritten(tmp_path):
    root = mapillary_tree(tmp_path, 1, 1)
    before = contents(root)
    for folder in ("labels", "images"):
        link = root / "training" / "cityscapes_labels"
        link.symlink_to(folder)
        with pytest.raises(ValueError, match=rf"cityscapes_labels: is .*{folder}, where originals"):
            convert_mapillary(root, workers=1)
        link.unlink()
    assert contents(root) == before


def test_nothing_to_convert(tmp_path):
    (tmp_path / "training" / "labels").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"training.labels: no labels \(ID\.png\)"):
        convert_mapillary(tmp_path)
    with pytest.raises(ValueError, match="workers is 0"):
        convert_mapillary(tmp_path, workers=0)
