"""The pictures of notebooks 06 and 07: where a victim leaks, for whom, and how leakage grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from segleak_utils.figures.scenes import bare, show_picture
from segleak_utils.figures.style import (
    LOSS_COLOURS,
    LOSS_LABEL,
    MEMBER,
    NONMEMBER,
    PLAIN,
    axes_of,
    looks_of,
    styled,
)
from segleak_utils.metrics import Interval


@styled
def render_difficulty(theirs: np.ndarray, own: np.ndarray, member: np.ndarray) -> Figure:
    """The victim's global loss of each image against that of references, float [N] both."""
    figure, axes = axes_of(figsize=(6.6, 5.4))
    axis = axes[0, 0]
    _scatter(axis, theirs, own, member, alpha=0.5)
    ends = [min(theirs.min(), own.min()), np.quantile(np.concatenate([theirs, own]), 0.998)]
    axis.plot(ends, ends, color="#444444", lw=1, ls="--", label="equal")
    axis.set(xlim=ends, ylim=ends, xlabel="mean loss to networks that never saw it (nats)")
    axis.set_ylabel("mean loss to the victim (nats)")
    axis.legend(loc="upper left", markerscale=1.6)
    return figure


@styled
def render_leak_maps(rows: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]) -> Figure:
    """Image [3,H,W] | victim's loss | references' loss | evidence [H,W], a row for each scene.

    Losses have one scale, evidence (`evidence.evidence_maps`, here for a thousand pixels) another:
    blue speaks for "member", orange for "non-member".
    """
    figure, axes = axes_of(len(rows), 4, figsize=(11.5, 1.5 * len(rows) + 0.7))
    losses = torch.stack([part for row in rows.values() for part in row[1:3]])
    evidence = torch.stack([row[3] for row in rows.values()]) * 1000
    top = max(float(np.nanquantile(losses.numpy(), 0.99)), 1e-6)
    far = max(float(np.quantile(evidence.abs().numpy(), 0.99)), 1e-9)
    palette = sns.blend_palette([NONMEMBER, "#f7f7f7", MEMBER], as_cmap=True)
    for line, (name, (image, own, theirs, _)), map_ in zip(
        axes, rows.items(), evidence, strict=True
    ):
        show_picture(line[0], image)
        for axis, loss in zip(line[1:3], (own, theirs), strict=True):
            dark = axis.imshow(loss.numpy(), vmin=0, vmax=top, cmap=LOSS_COLOURS)
        shown = line[3].imshow(map_.numpy(), vmin=-far, vmax=far, cmap=palette)
        for axis in line:
            bare(axis)
        line[0].set_ylabel(name)
    titles = "image", "victim's loss", "references' loss", "evidence"
    for axis, name in zip(axes[0], titles, strict=True):
        axis.set_title(name)
    bar = figure.colorbar(dark, ax=axes[:, :3], location="bottom", shrink=0.5, extend="max")
    bar.set_label(LOSS_LABEL)
    bar = figure.colorbar(shown, ax=axes[:, 3], location="bottom", extend="both")
    bar.set_label("score of a thousand pixels (blue: member)")
    return figure


@styled
def render_two_attackers(
    a: np.ndarray, b: np.ndarray, member: np.ndarray, thresholds: tuple[float, float], fpr: float
) -> Figure:
    """Scores of the same images by two attackers; lines: where each accuses `fpr` of the others."""
    figure, axes = axes_of(figsize=(6.4, 5.4))
    axis = axes[0, 0]
    _scatter(axis, a, b, member, alpha=0.55)
    axis.axvline(thresholds[0], color="#444444", lw=1, ls="--")
    axis.axhline(thresholds[1], color="#444444", lw=1, ls="--")
    axis.set(xlabel="score by the first attacker", ylabel="score by the second attacker")
    axis.set_title(f"upper right: accused by both (each line: {fpr:.0%} of the non-members)")
    axis.legend(loc="upper left", markerscale=1.6)
    return figure


def _scatter(axis: Axes, x: np.ndarray, y: np.ndarray, member: np.ndarray, alpha: float) -> None:
    """A mark an image, members over non-members; a picture, not paths, for there are thousands."""
    for kind, colour, marker, name, size in (
        (~member, NONMEMBER, "x", "non-members", 9),
        (member, MEMBER, "o", "members", 13),
    ):
        axis.scatter(x[kind], y[kind], s=size, c=colour, marker=marker, alpha=alpha, lw=0.8,
                     label=f"{name} ({kind.sum()})", rasterized=True)  # fmt: skip


@styled
def render_growth(panels: Mapping[str, Mapping[str, Mapping[str, Interval]]]) -> Figure:
    """AUC against what is changed: {axis: {attack: {value: interval}}}, a panel an axis."""
    columns = 2
    rows = -(-len(panels) // columns)
    figure, axes = axes_of(rows, columns, sharey=True, figsize=(10.5, 3.2 * rows + 0.6))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, attacks) in zip(axes.flat, panels.items(), strict=False):
        looks = zip(attacks.items(), looks_of(attacks), strict=True)
        labels = list(max(attacks.values(), key=len))  # not every attack is at every value
        for k, ((name, found), (colour, marker, dash)) in enumerate(looks):
            places = np.array([labels.index(value) for value in found], float)
            x = places + 0.06 * (k - (len(attacks) - 1) / 2)
            values = [i.value for i in found.values()]
            axis.plot(x, values, color=colour, marker=marker, ls=dash, label=name)
            lows, highs = ([getattr(i, end) for i in found.values()] for end in ("low", "high"))
            axis.vlines(x, lows, highs, color=colour, lw=2, alpha=0.6)
        axis.set_xticks(range(len(labels)), labels)
        axis.axhline(0.5, color="#444444", lw=1, ls="--")
        axis.set(xlabel=title)
    for line in axes:
        line[0].set_ylabel("AUC (bar: 95 % interval)")
    handles = axes.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2)
    return figure


@styled
def render_bounds(rows: Sequence[tuple[str, float | None, float, float]]) -> Figure:
    """ε between what an attack has shown and what was promised; a row: (name, promised or None,
    shown, the most that a perfect attack could have shown on as many images)."""
    figure, axes = axes_of(figsize=(9, 0.42 * len(rows) + 1.4))
    axis = axes[0, 0]
    for y, (_, promised, low, most) in enumerate(rows):
        axis.plot([0, most], [y, y], color="#dddddd", lw=7, solid_capstyle="butt",
                  label="could be shown at all" if y == 0 else None)  # fmt: skip
        axis.plot(low, y, ">", color=MEMBER, ms=9, label="shown by the attack" if y == 0 else None)
        if promised is not None:
            axis.plot(promised, y, "|", color=NONMEMBER, ms=18, mew=3)
    axis.plot([], [], "|", color=NONMEMBER, ms=14, mew=3, label="promised by the accountant")
    axis.set(yticks=range(len(rows)), yticklabels=[row[0] for row in rows], xlabel="ε")
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(False, axis="y")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def render_own_scores(images: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str) -> Figure:
    """Scores [K] of one image by K networks, above those trained on it (bool [K]), below others.

    With the two normal distributions that an image's own AUC is told from. Left: all images on one
    axis; right: each on its own.
    """
    n = len(images)
    figure, axes = axes_of(n, 2, figsize=(10.2, 1.35 * n + 0.9), width_ratios=(3, 2))
    scored = [scores for scores, _ in images.values()]
    for row, (name, (scores, inside)) in enumerate(images.items()):
        for axis, range_of in zip(axes[row], (np.concatenate(scored), scores), strict=True):
            low, high = range_of.min(), range_of.max()
            margin = 0.08 * (high - low)
            _clouds(axis, scores, inside, np.linspace(low - margin, high + margin, 300))
        axes[row, 0].set_title(name, loc="left", fontsize=10)
    for axis in axes[-1]:
        axis.set_xlabel(xlabel)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _clouds(axis: Axes, scores: np.ndarray, inside: np.ndarray, x: np.ndarray) -> None:
    for kind, sign, colour, marker, told in (
        (inside, 1, MEMBER, "o", "trained on it"),
        (~inside, -1, NONMEMBER, "x", "not trained on it"),
    ):
        own = scores[kind]
        axis.scatter(own, np.full(len(own), 0.18 * sign), c=colour, marker=marker, s=22,
                     label=f"{told} ({len(own)} networks)")  # fmt: skip
        bell = np.exp(-(((x - own.mean()) / own.std(ddof=1)) ** 2) / 2)
        axis.fill_between(x, 0, sign * bell, color=colour, alpha=0.2, lw=0)
    axis.axhline(0, color="#444444", lw=0.8)
    axis.set(ylim=(-1.1, 1.1), xlim=(x[0], x[-1]), ylabel="networks")
    axis.set_yticks([-0.5, 0.5], ["out", "in"])


@styled
def render_shares_above(
    curves: Mapping[str, np.ndarray], chance: np.ndarray, level: float | None = None
) -> Figure:
    """Share of images whose own AUC [N] lies above a, for each a; grey: labels dealt out anew.

    level: an `a` that is marked, with where each curve stands there.
    """
    figure, axes = axes_of(figsize=(8.2, 3.9))
    axis = axes[0, 0]
    a = np.linspace(0, 1, 401)
    by_chance = _above(chance, a)
    axis.fill_between(a, 0, by_chance, color="#bbbbbb", lw=0, alpha=0.7, label="by chance alone")
    for (name, areas), (colour, _, dash) in zip(
        curves.items(), looks_of(curves, PLAIN), strict=True
    ):
        axis.plot(a, _above(areas, a), color=colour, ls=dash, label=name)
        if level is not None:
            axis.plot(level, (areas > level).mean(), "o", color=colour, ms=7)
    if level is not None:
        axis.axvline(level, color="#444444", lw=1, ls="--")
    axis.set(xlim=(0.2, 1), ylim=(0, 1), xlabel="a, an image's own AUC")
    axis.set_ylabel("share of images above a")
    axis.legend(loc="lower left")
    return figure


def _above(areas: np.ndarray, a: np.ndarray) -> np.ndarray:
    return (areas[None] > a[:, None]).mean(1)


@styled
def render_twice(first: np.ndarray, second: np.ndarray, xlabel: str, ylabel: str) -> Figure:
    """The same images measured twice, float [N] both: a mark an image."""
    figure, axes = axes_of(figsize=(5.6, 5.2))
    axis = axes[0, 0]
    axis.scatter(first, second, s=12, c=MEMBER, alpha=0.45, lw=0, rasterized=True)
    ends = [min(first.min(), second.min()), max(first.max(), second.max())]
    axis.plot(ends, ends, color="#444444", lw=1, ls="--", label="equal")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.legend(loc="upper left")
    return figure
