"""Disjointness, block splits of video, and the splits of the experiments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_drives import ROLES, scenes_of

from segleak_utils.data import Split


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
