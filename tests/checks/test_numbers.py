"""What is a number, a label, a count: the right ones pass unchanged, all others are named."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segleak_utils.checks import numbers

# ---- scores --------------------------------------------------------------------------------------


@given(arrays.arrays(np.float32, st.integers(0, 9), elements=st.floats(-1e6, 1e6, width=32)))
def test_finite_numbers_pass_unchanged_and_as_a_copy(values):
    found = numbers.finite(values)
    assert found.dtype == np.float64 and found.tolist() == values.tolist()
    assert not np.shares_memory(found, values)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.uint64, np.float16, np.float64])
def test_all_real_types_do(dtype):
    assert numbers.finite(np.array([3, 1], dtype)).tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.0, math.nan, math.inf], "scores holds 2 NaN or infinite values, the first at index 1"),
        ([True, False], r"must be real numbers \[n\], found bool \[2\]"),
        ([1j], "found complex128"),
        (["1"], "found <U1"),
        ([[1.0]], r"found float64 \[1, 1\]"),
        (1.0, r"found float64 \[\]"),
        ([2**53 + 2], "integers up to 9007199254740994, expected at most 2\\^53"),
        ([-(2**63)], "integers up to 9223372036854775808"),
        (np.array([2**64 - 1], np.uint64), "integers up to 18446744073709551615"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), "is a masked array"),
        ([None], "found object"),
    ],
    ids=str,
)
def test_what_is_no_row_of_finite_numbers_is_refused(values, found):
    with pytest.raises(ValueError, match=found):
        numbers.finite(values)


def test_the_largest_integers_and_an_unused_mask_pass():
    assert numbers.finite([2**53, -(2**53)]).tolist() == [2.0**53, -(2.0**53)]
    assert numbers.finite(np.ma.array([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_tables_have_their_number_of_dimensions():
    table = np.arange(6).reshape(2, 3)
    assert numbers.finite(table, "features", "[n, k]").tolist() == table.tolist()
    assert numbers.finite(table, "losses", "[...]").shape == (2, 3)
    assert numbers.finite(1.5, "losses", "[...]") == 1.5
    with pytest.raises(ValueError, match=r"features must be real numbers \[n, k\], found int64"):
        numbers.finite(table[0], "features", "[n, k]")
    with pytest.raises(ValueError, match=r"features holds 1 NaN .* at index \[1, 2\]"):
        numbers.finite([[0, 0, 0], [0, 0, math.nan]], "features", "[n, k]")


# ---- labels --------------------------------------------------------------------------------------


def test_labels_are_booleans_one_a_score():
    assert numbers.labels([True, False], 2).tolist() == [True, False]
    for bad, found in (
        ([1, 0], "member must be boolean, found int64"),
        ([1.0, 0.0], "member must be boolean, found float64"),
        (["yes", "no"], "member must be boolean"),
        ([True], r"scores has 2 entries but member is \[1\]"),
        ([[True, False]], r"member is \[1, 2\]"),
        (np.ma.array([True, False]), "member is a masked array"),
    ):
        with pytest.raises(ValueError, match=found):
            numbers.labels(bad, 2)


def test_both_kinds_must_be_there():
    scores, member = numbers.scored([1, 2, 3], [True, False, False], least=1)
    assert scores.tolist() == [1, 2, 3] and member.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="1 members among 3 losses, expected at least 2"):
        numbers.scored([1, 2, 3], [True, False, False], "losses")
    with pytest.raises(ValueError, match="0 non-members among 2 scores"):
        numbers.scored([1, 2], [True, True])


# ---- counts --------------------------------------------------------------------------------------

KINDS = (np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64)


@given(st.integers(0, 127), st.sampled_from(KINDS))
def test_a_count_is_pythons_own_whatever_its_type(value, kind):
    found = numbers.count(kind(value), "hits")
    assert type(found) is int and found == value
    assert numbers.count(np.array(value, kind), "hits") == value


def test_a_count_of_a_small_type_does_not_overflow():
    assert numbers.count(np.uint8(200), "hits") + 100 == 300
    assert numbers.count(np.int8(127), "hits") + 1 == 128
    assert numbers.count(torch.tensor(3), "hits") == 3


@pytest.mark.parametrize(
    "bad",
    [1.0, np.float32(2), True, np.array(True), torch.tensor(True), "3", None, np.array([3]), 1j],
    ids=repr,
)
def test_what_is_no_whole_number_is_no_count(bad):
    with pytest.raises(ValueError, match=r"hits is .*; expected a whole number"):
        numbers.count(bad, "hits")


def test_a_count_lies_within_its_bounds():
    assert [numbers.count(k, "k", 1, 3) for k in (1, 2, 3)] == [1, 2, 3]
    for k in (0, 4, -1, 2**70):
        with pytest.raises(ValueError, match=rf"k is {k}; expected 1\.\.3"):
            numbers.count(k, "k", 1, 3)
    with pytest.raises(ValueError, match="k is 4; expected at least 5"):
        numbers.count(4, "k", 5)


# ---- numbers with bounds -------------------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_finite_number_is_itself(value):
    assert numbers.real(value, "x") == numbers.real(np.float64(value), "x") == value


@pytest.mark.parametrize("value", [1, np.uint8(1), np.float16(1), Fraction(1), np.array(1.0)])
def test_all_that_is_one_number_becomes_a_float(value):
    found = numbers.real(value, "x")
    assert type(found) is float and found == 1


@pytest.mark.parametrize(
    "bad",
    [math.nan, -math.inf, True, torch.tensor(True), "0.5", None, 1j, np.array([0.5]), 10**400],
    ids=lambda bad: repr(bad)[:20],
)
def test_what_is_no_finite_number_is_refused(bad):
    with pytest.raises(ValueError, match=r"x is .*; expected a number"):
        numbers.real(bad, "x")


@pytest.mark.parametrize(
    ("ends", "good", "bad"),
    [
        ("[]", (0, 0.5, 1), (-1e-9, 1 + 1e-9)),
        ("()", (1e-300, 0.5), (0, 1)),
        ("(]", (1e-300, 1), (0, 1.1)),
        ("[)", (0, 0.999), (-0.1, 1)),
    ],
)
def test_ends_count_or_do_not(ends, good, bad):
    for value in good:
        assert numbers.real(value, "x", 0, 1, ends=ends) == value
    for value in bad:
        with pytest.raises(ValueError, match=rf"expected a number in \{ends[0]}0, 1\{ends[1]}"):
            numbers.real(value, "x", 0, 1, ends=ends)


def test_the_message_tells_the_one_bound_that_there_is():
    for bounds, ends, wanted in (
        ({"low": 0}, "[]", "at least 0"),
        ({"low": 0}, "()", "above 0"),
        ({"high": 2}, "[]", "at most 2"),
        ({"high": 2}, "()", "below 2"),
        ({}, "[]", "that is finite"),
    ):
        with pytest.raises(ValueError, match=f"x is nan; expected a number {wanted}"):
            numbers.real(math.nan, "x", **bounds, ends=ends)


def test_a_level_lies_strictly_between_0_and_1():
    assert numbers.level(np.float64(0.95)) == 0.95
    for bad in (0, 1, 95, -0.5, math.nan, True):
        with pytest.raises(ValueError, match="level is"):
            numbers.level(bad)


def test_a_threshold_may_be_infinite_but_not_nan():
    assert [numbers.threshold(t) for t in (1, np.float32(0.5))] == [1.0, 0.5]
    assert [numbers.threshold(t) for t in (math.inf, np.float64(-np.inf))] == [math.inf, -math.inf]
    with pytest.raises(ValueError, match="threshold is NaN; expected a number: choose it by"):
        numbers.threshold(math.nan)
    for bad in (True, "0.5", None, np.array([0.5]), [0.5], 1j):
        with pytest.raises(ValueError, match="threshold is"):
            numbers.threshold(bad)
