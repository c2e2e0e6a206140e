"""What a figure shows, in words: the text that stands for it where it is not seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryFormatter, StrCategoryLocator
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon, StepPatch
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter

POINTS = 6  # of a line that are told
LISTED = 24  # bars, points or words of one series that are told one by one
LONGEST = 1600  # letters; a screen reader takes two minutes for them


def describe(figure: Figure, longest: int = LONGEST) -> str:
    """The titles, axes, series and values of a figure, as sentences of so many letters at most.

    Of a line a few points are told, of bars each one, of a picture its title and label, of a map
    its range.

    >>> from matplotlib.figure import Figure
    >>> figure = Figure()
    >>> axes = figure.subplots()
    >>> _ = axes.plot([0, 1], [0, 0.5], label="guessing")
    >>> _ = axes.set(xlabel="false positive rate", xlim=(0, 1), ylim=(0, 1))
    >>> describe(figure)
    'x: false positive rate, 0 to 1; y: 0 to 1. Line guessing: (0, 0), (1, 0.5).'
    """
    written = [text for legend in figure.legends for text in _texts(legend.get_texts())]
    head = [figure.get_suptitle(), *_texts(figure.texts), *written]
    head = [_flat(text) for text in head if _flat(text)]
    parts = [_panel(axes) for axes in figure.axes if axes.get_visible()]
    parts = [part for part in parts if part]
    if len(parts) > 1:
        head.append(f"{len(parts)} panels")
        parts = [f"Panel {k}: {part}" for k, part in enumerate(parts, start=1)]
    told = " ".join(_sentence(part) for part in (*dict.fromkeys(head), *parts))
    if not told:
        return "An empty figure."
    if len(told) <= longest:
        return told
    return told[: told.rfind(" ", 0, longest - 40)] + " … and more of the same kind."


def _panel(axes: Axes) -> str:
    if getattr(axes, "_colorbar", None) is not None:
        label = _flat(axes.get_ylabel() or axes.get_xlabel())
        low, high = axes._colorbar.vmin, axes._colorbar.vmax
        return f"colour scale {label}, {_number(low)} to {_number(high)}"
    sides = ("center", "left", "right")
    said = [_flat(axes.get_title(loc=side)) for side in sides]
    pictures = [_picture(image) for image in axes.images]
    series = [*_bars(axes), *_curves(axes), *_clouds(axes), *_outlines(axes)]
    if series or (axes.axison and not pictures):
        shown = [_axis(axes.xaxis, "x"), _axis(axes.yaxis, "y")]
        said.append("; ".join(side for side in shown if side))
    elif axes.axison:  # a map whose rows and columns have names, or a picture
        said += [f"{k}: {', '.join(n)}" for k, n in _names(axes) if n]
        said += [_flat(axes.get_xlabel()), _flat(axes.get_ylabel())]
    said += [*dict.fromkeys(pictures), *series]
    told = " ".join(said)
    words = [text for text in _legend(axes) if text not in told] + list(_texts(axes.texts))
    if words:
        more = f" and {len(words) - LISTED} more" if len(words) > LISTED else ""
        said.append(f"Written in it: {'; '.join(words[:LISTED])}{more}")
    return " ".join(_sentence(part) for part in said if part)


def _legend(axes: Axes) -> Iterator[str]:
    if legend := axes.get_legend():
        yield from _texts(legend.get_texts())


# ---- axes ----------------------------------------------------------------------------------------


def _axis(axis: Axis, name: str) -> str:
    label = _flat(axis.get_label_text())
    if not axis.get_visible():
        return ""
    if named := _ticks(axis):
        return f"{name}: {label + ': ' if label else ''}{', '.join(named.values())}"
    low, high = (_number(x) for x in sorted(axis.get_view_interval()))
    scale = ", logarithmic" if axis.get_scale() == "log" else ""
    return f"{name}: {label + ', ' if label else ''}{low} to {high}{scale}"


def _ticks(axis: Axis) -> dict[float, str]:
    """Places that have a word and not their number; empty where the axis counts."""
    formatter, locator = axis.get_major_formatter(), axis.get_major_locator()
    named = isinstance(formatter, FixedFormatter | FuncFormatter | StrCategoryFormatter)
    if not (named and isinstance(locator, FixedLocator | StrCategoryLocator)):
        return {}
    places = [float(x) for x in axis.get_majorticklocs()]
    words = [_flat(formatter(x, k)) for k, x in enumerate(places)]
    return {x: word for x, word in zip(places, words, strict=True) if word}


def _names(axes: Axes) -> Iterator[tuple[str, list[str]]]:
    yield "columns", list(_ticks(axes.xaxis).values())
    yield "rows", list(_ticks(axes.yaxis).values())


# ---- what is drawn -------------------------------------------------------------------------------


def _picture(image: AxesImage) -> str:
    values = np.ma.asarray(image.get_array())
    if values.ndim == 3 or values.dtype == np.uint8:
        return _label(image).strip() or "A picture"
    seen = np.ma.masked_invalid(values.astype(float)).compressed()
    if seen.size == 0:
        return "An empty map"
    if seen.min() == seen.max():
        return f"A map of {_number(seen[0])} everywhere"
    low, high, mean = (_number(x) for x in (seen.min(), seen.max(), seen.mean()))
    return f"A map of values {low} to {high}, mean {mean}"


def _bars(axes: Axes) -> Iterator[str]:
    for container in axes.containers:
        if isinstance(container, BarContainer) and len(container):
            flat = container.orientation == "horizontal"
            ticks = _ticks(axes.yaxis if flat else axes.xaxis)
            ends, places = [], []
            for bar in container:
                x, y, wide, high = bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()
                ends.append(x + wide if flat else y + high)
                places.append(y + high / 2 if flat else x + wide / 2)
            name = _label(container)
            if len(ends) <= LISTED:
                shown = [
                    f"{_near(ticks, p)} {_number(v)}" for p, v in zip(places, ends, strict=True)
                ]
                yield f"Bars{name}: {', '.join(shown)}"
            else:
                top = int(np.nanargmax(ends))
                yield (
                    f"{len(ends)} bars{name}, {_number(places[0])} to {_number(places[-1])}, the "
                    f"highest at {_number(places[top])}: {_number(ends[top])}"
                )
        elif isinstance(container, ErrorbarContainer) and container.lines[0] is not None:
            yield _intervals(axes, container)


def _intervals(axes: Axes, container: ErrorbarContainer) -> str:
    x, y = (np.asarray(v, float) for v in container.lines[0].get_data())
    flat = container.has_xerr and not container.has_yerr
    along, values = (y, x) if flat else (x, y)
    ticks = _ticks(axes.yaxis if flat else axes.xaxis)
    bars = container.lines[2]
    segments = bars[0].get_segments() if bars else []
    shown = []
    for k in _some(len(values)):
        between = ""
        if k < len(segments) and len(segments[k]):
            ends = np.asarray(segments[k])[:, 0 if flat else 1]
            between = f" [{_number(ends.min())}, {_number(ends.max())}]"
        shown.append(f"{_near(ticks, along[k])} {_number(values[k])}{between}")
    more = f"; {len(values)} points in all" if len(values) > len(shown) else ""
    return f"Points with intervals{_label(container)}: {', '.join(shown)}{more}"


def _curves(axes: Axes) -> Iterator[str]:
    """Lines with a name one by one, rows that have words; of all others, how many there are."""
    inside = {id(line) for c in axes.containers for line in _lines_of(c)}
    others, rows = [], _ticks(axes.yaxis)
    told: dict[tuple[str, float], tuple[list, list]] = {}  # of a row: points, and ends of its lines
    for line in axes.lines:
        if id(line) in inside or not line.get_visible() or not len(line.get_xdata()):
            continue
        if str(line.get_label()).startswith("_"):
            x, y = (np.atleast_1d(v) for v in line.get_data(orig=False))
            word = _near(rows, y[0]) if rows and np.ptp(y) == 0 else None
            if word in rows.values():
                points, ends = told.setdefault((word, float(y[0])), ([], []))
                (points if line.get_linestyle() == "None" else ends).extend(x)
            else:
                others.append(line)
        else:
            yield _curve(axes, line)
    if told:
        shown = [_row(word, *values) for (word, _), values in told.items()]
        yield f"Rows: {', '.join(shown[:LISTED])}"
    if len(others) <= POINTS:
        yield from dict.fromkeys(_curve(axes, line) for line in others)
    else:
        points = sum(line.get_linestyle() == "None" for line in others)
        counted = [f"{len(others) - points} more lines", f"{points} more sets of points"]
        shown = [text for text in counted if not text.startswith("0 ")]
        yield f"{' and '.join(shown)} without a name"


def _row(word: str, points: Sequence[float], ends: Sequence[float]) -> str:
    values = " and ".join(_number(x) for x in points[:POINTS])
    interval = f"[{_number(min(ends))}, {_number(max(ends))}]" if ends else ""
    return " ".join(part for part in (word, values, interval) if part)


def _curve(axes: Axes, line: Line2D) -> str:
    x, y = (np.atleast_1d(v) for v in line.get_data(orig=False))
    kind = "Points" if line.get_linestyle() == "None" else "Line"
    ticks = _ticks(axes.xaxis)
    some = [f"({_near(ticks, x[k])}, {_number(y[k])})" for k in _some(len(x))]
    return f"{kind}{_label(line)}: {', '.join(some)}"


def _clouds(axes: Axes) -> Iterator[str]:
    for cloud in axes.collections:
        if not isinstance(cloud, PathCollection) or not len(cloud.get_offsets()):
            continue
        places = np.ma.asarray(cloud.get_offsets()).filled(np.nan)
        n = len(places)
        if n <= POINTS:
            some = [f"({_number(x)}, {_number(y)})" for x, y in places]
            yield f"Points{_label(cloud)}: {', '.join(some)}"
        else:
            low, high = np.nanmin(places, 0), np.nanmax(places, 0)
            middle = np.nanmedian(places, 0)
            spans = [
                f"{name} {_number(a)} to {_number(b)}, median {_number(m)}"
                for name, a, b, m in zip("xy", low, high, middle, strict=True)
            ]
            yield f"{n} points{_label(cloud)}: {'; '.join(spans)}"


def _outlines(axes: Axes) -> Iterator[str]:
    """Histograms drawn as one outline."""
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            heights, edges, _ = patch.get_data()
        elif isinstance(patch, Polygon) and len(patch.get_xy()) > 8:
            edges, heights = patch.get_xy().T
        else:
            continue
        top = int(np.nanargmax(heights))
        yield (
            f"Histogram{_label(patch)}, {_number(np.min(edges))} to {_number(np.max(edges))}, the "
            f"highest at {_number(edges[top])}: {_number(heights[top])}"
        )


# ---- words ---------------------------------------------------------------------------------------


def _lines_of(container: object) -> Iterable[Line2D]:
    if not isinstance(container, ErrorbarContainer):
        return ()
    return [line for line in (container.lines[0], *container.lines[1]) if line is not None]


def _some(n: int) -> Sequence[int]:
    """Places in a series of n: all of them, or a few from its first to its last."""
    if n <= LISTED // 2:
        return range(n)
    return np.unique(np.linspace(0, n - 1, POINTS).round().astype(int)).tolist()


def _near(ticks: dict[float, str], place: float) -> str:
    near = min(ticks, key=lambda tick: abs(tick - place), default=None)
    return ticks[near] if near is not None and abs(near - place) <= 0.5 else _number(place)


def _label(artist: object) -> str:
    label = _flat(artist.get_label() or "")
    return "" if label.startswith("_") or not label else f" {label}"


def _texts(artists: Iterable) -> Iterator[str]:
    yield from (text for a in artists if a.get_visible() and (text := _flat(a.get_text())))


def _flat(text: object) -> str:
    return " ".join(str(text).replace("$", "").split())


def _number(value: float) -> str:
    return "none" if not np.isfinite(value) else f"{value:.3g}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!", ":")) else f"{text}."
