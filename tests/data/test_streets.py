"""Cityscapes, BDD100K and Mapillary in miniature trees, whole, damaged and of wrong ids."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trees import bdd100k_tree, cityscapes_tree, mapillary_tree, save, scene

from segleak_utils.data import bdd100k, cityscapes, convert_mapillary, imagefiles, mapillary

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
    monkeypatch.setattr(
        "segleak_utils.data.imagefiles.opened", lambda path: opened.append(path) or plain(path)
    )
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
