"""SynthStreets: determinism, labels, class frequencies, annotator noise, errors."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from segleak_utils import data, synthstreets
from segleak_utils.synthstreets.scene import render_labels

PER_CITY = 40


@cache
def scenes(city: str) -> tuple[np.ndarray, np.ndarray]:
    rendered = [synthstreets.render_scene(city, 0, index) for index in range(PER_CITY)]
    return np.stack([image for image, _ in rendered]), np.stack([mask for _, mask in rendered])


def digest(city: str, seed: int, index: int) -> str:
    image, mask = synthstreets.render_scene(city, seed, index)
    return hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest()


def test_classes_are_the_cityscapes_train_ids():
    assert len(data.CLASSES) == 19
    assert (data.CLASSES[0], data.CLASSES[10], data.CLASSES[18]) == (
        "road",
        "sky",
        "bicycle",
    )
    assert data.PALETTE.shape == (19, 3)
    assert data.PALETTE.dtype == np.uint8
    assert len(np.unique(data.PALETTE, axis=0)) == 19
    assert data.PALETTE[13].tolist() == [0, 0, 142]


def test_there_are_three_cities_with_generators_of_their_own():
    assert {"harbour", "oldtown", "suburb"} <= set(synthstreets.CITIES)
    numbers = [city.number for city in synthstreets.CITIES.values()]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("city", synthstreets.CITIES)
def test_shapes_dtypes_and_labels(city):
    images, masks = scenes(city)
    assert images.shape == (PER_CITY, 128, 256, 3)
    assert images.dtype == np.uint8
    assert masks.shape == (PER_CITY, 128, 256)
    assert masks.dtype == np.uint8
    assert set(np.unique(masks)) <= {*range(19), data.VOID}


@pytest.mark.parametrize(("height", "width"), [(32, 32), (65, 131), (256, 512)])
def test_other_sizes(height, width):
    image, mask = synthstreets.render_scene("suburb", 3, 1, height, width)
    assert image.shape == (height, width, 3)
    assert mask.shape == (height, width)


@pytest.mark.parametrize("city", synthstreets.CITIES)
def test_a_scene_depends_on_its_arguments_alone(city):
    images, masks = scenes(city)
    np.random.seed(7)  # the global generator has no say
    for index in (11, 3):  # in another order than before
        image, mask = synthstreets.render_scene(city, 0, index)
        np.testing.assert_array_equal(image, images[index])
        np.testing.assert_array_equal(mask, masks[index])


def test_another_process_renders_the_same_scene():
    code = (
        "import hashlib; from segleak_utils.synthstreets import render_scene;"
        "a, b = render_scene('oldtown', 5, 17);"
        "print(hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest())"
    )
    path = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest("oldtown", 5, 17)


def test_city_seed_and_index_all_matter():
    keys = [("harbour", 0, 1), ("harbour", 0, 2), ("harbour", 1, 0), ("oldtown", 0, 1)]
    assert len({digest(*key) for key in keys}) == len(keys)


def test_no_two_scenes_are_alike():
    for city in synthstreets.CITIES:
        images, masks = scenes(city)
        small = images[:, ::8, ::8].reshape(PER_CITY, -1).astype(float)
        far = np.abs(small[:, None] - small[None]).mean(2)
        assert far[~np.eye(PER_CITY, dtype=bool)].min() > 8
        assert len({mask.tobytes() for mask in masks}) == PER_CITY


def test_every_class_appears_in_three_percent_of_the_scenes():
    masks = np.concatenate([scenes(city)[1] for city in synthstreets.CITIES])
    share = {name: (masks == label).any((1, 2)).mean() for label, name in enumerate(data.CLASSES)}
    assert {name: value for name, value in share.items() if value < 0.03} == {}
    for name in ("road", "building", "car"):
        assert share[name] > 0.9


@pytest.mark.parametrize("city", synthstreets.CITIES)
def test_void_share(city):
    share = (scenes(city)[1] == data.VOID).mean()
    assert 0.005 < share < 0.15


def test_bonnet_only_where_the_city_has_one():
    low = {city: scenes(city)[1][:, -1, 100:156] for city in synthstreets.CITIES}
    shown = {city: (rows == data.VOID).all(1).mean() for city, rows in low.items()}
    assert shown["oldtown"] < 0.1 < 0.2 < shown["suburb"] < 0.75 < shown["harbour"]


def test_cities_look_different():
    def look(city: str) -> np.ndarray:
        masks = scenes(city)[1]
        return np.array([(masks == label).mean() for label in range(19)])

    harbour, oldtown, suburb = (look(city) for city in ("harbour", "oldtown", "suburb"))
    vegetation, building, person, sky = 8, 2, 11, 10
    assert suburb[vegetation] > 2 * max(harbour[vegetation], oldtown[vegetation])
    assert min(harbour[building], oldtown[building]) > 1.4 * suburb[building]
    assert oldtown[person] > 2 * max(harbour[person], suburb[person])
    assert suburb[sky] > 1.5 * oldtown[sky]


def test_a_street_has_its_road_below_and_its_sky_above():
    for city in synthstreets.CITIES:
        masks = scenes(city)[1]
        assert (masks[:, :40] == 0).mean() < 0.01
        assert (masks[:, 70:] == 10).mean() < 0.01
        assert (masks[:, 90:115] == 0).mean() > 0.4


def test_pictures_have_texture_noise_and_contrast():
    for city in synthstreets.CITIES:
        images = scenes(city)[0].astype(float)
        assert np.median(images.std((1, 2, 3))) > 5
        fine = np.abs(np.diff(images, axis=2)).mean((1, 2, 3))
        assert fine.min() > 1.5  # nowhere flat colour
        brightness = images.mean((1, 2, 3))
        assert brightness.max() - brightness.min() > 40  # light and weather vary


def test_annotator_confuses_and_leaves_out_at_the_stated_rates():
    from segleak_utils.synthstreets import canvas

    city = synthstreets.CITIES["harbour"]
    c = canvas.Canvas(np.random.default_rng(0), city, 128, 256)
    n = 4000
    large = [c.annotate(13) for _ in range(n)]
    assert set(large) == {13, *canvas.LOOK_ALIKES[13]}
    wrong = np.mean([label != 13 for label in large])
    assert abs(wrong - canvas.CONFUSION) < 5 * np.sqrt(canvas.CONFUSION / n)
    gone = np.mean([c.annotate(13, size=canvas.SMALL) is None for _ in range(n)])
    assert abs(gone - canvas.LEFT_OUT) < 5 * np.sqrt(canvas.LEFT_OUT / n)


def test_unknown_city_names_the_known_ones():
    with pytest.raises(ValueError, match=r"atlantis.*harbour.*oldtown.*suburb"):
        synthstreets.render_scene("atlantis", 0, 0)


@pytest.mark.parametrize(("height", "width"), [(31, 64), (64, 31), (0, 0), (-128, 256)])
def test_too_small(height, width):
    with pytest.raises(ValueError, match=f"32.*{height}x{width}"):
        synthstreets.render_scene("harbour", 0, 0, height, width)


@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_negative_seed_or_index(seed, index):
    with pytest.raises(ValueError, match=f"seed {seed}, index {index}"):
        synthstreets.render_scene("harbour", seed, index)


def test_a_street_is_the_same_at_every_moment_and_what_moves_is_not():
    drawn = [
        [synthstreets.render_scene("harbour", 0, street, 64, 128, moment=m) for m in (0, 1)]
        for street in range(60)
    ]
    again = synthstreets.render_scene("harbour", 0, 5, 64, 128, moment=1)
    np.testing.assert_array_equal(again[0], drawn[5][1][0])
    for (first, _), (second, _) in drawn:
        assert (first != second).any(-1).mean() > 0.9
    seen_once = synthstreets.render_scene("harbour", 0, 5, 64, 128)
    assert not any(np.array_equal(seen_once[0], image) for image, _ in drawn[5])

    def alike(*names: str) -> float:
        """Correlation over streets of a share of the picture at the two moments."""
        shares = [
            [sum((mask == data.CLASSES.index(n)).mean() for n in names) for _, mask in of]
            for of in drawn
        ]
        return float(np.corrcoef(np.transpose(shares))[0, 1])

    # trees and parked cars stay, traffic and people do not
    assert alike("vegetation") > 0.7 and min(alike("car"), alike("terrain")) > 0.4
    assert max(abs(alike("bus", "truck")), abs(alike("person"))) < 0.25
    with pytest.raises(ValueError, match="moment -1: expected 0 or more, or None"):
        synthstreets.render_scene("harbour", 0, 0, moment=-1)


@pytest.mark.parametrize("city", synthstreets.CITIES)
@pytest.mark.parametrize("moment", [None, 3])
def test_labels_alone_are_those_of_the_careful_annotator(city, moment):
    for index in range(4):
        whole = synthstreets.render_scene(city, 2, index, careful=True, moment=moment)[1]
        alone = render_labels(city, 2, index, 128, 256, moment=moment)
        np.testing.assert_array_equal(alone, whole)
