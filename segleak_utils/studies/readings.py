"""What the results of notebooks 00 to 02 allow to say: pure functions, true whatever was found.

What is said to be so is clear of what it is compared with: its interval does not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping

from segleak_utils.metrics import Interval
from segleak_utils.running.prose import listed


def clear(found: Interval, of: float = 0.0) -> int:
    """1: the whole interval lies above; -1: below; 0: it holds the value, or touches it."""
    return (found.low > of) - (found.high < of)


def darker(member: float, nonmember: float) -> str:
    """Which of the two typical scenes has the lower mean loss, as it is printed (nats)."""
    told = round(member, 2) - round(nonmember, 2)
    if told == 0:
        return "To two decimals they do not differ."
    return f"The {'member' if told < 0 else 'non-member'} is the darker one."


def blind(area: Interval) -> str:
    """What the AUC of the blind baseline says about the two groups."""
    if clear(area, 0.5):
        return "misses .5: the groups differ by themselves, and no other number is to be trusted"
    return "holds .5: without the victim nobody tells the groups apart"


def guessing(area: Interval) -> str:
    """Where an attack's AUC lies, seen from .5."""
    return {1: "above guessing", 0: "not clear of guessing", -1: "below guessing"}[clear(area, 0.5)]


def changed(difference: Interval) -> str:
    """A score against another one, by the difference of their AUCs."""
    return {1: "better", 0: "no clear change", -1: "worse"}[clear(difference)]


def on_members(difference: Interval, more: str) -> str:
    """E.g. "more accurate on members", by the difference between members and others."""
    return {
        1: f"more {more} on members",
        0: f"neither clearly more nor clearly less {more} on members",
        -1: f"less {more} on members",
    }[clear(difference)]


def further(excess: Interval) -> str:
    """How far accuracy falls from members to others beside confidence; `excess`: the difference,
    members minus others, of confidence minus accuracy."""
    return {
        1: "falls less far than its confidence",
        0: "falls about as far as its confidence, as far as these scenes can tell",
        -1: "falls further than its confidence",
    }[clear(excess)]


def diluting(shares: Mapping[str, tuple[float, float]]) -> str:
    """Which classes hold a larger share of the pixels than of the gap: {class: both shares}."""
    under = [name for name, (of_pixels, of_gap) in shares.items() if of_gap < of_pixels]
    if not under:
        return "None of these holds more of the pixels than of the gap."
    verb = "holds" if len(under) == 1 else "hold"
    return f"Of these, {listed(under, mark='')} {verb} more of the pixels than of the gap."


def halves(shares: Mapping[str, Interval]) -> str:
    """Of which parts more than half lies there, of which less; nothing where there is no part."""
    kinds = {k: [name for name, of in shares.items() if clear(of, 0.5) == k] for k in (1, -1, 0)}
    told = {1: "more than half of the gap", -1: "less than half", 0: "about half, or undecided"}
    said = [f"{told[kind]}: {listed(names, mark='')}" for kind, names in kinds.items() if names]
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if said else ""


def pairs_apart(differences: Mapping[tuple[str, str], Interval]) -> str:
    """Which pairs differ: {(a, b): a minus b}, intervals corrected for the number of pairs."""
    n = len(differences)
    surely = {pair: found for pair, found in differences.items() if clear(found)}
    if not surely:
        return f"None of the {n} pairs differs clearly: which of them tells most is not decided."
    told = []
    for pair, found in surely.items():
        more, less = pair if clear(found) > 0 else pair[::-1]
        told.append(f"*{more}* tells more than *{less}*")
    differ = "differs" if len(told) == 1 else "differ"
    return f"Of the {n} pairs, {len(told)} {differ} clearly: {'; '.join(told)}."


def each_above(areas: Mapping[str, Interval]) -> str:
    """Which of several parts tell something; their intervals are corrected for their number."""
    n, above = len(areas), [name for name, area in areas.items() if clear(area, 0.5) > 0]
    if len(above) == n:
        return f"All {n} are above guessing: the leak is spread over the image."
    if not above:
        return f"None of the {n} is clearly above guessing."
    told = listed(above)
    return f"Clearly above guessing: {told}; the others are not."
