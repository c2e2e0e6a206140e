"""What the annotator of a network's scenes got wrong: known where the scenes were drawn."""

from __future__ import annotations

import numpy as np

from segleak_utils import synthstreets
from segleak_utils.data import Scenes
from segleak_utils.studies.cache import cached
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import Plan


def mislabelled(plan: Plan, of: Network) -> np.ndarray | None:
    """Mislabelled pixels of a network's members, then its non-members, bool [N,H,W]; cached.

    None with the examples: of photographs nobody knows.
    """
    if plan.examples is not None:
        return None
    return np.concatenate([_mislabelled_in(plan, scenes) for scenes in (of.members, of.nonmembers)])


def _mislabelled_in(plan: Plan, scenes: Scenes) -> np.ndarray:
    def compute() -> dict[str, np.ndarray]:
        found = synthstreets.mislabelled(scenes, progress=plan.progress)
        return {"bits": np.packbits(found.reshape(len(scenes), -1), axis=1)}

    bits = cached(plan.build, "mislabelled", {"scenes": scenes.digest}, compute)["bits"]
    height, width = scenes.shape
    pixels = np.unpackbits(bits, axis=1, count=height * width)
    return pixels.view(bool).reshape(-1, height, width)
