"""Who is trained on what, online."""

from __future__ import annotations

import numpy as np
import pytest

from segleak_utils.attacks.online import halves, online_attacks


def test_every_image_is_in_half_of_the_networks():
    inside = halves(60, 4, seed=3)
    assert inside.shape == (4, 60) and (inside.sum(0) == 2).all()
    assert (inside.sum(1) == 30).all()
    choices, counts = np.unique(inside, axis=1, return_counts=True)
    assert choices.shape[1] == 6 and (counts == 10).all()
    np.testing.assert_array_equal(inside, halves(60, 4, seed=3))
    assert (inside != halves(60, 4, seed=4)).any()
    for n in (2, 5):
        with pytest.raises(ValueError, match=f"{n} networks: expected an even number"):
            halves(60, n, seed=0)


@pytest.mark.parametrize(
    ("n_images", "n_networks", "seed"),
    [(0, 4, 0), (1.5, 4, 0), (6, 4.0, 0), (6, True, 0), (6, 4, None), (6, 4, -1)],
)
def test_halves_are_of_whole_numbers(n_images, n_networks, seed):
    with pytest.raises(ValueError, match=r"(n_images|n_networks|seed) is"):
        halves(n_images, n_networks, seed)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"target": np.array([0, np.nan])}, "target holds 1 NaN"),
        ({"theirs": np.full((4, 2), np.inf)}, "theirs holds 8 NaN or infinite"),
        ({"theirs": np.zeros((4, 3))}, "expected"),
        ({"inside": np.array([[1, 1], [1, 1], [0, 0], [0, 0]])}, "inside must be boolean"),
        ({"inside": np.ones((4, 2), bool)}, "inside half of the networks"),
        ({"target": np.zeros((2, 1))}, "target must be real numbers"),
    ],
)
def test_what_online_attacks_cannot_compare_is_refused(change, found):
    inside = np.array([[True, True], [True, True], [False, False], [False, False]])
    theirs = np.arange(8.0).reshape(4, 2)
    good = {"target": np.zeros(2), "theirs": theirs, "inside": inside}
    with pytest.raises(ValueError, match=found):
        online_attacks(**good | change)
