"""Cityscapes, BDD100K and Mapillary in miniature trees, whole, damaged and of wrong ids."""

from __future__ import annotations

import os
import pickle
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
from trees import (
    CITYSCAPES_IDS,
    MAPILLARY_IDS,
    bdd100k_tree,
    cityscapes_tree,
    mapillary_tree,
    save,
    scene,
)

from segleak_utils import datasets, imagefiles
from segleak_utils.datasets import bdd100k, cityscapes, mapillary
from segleak_utils.labels import (
    FOREIGN,
    MAPILLARY_TABLE,
    MAPILLARY_TRAIN_IDS,
    TRAIN_ID_TABLE,
    convert_mapillary,
    to_train_ids,
)

TABLES = {
    "TRAIN_ID": TRAIN_ID_TABLE,
    "CITYSCAPES": datasets.CITYSCAPES_TABLE,
    "MAPILLARY": MAPILLARY_TABLE,
}

# ---------------------------------------------------------------------------------------- tables


def test_the_tables_are_those_of_the_data_sets():
    for table, ids, known in (
        (datasets.CITYSCAPES_TABLE, [(i,) for i in CITYSCAPES_IDS], 34),
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
        to_train_ids(np.array([1]), datasets.CITYSCAPES_TABLE)


# ----------------------------------------------------------------------------------- three sets


def test_cityscapes(tmp_path):
    root = cityscapes_tree(tmp_path, 6, 4)
    scenes = cityscapes(root)
    assert len(scenes) == 10 and scenes.shape == (16, 32) and scenes.n_classes == 19
    assert scenes.ids[0] == "cityscapes/train/aachen_000000_000019"
    assert scenes.ids[6] == "cityscapes/val/frankfurt_000000_000019"
    assert scenes.ids[:6] == sorted(scenes.ids[:6]) and scenes.ids[6:] == sorted(scenes.ids[6:])
    assert scenes.groups[:4] == ("aachen", "aachen", "bochum", "bochum")
    rng = np.random.default_rng(0)  # the tree draws its scenes in the sorted order
    for (image, mask), _ in zip(scenes, range(6), strict=False):
        picture, labels = scene(rng, (16, 32))
        assert torch.equal(mask, torch.from_numpy(labels).long())
        assert torch.equal(image, torch.from_numpy(picture).permute(2, 0, 1).float() / 255)
        rng.choice(5)  # the tree draws which id its void has
    val = cityscapes(root, ["val"], size=(8, 16))
    assert val.ids == scenes.ids[6:] and val[0][0].shape == (3, 8, 16) and val.shape == (8, 16)
    assert cityscapes(root, ("val", "train")).ids == scenes.ids[6:] + scenes.ids[:6]


@pytest.mark.parametrize("layout", ["seg", "10k"])
def test_bdd100k(tmp_path, layout):
    root = bdd100k_tree(tmp_path, 3, 2, layout=layout)
    scenes = bdd100k(root)
    assert [i.rsplit("/", 1)[0] for i in scenes.ids] == ["bdd100k/train"] * 3 + ["bdd100k/val"] * 2
    assert scenes.ids[:3] == sorted(scenes.ids[:3])
    stored = next(root.rglob(f"{scenes.ids[0].rsplit('/', 1)[1]}*.png"))
    assert np.array_equal(scenes[0][1].numpy(), np.asarray(Image.open(stored)))
    assert torch.cat([mask.unique() for _, mask in scenes]).unique()[-1] == 255
    assert bdd100k(root, "val").ids == scenes.ids[3:]


def test_mapillary(tmp_path):
    root = mapillary_tree(tmp_path, 3, 2, converted=True)
    scenes = mapillary(root, size=(8, 16))
    assert [i.split("/")[1] for i in scenes.ids] == ["training"] * 3 + ["validation"] * 2
    assert scenes[1][0].shape == (3, 8, 16) and scenes[1][1].shape == (8, 16)
    with pytest.raises(ValueError, match=r"differ in size: give size=\(height, width\)"):
        mapillary(root)


def test_scenes_travel_to_loader_processes_and_know_their_files(tmp_path):
    root = cityscapes_tree(tmp_path, 2, 1)
    scenes = cityscapes(root)
    assert torch.equal(pickle.loads(pickle.dumps(scenes))[0][1], scenes[0][1])
    assert cityscapes(root).digest == scenes.digest != cityscapes(root, size=(8, 16)).digest
    os.utime(next(root.rglob("*_labelIds.png")), ns=(1, 1))
    assert cityscapes(root).digest != scenes.digest


def test_only_one_header_is_read_and_another_grid_is_an_error_later(tmp_path, monkeypatch):
    root = cityscapes_tree(tmp_path, 3, 1)
    name = "train/zurich/zurich_000002_000019"
    save(root / f"leftImg8bit/{name}_leftImg8bit.png", np.zeros((8, 8, 3), np.uint8))
    save(root / f"gtFine/{name}_gtFine_labelIds.png", np.zeros((8, 8), np.uint8))
    opened, plain = [], imagefiles.opened
    monkeypatch.setattr(imagefiles, "opened", lambda path: opened.append(path) or plain(path))
    scenes = cityscapes(root)
    assert len(opened) == 1
    match = r"zurich_000002_000019_leftImg8bit\.png: \(8, 8\), but .*aachen.* is \(16, 32\).*size="
    with pytest.raises(ValueError, match=match):
        scenes[2]
    assert cityscapes(root, size=(8, 16))[2][0].shape == (3, 8, 16)


# ------------------------------------------------------------------------------------- bad input


def test_wrong_root(tmp_path):
    where = r"no such folder, expected {} in .*; data/README\.md"
    for load, folder, name in (
        (cityscapes, "leftImg8bit.train", "Cityscapes"),
        (bdd100k, r"seg.images or .*images.10k", "BDD100K"),
        (lambda root: mapillary(root, size=(4, 4)), "training.images", "Mapillary Vistas"),
        (convert_mapillary, "training", "Mapillary Vistas v1.2"),
    ):
        with pytest.raises(FileNotFoundError, match=f"{folder}: {where.format(name)}"):
            load(tmp_path / "nowhere")
    cityscapes_tree(tmp_path, 1, 1)
    shutil.rmtree(tmp_path / "gtFine" / "val")
    with pytest.raises(FileNotFoundError, match=r"gtFine.val: no such folder, expected Cityscapes"):
        cityscapes(tmp_path)


def test_packed_archives_are_named_and_left_alone(tmp_path):
    for name in ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"unpack gtFine_\w+\.zip, leftImg8bit_\w+\.zip"):
        cityscapes(tmp_path)


def test_unknown_splits(tmp_path):
    for splits in (["test"], [], ["train", "train"]):
        with pytest.raises(ValueError, match=r"splits are \[.*expected some of train, val, each"):
            cityscapes(cityscapes_tree(tmp_path, 1, 1), splits)


@pytest.mark.parametrize("half", ["labels", "images", "all labels", "all"])
def test_half_a_data_set(tmp_path, half):
    cases = (
        (cityscapes_tree, cityscapes, "*_leftImg8bit.png", "*_labelIds.png"),
        (bdd100k_tree, bdd100k, "*.jpg", "*_train_id.png"),
        (mapillary_tree, lambda root: mapillary(root, size=(4, 4)), "*.jpg", "city*/*.png"),
    )
    for number, (tree, load, images, labels) in enumerate(cases):
        root = tmp_path / str(number)
        tree(root, 5, 1, **({"converted": True} if tree is mapillary_tree else {}))
        first = next(path for path in root.rglob("train*") if path.is_dir()).name
        files = {
            kind: sorted(path for path in root.rglob(pattern) if first in path.parts)
            for kind, pattern in (("images", images), ("labels", labels))
        }
        lost = files["images"][:4] if half == "images" else files["labels"][:4]
        message = r"4 of 5 {} have no {} in .*, e\.g\. (\S+, ){{2}}\S+: half a data set\?"
        message = message.format(
            *(("labels", "image") if half == "images" else ("images", "label"))
        )
        if half == "all labels":
            lost, message = files["labels"], "5 of 5 images have no label in .*half a data set"
        elif half == "all":
            lost, message = files["labels"] + files["images"], "no images and no labels"
        for path in lost:
            path.unlink()
        with pytest.raises(ValueError, match=message):
            load(root)


def test_what_the_system_leaves_in_folders_is_no_image(tmp_path):
    root = bdd100k_tree(tmp_path / "b", 1, 1)
    image = next(root.rglob("*.jpg"))
    (image.parent / f"._{image.name}").write_bytes(b"")
    (image.parent / "Thumbs.db").write_bytes(b"")
    assert len(bdd100k(root)) == 2
    root = cityscapes_tree(tmp_path / "c", 1, 1)
    (root / "leftImg8bit" / "train" / "aachen" / ".DS_Store").write_bytes(b"")
    assert len(cityscapes(root)) == 2
    (root / "leftImg8bit" / "train" / ".DS_Store").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.DS_Store: a file among the folders of cities"):
        cityscapes(root)


def test_mapillary_without_converted_labels_names_the_command(tmp_path):
    root = mapillary_tree(tmp_path, 2, 1)
    command = r"python3 -m segleak_utils\.run labels --mapillary "
    with pytest.raises(FileNotFoundError, match=f"cityscapes_labels: no such folder; .*{command}"):
        mapillary(root, size=(4, 4))
    convert_mapillary(root, workers=1, progress=False)
    next((root / "training" / "cityscapes_labels").iterdir()).unlink()
    with pytest.raises(ValueError, match=f"1 of 2 images have no label .*{command}"):
        mapillary(root, size=(4, 4))


def broken(path: Path, values: list[int], mode: str = "L") -> None:
    """Give the label file other labels, of the same size."""
    height, width = np.asarray(Image.open(path)).shape[:2]
    labels = np.resize(np.array(values, np.uint8), (height, width))
    Image.fromarray(labels).convert(mode).save(path)


def test_labels_in_the_wrong_id_space(tmp_path):
    root = bdd100k_tree(tmp_path / "b", 1, 1)
    scenes, label = bdd100k(root), next((root / "seg/labels/train").iterdir())
    for values, looks in (([7, 23, 26], "Cityscapes labelIds"), ([27, 55, 61], "Mapillary Vistas")):
        broken(label, values)
        match = rf"_train_id\.png: label .*: these look like {looks}.*; expected train ids .*; take"
        with pytest.raises(ValueError, match=match):
            scenes[0]
    root = cityscapes_tree(tmp_path / "c", 1, 1)
    scenes, label = cityscapes(root), next(root.rglob("aachen*_labelIds.png"))
    broken(label, [0, 10, 255])
    match = (
        r"labelIds\.png: label 255: these look like train ids.*; expected .*; use the files NAME_"
    )
    with pytest.raises(ValueError, match=match):
        scenes[0]
    Image.fromarray(np.full((16, 32), 26001, np.uint16)).save(label)
    with pytest.raises(ValueError, match=r"labelIds\.png: 16 bits a label, as instance ids have"):
        scenes[0]
    root = mapillary_tree(tmp_path / "m", 1, 1, converted=True)
    scenes = mapillary(root, size=(8, 16))
    broken(next((root / "training" / "cityscapes_labels").iterdir()), [27, 55, 61])
    with pytest.raises(ValueError, match=r"look like Mapillary Vistas.*; remove cityscapes_labels"):
        scenes[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_labels(tmp_path, mode):
    root = cityscapes_tree(tmp_path, 1, 1)
    broken(next(root.rglob("aachen*_labelIds.png")), [1], mode)
    with pytest.raises(ValueError, match=rf"labelIds\.png: pixel mode {mode}, .*the file of their"):
        cityscapes(root)[0]


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_truncated_file_is_never_read(tmp_path, ending):
    root = bdd100k_tree(tmp_path, 1, 1)
    scenes = bdd100k(root)
    whole = scenes[0]
    path = next(path for path in root.rglob(f"*.{ending}") if "train" in path.parts)
    content = path.read_bytes()
    refused = 0
    for length in range(0, len(content), 3):  # wherever it is cut
        path.write_bytes(content[:length])
        try:
            found = scenes[0]
        except ValueError as error:
            assert str(path) in str(error) and "Fetch it again" in str(error)
            refused += 1
        else:  # only the end mark is missing, no pixel
            assert all(torch.equal(a, b) for a, b in zip(whole, found, strict=True))
    assert refused > (len(content) - 24) / 3


def test_image_and_label_of_different_sizes(tmp_path):
    root = cityscapes_tree(tmp_path, 1, 1)
    save(next(root.rglob("aachen*_labelIds.png")), np.zeros((8, 16), np.uint8))
    match = r"labelIds\.png: mask of 8x16, image of 16x32 \(height x width\); expected the same"
    for size in (None, (4, 8)):
        with pytest.raises(ValueError, match=match):
            cityscapes(root, size=size)[0]


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
from segleak_utils.labels import convert_mapillary
print(convert_mapillary(sys.argv[1], workers=2))
"""  # without an `if __name__ == "__main__"` guard, as a user writes it


@pytest.mark.parametrize("end", ["ctrl-c", "kill"])
def test_a_conversion_by_processes_that_is_ended_leaves_no_torn_file_and_no_worker(tmp_path, end):
    root = mapillary_tree(tmp_path, 1, 1)
    labels = next((root / "training" / "labels").iterdir())
    save(labels, np.random.default_rng(0).integers(0, 66, (1000, 1500), dtype=np.uint8))
    for number in range(40):
        shutil.copy(labels, labels.with_stem(f"{number:022d}"))
    whole = len(list(root.rglob("labels/*.png")))
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", root],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
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
