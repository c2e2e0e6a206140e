"""The published split lists: read, written, checked and generated on miniature trees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trees import bdd100k_tree, cityscapes_tree, mapillary_tree

from segleak_utils.data import Scenes, bdd100k, cityscapes, lists, mapillary
from segleak_utils.data.lists import generate, load, read, save, write

COUNTS = {"victim": (6, 4), "shadow": (5, 3)}  # dependent: all 12 + 6 images
PINNED = [
    [0, 2, 3, 4, 10, 12],
    [5, 7, 13, 16],
    [6, 9, 11, 14, 17],
    [1, 8, 15],
]  # of seed 0, so that lists made today can be made again
INDEPENDENT = {"victim": (12, 6), "shadow": (4, 3)}
SETTINGS = [
    ("dependent", "cityscapes", COUNTS),
    ("independent", "bdd100k", INDEPENDENT),
    ("independent", "mapillary", INDEPENDENT),
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("my data")  # with a blank
    return {
        "cityscapes": cityscapes_tree(folder / "c", 12, 6),
        "bdd100k": bdd100k_tree(folder / "b", 6, 3),
        "mapillary": mapillary_tree(folder / "m", 6, 3, converted=True),
    }


@pytest.fixture(scope="module")
def sources(roots) -> dict[str, Scenes]:
    return {
        "cityscapes": cityscapes(roots["cityscapes"]),
        "bdd100k": bdd100k(roots["bdd100k"]),
        "mapillary": mapillary(roots["mapillary"], size=(8, 16)),
    }


def listed(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


BDD = "/BS/databases10/BDD100K/bdd100k/seg"
VISTAS = "/BS/databases09/Mapillary"


def published(i: str) -> str:
    """The line of a BDD100K or Mapillary id as the authors' lists have it."""
    source, split, name = i.split("/")
    if source == "bdd100k":
        return f"{BDD}/images/{split}/{name}.jpg {BDD}/labels/{split}/{name}_train_id.png"
    return f"{VISTAS}/{split}/images/{name}.jpg {VISTAS}/{split}/cityscapes_labels/{name}.png"


# ------------------------------------------------------------------------------------------ read


def test_the_number_is_the_place_in_the_sorted_set(tmp_path, sources):
    path = listed(
        tmp_path,
        "/data/0012.png /label/0012.png",
        "/data/0001.png /label/0001.png",
        "",
        "/val_data/0006.png /val_label/0006.png",
    )
    scenes = read(path, sources)
    assert scenes.ids == [
        "cityscapes/train/zurich_000011_000019",
        "cityscapes/train/aachen_000000_000019",
        "cityscapes/val/lindau_000005_000019",
    ]
    shuffled = sources["cityscapes"].subset(np.random.default_rng(0).permutation(18))
    assert read(path, {"cityscapes": shuffled}).ids == scenes.ids
    assert scenes.groups == ("zurich", "aachen", "lindau")


@pytest.mark.parametrize("name", ["bdd100k", "mapillary"])
def test_the_prefix_of_the_authors_does_not_matter(tmp_path, sources, name):
    ids = sources[name].ids[::-1]
    assert read(listed(tmp_path, *map(published, ids)), sources).ids == ids
    foreign = [published(i).replace(BDD, "seg").replace(VISTAS, "/home/my data") for i in ids]
    assert read(listed(tmp_path, *foreign), sources).ids == ids


def test_the_newer_layout_of_bdd100k(tmp_path, sources):
    root = bdd100k_tree(tmp_path, 2, 1, layout="10k")
    newer = bdd100k(root)
    write(newer, tmp_path / "list.txt", {"bdd100k": root})
    first = (tmp_path / "list.txt").read_text().splitlines()[0].split()
    assert all(Path(word).is_file() for word in first) and "/images/10k/train/" in first[0]
    assert read(tmp_path / "list.txt", {"bdd100k": newer}).ids == newer.ids


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["/data/0001.png"], "line 1: 1 words, expected IMAGE LABEL: /data/0001"),
        (["/data/0001.png /label/0001.png x"], "line 1: 3 words, expected IMAGE LABEL"),
        (["", "/data/0001.png /label/0002.png"], "line 2: .* do not belong together"),
        (["/data/0001.png /val_label/0001.png"], "line 1: .* do not belong together"),
        ([f"{BDD}/images/train/a.jpg {BDD}/labels/val/a_train_id.png"], "do not belong together"),
        ([f"{BDD}/images/train/a.jpg {VISTAS}/training/cityscapes_labels/a.png"], "not belong"),
        (["/label/0001.png /data/0001.png"], "line 1: /label/0001.png is of no known form; known"),
        (["/data/0001.png /data/0001.png"], "line 1: /data/0001.png is of no known form"),
        ([f"{VISTAS}/training/images/a.jpg {VISTAS}/training/labels/a.png"], "no known form"),
        (["/data/0012.png /label/0012.png", "/data/0013.png /label/0013.png"],
         r"line 2: image 0013 of Cityscapes train, which has 1 to 12 here: half a data set\?"),
        (["/val_data/0000.png /val_label/0000.png"], "line 1: image 0000 of Cityscapes val"),
        ([published("bdd100k/val/gone")], "bdd100k/val/gone is not among the 9 images: half a"),
        (["/data/0002.png /label/0002.png"] * 2, "line 2: /data/0002.png is listed twice, first"),
        (["/data/0001.png /label/0001.png", published("bdd100k/val/a")],
         "line 2: an item of bdd100k in a list of cityscapes"),
        (["", ""], "empty, expected lines IMAGE LABEL such as /data"),
    ],
)  # fmt: skip
def test_bad_lists_name_list_and_line(tmp_path, sources, lines, message):
    with pytest.raises(ValueError, match=rf"list\.txt.*{message}"):
        read(listed(tmp_path, *lines), sources)


def test_no_list_no_source_no_text(tmp_path, sources):
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such split list"):
        read(tmp_path / "none.txt", sources)
    path = listed(tmp_path, published("mapillary/training/a"))
    with pytest.raises(ValueError, match=r"line 1: an item of mapillary, but no root of mapillary"):
        read(path, {"cityscapes": sources["cityscapes"]})
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"list\.txt: not a text file"):
        read(path, sources)


# ----------------------------------------------------------------------------------------- write


def test_what_is_written_is_the_published_format(tmp_path, roots, sources):
    path = tmp_path / "lists" / "list.txt"
    write(sources["cityscapes"].subset([11, 0, 17]), path, roots)
    assert path.read_text() == (
        "/data/0012.png /label/0012.png\n/data/0001.png /label/0001.png\n"
        "/val_data/0006.png /val_label/0006.png\n"
    )
    for name, prefix in (("bdd100k", BDD.removesuffix("/seg")), ("mapillary", VISTAS)):
        write(sources[name], path, {name: prefix})
        assert path.read_text().splitlines() == [published(i) for i in sources[name].ids]


@pytest.mark.parametrize("name", ["cityscapes", "bdd100k", "mapillary"])
def test_read_gives_back_what_was_written(tmp_path, roots, sources, name):
    scenes = sources[name].subset(np.random.default_rng(1).permutation(len(sources[name]))[:7])
    write(scenes, tmp_path / "list.txt", roots)
    found = read(tmp_path / "list.txt", sources)
    assert found.ids == scenes.ids and found.digest == scenes.digest
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_what_cannot_be_written(tmp_path, roots, sources):
    path = tmp_path / "list.txt"
    for name in sources:
        with pytest.raises(ValueError, match=rf"scene {name}/.*, but no root of {name} was given"):
            write(sources[name], path)
    arrays = np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 4, 4), np.uint8)
    for i in ("harbour-s0-000001", "camvid/train/a", "bdd100k/train"):
        with pytest.raises(ValueError, match=f"scene {i} is of none of cityscapes, bdd100k"):
            write(Scenes.from_arrays(*arrays, [i], ["road"]), path, roots)
    other = Scenes.from_arrays(*arrays, ["cityscapes/val/bonn_000000_000019"], ["road"])
    with pytest.raises(ValueError, match="bonn_000000_000019 is not among the images in"):
        write(other, path, roots)
    assert not path.exists()


# ------------------------------------------------------------------------- generate, save, load


def test_published_counts_and_names():
    assert sum(map(sum, lists.COUNTS["dependent", "cityscapes"].values())) == 3475
    assert sum(lists.OFFICIAL.values()) == 3475
    assert [file for names in lists.FILES.values() for file in names.values()] == [
        "dependent/cityscapes_membership_victim.txt",
        "dependent/cityscapes_non_membership_victim.txt",
        "dependent/cityscapes_membership_shadow.txt",
        "dependent/cityscapes_non_membership_shadow.txt",
        "independent/bdd100k_membership_shadow.txt",
        "independent/bdd100k_non_membership_shadow.txt",
        "independent/mapillary_membership_shadow.txt",
        "independent/mapillary_non_membership_shadow.txt",
    ]


@pytest.mark.parametrize(("setting", "shadow", "counts"), SETTINGS)
def test_generated_lists_come_back(tmp_path, roots, sources, setting, shadow, counts):
    split = generate(setting, shadow, sources, seed=3, counts=counts)
    sizes = [len(scenes) for scenes in split.lists().values()]
    assert sizes == [*counts["victim"], *counts["shadow"]]
    paths = save(split, tmp_path, setting, shadow, roots)
    names = lists.FILES[setting, shadow].values()
    assert paths == [tmp_path / file for file in names] and all(p.is_file() for p in paths)
    found = load(setting, shadow, sources, tmp_path, counts)
    for name, scenes in split.lists().items():
        assert getattr(found, name).ids == scenes.ids
    if setting == "independent":
        assert split.victim_members.ids == sources["cityscapes"].ids[:12]
        assert split.victim_nonmembers.ids == sources["cityscapes"].ids[12:]
        assert {i.split("/")[0] for i in split.shadow_members.ids} == {shadow}


def test_lists_follow_from_seed_and_ids_alone(sources):
    def ids(seed: int, source: Scenes) -> list[list[str]]:
        split = generate(
            "dependent", "cityscapes", {"cityscapes": source}, seed=seed, counts=COUNTS
        )
        return [scenes.ids for scenes in split.lists().values()]

    source = sources["cityscapes"]
    assert ids(0, source) == ids(0, source.subset(range(17, -1, -1))) != ids(1, source)
    drawn = [[source.ids.index(i) for i in part] for part in ids(0, source)]
    assert drawn == PINNED
    assert sorted(i for part in drawn for i in part) == list(range(18))


def test_half_a_data_set_makes_no_split(tmp_path, sources):
    part = {**sources, "cityscapes": sources["cityscapes"].subset(range(1, 18))}
    with pytest.raises(ValueError, match=r"cityscapes: 17 images, 18 are needed: half a data set"):
        generate("dependent", "cityscapes", part, seed=0, counts=COUNTS)
    with pytest.raises(ValueError, match=r"Cityscapes train: 11 images, expected 12: half a"):
        generate("independent", "bdd100k", part, seed=0, counts=INDEPENDENT)
    with pytest.raises(ValueError, match="bdd100k: 9 images, 8000 are needed"):
        generate("independent", "bdd100k", sources, seed=0)
    with pytest.raises(ValueError, match="Cityscapes train: 12 images, expected 2975"):
        load("dependent", "cityscapes", sources, tmp_path)  # or the numbers would name others


def test_wrong_settings(tmp_path, sources):
    for setting, shadow in (("dependent", "bdd100k"), ("both", "cityscapes")):
        with pytest.raises(
            ValueError, match=f"are {setting} {shadow}, expected one of dependent c"
        ):
            load(setting, shadow, sources, tmp_path)
    with pytest.raises(ValueError, match="no root of mapillary was given, expected one; given: c"):
        load("independent", "mapillary", {"cityscapes": sources["cityscapes"]}, tmp_path)
    for counts in ({"victim": (1, 2)}, {"victim": (1, 2), "shadow": (0, 2)}):
        with pytest.raises(
            ValueError, match=r"counts are .*, expected like \{'victim': \(1488, 91"
        ):
            generate("dependent", "cityscapes", sources, seed=0, counts=counts)


def test_load_checks_count_source_and_disjointness(tmp_path, roots, sources):
    split = generate("dependent", "cityscapes", sources, seed=0, counts=COUNTS)
    members, nonmembers, *_ = save(split, tmp_path, "dependent", "cityscapes", roots)
    whole = nonmembers.read_text()
    nonmembers.write_text("".join(whole.splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match=r"non_membership_victim\.txt: 3 items, expected 4; get"):
        load("dependent", "cityscapes", sources, tmp_path, COUNTS)
    shared = members.read_text().splitlines()[:2]
    nonmembers.write_text("\n".join([*whole.splitlines()[2:], *shared]))
    match = (
        r"cityscapes_membership_victim\.txt and .*cityscapes_non_membership_victim\.txt share 2 "
        r"images, e\.g\. cityscapes/\w+/\w+, .*: get both lists again, or generate new ones"
    )
    with pytest.raises(ValueError, match=match):
        load("dependent", "cityscapes", sources, tmp_path, COUNTS)
    nonmembers.write_text("\n".join(map(published, sources["bdd100k"].ids[:4])))
    with pytest.raises(ValueError, match=r"victim\.txt: a list of bdd100k, expected one of citys"):
        load("dependent", "cityscapes", sources, tmp_path, COUNTS)
    nonmembers.unlink()
    with pytest.raises(FileNotFoundError, match=r"non_membership_victim\.txt: no such split list"):
        load("dependent", "cityscapes", sources, tmp_path, COUNTS)


def test_victim_and_shadow_may_be_of_different_grids(sources):
    split = generate("independent", "mapillary", sources, seed=0, counts=INDEPENDENT)
    assert split.victim_members.shape == (16, 32) and split.shadow_members.shape == (8, 16)
