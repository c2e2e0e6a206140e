"""The annotator's mix-ups: where they are, and that without them nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from segleak_utils import data, synthstreets
from segleak_utils.synthstreets import canvas, styles

FEW = 5


def drawn(city: str, careful: bool) -> tuple[np.ndarray, np.ndarray]:
    pairs = [synthstreets.render_scene(city, 0, k, careful=careful) for k in range(FEW)]
    return tuple(np.stack(part) for part in zip(*pairs, strict=True))


@pytest.fixture(scope="module")
def told() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    return {city: [drawn(city, careful) for careful in (False, True)] for city in styles.CITIES}


def scenes_of(images: np.ndarray, masks: np.ndarray, ids: list[str]) -> data.Scenes:
    return data.Scenes.from_arrays(
        np.ascontiguousarray(images.transpose(0, 3, 1, 2)), masks, ids, data.CLASSES
    )


@pytest.mark.parametrize("city", styles.CITIES)
def test_care_changes_labels_to_their_look_alikes_and_nothing_else(told, city):
    (images, masks), (again, careful) = told[city]
    np.testing.assert_array_equal(images, again)
    changed = (masks != careful) & (masks != data.VOID) & (careful != data.VOID)
    assert 0.003 < changed.mean() < 0.08
    pairs = {
        tuple(pair) for pair in np.unique(np.stack([careful[changed], masks[changed]], 1), axis=0)
    }
    # an object that was confused may be seen through, or beside, another that was
    alike = {(a, b) for a, those in canvas.LOOK_ALIKES.items() for b in those}
    assert pairs & alike and len(pairs - alike) <= 0.25 * len(pairs)
    # a void line between two labels may go or come with them, and no more
    assert ((masks == data.VOID) != (careful == data.VOID)).mean() < 2e-3


def test_mislabelled_is_where_the_careful_annotator_differs(told):
    (images, masks), (_, careful) = told["oldtown"]
    scenes = scenes_of(images, masks, [f"oldtown-s0-{k:06d}" for k in range(FEW)])
    found = synthstreets.mislabelled(scenes)
    assert found.dtype == bool and found.shape == masks.shape
    expected = (masks != careful) & (masks != data.VOID) & (careful != data.VOID)
    np.testing.assert_array_equal(found, expected)
    some = synthstreets.mislabelled(scenes.subset([4, 1]))
    np.testing.assert_array_equal(some, expected[[4, 1]])
    assert synthstreets.mislabelled(scenes.subset([])).shape[0] == 0


def test_scenes_of_others_are_refused(told):
    (images, masks), _ = told["harbour"]
    with pytest.raises(ValueError, match="scene 'Seq05_1' was not drawn by SynthStreets"):
        synthstreets.mislabelled(scenes_of(images[:1], masks[:1], ["Seq05_1"]))
    with pytest.raises(ValueError, match="more than half of its mask differs"):
        synthstreets.mislabelled(
            scenes_of(images[:1], masks[:1, ::-1].copy(), ["harbour-s0-000000"])
        )
