"""Disjointness, block splits of video, and the splits of the experiments."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segleak_utils import splits
from segleak_utils.data import Scenes, camvid
from segleak_utils.splits import Split, blocks, camvid_split, synthstreets_split

ROLES = [field.name for field in fields(Split)]


def scenes_of(ids, names=("road", "car"), groups=None) -> Scenes:
    pixels = np.zeros((len(ids), 3, 1, 1), np.uint8)
    return Scenes.from_arrays(pixels, pixels[:, 0], ids, names, groups=groups, source="test")


def test_split_holds_its_lists():
    split = Split(*(scenes_of([role]) for role in ROLES[:4]))
    assert list(split.lists()) == ROLES[:4] and split.victim_held_out is None
    split = Split(*(scenes_of([role]) for role in ROLES))
    assert list(split.lists()) == ROLES and split.shadow_held_out.ids == ["shadow_held_out"]


@pytest.mark.parametrize("role", range(6))
def test_an_empty_list_is_named(role):
    lists = [scenes_of([name]) for name in ROLES]
    lists[role] = lists[role].subset([])
    with pytest.raises(ValueError, match=f"^{ROLES[role]} is empty"):
        Split(*lists)


@given(st.lists(st.integers(0, 5), min_size=6, max_size=40), st.data())
def test_any_overlap_is_found_and_named(roles, drawn):
    roles = [*range(6), *roles]
    lists = [[f"id{i:02}" for i, r in enumerate(roles) if r == role] for role in range(6)]
    Split(*map(scenes_of, lists))
    source, target = drawn.draw(st.permutations(range(6)))[:2]
    shared = drawn.draw(st.lists(st.sampled_from(lists[source]), min_size=1, unique=True))
    lists[target] = [*lists[target], *shared]
    first, second = sorted((source, target))
    some = ", ".join(sorted(shared)[:3])
    message = f"^{ROLES[first]} and {ROLES[second]} share {len(shared)} ids, e.g. {some}$"
    with pytest.raises(ValueError, match=message):
        Split(*map(scenes_of, lists))


def test_classes_must_agree():
    lists = [scenes_of([name]) for name in ROLES[:3]]
    for names in (("road",), ("road", "bus")):
        with pytest.raises(ValueError, match="victim_members and shadow_nonmembers have different"):
            Split(*lists, scenes_of(["x"], names))


def test_blocks_by_hand():
    groups = ["a"] * 7 + ["b"] * 3
    assert blocks(groups, 2, 1).tolist() == [0, 0, 0, -1, 1, 1, 1, 2, -1, 3]
    assert blocks(groups, {"a": 3, "b": 1}, 2).tolist() == [0, -1, -1, 1, -1, -1, 2, 3, 3, 3]
    assert blocks(["a", "b", "a", "b"], 2, 0).tolist() == [0, 2, 1, 3]  # drives may interleave


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 3))
def test_blocks_are_contiguous_with_gaps(lengths, n, gap):
    groups = [f"g{k}" for k, length in enumerate(lengths) for _ in range(length)]
    if any(length < n + gap * (n - 1) for length in lengths):
        with pytest.raises(ValueError, match=f"cannot make {n} blocks with gaps of {gap}"):
            blocks(groups, n, gap)
        return
    numbers = blocks(groups, n, gap)
    assert sorted(set(numbers[numbers >= 0])) == list(range(n * len(lengths)))
    for k in range(len(lengths)):
        inside = numbers[np.array(groups) == f"g{k}"]
        sizes = []
        for block in range(k * n, (k + 1) * n):
            at = np.flatnonzero(inside == block)
            assert len(at) == at[-1] - at[0] + 1
            sizes.append(len(at))
            if block > k * n:
                before = np.flatnonzero(inside == block - 1)
                assert at[0] - before[-1] == gap + 1
        assert max(sizes) - min(sizes) <= 1
        assert (inside < 0).sum() == gap * (n - 1)


def test_blocks_refuse_a_negative_gap():
    with pytest.raises(ValueError, match="gap is -1"):
        blocks(["a"], 1, -1)


def video(per_drive: int = 100, step: int = 30, drives=("A", "B", "C", "D")) -> Scenes:
    ids = [f"{d}_{i * step:05}" for d in drives for i in range(per_drive)]
    return scenes_of(ids, groups=[i[0] for i in ids])


DRIVES = {"victim_drives": ("A", "B"), "shadow_drives": ("C", "D")}


def times(scenes: Scenes) -> dict[str, np.ndarray]:
    return {d: np.array([int(i[2:]) for i in scenes.ids if i[0] == d]) for d in set(scenes.groups)}


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["dependent", "independent"]), st.integers(0, 99), st.integers(0, 4))
def test_video_roles_are_apart_in_time_and_balanced(setting, seed, gap):
    shuffled = np.random.default_rng(seed).permutation(800)  # the order given does not matter
    split = camvid_split(video(200).subset(shuffled), setting, seed=seed, gap=gap, **DRIVES)
    lists = split.lists()
    assert list(lists) == ROLES
    for k, one in enumerate(lists.values()):
        for other in list(lists.values())[k + 1 :]:
            for drive, at in times(one).items():
                there = times(other).get(drive, np.array([10**9]))
                assert np.abs(at[:, None] - there[None]).min() >= (gap + 1) * 30
    for owner in ("victim", "shadow"):
        members, others = lists[f"{owner}_members"], lists[f"{owner}_nonmembers"]
        assert abs(len(members) - len(others)) <= 16  # one block, the longest
        assert len(lists[f"{owner}_held_out"]) < len(members)
        expected = set(DRIVES[f"{owner}_drives"]) if setting == "independent" else set("ABCD")
        assert set(members.groups) == set(others.groups) == expected


def test_the_seed_draws_the_roles():
    first, again, other = (camvid_split(video(), seed=s, **DRIVES) for s in (0, 0, 1))
    assert first.victim_members.ids == again.victim_members.ids
    assert first.victim_members.ids != other.victim_members.ids


def test_near_duplicate_frames_are_thinned():
    dense = scenes_of([f"A_{i:05}" for i in range(5000, 5200, 2)], groups=["A"] * 100)
    split = camvid_split(video(drives=("B", "C", "D")) + dense, block_length=2, **DRIVES)
    kept = np.sort(
        np.concatenate([times(s)["A"] for s in split.lists().values() if "A" in s.groups])
    )
    assert np.diff(kept).min() >= 20 and len(kept) <= 10


def test_camvid_split_errors():
    with pytest.raises(ValueError, match=r"setting is 'both', expected 'dependent'"):
        camvid_split(video(), "both", **DRIVES)
    with pytest.raises(ValueError, match="no groups"):
        camvid_split(scenes_of(["a"]), **DRIVES)
    with pytest.raises(ValueError, match=r"no frames of drive Z, found \['A', 'B', 'C', 'D'\]"):
        camvid_split(video(), victim_drives=("Z",), shadow_drives=("A",))
    with pytest.raises(ValueError, match="overlap"):
        camvid_split(video(), victim_drives=("A",), shadow_drives=("A",))
    with pytest.raises(ValueError, match="frame A-x does not end in its number"):
        camvid_split(scenes_of(["A-x"], groups=["A"]), victim_drives=("A",), shadow_drives=())
    with pytest.raises(ValueError, match="is empty"):
        camvid_split(video(5), "independent", victim_drives=("A",), shadow_drives=("C", "D"))


@pytest.mark.parametrize("setting", ["dependent", "independent"])
def test_camvid_split_of_the_real_set(camvid_root, setting):
    split = camvid_split(camvid(camvid_root, size=(18, 24)), setting)
    sizes = {name: len(scenes) for name, scenes in split.lists().items()}
    least = 100 if setting == "independent" else 90
    assert min(sizes[name] for name in ROLES[:4]) >= least, sizes
    assert min(sizes[name] for name in ROLES[4:]) >= 20, sizes
    drives = [set(split.victim_members.groups), set(split.shadow_members.groups)]
    assert bool(drives[0] & drives[1]) == (setting == "dependent")


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Ranges that are asked for, instead of pictures."""
    calls = []

    def synthstreets(city, seed, start, count, *, root, progress):
        calls.append((city, seed, start, count))
        return scenes_of([f"{city}-s{seed}-{i:06}" for i in range(start, start + count)])

    monkeypatch.setattr(splits, "synthstreets", synthstreets)
    return calls


SIZES = {"n_members": 4, "n_nonmembers": 7, "n_shadow_nonmembers": 3, "n_held_out": 2}


def test_synthstreets_split_is_made_of_ranges(drawn):
    split = synthstreets_split("harbour", 1, "suburb", 2, **SIZES)
    ends = {role: (s.ids[0], s.ids[-1], len(s)) for role, s in split.lists().items()}
    assert ends == {
        "victim_members": ("harbour-s0-110000", "harbour-s0-110003", 4),
        "victim_nonmembers": ("harbour-s0-000000", "harbour-s0-000006", 7),
        "shadow_members": ("suburb-s0-520000", "suburb-s0-520003", 4),
        "shadow_nonmembers": ("suburb-s0-520004", "suburb-s0-520006", 3),
        "victim_held_out": ("harbour-s0-110004", "harbour-s0-110005", 2),
        "shadow_held_out": ("suburb-s0-520007", "suburb-s0-520008", 2),
    }
    bare = synthstreets_split(**SIZES | {"n_held_out": 0})
    assert bare.victim_held_out is None and bare.shadow_held_out is None


def test_seeds_share_nothing_but_the_nonmembers_of_the_victims(drawn):
    pairs = [synthstreets_split("harbour", k, "harbour", k, **SIZES) for k in (0, 1, 39)]
    seen = [set(s.victim_nonmembers.ids) for s in pairs]
    assert seen[0] == seen[1] == seen[2]
    rest = [i for p in pairs for n, s in p.lists().items() if n != ROLES[1] for i in s.ids]
    assert len(rest) == len(set(rest)) and not seen[0] & set(rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_members": 0}, "n_members is 0, expected at least 1"),
        ({"n_nonmembers": 0}, "n_nonmembers is 0"),
        ({"n_shadow_nonmembers": 0}, "n_shadow_nonmembers is 0"),
        ({"n_held_out": -1}, "n_held_out is -1"),
        ({"n_nonmembers": 100_001}, "n_nonmembers: 100001, expected 0..100000"),
        ({"n_members": 9_999}, "victim scenes: 10001, expected 0..10000"),
        ({"n_shadow_nonmembers": 9_995}, "shadow scenes: 10001"),
        ({"victim_seed": 40}, "victim_seed: 40, expected 0..39"),
        ({"shadow_seed": 50}, "shadow_seed: 50, expected 0..49"),
    ],
)
def test_synthstreets_split_refuses_ranges_that_would_overlap(drawn, change, message):
    with pytest.raises(ValueError, match=message):
        synthstreets_split(**SIZES | change)
    assert drawn == []
