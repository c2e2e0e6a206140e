"""Scores, labels, counts and shares."""

from __future__ import annotations

import math
import operator

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGEST = 2**53  # above, a float64 no longer tells neighbouring integers apart


def finite(values: ArrayLike, name: str = "scores", form: str = "[n]") -> NDArray[np.float64]:
    """Finite real numbers as float64 of a form such as "[n]" or "[k, n]"; "[...]" is any.

    ValueError for another number of dimensions, booleans, complex or masked values, NaN,
    infinities, and integers that float64 would round.

    >>> finite([[3, 1]], "features", "[n, k]")
    array([[3., 1.]])
    """
    values = _unmasked(values, name)
    if values.dtype.kind not in "iuf" or (form != "[...]" and values.ndim != form.count(",") + 1):
        raise ValueError(
            f"{name} must be real numbers {form}, found {values.dtype} {list(values.shape)}"
        )
    if values.dtype.kind in "iu" and values.size:
        low, high = int(values.min()), int(values.max())
        if max(-low, high) > LARGEST:
            raise ValueError(
                f"{name} holds integers up to {max(-low, high)}, expected at most 2^53: float64 "
                "would round them, and equal ones would become ties; subtract a constant first"
            )
    values = values.astype(np.float64)
    good = np.isfinite(values)
    if not good.all():
        first = np.argwhere(~good)[0].tolist()
        raise ValueError(
            f"{name} holds {(~good).sum()} NaN or infinite values, the first at index "
            f"{first[0] if len(first) == 1 else first}"
        )
    return values


def _unmasked(values: ArrayLike, name: str) -> NDArray:
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.getmaskarray(values).any():
            raise ValueError(
                f"{name} is a masked array, and what is hidden would count: select what is to "
                "count, values[~mask].data"
            )
        values = values.data
    return np.asarray(values)


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

    ValueError for what `finite` and `labels` refuse.
    """
    scores = finite(scores, name)
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
        if not _one(value, "iuO"):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; expected a whole number") from None
    if found < low or (high is not None and found > high):
        wanted = f"at least {low}" if high is None else f"{low}..{high}"
        raise ValueError(f"{name} is {found}; expected {wanted}")
    return found


def counts(
    hits: object, n_members: object, alarms: object, n_nonmembers: object
) -> tuple[int, int, int, int]:
    """Hits among so many members and alarms among so many non-members, as Python's own integers.

    >>> counts(np.int8(3), 5, 0, 7)
    (3, 5, 0, 7)
    """
    n = count(n_members, "n_members", 1, LARGEST)
    m = count(n_nonmembers, "n_nonmembers", 1, LARGEST)
    return count(hits, "hits", 0, n), n, count(alarms, "alarms", 0, m), m


def in_pairs(inside: ArrayLike, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Who was trained on what, bool [K,N]: networks 0 and 1, 2 and 3, ... on halves of the images.

    ValueError for another type or shape, and where both of a pair, or neither, know an image.

    >>> in_pairs([[True, False], [False, True]], (2, 2))
    array([[ True, False],
           [False,  True]])
    """
    inside = np.asarray(inside)
    if inside.dtype != bool or inside.shape != tuple(shape):
        found = f"{inside.dtype} {list(inside.shape)}"
        raise ValueError(f"inside is {found}; expected bool {list(shape)}, one for each score")
    if len(inside) % 2 or not inside.size or (inside[::2] == inside[1::2]).any():
        raise ValueError(
            f"inside, of {len(inside)} networks: expected them in pairs, one trained on each image "
            "and one not"
        )
    return inside


def real(
    value: object,
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    ends: str = "[]",
) -> float:
    """A finite number between `low` and `high` as Python's own.

    ends: "[]" with both of them, "(]", "[)" or "()" without; ValueError for NaN and infinities, and
    for what is no single number: booleans, texts, complex or masked values, arrays.

    >>> real(np.float16(0.5), "share", 0, 1)
    0.5
    """
    try:
        found = float(value) if _one(value, "iufO") else math.nan
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    above = found >= low if ends[0] == "[" else found > low
    below = found <= high if ends[1] == "]" else found < high
    if not (math.isfinite(found) and above and below):
        bounds = (math.isfinite(low), math.isfinite(high))
        wanted = {
            (True, True): f"in {ends[0]}{low:g}, {high:g}{ends[1]}",
            (True, False): f"{'at least' if ends[0] == '[' else 'above'} {low:g}",
            (False, True): f"{'at most' if ends[1] == ']' else 'below'} {high:g}",
            (False, False): "that is finite",
        }[bounds]
        shown = value if _one(value, "iuf") else repr(value)
        raise ValueError(f"{name} is {shown}; expected a number {wanted}")
    return found


def _one(value: object, kinds: str) -> bool:
    """Is it a single value of NumPy's `kinds`? (What is masked is none.)"""
    if type(value) in (int, float):
        return True
    found = np.asarray(value)
    return found.ndim == 0 and found.dtype.kind in kinds and value is not np.ma.masked


def threshold(value: float) -> float:
    """A threshold: a number, or an infinity, above which nobody or everybody scores."""
    found = float(value) if _one(value, "iuf") else math.nan
    if math.isnan(found):
        shown = "NaN" if _one(value, "f") else repr(value)
        raise ValueError(
            f"threshold is {shown}; expected a number: choose it by best_threshold on shadow scores"
        )
    return found


def level(value: float) -> float:
    """A confidence level, between 0 and 1."""
    return real(value, "level", 0, 1, ends="()")
