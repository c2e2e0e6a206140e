"""The risk of each image and of each owner, with an error rate that holds.

A p-value of an image is the share of non-members that score as high: it is calibrated by them, not
by a model of scores. Flagged are the members that the Benjamini-Hochberg procedure takes at a
false-discovery rate (valid for such p-values: Bates et al., Annals of Statistics 51, 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from segleak_utils.audit.findings import Group, Image
from segleak_utils.checks import numbers


def p_values(scores: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """Of each score the share of `others`, and itself, that are as high: float64 [N].

    >>> p_values([5.0, 0.0], [1.0, 2.0, 3.0])  # (1 + 0) / 4 and (1 + 3) / 4
    array([0.25, 1.  ])
    """
    scores, others = numbers.finite(scores), np.sort(numbers.finite(others, "others"))
    as_high = len(others) - np.searchsorted(others, scores, side="left")
    return (1 + as_high) / (1 + len(others))


def flagged(p: ArrayLike, rate: float) -> NDArray[np.bool_]:
    """Which of N p-values are taken at that false-discovery rate (Benjamini and Hochberg 1995).

    >>> flagged([0.01, 0.5, 0.02, 0.9], 0.1)
    array([ True, False,  True, False])
    """
    p, rate = numbers.finite(p, "p-values"), numbers.real(rate, "rate", 0, 1, ends="()")
    order = np.argsort(p)
    below = np.flatnonzero(p[order] <= rate * np.arange(1, len(p) + 1) / max(len(p), 1))
    found = np.zeros(len(p), bool)
    if len(below):
        found[order[: below[-1] + 1]] = True
    return found


def fewest_flagged(n: int, others: int, rate: float) -> int | None:
    """How many of n members are flagged at least, if any is, with so many non-members.

    k are taken only if all of them have p-values of at most rate * k / n, and none is below
    1 / (1 + others). None where not even all of the members could be.

    >>> fewest_flagged(150, 300, 0.1), fewest_flagged(20, 10, 0.1), fewest_flagged(20, 5, 0.1)
    (5, 19, None)
    """
    rate = numbers.real(rate, "rate", 0, 1, ends="()")
    n, others = numbers.count(n, "n"), numbers.count(others, "others")
    found = max(1, math.ceil(n / (rate * (1 + others)) - 1e-9))
    return found if found <= n else None


def images(
    ids: Sequence[str],
    member: ArrayLike,
    groups: Sequence[str | None] | None,
    scores: ArrayLike,
    losses: ArrayLike | None,
    shadows_nonmembers: ArrayLike | None = None,
    *,
    rate: float,
) -> tuple[Image, ...]:
    """The risk of each image, in the order given.

    scores: float [N], of one attack; shadows_nonmembers: the scores that it gives to images its
    shadows did not see. A non-member is compared with the other non-members, and never flagged.
    """
    scores, member = numbers.scored(scores, member)
    others = np.sort(scores[~member])
    p = p_values(scores, others)
    as_high = len(others) - np.searchsorted(others, scores[~member], side="left")
    p[~member] = as_high / len(others)  # itself is one of them
    found = np.zeros(len(scores), bool)
    found[member] = flagged(p[member], rate)
    theirs = None if shadows_nonmembers is None else p_values(scores, shadows_nonmembers)
    ranks = rankdata(-scores, method="min").astype(int)
    losses = None if losses is None else numbers.finite(losses, "losses")
    return tuple(
        Image(
            id=ids[i], member=bool(member[i]), group=None if groups is None else groups[i],
            score=float(scores[i]), rank=int(ranks[i]), p_value=float(p[i]),
            p_shadows=None if theirs is None else float(theirs[i]), flagged=bool(found[i]),
            loss=None if losses is None else float(losses[i]),
        )
        for i in range(len(scores))
    )  # fmt: skip


def owners(found: Sequence[Image]) -> tuple[Group, ...]:
    """The risk of each owner of images, by name; none where images have no owner.

    exposure: mean share of the non-members of *others* that score below its members, ties half;
    its p-value: Simes' of its members.
    """
    if any(image.group is None for image in found):
        return ()
    outside = np.array([image.score for image in found if not image.member])
    whose = np.array([image.group for image in found if not image.member])
    groups = []
    for name in sorted({image.group for image in found}):
        own = [image for image in found if image.group == name]
        inside = [image for image in own if image.member]
        exposure = p_value = None
        others = np.sort(outside[whose != name]) if len(outside) else outside
        if inside and len(others):
            scores = np.array([image.score for image in inside])
            sides = [np.searchsorted(others, scores, side) for side in ("left", "right")]
            exposure = float(np.mean(sides) / len(others))
            p = np.sort(p_values(scores, others))
            p_value = float(min(1.0, (p * len(p) / np.arange(1, len(p) + 1)).min()))
        groups.append(
            Group(
                group=name, n_members=len(inside), n_nonmembers=len(own) - len(inside),
                n_flagged=sum(image.flagged for image in inside), exposure=exposure,
                p_value=p_value,
            )
        )  # fmt: skip
    return tuple(groups)
