"""The pictures of scenes: images, masks, predictions, maps, patches; pure functions to a Figure.

Classes have the Cityscapes colours. No function leaves a figure open in pyplot: a cell shows the
one that is returned. `curves` has the statistics, `leaks` the maps of evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor, nn

from segleak_utils import representations, victims
from segleak_utils.data import VOID, Scenes
from segleak_utils.defenses import Release
from segleak_utils.figures.masks import VOID_COLOUR, colour_mask, colour_prediction, without_void
from segleak_utils.figures.style import (
    LOOKS,
    LOSS_COLOURS,
    LOSS_LABEL,
    MEMBER,
    NONMEMBER,
    STYLE,
    axes_of,
    styled,
)


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

    def through(self, release: Release, seed: int) -> Example:
        """The scene as somebody sees it who is given only what a defence releases."""
        generator = torch.Generator().manual_seed(seed)
        posterior = release(self.posterior[None], generator)
        loss = representations.structured_loss_map(posterior, self.mask[None])
        return replace(self, posterior=posterior[0], loss=loss[0, 0])


def show_picture(axes: Axes, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0).numpy().clip(0, 1))
    bare(axes)


def bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


@styled
def render_contact_sheet(scenes: Scenes, columns: int = 4) -> Figure:
    """Images over their masks, in rows of `columns`."""
    n_rows = -(-len(scenes) // columns)
    figure, axes = axes_of(2 * n_rows, columns, figsize=(9.6, 2.45 * n_rows))
    for axis in axes.flat:
        bare(axis)
    for i in range(len(scenes)):
        row, column = 2 * (i // columns), i % columns
        image, mask = scenes[i]
        show_picture(axes[row, column], image)
        axes[row + 1, column].imshow(colour_mask(mask, scenes.palette))
        axes[row, column].set_title(scenes.ids[i], fontsize=8)
    return figure


@styled
def render_palette(class_names: Sequence[str], palette: np.ndarray) -> Figure:
    """The key to every mask: a swatch and a name for each class, and void."""
    figure, axes = axes_of(figsize=(9.6, 1.1))
    bare(axes[0, 0])
    named = [*zip(class_names, palette, strict=True), ("void", VOID_COLOUR)]
    axes[0, 0].legend(handles=swatches(named), ncols=7, loc="center", handlelength=1.4, fontsize=9)
    return figure


def swatches(named: Sequence[tuple[str, Sequence[int]]]) -> list[Patch]:
    """A legend's handle for each (name, colour in 0..255)."""
    return [
        Patch(facecolor=np.asarray(colour) / 255, edgecolor="#888888", label=name)
        for name, colour in named
    ]


@styled
def render_examples(
    examples: Sequence[Example],
    palette: np.ndarray,
    title: str = "",
    class_names: Sequence[str] = (),
) -> Figure:
    """Image | mask | prediction | loss map, a row for each example, one colour scale for all.

    Where the prediction is wrong and its colour like the true one, it is outlined in white.
    class_names: those that occur are in a legend below, largest first.
    """
    below = 0.55 if class_names else 0
    figure, axes = axes_of(len(examples), 4, figsize=(11, 1.4 * len(examples) + 0.7 + below))
    top = float(np.quantile(torch.stack([e.loss for e in examples]).numpy(), 0.995))
    for row, example in zip(axes, examples, strict=True):
        show_picture(row[0], example.image)
        row[1].imshow(colour_mask(example.mask, palette))
        row[2].imshow(colour_prediction(example.posterior.argmax(0), example.mask, palette))
        loss = without_void(example.loss, example.mask)
        shown = row[3].imshow(loss.numpy(), vmin=0, vmax=max(top, 1e-6), cmap=LOSS_COLOURS)
        for axis in row:
            bare(axis)
        labelled = example.mask != VOID
        mean = example.loss[labelled].mean() if labelled.any() else torch.nan
        row[0].set_ylabel(example.title)
        row[3].text(
            0.985, 0.95, f"mean {mean:.2f}", color="white", ha="right", va="top", fontsize=9,
            transform=row[3].transAxes, bbox={"facecolor": "#00000099", "edgecolor": "none"},
        )  # fmt: skip
    names = ("image", "mask (truth)", "prediction", "loss map (void: grey)")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    bar = figure.colorbar(shown, ax=axes[:, 3], shrink=0.9, extend="max")
    bar.set_label(LOSS_LABEL)
    figure.suptitle(title)
    if class_names:
        maps = [m for e in examples for m in (e.mask, e.posterior.argmax(0))]
        labels, pixels = np.unique(torch.stack([m.long() for m in maps]), return_counts=True)
        order = labels[np.argsort(-pixels, kind="stable")]
        named = [(class_names[c], palette[c]) for c in order if c != VOID]
        if VOID in labels:
            named.append(("void", VOID_COLOUR))
        figure.legend(handles=swatches(named), loc="outside lower center", ncols=9, fontsize=8)
    return figure


@styled
def render_gallery(
    images: Sequence[Tensor],
    losses: Sequence[Tensor],
    captions: Sequence[str],
    colours: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Images over their loss maps, one colour scale for all; a frame in each scene's colour.

    Losses that are NaN (`without_void`) are grey.
    """
    n_rows = -(-len(images) // columns)
    figure, axes = axes_of(2 * n_rows, columns, figsize=(11, 2.72 * n_rows))
    top = float(np.nanquantile(torch.stack([*losses]).numpy(), 0.995))
    for axis in axes.flat:
        bare(axis)
    for i, (image, loss) in enumerate(zip(images, losses, strict=True)):
        above, below = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        show_picture(above, image)
        shown = below.imshow(loss.numpy(), vmin=0, vmax=max(top, 1e-6), cmap=LOSS_COLOURS)
        above.set_title(captions[i], color=colours[i] if colours else "black")
        for axis in (above, below) if colours else ():
            for spine in axis.spines.values():
                spine.set(visible=True, color=colours[i], linewidth=4)
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, extend="max", aspect=40)
    bar.set_label(LOSS_LABEL)
    return figure


@styled
def render_confidence(examples: Sequence[Example]) -> Figure:
    """Image | probability of the predicted class | of the true class, a row for each example."""
    figure, axes = axes_of(len(examples), 3, figsize=(10.5, 1.72 * len(examples) + 0.4))
    for row, example in zip(axes, examples, strict=True):
        show_picture(row[0], example.image)
        row[0].set_ylabel(example.title)
        top = example.posterior.amax(0)
        label = example.mask.long().clamp(max=len(example.posterior) - 1)
        true = example.posterior.gather(0, label[None])
        true = true[0].masked_fill(example.mask == VOID, torch.nan)
        for axis, values in ((row[1], top), (row[2], true)):
            shown = axis.imshow(values.numpy(), vmin=0, vmax=1, cmap="cividis")
            bare(axis)
    names = ("image", "probability of the predicted class", "probability of the true class")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    figure.colorbar(shown, ax=axes[:, 1:], shrink=0.9).set_label("probability (void: white)")
    return figure


@styled
def render_pixels(
    example: Example,
    pixels: Mapping[str, tuple[int, int]],
    class_names: Sequence[str],
    palette: np.ndarray,
) -> Figure:
    """A scene with some pixels (row, column) marked, and the posterior at each as bars."""
    figure = axes_of(figsize=(10.5, 6.2))[0]
    figure.clear()
    with plt.style.context(STYLE):
        grid = figure.add_gridspec(2, len(pixels), height_ratios=(1.5, 1))
        scene = figure.add_subplot(grid[0, :])
        below = [figure.add_subplot(grid[1, k]) for k in range(len(pixels))]
    show_picture(scene, example.image)
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


@styled
def render_channels(
    rows: Mapping[str, Tensor], names: Sequence[str], label: str = "value of the channel (0 to 1)"
) -> Figure:
    """Channels of a representation as pictures in 0..1: rows of maps [K,H,W], K names on top."""
    figure, axes = axes_of(
        len(rows), len(names), figsize=(2.3 * len(names), 1.02 * len(rows) + 0.5)
    )
    for line, (name, maps) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, values in zip(line, maps, strict=True):
            shown = axis.imshow(values.numpy(), vmin=0, vmax=1, cmap="cividis")
            bare(axis)
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    figure.colorbar(shown, ax=axes, shrink=0.9).set_label(label)
    return figure


@styled
def render_maps(maps: Mapping[str, Tensor]) -> Figure:
    """Maps [H,W] of one scene side by side, each with its own colour scale."""
    figure, axes = axes_of(1, len(maps), figsize=(5.3 * len(maps), 2.6))
    for axis, (name, values) in zip(axes[0], maps.items(), strict=True):
        shown = axis.imshow(values.numpy(), cmap=LOSS_COLOURS)
        bare(axis)
        axis.set_title(name)
        figure.colorbar(shown, ax=axis, shrink=0.85).set_label("loss (nats)")
    return figure


@styled
def render_patches(loss: Tensor, corners: Tensor, patch: int, title: str = "") -> Figure:
    """A loss map [H,W] with square patches on it; corners: int [P,2], (row, column).

    Losses that are NaN (`without_void`) are grey.
    """
    figure, axes = axes_of(figsize=(8, 3.6))
    axis = axes[0, 0]
    top = max(float(loss.nanquantile(0.995)), 1e-6)
    shown = axis.imshow(loss.numpy(), vmin=0, vmax=top, cmap=LOSS_COLOURS)
    for k, (row, column) in enumerate(corners.tolist()):
        colour = LOOKS[1 + k % (len(LOOKS) - 1)][0]
        axis.add_patch(Rectangle((column, row), patch, patch, fill=False, ec=colour, lw=2.2))
        box = {"facecolor": colour, "edgecolor": "none", "pad": 2}
        axis.text(column + 4, row + 4, str(k + 1), color="white", va="top", weight="bold", bbox=box)
    bare(axis)
    axis.set_title(title)
    figure.colorbar(shown, ax=axis, shrink=0.85, extend="max").set_label("loss (nats)")
    return figure


def _frame(axis: Axes, colour: str) -> None:
    for spine in axis.spines.values():
        spine.set(visible=True, color=colour, linewidth=3)


@styled
def render_roles(rows: Mapping[str, Sequence[tuple[Tensor, bool]]]) -> Figure:
    """Some scenes of each network, a row for each: (image, member), framed by group."""
    columns = max(len(found) for found in rows.values())
    figure, axes = axes_of(len(rows), columns, figsize=(2.75 * columns, 1.5 * len(rows) + 0.5))
    for axis in axes.flat:
        bare(axis)
    for line, (name, found) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, (image, member) in zip(line, found, strict=False):
            show_picture(axis, image)
            _frame(axis, MEMBER if member else NONMEMBER)
    key = [Patch(facecolor="none", edgecolor=c, lw=3) for c in (MEMBER, NONMEMBER)]
    names = ("member: trained on", "non-member: never seen")
    figure.legend(key, names, loc="outside lower center", ncols=2)
    return figure


@styled
def render_patch_strip(
    losses: Tensor, labels: Tensor, member: np.ndarray, palette: np.ndarray
) -> Figure:
    """Patches as a patch classifier gets them: loss over label, a block for each group.

    losses: float [N,h,w] (nats); labels: integer [N,h,w]; member: bool [N], both groups alike.
    """
    columns = int(max(member.sum(), (~member).sum()))
    figure, axes = axes_of(4, columns, figsize=(1.55 * columns + 1.2, 6.4))
    top = max(float(np.quantile(losses.numpy(), 0.995)), 1e-6)
    for axis in axes.flat:
        bare(axis)
    blocks = ((member, MEMBER, "members"), (~member, NONMEMBER, "non-members"))
    for block, (chosen, colour, name) in enumerate(blocks):
        axes[2 * block, 0].set_ylabel(f"{name}:\nloss", color=colour)
        axes[2 * block + 1, 0].set_ylabel("label", color=colour)
        for column, i in enumerate(np.flatnonzero(chosen)):
            above, below = axes[2 * block : 2 * block + 2, column]
            shown = above.imshow(
                without_void(losses[i], labels[i]).numpy(), vmin=0, vmax=top, cmap=LOSS_COLOURS
            )
            below.imshow(colour_mask(labels[i], palette))
            _frame(above, colour)
            _frame(below, colour)
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, extend="max", aspect=30)
    bar.set_label(LOSS_LABEL)
    return figure


@styled
def render_evidence(
    rows: Mapping[str, tuple[Tensor, Tensor, Tensor]], middle: float = 0.0
) -> Figure:
    """Image [3,H,W] | loss map [H,W] | evidence map [H,W], a row for each scene.

    The evidence (`attacks.evidence_map`) has one scale for all: blue above `middle` speaks for
    "member", orange below it for "non-member".
    """
    figure, axes = axes_of(len(rows), 3, figsize=(11, 1.85 * len(rows) + 0.5))
    losses = torch.stack([loss for _, loss, _ in rows.values()])
    far = torch.stack([evidence - middle for *_, evidence in rows.values()]).abs()
    far = float(far.quantile(0.9))  # the few strongest would leave everything else white
    top = max(float(np.nanquantile(losses.numpy(), 0.995)), 1e-6)
    map_of = sns.blend_palette([NONMEMBER, "#f7f7f7", MEMBER], as_cmap=True)
    limits = {"vmin": middle - max(far, 1e-6), "vmax": middle + max(far, 1e-6), "cmap": map_of}
    for line, (name, (image, loss, evidence)) in zip(axes, rows.items(), strict=True):
        show_picture(line[0], image)
        dark = line[1].imshow(loss.numpy(), vmin=0, vmax=top, cmap=LOSS_COLOURS)
        shown = line[2].imshow(evidence.numpy(), **limits)
        for axis in line:
            bare(axis)
        line[0].set_ylabel(name)
    for axis, name in zip(axes[0], ("image", "loss map", "evidence, patch by patch"), strict=True):
        axis.set_title(name)
    figure.colorbar(dark, ax=axes[:, 1], shrink=0.7, extend="max").set_label("loss (nats)")
    bar = figure.colorbar(shown, ax=axes[:, 2], shrink=0.7, extend="both")
    bar.set_label("patch score (blue: member)")
    return figure
