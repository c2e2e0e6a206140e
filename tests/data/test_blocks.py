"""Blocks of video drives, and CamVid's split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_drives import ROLES, scenes_of

from segleak_utils.data import Scenes, blocks, camvid, camvid_split


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
    drives = {name[0] for name in scenes.ids}
    return {d: np.array([int(i[2:]) for i in scenes.ids if i[0] == d]) for d in drives}


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
        drives = [{group.split(",")[0] for group in of.groups} for of in (members, others)]
        assert drives == [expected, expected]
        assert not set(members.groups) & set(others.groups)  # the blocks, each of one role


def test_the_seed_draws_the_roles():
    first, again, other = (camvid_split(video(), seed=s, **DRIVES) for s in (0, 0, 1))
    assert first.victim_members.ids == again.victim_members.ids
    assert first.victim_members.ids != other.victim_members.ids


def test_near_duplicate_frames_are_thinned():
    dense = scenes_of([f"A_{i:05}" for i in range(5000, 5200, 2)], groups=["A"] * 100)
    split = camvid_split(video(drives=("B", "C", "D")) + dense, block_length=2, **DRIVES)
    kept = np.sort(
        np.concatenate([of["A"] for s in split.lists().values() if "A" in (of := times(s))])
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
    lists = split.victim_members, split.shadow_members
    drives = [{group.split(",")[0] for group in of.groups} for of in lists]
    assert bool(drives[0] & drives[1]) == (setting == "dependent")
