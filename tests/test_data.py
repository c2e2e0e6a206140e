"""Scenes from arrays, SynthStreets, CamVid and plain folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segleak_utils import data, streetcache
from segleak_utils.data import Scenes, camvid, download_camvid, folder, synthstreets
from segleak_utils.synthstreets import render_scene


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


# ---------------------------------------------------------------------------------- SynthStreets


def synth(root: Path, start: int = 0, count: int = 3, **given) -> Scenes:
    given = {"height": 32, "width": 64, "root": root, "progress": False} | given
    return synthstreets("harbour", 0, start, count, **given)


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
    monkeypatch.setattr(streetcache, "_draw", None)  # the second time nothing is drawn
    assert torch.equal(synth(tmp_path, 5)[1][0], scenes[1][0])


@pytest.mark.parametrize("damage", ["flip", "cut", "meta", "lost", "stale"])
def test_a_torn_or_stale_cache_is_drawn_again(tmp_path, damage):
    expected = synth(tmp_path / "whole")[2][0]
    del (scenes := synth(tmp_path))._rows
    (cache,) = (tmp_path / "synthstreets").iterdir()
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
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


def test_a_failed_drawing_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        yield render_scene("harbour", 0, 0, 32, 64)
        raise KeyboardInterrupt

    monkeypatch.setattr(streetcache, "_draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synth(tmp_path)
    assert list((tmp_path / "synthstreets").iterdir()) == []


# A script without an `if __name__ == "__main__"` guard, as a user writes it.
SCRIPT = """
import sys
print("script runs")
from segleak_utils.data import synthstreets
scenes = synthstreets("harbour", 0, 0, {count}, height=32, width=64, root=sys.argv[1], workers=2)
print(scenes.digest)
"""


def script(tmp_path: Path, count: int) -> subprocess.Popen:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(count=count))
    repository = Path(data.__file__).parents[1]
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


def test_parallel_drawing_gives_the_same_pixels_and_shows_progress(tmp_path):
    out, err = script(tmp_path, 61).communicate(timeout=60)
    assert out.splitlines()[0] == "script runs" and out.count("script runs") == 1, err
    assert "61/61" in err
    parallel = synth(tmp_path, 0, 61)  # from the cache that the script wrote
    for i in (0, 24, 25, 60):
        image, mask = render_scene("harbour", 0, i, 32, 64)
        assert torch.equal(parallel[i][0], torch.from_numpy(image).permute(2, 0, 1) / 255)
        assert torch.equal(parallel[i][1], torch.from_numpy(mask).long())


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
        assert "KeyboardInterrupt" in err and list(caches.iterdir()) == []
    assert not any(caches.glob("[!.]*"))  # nothing that could be taken for a whole cache


def test_synthstreets_refuses_what_it_cannot_draw(tmp_path):
    with pytest.raises(ValueError, match=r"'atlantis' is unknown, expected one of .*harbour"):
        synthstreets("atlantis", 0, 0, 1, root=tmp_path)
    for start, count in ((-1, 3), (0, 0)):
        with pytest.raises(ValueError, match=f"start {start}, count {count}: expected"):
            synth(tmp_path, start, count)


# ---------------------------------------------------------------------------------------- CamVid


def picture(path: Path, width: int = 8, height: int = 6, value: int = 0, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), value).save(path)
    return path


@pytest.fixture
def tiny_camvid(tmp_path) -> Path:
    root = tmp_path / "CamVid"
    frames = {"train": ["S_f020", "A_001"], "val": ["S_f010"], "test": ["A_000"]}
    for split, names in frames.items():
        lines = [f"/else/{split}/{n}.png /else/{split}annot/{n}.png" for n in names]
        for k, name in enumerate(names):
            picture(root / split / f"{name}.png", value=(k, 2, 3), mode="RGB")
            picture(root / f"{split}annot" / f"{name}.png", value=11 - k)
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n\n")
    return root


def test_camvid_layout(tiny_camvid):
    scenes = camvid(tiny_camvid)
    assert scenes.ids == ["A_000", "A_001", "S_f010", "S_f020"]
    assert scenes.groups == ("A", "A", "S", "S") and scenes.n_classes == 11
    assert scenes[0][1].unique().tolist() == [255] and scenes[1][1].unique().tolist() == [10]
    assert scenes[1][0][:, 0, 0].mul(255).round().tolist() == [1, 2, 3]
    assert camvid(tiny_camvid, splits=("val",)).ids == ["S_f010"]
    assert camvid(tiny_camvid, size=(3, 5))[0][0].shape == (3, 3, 5)


def test_camvid_errors_name_the_file(tiny_camvid, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.*download_camvid"):
        camvid(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"tset\.txt"):
        camvid(tiny_camvid, splits=("tset",))
    mask = tiny_camvid / "trainannot" / "A_001.png"
    for kwargs, message in (
        ({"value": 12}, r"A_001\.png: label 12; expected 0\.\.10, or 11"),
        ({"value": 255}, r"A_001\.png: label 255"),
        ({"width": 7}, r"A_001\.png: mask of 6x7, image of 6x8"),
    ):
        picture(mask, **kwargs)
        with pytest.raises(ValueError, match=message):
            camvid(tiny_camvid, size=(3, 5))
    picture(mask, width=7)
    picture(tiny_camvid / "train" / "A_001.png", width=7, mode="RGB")
    with pytest.raises(ValueError, match=r"A_001\.png: size \(6, 7\).*give size="):
        camvid(tiny_camvid)
    mask.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"A_001\.png: cannot be read"):
        camvid(tiny_camvid)
    mask.unlink()
    with pytest.raises(ValueError, match=r"A_001\.png: missing, but train\.txt lists it"):
        camvid(tiny_camvid)
    (tiny_camvid / "val.txt").write_text("")
    with pytest.raises(ValueError, match="no frames"):
        camvid(tiny_camvid, splits=("val",))
    (tiny_camvid / "test.txt").write_text("/x/A_000.png /x/A_000.png\n" * 2)
    with pytest.raises(ValueError, match="A_000 is listed twice"):
        camvid(tiny_camvid, splits=("test",))


def test_camvid_real(camvid_root):
    scenes = camvid(camvid_root, size=(90, 120))
    assert len(scenes) == 701 and scenes.shape == (90, 120)
    counts = {drive: scenes.groups.count(drive) for drive in scenes.groups}
    assert counts == {"0001TP": 124, "0006R0": 101, "0016E5": 305, "Seq05VD": 171}
    labels = torch.cat([masks.unique() for _, masks in scenes.batches(128)]).unique()
    assert labels.tolist() == [*range(11), 255]


def archive(path: Path, *names: str) -> str:
    with zipfile.ZipFile(path, "w") as opened:
        for name in names:
            opened.writestr(name, "x")
    return path.as_uri()


def test_download_camvid(tmp_path):
    names = ["T-master/README.md", "T-master/CamVid/train.txt", "T-master/CamVid/train/a.png"]
    url = archive(tmp_path / "a.zip", *names, "T-master/CamVid/../../bad.txt")
    target = download_camvid(tmp_path / "set" / "camvid", url)
    found = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    assert found == ["train.txt", str(Path("train", "a.png"))]
    assert not list(tmp_path.rglob("bad.txt")) and not list(tmp_path.rglob("README.md"))
    with pytest.raises(FileExistsError, match="camvid exists already"):
        download_camvid(target, url)


def test_download_camvid_errors(tmp_path):
    gone, target = (tmp_path / "gone.zip").as_uri(), tmp_path / "set" / "camvid"
    with pytest.raises(ConnectionError, match=r"gone\.zip cannot be fetched.*By hand"):
        download_camvid(target, gone)
    (tmp_path / "page.zip").write_text("<html>")
    with pytest.raises(RuntimeError, match="no whole zip archive"):
        download_camvid(target, (tmp_path / "page.zip").as_uri())
    with pytest.raises(RuntimeError, match=r"no CamVid/train\.txt"):
        download_camvid(target, archive(tmp_path / "b.zip", "T-master/README.md"))
    assert list((tmp_path / "set").iterdir()) == []


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
    found = folder(*plain, n_classes=201, size=(5, 7))[0][1].unique().tolist()
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
