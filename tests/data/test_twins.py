"""One picture under two names: in a list, in a folder, and across the lists of a split."""

from __future__ import annotations

import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from toy_drives import ROLES

from segleak_utils.data import Scenes, Split, files, folder
from segleak_utils.data.twins import in_arrays, in_files, refuse_twins, twins


def images(n: int, seed: int = 0, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, side, side), dtype=np.uint8)


def scenes_of(pixels: np.ndarray, name: str = "s") -> Scenes:
    masks = np.zeros((len(pixels), *pixels.shape[2:]), np.uint8)
    ids = [f"{name}{i}" for i in range(len(pixels))]
    return Scenes.from_arrays(pixels, masks, ids, ["road", "car"])


def save(path: Path, pixels: np.ndarray, **given) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path, **given)
    return path


def test_one_picture_twice_in_a_list_names_both_ids():
    pixels = images(4)
    pixels[3] = pixels[1]
    with pytest.raises(ValueError, match=r"s1 and s3 are one picture under two ids.*remove one"):
        scenes_of(pixels)
    pixels[3, 2, 7, 7] ^= 1  # one pixel, which the quick key does not see
    assert in_arrays(pixels).quick[1] == in_arrays(pixels).quick[3]
    assert len(scenes_of(pixels)) == 4
    with pytest.raises(ValueError, match="s1 and t0 are one picture"):
        _ = scenes_of(pixels) + scenes_of(pixels[1:2].copy(), "t")


@pytest.mark.parametrize("role", range(6))
@pytest.mark.parametrize("other", range(6))
def test_one_picture_in_two_lists_of_a_split_is_named(role, other):
    pixels = [images(3, seed=i) for i in range(6)]
    lists = [scenes_of(one, f"{name}-") for one, name in zip(pixels, ROLES, strict=True)]
    split = Split(*lists)
    assert all(len(scenes) == 3 for scenes in split.lists().values())
    if role < other:
        pixels[other][2] = pixels[role][1]
        lists[other] = scenes_of(pixels[other], f"{ROLES[other]}-")
        names = f"{ROLES[role]}: {ROLES[role]}-1 and {ROLES[other]}: {ROLES[other]}-2"
        with pytest.raises(ValueError, match=f"^{names} are one picture under two ids"):
            Split(*lists)


def test_files_with_one_picture_are_both_named(tmp_path):
    pixels = images(3)
    for i, name in enumerate("abc"):
        save(tmp_path / "images" / f"{name}.png", pixels[i])
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / "masks" / f"{name}.png")
    at = tmp_path / "images", tmp_path / "masks"
    whole = folder(*at, n_classes=1)
    assert pickle.loads(pickle.dumps(whole)).ids == ["a", "b", "c"]
    shutil.copy(at[0] / "a.png", at[0] / "c.png")
    match = r"a \(.*images.a\.png\) and c \(.*images.c\.png\) are one picture"
    with pytest.raises(ValueError, match=match):
        folder(*at, n_classes=1)
    with pytest.raises(ValueError, match=match):
        folder(*at, n_classes=1, size=(4, 4))
    pairs = [(at[0] / f"{name}.png", at[1] / f"{name}.png") for name in "abc"]
    one, two, three = (
        files([pair], [name], ["class 0"]) for pair, name in zip(pairs, "xyz", strict=True)
    )
    with pytest.raises(ValueError, match=r"victim_members: x \(.*a\.png\) and .*: z \(.*c\.png\)"):
        Split(one, two, three, whole.subset([1]))


def test_files_of_one_size_are_told_apart_by_their_pixels(tmp_path):
    pixels = images(2)
    paths = [save(tmp_path / f"{i}.bmp", pixels[i]) for i in range(2)]
    sizes = [path.stat().st_size for path in paths]
    assert sizes[0] == sizes[1]
    pictures = in_files(paths, sizes)
    assert twins([(pictures, 0, "a"), (pictures, 1, "b")]) is None
    # another comment, the same pixels
    for path, word in zip(paths, ("one", "two"), strict=True):
        note = PngInfo()
        note.add_text("Comment", word)
        save(path.with_suffix(".png"), pixels[0], pnginfo=note)
    paths = [path.with_suffix(".png") for path in paths]
    assert paths[0].read_bytes() != paths[1].read_bytes()
    pictures = in_files(paths, [path.stat().st_size for path in paths])
    with pytest.raises(ValueError, match=r"a \(.*0\.png\) and b \(.*1\.png\)"):
        refuse_twins([(pictures, 0, "a"), (pictures, 1, "b")])


def test_large_files_of_one_size_are_not_decoded(tmp_path):
    paths = [save(tmp_path / f"{i}.bmp", images(1, seed=i, side=200)[0]) for i in range(4)]
    pictures = in_files(paths, [path.stat().st_size for path in paths])
    rows = [(pictures, i, str(i)) for i in range(4)]
    assert twins(rows) is None and {level for _, level in pictures.seen} == {0}
    shutil.copy(paths[1], paths[3])
    pictures = in_files(paths, [path.stat().st_size for path in paths])
    found = twins([(pictures, i, str(i)) for i in range(4)])
    assert [name for _, _, name in found] == ["1", "3"]
    assert {row for row, level in pictures.seen if level == 1} == {1, 3}


def test_what_was_seen_is_kept(tmp_path):
    pixels = np.zeros((3, 3, 8, 8), np.uint8)
    pixels[:, 0, 0, 0] = 1, 2, 3  # all quick keys are equal
    scenes = scenes_of(pixels)
    seen = scenes.pictures()[0][0].seen
    assert len(seen) == 3
    before = dict(seen)
    assert scenes.subset([2, 0]).pictures()[0][0].seen is seen and seen == before


def test_thousands_of_scenes_cost_milliseconds(tmp_path):
    shape = (2000, 3, 128, 256)
    pixels = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, shape)
    rng = np.random.default_rng(0)
    for line in (64, 96):
        pixels[:, :, line] = rng.integers(0, 256, (2000, 3, 256), dtype=np.uint8)
    ids = [str(i) for i in range(2000)]
    masks = np.broadcast_to(np.zeros((128, 256), np.uint8), (2000, 128, 256))
    names = ["road", "car"]
    scenes = Scenes.from_arrays(pixels, masks, ids, names, source="drawn")
    rows = scenes.pictures()
    took = []
    for _ in range(5):
        start = time.perf_counter()
        refuse_twins(rows)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.05 and not rows[0][0].seen
