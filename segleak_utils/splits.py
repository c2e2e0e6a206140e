"""Who trained on what: disjoint lists of members, non-members and held-out scenes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from segleak_utils.data import Scenes, synthstreets

# Each side gets one built-up drive (0016E5 | Seq05VD: a quarter buildings) and one open, greener
# drive (0006R0 | 0001TP: 16-18 % trees), and about as many frames. The one dusk drive, 0001TP,
# lies with the shadow, so that all the frames on which an attack is *measured* are of one light.
CAMVID_VICTIM_DRIVES = ("0016E5", "0006R0")
CAMVID_SHADOW_DRIVES = ("Seq05VD", "0001TP")


@dataclass(frozen=True)
class Split:
    """Who trained on what: four disjoint lists of scenes, and two for early stopping.

    ValueError, naming the lists, if one is empty, two share an id, or their classes differ.
    """

    victim_members: Scenes
    victim_nonmembers: Scenes
    shadow_members: Scenes
    shadow_nonmembers: Scenes
    victim_held_out: Scenes | None = None
    shadow_held_out: Scenes | None = None

    def __post_init__(self) -> None:
        for name, scenes in self.lists().items():
            if not len(scenes):
                raise ValueError(f"{name} is empty, expected at least one scene")
        for (name, scenes), (other, others) in combinations(self.lists().items(), 2):
            shared = sorted(set(scenes.ids) & set(others.ids))
            if shared:
                some = ", ".join(shared[:3])
                raise ValueError(f"{name} and {other} share {len(shared)} ids, e.g. {some}")
            if scenes.class_names != others.class_names:
                found = f"{scenes.n_classes} {scenes.class_names} and {others.class_names}"
                raise ValueError(f"{name} and {other} have different classes: {found}")

    def lists(self) -> dict[str, Scenes]:
        """The lists by name, without the held-out ones that are None."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: scenes for name, scenes in named.items() if scenes is not None}


def blocks(groups: Sequence[str], n_blocks: int | Mapping[str, int], gap: int) -> np.ndarray:
    """Cut each group (drive) of video frames into contiguous blocks, dropping frames in between.

    `groups` [N] in order of time within each group; `n_blocks` per group, one number or one for
    each. Returns int [N]: a block number that runs on from group to group, or -1 for the `gap`
    frames between two blocks of a group. ValueError: a group too short to hold its blocks.
    """
    groups = np.asarray(groups)
    if gap < 0:
        raise ValueError(f"gap is {gap}, expected at least 0")
    numbers, first = np.full(len(groups), -1), 0
    for group in dict.fromkeys(groups.tolist()):
        at = np.flatnonzero(groups == group)
        n = n_blocks[group] if isinstance(n_blocks, Mapping) else n_blocks
        kept = len(at) - gap * (n - 1)
        if n < 1 or kept < n:
            raise ValueError(f"{group}: {len(at)} frames cannot make {n} blocks with gaps of {gap}")
        start = 0
        for block in range(n):
            stop = start + kept // n + (block < kept % n)
            numbers[at[start:stop]] = first + block
            start = stop + gap
        first += n
    return numbers


def camvid_split(
    scenes: Scenes,
    setting: str = "dependent",
    *,
    seed: int = 0,
    block_length: int = 10,
    gap: int = 2,
    min_step: int = 20,
    victim_drives: Sequence[str] = CAMVID_VICTIM_DRIVES,
    shadow_drives: Sequence[str] = CAMVID_SHADOW_DRIVES,
) -> Split:
    """Members, non-members and held-out frames as alternating blocks of each drive.

    `independent`: victim and shadow get different drives; `dependent`: both get blocks of all
    of them. A block goes to the role that has the fewest of its drive, ties to the fewest in all,
    then by `seed`; a tenth of each drive is held out. Frames closer than `min_step` video frames
    to the one before are left out: most of CamVid is labelled every 30 frames, but 101 frames of
    0016E5 every 2, near-duplicates which would count as independent images in every interval.
    """
    if setting not in ("dependent", "independent"):
        raise ValueError(f"setting is {setting!r}, expected 'dependent' or 'independent'")
    if scenes.groups is None:
        raise ValueError("the scenes have no groups (drives), so they cannot be cut into blocks")
    if set(victim_drives) & set(shadow_drives):
        raise ValueError(f"victim drives {victim_drives} and shadow drives {shadow_drives} overlap")
    sides = [(("victim",), victim_drives), (("shadow",), shadow_drives)]
    if setting == "dependent":
        sides = [(("victim", "shadow"), (*victim_drives, *shadow_drives))]
    chosen: dict[str, list[int]] = {}
    for owners, drives in sides:
        frames = [i for drive in drives for i in _spaced_frames(scenes, drive, min_step)]
        groups = [scenes.groups[i] for i in frames]
        counts = {d: (groups.count(d) + gap) / (block_length + gap) for d in drives}
        counts = {drive: max(1, round(count)) for drive, count in counts.items()}
        order = _deal(list(counts.values()), owners, np.random.default_rng(seed))
        for frame, number in zip(frames, blocks(groups, counts, gap), strict=True):
            if number >= 0:
                chosen.setdefault(order[number], []).append(frame)
    names = [field.name for field in fields(Split)]
    lists = {name: scenes.subset(chosen.get(name, [])) for name in names}
    return Split(**{n: s for n, s in lists.items() if len(s) or not n.endswith("held_out")})


def _deal(counts: Sequence[int], owners: Sequence[str], rng: np.random.Generator) -> list[str]:
    """A role for each block of drives of `counts` blocks, so even that no drive tells the role."""
    total: Counter[str] = Counter()
    order = []
    for count in counts:
        held_out = rng.permutation(count)[: round(count / 10)]
        drive: Counter[str] = Counter()
        for block in range(count):
            kinds = ["held_out"] if block in held_out else ["members", "nonmembers"]
            roles = rng.permutation([f"{owner}_{kind}" for owner in owners for kind in kinds])
            role = min(roles.tolist(), key=lambda r: (drive[r], total[r]))
            drive[role] += 1
            total[role] += 1
            order.append(role)
    return order


def _spaced_frames(scenes: Scenes, drive: str, min_step: int) -> list[int]:
    """Positions of a drive's frames in order of time, at least `min_step` video frames apart."""
    kept, last = [], -min_step
    for i in sorted(range(len(scenes)), key=scenes.ids.__getitem__):
        if scenes.groups[i] == drive:
            number = re.search(r"(\d+)$", scenes.ids[i])
            if number is None:
                raise ValueError(f"frame {scenes.ids[i]} does not end in its number")
            if int(number[1]) - last >= min_step:
                kept.append(i)
                last = int(number[1])
    if not kept:
        raise ValueError(f"no frames of drive {drive}, found {sorted(set(scenes.groups))}")
    return kept


def synthstreets_split(
    city: str = "harbour",
    victim_seed: int = 0,
    shadow_city: str = "harbour",
    shadow_seed: int = 0,
    *,
    n_members: int,
    n_nonmembers: int,
    n_shadow_nonmembers: int,
    n_held_out: int = 0,
    root: str | Path = "data",
    progress: bool = True,
) -> Split:
    """The default experiment: dependent if both cities are the same, independent if not.

    A role is a range of indices in one world (seed 0): non-members from 0, the same for all victim
    seeds; victim k from 100_000 + 10_000 k (members, then held-out); shadow k from
    500_000 + 10_000 k (members, non-members, held-out). ValueError if a range is too small.
    """
    n_victim = n_members + n_held_out
    n_shadow = n_members + n_shadow_nonmembers + n_held_out
    for what, found, limit in (
        ("n_nonmembers", n_nonmembers, 100_000),
        ("victim scenes", n_victim, 10_000),
        ("shadow scenes", n_shadow, 10_000),
        ("victim_seed", victim_seed, 39),
        ("shadow_seed", shadow_seed, 49),
    ):
        if not 0 <= found <= limit:
            raise ValueError(f"{what}: {found}, expected 0..{limit}")
    for what, found in (
        ("n_members", n_members),
        ("n_nonmembers", n_nonmembers),
        ("n_shadow_nonmembers", n_shadow_nonmembers),
    ):
        if found < 1:
            raise ValueError(f"{what} is {found}, expected at least 1")
    if n_held_out < 0:
        raise ValueError(f"n_held_out is {n_held_out}, expected at least 0")
    draw = partial(synthstreets, root=root, progress=progress)
    victim = draw(city, 0, 100_000 + 10_000 * victim_seed, n_victim)
    shadow = draw(shadow_city, 0, 500_000 + 10_000 * shadow_seed, n_shadow)
    after = n_members + n_shadow_nonmembers
    return Split(
        victim_members=victim.subset(range(n_members)),
        victim_nonmembers=draw(city, 0, 0, n_nonmembers),
        shadow_members=shadow.subset(range(n_members)),
        shadow_nonmembers=shadow.subset(range(n_members, after)),
        victim_held_out=victim.subset(range(n_members, n_victim)) if n_held_out else None,
        shadow_held_out=shadow.subset(range(after, n_shadow)) if n_held_out else None,
    )
