"""Which defence nobody should choose: another one leaks less or serves better, and not by luck."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segleak_utils import metrics, victims
from segleak_utils.attacks.contests import LOGISTIC
from segleak_utils.metrics import Interval
from segleak_utils.studies.frontier import Measured


def better(leak: Interval, use: Interval) -> bool:
    """Whether a service is to be chosen over another one, by differences and their intervals.

    leak, use: its AUC and its mean IoU minus the other's. It has to be ahead in one of the two with
    the whole interval, and not behind in the other.

    >>> less, same = Interval(-0.1, -0.2, -0.05, 9, 9), Interval(0.0, -0.01, 0.01, 0, 9)
    >>> better(less, same), better(same, same)
    (True, False)
    """
    leaks_less, leaks_more = leak.high < 0, leak.low > 0
    serves_better, serves_worse = use.low > 0, use.high < 0
    return (leaks_less and not serves_worse) or (serves_better and not leaks_more)


def dominated(
    found: Sequence[Measured], who: str, attack: str = LOGISTIC, *, seed: int = 0
) -> dict[str, list[str]]:
    """For each service, by name, those that are `better` as one attacker's attack has it.

    Two AUCs whose intervals both hold .5 do not differ. Of services with other members, whose
    images cannot be paired, the two intervals are taken for independent, which is too wide rather
    than too narrow.
    """
    contests = [of.contest(who) for of in found]
    scores = [contest[attack].scores for contest in contests]
    areas = [metrics.auc(s, of.member) for s, of in zip(scores, contests, strict=True)]
    leaks: dict[tuple[int, int], Interval] = {}
    for images in {of.images for of in found}:
        own = [k for k, of in enumerate(found) if of.images == images]
        member = contests[own[0]].member
        apart = metrics.auc_differences([scores[k] for k in own], member, seed=seed)
        leaks |= {(a, b): apart[i][j] for i, a in enumerate(own) for j, b in enumerate(own)}

    def leak(a: int, b: int) -> Interval:
        if areas[a].contains(0.5) and areas[b].contains(0.5):
            return Interval(0.0, 0.0, 0.0, areas[a].n_members, areas[a].n_nonmembers)
        return leaks[a, b] if (a, b) in leaks else independent(areas[a], areas[b])

    def use(a: int, b: int) -> Interval:
        return victims.mean_iou_difference(found[a].confusions, found[b].confusions, seed=seed)

    every = range(len(found))
    return {
        found[b].service.name: [
            found[a].service.name for a in every if a != b and better(leak(a, b), use(a, b))
        ]
        for b in every
    }


def independent(a: Interval, b: Interval) -> Interval:
    """a minus b where they come from different images: the square-root rule (Newcombe 1998).

    >>> a, b = Interval(0.7, 0.66, 0.73, 400, 400), Interval(0.5, 0.47, 0.54, 400, 400)
    >>> print(independent(a, b))
    .20 [.14, .24]
    """
    value = a.value - b.value
    down = float(np.hypot(a.value - a.low, b.high - b.value))
    up = float(np.hypot(a.high - a.value, b.value - b.low))
    return Interval(value, value - down, value + up, a.n_members, a.n_nonmembers, a.level)
