"""Who is trained on what, online."""

from __future__ import annotations

import numpy as np
import pytest

from segleak_utils.attacks.online import halves


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
