"""Who trained on what: disjoint lists of members, non-members and held-out scenes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import combinations

from segleak_utils.data.scenes import Scenes
from segleak_utils.data.twins import refuse_twins


@dataclass(frozen=True)
class Split:
    """Who trained on what: four disjoint lists of scenes, and two for early stopping.

    ValueError, naming the lists, if one is empty, two share an id or a picture, or their classes
    differ.
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
        lists = self.lists().items()
        refuse_twins((p, r, f"{name}: {i}") for name, s in lists for p, r, i in s.pictures())

    def lists(self) -> dict[str, Scenes]:
        """The lists by name, without the held-out ones that are None."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: scenes for name, scenes in named.items() if scenes is not None}
