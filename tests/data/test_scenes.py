"""Scenes from arrays, SynthStreets, CamVid and plain folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segleak_utils.data import Scenes, folder


def arrays(n: int = 3, height: int = 4, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 3, height, width), dtype=np.uint8)
    return images, rng.integers(0, 2, (n, height, width), dtype=np.uint8)


def scenes_of(n: int = 3, **given) -> Scenes:
    ids = given.pop("ids", [f"a{i}" for i in range(n)])
    return Scenes.from_arrays(*arrays(n), ids, ["road", "car"], **given)


# ---------------------------------------------------------------------------------------- Scenes


def test_item_types_and_values():
    images, masks = arrays()
    masks[1, 0, 0] = 255
    scenes = Scenes.from_arrays(images, masks, ["a", "b", "c"], ["road", "car"])
    image, mask = scenes[1]
    assert image.dtype == torch.float32 and mask.dtype == torch.int64
    assert torch.equal(image, torch.from_numpy(images[1]) / 255)
    assert torch.equal(mask, torch.from_numpy(masks[1]).long()) and mask[0, 0] == 255
    assert (scenes.n_classes, scenes.shape, len(scenes)) == (2, (4, 6), 3)
    assert scenes.palette.shape == (2, 3) and len(list(scenes)) == 3
    image += 1  # an item is a copy
    assert torch.equal(scenes[-2][0], torch.from_numpy(images[1]) / 255)


def test_batches_are_in_order_and_the_last_is_smaller():
    scenes = scenes_of(5)
    batches = list(scenes.batches(2))
    assert [len(images) for images, _ in batches] == [2, 2, 1]
    for whole, parts in zip(zip(*scenes, strict=True), zip(*batches, strict=True), strict=True):
        assert torch.equal(torch.stack(whole), torch.cat(parts))
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(scenes.batches(0))


def test_subset_and_sum_keep_ids_groups_and_pixels():
    scenes = scenes_of(4, groups=["x", "x", "y", "y"])
    part = scenes.subset(np.array([3, 1])).subset([1, 0])
    assert part.ids == ["a1", "a3"] and part.groups == ("x", "y")
    assert torch.equal(part[1][0], scenes[3][0])
    both = part + scenes.subset([0])
    assert both.ids == ["a1", "a3", "a0"] and both.groups == ("x", "y", "x")
    assert torch.equal(both[2][1], scenes[0][1])
    other = Scenes.from_arrays(*arrays(1), ["z"], ["sky", "sea"])
    with pytest.raises(ValueError, match=r"classes differ.*road.*sky"):
        _ = scenes + other
    small = Scenes.from_arrays(*arrays(1, 2, 2), ["z"], ["road", "car"])
    with pytest.raises(ValueError, match=r"different sizes.*\(2, 2\), \(4, 6\)"):
        _ = scenes + small


def test_a_flip_is_the_same_scene_right_for_left():
    images, masks = arrays()
    scenes = scenes_of(3, groups=["x", "x", "y"])
    flipped = scenes.flipped()
    for i, (image, mask) in enumerate(flipped):
        assert torch.equal(image, torch.from_numpy(images[i, :, :, ::-1].copy()) / 255)
        assert torch.equal(mask, torch.from_numpy(masks[i, :, ::-1].copy()).long())
    assert (flipped.ids, flipped.groups, flipped.shape) == (scenes.ids, scenes.groups, (4, 6))
    assert flipped.digest != scenes.digest == scenes_of(3).digest
    assert torch.equal(flipped.flipped()[1][0], scenes[1][0])
    assert torch.equal(flipped.subset([2])[0][0], flipped[2][0])
    # no way to have a member among the non-members by flipping it
    images = flipped.subset([0])
    images.ids = ["another name"]
    with pytest.raises(ValueError, match="one picture under two ids"):
        _ = scenes + images


def test_digest_tells_content_ids_order_and_classes_apart():
    images, masks = arrays()
    ids, names = ["a", "b", "c"], ["road", "car"]
    scenes = Scenes.from_arrays(images, masks, ids, names)
    assert scenes.digest == Scenes.from_arrays(images.copy(), masks, ids, names).digest
    changed = images.copy()
    changed[0, 0, 0, 0] ^= 1
    digests = {
        scenes.digest,
        Scenes.from_arrays(changed, masks, ids, names).digest,
        Scenes.from_arrays(images, masks, ["a", "b", "d"], names).digest,
        Scenes.from_arrays(images, masks, ids, ["road", "bus"]).digest,
        scenes.subset([1, 0, 2]).digest,
        scenes.subset([0, 1]).digest,
    }
    assert len(digests) == 6


def test_wrong_arrays_are_refused():
    images, masks = arrays()
    ids, names = ["a", "b", "c"], ["road", "car"]
    for wrong, message in (
        ((images / 255, masks, ids, names), r"images are float64 .*expected uint8"),
        ((images, masks[:, :2], ids, names), r"masks are uint8 \(3, 2, 6\), expected .*\(3, 4, 6"),
        ((images, masks.astype(int), ids, names), "masks are int64"),
        ((images, masks, ["a", "b", "a"], names), "unique, found more than once: a"),
        ((images, masks, ids[:2], names), "lengths of scenes, ids and groups differ"),
        ((images, masks, ids, []), "0 classes"),
        ((images, masks, ids, names, np.zeros((3, 3), np.uint8)), r"palette is uint8 \(3, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            Scenes.from_arrays(*wrong)
    masks[2, 0, 0] = 19
    with pytest.raises(ValueError, match=r"scene c: label 19; expected 0\.\.1"):
        Scenes.from_arrays(images, masks, ids, names)[2]


# ---------------------------------------------------------------------------------------- CamVid


def picture(path: Path, width: int = 8, height: int = 6, value: int = 0, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), value).save(path)
    return path


# ----------------------------------------------------------------------------------- plain folder


@pytest.fixture
def plain(tmp_path) -> tuple[Path, Path]:
    for k, name in enumerate(["b.JPG", "a.png", "c.bmp"]):
        picture(tmp_path / "images" / name, value=(10 * k,) * 3, mode="RGB")
        picture(tmp_path / "masks" / f"{name[0]}.png", value=k)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    return tmp_path / "images", tmp_path / "masks"


def test_folder_pairs_by_stem(plain):
    scenes = folder(*plain, n_classes=3)
    assert scenes.ids == ["a", "b", "c"] and scenes.class_names[2] == "class 2"
    assert [mask.unique().item() for _, mask in scenes] == [1, 0, 2]
    assert torch.allclose(scenes[2][0], torch.tensor(20 / 255))
    named = folder(*plain, class_names=["x", "y", "z"], size=(4, 4), name="north")
    assert named.ids[0] == "north/a" and named[0][1].shape == (4, 4)
    assert named.digest != folder(*plain, class_names=["x", "y", "z"], name="north").digest


def test_resizing_mixes_no_labels(plain):
    mask = np.zeros((6, 8), np.uint8)
    mask[:, 4:] = 200
    mask[0] = 255
    Image.fromarray(mask).save(plain[1] / "a.png")
    found = folder(*plain, n_classes=201, size=(5, 7), void=255)[0][1].unique().tolist()
    assert set(found) <= {0, 200, 255} and 200 in found


def test_an_edited_file_changes_the_digest(plain):
    before = folder(*plain, n_classes=3).digest
    assert folder(*plain, n_classes=3).digest == before
    os.utime(plain[1] / "a.png", ns=(1, 1))
    assert folder(*plain, n_classes=3).digest != before


def test_folder_errors_name_the_thing(plain, tmp_path):
    images, masks = plain
    with pytest.raises(ValueError, match="give class_names or n_classes"):
        folder(images, masks)
    with pytest.raises(ValueError, match="1 class_names, but n_classes is 2"):
        folder(images, masks, class_names=["a"], n_classes=2)
    with pytest.raises(ValueError, match=r"size is \(0, 4\)"):
        folder(images, masks, n_classes=3, size=(0, 4))
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        folder(images, tmp_path / "nowhere", n_classes=3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no images"):
        folder(tmp_path / "empty", tmp_path / "empty", n_classes=3)
    for i in range(4):
        picture(images / f"lonely{i}.png", mode="RGB")
    with pytest.raises(ValueError, match=r"4 without mask .*lonely0\.png.*lonely2\.png'\]"):
        folder(images, masks, n_classes=3)
    for i in range(4):
        (images / f"lonely{i}.png").unlink()
    picture(masks / "alone.png")
    with pytest.raises(ValueError, match=r"1 without image .*alone\.png"):
        folder(images, masks, n_classes=3)
    (masks / "alone.png").unlink()
    picture(images / "a.bmp", mode="RGB")
    with pytest.raises(ValueError, match=r"a\.png and .*a\.bmp have the same stem"):
        folder(images, masks, n_classes=3)


def test_folder_sizes_are_checked_at_once(plain):
    images, masks = plain
    picture(masks / "b.png", width=9)
    with pytest.raises(ValueError, match=r"b\.png: mask is \(6, 9\), its image \(6, 8\)"):
        folder(images, masks, n_classes=3, size=(4, 4))
    picture(images / "b.JPG", width=9, mode="RGB")
    with pytest.raises(ValueError, match=r"b\.JPG: \(6, 9\), but .*give size="):
        folder(images, masks, n_classes=3)
    assert folder(images, masks, n_classes=3, size=(4, 4)).shape == (4, 4)
    (images / "b.JPG").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.JPG: cannot be read"):
        folder(images, masks, n_classes=3)


def test_folder_items_are_checked_when_read(plain):
    images, masks = plain
    scenes = folder(images, masks, n_classes=2)
    with pytest.raises(ValueError, match=r"c\.png: label 2; expected 0\.\.1, or 255"):
        scenes[2]
    picture(masks / "a.png", value=(1, 2, 3), mode="RGB")
    with pytest.raises(ValueError, match=r"a\.png: pixel mode RGB, expected one channel"):
        scenes[0]
    picture(masks / "a.png", value=300, mode="I;16")
    with pytest.raises(ValueError, match=r"a\.png: label 300"):
        scenes[0]
    picture(images / "a.png", value=300, mode="I;16")
    with pytest.raises(ValueError, match=r"a\.png: pixel mode I;16, expected 8 bits"):
        scenes[0]
    content = picture(images / "a.png", 64, 64, mode="RGB").read_bytes()
    picture(masks / "a.png", 64, 64)
    (images / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"images.a\.png: cannot be read"):
        scenes[0]


def test_a_subset_by_booleans_is_where_they_are_true():
    scenes = scenes_of(4)
    assert scenes.subset(np.array([False, True, False, True])).ids == scenes.subset([1, 3]).ids
    assert scenes.subset([False] * 4).ids == []
    with pytest.raises(ValueError, match="3 booleans for 4 scenes"):
        scenes.subset([True, False, True])
