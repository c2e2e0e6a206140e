"""The box of controls and its picture; and that the sweep finds what only a moved slider breaks."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import continued
import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import sweep
from ipywidgets import Dropdown, FloatLogSlider, IntSlider, SelectionSlider
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from segleak_utils.figures import styled, widgets
from segleak_utils.running import execution, pages

FIXTURES = Path(__file__).parents[1] / "fixtures"
SIGNATURE = b"\x89PNG\r\n\x1a\n"


@styled
def bar(height: float = 1, width: float = 1, tall: float = 1.5):
    figure, axes = plt.subplots(figsize=(2, tall))
    axes.bar([0], [height], width)
    axes.set(xlim=(-3, 3), ylim=(0, 10))
    return figure


def part(box: ipywidgets.Box, name: str) -> ipywidgets.HTML:
    (found,) = (w for w in box.children if f"segleak-{name}" in w._dom_classes)
    return found


def pixels(png: bytes) -> np.ndarray:
    return plt.imread(io.BytesIO(png))


# ---- the box -------------------------------------------------------------------------------------


def test_the_first_picture_is_drawn_at_once():
    box = widgets.explorer(bar, {"height": IntSlider(3, 0, 10)})
    assert bytes(box.picture.value).startswith(SIGNATURE)
    assert box.picture.value == widgets.png(bar(3))


def test_a_moved_control_changes_picture_and_line():
    box = widgets.explorer(
        bar,
        {"height": IntSlider(3, 0, 10), "width": SelectionSlider(options=[1, 2])},
        says=lambda height, width: f"area {height * width}",
    )
    line = part(box, "says")
    before = bytes(box.picture.value)
    assert line.value == "area 3"
    box.controls["height"].value = 5
    assert box.picture.value == widgets.png(bar(5)) != before
    assert line.value == "area 5"
    box.controls["width"].value = 2
    assert box.picture.value == widgets.png(bar(5, 2))
    assert line.value == "area 10"


def test_what_a_picture_kept_between_moves_gives_is_shown_as_it_is():
    box = widgets.explorer(lambda height: widgets.png(bar(height)), {"height": IntSlider(3, 0, 10)})
    assert box.picture.value == widgets.png(bar(3))
    box.controls["height"].value = 5
    assert box.picture.value == widgets.png(bar(5))


def test_an_answer_once_shown_stays_and_is_escaped():
    slider = IntSlider(3, 0, 10)
    questions = [
        ("How high?", lambda height: f"{height} > 5 & high" if height > 5 else ""),
        ("How low?", lambda height: "0" if height == 0 else ""),
    ]
    box = widgets.explorer(bar, {"height": slider}, questions=questions)
    asked = part(box, "questions")
    assert "How high?" in asked.value and "<b>" not in asked.value
    slider.value = 7
    assert "<b>7 &gt; 5 &amp; high</b>" in asked.value and asked.value.count("<b>") == 1
    slider.value = 9
    slider.value = 2
    assert "<b>7 &gt; 5 &amp; high</b>" in asked.value, "the first answer, not the latest"


def test_what_the_first_picture_raises_reaches_the_caller():
    def fails(height):
        raise ValueError("cannot draw")

    with pytest.raises(ValueError, match="cannot draw"):
        widgets.explorer(fails, {"height": IntSlider()})


def test_controls_wait_until_the_handle_stops_and_have_classes():
    controls = {
        "height": IntSlider(3, 0, 10),
        "width": FloatLogSlider(1, min=-1, max=1),
        "other": Dropdown(options=[1, 2]),  # has no handle
    }
    widgets.explorer(lambda height, width, other: bar(height, width), controls)
    assert not controls["height"].continuous_update and not controls["width"].continuous_update
    for name, control in controls.items():
        assert {"segleak-control", f"segleak-{name}"} <= {*control._dom_classes}


def test_follow_may_switch_controls_before_the_picture_is_drawn():
    width = IntSlider(1, 1, 3)
    switched = []

    def follow(height, width):
        controls["width"].disabled = height == 0
        switched.append(height)

    def render(height, width):
        assert switched and switched[-1] == height
        return bar(height, width)

    controls = {"height": IntSlider(0, 0, 10), "width": width}
    widgets.explorer(render, controls, follow=follow)
    assert width.disabled
    controls["height"].value = 4
    assert not width.disabled


def test_no_figure_stays_open():
    before = plt.get_fignums()
    box = widgets.explorer(bar, {"height": IntSlider(3, 0, 10)})
    box.controls["height"].value = 4
    assert plt.get_fignums() == before


def test_the_picture_is_pale_while_the_next_one_is_drawn():
    seen = []

    def render(height):
        if drawn:
            seen.append(widgets.BUSY in drawn[0].picture._dom_classes)
        if height == 9:
            raise ValueError("cannot draw")
        return bar(height)

    drawn = []
    drawn.append(widgets.explorer(render, {"height": IntSlider(3, 0, 10)}))
    for height in (4, 9):  # one that fails, too, leaves no sign behind
        with contextlib.suppress(ValueError):
            drawn[0].controls["height"].value = height
        assert widgets.BUSY not in drawn[0].picture._dom_classes
    assert seen == [True, True]


def test_a_shown_box_brings_its_picture(monkeypatch):
    shown = {}

    def display(bundle, raw, metadata):
        shown.update(bundle, raw=raw, metadata=metadata)

    monkeypatch.setattr(widgets, "display", display)
    monkeypatch.setenv(widgets.frames.WANTED, "1")
    monkeypatch.setattr(widgets.frames, "frames", lambda box: {})
    box = widgets.explorer(bar, {"height": IntSlider(3, 0, 10)})
    widgets.show(box)
    assert shown["raw"] is True
    assert shown["application/vnd.jupyter.widget-view+json"]["model_id"] == box.model_id
    assert shown["metadata"] == {"image/png": {"alt": box.drawn.alt}}
    assert "3" in box.drawn.alt and pages.FRAMES in shown
    # as in a notebook file: text without line breaks
    output = nbformat.v4.new_output("display_data", data={"image/png": shown["image/png"]})
    cell = nbformat.v4.new_code_cell(outputs=[output])
    (png,) = execution.figures(nbformat.v4.new_notebook(cells=[cell])).values()
    assert png == box.picture.value


@pytest.mark.parametrize("tall", [[1.5], [1.5, 1.5], [1.5] * 5, [1.5, 2, 1.7]])
def test_a_filmstrip_is_its_frames_pixel_by_pixel(tall):
    """Also where the frames are not equally tall."""

    def frames():
        return [bar(1 + k, tall=inches) for k, inches in enumerate(tall)]

    drawn = widgets.png(widgets.render_filmstrip(frames()))
    assert drawn.alt.count("x: ") == len(tall)  # what each of them shows
    strip = pixels(drawn)
    assert np.array_equal(strip, np.concatenate([pixels(widgets.png(f)) for f in frames()]))


# ---- the sweep -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "places"),
    [
        (lambda: IntSlider(3, 0, 10), {0, 5, 10, 3}),
        (lambda: ipywidgets.FloatSlider(0.2, min=0, max=1), {0, 0.5, 1, 0.2}),
        (lambda: FloatLogSlider(1, min=-2, max=2), {0.01, 1, 100}),
        (lambda: ipywidgets.IntRangeSlider(value=(2, 3), max=9), {(0, 0), (0, 9), (9, 9), (2, 3)}),
        (lambda: SelectionSlider(options=[("a", 1), ("b", 2)]), {1, 2}),
        (lambda: Dropdown(options={"a": 1, "b": 2, "c": 3}), {1, 2, 3}),
        (lambda: ipywidgets.ToggleButtons(options=["a", "b"]), {"a", "b"}),
        (lambda: ipywidgets.RadioButtons(options=["a", "b"]), {"a", "b"}),
        (
            lambda: ipywidgets.SelectionRangeSlider(options=[1, 2], index=(0, 0)),
            {(1, 1), (2, 2), (1, 2)},
        ),
        (lambda: ipywidgets.SelectMultiple(options=[1, 2]), {(1,), (2,), ()}),
        (lambda: ipywidgets.Checkbox(True), {True, False}),
        (lambda: ipywidgets.IntProgress(3), {3}),
        (lambda: ipywidgets.HTML("text"), {"text"}),
    ],
)
def test_the_sweep_brings_a_control_to_every_stop_and_back(control, places, monkeypatch, capsys):
    monkeypatch.setattr(ipywidgets.widgets.widget, "_instances", {})
    control = control()
    start, seen = control.value, [control.value]
    control.observe(lambda change: seen.append(change["new"]), "value")
    sweep.sweep_controls()
    assert {*seen} == places and control.value == start
    assert capsys.readouterr().out == f"swept {int(len(places) > 1)} controls\n"


def executed_and_tried(name: str, folder: Path) -> tuple[NotebookNode, NotebookNode]:
    """The fixture as the runner leaves it, and what was tried in its kernel afterwards."""
    with execution._environ(execution.kernel_environment(folder)), continued.kernels(folder):
        execution.run_notebook(FIXTURES / name, folder, {}, cell_timeout=120)
    return tuple(nbformat.read(at / name, as_version=4) for at in (folder / "notebooks", folder))


@pytest.mark.slow
def test_the_sweep_of_a_good_notebook_is_clean(tmp_path):
    executed, tried = executed_and_tried("good_slider.ipynb", tmp_path)
    assert execution.hidden_errors(executed) == execution.hidden_errors(tried) == []
    assert sweep.moved(tried) == 2 and sweep.moved(executed) == 0
    assert [*execution.figures(executed)] == ["03-1"]
    assert [cell.source for cell in executed.cells][-1] != tried.cells[0].source


@pytest.mark.slow
def test_an_error_at_one_stop_is_found_only_by_the_sweep(tmp_path):
    executed, tried = executed_and_tried("broken_slider.ipynb", tmp_path)
    assert execution.hidden_errors(executed) == []  # the first picture is fine
    assert sweep.moved(tried) == 2
    (found, *_) = execution.hidden_errors(tried)
    assert found.startswith("in a widget's callback: ValueError: no line is that steep")


@pytest.mark.slow
def test_solutions_are_run_after_the_last_cell_and_those_that_fail_are_found(tmp_path):
    def solution(text):
        return new_markdown_cell(
            f"<details><summary>S</summary>\n\n```python\n{text}\n```\n</details>"
        )

    path = tmp_path / "some.ipynb"
    texts = ["y = x + 1\nprint(y)", "print(y)", "print(x + 2)"]
    prose = [solution(text) for text in texts]
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1"), *prose]), path)
    with (
        execution._environ(execution.kernel_environment(tmp_path)),
        continued.kernels(tmp_path / "c"),
    ):
        execution.run_notebook(path, tmp_path, {}, cell_timeout=60)
    tried = nbformat.read(tmp_path / "c" / "some.ipynb", as_version=4)
    assert [c.outputs[0].get("text") for c in tried.cells] == ["2\n", None, "3\n"]
    assert execution.hidden_errors(tried) == ["cell 1: NameError: name 'y' is not defined"]
