"""Sentences chosen by code, over made-up results: clear, unclear, tied, reversed."""

from __future__ import annotations

import itertools

import pytest

from segleak_utils.metrics import Interval
from segleak_utils.running import sentences


def at(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 400, 2000)


ABOVE, BELOW, AROUND = at(0.1, 0.2), at(-0.2, -0.1), at(-0.1, 0.2)
TOUCHES = (at(0, 0.2), at(-0.2, 0), at(0, 0))


def test_clear_is_what_does_not_even_touch():
    assert [sentences.clear(of) for of in (ABOVE, AROUND, BELOW)] == [1, 0, -1]
    assert [sentences.clear(of) for of in TOUCHES] == [0, 0, 0]
    assert sentences.clear(at(0.6, 0.7), 0.5) == 1 and sentences.clear(at(0.5, 0.7), 0.5) == 0


@pytest.mark.parametrize(
    ("say", "above", "around", "below"),
    [
        (sentences.changed, "better", "no clear change", "worse"),
        (lambda i: sentences.on_members(i, "sure"), "more sure on", "neither", "less sure on"),
        (sentences.further, "less far", "about as far", "falls further"),
    ],
)
def test_a_difference_is_said_the_way_it_goes(say, above, around, below):
    assert above in say(ABOVE) and below in say(BELOW)
    assert all(around in say(of) for of in (AROUND, *TOUCHES))


def test_an_area_is_said_the_way_it_goes():
    told = [sentences.guessing(at(*ends)) for ends in ((0.6, 0.7), (0.45, 0.6), (0.3, 0.4))]
    assert told == ["above guessing", "not clear of guessing", "below guessing"]
    told = [sentences.blind(at(*ends))[:5] for ends in ((0.52, 0.6), (0.45, 0.6), (0.3, 0.49))]
    assert told == ["misse", "holds", "misse"]


def test_the_darker_scene_is_the_one_whose_printed_loss_is_lower():
    assert sentences.darker(0.28, 0.34) == "The member is the darker one."
    assert sentences.darker(0.34, 0.28) == "The non-member is the darker one."
    assert sentences.darker(0.281, 0.284) == "To two decimals they do not differ."


def test_diluting_classes_are_named_and_only_they():
    shares = {"truck": (0.03, 0.3), "road": (0.4, 0.02), "car": (0.1, 0.1), "sky": (0.1, -0.1)}
    assert "road and sky hold more of the pixels" in sentences.diluting(shares)
    assert sentences.diluting({"road": (0.4, 0.02)}).startswith("Of these, road holds")
    assert sentences.diluting({"truck": (0.03, 0.3)}).startswith("None")


@pytest.mark.parametrize(
    "kinds", [*itertools.product((ABOVE, AROUND, BELOW, TOUCHES[0]), repeat=2)]
)
def test_pairs_that_are_apart_are_named_by_who_tells_more(kinds):
    pairs = {("a", "b"): kinds[0], ("b", "c"): kinds[1]}
    told = sentences.apart(pairs)
    for (one, other), found in pairs.items():
        assert (f"*{one}* tells more than *{other}*" in told) == (found is ABOVE)
        assert (f"*{other}* tells more than *{one}*" in told) == (found is BELOW)
    assert told.startswith("None of the 2") == (not {ABOVE, BELOW} & {*kinds})


def test_parts_that_tell_something_are_all_some_or_none():
    high, low = at(0.6, 0.7), at(0.45, 0.6)
    assert sentences.each_above({"a": high, "b": high}).startswith("All 2")
    assert sentences.each_above({"a": low, "b": low}).startswith("None of the 2")
    assert "*b*; the others are not" in sentences.each_above(
        {"a": low, "b": high, "c": at(0.3, 0.4)}
    )


def test_halves_are_said_where_they_are_clear():
    shares = {"wall": at(0.8, 1.1), "truck": at(0.4, 0.6), "bus": at(0.1, 0.3), "car": at(0, 0.2)}
    assert sentences.halves(shares) == (
        "More than half of the gap: wall; Less than half: bus and car; "
        "About half, or undecided: truck."
    )
    assert sentences.halves({"bus": at(0.1, 0.3)}) == "Less than half: bus."
    assert sentences.halves({}) == ""
