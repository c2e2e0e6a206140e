"""A figure in words, and that a notebook's output has them."""

from __future__ import annotations

import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats

from segleak_utils.figures import styled
from segleak_utils.figures.words import LONGEST, describe


def drawn(draw, rows=1, columns=1):
    figure, axes = plt.subplots(rows, columns, squeeze=False)
    draw(*axes.flat)
    plt.close(figure)
    return describe(figure)


def test_a_named_line_is_told_by_its_points_and_its_axes():
    def draw(axes):
        axes.plot(np.linspace(0.01, 1, 50), np.linspace(0, 2, 50), label="structured")
        axes.set(title="A curve", xlabel="FPR", xscale="log", xlim=(0.01, 1), ylim=(0, 2))

    said = drawn(draw)
    assert said.startswith("A curve. x: FPR, 0.01 to 1, logarithmic; y: 0 to 2. Line structured: ")
    assert said.count("(") == 6 and "(0.01, 0)" in said and said.endswith("(1, 2).")


def test_bars_are_told_by_the_words_of_their_places():
    def draw(axes):
        axes.bar([0, 1], [0.25, 0.5])
        axes.set_xticks([0, 1], ["car", "truck"])

    assert "Bars: car 0.25, truck 0.5." in drawn(draw)

    def lying(axes):
        axes.barh([0, 1], [0.25, 0.5], label="gap")
        axes.set_yticks([0, 1], ["car", "truck"])

    assert "Bars gap: car 0.25, truck 0.5." in drawn(lying)


def test_a_histogram_is_told_by_where_it_is_highest():
    values = np.concatenate([np.zeros(90), np.linspace(0, 10, 10)])
    assert "40 bars, 0.125 to 9.88, the highest at 0.125" in drawn(lambda a: a.hist(values, 40))
    said = drawn(lambda a: a.hist(values, 40, histtype="step", label="members"))
    assert "Histogram members, 0 to 10, the highest at 0" in said


def test_intervals_are_told_with_their_points():
    def draw(axes):
        axes.errorbar([0.6, 0.7], [0, 1], xerr=[[0.1, 0.1], [0.2, 0.2]], fmt="o", label="AUC")
        axes.set_yticks([0, 1], ["mean loss", "structured"])

    said = drawn(draw)
    assert "Points with intervals AUC: mean loss 0.6 [0.5, 0.8], structured 0.7 [0.6, 0.9]." in said


def test_rows_with_words_are_told_by_their_intervals():
    def draw(axes):
        for row, (low, value, high) in enumerate([(0.5, 0.6, 0.8), (0.6, 0.7, 0.9)]):
            axes.plot([low, high], [row, row])
            axes.plot(value, row, "o")
        axes.axvline(0.5)
        axes.set(yticks=range(2), yticklabels=["mean loss", "structured"], ylim=(1.5, -0.5))

    said = drawn(draw)
    assert "y: mean loss, structured. Rows: mean loss 0.6 [0.5, 0.8], structured 0.7 [0.6" in said
    assert said.endswith("Line: (0.5, 0), (0.5, 1).")


def test_pictures_maps_and_colour_scales_are_told():
    def draw(photo, loss):
        photo.imshow(np.zeros((4, 4, 3)))
        photo.set_title("image")
        shown = loss.imshow(np.array([[0.0, 1.0], [np.nan, 5.0]]))
        loss.figure.colorbar(shown, ax=loss).set_label("loss (nats)")
        loss.set(xticks=[0, 1], xticklabels=["car", "sky"])

    said = drawn(draw, 1, 2)
    assert "3 panels. Panel 1: image. A picture. Panel 2: columns: car, sky." in said
    assert "A map of values 0 to 5, mean 2." in said
    assert "colour scale loss (nats), 0 to 5" in said


def test_clouds_lines_without_names_and_what_is_written_are_told():
    def draw(axes):
        axes.scatter(np.arange(100), np.arange(100) / 10, label="scenes")
        axes.plot([0, 1], [0, 1])
        axes.plot([0, 1], [1, 0], "o")
        axes.text(0, 0, "chance")

    said = drawn(draw)
    assert "100 points scenes: x 0 to 99, median 49.5; y 0 to 9.9, median 4.95." in said
    assert "Line: (0, 0), (1, 1). Points: (0, 1), (1, 0)." in said
    assert "Written in it: chance." in said


def test_many_lines_without_a_name_are_counted():
    def draw(axes):
        for k in range(9):
            axes.plot([0, k], [0, 1], "o-"[k % 2])

    assert "4 more lines and 5 more sets of points without a name." in drawn(draw)


def test_long_and_empty_figures_have_words_too():
    def draw(*axes):
        for axis in axes:
            axis.plot(np.arange(12), label="a line with many points")

    assert LONGEST / 2 < len(drawn(draw, 6, 6)) <= LONGEST
    assert describe(plt.Figure()) == "An empty figure."


@styled
def line():
    figure, axes = plt.subplots()
    axes.plot([0, 3], label="slope")
    return figure


@pytest.fixture
def shell():
    shell = InteractiveShell()
    select_figure_formats(shell, {"png"}, bbox_inches="tight")
    return shell


def test_a_shown_figure_brings_its_words(shell):
    data, metadata = shell.display_formatter.format(line())
    assert data["image/png"] and metadata["image/png"]["alt"] == describe(line())
    assert "slope: (0, 0), (1, 3)" in metadata["image/png"]["alt"]


def test_a_figure_with_words_can_be_pickled(shell):
    again = pickle.loads(pickle.dumps(line()))
    assert shell.display_formatter.format(again)[1]["image/png"]["alt"] == describe(line())
