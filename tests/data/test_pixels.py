"""What Pillow would change on the way: turned, spread, cut, blurred or animated pixels."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from example_folder import fake
from PIL import Image, ImageOps

from segleak_utils.data import examples, imagefiles

NUMBERS = np.arange(6, dtype=np.uint8).reshape(2, 3)


def same(labels: np.ndarray, name: str) -> np.ndarray:
    return labels


def png(path: Path, rows: np.ndarray, bits: int, colour: int = 0) -> Path:
    """A PNG written by hand: rows uint8 [H, bytes] as they are stored, of so many bits."""
    width = rows.shape[1] * 8 // bits // {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)
    return path


def turned(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    """Pixels as the camera stored them, with EXIF that says how to hold the picture."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


# How to turn what is stored, by the definition of EXIF's orientations.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_is_held_as_its_exif_says(tmp_path, orientation, side, suffix):
    stored = np.arange(3 * side * 3, dtype=np.uint8).reshape(side, 3, 3)
    image = turned(tmp_path / f"a.{suffix}", stored, orientation)
    upright = UPRIGHT[orientation](stored)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.ascontiguousarray(upright[:, :, 0])).save(mask)
    assert imagefiles.grid(image) == upright.shape[:2]
    pixels, labels = imagefiles.read_pair((image, mask), same, None)
    assert np.array_equal(pixels, upright.transpose(2, 0, 1))
    assert np.array_equal(labels, pixels[0])
    assert np.array_equal(np.asarray(imagefiles.read_picture(image)), upright)
    of_mask = turned(tmp_path / "turned.png", stored[:, :, 0].copy(), orientation)
    assert np.array_equal(imagefiles.read_labels(of_mask), upright[:, :, 0])
    assert imagefiles.label_header(of_mask) == (upright.shape[:2], b"")


def test_a_turned_jpeg_has_the_grid_of_its_upright_picture(tmp_path):
    stored = np.zeros((8, 16, 3), np.uint8)
    stored[:, :8] = 255  # bright at the left
    image = turned(tmp_path / "a.jpg", stored, 6)  # a quarter clockwise: bright at the top
    Image.new("L", (8, 16)).save(tmp_path / "a.png")
    assert imagefiles.grid(image) == (16, 8)
    pixels, _ = imagefiles.read_pair((image, tmp_path / "a.png"), same, None)
    assert pixels[:, :6].min() > 240 and pixels[:, 10:].max() < 15
    Image.new("L", (16, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: mask of 8x16, image of 16x8"):
        imagefiles.read_pair((image, tmp_path / "a.png"), same, None)


def test_the_examples_are_held_upright(tmp_path):
    root = fake(tmp_path / "examples", n=1, kinds=("sgd",), grid=(16, 32))
    before = examples.read(root).members[0][0]
    path = root / "train" / "img" / "train0.png"
    pixels = np.asarray(Image.open(path))
    turned(path, np.ascontiguousarray(np.rot90(pixels)), 6)
    assert examples.read(root).members[0][0].equal(before)


@pytest.mark.parametrize(("bits", "packed"), [(1, 0b01100000), (2, 0b00011011), (4, 0x0F)])
def test_numbers_of_few_bits_are_those_stored(tmp_path, bits, packed):
    path = png(tmp_path / "a.png", np.array([[packed]], np.uint8), bits)
    stored = {1: [0, 1, 1, 0, 0, 0, 0, 0], 2: [0, 1, 2, 3], 4: [0, 15]}[bits]
    assert imagefiles.read_labels(path).tolist() == [stored]
    image = tmp_path / "image.png"
    Image.new("RGB", (len(stored), 1)).save(image)
    labels = imagefiles.read_pair((image, path), same, None)[1]
    assert labels.tolist() == [stored] and labels.dtype == np.uint8
    # as a picture it is what one sees: 0 is black and the largest white
    assert np.asarray(imagefiles.read_picture(path)).max() == 255


def test_labels_of_the_examples_of_few_bits(tmp_path):
    root = fake(tmp_path / "examples", n=1, kinds=("sgd",), grid=(16, 32))
    rows = np.full((16, 16), 0x3D, np.uint8)  # 3 and 13 in turn
    png(root / "train" / "label" / "train0.png", rows, 4)
    assert examples.read(root).members[0][1][0, :4].tolist() == [3, 13, 3, 13]


def tiff(path: Path, bits: int, white: int = 1) -> Path:
    """A grey TIFF of one row of two bytes; `white` 0: zero is white."""
    width = 16 // bits
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, white), (273, 8), (277, 1)]
    tags += [(278, 1), (279, 2)]
    content = b"II*\0" + struct.pack("<I", 10) + b"\x1b\x1b" + struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(content + b"\0" * 4)
    return path


def test_tiffs_whose_numbers_would_change_are_refused(tmp_path):
    assert imagefiles.read_labels(tiff(tmp_path / "a.tif", 8)).tolist() == [[0x1B, 0x1B]]
    for bits in (2, 4):
        with pytest.raises(ValueError, match=rf"a\.tif: TIFF of {bits} bits, expected 8"):
            imagefiles.read_labels(tiff(tmp_path / "a.tif", bits))
    with pytest.raises(ValueError, match=r"a\.tif: TIFF where 0 is white"):
        imagefiles.read_labels(tiff(tmp_path / "a.tif", 8, white=0))


@pytest.mark.parametrize("how", ["JPEG", "WEBP", "MPO", "TIFF"])
def test_a_mask_that_lost_its_numbers_is_refused_whatever_its_name(tmp_path, how):
    mask, image = tmp_path / "mask.png", tmp_path / "image.png"
    given = {"compression": "jpeg"} if how == "TIFF" else {}
    if how == "MPO":
        given = {"save_all": True, "append_images": [Image.new("L", (16, 16))]}
    Image.new("L", (16, 16), 7).save(mask, format=how, **given)
    Image.new("RGB", (16, 16)).save(image)
    for read in (
        imagefiles.read_labels,
        imagefiles.label_header,
        lambda path: imagefiles.read_pair((image, path), same, None),
    ):
        with pytest.raises(ValueError, match=rf"mask\.png: holds {how}.*expected a PNG"):
            read(mask)
    if how == "MPO":  # as a picture it is the photograph of a phone
        assert np.asarray(imagefiles.read_picture(mask)).shape == (16, 16, 3)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif"])
def test_a_mask_without_loss_is_read_as_it_is(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(NUMBERS).save(path, **({"compression": "tiff_lzw"} if suffix == "tif" else {}))
    assert imagefiles.read_labels(path).tolist() == NUMBERS.tolist()


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_colours_of_16_bits_are_refused(tmp_path, colour):
    path = png(tmp_path / "a.png", np.zeros((2, 48), np.uint8), 16, colour)
    Image.fromarray(NUMBERS).save(tmp_path / "mask.png")
    for read in (
        imagefiles.read_picture,
        lambda path: imagefiles.read_pair((path, tmp_path / "mask.png"), same, None),
    ):
        with pytest.raises(ValueError, match=r"a\.png: 16 bits a channel, expected 8"):
            read(path)
    if colour == 2:
        (tmp_path / "a.ppm").write_bytes(b"P6 1 1 65535\n" + b"\1\2" * 3)
        with pytest.raises(ValueError, match=r"a\.ppm: 16 bits a channel"):
            imagefiles.read_picture(tmp_path / "a.ppm")


@pytest.mark.parametrize("suffix", ["png", "tif", "gif"])
def test_several_pictures_in_one_file_are_refused(tmp_path, suffix):
    path, plain = tmp_path / f"a.{suffix}", tmp_path / "plain.png"
    others = [Image.new("L", (3, 2), 9)]
    Image.fromarray(NUMBERS).save(path, save_all=True, append_images=others)
    Image.fromarray(NUMBERS).save(plain)
    for read in (
        imagefiles.grid,
        imagefiles.read_labels,
        imagefiles.read_picture,
        lambda path: imagefiles.read_pair((path, plain), same, None),
        lambda path: imagefiles.read_pair((plain, path), same, None),
    ):
        with pytest.raises(ValueError, match=rf"a\.{suffix}: 2 pictures in one file"):
            read(path)


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr", "F", "I;16"])
def test_pictures_in_other_colours_are_refused(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.new(mode, (3, 2)).save(path)
    assert Image.open(path).mode == mode
    with pytest.raises(ValueError, match=rf"a\.tif: pixel mode {mode}, expected 8 bits a channel"):
        imagefiles.read_picture(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_other_pictures_are_seen_as_rgb(tmp_path, mode):
    picture = Image.fromarray(np.stack([NUMBERS * 40] * 3, 2)).convert(mode)
    picture.save(tmp_path / "a.png")
    found = imagefiles.read_picture(tmp_path / "a.png")
    assert np.array_equal(np.asarray(found), np.asarray(picture.convert("RGB")))


def test_a_picture_of_too_many_pixels_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    for read in (imagefiles.grid, imagefiles.read_labels, imagefiles.read_picture):
        with pytest.raises(ValueError, match=r"a\.png: .*64 pixels.*MAX_IMAGE_PIXELS"):
            read(path)


def test_the_turns_are_those_of_pillow():
    stored = Image.fromarray(NUMBERS)
    for orientation, upright in UPRIGHT.items():
        stored.getexif()[0x0112] = orientation
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(stored)), upright(NUMBERS))
