"""Scores, labels, counts and shares."""

from __future__ import annotations

import math
import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST = 2**53  # above, a float64 no longer tells neighbouring integers apart


def numbers(values: ArrayLike, name: str = "scores") -> NDArray[np.float64]:
    """Finite real numbers as float64 [n].

    ValueError for another form, booleans, complex or masked values, NaN, infinities, and integers
    that float64 would round.

    >>> numbers([3, 1])
    array([3., 1.])
    """
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.getmaskarray(values).any():
            raise ValueError(
                f"{name} is a masked array, and what is hidden would count: select what is to "
                "count, values[~mask].data"
            )
        values = values.data
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} must be real numbers [n], found {values.dtype} {list(values.shape)}"
        )
    if values.dtype.kind in "iu" and values.size:
        low, high = int(values.min()), int(values.max())
        if max(-low, high) > LARGEST:
            raise ValueError(
                f"{name} holds integers up to {max(-low, high)}, expected at most 2^53: float64 "
                "would round them, and equal ones would become ties; subtract a constant first"
            )
    values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"{name} holds {len(bad)} NaN or infinite values, the first at index {bad[0]}"
        )
    return values


def labels(member: ArrayLike, n: int, name: str = "member", of: str = "scores") -> NDArray:
    """Who is a member, as bool [n]; ValueError for anything but booleans, or another number."""
    if isinstance(member, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; select what is to count, {name}[~mask].data")
    member = np.asarray(member)
    if member.dtype != bool:
        raise ValueError(
            f"{name} must be boolean, found {member.dtype}: a 0/1 array may mean either, so write "
            "`labels == 1`"
        )
    if member.shape != (n,):
        raise ValueError(f"{of} has {n} entries but {name} is {list(member.shape)}")
    return member


def scored(
    scores: ArrayLike, member: ArrayLike, name: str = "scores", least: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores float64 [n] and member bool [n], with at least that many of each.

    ValueError for what `numbers` and `labels` refuse.
    """
    scores = numbers(scores, name)
    member = labels(member, len(scores), of=name)
    for group, n in (("members", member.sum()), ("non-members", (~member).sum())):
        if n < least:
            raise ValueError(f"{n} {group} among {len(scores)} {name}, expected at least {least}")
    return scores, member


def count(value: object, name: str, low: int = 0, high: int | None = None) -> int:
    """A whole number in low..high as Python's own, which no small type overflows.

    >>> count(np.uint8(200), "hits") + 100
    300
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; expected a whole number") from None
    if found < low or (high is not None and found > high):
        wanted = f"at least {low}" if high is None else f"{low}..{high}"
        raise ValueError(f"{name} is {found}; expected {wanted}")
    return found


def real(
    value: object,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    ends: str = "[]",
) -> float:
    """A finite number between `low` and `high` as Python's own.

    ends: "[]" with both of them, "(]", "[)" or "()" without; ValueError for NaN and infinities.

    >>> real(np.float16(0.5), "share", 0, 1)
    0.5
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is {value!r}; expected a number") from None
    above = found >= low if ends[0] == "[" else found > low
    below = found <= high if ends[1] == "]" else found < high
    if not (math.isfinite(found) and above and below) or isinstance(value, bool | np.bool_):
        bounds = (math.isfinite(low), math.isfinite(high))
        wanted = {
            (True, True): f"in {ends[0]}{low:g}, {high:g}{ends[1]}",
            (True, False): f"{'at least' if ends[0] == '[' else 'above'} {low:g}",
            (False, True): f"{'at most' if ends[1] == ']' else 'below'} {high:g}",
            (False, False): "that is finite",
        }[bounds]
        raise ValueError(f"{name} is {value}; expected a number {wanted}")
    return found


def level(value: float) -> float:
    """A confidence level, between 0 and 1."""
    return real(value, "level", 0, 1, ends="()")
