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
    codes = np.unique(pixels, return_inverse=True)[1]
    pairs = np.empty((0, 5), np.intp)  # other list, other pixels, distance, and the two positions
    for start in range(0, len(hashes), BLOCK):
        rows = hashes[start : start + BLOCK]
        far = np.bitwise_count(rows[:, None] ^ hashes[None, start:])
        far[np.tri(*far.shape, dtype=bool)] = NEAR + 1  # each pair once, and none with itself
        i, j = np.nonzero(far <= NEAR)
        distance, i, j = far[i, j], start + i, start + j
        apart = member[i] == member[j], codes[i] != codes[j]
        pairs = np.concatenate([pairs, np.stack([*apart, distance, i, j], 1)])
        # of a film nearly all are alike: what is not listed is not kept
        pairs = pairs[np.lexsort(pairs.T[::-1])[:MOST]]
    return tuple(
        Twin(
            first=ids[i], second=ids[j], between_lists=not within,
            kind="nearly the same" if differ else "same pixels", distance=distance,
        )
        for within, differ, distance, i, j in pairs.tolist()
    )  # fmt: skip
