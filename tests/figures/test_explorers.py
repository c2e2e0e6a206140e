"""The pictures under the first sliders show what they say."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba

from segleak_utils import figures, metrics
from segleak_utils.figures import widgets

RNG = np.random.default_rng(0)
MEMBER = np.arange(2400) < 400
SCORES = RNG.normal(0, 1, 2400) + MEMBER
LOSS = torch.from_numpy(RNG.exponential(1, (128, 256)))
RATE = metrics.tpr_at_fpr(SCORES, MEMBER, 0.1)
COUNTS = torch.tensor([[1000.0, 300, 250], [3000, 2400, 2700]], dtype=torch.float64)


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


@pytest.mark.parametrize("threshold", [-99.0, 0.5, 99.0])
def test_both_errors_of_a_threshold_are_shown_and_filled(threshold):
    left, right = figures.render_threshold(SCORES, MEMBER, threshold).axes
    missed = (SCORES[MEMBER] <= threshold).mean()
    accused = (SCORES[~MEMBER] > threshold).mean()
    assert texts(right) == [f"{missed:.0%}", f"{accused:.0%}"]
    areas = []
    for step in left.patches[-2:]:
        values, edges, _ = step.get_data()
        areas.append((values * np.diff(edges)).sum())
    assert areas == pytest.approx([accused, missed])


def test_the_calibration_error_is_that_of_each_group():
    of = {"members": COUNTS, "non-members": COUNTS[:1]}
    left, right = figures.render_calibration(of).axes
    # (|300 - 250| + |2400 - 2700|) / 4000, and 50 / 1000
    assert texts(right) == [" 0.087", " 0.050"]
    line = left.lines[1]
    np.testing.assert_allclose(line.get_xdata(), [0.3, 0.8])
    np.testing.assert_allclose(line.get_ydata(), [0.25, 0.9])


def test_what_is_not_kept_is_grey():
    figures.render_kept(LOSS, LOSS < 0, SCORES, MEMBER)  # nothing at all
    kept = torch.zeros(128, 256, dtype=torch.bool)
    kept[:64] = True
    picture = figures.render_kept(LOSS, kept, SCORES, MEMBER).axes[0].images[0].get_array()
    assert np.array_equal(np.ma.getmaskarray(np.ma.masked_invalid(picture)), ~kept.numpy())


CORNERS = torch.tensor([[0, 0], [10, 20], [30, 100]])


def test_each_patch_is_framed_by_what_it_speaks_for():
    above = np.array([True, False, True])
    left, right = figures.render_votes(
        LOSS, CORNERS, 48, above, SCORES, MEMBER, 0.7, "AUC .7"
    ).axes[:2]  # fmt: skip
    frames = [(f.get_x() + 0.5, f.get_y() + 0.5, f.get_width(), f.get_height())
              for f in left.patches]  # fmt: skip
    assert frames == [(column, row, 48, 48) for row, column in CORNERS.tolist()]
    blue, orange = to_rgba(figures.MEMBER), to_rgba(figures.NONMEMBER)
    assert [f.get_edgecolor() for f in left.patches] == [blue, orange, blue]
    assert "2 of 3" in left.get_title() and right.get_title() == "AUC .7"
    (own,) = right.lines
    assert set(own.get_xdata()) == {0.7}


def test_a_score_beyond_the_axis_is_drawn_at_its_end():
    right = figures.render_votes(
        LOSS, CORNERS, 48, np.zeros(3, bool), SCORES, MEMBER, 99.0
    ).axes[1]  # fmt: skip
    edges = right.patches[0].get_data().edges
    assert set(right.lines[0].get_xdata()) == {edges[-1]}


@pytest.mark.parametrize("prior", metrics.PRIORS)
def test_ten_thousand_images_are_counted_at_their_prior(prior):
    rate = metrics.tpr_at_fpr(SCORES, MEMBER, 0.1)
    left, right = figures.render_worth(SCORES, MEMBER, rate, 0.1, prior, "global loss").axes
    caught, missed, accused = (bar.get_width() for bar in right.patches)
    assert caught + missed == pytest.approx(10_000 * prior)
    assert accused == pytest.approx(1000 * (1 - prior))
    found = metrics.precision_of(rate, 0.1, prior)
    assert caught / (caught + accused) == pytest.approx(found.value)
    assert texts(right) == [f" {count:,.0f}" for count in (caught, missed, accused)]
    assert str(found) in right.get_title()
    lines = {line.get_label(): line for line in left.lines}
    np.testing.assert_allclose(
        lines["threshold, TPR with 95 % interval"].get_xydata(), [(0.1, rate.value)]
    )
    fpr, tpr = lines["precision of one half"].get_data()
    halves = [metrics.precision_at(y, x, prior) for x, y in zip(fpr, tpr, strict=True) if y <= 1]
    assert halves and halves == pytest.approx([0.5] * len(halves))
    shown = metrics.roc(SCORES, MEMBER)
    assert (lines["global loss"].get_xdata() >= shown.smallest_fpr).all()


def by_references() -> dict:
    """Of two measures and attacks, what 1 to 4 references find."""
    return {
        measure: {
            name: [metrics.Interval(top - drop / k, top - drop / k - 0.1, top, 400, 2000)
                   for k in range(1, 5)]
            for name, drop in (("RMIA", 0.1), ("global loss", 0.05))
        }
        for measure, top in (("AUC", 0.9), ("TPR", 0.5))
    }  # fmt: skip


@pytest.mark.parametrize("attack", ["RMIA", "global loss"])
@pytest.mark.parametrize("number", [1, 3])
def test_the_number_of_references_is_marked_on_the_attacks_own_line(attack, number):
    found = by_references()
    left, *others = figures.render_by_references(SCORES, MEMBER, found, attack, number).axes
    assert left.get_title().startswith(f"with {number} reference")
    assert ("references" in left.get_title()) == (number > 1)
    assert [axis.get_ylabel() for axis in others] == list(found)
    for axis, of in zip(others, found.values(), strict=True):
        (mark,) = axis.containers
        wanted = of[attack][number - 1]
        assert mark.lines[0].get_xydata().tolist() == [[number, pytest.approx(wanted.value)]]
        ends = mark.lines[2][0].get_segments()[0][:, 1]
        assert ends.tolist() == pytest.approx([wanted.low, wanted.high])
        (band,) = (c for c in axis.collections if c not in mark.lines[2])
        colours = {line.get_label(): line.get_color() for line in axis.lines}
        assert figures.ATTACKS[attack][0] == colours[attack]
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(min(one.low for one in of[attack]))
        assert heights.max() == pytest.approx(max(one.high for one in of[attack]))
        for name, row in of.items():
            (line,) = (x for x in axis.lines if x.get_label() == name)
            assert line.get_ydata().tolist() == [one.value for one in row]
            assert line.get_xdata().tolist() == [1, 2, 3, 4]


DRAWN = {
    "threshold": lambda: figures.render_threshold(SCORES, MEMBER, 0.2),
    "threshold below all": lambda: figures.render_threshold(SCORES, MEMBER, -99.0),
    "calibration": lambda: figures.render_calibration({"members": COUNTS, "others": COUNTS}),
    "kept": lambda: figures.render_kept(LOSS, LOSS > 1, SCORES, MEMBER),
    "votes": lambda: figures.render_votes(LOSS, CORNERS, 48, MEMBER[:3], SCORES, MEMBER, 0.7),
    "worth": lambda: figures.render_worth(SCORES, MEMBER, RATE, 0.1, 0.01, "global loss"),
    "references": lambda: figures.render_by_references(SCORES, MEMBER, by_references(), "RMIA", 2),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_picture_is_drawn_while_one_waits(draw):
    """Half a second on an idle machine; the faster of two, in this process's own seconds."""
    took = []
    for _ in range(2):
        began = time.process_time()
        widgets.png(draw())
        took.append(time.process_time() - began)
    assert min(took) < 0.5, took


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_nothing_reaches_beyond_a_picture(draw):
    """They are laid out by hand, so that a slider is fast: what is written must have room."""
    figure = draw()
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, box


@pytest.mark.parametrize("most", [2, 3, 4])
def test_references_are_counted_in_whole_numbers(most):
    found = {
        measure: {name: row[:most] for name, row in of.items()}
        for measure, of in by_references().items()
    }
    others = figures.render_by_references(SCORES, MEMBER, found, "RMIA", 2).axes[1:]
    assert all(float(tick).is_integer() for axis in others for tick in axis.get_xticks())
