"""Privacy against utility: every defence a mark, and its name where there is room for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from segleak_utils.figures.style import axes_of, looks_of, styled
from segleak_utils.metrics import Interval


@dataclass(frozen=True)
class Tradeoff:
    """One defence in the frontier: a label, its family, mean IoU, and an AUC for each attacker."""

    label: str
    family: str
    miou: float
    aucs: Mapping[str, Interval]


@styled
def render_frontier(found: Sequence[Tradeoff], ylabel: str = "AUC of the attack") -> Figure:
    """Privacy against utility: a panel for each attacker, a mark for each defence.

    Up is worse for privacy, left is worse for utility. Points of a family are joined in the order
    given: its strength.
    """
    panels = list(found[0].aucs)
    n_rows = -(-len(panels) // 2)
    figure, axes = axes_of(
        n_rows, min(2, len(panels)), sharex=True, sharey=True, figsize=(11, 4.6 * n_rows + 0.6)
    )
    families = list(dict.fromkeys(of.family for of in found))
    for axis, who in zip(axes.flat, panels, strict=False):
        for family, (colour, marker, dash) in zip(families, looks_of(families), strict=True):
            own = [of for of in found if of.family == family]
            x, areas = [of.miou for of in own], [of.aucs[who] for of in own]
            y = [area.value for area in areas]
            axis.plot(x, y, color=colour, ls=dash, lw=1, alpha=0.6)
            axis.vlines(x, [a.low for a in areas], [a.high for a in areas], color=colour, lw=2)
            # hollow: some marks lie upon each other
            axis.plot(x, y, marker, mfc="none", mec=colour, mew=1.6, ms=7, label=family)
        axis.axhline(0.5, color="#444444", lw=1, ls="--")
        axis.set_title(who)
        axis.margins(x=0.12)
    # what costs nothing lies one above the other at the right: their names go beside them
    left, right = axes[0, 0].get_xlim()
    axes[0, 0].set_xlim(left, right + 0.15 * (right - left))
    for axis in axes[-1]:
        axis.set_xlabel("mean IoU of what is released (non-members)")
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{ylabel} (bar: 95 % interval)")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4)
    figure.draw_without_rendering()  # names go where there is room: all else must have its place
    colours = {family: look[0] for family, look in zip(families, looks_of(families), strict=True)}
    for axis, who in zip(axes.flat, panels, strict=False):
        _label(axis, [(of.label or of.family, of.miou, of.aucs[who], colours[of.family])
                      for of in found])  # fmt: skip
    return figure


def _label(axis: Axes, marks: Sequence[tuple[str, float, Interval, str]]) -> None:
    """A name for each mark (name, x, interval on y, colour) that covers no mark and no other name.

    It is led to by a thin line where there is no room beside the mark, and keeps off the bars as
    long as it can.
    """
    figure, point = axis.figure, axis.figure.dpi / 72  # in pixels
    spots = axis.transData.transform([(x, area.value) for _, x, area, _ in marks])
    taken = [Bbox.from_bounds(*(spot - 5 * point), 10 * point, 10 * point) for spot in spots]
    ends = [axis.transData.transform([(x, a.low), (x, a.high)]) for _, x, a, _ in marks]
    bars = [Bbox([low - point, high + point]) for low, high in ends]
    turns = np.deg2rad([20, 160, -20, 200, 45, 135, -45, 225, 0, 180, 70, 110, -70, 250])
    for (name, x, area, colour), spot in zip(marks, spots, strict=True):
        text = axis.annotate(name, (x, area.value), (0, 0), textcoords="offset points",
                             fontsize=7.5, color=colour, ha="center", va="center",
                             arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6,
                                         "shrinkA": 0, "shrinkB": 4})  # fmt: skip
        size = Text.get_window_extent(text, figure.canvas.get_renderer()).size
        places = []
        for far in (7, 13, 22, 34, 48, 64, 82, 102):
            for turn in turns:
                towards = np.array([np.cos(turn), np.sin(turn)])
                # the nearest side of the name, not its middle, is `far` points away
                middle = towards * far * point + np.sign(towards.round(1)) * size / 2
                box = Bbox.from_bounds(*(spot + middle - size / 2), *size)
                if axis.bbox.containsx(box.x0) and axis.bbox.containsx(box.x1):
                    places.append((middle / point, box))
        free = [place for place in places if not place[1].count_overlaps(taken)]
        best = [place for place in free if not place[1].count_overlaps(bars)] or free or places
        text.set_position(best[0][0])
        taken.append(best[0][1])
