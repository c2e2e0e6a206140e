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
from torch import Tensor, nn

from segleak_utils import metrics, representations, victims
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


def _looks(series: Sequence | Mapping, first: int = 0) -> Sequence[tuple[str, str, str]]:
    """A look for each series; ValueError rather than two series that look alike."""
    looks = (LOOKS[first:] + LOOKS[:first])[: len(series)]
    if len(series) > len(looks):
        raise ValueError(f"{len(series)} series in one picture; at most {len(looks)} differ enough")
    return looks


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

    @classmethod
    def of(cls, model: nn.Module, scenes: Scenes, index: int, title: str) -> Example:
        """Ask `model` about one scene."""
        image, mask = scenes[index]
        posterior, masks = next(victims.posterior_batches(model, scenes.subset([index])))
        loss = representations.structured_loss_map(posterior, masks)
        return cls(title, image, mask, posterior[0], loss[0, 0])


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
    figure, axes = _figure(len(examples), 4, figsize=(11, 1.4 * len(examples) + 0.7))
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


def render_gallery(
    images: Sequence[Tensor],
    losses: Sequence[Tensor],
    captions: Sequence[str],
    colours: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Images over their loss maps, one colour scale for all; a frame in each scene's colour."""
    n_rows = -(-len(images) // columns)
    figure, axes = _figure(2 * n_rows, columns, figsize=(11, 2.72 * n_rows))
    top = float(np.quantile(torch.stack([*losses]).numpy(), 0.995))
    for axis in axes.flat:
        _bare(axis)
    for i, (image, loss) in enumerate(zip(images, losses, strict=True)):
        above, below = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        _picture(above, image)
        shown = below.imshow(loss.numpy(), vmin=0, vmax=max(top, 1e-6), cmap="magma")
        above.set_title(captions[i], color=colours[i] if colours else "black")
        for axis in (above, below) if colours else ():
            for spine in axis.spines.values():
                spine.set(visible=True, color=colours[i], linewidth=4)
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, extend="max", aspect=40)
    bar.set_label("loss of the true class (nats)")
    return figure


def render_confidence(examples: Sequence[Example]) -> Figure:
    """Image | probability of the predicted class | of the true class, a row for each example."""
    figure, axes = _figure(len(examples), 3, figsize=(10.5, 1.72 * len(examples) + 0.4))
    for row, example in zip(axes, examples, strict=True):
        _picture(row[0], example.image)
        row[0].set_ylabel(example.title)
        top = example.posterior.amax(0)
        label = example.mask.long().clamp(max=len(example.posterior) - 1)
        true = example.posterior.gather(0, label[None])
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


def render_pixels(
    example: Example,
    pixels: Mapping[str, tuple[int, int]],
    class_names: Sequence[str],
    palette: np.ndarray,
) -> Figure:
    """A scene with some pixels (row, column) marked, and the posterior at each as bars."""
    figure = _figure(figsize=(10.5, 6.2))[0]
    figure.clear()
    with plt.style.context(STYLE):
        grid = figure.add_gridspec(2, len(pixels), height_ratios=(1.5, 1))
        scene = figure.add_subplot(grid[0, :])
        below = [figure.add_subplot(grid[1, k]) for k in range(len(pixels))]
    _picture(scene, example.image)
    scene.set_title(example.title)
    for axis, (name, (row, column)) in zip(below, pixels.items(), strict=True):
        for colour, width in (("white", 4), ("black", 1.5)):
            scene.plot(column, row, "o", ms=12, mfc="none", mec=colour, mew=width)
        right_half = column > example.mask.shape[1] / 2
        scene.annotate(
            name, (column, row), (-14 if right_half else 14, 0), textcoords="offset points",
            ha="right" if right_half else "left", va="center", weight="bold",
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 2},
        )  # fmt: skip
        posterior = example.posterior[:, row, column].numpy()
        order = np.argsort(posterior)[::-1][:6]
        colours = [np.asarray(palette[c]) / 255 for c in order]
        names = [class_names[c] for c in order]
        axis.barh(names, posterior[order], color=colours, edgecolor="#444444", lw=0.8)
        axis.invert_yaxis()
        label = int(example.mask[row, column])
        truth = "void" if label == VOID else class_names[label]
        axis.set(xlim=(0, 1), xlabel="posterior", title=f"{name}: the label says {truth}")
    return figure


def render_channels(
    rows: Mapping[str, Tensor], names: Sequence[str], label: str = "value of the channel (0 to 1)"
) -> Figure:
    """Channels of a representation as pictures in 0..1: rows of maps [K,H,W], K names on top."""
    figure, axes = _figure(
        len(rows), len(names), figsize=(2.3 * len(names), 1.02 * len(rows) + 0.5)
    )
    for line, (name, maps) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, values in zip(line, maps, strict=True):
            shown = axis.imshow(values.numpy(), vmin=0, vmax=1, cmap="cividis")
            _bare(axis)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    figure.colorbar(shown, ax=axes, shrink=0.9).set_label(label)
    return figure


def render_maps(maps: Mapping[str, Tensor]) -> Figure:
    """Maps [H,W] of one scene side by side, each with its own colour scale."""
    figure, axes = _figure(1, len(maps), figsize=(5.3 * len(maps), 2.6))
    for axis, (name, values) in zip(axes[0], maps.items(), strict=True):
        shown = axis.imshow(values.numpy(), cmap="magma")
        _bare(axis)
        axis.set_title(name)
        figure.colorbar(shown, ax=axis, shrink=0.85).set_label("loss (nats)")
    return figure


def render_class_bars(
    values: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    xlabel: str,
    xscale: str = "linear",
) -> Figure:
    """A number for each class and group, e.g. intersection over union of members, as dots."""
    figure, axes = _figure(figsize=(8, 0.27 * len(class_names) + 1.1))
    axis, rows = axes[0, 0], np.arange(len(class_names))
    looks = ((MEMBER, "o"), (NONMEMBER, "D"))
    axis.hlines(rows, *np.sort(np.stack([*values.values()]), 0)[[0, -1]], color="#bbbbbb", lw=2)
    for (name, numbers), (colour, marker) in zip(values.items(), looks, strict=False):
        axis.plot(numbers, rows, marker, color=colour, label=name)
    axis.set(yticks=rows, yticklabels=class_names, xlabel=xlabel, xscale=xscale)
    axis.invert_yaxis()
    axis.legend(loc="best")
    return figure


def render_victim_training(found: Mapping) -> Figure:
    """A network's training as its file tells it: loss, and mean IoU on the held-out scenes.

    `found` is ``meta["metrics"]`` of `experiment.Network`.
    """
    figure, axes = _figure(1, 2, figsize=(9.6, 3.3))
    left, right = axes[0]
    loss = found["train_loss"]
    left.plot(np.arange(1, len(loss) + 1), loss, color=MEMBER)
    left.set(xlabel="epoch", ylabel="cross-entropy on the members (nats)", ylim=(0, None))
    epochs, held_out = np.array(found["held_out_miou"]).T
    right.plot(epochs, held_out, "s-", color="#444444", label="held-out scenes, during training")
    ends = (("member", MEMBER, "o", "members"), ("nonmember", NONMEMBER, "D", "non-members"))
    for key, colour, marker, label in ends:
        label = f"{label}, the weights that were kept"
        right.axhline(found[f"{key}_miou"], color=colour, lw=1, ls="--")
        right.plot(len(loss), found[f"{key}_miou"], marker, color=colour, ms=8, label=label)
    right.set(xlabel="epoch", ylabel="mean IoU", ylim=(0, None))
    right.legend(loc="lower right")
    return figure


def render_trust(accuracy: np.ndarray, confidence: np.ndarray, member: np.ndarray) -> Figure:
    """How often a network is right about an image against how sure it is: a dot for each image.

    accuracy, confidence: float [N] in 0..1; member: bool [N]. Crosses are the means of the groups.
    """
    figure, axes = _figure(figsize=(6.4, 5.2))
    axis = axes[0, 0]
    groups = ((~member, NONMEMBER, "D", "non-members"), (member, MEMBER, "o", "members"))
    for chosen, colour, marker, label in groups:
        axis.scatter(
            confidence[chosen], accuracy[chosen], s=14, alpha=0.45, color=colour, marker=marker,
            lw=0, label=f"{label} (n = {chosen.sum()})",
        )  # fmt: skip
    for chosen, colour, _, label in groups:
        middle = confidence[chosen].mean(), accuracy[chosen].mean()
        axis.plot(*middle, "X", ms=15, color=colour, mec="white", mew=2, label=f"mean of {label}")
    low = float(min(accuracy.min(), confidence.min()))
    axis.plot([low, 1], [low, 1], color="#444444", lw=1, ls="--", label="as sure as it is right")
    axis.set(xlabel="confidence: mean probability of the predicted class",
             ylabel="accuracy: share of pixels that are right")  # fmt: skip
    axis.legend(loc="upper left", fontsize=8)
    return figure


# ------------------------------------------------------------------------------------ the leak


def render_class_gap(
    losses: np.ndarray,
    member: np.ndarray,
    class_names: Sequence[str],
    xlabel: str = "mean loss of the class (nats)",
) -> Figure:
    """Mean loss of each class for members and non-members, and the gap with its 95 % interval.

    Any other cut of an image's loss will do, with an `xlabel` of its own.
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
        # one image gives no interval
        variance = np.nansum((found - mean) ** 2, 0) / np.where(n > 1, n - 1, np.nan)
        errors.append(np.sqrt(variance / n))
    left.hlines(rows, means[0], means[1], color="#bbbbbb", lw=2)
    left.plot(means[0], rows, "o", color=MEMBER, label="members")
    left.plot(means[1], rows, "D", color=NONMEMBER, label="non-members")
    left.set(yticks=rows, yticklabels=class_names, xlabel=xlabel)
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
        fewer = min(member.sum(), (~member).sum())  # bins: with few images many would only be noise
        bins = np.linspace(low, high, int(np.clip(1.6 * fewer**0.5, 12, 40)) + 1)
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
    for (name, values), (colour, _, dash) in zip(scores.items(), _looks(scores), strict=True):
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
    for (name, found), (colour, marker, dash) in zip(
        series.items(), _looks(series, 2), strict=True
    ):
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
    top = max(float(loss.quantile(0.995)), 1e-6)
    shown = axis.imshow(loss.numpy(), vmin=0, vmax=top, cmap="magma")
    for k, (row, column) in enumerate(corners.tolist()):
        colour = LOOKS[1 + k % (len(LOOKS) - 1)][0]
        axis.add_patch(Rectangle((column, row), patch, patch, fill=False, ec=colour, lw=2.2))
        box = {"facecolor": colour, "edgecolor": "none", "pad": 2}
        axis.text(column + 4, row + 4, str(k + 1), color="white", va="top", weight="bold", bbox=box)
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


def _frame(axis: Axes, colour: str) -> None:
    for spine in axis.spines.values():
        spine.set(visible=True, color=colour, linewidth=3)


def render_roles(rows: Mapping[str, Sequence[tuple[Tensor, bool]]]) -> Figure:
    """Some scenes of each network, a row for each: (image, member), framed by group."""
    columns = max(len(found) for found in rows.values())
    figure, axes = _figure(len(rows), columns, figsize=(2.75 * columns, 1.5 * len(rows) + 0.5))
    for axis in axes.flat:
        _bare(axis)
    for line, (name, found) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, (image, member) in zip(line, found, strict=False):
            _picture(axis, image)
            _frame(axis, MEMBER if member else NONMEMBER)
    key = [Patch(facecolor="none", edgecolor=c, lw=3) for c in (MEMBER, NONMEMBER)]
    names = ("member: trained on", "non-member: never seen")
    figure.legend(key, names, loc="outside lower center", ncols=2)
    return figure


def render_patch_strip(
    losses: Tensor, labels: Tensor, member: np.ndarray, palette: np.ndarray
) -> Figure:
    """Patches as a patch classifier gets them: loss over label, a block for each group.

    losses: float [N,h,w] (nats); labels: integer [N,h,w]; member: bool [N], both groups alike.
    """
    columns = int(max(member.sum(), (~member).sum()))
    figure, axes = _figure(4, columns, figsize=(1.55 * columns + 1.2, 6.4))
    top = max(float(np.quantile(losses.numpy(), 0.995)), 1e-6)
    for axis in axes.flat:
        _bare(axis)
    blocks = ((member, MEMBER, "members"), (~member, NONMEMBER, "non-members"))
    for block, (chosen, colour, name) in enumerate(blocks):
        axes[2 * block, 0].set_ylabel(f"{name}:\nloss", color=colour)
        axes[2 * block + 1, 0].set_ylabel("label", color=colour)
        for column, i in enumerate(np.flatnonzero(chosen)):
            above, below = axes[2 * block : 2 * block + 2, column]
            shown = above.imshow(losses[i].numpy(), vmin=0, vmax=top, cmap="magma")
            below.imshow(colour_mask(labels[i], palette))
            _frame(above, colour)
            _frame(below, colour)
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, extend="max", aspect=30)
    bar.set_label("loss of the true class (nats)")
    return figure


def render_evidence(
    rows: Mapping[str, tuple[Tensor, Tensor, Tensor]], middle: float = 0.0
) -> Figure:
    """Image [3,H,W] | loss map [H,W] | evidence map [H,W], a row for each scene.

    The evidence (`attacks.evidence_map`) has one scale for all: blue above `middle` speaks for
    "member", orange below it for "non-member".
    """
    figure, axes = _figure(len(rows), 3, figsize=(11, 1.85 * len(rows) + 0.5))
    losses = torch.stack([loss for _, loss, _ in rows.values()])
    far = max(float((evidence - middle).abs().max()) for *_, evidence in rows.values())
    top = max(float(np.quantile(losses.numpy(), 0.995)), 1e-6)
    map_of = sns.blend_palette([NONMEMBER, "#f7f7f7", MEMBER], as_cmap=True)
    limits = {"vmin": middle - max(far, 1e-6), "vmax": middle + max(far, 1e-6), "cmap": map_of}
    for line, (name, (image, loss, evidence)) in zip(axes, rows.items(), strict=True):
        _picture(line[0], image)
        dark = line[1].imshow(loss.numpy(), vmin=0, vmax=top, cmap="magma")
        shown = line[2].imshow(evidence.numpy(), **limits)
        for axis in line:
            _bare(axis)
        line[0].set_ylabel(name)
    for axis, name in zip(axes[0], ("image", "loss map", "evidence, patch by patch"), strict=True):
        axis.set_title(name)
    figure.colorbar(dark, ax=axes[:, 1], shrink=0.7, extend="max").set_label("loss (nats)")
    bar = figure.colorbar(shown, ax=axes[:, 2], shrink=0.7)
    bar.set_label("patch score (blue: member)")
    return figure


def render_trainings(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Several attackers' trainings in one picture: loss, and AUC of the images kept aside."""
    figure, axes = _figure(1, 2, figsize=(9.6, 3.3))
    panels = ((axes[0, 0], "loss", "cross-entropy (nats)", np.log(2)),
              (axes[0, 1], "select_auc", "AUC on shadow images kept aside", 0.5))  # fmt: skip
    for axis, key, label, guess in panels:
        for (name, history), (colour, marker, dash) in zip(
            histories.items(), _looks(histories, 2), strict=True
        ):
            epochs = [h["epoch"] for h in history]
            axis.plot(epochs, [h[key] for h in history], ls=dash, marker=marker, color=colour,
                      label=name)  # fmt: skip
        axis.axhline(guess, color="#888888", lw=1, ls="--", label="guessing")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 1].legend(fontsize=8)
    return figure


# --------------------------------------------------------------------------------- judging it


def render_toy_roc(scores: np.ndarray, member: np.ndarray) -> Figure:
    """A ROC by hand: the scores on a line, the staircase they make, and the pairs it counts."""
    figure, axes = _figure(1, 3, figsize=(11.5, 3.7), width_ratios=(1, 1.15, 1.15))
    line, stairs, pairs = axes[0]
    inside, outside = np.sort(scores[member])[::-1], np.sort(scores[~member])[::-1]
    for values, colour, marker, name in (
        (inside, MEMBER, "o", "member"),
        (outside, NONMEMBER, "D", "non-member"),
    ):
        line.plot(np.full(len(values), 0.0), values, marker, color=colour, ms=10, label=name)
        for value in values:
            line.annotate(f"{value:g}", (0, value), (14, 0), textcoords="offset points",
                          va="center", color=colour)  # fmt: skip
    line.axvline(0, color="#bbbbbb", lw=1, zorder=0)
    line.set(xlim=(-0.5, 0.6), xticks=[], ylabel="score (higher: member)", title="eight images")
    line.grid(False)
    line.legend(loc="lower left", fontsize=8)
    curve = metrics.roc(scores, member)
    stairs.fill_between(curve.fpr, curve.tpr, color="#009E73", alpha=0.15, lw=0)
    stairs.plot(curve.fpr, curve.tpr, "o-", color="#009E73")
    stairs.plot([0, 1], [0, 1], color="#888888", lw=1, ls="--")
    for fpr, tpr, threshold in zip(curve.fpr, curve.tpr, curve.thresholds, strict=True):
        name = f"{threshold:g}" if np.isfinite(threshold) else "none"
        stairs.annotate(name, (fpr, tpr), (5, -11), textcoords="offset points", fontsize=8)
    stairs.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.05, 1.12),
               ylim=(-0.1, 1.05), title="the staircase (numbers: thresholds)")  # fmt: skip
    won = inside[:, None] > outside
    pairs.imshow(won, cmap=sns.blend_palette(["#eeeeee", "#9fd8c5"], as_cmap=True), vmin=0, vmax=1)
    for (i, j), good in np.ndenumerate(won):
        pairs.text(j, i, "✓" if good else "✗", ha="center", va="center", fontsize=13)
    pairs.set(xticks=range(len(outside)), xticklabels=[f"{v:g}" for v in outside],
              yticks=range(len(inside)), yticklabels=[f"{v:g}" for v in inside],
              xlabel="non-members", ylabel="members")  # fmt: skip
    pairs.set_title(f"the pairs: {won.sum()} of {won.size} in order")
    pairs.grid(False)
    return figure


def render_subsamples(drawn: Mapping[int, Sequence[Interval]], truth: Interval) -> Figure:
    """Intervals of the same attack from small samples: a block for each n, `truth` from all.

    Intervals that hold .5 are grey: that experiment could not have told the attack from guessing.
    """
    figure, axes = _figure(figsize=(10.5, 3.9))
    axis, at, middles = axes[0, 0], 0, []
    for found in drawn.values():
        for interval in sorted(found, key=lambda i: i.value):
            colour = "#999999" if interval.contains(0.5) else "#009E73"
            axis.plot([at, at], [interval.low, interval.high], color=colour, lw=2)
            axis.plot(at, interval.value, "o", color=colour, ms=3.5)
            at += 1
        middles.append(at - 1 - (len(found) - 1) / 2)
        at += 4
    axis.axhline(truth.value, color="#0072B2", lw=1.4, label=f"all images: {truth}")
    axis.axhspan(truth.low, truth.high, color="#0072B2", alpha=0.12, lw=0)
    axis.axhline(0.5, color="#444444", lw=1, ls="--", label="guessing")
    axis.plot([], [], color="#999999", lw=2, label="cannot exclude guessing")
    axis.plot([], [], color="#009E73", lw=2, label="can")
    axis.set(xticks=middles, xticklabels=[f"n = {n}" for n in drawn], ylabel="AUC, 95 % interval")
    axis.set_xlabel("images in each group (each bar is one small experiment)")
    axis.set_ylim(max(0, axis.get_ylim()[0]), min(1, axis.get_ylim()[1]))
    axis.grid(False, axis="x")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def render_grouped(
    panels: Mapping[str, Mapping[str, Mapping[str, Interval]]],
    xlabel: str,
    reference: float | None = 0.5,
) -> Figure:
    """Intervals in panels side by side: {panel: {line: {series: interval}}}, one look a series."""
    lines = list(next(iter(panels.values())))
    series = list(next(iter(next(iter(panels.values())).values())))
    height = (0.16 * len(series) + 0.22) * len(lines) + 1.3
    figure, axes = _figure(1, len(panels), sharey=True, figsize=(10.5, height))
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        for row, name in enumerate(lines):
            for k, key in enumerate(series):
                colour, marker, _ = LOOKS[2 + k]
                interval, y = rows[name][key], row + 0.7 * ((k + 0.5) / len(series) - 0.5)
                axis.plot([interval.low, interval.high], [y, y], color=colour, lw=2.6)
                label = key if row == 0 else None
                axis.plot(interval.value, y, marker, color="white", mec=colour, mew=1.8, ms=6.5,
                          label=label)  # fmt: skip
        if reference is not None:
            axis.axvline(reference, color="#444444", lw=1, ls="--")
        axis.set(title=title, xlabel=xlabel, yticks=range(len(lines)), yticklabels=lines)
        axis.set_ylim(len(lines) - 0.5, -0.5)
        for edge in np.arange(0.5, len(lines) - 1):
            axis.axhline(edge, color="#dddddd", lw=0.8)
        axis.grid(False, axis="y")
    if len(series) > 1:
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=2)
    return figure
