"""The pictures under sliders: a threshold, a temperature, what is kept of a loss map, an image's
patches, what an accusation is worth, references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from segleak_utils import metrics
from segleak_utils.figures.scenes import bare
from segleak_utils.figures.style import (
    LOSS_COLOURS,
    LOSS_LABEL,
    MEMBER,
    NONMEMBER,
    axes_of,
    looks_of,
    styled,
)
from segleak_utils.metrics import Interval

BINS = 40
POPULATION = 10_000  # images that an attacker asks about
GROUPS = ((False, NONMEMBER, "non-members"), (True, MEMBER, "members"))


def _beside(
    size: tuple[float, float], widths: Sequence[float], **margins: float
) -> tuple[Figure, np.ndarray]:
    """A figure's panels, laid out by hand: to find a layout takes as long as to draw them."""
    figure, axes = axes_of(1, len(widths), figsize=size, width_ratios=widths, layout="none")
    figure.subplots_adjust(**margins)
    return figure, axes[0]


def _hills(axis: Axes, scores: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Both groups' histograms as outlines, each of area 1; the bins' edges."""
    low, high = np.quantile(scores, [0.01, 0.99])  # what lies beyond is in the last bins
    edges = np.linspace(low, max(high, low + 1e-9), BINS + 1)
    for kind, colour, name in GROUPS:
        own = scores[member == kind]
        shares = np.histogram(own.clip(edges[0], edges[-1]), edges, density=True)[0]
        axis.stairs(shares, edges, color=colour, lw=1.5, label=f"{name} (n = {len(own)})")
    axis.set(xlabel="score (higher: member)", ylabel="share of images per unit")
    axis.locator_params(axis="x", nbins=6)  # long numbers keep apart
    return edges


@styled
def render_threshold(scores: np.ndarray, member: np.ndarray, threshold: float) -> Figure:
    """Both groups' scores [N] with a threshold, what is called wrongly filled; both errors as bars.

    threshold: a score; what lies above it is called a member.
    """
    margins = {"left": 0.065, "right": 0.97, "bottom": 0.16, "top": 0.9, "wspace": 0.2}
    figure, (left, right) = _beside((9.6, 3.2), (2.4, 1.15), **margins)
    edges = _hills(left, scores, member)
    for kind, colour, _ in GROUPS:
        own = scores[member == kind]
        wrong = own[(own > threshold) != kind].clip(edges[0], edges[-1])
        shares = np.histogram(wrong, edges)[0] / (len(own) * np.diff(edges))
        left.stairs(shares, edges, color=colour, fill=True, alpha=0.45)
    left.axvline(threshold, color="black", lw=1.4, ls="--", label="threshold")
    left.set_title("filled: called wrongly")
    left.legend(fontsize=8, loc="upper left")
    found, accused = ((scores[member == kind] > threshold).mean() for kind in (True, False))
    names = ("members missed", "non-members accused")
    bars = right.bar(names, (1 - found, accused), color=(MEMBER, NONMEMBER), width=0.6)
    right.bar_label(bars, [f"{share:.0%}" for share in (1 - found, accused)])
    right.set(ylim=(0, 1.08), ylabel="share of the group", title="the two errors")
    right.tick_params(axis="x", labelsize=9)
    return figure


@styled
def render_calibration(counts: Mapping[str, Tensor], title: str = "") -> Figure:
    """How often a network is right among pixels that it is so sure of, a line for each group.

    counts: `metrics.calibration_counts` of members and non-members, by the name of the group. Bins
    with less than one pixel in a thousand are left out.
    """
    margins = {"left": 0.065, "right": 0.975, "bottom": 0.14, "top": 0.91, "wspace": 0.32}
    figure, (left, right) = _beside((9.6, 3.6), (1.3, 1), **margins)
    left.plot([0, 1], [0, 1], color="#444444", lw=1, ls="--", label="as sure as it is right")
    looks = ((MEMBER, "o"), (NONMEMBER, "D"))
    errors = {name: metrics.calibration_error(of) for name, of in counts.items()}
    for (name, of), (colour, marker) in zip(counts.items(), looks, strict=True):
        n, sure, right_ones = of[of[:, 0] > of[:, 0].sum() / 1000].T.numpy()
        left.plot(sure / n, right_ones / n, color=colour, marker=marker, ms=5, label=name)
    left.set(xlabel="confidence (mean of the bin)", ylabel="share that is right", title=title,
             xlim=(0, 1), ylim=(0, 1))  # fmt: skip
    left.legend(fontsize=8, loc="upper left")
    bars = right.barh(list(errors), list(errors.values()), color=[look[0] for look in looks])
    right.bar_label(bars, [f" {error:.3f}" for error in errors.values()])
    right.set(xlim=(0, 0.2), xlabel="calibration error", title="how far off on average")
    right.invert_yaxis()
    return figure


@styled
def render_kept(
    loss: Tensor, kept: Tensor, scores: np.ndarray, member: np.ndarray, title: str = ""
) -> Figure:
    """A loss map [H,W] with the pixels that are not `kept` (bool [H,W]) in grey; scores of all.

    scores: float [N] of what is kept of each image, higher means "member"; member: bool [N].
    """
    margins = {"left": 0.01, "right": 0.985, "bottom": 0.16, "top": 0.9, "wspace": 0.18}
    figure, (left, right) = _beside((10.5, 3.1), (1.35, 1), **margins)
    shown = loss.float().masked_fill(~kept, torch.nan)
    top = max(float(np.nanquantile(shown.numpy(), 0.995)) if kept.any() else 0.0, 1e-6)
    drawn = left.imshow(shown.numpy(), vmin=0, vmax=top, cmap=LOSS_COLOURS)
    bare(left)
    left.set_title("kept of the member above (the rest: grey)")
    figure.colorbar(drawn, ax=left, shrink=0.8, extend="max").set_label(LOSS_LABEL)
    right.set_title(title)
    if len(scores):  # else no scene has any of what is kept
        _hills(right, scores, member)
        right.legend(fontsize=8, loc="upper left")
    return figure


@styled
def render_votes(
    loss: Tensor,
    corners: Tensor,
    patch: int,
    above: np.ndarray,
    scores: np.ndarray,
    member: np.ndarray,
    own: float,
    title: str = "",
) -> Figure:
    """A member's loss map [H,W] with its patches, each framed by what it speaks for; scores of all.

    corners: int [P,2], (row, column); above: bool [P], whether a patch speaks for a member. scores:
    float [N] of the mean over the patches of each image, higher means "member"; member: bool [N];
    own: the score of the image that is shown.
    """
    margins = {"left": 0.01, "right": 0.985, "bottom": 0.15, "top": 0.9, "wspace": 0.18}
    figure, (left, right) = _beside((10.5, 3.3), (1.35, 1), **margins)
    top = max(float(loss.nanquantile(0.995)), 1e-6)
    drawn = left.imshow(loss.numpy(), vmin=0, vmax=top, cmap=LOSS_COLOURS)
    looks = {True: (MEMBER, "-"), False: (NONMEMBER, "--")}
    for (row, column), vote in zip(corners.tolist(), above, strict=True):
        colour, dash = looks[bool(vote)]
        halo = [withStroke(linewidth=4, foreground="white")]  # blue on a dark map
        left.add_patch(Rectangle((column - 0.5, row - 0.5), patch, patch, fill=False, ec=colour,
                                 lw=2, ls=dash, path_effects=halo))  # fmt: skip
    bare(left)
    told = f"{sum(above)} of {len(above)} patches speak for a member"
    left.set_title(f"{patch}x{patch} pixels: {told}")
    left.set_xlabel("solid, blue: for a member; dashed, orange: against", fontsize=9)
    figure.colorbar(drawn, ax=left, shrink=0.8, extend="max").set_label(LOSS_LABEL)
    edges = _hills(right, scores, member)
    at = float(np.clip(own, edges[0], edges[-1]))
    right.axvline(at, color="black", lw=1.4, ls=":", label="the member on the left")
    right.set(title=title, ylim=(0, 1.3 * right.get_ylim()[1]))  # room for the legend
    right.legend(fontsize=8, loc="upper left")
    return figure


@styled
def render_worth(
    scores: np.ndarray, member: np.ndarray, rate: Interval, fpr: float, prior: float, name: str
) -> Figure:
    """An attack's ROC with an operating point; what becomes of 10 000 images at that prior.

    rate: `metrics.tpr_at_fpr` of the scores [N] at `fpr`; name: of the attack. Above the dotted
    line more than half of the accusations are right.
    """
    margins = {"left": 0.07, "right": 0.985, "bottom": 0.22, "top": 0.92, "wspace": 0.42}
    figure, (left, right) = _beside((10.5, 3.8), (1, 1.2), **margins)
    curve, (colour, mark, dash) = metrics.roc(scores, member), looks_of([name])[0]
    shown, least = curve.fpr >= curve.smallest_fpr, 1 / curve.n_members  # a logarithm has no 0
    ends = np.array([curve.smallest_fpr, 1])
    even = ends * (1 - prior) / prior
    left.plot(curve.fpr[shown], curve.tpr[shown], color=colour, ls=dash, label=name)
    left.plot(ends, ends, color="#888888", lw=1, label="guessing")
    left.plot(ends, even, color="black", lw=1.2, ls=":", label="precision of one half")
    left.fill_between(ends, even, 1, where=even <= 1, interpolate=True, color="#009E73", alpha=0.1)
    left.plot([fpr] * 2, [max(rate.low, least), max(rate.high, least)], color="black", lw=2.5)
    left.plot(fpr, max(rate.value, least), mark, color="white", mec="black", mew=2, ms=8,
              label="threshold, TPR with 95 % interval")  # fmt: skip
    left.set(xscale="log", yscale="log", xlim=(ends[0] * 0.8, 1.1), ylim=(least, 1.1))
    left.minorticks_off()  # to lay them out takes as long as all the rest
    left.set(xlabel="false positive rate (non-members accused)")
    left.set(ylabel="true positive rate (members found)")
    members, others = POPULATION * prior, POPULATION * (1 - prior)
    counts = rate.value * members, (1 - rate.value) * members, fpr * others
    names = ("members caught", "members missed", "non-members\naccused")
    right.barh(names, counts, color=(MEMBER, "#9ecae1", NONMEMBER), height=0.6)
    right.plot([rate.low * members, rate.high * members], [0, 0], color="black", lw=2.5)
    reach = [max(counts[0], rate.high * members), *counts[1:]]  # behind the interval
    for row, (at, count) in enumerate(zip(reach, counts, strict=True)):
        right.text(at, row, f" {count:,.0f}", va="center")
    right.set(xlim=(0, 1.18 * max(reach)))
    right.set(xlabel=f"images, of {POPULATION:,} with {100 * prior:g} % members")
    right.set(title=f"precision {metrics.precision_of(rate, fpr, prior)}")
    right.invert_yaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=4,
                  fontsize=9, frameon=False)  # fmt: skip
    return figure


@styled
def render_by_references(
    scores: np.ndarray,
    member: np.ndarray,
    found: Mapping[str, Mapping[str, Sequence[Interval]]],
    attack: str,
    number: int,
) -> Figure:
    """Both groups' scores [N] by an attack with so many references; what each number finds.

    found: of each measure and attack the intervals with 1, 2, ... references of each image. The
    attack has its band, and a mark at `number`; the others are drawn thin.
    """
    margins = {"left": 0.065, "right": 0.99, "bottom": 0.15, "top": 0.9, "wspace": 0.26}
    figure, (left, *others) = _beside((10.5, 3.4), (1.35, *[1] * len(found)), **margins)
    _hills(left, scores, member)
    left.set_ylim(0, 1.2 * left.get_ylim()[1])  # room for the legend
    left.set_title(f"with {number} reference{'s' * (number > 1)} of each image")
    left.legend(fontsize=8, loc="upper left")
    for axis, (measure, of_all) in zip(others, found.items(), strict=True):
        for (name, row), (colour, mark, dash) in zip(of_all.items(), looks_of(of_all), strict=True):
            numbers = np.arange(1, len(row) + 1)
            values, low, high = np.array([(one.value, one.low, one.high) for one in row]).T
            here = name == attack
            axis.plot(numbers, values, color=colour, marker=mark, ls=dash, label=name,
                      ms=5 if here else 3, lw=2 if here else 1)  # fmt: skip
            if here:
                axis.fill_between(numbers, low, high, color=colour, alpha=0.15, lw=0)
                k = number - 1
                ends = [[values[k] - low[k]], [high[k] - values[k]]]
                axis.errorbar(number, values[k], ends, fmt="o", color="black", capsize=4, zorder=3)
        level = next(iter(of_all.values()))[0].level
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel="references", ylabel=measure, title=f"{measure} ({100 * level:g} %)")
    others[0].legend(fontsize=7.5, loc="lower right")
    return figure
