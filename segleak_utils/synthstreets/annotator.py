"""Where the annotator took an object for its look-alike: the same scenes, drawn again with care."""

from __future__ import annotations

import re
from contextlib import closing
from functools import partial

import numpy as np
from tqdm.std import tqdm

from segleak_utils.data import VOID, Scenes
from segleak_utils.data.workers import in_processes
from segleak_utils.synthstreets.cache import FEW
from segleak_utils.synthstreets.scene import labels_of

# city, seed, index and moment, as `source.draw` names them
IDENTITY = re.compile(r"(\w+)-s(\d+)-(\d+)(?:-m(\d+))?")


def mislabelled(
    scenes: Scenes, *, workers: int | None = None, progress: bool = False
) -> np.ndarray:
    """Pixels whose label is not that of a careful annotator of the same scene, bool [N, H, W].

    A share `canvas.CONFUSION` of the objects (`FACADE_CONFUSION` of the buildings) has a
    look-alike's label. Each scene is drawn again from its id without that, by the same random
    numbers, so outlines and objects that were left out do not count; nor does a pixel that either
    annotator calls void. ValueError for a scene of another source, or whose mask is another than
    its id says.
    """
    keys = []
    for name in scenes.ids:
        match = IDENTITY.fullmatch(name)
        if match is None:
            raise ValueError(
                f"scene {name!r} was not drawn by SynthStreets, whose ids are CITY-sSEED-INDEX, "
                "and -mMOMENT for a street that is seen more than once; "
                "of other scenes nobody knows which labels are mistakes"
            )
        moment = None if match[4] is None else int(match[4])
        keys.append((match[1], int(match[2]), int(match[3]), moment))
    height, width = scenes.shape or (0, 0)
    again = partial(labels_of, height=height, width=width)
    found = np.zeros((len(keys), height, width), bool)
    workers = workers if len(keys) >= FEW else 1
    with closing(in_processes(again, keys, workers, chunksize=25)) as drawn:
        bar = tqdm(drawn, "mislabelled", len(keys), unit="scene", disable=not progress)
        for row, careful in enumerate(bar):
            mask = scenes[row][1].numpy()
            if (careful == mask).mean() < 0.5:
                raise ValueError(
                    f"scene {scenes.ids[row]!r}: more than half of its mask differs from what its "
                    "id says; was the mask changed, or drawn by another version?"
                )
            found[row] = (careful != mask) & (careful != VOID) & (mask != VOID)
    return found
