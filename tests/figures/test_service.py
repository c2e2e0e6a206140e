"""The slider's picture: what is kept between moves is, to the byte, what is drawn afresh."""

from __future__ import annotations

import io
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from segleak_utils import figures
from segleak_utils.figures import style, widgets

C = 4
PALETTE = np.array([[128, 64, 128], [0, 0, 142], [70, 130, 180], [153, 153, 153]], np.uint8)
MEMBER = np.arange(150) < 50


def example(seed: int, size: tuple[int, int] = (16, 32)) -> figures.Example:
    rng = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, C, size, generator=rng)
    posterior = torch.rand(C, *size, generator=rng).softmax(0)
    image, loss = torch.rand(3, *size, generator=rng), 7 * torch.rand(size, generator=rng)
    return figures.Example(f"scene {seed}", image, mask, posterior, loss)


def scores(seed: int, names: str = "ab", n: int = 150) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 1, n) + rng.random() * (np.arange(n) < 50) for name in names}


def place(
    k: int = 0, *, size: tuple[int, int] = (16, 32), names: str = "ab", member=MEMBER, title="title"
) -> tuple:
    """Parameters of the picture, all of them others for another `k`."""
    pair = [example(2 * k, size), example(2 * k + 1, size)]
    return pair, PALETTE, scores(k, names, len(member)), member, f"{title} {k}"


def fresh(chosen: tuple) -> bytes:
    return widgets.png(figures.render_service(*chosen))


def test_every_move_is_the_picture_that_would_be_drawn_afresh():
    kept = figures.ServicePicture()
    moves = [place(k) for k in (0, 1, 2, 1, 0)]
    pictures = [kept.png(*chosen) for chosen in moves]
    assert pictures == [fresh(chosen) for chosen in moves]
    assert pictures[0] == pictures[4] != pictures[1]


@pytest.mark.parametrize("k", range(5))
def test_a_move_of_one_part_alone_is_seen(k):
    kept, before, after = figures.ServicePicture(), place(0), place(1)
    kept.png(*before)
    chosen = (*before[:k], after[k], *before[k + 1 :])
    if k == 1:
        chosen = (before[0], PALETTE[::-1], *before[2:])
    if k == 3:  # as many members, others
        chosen = (*before[:3], np.roll(MEMBER, 30), before[4])
    assert kept.png(*chosen) == fresh(chosen) != fresh(before)


@pytest.mark.parametrize(
    "other",
    [
        {"size": (24, 16)},  # other places
        {"names": "xyz"},  # another legend, a curve more
        {"names": "ba"},
        {"member": np.arange(150) < 20},  # other limits of the log-log axes
        {"member": np.arange(400) < 50},
        {"title": "two\nlines"},
    ],
)
def test_what_changes_places_limits_or_curves_is_drawn_anew(other):
    kept = figures.ServicePicture()
    for chosen in (place(0), place(1, **other), place(2)):
        assert kept.png(*chosen) == fresh(chosen)


def test_a_choice_that_cannot_be_drawn_leaves_nothing_half_changed():
    kept = figures.ServicePicture()
    kept.png(*place(0))
    pair, palette, found, member, title = place(1)
    wrong = replace(pair[1], posterior=torch.rand(C + 1, 16, 32).sort(0).values)
    with pytest.raises(ValueError, match="has no colour"):
        kept.png([pair[0], wrong], palette, found, member, title)
    for k in (0, 1):
        assert kept.png(*place(k)) == fresh(place(k))


def test_no_figure_stays_open_and_the_style_stays_within():
    before, rules = plt.get_fignums(), plt.rcParams.copy()
    kept = figures.ServicePicture()
    kept.png(*place(0))
    kept.png(*place(1))
    assert plt.get_fignums() == before and plt.rcParams == rules


# ---- the PNG -------------------------------------------------------------------------------------


def test_a_packed_figure_shows_the_pixels_that_matplotlib_saves():
    figure, saved = figures.render_service(*place(0)), io.BytesIO()
    figure.savefig(saved, format="png", dpi=70)
    picture = Image.open(io.BytesIO(widgets.png(figure, 70)))
    theirs = Image.open(saved)
    assert picture.mode == theirs.mode and picture.info["dpi"] == theirs.info["dpi"]
    assert np.array_equal(picture, theirs)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 7)])
def test_what_is_packed_reads_back(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 4), dtype=np.uint8)
    picture = Image.open(io.BytesIO(style.packed(pixels, 90)))
    picture.verify()  # every checksum
    assert np.array_equal(Image.open(io.BytesIO(style.packed(pixels, 90))), pixels)


@pytest.mark.parametrize(
    "size", [(1.005, 2.37), (7.77, 3.333), (11.4, 3.9), (0.3, 0.29), (8.2, 3.9)]
)
def test_a_figure_of_any_size_is_packed(size):
    saved, figure = io.BytesIO(), plt.figure(figsize=size)
    figure.savefig(saved, format="png", dpi=90)
    plt.close(figure)
    assert np.array_equal(Image.open(io.BytesIO(widgets.png(figure))), Image.open(saved))
