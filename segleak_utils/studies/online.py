"""Online LiRA on one victim: trainings for every set of images that is asked about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from segleak_utils import metrics
from segleak_utils.attacks.contests import Contest
from segleak_utils.attacks.online import halves, online_attacks
from segleak_utils.studies import asking, experiment, networks
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import Plan

N_NETWORKS = 4
SEED = 60


def contest(plan: Plan, victim: Network, *, n_networks: int = N_NETWORKS) -> Contest:
    """Online and offline LiRA on the victim's members and as many of its non-members.

    The networks are trained (400 of the images each) into ``build/online`` and reused.
    """
    n = len(victim.members)
    pool = replace(victim, nonmembers=victim.nonmembers.subset(range(n)))
    inside = halves(2 * n, n_networks, SEED)
    everyone = (pool, *trained(plan, pool, inside))
    told = np.stack([asking.confidence(plan, of, pool) for of in everyone])
    found = online_attacks(told[0], told[1:], inside)
    return Contest(victim.name, "the images themselves", np.arange(2 * n) < n, tuple(found))


def trained(plan: Plan, pool: Network, inside: np.ndarray) -> list[Network]:
    """The attacker's networks, on the images that `inside` [networks, images] says."""
    both = pool.members + pool.nonmembers
    held_out = experiment.roles(plan, "shadow-dependent-0")[2]
    own = replace(plan, weights=plan.build / "online")
    out = []
    for k, chosen in enumerate(inside):
        parts = [both.subset(np.flatnonzero(which)) for which in (chosen, ~chosen)]
        name = f"inside-{pool.name}-{k}"
        out.append(networks.load_or_train(own, name, *parts, held_out, seed=SEED + k))
    return out


def online(plan: Plan) -> Contest:
    """The `contest` on ``victim-0``; prints the rates."""
    of = contest(plan, experiment.network(plan, "victim-0"))
    for attack in of.attacks:
        area = metrics.auc(attack.scores, of.member)
        tpr, worth = metrics.tpr_cells(attack.scores, of.member, 0.01)
        told = f"AUC {area:.3}, TPR at 1 % FPR {tpr}, precision at priors of 50 / 10 / 1 % {worth}"
        print(f"{of.victim}, {attack.name}: {told}")
    return of
