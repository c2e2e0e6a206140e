"""Sliders: a box of controls over a picture that a pure function draws anew at each move.

The picture is an `ipywidgets.Image`, so it also works where no figure can be shown live; what a
callback raises is shown in the box (and found by the runner's scan for hidden errors); and whoever
reads without a kernel sees the picture as it was at first, or on a page all of them (`frames`).
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Javascript, display
from ipywidgets import HTML, Box, DOMWidget, Image, Output, VBox
from matplotlib.figure import Figure

from segleak_utils.figures import frames
from segleak_utils.figures.style import DPI, Png, axes_of, png, styled
from segleak_utils.figures.words import LONGEST, describe

Answer = Callable[..., str]
# What ipywidgets leaves out: who listens to a page must hear a slider's name and the value it has.
NAMES = Path(__file__).with_name("names.js")
# Greys the picture while the next one is drawn.
BUSY = "segleak-busy"
STYLE = f"<style>.{BUSY} {{ opacity: 0.35; cursor: progress; }}</style>"


def explorer(
    render: Callable[..., Figure | Png],
    controls: Mapping[str, DOMWidget],
    *,
    says: Callable[..., str] | None = None,
    questions: Sequence[tuple[str, Answer]] = (),
    follow: Callable[..., None] | None = None,
) -> VBox:
    """A box of controls, by the name of their parameter in `render`, and its picture.

    `render` gives a figure or, where it keeps one between moves (`ServicePicture`), a `Png`; while
    one is drawn the last one is pale. `says` puts a line of text under the picture. Below it stand
    the questions, so that nothing moves when one is answered: (text, answer), where the answer is
    a function of the same parameters, empty as long as the slider has not shown it; once shown it
    stays. `follow` may switch controls on and off. The first picture is drawn here and now: what
    it raises reaches the cell.
    """
    picture, line, asked = Image(format="png"), HTML(), HTML()
    errors = Output()
    for name, control in controls.items():
        control.add_class("segleak-control").add_class(f"segleak-{name}")
        if hasattr(control, "continuous_update"):
            control.continuous_update = False  # a picture for the place where the handle stops
    picture.add_class("segleak-picture")
    line.add_class("segleak-says")
    asked.add_class("segleak-questions")
    found: dict[int, str] = {}

    def redraw() -> None:
        values = {name: control.value for name, control in controls.items()}
        if follow:
            follow(**values)
        box.drawn = frames.drawn(render, values)
        picture.value = bytes(box.drawn)
        if says:
            line.value = says(**values)
        for k, (_, answer) in enumerate(questions):
            if k not in found and (text := answer(**values)):
                found[k] = text
        asked.value = _list(questions, found)

    def changed(_: object) -> None:
        errors.clear_output()
        picture.add_class(BUSY)
        try:
            with errors:  # else an exception would end in a log that nobody reads
                redraw()
        finally:
            picture.remove_class(BUSY)

    box = VBox()
    redraw()
    for control in controls.values():
        control.observe(changed, "value")
    box.children = (VBox([*controls.values()]), picture, line, asked, errors, HTML(STYLE))
    box.picture, box.controls = picture, dict(controls)
    box.asks = frames.Asks(render, says, questions, follow)
    return box


def _list(questions: Sequence[tuple[str, Answer]], found: Mapping[int, str]) -> str:
    items = []
    for k, (text, _) in enumerate(questions):
        answer = f"<br><b>{html.escape(found[k])}</b>" if k in found else " …"
        items.append(f"<li>{html.escape(text)}{answer}</li>")
    return f"<ol style='line-height: 1.3; margin: 0 1em'>{''.join(items)}</ol>"


def show(box: Box) -> None:
    """Display an `explorer`, with its picture for readers without a kernel.

    Where notebooks are run to become pages (`frames.WANTED`), with the pictures of its stops, too;
    elsewhere with names for those who hear the page instead of seeing it.
    """
    bundle = dict(box._repr_mimebundle_())
    bundle["image/png"] = base64.b64encode(box.picture.value).decode()
    shown = {"alt": box.drawn.alt}
    if os.environ.get(frames.WANTED):
        bundle[frames.MIME] = frames.frames(box)
    display(bundle, raw=True, metadata={"image/png": shown})
    if not os.environ.get(frames.WANTED):
        display(Javascript(NAMES.read_text(encoding="utf-8")))


@styled
def render_filmstrip(frames: Sequence[Figure]) -> Figure:
    """Pictures of one function, one under the other, pixel by pixel: a slider for paper."""
    pixels = [plt.imread(io.BytesIO(png(frame))) for frame in frames]
    height, width = sum(len(p) for p in pixels), pixels[0].shape[1]
    figure, axes = axes_of(
        len(frames),
        figsize=(width / DPI, height / DPI),
        layout="none",
        height_ratios=[len(p) for p in pixels],
    )
    figure.set_dpi(DPI)
    figure.subplots_adjust(0, 0, 1, 1, hspace=0)
    for axis, values, frame in zip(axes[:, 0], pixels, frames, strict=True):
        said = describe(frame, LONGEST // len(frames) - 20)
        axis.imshow(np.asarray(values), aspect="auto", interpolation="none", label=said)
        axis.set_axis_off()
    return figure
