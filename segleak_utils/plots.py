"""The pictures: pure functions from arrays to a matplotlib Figure, all in one style.

Members are blue and filled, non-members orange; classes have the Cityscapes colours. Every
function leaves pyplot's list of open figures as it found it: a cell shows the figure it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from segleak_utils import metrics
from segleak_utils.data import VOID, Scenes
from segleak_utils.metrics import Interval

STYLE = Path(__file__).with_name("segleak.mplstyle")
MEMBER, NONMEMBER = "#0072B2", "#D55E00"
# One colour, marker and dash for each attack, wherever it appears: never told apart by colour only.
LOOKS = (
    ("#000000", "o", "-"),
    ("#E69F00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#56B4E9", "v", ":"),
    ("#CC79A7", "D", "-"),
    ("#0072B2", "P", "--"),
    ("#D55E00", "X", "-."),
)
_VOID_COLOUR = (0, 0, 0)


@dataclass(frozen=True)
class Example:
    """One scene and what a network says about it.

    image: float [3,H,W] in 0..1; mask: integer [H,W]; posterior: float [C,H,W]; loss: [H,W], nats.
    """

    title: str
    image: Tensor
    mask: Tensor
    posterior: Tensor
    loss: Tensor


def _figure(rows: int = 1, columns: int = 1, **kwargs) -> tuple[Figure, np.ndarray]:
    """A figure in the project's style, with its axes as [rows, columns]."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(rows, columns, squeeze=False, **kwargs)
    plt.close(figure)  # else a notebook would show it twice
    return figure, axes


def colour_mask(mask: Tensor, palette: np.ndarray) -> np.ndarray:
    """Labels [H,W] as colours uint8 [H,W,3]; void is black.

    Raises ValueError for a label without a colour.
    """
    labels = np.asarray(mask).astype(np.int64)
    wrong = np.setdiff1d(labels, [*range(len(palette)), VOID])
    if len(wrong):
        raise ValueError(f"label {wrong[0]} has no colour; the palette has {len(palette)}")
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[VOID] = _VOID_COLOUR
    return table[labels]


def _picture(axes: Axes, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0).numpy().clip(0, 1))
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


# --------------------------------------------------------------------------- scenes and networks


def render_contact_sheet(scenes: Scenes, columns: int = 4) -> Figure:
    """Images over their masks, in rows of `columns`."""
    n_rows = -(-len(scenes) // columns)
    figure, axes = _figure(2 * n_rows, columns, figsize=(9.6, 2.45 * n_rows))
    for axis in axes.flat:
        _bare(axis)
    for i in range(len(scenes)):
        row, column = 2 * (i // columns), i % columns
        image, mask = scenes[i]
        _picture(axes[row, column], image)
        axes[row + 1, column].imshow(colour_mask(mask, scenes.palette))
        axes[row, column].set_title(scenes.ids[i], fontsize=8)
    return figure


def render_palette(class_names: Sequence[str], palette: np.ndarray) -> Figure:
    """The key to every mask: a swatch and a name for each class, and void."""
    figure, axes = _figure(figsize=(9.6, 1.1))
    _bare(axes[0, 0])
    swatches = [
        Patch(facecolor=np.asarray(colour) / 255, edgecolor="#888888", label=name)
        for name, colour in [*zip(class_names, palette, strict=True), ("void", _VOID_COLOUR)]
    ]
    axes[0, 0].legend(handles=swatches, ncols=7, loc="center", handlelength=1.4, fontsize=9)
    return figure


def render_examples(examples: Sequence[Example], palette: np.ndarray, title: str = "") -> Figure:
    """Image | mask | prediction | loss map, a row for each example, one colour scale for all."""
    figure, axes = _figure(len(examples), 4, figsize=(11, 1.75 * len(examples) + 0.6))
    top = float(np.quantile(torch.stack([e.loss for e in examples]).numpy(), 0.995))
    for row, example in zip(axes, examples, strict=True):
        _picture(row[0], example.image)
        row[1].imshow(colour_mask(example.mask, palette))
        row[2].imshow(colour_mask(example.posterior.argmax(0), palette))
        shown = row[3].imshow(example.loss.numpy(), vmin=0, vmax=max(top, 1e-6), cmap="magma")
        for axis in row:
            _bare(axis)
        labelled = example.mask != VOID
        mean = example.loss[labelled].mean() if labelled.any() else torch.nan
        row[0].set_ylabel(example.title)
        row[3].text(
            0.985, 0.95, f"mean {mean:.2f}", color="white", ha="right", va="top", fontsize=9,
            transform=row[3].transAxes, bbox={"facecolor": "#00000099", "edgecolor": "none"},
        )  # fmt: skip
    names = ("image", "mask (truth)", "prediction", "loss map")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    bar = figure.colorbar(shown, ax=axes[:, 3], shrink=0.9, extend="max")
    bar.set_label("loss of the true class (nats)")
    figure.suptitle(title)
    return figure


def render_confidence(examples: Sequence[Example]) -> Figure:
    """Image | probability of the predicted class | of the true class, a row for each example."""
    figure, axes = _figure(len(examples), 3, figsize=(10.5, 2.1 * len(examples) + 0.4))
    for row, example in zip(axes, examples, strict=True):
        _picture(row[0], example.image)
        row[0].set_ylabel(example.title)
        top = example.posterior.amax(0)
        true = example.posterior.gather(0, example.mask.clamp(max=len(example.posterior) - 1)[None])
        true = true[0].masked_fill(example.mask == VOID, torch.nan)
        for axis, values in ((row[1], top), (row[2], true)):
            shown = axis.imshow(values.numpy(), vmin=0, vmax=1, cmap="cividis")
            _bare(axis)
    names = ("image", "probability of the predicted class", "probability of the true class")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    figure.colorbar(shown, ax=axes[:, 1:], shrink=0.9).set_label("probability (void: white)")
    return figure


def render_pixel_posterior(
    example: Example, pixel: tuple[int, int], class_names: Sequence[str], palette: np.ndarray
) -> Figure:
    """One pixel (row, column) of a scene, and the whole posterior there as bars."""
    figure, axes = _figure(1, 2, figsize=(9.6, 3.4), width_ratios=(1.25, 1))
    left, right = axes[0]
    _picture(left, example.image)
    row, column = pixel
    left.plot(column, row, "o", ms=13, mfc="none", mec="white", mew=3)
    left.plot(column, row, "o", ms=13, mfc="none", mec="black", mew=1.2)
    left.set_title(f"{example.title}, pixel ({row}, {column})")
    posterior = example.posterior[:, row, column].numpy()
    order = np.argsort(posterior)[::-1][:8]
    colours = [np.asarray(palette[c]) / 255 for c in order]
    names = [class_names[c] for c in order]
    right.barh(names, posterior[order], color=colours, edgecolor="#444444")
    right.invert_yaxis()
    label = int(example.mask[row, column])
    truth = "void" if label == VOID else class_names[label]
    right.set(xlim=(0, 1), xlabel="posterior probability", title=f"true class: {truth}")
    return figure


def render_class_bars(
    values: Mapping[str, np.ndarray], class_names: Sequence[str], xlabel: str
) -> Figure:
    """A number for each class and group, e.g. intersection over union of members, as dots."""
    figure, axes = _figure(figsize=(8, 0.27 * len(class_names) + 1.1))
    axis, rows = axes[0, 0], np.arange(len(class_names))
    looks = ((MEMBER, "o"), (NONMEMBER, "D"))
    axis.hlines(rows, *np.sort(np.stack([*values.values()]), 0)[[0, -1]], color="#bbbbbb", lw=2)
    for (name, numbers), (colour, marker) in zip(values.items(), looks, strict=False):
        axis.plot(numbers, rows, marker, color=colour, label=name)
    axis.set(yticks=rows, yticklabels=class_names, xlabel=xlabel)
    axis.invert_yaxis()
    axis.legend(loc="best")
    return figure


# ------------------------------------------------------------------------------------ the leak


def render_class_gap(losses: np.ndarray, member: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Mean loss of each class for members and non-members, and the gap with its 95 % interval.

    losses: float [N,C], NaN where a class is absent from an image (`class_losses`); member: bool
    [N]. The interval is the normal one for a difference of two means over images (Welch).
    """
    figure, axes = _figure(1, 2, sharey=True, figsize=(9.6, 0.27 * len(class_names) + 1.3))
    left, right = axes[0]
    rows = np.arange(len(class_names))
    means, errors = [], []
    for found in (losses[member], losses[~member]):
        seen = ~np.isnan(found)
        n = np.where(seen.any(0), seen.sum(0), np.nan)  # NaN: a class that no image has
        mean = np.nansum(found, 0) / n
        means.append(mean)
        errors.append(np.sqrt(np.nansum((found - mean) ** 2, 0) / n) / np.sqrt(n))
    left.hlines(rows, means[0], means[1], color="#bbbbbb", lw=2)
    left.plot(means[0], rows, "o", color=MEMBER, label="members")
    left.plot(means[1], rows, "D", color=NONMEMBER, label="non-members")
    left.set(yticks=rows, yticklabels=class_names, xlabel="mean loss of the class (nats)")
    left.legend()
    gap, half = means[1] - means[0], 1.96 * np.hypot(*errors)
    right.axvline(0, color="#444444", lw=1)
    right.errorbar(gap, rows, xerr=half, fmt="s", color="#009E73", capsize=2)
    right.set(xlabel="gap: non-members minus members (nats), 95 % interval")
    left.invert_yaxis()
    return figure


def render_scores(
    scores: Mapping[str, np.ndarray],
    member: np.ndarray,
    thresholds: Mapping[str, float] | None = None,
) -> Figure:
    """Histograms of membership scores of members and non-members, a panel for each attack."""
    figure, axes = _figure(1, len(scores), figsize=(max(4.6 * len(scores), 5.5), 3.1))
    for axis, (name, values) in zip(axes[0], scores.items(), strict=True):
        low, high = np.quantile(values, [0.002, 0.998])
        bins = np.linspace(low, high, 41)
        for chosen, colour, label in (
            (member, MEMBER, f"members (n = {member.sum()})"),
            (~member, NONMEMBER, f"non-members (n = {(~member).sum()})"),
        ):
            sns.histplot(
                x=values[chosen].clip(low, high), bins=bins, stat="density", element="step",
                fill=True, alpha=0.25, color=colour, label=label, ax=axis,
            )  # fmt: skip
        if thresholds and np.isfinite(thresholds[name]):
            axis.axvline(thresholds[name], color="black", ls="--", lw=1.2, label="threshold")
        axis.set(title=name, xlabel="score (higher: member)", ylabel="share of images per unit")
        axis.legend(fontsize=8)
    return figure


def render_roc(
    scores: Mapping[str, np.ndarray], member: np.ndarray, areas: Mapping[str, Interval]
) -> Figure:
    """ROC of several attacks on the same images: linear, and log-log from the 1/n floor up."""
    figure, axes = _figure(1, 2, figsize=(10.5, 4.6))
    linear, log = axes[0]
    for (name, values), (colour, _, dash) in zip(scores.items(), LOOKS, strict=False):
        curve = metrics.roc(values, member)
        label = f"{name}: {areas[name]}"
        linear.plot(curve.fpr, curve.tpr, color=colour, ls=dash, label=label)
        shown = curve.fpr >= curve.smallest_fpr
        log.plot(curve.fpr[shown], curve.tpr[shown], color=colour, ls=dash)
    floor = curve.smallest_fpr
    diagonal = np.array([floor, 1])
    linear.plot([0, 1], [0, 1], color="#888888", lw=1, label="guessing")
    log.plot(diagonal, diagonal, color="#888888", lw=1)
    log.axvline(floor, color="#888888", lw=1, ls=":")
    log.text(floor * 1.08, 0.8, f"1/n, n = {curve.n_nonmembers}", rotation=90, va="top",
             fontsize=8, color="#555555")  # fmt: skip
    linear.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title="linear")
    log.set(xscale="log", yscale="log", xlim=(floor * 0.8, 1), title="log-log")
    log.set_ylim(1 / curve.n_members, 1)
    for axis in (linear, log):
        axis.set(xlabel="false positive rate (non-members accused)")
        axis.set(ylabel="true positive rate (members found)")
    figure.legend(*linear.get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  fontsize=9, title="AUC [95 % interval]", frameon=False)  # fmt: skip
    return figure


def render_intervals(
    intervals: Mapping[str, Interval], xlabel: str, reference: float | None = 0.5
) -> Figure:
    """Estimates with their intervals, one line each, and the value that means "nothing"."""
    figure, axes = _figure(figsize=(8.6, 0.42 * len(intervals) + 1.0))
    axis = axes[0, 0]
    for row, interval in enumerate(intervals.values()):
        axis.plot([interval.low, interval.high], [row, row], color="#0072B2", lw=3)
        axis.plot(interval.value, row, "o", color="white", mec="#0072B2", mew=2, ms=7)
    if reference is not None:
        axis.axvline(reference, color="#444444", lw=1, ls="--")
    axis.set(yticks=range(len(intervals)), yticklabels=intervals, xlabel=xlabel)
    axis.set_ylim(len(intervals) - 0.5, -0.5)
    return figure


def render_against(
    x: Sequence[float],
    series: Mapping[str, Sequence[Interval]],
    xlabel: str,
    ylabel: str = "AUC",
    reference: Mapping[str, float] | None = None,
) -> Figure:
    """Estimates against a quantity, e.g. AUC against the number of patches, with 95 % bands."""
    figure, axes = _figure(figsize=(8.2, 3.9))
    axis = axes[0, 0]
    for (name, found), (colour, marker, dash) in zip(series.items(), LOOKS[2:], strict=False):
        axis.plot(x, [i.value for i in found], color=colour, marker=marker, ls=dash, label=name)
        axis.fill_between(
            x, [i.low for i in found], [i.high for i in found], color=colour, alpha=0.13, lw=0
        )
    for name, value in (reference or {}).items():
        axis.axhline(value, color="#444444", lw=1.2, ls="--")
        axis.text(x[-1], value, name, ha="right", va="bottom", fontsize=9, color="#444444")
    axis.set(xlabel=xlabel, ylabel=f"{ylabel} (band: 95 % interval)", xticks=list(x))
    axis.legend()
    return figure


# ----------------------------------------------------------------------------------- the attack


def render_patches(loss: Tensor, corners: Tensor, patch: int, title: str = "") -> Figure:
    """A loss map [H,W] with square patches on it; corners: int [P,2], (row, column)."""
    figure, axes = _figure(figsize=(8, 3.6))
    axis = axes[0, 0]
    shown = axis.imshow(loss.numpy(), vmin=0, vmax=max(float(loss.quantile(0.995)), 1e-6))
    for k, (row, column) in enumerate(corners.tolist()):
        colour = LOOKS[1 + k % (len(LOOKS) - 1)][0]
        axis.add_patch(Rectangle((column, row), patch, patch, fill=False, ec=colour, lw=2.2))
        axis.text(column + 3, row + 3, str(k + 1), color=colour, va="top", weight="bold")
    _bare(axis)
    axis.set_title(title)
    figure.colorbar(shown, ax=axis, shrink=0.85, extend="max").set_label("loss (nats)")
    return figure


def render_training(history: Sequence[Mapping[str, float]], title: str = "") -> Figure:
    """An attacker's training: loss of the patches, and AUC of the shadow images kept aside."""
    figure, axes = _figure(1, 2, figsize=(9, 3.1))
    epochs = [h["epoch"] for h in history]
    panels = ((axes[0, 0], "loss", "cross-entropy (nats)", np.log(2)),
              (axes[0, 1], "select_auc", "AUC on shadow images kept aside", 0.5))  # fmt: skip
    for axis, key, label, guess in panels:
        axis.plot(epochs, [h[key] for h in history], "o-", color="#0072B2")
        axis.axhline(guess, color="#888888", lw=1, ls="--", label="guessing")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    figure.suptitle(title)
    return figure
