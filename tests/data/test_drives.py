"""CamVid: its layout, and its download."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from segleak_utils.data import camvid, download_camvid

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
            own = (k, 2, 3 + list(frames).index(split))
            picture(root / split / f"{name}.png", value=own, mode="RGB")
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


@pytest.mark.slow
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
    url = archive(tmp_path / "a.zip", "T-master/CamVid/", *names)
    target = download_camvid(tmp_path / "set" / "camvid", url)
    found = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    assert found == ["train.txt", str(Path("train", "a.png"))]
    assert not list(tmp_path.rglob("README.md"))
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


@pytest.mark.parametrize(
    "name",
    [
        "T-master/CamVid/../../bad.txt",
        "T-master/CamVid//{outside}/bad.txt",
        "/T-master/CamVid/bad.txt",
        "T-master/CamVid/C:/bad.txt",
        "C:bad.txt",
        "T-master/CamVid/..\\..\\bad.txt",
        "../bad.txt",
    ],
)
def test_members_that_lead_elsewhere_are_refused(tmp_path, name):
    name = name.format(outside=tmp_path.as_posix().lstrip("/"))
    url = archive(tmp_path / "a.zip", "T-master/CamVid/train.txt", name)
    with pytest.raises(RuntimeError, match=r"a\.zip: member '.*bad\.txt' may lead out"):
        download_camvid(tmp_path / "set" / "camvid", url)
    assert not list(tmp_path.rglob("*bad.txt")) and list((tmp_path / "set").iterdir()) == []


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path, target = tmp_path / "a.zip", tmp_path / "set" / "camvid"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("T-master/CamVid/train.txt", "x")
        opened.writestr("T-master/CamVid/zeros.bin", bytes(10**6))
    match = r"unpacks to 1000001 bytes, expected at most \d+ of \d+ fetched .*zeros\.bin"
    with pytest.raises(RuntimeError, match=match):
        download_camvid(target, path.as_uri())
    assert list((tmp_path / "set").iterdir()) == []
    monkeypatch.setattr("segleak_utils.data.drives.RATIO", 10**4)
    assert download_camvid(target, path.as_uri()).is_dir()
    monkeypatch.setattr("segleak_utils.data.drives.LARGEST", 10**6)
    with pytest.raises(RuntimeError, match="expected at most 1000000 of"):
        download_camvid(tmp_path / "set" / "again", path.as_uri())
