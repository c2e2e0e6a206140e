"""Sentences chosen by code, over made-up results: clear, unclear, tied, reversed."""

from __future__ import annotations

import itertools

import pytest

from segleak_utils.metrics import Interval
from segleak_utils.studies import readings


def at(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 400, 2000)


ABOVE, BELOW, AROUND = at(0.1, 0.2), at(-0.2, -0.1), at(-0.1, 0.2)
TOUCHES = (at(0, 0.2), at(-0.2, 0), at(0, 0))


def test_clear_is_what_does_not_even_touch():
    assert [readings.clear(of) for of in (ABOVE, AROUND, BELOW)] == [1, 0, -1]
    assert [readings.clear(of) for of in TOUCHES] == [0, 0, 0]
    assert readings.clear(at(0.6, 0.7), 0.5) == 1 and readings.clear(at(0.5, 0.7), 0.5) == 0


@pytest.mark.parametrize(
    ("say", "above", "around", "below"),
    [
        (readings.changed, "better", "no clear change", "worse"),
        (lambda i: readings.on_members(i, "sure"), "more sure on", "neither", "less sure on"),
        (readings.further, "less far", "about as far", "falls further"),
    ],
)
def test_a_difference_is_said_the_way_it_goes(say, above, around, below):
    assert above in say(ABOVE) and below in say(BELOW)
    assert all(around in say(of) for of in (AROUND, *TOUCHES))


def test_an_area_is_said_the_way_it_goes():
    told = [readings.guessing(at(*ends)) for ends in ((0.6, 0.7), (0.45, 0.6), (0.3, 0.4))]
    assert told == ["above guessing", "not clear of guessing", "below guessing"]
    told = [readings.blind(at(*ends))[:5] for ends in ((0.52, 0.6), (0.45, 0.6), (0.3, 0.49))]
    assert told == ["misse", "holds", "misse"]


def test_the_darker_scene_is_the_one_whose_printed_loss_is_lower():
    assert readings.darker(0.28, 0.34) == "The member is the darker one."
    assert readings.darker(0.34, 0.28) == "The non-member is the darker one."
    assert readings.darker(0.281, 0.284) == "To two decimals they do not differ."


def test_diluting_classes_are_named_and_only_they():
    shares = {"truck": (0.03, 0.3), "road": (0.4, 0.02), "car": (0.1, 0.1), "sky": (0.1, -0.1)}
    assert "road and sky hold more of the pixels" in readings.diluting(shares)
    assert readings.diluting({"road": (0.4, 0.02)}).startswith("Of these, road holds")
    assert readings.diluting({"truck": (0.03, 0.3)}).startswith("None")


@pytest.mark.parametrize(
    "kinds", [*itertools.product((ABOVE, AROUND, BELOW, TOUCHES[0]), repeat=2)]
)
def test_pairs_that_are_apart_are_named_by_who_tells_more(kinds):
    pairs = {("a", "b"): kinds[0], ("b", "c"): kinds[1]}
    told = readings.pairs_apart(pairs)
    for (one, other), found in pairs.items():
        assert (f"*{one}* tells more than *{other}*" in told) == (found is ABOVE)
        assert (f"*{other}* tells more than *{one}*" in told) == (found is BELOW)
    assert told.startswith("None of the 2") == (not {ABOVE, BELOW} & {*kinds})


def test_parts_that_tell_something_are_all_some_or_none():
    high, low = at(0.6, 0.7), at(0.45, 0.6)
    assert readings.each_above({"a": high, "b": high}).startswith("All 2")
    assert readings.each_above({"a": low, "b": low}).startswith("None of the 2")
    assert "*b*; the others are not" in readings.each_above(
        {"a": low, "b": high, "c": at(0.3, 0.4)}
    )


def test_halves_are_said_where_they_are_clear():
    shares = {"wall": at(0.8, 1.1), "truck": at(0.4, 0.6), "bus": at(0.1, 0.3), "car": at(0, 0.2)}
    assert readings.halves(shares) == (
        "More than half of the gap: wall; less than half: bus and car; "
        "about half, or undecided: truck."
    )
    assert readings.halves({"bus": at(0.1, 0.3)}) == "Less than half: bus."
    assert readings.halves({}) == ""
