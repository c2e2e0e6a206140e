"""The gate: limits that were set beforehand, and an exit code for CI."""

from __future__ import annotations

import re
from collections.abc import Mapping

from segleak_utils.audit.findings import FPRS, Attack, Blind, Gate, Limit, Number

PASSES, FAILS, UNDECIDED, INVALID = 0, 3, 4, 5
MEASURES = ("auc", *(f"tpr_at_{100 * fpr:g}pct" for fpr in FPRS))


def limits_of(text: str) -> dict[str, float]:
    """`auc=0.60,tpr_at_1pct=0.05` as measures and limits; ValueError for what is none, or nothing.

    >>> limits_of("auc=0.60, tpr_at_1pct=.05")
    {'auc': 0.6, 'tpr_at_1pct': 0.05}
    """
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([\w.]+)\s*=\s*([\d.]+)", part)
        try:
            name, limit = match[1], float(match[2])
        except (TypeError, ValueError):
            raise ValueError(
                f"fail_above: {part!r}; expected MEASURE=LIMIT, such as auc=0.60"
            ) from None
        if name in found:
            raise ValueError(f"fail_above: {name} comes twice")
        found[name] = limit
    if not found:  # a variable that is empty would be a gate that lets everything pass
        raise ValueError("fail_above: no limit given; expected MEASURE=LIMIT, such as auc=0.60")
    return checked(found)


def checked(limits: Mapping[str, float]) -> dict[str, float]:
    """ValueError for a measure that there is not, or a limit outside 0..1."""
    for name, limit in limits.items():
        if name not in MEASURES:
            raise ValueError(f"fail_above: no measure {name!r}; there are {', '.join(MEASURES)}")
        if not 0 < limit < 1:
            raise ValueError(f"fail_above: {name}={limit:g}; expected a limit between 0 and 1")
    return dict(limits)


def decide(limits: Mapping[str, float], attack: Attack, blind: Blind | None, swapped: bool) -> Gate:
    """Hold the limits against the attack that the verdict goes by.

    Invalid where the lists differ by themselves, or look swapped; fails where the lower end of the
    interval passes a limit; undecided where the limit lies in the interval, or the non-members are
    too few for the FPR.
    """
    found = []
    for name, limit in checked(limits).items():
        number = _number(attack, name)
        if (blind is not None and blind.differs) or swapped:
            how = "invalid", "the lists differ by themselves, or are swapped; see the verdict"
        elif number is None:
            how = "undecided", "fewer non-members than the FPR takes: bring more"
        elif number.low > limit:
            how = "fails", "the lower end of the interval is above the limit"
        elif number.high > limit:
            how = "undecided", "the limit lies within the interval: bring more images"
        else:
            how = "passes", "the whole interval is at or below the limit"
        found.append(Limit(measure=name, limit=limit, number=number, decision=how[0], why=how[1]))
    decisions = {limit.decision for limit in found}
    codes = {"invalid": INVALID, "fails": FAILS, "undecided": UNDECIDED}
    code = next((code for how, code in codes.items() if how in decisions), PASSES)
    return Gate(limits=tuple(found), exit_code=code)


def _number(attack: Attack, measure: str) -> Number | None:
    if measure == "auc":
        return attack.auc
    fpr = float(measure.removeprefix("tpr_at_").removesuffix("pct")) / 100
    return next((at.tpr for at in attack.at_fpr if abs(at.fpr - fpr) < 1e-12), None)
