"""The two lists and their pixels: what is told is read, what is not is refused by name."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segleak_utils.audit.config import Data, Pairs
from segleak_utils.audit.looks import look
from segleak_utils.audit.pictures import listed, of_pairs
from segleak_utils.audit.pixels import Reader, read_image, scenes_of
from segleak_utils.data.imagefiles import read_labels

SIZE = (6, 8)
RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **how)
    return path


def image(seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def ids(top: int = 3, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(9).integers(0, top, size, dtype=np.uint8)


def two_lists(root: Path, n: int = 3, mask: str = "{stem}.png", **told: object) -> Data:
    """Two folders of pairs, a/ and b/, and the data that names them."""
    for k, part in enumerate("ab"):
        for i in range(n):
            save(root / part / "images" / f"{part}{i}.png", image(10 * k + i))
            save(root / part / "masks" / mask.format(stem=f"{part}{i}"), ids())
    pairs = (Pairs(images=root / p / "images", masks=root / p / "masks") for p in "ab")
    return Data(**({"members": next(pairs), "nonmembers": next(pairs), "n_classes": 3} | told))


def test_two_folders_are_two_lists_members_first(tmp_path):
    found = listed(two_lists(tmp_path))
    assert [(of.id, of.member) for of in found] == [
        *((f"a{i}", True) for i in range(3)), *((f"b{i}", False) for i in range(3)),
    ]  # fmt: skip
    picture, mask = Reader(two_lists(tmp_path)).read(found[0])
    assert picture.dtype == torch.float32 and picture.shape == (3, *SIZE)
    assert torch.equal((255 * picture).round().byte().permute(1, 2, 0), torch.tensor(image(0)))
    assert mask.dtype == torch.int64 and np.array_equal(mask, ids())


def test_stems_in_both_lists_are_told_apart(tmp_path):
    data = two_lists(tmp_path)
    for path in (tmp_path / "b").glob("*/*"):
        path.rename(path.with_name(path.name.replace("b", "a")))
    assert [of.id for of in listed(data)][::3] == ["members/a0", "nonmembers/a0"]


@pytest.mark.parametrize(
    ("mask", "pattern"),
    [
        ("{stem}_mask.png", "{stem}_mask.png"),
        ("gt_{stem}.png", "gt_{stem}.*"),
        ("{stem}_gtFine_labelIds.png", "{stem}_gtFine_labelIds.png"),
    ],
)
def test_masks_are_found_by_a_pattern(tmp_path, mask, pattern):
    data = two_lists(tmp_path, mask=mask, pattern=pattern)
    assert listed(data)[0].mask.name == mask.format(stem="a0")
    with pytest.raises(ValueError, match=r"3 images without a mask '\{stem\}\.png'.*data.pattern"):
        listed(two_lists(tmp_path, mask=mask, pattern="{stem}.png"))


def test_images_may_have_more_in_their_names_than_the_stem(tmp_path):
    data = two_lists(tmp_path, mask="{stem}_gtFine_labelIds.png", groups="^(.)",
                     pattern="{stem}_gtFine_labelIds.png",
                     image_pattern="{stem}_leftImg8bit.png")  # fmt: skip
    for path in tmp_path.glob("*/images/*.png"):
        path.rename(path.with_name(f"{path.stem}_leftImg8bit.png"))
    found = listed(data)
    assert [(of.id, of.group) for of in found][::3] == [("a0", "a"), ("b0", "b")]
    assert found[0].mask.name == "a0_gtFine_labelIds.png"
    save(tmp_path / "a" / "images" / "a9.png", image(9))
    with pytest.raises(ValueError, match=r"1 images in .* are not named as data.image_pattern"):
        listed(data)
    (tmp_path / "a" / "images" / "a9.png").unlink()
    for key in ("pattern", "image_pattern"):
        with pytest.raises(ValueError, match=f"data.{key} is 'x.png'; expected a file's name with"):
            listed(data.model_copy(update={key: "x.png"}))


def test_many_images_find_their_masks_in_time(tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for i in range(3000):
            (tmp_path / kind / f"p{i}.png").touch()
    begun = time.monotonic()
    pairs = Pairs(images=tmp_path / "images", masks=tmp_path / "masks")
    assert len(of_pairs(pairs, Data(n_classes=3), member=True)) == 3000
    assert time.monotonic() - begun < 2  # each with each takes ten


def test_masks_may_lie_beside_their_images(tmp_path):
    for part in "ab":
        for i in range(2):
            save(tmp_path / part / f"{i}.png", image(i))
            save(tmp_path / part / f"{i}_mask.png", ids())
    pairs = {k: Pairs(images=tmp_path / p) for k, p in (("members", "a"), ("nonmembers", "b"))}
    found = listed(Data(**pairs, n_classes=3, pattern="{stem}_mask.png"))
    assert [of.id for of in found] == ["members/0", "members/1", "nonmembers/0", "nonmembers/1"]


def test_names_beside_each_other_may_be_composed_otherwise(tmp_path):
    for part in "ab":
        for i in range(2):
            save(tmp_path / part / f"e\u0301{part}{i}.png", image(i))
            save(tmp_path / part / f"\u00e9{part}{i}_u\u0308.png", ids())
    pairs = {k: Pairs(images=tmp_path / p) for k, p in (("members", "a"), ("nonmembers", "b"))}
    found = listed(Data(**pairs, n_classes=3, pattern="{stem}_\u00fc.png"))
    assert [of.id for of in found] == ["\u00e9a0", "\u00e9a1", "\u00e9b0", "\u00e9b1"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_manifest_says_the_same_with_owners(tmp_path, kind):
    pandas = pytest.importorskip("pandas")
    two_lists(tmp_path)
    rows = [
        {"image": f"{p}/images/{p}{i}.png", "mask": f"{p}/masks/{p}{i}.png",
         "member": int(p == "a"), "group": f"patient {i}"}
        for p in "ba" for i in range(3)
    ]  # fmt: skip
    path, table = tmp_path / f"list.{kind}", pandas.DataFrame(rows)
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    found = listed(Data(manifest=path, n_classes=3))
    assert [of.member for of in found] == [True] * 3 + [False] * 3
    assert [of.group for of in found][:3] == ["patient 0", "patient 1", "patient 2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mask\na,b\n", "no column member; it has image, mask"),
        ("image,mask,member\n", "no rows"),
        ("image,mask,member\nx.png,x.png,1\n", "line 2: image .*x.png' is not there"),
        ("image,mask,member\nA,M,maybe\n", "line 2: member is 'maybe'; expected 1 or 0"),
        ("image,mask,member,group\nA,M,1,\n", "line 2: group is empty"),
        ("image,mask,member\nA,M,1\nA,M,1\n", "in one list twice"),
        ("image,mask,member\nA,M,1\nA,M,0\n", "in both lists"),
        ("image,mask,member\nX,A,M,1\n", "cannot be read as a table"),  # not shifted by a cell
        ("image,mask,member\nA,M,1\n", "1 members in the lists; expected at least 2"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(tmp_path, text, message):
    data = two_lists(tmp_path)
    named = {"A": data.members.images / "a0.png", "M": data.members.masks / "a0.png"}
    for name, path in named.items():
        text = text.replace(f"{name},", f"{path},")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        listed(Data(manifest=tmp_path / "list.csv", n_classes=3))


def test_owners_are_found_in_the_names(tmp_path):
    data = two_lists(tmp_path, groups=r"^(\w)\d")
    assert [of.group for of in listed(data)] == ["a"] * 3 + ["b"] * 3
    with pytest.raises(ValueError, match="finds nothing in 'a0'"):
        listed(data.model_copy(update={"groups": "^patient"}))
    with pytest.raises(ValueError, match="finds nothing in 'a0'"):
        listed(data.model_copy(update={"groups": "x*"}))
    for path in sorted(tmp_path.rglob("*.png")):
        path.rename(path.with_name(f"c{path.name}"))
    with pytest.raises(ValueError, match=r"all images are of one owner, 'c': mend data.groups"):
        listed(data.model_copy(update={"groups": "^c"}))
    with pytest.raises(ValueError, match="no regular expression"):
        listed(data.model_copy(update={"groups": "("}))


# ---- masks ---------------------------------------------------------------------------------------


def one(tmp_path: Path, mask: np.ndarray | None = None, name: str = "m.png", **told: object):
    """The labels that one mask is read as."""
    picture = save(tmp_path / "images" / "p.png", image())
    path = tmp_path / "masks" / name
    path.parent.mkdir(exist_ok=True)
    if mask is not None:
        np.save(path, mask) if name.endswith("npy") else save(path, mask)
    data = Data(n_classes=told.pop("n_classes", 3), **told)
    (found,) = [
        type(of)(of.id, of.image, path, True)
        for of in of_pairs(Pairs(images=picture.parent), data, member=True, masks=False)
    ]
    return Reader(data).read(found)[1]


def test_ids_of_any_number_are_mapped_and_void_is_any(tmp_path):
    wide = np.where(ids() == 0, 300, np.where(ids() == 1, 7, 65535)).astype(np.uint16)
    how = {"mapping": {300: 0, 7: 1}, "void": (65535,), "n_classes": 2}
    expected = np.where(ids() == 2, 255, ids())
    for name in ("m.tif", "m.npy", "m.png"):
        assert np.array_equal(one(tmp_path, wide, name, **how), expected), name
    with pytest.raises(ValueError, match=r"m.npy: ids 65535; known are 7, 300"):
        one(tmp_path, wide, "m.npy", mapping={300: 0, 7: 1}, n_classes=2, void=(3,))


def test_palettes_and_colours_are_read(tmp_path):
    table = [0, 0, 0, 255, 0, 0, 0, 255, 0]
    (tmp_path / "masks").mkdir()
    paletted = Image.fromarray(ids()).convert("P")
    paletted.putpalette(table)
    paletted.putdata(ids().ravel().tolist())
    paletted.save(tmp_path / "masks" / "p.png")
    assert np.array_equal(one(tmp_path, None, "p.png"), ids())
    rgb = np.array(table, np.uint8).reshape(3, 3)[ids()]
    colours = {"#000000": -1, "#ff0000": 0, "#00ff00": 1}
    found = one(tmp_path, rgb, "c.png", colours=colours, n_classes=2)
    assert np.array_equal(found, np.where(ids() == 0, 255, ids() - 1))
    with pytest.raises(ValueError, match=r"c.png: colours #00ff00 are not in data.colours"):
        one(tmp_path, rgb, "c.png", colours={"#000000": 0, "#ff0000": 1}, n_classes=2)
    with pytest.raises(ValueError, match="one channel of labels"):
        one(tmp_path, rgb, "c.png")
    with pytest.raises(ValueError, match="expected a colour"):
        one(tmp_path, rgb, "c.png", colours={"red": 0})


def test_masks_of_several_palettes_are_refused(tmp_path):
    data = two_lists(tmp_path)
    tables = {"a": [0, 0, 0, 255, 0, 0, 0, 255, 0], "b": [0, 0, 0, 255, 0, 0]}
    for part, table in tables.items():
        for path in (tmp_path / part / "masks").iterdir():
            mask = Image.fromarray(ids(len(table) // 3)).convert("P")
            mask.putpalette(table)
            mask.save(path)
    pictures, reader = listed(data), Reader(data)
    reader.check_palettes(pictures)  # one is the beginning of the other
    mask.putpalette([9, *tables["b"][1:]])
    mask.save(path)
    with pytest.raises(ValueError, match=rf"a0.png and .*{path.name} have different palettes"):
        reader.check_palettes(pictures)
    with pytest.raises(ValueError, match="have different palettes"):
        look(pictures, Reader(data), tmp_path / "kept")
    colours = data.model_copy(update={"colours": {"#000000": 0}})
    Reader(colours).check_palettes(pictures)


def test_255_has_to_be_told_where_no_other_id_is_there_but_one(tmp_path):
    data = two_lists(tmp_path, n_classes=2)
    for k, path in enumerate(sorted(tmp_path.glob("*/masks/*.png"))):
        save(path, np.where(ids(2, SIZE) > k % 2, 255, 0).astype(np.uint8))
    with pytest.raises(ValueError, match=r"no class but class 0, and 255.*\{0: 0, 255: 1\}"):
        look(listed(data), Reader(data), tmp_path / "kept")
    for told in ({"void": 255}, {"mapping": {0: 0, 255: 1}}):
        of = data.model_copy(update=told)
        assert len(look(listed(of), Reader(of), tmp_path / "kept").pixels) == 6


@pytest.mark.parametrize(
    ("mask", "how", "message"),
    [
        (ids(5), {}, r"m.png: ids 3, 4; known are 0..2, void 255"),
        (np.full(SIZE, 255, np.uint8), {}, r"m.png: no pixel is labelled"),
        (ids()[:4], {}, r"m.png: mask of 4x8, image of 6x8"),
        (ids(), {"mapping": {0: 0, 1: 9, 2: 1}}, r"data.mapping: 1: 9; labels are 0..2"),
        (ids(), {"mapping": {0: 0, 1: 1, 2: 2}, "void": (2,)}, "both have"),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path, mask, how, message):
    with pytest.raises(ValueError, match=message):
        one(tmp_path, mask, **how)


@pytest.mark.parametrize(
    "array", [ids().astype(np.float32), np.zeros((3, 4, 5), np.uint8), np.zeros((0, 4), np.uint8)]
)
def test_arrays_that_hold_no_ids_are_refused(tmp_path, array):
    with pytest.raises(ValueError, match=r"m.npy: .*expected whole numbers \[H,W\]"):
        one(tmp_path, array, "m.npy")


def test_255_may_be_a_class(tmp_path):
    found = one(tmp_path, np.where(ids(2), 255, 0).astype(np.uint8), mapping={0: 0, 255: 1},
                n_classes=2)  # fmt: skip
    assert np.array_equal(found, ids(2))


# ---- pixels --------------------------------------------------------------------------------------


def test_images_of_any_depth_are_in_0_to_1(tmp_path):
    deep = (RNG.integers(0, 65536, SIZE)).astype(np.uint16)
    found = read_image(save(tmp_path / "deep.png", deep))
    assert found.shape == (3, *SIZE) and np.allclose(found[1], deep / 65535, atol=1e-6)
    grey = read_image(save(tmp_path / "grey.png", ids()))
    assert np.allclose(grey[2], ids() / 255) and grey.dtype == torch.float32
    colours = RNG.integers(0, 65536, (*SIZE, 3)).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in colours)
    part = lambda kind, body: (  # noqa: E731
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    )
    header = struct.pack(">IIBBBBB", SIZE[1], SIZE[0], 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(raw))
    (tmp_path / "rgb16.png").write_bytes(png + part(b"IEND", b""))
    found = read_image(tmp_path / "rgb16.png")
    assert np.allclose(found.permute(1, 2, 0), colours.astype(float) / 65535, atol=1e-4)


@pytest.mark.parametrize("how", [{}, {"compression": "deflate"}, {"planarconfig": "separate"}])
def test_a_tiff_of_16_bits_in_colour_is_read_or_refused(tmp_path, how):
    tifffile = pytest.importorskip("tifffile")
    colours = RNG.integers(0, 65536, (*SIZE, 3)).astype(np.uint16)
    stored = np.moveaxis(colours, -1, 0) if "planarconfig" in how else colours
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="rgb", **how)
    found = read_image(tmp_path / "x.tif")
    assert np.allclose(found.permute(1, 2, 0), colours / 65535, atol=1e-6)
    whole = (tmp_path / "x.tif").read_bytes()
    (tmp_path / "x.tif").write_bytes(whole[: len(whole) - 40])
    with pytest.raises(ValueError, match=r"x\.tif"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_a_turned_tiff_of_one_channel_is_upright(tmp_path, deep, turn):
    pixels = np.arange(24, dtype=np.uint16 if deep else np.uint8).reshape(4, 6)
    Image.fromarray(pixels).save(tmp_path / "x.tif", tiffinfo={274: turn})
    ways = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.T,
        6: np.rot90(pixels, -1), 7: pixels.T[::-1, ::-1], 8: np.rot90(pixels),
    }  # fmt: skip
    assert np.array_equal(read_labels(tmp_path / "x.tif"), ways[turn])
    found = read_image(tmp_path / "x.tif")[0] * (65535 if deep else 255)
    assert np.allclose(found, ways[turn], atol=0.01)


@pytest.mark.parametrize("name", ["x.png", "grey.png", "deep.png", "x.jpg", "x.tif", "deep.tif"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_named(tmp_path, name, kept):
    pixels = image(size=(40, 50))
    if name == "grey.png":
        pixels = pixels[..., 0]
    elif name.startswith("deep"):
        pixels = pixels[..., 0].astype(np.uint16) * 256
    path = save(tmp_path / name, pixels)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=name):
        read_image(path)


def test_images_are_turned_as_their_exif_says(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    path = save(tmp_path / "turned.jpg", image(), exif=exif, quality=95)
    assert read_image(path).shape == (3, SIZE[1], SIZE[0])


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_a_size_keeps_the_aspect_or_not(tmp_path, fit):
    data = two_lists(tmp_path, size=(16, 16), fit=fit)
    picture, mask = Reader(data).read(listed(data)[0])
    assert picture.shape == (3, 16, 16) and mask.shape == (16, 16)
    assert bool((mask[12:] == 255).all()) == (fit == "pad") and (mask[:12] != 255).all()
    assert picture.min() >= 0 and picture.max() <= 1


def test_what_changes_the_reading_changes_the_key(tmp_path):
    data = two_lists(tmp_path)
    of = listed(data)[0]
    keys = {Reader(data).key_of(of)}
    for told in (
        {"void": (0,)}, {"mapping": {0: 0, 1: 1, 2: 2}}, {"size": (8, 8)}, {"n_classes": 4},
        {"fit": "stretch"}, {"colours": {"#000000": 0}},
    ):  # fmt: skip
        keys.add(Reader(data.model_copy(update=told)).key_of(of))
    save(of.image, image(99))
    keys.add(Reader(data).key_of(of))
    assert len(keys) == 8


def test_scenes_to_train_on_are_of_one_size(tmp_path):
    data = two_lists(tmp_path)
    found = scenes_of(listed(data), Reader(data))
    assert len(found) == 6 and found.shape == SIZE and found.n_classes == 3
    save(listed(data)[0].image, image(0, (8, 8)))
    save(listed(data)[0].mask, ids(3, (8, 8)))
    with pytest.raises(ValueError, match=r"images of 2 sizes.*give a size"):
        scenes_of(listed(data), Reader(data))


@pytest.mark.parametrize("what", ["images", "masks"])
def test_a_folder_that_is_not_there_is_named(tmp_path, what):
    data = two_lists(tmp_path)
    (tmp_path / "a" / what).rename(tmp_path / "a" / "gone")
    with pytest.raises(FileNotFoundError, match=f"a/{what}: no such folder"):
        listed(data)
