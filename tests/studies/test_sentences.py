"""Sentences chosen by results: true for whatever the results are."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segleak_utils.metrics import Interval
from segleak_utils.studies import sentences


@st.composite
def intervals(draw, low: float = -1, high: float = 1) -> Interval:
    ends = st.floats(low, high, width=32)
    a, b, c = sorted([draw(ends), draw(ends), draw(ends)])
    return Interval(b, a, c, 10, 10)


areas = intervals(0, 1)
many = settings(max_examples=60, deadline=None)


@many
@given(intervals())
def test_a_verdict_needs_the_whole_interval(d):
    word = sentences.verdict(d)
    assert (word == "ahead") == (d.low > 0) and (word == "behind") == (d.high < 0)
    assert sentences.verdict(Interval(-d.value, -d.high, -d.low, 1, 1)) == (
        {"ahead": "behind", "behind": "ahead"}.get(word, word)
    )


@many
@given(st.lists(intervals(), max_size=6))
def test_a_tally_counts_everybody_once(found):
    assert sum(sentences.counts(found).values()) == len(found)
    numbers = [int(n) for n in re.findall(r"\d+", sentences.tally(found))]
    assert numbers[1] == len(found) == numbers[0] + numbers[2] + numbers[3]


@many
@given(st.floats(0, 3))
def test_a_loss_is_told_beside_a_coin_toss(loss):
    text = sentences.near_a_coin(loss)
    assert ("above" in text) == (loss > np.log(2))
    assert ("close" in text) == (np.log(2) - 0.1 < loss <= np.log(2))


@many
@given(intervals(), st.integers(1, 64))
def test_patches_help_only_where_there_are_several_and_the_interval_says_so(gain, number):
    text = sentences.more_patches(gain, number)
    assert (text == "More patches help") == (number > 1 and gain.low > 0)
    assert ("hurt" in text) == (number > 1 and gain.high < 0)


@many
@given(intervals(), intervals())
def test_size_is_area_only_where_the_effect_goes_with_it(number, area):
    text = sentences.size_or_area(number, area)
    told = "more of the image is seen" in text
    assert not told or (number.low > 0 and area.value < number.value)
    assert ("patch raises" in text) == (number.low > 0)


@many
@given(st.none() | intervals(), st.none() | intervals())
def test_hard_and_easy_need_an_interval_each(missed, accused):
    text = sentences.hard_and_easy(missed, accused)
    assert ("*hard*" in text) == (missed is not None and missed.low > 0)
    assert ("*easy*" in text) == (accused is not None and accused.high < 0)


@many
@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.integers(0, 9))
def test_an_order_is_kept_where_it_is_kept(plain, seed):
    plain = np.array(plain)
    moved = np.random.default_rng(seed).permutation(plain)
    text = sentences.order_under_noise(plain, {"std 1": plain, "std 2": moved})
    first, second = text.split(";")
    assert "0.00 (their order is kept)" in first
    assert ("another class on top" in second) == (np.argmax(moved) != np.argmax(plain))


@many
@given(st.lists(intervals(), min_size=1, max_size=5))
def test_apart_is_said_where_somebody_is(found):
    text = sentences.apart({(f"noise {k}", "patches"): d for k, d in enumerate(found)})
    ahead = sum(d.low > 0 for d in found)
    assert ("furthest apart" in text) == (ahead > 0)
    assert f"{ahead or 'none'} of {len(found)}" in text.replace("In none", "In none")


@pytest.mark.parametrize("usable", [[], ["a"], ["a", "b"]])
@pytest.mark.parametrize("hidden", [[], ["b"], ["a", "c"], ["c"]])
def test_no_setting_does_both_where_none_does(usable, hidden):
    text = sentences.both_wanted(usable, hidden)
    assert ("No setting" in text) == (not set(usable) & set(hidden))


@many
@given(st.lists(areas, min_size=1, max_size=6))
def test_intervals_overlap_where_they_do(found):
    text = sentences.overlapping({str(k): area for k, area in enumerate(found)})
    ordered = sorted(found, key=lambda area: area.value)
    meet = any(a.high >= b.low for a, b in itertools.pairwise(ordered))
    assert ("Some" in text) == meet


words = st.lists(st.sampled_from(["ahead", "behind", "undecided"]), min_size=1, max_size=4)


@many
@given(st.dictionaries(st.sampled_from("abc"), words, min_size=1))
def test_the_bar_is_passed_where_somebody_passes_it(verdicts):
    text = sentences.against_the_bar(verdicts)
    every = [word for found in verdicts.values() for word in found]
    assert ("No patch attack is ahead" in text) == ("ahead" not in every)
    for name, found in verdicts.items():
        always = set(found) == {"ahead"}
        assert (f"*{name}*" in text.partition("every contest")[2]) == always


@many
@given(st.floats(0.01, 2), st.floats(0.01, 2))
def test_a_scatter_that_does_not_shrink_is_not_said_to(alone, beside):
    assert ("times less" in sentences.calmer(alone, beside)) == (beside < alone)


@many
@given(intervals(), intervals())
def test_a_lever_is_large_only_beyond_the_other(difficulty, structure):
    text = sentences.levers(difficulty, structure)
    assert ("large lever" not in text) or difficulty.low > structure.high
    assert ("subtraction lifts" in text) == (difficulty.low > 0)
    assert ("lower than" in sentences.lower_at_the_same_difficulty(structure)) == (
        structure.high < 0
    )


@many
@given(
    st.dictionaries(
        st.sampled_from(["RMIA", "LiRA", "loss", "Dice"]),
        st.lists(intervals(), min_size=1, max_size=4),
        min_size=1,
    )
)
def test_nobody_who_is_never_beaten_hides_in_a_sum(behind):
    text = sentences.by_attack(behind)
    for name, found in behind.items():
        won = sum(d.low > 0 for d in found)
        first = text.partition("on **none**")[0] if "on **none**" in text else ""
        assert (f"*{name}*" in first) == (won == 0)
        if 0 < won < len(found):
            assert f"of *{name}* on {won} of {len(found)}" in text
        lost = sum(d.high < 0 for d in found)
        assert (f"*{name}* on {lost}" in text.partition("*behind*")[2]) == (lost > 0)


@many
@given(st.lists(areas, min_size=1, max_size=6))
def test_a_course_tells_each_step(found):
    points = [(str(100 * k), area) for k, area in enumerate(found)]
    text = sentences.course(points)
    pairs = [*itertools.pairwise(found)]
    ends = len(found) > 1 and all(a.high >= b.low and b.high >= a.low for a, b in pairs)
    falls = any(b.high < a.low for a, b in pairs) or (ends and found[-1].high < found[0].low)
    rises = any(b.low > a.high for a, b in pairs) or (ends and found[-1].low > found[0].high)
    assert ("falls" in text) == falls and ("rises" in text) == rises


def test_a_rise_before_a_fall_is_not_left_out():
    """As the grid has it: more members leak more at first."""
    values = {"100": (0.85, 0.92), "200": (0.925, 0.94), "400": (0.878, 0.908), "800": (0.81, 0.85)}
    points = [(n, Interval(sum(e) / 2, *e, 9, 9)) for n, e in values.items()]
    assert sentences.course(points) == "rises to 200, falls to 800"


@many
@given(st.dictionaries(st.integers(1, 5000), st.floats(-1, 1), min_size=1))
def test_noise_averages_out_only_where_it_does(by_number):
    text = sentences.averages_out(by_number)
    better = by_number[max(by_number)] > by_number[min(by_number)]
    assert ("averages out" in text) == better and ("nothing back" in text) != better


betters = st.dictionaries(st.sampled_from("abcd"), st.lists(st.sampled_from("wxyz"), max_size=2))


@many
@given(betters, betters)
def test_who_is_dominated_is_named_with_whoever_is_better(naive, adaptive):
    rows = sentences.dominance({"naive": naive, "adaptive": adaptive})
    assert {row[0] for row in rows} == {f"*{name}*" for name in naive | adaptive}
    for name, *told in rows:
        for of, cell in zip((naive, adaptive), told, strict=True):
            better = of.get(name.strip("*"))
            assert cell == ("-" if better is None else "; ".join(better) or "**nobody**")
