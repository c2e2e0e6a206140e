"""The picture of a service and of the attacks on it: as a figure, or kept for a slider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from segleak_utils import metrics
from segleak_utils.figures.masks import colour_prediction, without_void
from segleak_utils.figures.scenes import Example
from segleak_utils.figures.style import (
    DPI,
    LOSS_COLOURS,
    LOSS_LABEL,
    MEMBER,
    NONMEMBER,
    PLAIN,
    STYLE,
    Png,
    looks_of,
    packed,
    styled,
)
from segleak_utils.figures.words import describe

SERVICE = (11.4, 3.9)  # inches


@dataclass
class _Parts:
    """A drawn figure, and those of its parts that another choice changes."""

    figure: Figure
    title: Text
    pictures: list[list[AxesImage]]  # a row for each scene
    names: list[Text]
    frames: list[Rectangle]
    curves: dict[str, tuple[Line2D, Line2D]]  # linear and log-log
    legend: Legend

    def moving(self) -> list[Artist]:
        """What changes, or lies over what does, in the order in which it is drawn."""
        found: list[Artist] = [self.title]
        found += [picture for row in self.pictures for picture in row]
        found += [*self.frames, *self.names]
        for axis in self.figure.axes[1:]:
            found += [*axis.lines, *axis.spines.values()]
        return [*found, self.legend]


@styled
def render_service(
    pair: Sequence[Example],
    palette: np.ndarray,
    scores: Mapping[str, np.ndarray],
    member: np.ndarray,
    title: str = "",
) -> Figure:
    """What a service releases of two scenes, and the ROC of the attacks on it, linear and log-log.

    A row for each scene, framed by group: image | prediction | confidence | loss map. The scales
    are the same at every call, so that two pictures can be compared.
    """
    return _drawn(pair, palette, scores, member, title).figure


class ServicePicture:
    """`render_service` for a slider: what no move changes is drawn once.

    A picture is that of `render_service`, to the byte, in a fraction of its time.
    """

    def __init__(self) -> None:
        self._kind: tuple | None = None

    def png(
        self,
        pair: Sequence[Example],
        palette: np.ndarray,
        scores: Mapping[str, np.ndarray],
        member: np.ndarray,
        title: str = "",
    ) -> Png:
        """``widgets.png(render_service(...))`` of the same parameters."""
        # places, limits and ticks follow from these alone
        shapes = [tuple(example.mask.shape) for example in pair]
        kind = (*shapes, *scores, int(member.sum()), len(member))
        if kind == self._kind:
            _change(self._parts, pair, palette, scores, member, title)
        else:
            self._kind = None  # what raises below leaves nothing half drawn
            self._start(_kept(pair, palette, scores, member, title))
            self._kind = kind
        self._canvas.restore_region(self._still)
        for artist in self._parts.moving():
            artist.draw(self._canvas.get_renderer())
        pixels = packed(np.asarray(self._canvas.buffer_rgba()), DPI)
        return Png(pixels, describe(self._parts.figure))

    def _start(self, parts: _Parts) -> None:
        parts.figure.set_dpi(DPI)
        self._parts, self._canvas = parts, FigureCanvasAgg(parts.figure)
        for artist in parts.moving():
            artist.set_animated(True)  # left out where a canvas draws itself
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(parts.figure.bbox)


def _kept(*chosen) -> _Parts:
    with plt.style.context(STYLE):
        parts = _drawn(*chosen)
    plt.close(parts.figure)
    return parts


def _change(
    parts: _Parts,
    pair: Sequence[Example],
    palette: np.ndarray,
    scores: Mapping[str, np.ndarray],
    member: np.ndarray,
    title: str,
) -> None:
    parts.title.set_text(title)
    for example, row, name in zip(pair, parts.pictures, parts.names, strict=True):
        name.set_text(example.title)
        for picture, values in zip(row, _values(example, palette), strict=True):
            picture.set_data(values)
    labels = parts.legend.get_texts()
    for (name, values), label in zip(scores.items(), labels, strict=True):
        curve, shown, text = _attack(name, values, member)
        linear, log = parts.curves[name]
        linear.set_data(curve.fpr, curve.tpr)
        log.set_data(curve.fpr[shown], curve.tpr[shown])
        label.set_text(text)


def _values(example: Example, palette: np.ndarray) -> tuple[np.ndarray, ...]:
    confidence, predicted = example.posterior.max(0)  # argmax(0) takes three times as long
    return (
        example.image.permute(1, 2, 0).numpy(),
        colour_prediction(predicted, example.mask, palette),
        confidence.numpy(),
        without_void(example.loss, example.mask).numpy(),
    )


def _attack(
    name: str, values: np.ndarray, member: np.ndarray
) -> tuple[metrics.Roc, np.ndarray, str]:
    """Its curve, which points of it a logarithmic axis can show, and its name in the legend."""
    curve = metrics.roc(values, member)
    return curve, curve.fpr >= curve.smallest_fpr, f"{name} {metrics.auc(values, member)}"


def _drawn(
    pair: Sequence[Example],
    palette: np.ndarray,
    scores: Mapping[str, np.ndarray],
    member: np.ndarray,
    title: str,
) -> _Parts:
    # fixed places, and one pair of axes for all pictures: a layout engine, or axes for each of
    # them, would take longer than everything else here
    figure = plt.figure(figsize=SERVICE, layout="none")
    heading = figure.suptitle(title, y=0.995)
    wall = figure.add_axes((0, 0, 1, 1))
    wall.set_axis_off()
    columns = ("image", "released prediction", "released confidence", "loss map (void: grey)")
    limits = (None, None, (0, 1, "cividis"), (0, 5, LOSS_COLOURS))
    pictures, names, frames = [], [], []
    for row, (example, colour) in enumerate(zip(pair, (MEMBER, NONMEMBER), strict=True)):
        height, width = example.mask.shape
        wide = min(1.95, 1.13 * width / height)
        high = wide * height / width
        shown = []
        for column, (values, limit) in enumerate(
            zip(_values(example, palette), limits, strict=True)
        ):
            left, low = 0.32 + 2.02 * column + (1.95 - wide) / 2, 2.905 - 1.21 * row - high / 2
            least, most, scale = limit or (None, None, None)
            edges = (left, left + wide, low, low + high)
            shown.append(
                wall.imshow(values, vmin=least, vmax=most, cmap=scale, extent=edges, aspect="auto")
            )
            frame = Rectangle((left, low), wide, high, fill=False, ec=colour, lw=2.5, zorder=3)
            frames.append(wall.add_patch(frame))
            if row == 0:
                wall.text(left + wide / 2, low + high + 0.08, columns[column], ha="center")
            elif limit:
                _scale_bar(wall, left, wide, limit, ("probability", LOSS_LABEL)[column - 2])
            if column == 0:
                name = wall.text(left - 0.09, low + high / 2, example.title, color=colour,
                                 rotation=90, ha="right", va="center")  # fmt: skip
                names.append(name)
        pictures.append(shown)
    wall.set(xlim=(0, SERVICE[0]), ylim=(0, SERVICE[1]))  # in inches; each picture has changed it
    curves, legend = _small_rocs(figure, scores, member)
    return _Parts(figure, heading, pictures, names, frames, curves, legend)


def _scale_bar(
    wall: Axes, left: float, wide: float, limit: tuple[float, float, str | Colormap], label: str
) -> None:
    """A colour bar on the wall of pictures; what exceeds a loss's scale has its last colour."""
    least, most, scale = limit
    edges = (left + 0.1, left + wide - 0.1, 0.75, 0.86)
    wall.imshow(np.linspace(0, 1, 256)[None], cmap=scale, extent=edges, aspect="auto")
    ticks = np.linspace(least, most, 3)  # each text takes as long as an image
    for at, value in zip(np.linspace(*edges[:2], len(ticks)), ticks, strict=True):
        over = "≥ " if label == LOSS_LABEL and value == most else ""
        wall.text(at, 0.68, f"{over}{value:g}", ha="center", va="top", fontsize=9)
    wall.text(left + wide / 2, 0.44, label, ha="center", va="top")


def _small_rocs(
    figure: Figure, scores: Mapping[str, np.ndarray], member: np.ndarray
) -> tuple[dict[str, tuple[Line2D, Line2D]], Legend]:
    places = ((0.79, 0.585, 0.2, 0.3), (0.79, 0.125, 0.2, 0.32))
    linear, log = (figure.add_axes(place) for place in places)
    curves = {}
    for (name, values), (colour, _, dash) in zip(
        scores.items(), looks_of(scores, PLAIN), strict=True
    ):
        curve, shown, label = _attack(name, values, member)
        (whole,) = linear.plot(curve.fpr, curve.tpr, color=colour, ls=dash, label=label)
        (start,) = log.plot(curve.fpr[shown], curve.tpr[shown], color=colour, ls=dash)
        curves[name] = whole, start
    floor = curve.smallest_fpr
    linear.plot([0, 1], [0, 1], color="#888888", lw=1)
    log.plot([floor, 1], [floor, 1], color="#888888", lw=1)
    linear.set(xlim=(0, 1), ylim=(0, 1))
    linear.set_title("ROC, linear and log-log", fontsize=10)
    legend = linear.legend(
        fontsize=8, loc="lower right", title="AUC", title_fontsize=8, handlelength=1.4
    )
    log.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(1 / curve.n_members, 1))
    log.minorticks_off()
    log.set_xlabel("false positive rate", fontsize=9)
    linear.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for side in (log.xaxis, log.yaxis):
        side.set_major_formatter("{x:g}")  # to typeset powers of ten takes half as long as the rest
    for axis in (linear, log):
        axis.set_ylabel("true positive rate", fontsize=9)
        axis.tick_params(labelsize=8)
    return curves, legend
