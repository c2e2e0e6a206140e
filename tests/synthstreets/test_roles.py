"""The default experiment's roles as ranges of one world."""

from __future__ import annotations

import pytest
from toy_drives import ROLES, scenes_of

from segleak_utils.synthstreets import split


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Ranges that are asked for, instead of pictures."""
    calls = []

    def synthstreets(city, seed, start, count, *, root, progress):
        calls.append((city, seed, start, count))
        return scenes_of([f"{city}-s{seed}-{i:06}" for i in range(start, start + count)])

    monkeypatch.setattr("segleak_utils.synthstreets.source.draw", synthstreets)
    return calls


SIZES = {"n_members": 4, "n_nonmembers": 7, "n_shadow_nonmembers": 3, "n_held_out": 2}


def test_synthstreets_split_is_made_of_ranges(drawn):
    whole = split("harbour", 1, "suburb", 2, **SIZES)
    ends = {role: (s.ids[0], s.ids[-1], len(s)) for role, s in whole.lists().items()}
    assert ends == {
        "victim_members": ("harbour-s0-110000", "harbour-s0-110003", 4),
        "victim_nonmembers": ("harbour-s0-000000", "harbour-s0-000006", 7),
        "shadow_members": ("suburb-s0-520000", "suburb-s0-520003", 4),
        "shadow_nonmembers": ("suburb-s0-520004", "suburb-s0-520006", 3),
        "victim_held_out": ("harbour-s0-110004", "harbour-s0-110005", 2),
        "shadow_held_out": ("suburb-s0-520007", "suburb-s0-520008", 2),
    }
    bare = split(**SIZES | {"n_held_out": 0})
    assert bare.victim_held_out is None and bare.shadow_held_out is None


def test_seeds_share_nothing_but_the_nonmembers_of_the_victims(drawn):
    pairs = [split("harbour", k, "harbour", k, **SIZES) for k in (0, 1, 39)]
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
        split(**SIZES | change)
    assert drawn == []
