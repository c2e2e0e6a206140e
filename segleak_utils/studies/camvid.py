"""CamVid, real street scenes: the same chain as on SynthStreets, both settings, and the defences.

The networks are trained into ``build/camvid`` and reused by a later run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segleak_utils import data, metrics
from segleak_utils.attacks import AttackRecipe, references
from segleak_utils.attacks.contests import Contest
from segleak_utils.data import Scenes, camvid
from segleak_utils.running import results
from segleak_utils.studies import beyond, frontier, networks, offers, standard
from segleak_utils.studies.experiment import SETTINGS
from segleak_utils.studies.frontier import Measured
from segleak_utils.studies.networks import Network
from segleak_utils.studies.offers import Scenario, Service
from segleak_utils.studies.plan import Plan, Sizes
from segleak_utils.victims import Recipe

SIZE = (160, 224)  # multiples of 32, as the networks need; CamVid's shape is 3:4
# What a release can do is shown on real images too; the trained defences stay on SynthStreets.
SERVICES = tuple(
    s for s in offers.RELEASES if s.family in ("no defence", "argmax", "Gaussian noise")
)


def plan_of(preset: str) -> Plan:
    """The plan for CamVid's 11 classes; ``quick`` only goes through the motions."""
    full = preset == "full"
    return Plan(
        sizes=Sizes(),
        recipe=Recipe(n_classes=11, epochs=80 if full else 2, batch=8, patience=100),
        attack=AttackRecipe(epochs=12 if full else 1, batch=16),
        weights=results.build_folder() / "camvid" / preset,
    )


def victim_and_shadow(plan: Plan, scenes: Scenes, setting: str) -> tuple[Network, Network]:
    """Victim and shadow of a setting: loaded if there, else trained."""
    whole = data.camvid_split(scenes, setting)
    victim = networks.load_or_train(
        plan,
        f"camvid-victim-{setting}",
        whole.victim_members,
        whole.victim_nonmembers,
        whole.victim_held_out,
        seed=1,
    )
    shadow = networks.load_or_train(
        plan,
        f"camvid-shadow-{setting}",
        whole.shadow_members,
        whole.shadow_nonmembers,
        whole.shadow_held_out,
        seed=2,
    )
    return victim, shadow


def scenario(plan: Plan, scenes: Scenes, setting: str) -> Scenario:
    """The frontier's view of CamVid; it has no variants, only releases."""
    victim, shadow = victim_and_shadow(plan, scenes, setting)
    return Scenario(
        plan,
        setting,
        victim=lambda _: victim,
        shadow_names=lambda _: [shadow.name],
        shadows=lambda _: [shadow],
        shadow_scenes=lambda: [(shadow.members, shadow.nonmembers)],
    )


def camvid_experiment(root: Path, preset: str = "full", plan: Plan | None = None) -> list:
    """The contest of all attacks in both settings; prints and returns the rows of the table.

    Frames of a block resemble each other: the intervals are over blocks.
    """
    plan = plan or plan_of(preset)
    scenes = camvid(root, size=SIZE)
    out = []
    for setting in SETTINGS:
        victim, shadow = victim_and_shadow(plan, scenes, setting)
        for of in (victim, shadow):
            member, nonmember = (of.meta["metrics"][f"{k}_miou"] for k in ("member", "nonmember"))
            print(f"{of.name}: mIoU {member:.3f} on members, {nonmember:.3f} on non-members")
        found = standard.contest(plan, setting, victim, [shadow])
        out += standard.rows(found, "camvid", _blocks(victim))
    print(results.table(out))
    results.record(out)
    return out


def camvid_beyond(root: Path, preset: str = "full", plan: Plan | None = None) -> list[beyond.Line]:
    """Every attack there is, in both settings, with one network of the attacker's.

    The shadow is the victim's reference, and the victim the shadow's. Writes
    ``build/contest-camvid.csv``, and prints and returns its lines; their intervals are over blocks.
    Prints the `owners`, too, whose frames are a block each.
    """
    plan = plan or plan_of(preset)
    scenes = camvid(root, size=SIZE)
    found: list[beyond.Line] = []
    told = []
    for setting in SETTINGS:
        victim, shadow = victim_and_shadow(plan, scenes, setting)
        of, blocks = beyond.contest(plan, setting, victim, [shadow]), _blocks(victim)
        found += beyond.lines(of, [shadow], of[references.CALIBRATED].scores, groups=blocks)
        told += owners(of, blocks)
    print(beyond.table(found))
    print("\n".join(["", OWNERS_HEAD, "|---" * OWNERS_HEAD.count(" | ") + "|---|", *told]))
    beyond.write(found, plan.build / "contest-camvid.csv")
    return found


def _blocks(victim: Network) -> list[str]:
    return [*victim.members.groups, *victim.nonmembers.groups]


OWNERS_HEAD = "| setting | attack | one frame | mean of a block | highest of a block | blocks |"


def owners(of: Contest, blocks: Sequence[str]) -> list[str]:
    """AUCs of one frame and of a block, taken for an owner's, as lines of a table.

    A block has the mean or the highest of its frames' scores; of a drive there are members and
    non-members, so that no drive can be an owner.
    """
    names, whose = np.unique(blocks, return_inverse=True)
    first = np.array([np.flatnonzero(whose == k)[0] for k in range(len(names))])
    member, found = of.member[first], []
    for attack in of.attacks:
        apart = [attack.scores[whose == k] for k in range(len(names))]
        one = metrics.grouped_auc(attack.scores, of.member, blocks)
        areas = [metrics.auc([score(s) for s in apart], member) for score in (np.mean, np.max)]
        cells = [of.setting, attack.name, *(f"{area}" for area in (one, *areas))]
        found.append(f"| {' | '.join(cells)} | {member.sum()} / {(~member).sum()} |")
    return found


def camvid_defenses(
    root: Path,
    preset: str = "full",
    plan: Plan | None = None,
    services: Sequence[Service] = SERVICES,
) -> list[Measured]:
    """Argmax and Gaussian noise against both attackers, in the dependent setting.

    Prints the table, its intervals over blocks.
    """
    plan = plan or plan_of(preset)
    world = scenario(plan, camvid(root, size=SIZE), "dependent")
    found = frontier.measure(world, services)
    print(frontier.table(found, _blocks(world.victim(""))))
    return found
