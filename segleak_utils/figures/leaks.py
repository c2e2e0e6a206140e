"""The pictures of notebook 06: where a victim leaks, for whom, and how leakage grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from segleak_utils.figures.scenes import bare, show_picture
from segleak_utils.figures.style import LOOKS, LOSS_LABEL, MEMBER, NONMEMBER, axes_of, styled
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
    top = max(float(np.quantile(losses.numpy(), 0.99)), 1e-6)
    far = max(float(np.quantile(evidence.abs().numpy(), 0.99)), 1e-9)
    palette = sns.blend_palette([NONMEMBER, "#f7f7f7", MEMBER], as_cmap=True)
    for line, (name, (image, own, theirs, _)), map_ in zip(
        axes, rows.items(), evidence, strict=True
    ):
        show_picture(line[0], image)
        for axis, loss in zip(line[1:3], (own, theirs), strict=True):
            dark = axis.imshow(loss.numpy(), vmin=0, vmax=top, cmap="magma")
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
        for k, (name, found) in enumerate(attacks.items()):
            colour, marker, dash = LOOKS[k]
            x = np.arange(len(found)) + 0.06 * (k - (len(attacks) - 1) / 2)
            values = [i.value for i in found.values()]
            axis.plot(x, values, color=colour, marker=marker, ls=dash, label=name)
            lows, highs = ([getattr(i, end) for i in found.values()] for end in ("low", "high"))
            axis.vlines(x, lows, highs, color=colour, lw=2, alpha=0.6)
        labels = list(next(iter(attacks.values())))
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
