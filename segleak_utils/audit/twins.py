"""One picture, or nearly, twice: who is a member and none makes nonsense of both lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segleak_utils.audit.findings import Twin

NEAR = 4  # of 64 bits; see tests/audit/test_twins.py
MOST = 200  # pairs that are listed
BLOCK = 512


def twins(
    ids: Sequence[str], member: NDArray[np.bool_], pixels: Sequence[str], hashes: NDArray[np.uint64]
) -> tuple[Twin, ...]:
    """Pairs of pictures with the same pixels, or perceptual hashes of at most `NEAR` bits apart.

    pixels: a key of each picture's pixels; hashes: uint64 [N]. Pairs between the lists come first,
    the closest first; at most `MOST` are listed.
    """
    found = []
    for start in range(0, len(hashes), BLOCK):
        rows = hashes[start : start + BLOCK]
        far = np.bitwise_count(rows[:, None] ^ hashes[None, start:])
        for i, j in zip(*np.nonzero(far <= NEAR), strict=True):
            a, b = start + int(i), start + int(j)
            if a >= b:
                continue
            same = pixels[a] == pixels[b]
            found.append(
                Twin(
                    first=ids[a], second=ids[b], between_lists=bool(member[a] != member[b]),
                    kind="same pixels" if same else "nearly the same",
                    distance=int(far[i, j]),
                )
            )  # fmt: skip
    found.sort(key=lambda of: (not of.between_lists, of.kind != "same pixels", of.distance))
    return tuple(found[:MOST])
