"""What would help: the same answers with less of them released, attacked again.

The naive attacker learned, and asked references, without the release; the adaptive one with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from segleak_utils.attacks import references
from segleak_utils.attacks.contests import GLOBAL
from segleak_utils.audit.attacking import Known, Shadow, scores_of
from segleak_utils.audit.estimates import area
from segleak_utils.audit.findings import Release as Row
from segleak_utils.audit.said import Said
from segleak_utils.defenses import Release

TRIED = (
    Release("argmax"), Release("Gaussian noise", 0.1), Release("Gaussian noise", 1.0),
    Release("top-k", 3), Release("rounding", 1), Release("temperature", 4),
)  # fmt: skip
NOTHING = str(Release())
# By what there is; without a shadow nothing is learned, and nothing has to be adapted.
BEST = (references.CALIBRATED, references.RMIA, GLOBAL)


def tried(n_classes: int) -> tuple[Release, ...]:
    """The releases that make sense for so many classes: three of three classes are all."""
    return tuple(of for of in TRIED if of.kind != "top-k" or of.strength < n_classes)


def with_releases(
    victim: Mapping[str, Said],
    others: Sequence[Mapping[str, Said]],
    shadows: Sequence[tuple[Mapping[str, Said], Sequence[Mapping[str, Said]]]],
    known: Known,
    groups: Sequence[str] | None,
    level: float,
) -> tuple[Row, ...]:
    """The rows of the frontier, of what networks said through each release (by its name).

    `known` is what they said without one: what a naive attacker goes by.
    """
    found = []
    for name, own in victim.items():
        naive = replace(known, victim=own)
        adaptive = replace(
            naive,
            references=tuple(of[name] for of in others),
            shadows=tuple(
                Shadow(said[name], shadow.member, tuple(of[name] for of in theirs), shadow.unseen)
                for (said, theirs), shadow in zip(shadows, known.shadows, strict=True)
            ),
        )
        for attacker, knows in (("naive", naive), ("adaptive", adaptive)):
            if attacker == "adaptive" and (name == NOTHING or not _compared(adaptive)):
                continue
            scores = scores_of(knows, only=BEST[0]).of
            attack = next(of for of in BEST if of in scores)
            found.append(
                Row(
                    release=name, attacker=attacker, attack=attack,
                    auc=area(scores[attack], known.member, groups, level),
                    miou_members=own.miou(True), miou_nonmembers=own.miou(False),
                )
            )  # fmt: skip
    return tuple(found)


def _compared(known: Known) -> bool:
    """Whether references say other things than who is compared with them: through argmax a network
    and its like may not."""
    pairs = [(known.victim, known.references)]
    pairs += [(shadow.said, shadow.references) for shadow in known.shadows]
    return bool(known.references) and not any(
        np.array_equal(own.zones, of.zones) for own, theirs in pairs for of in theirs
    )
