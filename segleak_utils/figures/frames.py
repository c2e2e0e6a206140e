"""A slider for readers without a kernel: the pictures of its stops, drawn in advance.

They travel in the notebook's output under a MIME type of their own, which JupyterLab and others
pass over; a page (`running.pages`) makes a slider of them that needs nothing but itself.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import ipywidgets
import PIL.Image
from ipywidgets import Box, Widget
from matplotlib.figure import Figure

from segleak_utils.figures.style import Png, png

MIME = "application/vnd.segleak.frames+json"  # as in running.pages
WANTED = "SEGLEAK_FRAMES"  # set where notebooks are run to become pages
MOST = 60  # pictures of one slider
BYTES = 900_000  # all of them together
QUALITY = 50  # of WebP: thin lines and small letters stay clean


class Asks(NamedTuple):
    """What `widgets.explorer` was told."""

    render: Callable[..., Figure | Png]
    says: Callable[..., str] | None
    questions: Sequence[tuple[str, Callable[..., str]]]
    follow: Callable[..., None] | None


def frames(box: Box, most: int = MOST, n_bytes: int = BYTES) -> dict:
    """The stops of an explorer's controls, and what it shows at each combination of them.

    ``controls``: for each its name, label, the words of its stops and where it begins.
    ``size``: of a picture, in pixels. ``pictures``: WebP in base 64, each with its ``alt``.
    ``frames``: one for each combination, the last control's stops first: which picture, what is
    said, the answers that show, and which controls are off. Where there would be more than `most`
    pictures, or all of them would take more than about `n_bytes`, controls have fewer stops, the
    last control first: the first stop, the last, the present one and some between; at least the
    present one and those at which a question is answered. A control with one stop is none of the
    page. The controls are left where they were.
    """
    start = {name: control.value for name, control in box.controls.items()}
    stops = {name: stops_of(control) for name, control in box.controls.items()}
    most = max(2, min(most, n_bytes // len(_packed(box.drawn))))
    try:
        needed = _needed(box, stops, start)
        # the last control gives way first: the first one is what the slider is about
        for name in reversed(stops):
            while len(stops[name]) > len(needed[name]) and _count(box, stops, start) > most:
                stops[name] = _thinned(stops[name], start[name], needed[name])
        moving = [len(s) > 1 for s in stops.values()]
        choices = _choices(box, stops, start)
        pictures: dict[tuple, dict] = {}
        shown = []
        for places, (values, off) in choices.items():
            named = dict(zip(stops, values, strict=True))
            if values not in pictures:
                picture = drawn(box.asks.render, named)
                content = base64.b64encode(_packed(picture)).decode()
                pictures[values] = {"webp": content, "alt": picture.alt}
            shown.append(
                {
                    "stops": list(itertools.compress(places, moving)),
                    "picture": list(pictures).index(values),
                    "says": box.asks.says(**named) if box.asks.says else "",
                    "answers": [answer(**named) or "" for _, answer in box.asks.questions],
                    "off": list(off),
                }
            )
    finally:
        if box.asks.follow:
            box.asks.follow(**start)
    controls = [
        {
            "name": name,
            "label": control.description or name,
            "stops": [word for word, _ in stops[name]],
            "start": _place(stops[name], start[name]),
        }
        for name, control in box.controls.items()
        if len(stops[name]) > 1
    ]
    questions = [text for text, _ in box.asks.questions]
    return {
        "controls": controls,
        "size": list(PIL.Image.open(io.BytesIO(box.drawn)).size),
        "questions": questions,
        "pictures": list(pictures.values()),
        "frames": shown,
    }


def stops_of(control: Widget) -> list[tuple[str, object]]:
    """Where a control can stand, each in words and as a value; ValueError for an unknown kind."""
    if isinstance(control, ipywidgets.Checkbox | ipywidgets.ToggleButton):
        return [("no", False), ("yes", True)]
    if isinstance(control, ipywidgets.IntSlider | ipywidgets.FloatSlider):
        n = round((control.max - control.min) / control.step)
        ends = (control.min + k * control.step for k in range(n + 1))
        kind = int if isinstance(control, ipywidgets.IntSlider) else float
        return [(_word(control, x), kind(round(x, 9))) for x in ends]
    if isinstance(control, ipywidgets.FloatLogSlider):
        n = round((control.max - control.min) / control.step)
        powers = (control.min + k * control.step for k in range(n + 1))
        return [(_word(control, x), x) for x in (control.base**power for power in powers)]
    if not hasattr(control, "index") or not hasattr(control, "_options_full"):
        raise ValueError(
            f"a {type(control).__name__} has no stops that are known here; expected a slider, a "
            "list of options or a checkbox"
        )
    return [(str(label), value) for label, value in control._options_full]


def _word(control: Widget, value: float) -> str:
    return format(value, control.readout_format)


def _needed(box: Box, stops: Mapping, start: Mapping) -> dict[str, list]:
    """Of each control the present value, and those at which the questions are answered.

    Of all places where a question is, one to which the fewest controls have to be moved.
    """
    needed = {name: [value] for name, value in start.items()}
    places = sorted(
        dict.fromkeys(values for values, _ in _choices(box, stops, start).values()),
        key=lambda values: sum(a != b for a, b in zip(values, start.values(), strict=True)),
    )
    for _, answer in box.asks.questions:
        named = (dict(zip(stops, values, strict=True)) for values in places)
        first = next((at for at in named if answer(**at)), start)
        for name, value in first.items():
            needed[name] += [value] if value not in needed[name] else []
    return needed


def _thinned(
    stops: Sequence[tuple[str, object]], start: object, needed: Sequence[object]
) -> list[tuple[str, object]]:
    """Every second stop, the first, the last and those that are needed, or these alone."""
    last, present = len(stops) - 1, _place(stops, start)
    always = {present, *(_place(stops, value) for value in needed)}
    kept = {0, *range(2, last - 1, 2), last}
    for place in sorted(always - kept):  # instead of the nearest one between the ends
        kept -= set(sorted(kept - {0, last} - always, key=lambda k: abs(k - place))[:1])
        kept |= {place}
    if len(kept) == len(stops):  # of three the present one and the last
        kept = always | {last}
    if len(kept) == len(stops):
        kept = always
    return [stops[k] for k in sorted(kept)]


def _place(stops: Sequence[tuple[str, object]], value: object) -> int:
    values = [v for _, v in stops]
    if value in values:
        return values.index(value)
    return min(range(len(values)), key=lambda k: abs(values[k] - value))


def _count(box: Box, stops: Mapping, start: Mapping) -> int:
    return len({values for values, _ in _choices(box, stops, start).values()})


def _choices(box: Box, stops: Mapping, start: Mapping) -> dict[tuple, tuple[tuple, tuple]]:
    """For each combination of stops the values that count, and the controls that are off.

    A control that is off counts as where it began.
    """
    found = {}
    for places in itertools.product(*(range(len(s)) for s in stops.values())):
        named = {name: stops[name][k][1] for name, k in zip(stops, places, strict=True)}
        if box.asks.follow:
            box.asks.follow(**named)
        off = tuple(name for name, control in box.controls.items() if control.disabled)
        named |= {name: start[name] for name in off}
        found[places] = tuple(named.values()), off
    return found


def drawn(render: Callable[..., Figure | Png], values: Mapping[str, object]) -> Png:
    """What an explorer shows at these values; ValueError for a picture without words."""
    found = render(**values)
    found = png(found) if isinstance(found, Figure) else found
    if not isinstance(found, Png):
        raise ValueError(
            f"render gave a {type(found).__name__}; expected a Figure, or a Png that says what it "
            "shows"
        )
    return found


def _packed(png: bytes) -> bytes:
    buffer = io.BytesIO()
    picture = PIL.Image.open(io.BytesIO(png)).convert("RGB")
    picture.save(buffer, "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()
