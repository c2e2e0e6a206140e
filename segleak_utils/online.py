"""Online LiRA: an attacker who trains networks on the very images in question, half of them each.

Carlini et al., "Membership inference attacks from first principles", IEEE S&P 2022, section V. It
costs trainings for every set of images that is asked about, so it is measured on one victim only.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from segleak_utils import calibration, difficulty, experiment, metrics
from segleak_utils.contests import Attack, Contest
from segleak_utils.experiment import Network, Plan

ONLINE = "LiRA, online, fixed variance"
OFFLINE = "LiRA, offline, the same networks"
N_NETWORKS = 4
SEED = 60


def halves(n_images: int, n_networks: int, seed: int) -> np.ndarray:
    """Which images each network is trained on: bool [networks, images], half of each image's.

    Every choice of half of the networks is dealt to as many images, in random order.
    ValueError for an odd number of networks, or less than four: two of a kind have no deviation.
    """
    if n_networks < 4 or n_networks % 2:
        raise ValueError(f"{n_networks} networks: expected an even number, 4 or more")
    choices = list(combinations(range(n_networks), n_networks // 2))
    order = np.random.default_rng(seed).permutation(n_images) % len(choices)
    inside = np.zeros((n_networks, n_images), bool)
    for image, choice in enumerate(order):
        inside[list(choices[choice]), image] = True
    return inside


def contest(plan: Plan, victim: Network, *, n_networks: int = N_NETWORKS) -> Contest:
    """Online and offline LiRA on the victim's members and as many of its non-members.

    The networks are trained (400 of the images each) into ``build/online`` and reused.
    """
    n = len(victim.members)
    pool = replace(victim, nonmembers=victim.nonmembers.subset(range(n)))
    inside = halves(2 * n, n_networks, SEED)
    told = np.stack([_confidence(plan, of, pool) for of in (pool, *trained(plan, pool, inside))])
    target, theirs = told[0], told[1:]
    # each image has networks of its own on either side: [K/2,N] both
    first = np.argsort(~inside, axis=0, kind="stable")
    within, out = np.split(np.take_along_axis(theirs, first, 0), 2)
    member = np.arange(2 * n) < n
    scores = {
        ONLINE: calibration.lira_online(target, within, out, fixed=True),
        OFFLINE: calibration.lira_offline(target, out, fixed=True),
    }
    # a likelihood ratio of 1; offline, as far above the others as they lie around their mean
    thresholds = {ONLINE: 0.0, OFFLINE: 1.0}
    found = (Attack(k, "confidence", s, thresholds[k]) for k, s in scores.items())
    return Contest(victim.name, "the images themselves", member, tuple(found))


def trained(plan: Plan, pool: Network, inside: np.ndarray) -> list[Network]:
    """The attacker's networks, on the images that `inside` [networks, images] says."""
    both = pool.members + pool.nonmembers
    held_out = experiment.roles(plan, "shadow-dependent-0")[2]
    own = replace(plan, weights=plan.build / "online")
    out = []
    for k, chosen in enumerate(inside):
        parts = [both.subset(np.flatnonzero(which)) for which in (chosen, ~chosen)]
        name = f"inside-{pool.name}-{k}"
        out.append(experiment.load_or_train(own, name, *parts, held_out, seed=SEED + k))
    return out


def _confidence(plan: Plan, by: Network, pool: Network) -> np.ndarray:
    told = difficulty.told(plan, by, pool)
    n = told.shape[1] // 3
    return calibration.confidence(told[:, n : 2 * n].sum(1))


def online(plan: Plan) -> Contest:
    """The `contest` on ``victim-0``; prints the rates."""
    of = contest(plan, experiment.network(plan, "victim-0"))
    for attack in of.attacks:
        area = metrics.auc(attack.scores, of.member)
        tpr = metrics.tpr_at_fpr(attack.scores, of.member, 0.01)
        print(f"{of.victim}, {attack.name}: AUC {area:.3}, TPR at 1 % FPR {tpr:.3}")
    return of
