"""The pictures of notebook 08: what a promise allows, what it costs, what canaries show of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from segleak_utils.figures.style import LOOKS, MEMBER, NONMEMBER, axes_of, looks_of, styled

Points = tuple[np.ndarray, np.ndarray]  # x and y, float [n] both


@styled
def render_allowed(
    allowed: Mapping[str, Points], seen: Mapping[str, Points], smallest: float = 1e-4
) -> Figure:
    """Hits against false alarms: what promises allow, as lines, and what attacks do, as steps.

    Each is (FPR [n], TPR [n]). Linear, and log-log from the `smallest` rate up.
    """
    figure, axes = axes_of(1, 2, figsize=(10.5, 4.8))
    looks = looks_of([*allowed, *seen])
    for axis in axes[0]:
        for (name, (x, y)), (colour, _, dash) in zip(allowed.items(), looks, strict=False):
            axis.plot(x, y, color=colour, ls=dash, lw=2.2, label=name)
        for (name, (x, y)), (colour, _, _) in zip(seen.items(), looks[len(allowed) :], strict=True):
            axis.step(x, y, color=colour, lw=1.3, where="post", label=name)
        axis.plot([smallest, 1], [smallest, 1], color="#888888", lw=1, label="guessing")
        axis.set(xlabel="false positive rate", ylabel="true positive rate")
    linear, log = axes[0]
    linear.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title="linear")
    log.set(xscale="log", yscale="log", xlim=(smallest, 1), ylim=(smallest, 1), title="log-log")
    figure.legend(*linear.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def render_budget(
    panels: Mapping[str, Mapping[str, Points]],
    marked: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> Figure:
    """ε against what it depends on: {x axis: {curve: (x, ε)}}, a panel each, all axes logarithmic.

    `marked`: by panel, networks that were trained so.
    """
    figure, axes = axes_of(1, len(panels), sharey=True, figsize=(4.1 * len(panels), 4.3))
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    look = dict(zip(names, looks_of(names), strict=True))
    for axis, (xlabel, curves) in zip(axes[0], panels.items(), strict=True):
        for name, (x, y) in curves.items():
            axis.plot(x, y, color=look[name][0], ls=look[name][2], label=name)
        for name, point in (marked or {}).get(xlabel, {}).items():
            axis.plot(*point, "o", color="white", mec="black", mew=2, ms=7)
            axis.annotate(name, point, (8, -14), textcoords="offset points", fontsize=9,
                          path_effects=[withStroke(linewidth=3, foreground="white")])  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel=xlabel)
    axes[0, 0].set_ylabel("ε (smaller: more private)")
    known: dict[str, object] = {}
    for axis in axes[0]:
        known |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=2)
    return figure


@styled
def render_canaries(
    scores: np.ndarray,
    included: np.ndarray,
    threshold: float,
    shown: Mapping[str, float],
    promised: float,
    really: float | None = None,
) -> Figure:
    """Scores [n] of canaries that were in or out (bool [n]), and what each bound shows of ε.

    `really`: what the training keeps to, where that is not as `promised`.
    """
    figure, axes = axes_of(1, 2, figsize=(10.2, 3.4), width_ratios=(1, 1.1))
    left, right = axes[0]
    low, high = scores.min(), scores.max()
    bins = np.linspace(low, high, int(np.clip(1.5 * len(scores) ** 0.5, 12, 60)) + 1)
    for kind, colour, label in ((included, MEMBER, "in"), (~included, NONMEMBER, "out")):
        left.hist(scores[kind], bins, density=True, histtype="stepfilled", alpha=0.3, color=colour,
                  ec=colour, lw=1.2, label=f"{label} ({kind.sum():,})")  # fmt: skip
    left.axvline(threshold, color="black", ls="--", lw=1.2, label="threshold, fixed before")
    left.set(xlabel="score of a canary (higher: in)", ylabel="share per unit")
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3, "frameon": False}
    left.legend(**above, fontsize=8.5, columnspacing=1.2)
    rows = np.arange(len(shown))
    right.barh(rows, list(shown.values()), height=0.5, color=MEMBER, label="shown")
    for row, value in zip(rows, shown.values(), strict=True):
        right.annotate(f"{value:.2f}", (value, row), (4, 0), textcoords="offset points",
                       va="center", fontsize=9)  # fmt: skip
    right.axvline(promised, color=NONMEMBER, lw=2.5, label=f"promised: {promised:.2f}")
    if really is not None:
        right.axvline(really, color="black", lw=1.5, ls=":", label=f"kept to: {really:.2f}")
    top = max(promised, really or 0, *shown.values())
    right.set(yticks=rows, yticklabels=list(shown), xlabel="ε", xlim=(0, 1.2 * top))
    right.set_ylim(len(shown) - 0.5, -0.5)
    right.legend(**above, fontsize=8.5)
    right.grid(False, axis="y")
    return figure


@styled
def render_shares(rows: Sequence[tuple[str, float]], promised: float) -> Figure:
    """What attackers who see more and more show of one promise: (attacker, ε shown) a row."""
    figure, axes = axes_of(figsize=(8.8, 0.5 * len(rows) + 1.3))
    axis = axes[0, 0]
    at, values = np.arange(len(rows)), [value for _, value in rows]
    axis.hlines(at, 0, values, color=LOOKS[5][0], lw=3)
    axis.plot(values, at, "o", color="white", mec=LOOKS[5][0], mew=2, ms=8)
    for row, value in enumerate(values):
        axis.annotate(f"{value:.2f} ({value / promised:.0%})", (value, row), (9, 0),
                      textcoords="offset points", va="center", fontsize=9)  # fmt: skip
    axis.axvline(promised, color=NONMEMBER, lw=2.5, label=f"promised: {promised:.2f}")
    axis.set(yticks=at, yticklabels=[name for name, _ in rows], xlim=(0, 1.12 * promised))
    axis.set(xlabel="ε shown, at 95 %")
    axis.set_ylim(len(rows) - 0.5, -0.5)
    figure.legend(loc="outside lower center")
    return figure
