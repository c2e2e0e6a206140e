"""What attackers of several means make of the networks of `risk`, each in turn the victim.

The default attacker has two networks that never saw the images, and learned on scenes of their
own. The online ones have trained networks on the images in question: they are the ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segleak_utils.attacks import calibration, contests, references
from segleak_utils.attacks.contests import GLOBAL
from segleak_utils.attacks.online import (
    ONLINE,
    STRUCTURED,
    by_side,
    structured_model,
    structured_scores,
)
from segleak_utils.attacks.references import CALIBRATED, DIFFERENCE, FEATURES, Case
from segleak_utils.checks import numbers
from segleak_utils.studies import asking, experiment, risk
from segleak_utils.studies.cache import cached
from segleak_utils.studies.plan import Plan
from segleak_utils.studies.risk import Halves
from segleak_utils.whole import checksum

VERSION = 1  # part of the key of what is kept: raise it when its numbers change
LIRA = "LiRA, online, a variance an image"
LEAST = 6  # networks of the attacker's, to learn from


def features(of: Halves, way: int = 0) -> NDArray[np.float64]:
    """What each network said of each scene, as `attacks.class_features` of zones: [K,N,6C]."""
    total = of.losses[:, way].astype(np.float64)
    shares = np.broadcast_to(of.shares.astype(np.float64), total.shape)
    mean = np.divide(total, shares, out=np.zeros_like(total), where=shares > 0)
    return np.concatenate([mean, total, shares], -1)


def attackers(victim: int, n_networks: int, of: int) -> NDArray[np.intp]:
    """Networks of the attacker's on one victim: the pairs that follow the victim's own, in turn.

    ValueError for more than there are beside that pair, less than `LEAST`, or an odd number.

    >>> attackers(2, 8, of=10)  # 2 and 3 are the victim and its other half
    array([4, 5, 6, 7, 8, 9, 0, 1])
    """
    n_networks = numbers.count(n_networks, "n_networks", LEAST)
    if n_networks % 2 or n_networks > of - 2:
        raise ValueError(
            f"{n_networks} networks of {of}; expected an even number, at most {of - 2}: "
            "the victim's own pair is left out"
        )
    pairs = (victim // 2 + 1 + np.arange(n_networks // 2)) % (of // 2)
    return np.stack([2 * pairs, 2 * pairs + 1], 1).ravel()


def online_scores(
    plan: Plan, of: Halves, n_networks: int, victims: Sequence[int] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Scores of the online attackers with so many networks: float64 [victims,N] by name; cached.

    All networks are victims, or those that are named.
    """
    asked = range(len(of.inside)) if victims is None else victims

    def compute() -> dict[str, NDArray]:
        found: dict[str, list] = {name: [] for name in (ONLINE, LIRA, STRUCTURED)}
        known, models = features(of), {}
        for victim in asked:
            theirs = attackers(victim, n_networks, len(of.inside))
            said, knew = known[theirs], of.inside[theirs]
            sure = [_sure(part) for part in (known[victim], *by_side(said, knew))]
            found[ONLINE].append(calibration.lira_online(*sure, fixed=True))
            found[LIRA].append(calibration.lira_online(*sure))
            pair = victim // 2  # both of its networks have the same attackers
            if pair not in models:
                models = {pair: structured_model(said, knew)}
            found[STRUCTURED].append(structured_scores(models[pair], known[victim], said))
        return {name: np.stack(rows) for name, rows in found.items()}

    said = checksum({"losses": of.losses, "inside": of.inside, "shares": of.shares})
    key = {"version": VERSION, "halves": said, "networks": n_networks, "victims": list(asked)}
    found = cached(plan.build, "online scores", key, compute)
    return {
        name: found[name] for name in (ONLINE, LIRA, STRUCTURED)
    }  # a file has an order of its own


def _sure(of: NDArray) -> NDArray[np.float64]:
    """Confidence in the whole image, of features [...,6C]."""
    n = of.shape[-1] // 3
    return calibration.confidence(of[..., n : 2 * n].sum(-1))


def offline_scores(plan: Plan, of: Halves, n_networks: int = 2) -> dict[str, NDArray[np.float64]]:
    """Scores of the default attacker: float64 [K,N] by name.

    Their networks, the city's shadows, have not seen the scenes; what the attacks learn, they
    learn on scenes of their own. With the blind baseline, which no victim is asked for.
    """
    everyone = risk.scenes(plan)[0]
    shadows = experiment.networks(plan, "dependent", n_networks)
    halves = [everyone.subset(part) for part in np.split(np.arange(len(everyone)), 2)]
    nobody = replace(shadows[0], members=halves[0], nonmembers=halves[1])  # only to be asked about
    theirs = np.stack([asking.told(plan, one, nobody) for one in shadows])
    learned = asking.shadow_cases(plan, shadows, nobody)
    model = None
    found: dict[str, list] = {GLOBAL: [], DIFFERENCE: [], CALIBRATED: []}
    for own, member in zip(features(of), of.inside, strict=True):
        case = Case(own, theirs, member)
        if model is None:
            _, model = references.regression(CALIBRATED, FEATURES[CALIBRATED], case, learned)
        loss, references_ = case.losses
        found[GLOBAL].append(-loss)
        found[DIFFERENCE].append(references_.mean(0) - loss)
        found[CALIBRATED].append(model.decision_function(FEATURES[CALIBRATED](case)))
    looks = [asking.blind_features(plan, n.members, n.nonmembers) for n in (nobody, *shadows)]
    labels = np.concatenate([shadow.member for shadow in shadows])
    blind = contests.blind(looks[0], looks[1:], labels).scores
    rows = {name: np.stack(rows) for name, rows in found.items()}
    return {contests.BLIND: np.broadcast_to(blind, of.inside.shape).copy(), **rows}
