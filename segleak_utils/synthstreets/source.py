"""SynthStreets as a source of `Scenes`, and the default experiment's roles in it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from segleak_utils.data import CLASSES, PALETTE, Scenes, Split
from segleak_utils.synthstreets.cache import drawn_once
from segleak_utils.synthstreets.scene import VERSION, scene_of
from segleak_utils.synthstreets.styles import CITIES


def draw(
    city: str,
    seed: int,
    start: int,
    count: int,
    *,
    height: int = 128,
    width: int = 256,
    moments: int | None = None,
    root: str | Path = "data",
    workers: int | None = None,
    progress: bool = True,
) -> Scenes:
    """Scenes `start .. start + count - 1` of a procedural city, drawn once and then cached.

    An index is the identity of a scene: it has the same id and the same pixels whichever range it
    is drawn in. With `moments` an index is a street that is seen so often, one moment after the
    other (`render_scene`): count * moments scenes, their `groups` the streets. The cache lies in
    `root/synthstreets/` and is read as memory maps, see `cache.drawn_once`. ValueError: unknown
    city, negative start, count or moments < 1.
    """
    if city not in CITIES:
        raise ValueError(f"city {city!r} is unknown, expected one of {', '.join(CITIES)}")
    if start < 0 or count < 1:
        raise ValueError(f"start {start}, count {count}: expected start >= 0 and count >= 1")
    if moments is not None and moments < 1:
        raise ValueError(f"moments is {moments}, expected 1 or more, or None")
    streets, times = range(start, start + count), [None] if moments is None else range(moments)
    keys = [(city, seed, street, moment) for street in streets for moment in times]
    seen = "" if moments is None else f"-m{moments}"
    folder = f"{city}-s{seed}-{start}-{count}{seen}-{height}x{width}-v{VERSION}"
    images, masks = drawn_once(
        Path(root) / "synthstreets" / folder,
        partial(scene_of, height=height, width=width),
        keys,
        (height, width),
        workers=workers,
        progress=progress,
    )
    names = [f"{city}-s{seed}-{street:06d}" for *_, street, _ in keys]
    ids = [n if k[-1] is None else f"{n}-m{k[-1]}" for n, k in zip(names, keys, strict=True)]
    return Scenes.from_arrays(
        images,
        masks,
        ids,
        CLASSES,
        PALETTE,
        groups=None if moments is None else names,
        source=f"synthstreets {city} {seed} {height}x{width} v{VERSION}",
    )


def split(
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
    drawn = partial(draw, root=root, progress=progress)
    victim = drawn(city, 0, 100_000 + 10_000 * victim_seed, n_victim)
    shadow = drawn(shadow_city, 0, 500_000 + 10_000 * shadow_seed, n_shadow)
    after = n_members + n_shadow_nonmembers
    return Split(
        victim_members=victim.subset(range(n_members)),
        victim_nonmembers=drawn(city, 0, 0, n_nonmembers),
        shadow_members=shadow.subset(range(n_members)),
        shadow_nonmembers=shadow.subset(range(n_members, after)),
        victim_held_out=victim.subset(range(n_members, n_victim)) if n_held_out else None,
        shadow_held_out=shadow.subset(range(after, n_shadow)) if n_held_out else None,
    )
