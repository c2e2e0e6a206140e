"""CamVid, real street scenes: the same chain as on SynthStreets, both settings, and the defences.

The networks are trained into ``build/camvid`` and reused by a later run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segleak_utils import data
from segleak_utils.attacks import AttackRecipe, references
from segleak_utils.data import Scenes, camvid
from segleak_utils.running import results
from segleak_utils.studies import beyond, frontier, networks, standard
from segleak_utils.studies.experiment import SETTINGS
from segleak_utils.studies.frontier import Measured, Scenario, Service
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import Plan, Sizes
from segleak_utils.victims import Recipe

SIZE = (160, 224)  # multiples of 32, as the networks need; CamVid's shape is 3:4
# What a release can do is shown on real images too; the trained defences stay on SynthStreets.
SERVICES = tuple(
    s for s in frontier.RELEASES if s.family in ("no defence", "argmax", "Gaussian noise")
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
    """The contest of all attacks in both settings; prints and returns the rows of the table."""
    plan = plan or plan_of(preset)
    scenes = camvid(root, size=SIZE)
    out = []
    for setting in SETTINGS:
        victim, shadow = victim_and_shadow(plan, scenes, setting)
        for of in (victim, shadow):
            member, nonmember = (of.meta["metrics"][f"{k}_miou"] for k in ("member", "nonmember"))
            print(f"{of.name}: mIoU {member:.3f} on members, {nonmember:.3f} on non-members")
        out += standard.rows(standard.contest(plan, setting, victim, [shadow]), "camvid")
    print(results.table(out))
    results.record(out)
    return out


def camvid_beyond(root: Path, preset: str = "full", plan: Plan | None = None) -> list[beyond.Line]:
    """Every attack there is, in both settings, with one network of the attacker's.

    The shadow is the victim's reference, and the victim the shadow's. Writes
    ``build/contest-camvid.csv``, and prints and returns its lines.
    """
    plan = plan or plan_of(preset)
    scenes = camvid(root, size=SIZE)
    found: list[beyond.Line] = []
    for setting in SETTINGS:
        victim, shadow = victim_and_shadow(plan, scenes, setting)
        of = beyond.contest(plan, setting, victim, [shadow])
        found += beyond.lines(of, [shadow], of[references.CALIBRATED].scores)
    print(beyond.table(found))
    beyond.write(found, plan.build / "contest-camvid.csv")
    return found


def camvid_defenses(
    root: Path,
    preset: str = "full",
    plan: Plan | None = None,
    services: Sequence[Service] = SERVICES,
) -> list[Measured]:
    """Argmax and Gaussian noise against both attackers, in the dependent setting."""
    plan = plan or plan_of(preset)
    return frontier.measure(scenario(plan, camvid(root, size=SIZE), "dependent"), services)
