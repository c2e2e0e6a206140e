"""Numbers with their intervals, over owners where these are known: AUC, TPR, precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segleak_utils import metrics
from segleak_utils.audit.attacking import NEEDS, SEEN
from segleak_utils.audit.findings import FPRS, PRIORS, AtFpr, Attack, Number
from segleak_utils.metrics import Interval


def by_group(member: NDArray[np.bool_], groups: Sequence[str] | None) -> bool:
    """Whether there are owners enough, two of each kind, for an interval over them."""
    return groups is not None and min(metrics.group_numbers(member, groups)) >= 2


def number(of: Interval, how: str, member: NDArray, groups: Sequence[str] | None) -> Number:
    """An interval as the findings have it."""
    a, b = (None, None) if groups is None else metrics.group_numbers(member, groups)
    return Number(
        value=of.value, low=of.low, high=of.high, level=of.level, n_members=of.n_members,
        n_nonmembers=of.n_nonmembers, how=how, n_member_groups=a, n_nonmember_groups=b,
    )  # fmt: skip


def area(
    scores: NDArray, member: NDArray[np.bool_], groups: Sequence[str] | None, level: float
) -> Number:
    """The AUC, with an interval over owners where they are known and enough."""
    if by_group(member, groups):
        found = metrics.grouped_auc(scores, member, groups, level)
        return number(found, "DeLong over groups", member, groups)
    return number(metrics.auc(scores, member, level), "DeLong over images", member, None)


def rate(
    scores: NDArray,
    member: NDArray[np.bool_],
    groups: Sequence[str] | None,
    fpr: float,
    *,
    level: float,
    seed: int,
    resamples: int,
) -> Number:
    """The TPR at an FPR, its interval covering the threshold, too."""
    enough = by_group(member, groups)
    found = metrics.tpr_interval(
        scores, member, fpr, seed=seed, level=level, n_boot=resamples,
        groups=groups if enough else None,
    )  # fmt: skip
    how = "binomial mixture over groups" if enough else "binomial mixture over images"
    return number(found, how, member, groups if enough else None)


def attacks_of(
    scores: Mapping[str, NDArray],
    member: NDArray[np.bool_],
    groups: Sequence[str] | None,
    *,
    level: float,
    seed: int,
    resamples: int,
) -> tuple[Attack, ...]:
    """Every attack's AUC, and its TPR at the FPRs that the non-members can show."""
    n = int((~member).sum())
    found = []
    for name, values in scores.items():
        at = []
        for fpr in (f for f in FPRS if f * n >= 1 - 1e-9):
            tpr = rate(values, member, groups, fpr, level=level, seed=seed, resamples=resamples)
            worth = {f"{p:g}": metrics.precision_at(tpr.value, fpr, p) for p in PRIORS}
            at.append(AtFpr(fpr=fpr, tpr=tpr, precision=worth))
        found.append(
            Attack(
                name=name, seen=SEEN.get(name, "mean loss, and the references'"),
                needs=NEEDS.get(name, "nothing"), auc=area(values, member, groups, level),
                at_fpr=tuple(at),
            )
        )  # fmt: skip
    return tuple(found)
