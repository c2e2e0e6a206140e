"""Folders as people have them: 0 and 255, other ids, palettes, hidden files, twins."""

from __future__ import annotations

import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segleak_utils.data import folder, imagefiles, labels, scenes

PALETTE = [0, 0, 0, 200, 0, 0]


def made(root: Path, masks: dict[str, np.ndarray], palettes=None) -> tuple[Path, Path]:
    """Folders with a picture of its own for each of these masks, in files with palettes if given.

    `palettes`: name -> list of 3 numbers a colour.
    """
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir(exist_ok=True)
    for name, mask in masks.items():
        pixels = rng.integers(0, 256, (*np.shape(mask), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        picture = Image.fromarray(np.asarray(mask))
        if palettes:
            picture.putpalette(palettes[name])
        picture.save(root / "masks" / f"{name}.png")
    return root / "images", root / "masks"


def u8(*rows) -> np.ndarray:
    return np.array(rows, np.uint8)


# ------------------------------------------------------------------------------- 255, and other ids


def test_masks_of_0_and_255_are_not_taken_for_void(tmp_path):
    at = made(tmp_path, {"a": u8([0, 0]), "b": u8([0, 255])})
    match = r"b\.png: 255 occurs, and no mask has class 1 .*mapping=\{0: 0, 255: 1\}.*void=255"
    with pytest.raises(ValueError, match=match):
        folder(*at, n_classes=2)
    as_class = folder(*at, n_classes=2, mapping={0: 0, 255: 1})
    assert as_class[1][1].tolist() == [[0, 1]]
    as_void = folder(*at, n_classes=2, void=255)
    assert as_void[1][1].tolist() == [[0, 255]]
    assert as_class.digest != as_void.digest
    assert pickle.loads(pickle.dumps(as_class))[1][1].tolist() == [[0, 1]]


def test_masks_are_read_only_until_all_classes_have_been_seen(tmp_path, monkeypatch):
    masks = {"a": u8([0, 255]), "b": u8([1, 0]), "c": u8([0, 255]), "d": u8([0, 1])}
    at, read, plain = made(tmp_path, masks), [], imagefiles.read_labels
    monkeypatch.setattr(scenes, "read_labels", lambda path: read.append(path.stem) or plain(path))
    assert folder(*at, n_classes=2)[0][1].tolist() == [[0, 255]]
    assert read == ["a", "b"]
    folder(*at, n_classes=2, void=255)
    folder(*at, n_classes=2, mapping={0: 0, 1: 1, 255: 1})
    assert read == ["a", "b"]


def test_an_absent_class_without_255_is_nothing_to_ask_about(tmp_path):
    at = made(tmp_path, {"a": u8([0, 0])})
    assert folder(*at, n_classes=2)[0][1].tolist() == [[0, 0]]


def test_stored_ids_become_labels(tmp_path):
    at = made(tmp_path, {"a": u8([7, 8, 3, 9])})
    found = folder(*at, n_classes=2, mapping={7: 0, 8: 1}, void=[3, 9])
    assert found[0][1].tolist() == [[0, 1, 255, 255]]
    with pytest.raises(ValueError, match=r"a\.png: label 3, 9; expected an id of mapping .*255"):
        folder(*at, n_classes=2, mapping={7: 0, 8: 1})
    with pytest.raises(ValueError, match=r"a\.png: label 3; expected an id of .* or 9 for void"):
        folder(*at, n_classes=2, mapping={7: 0, 8: 1}, void=9)[0]
    with pytest.raises(ValueError, match=r"a\.png: label 3, 7, 8; expected 0\.\.1, or 9 for void"):
        folder(*at, n_classes=2, void=9)[0]


def test_ids_of_16_bits_become_labels(tmp_path):
    at = made(tmp_path, {"a": np.array([[1000, 7, 65535]], np.uint16)})
    found = folder(*at, n_classes=2, mapping={1000: 1, 7: 0}, void=65535)
    assert found[0][1].tolist() == [[1, 0, 255]]
    with pytest.raises(ValueError, match=r"a\.png: label 65535; expected an id of mapping"):
        folder(*at, n_classes=2, mapping={1000: 1, 7: 0}, void=65534)[0]
    assert labels.relabelled(np.array([-1, 1]), "a", 2, {-1: 0, 1: 1}, ()).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"mapping": {0: 0, 1: 2}}, r"mapping\[1\] is 2; expected 0\.\.1"),
        ({"mapping": {0: 0, 1: -1}}, r"mapping\[1\] is -1"),
        ({"mapping": {0: 0, 1: 255}}, r"mapping\[1\] is 255"),
        ({"mapping": {0: 0, 1: 0.5}}, r"mapping\[1\] is 0\.5; expected a whole number"),
        ({"mapping": {"0": 0}}, r"an id of mapping is '0'"),
        ({"mapping": {}}, "mapping is empty"),
        ({"mapping": {0: 0, 5: 1}, "void": [5]}, r"\[5\] are void and in mapping"),
        ({"void": -1}, "void is -1"),
        ({"void": [255, 1.5]}, r"void is 1\.5"),
    ],
)
def test_a_wrong_mapping_is_refused(tmp_path, given, match):
    at = made(tmp_path, {"a": u8([0, 1])})
    with pytest.raises(ValueError, match=match):
        folder(*at, n_classes=2, **given)
    with pytest.raises(ValueError, match=r"n_classes is 256; expected 1\.\.255"):
        folder(*at, n_classes=256)


# ------------------------------------------------------------------------------------- palettes


def test_palettes_that_differ_are_refused_and_a_longer_one_is_fine(tmp_path):
    masks = {"a": u8([0, 1]), "b": u8([0, 1]), "c": u8([1, 0])}
    longer = [*PALETTE, 0, 0, 90]
    fine = {"a": PALETTE, "b": longer, "c": PALETTE}
    at = made(tmp_path, masks, fine)
    assert imagefiles.label_header(at[1] / "b.png")[1][:9] == bytes(longer)
    assert folder(*at, n_classes=2)[2][1].tolist() == [[1, 0]]
    for wrong, names in (
        ({**fine, "c": [200, 0, 0, 0, 0, 0]}, r"b\.png and .*c\.png"),
        ({**fine, "c": [*PALETTE, 0, 90, 0]}, r"b\.png and .*c\.png"),
        ({**fine, "a": PALETTE[::-1]}, r"a\.png and .*b\.png"),
    ):
        made(tmp_path, masks, wrong)
        with pytest.raises(ValueError, match=rf"{names} have different palettes"):
            folder(*at, n_classes=2)


# ---------------------------------------------------------------------------------------- names


def test_hidden_files_are_passed_over(tmp_path):
    at = made(tmp_path, {"a": u8([0, 1])})
    for part in at:
        (part / "._a.png").write_bytes(b"other systems' notes")
        (part / ".hidden.png").write_bytes(b"")
    assert folder(*at, n_classes=2).ids == ["a"]


def test_composed_and_decomposed_names_are_the_same(tmp_path):
    at = made(tmp_path, {"stra\u00dfe-\u00fc": u8([0, 1])})
    long = unicodedata.normalize("NFD", "stra\u00dfe-\u00fc.png")
    (at[1] / "stra\u00dfe-\u00fc.png").rename(at[1] / long)
    assert folder(*at, n_classes=2).ids == ["stra\u00dfe-\u00fc"]
    (at[0] / long).write_bytes(b"")
    if len(list(at[0].iterdir())) == 2:  # some file systems hold them for one file
        with pytest.raises(ValueError, match="have the same stem"):
            folder(*at, n_classes=2)


def test_a_partner_that_differs_in_case_is_named(tmp_path):
    at = made(tmp_path, {"a": u8([0, 1])})
    (at[1] / "a.png").rename(at[1] / "A.png")
    match = r"1 without mask of the same stem: .*masks.A\.png differs in upper and lower case"
    with pytest.raises(ValueError, match=match):
        folder(*at, n_classes=2)
