"""Pictures of an audit: who is exposed, where, and what a smaller release would help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from segleak_utils.data import PALETTE
from segleak_utils.figures.masks import colour_mask
from segleak_utils.figures.scenes import bare, show_picture
from segleak_utils.figures.style import (
    ATTACKERS,
    LOSS_COLOURS,
    LOSS_LABEL,
    MEMBER,
    NONMEMBER,
    axes_of,
    styled,
)
from segleak_utils.metrics import Interval


@styled
def render_lists(lists: Mapping[str, Sequence[tuple[str, Tensor, Tensor]]]) -> Figure:
    """Images over their masks, two rows for each list: name, image [3,H,W] in 0..1, mask [H,W].

    Lists and images may be of any length and size. ValueError where there is no image at all.
    """
    columns = max((len(list_) for list_ in lists.values()), default=0)
    if not columns:
        raise ValueError(f"lists {', '.join(lists) or '(none)'}: no image in any; expected some")
    figure, axes = axes_of(2 * len(lists), columns, figsize=(2.4 * columns, 2.45 * len(lists)))
    for axis in axes.flat:
        bare(axis)
    palette = PALETTE[np.arange(255) % len(PALETTE)]  # as `data.Scenes`
    for row, (whose, list_) in enumerate(lists.items()):
        axes[2 * row, 0].set_ylabel(whose)
        for (name, image, mask), (above, below) in zip(
            list_, axes[2 * row : 2 * row + 2].T, strict=False
        ):
            show_picture(above, image)
            below.imshow(colour_mask(mask, palette))
            above.set_title(shortened(name), fontsize=8, parse_math=False)
    return figure


def shortened(name: str, most: int = 26) -> str:
    """The end of a long name, which tells files of one folder apart.

    >>> shortened("train/munich/munich_000042_000019", 14)
    '…000042_000019'
    """
    return name if len(name) <= most else f"…{name[len(name) - most + 1 :]}"


@styled
def render_p_values(p_values: NDArray, flagged: NDArray) -> Figure:
    """Histogram of the members' p-values, float [N]; flagged: bool [N], those found one by one.

    Flat, as the line says, where members score as non-members do; a peak on the left is a leak.
    """
    figure, axes = axes_of(figsize=(8.2, 3.2))
    axis = axes[0, 0]
    bins = np.linspace(0, 1, int(np.clip(len(p_values) // 10, 5, 20)) + 1)
    parts = [p_values[flagged], p_values[~flagged]]
    label = f"flagged ({int(flagged.sum())})", f"not flagged ({int((~flagged).sum())})"
    axis.hist(parts, bins, stacked=True, color=[MEMBER, "#a8cfe6"], label=label, edgecolor="white")
    axis.axhline(len(p_values) / (len(bins) - 1), color="#444444", ls="--", lw=1.2,
                 label="if nothing leaked")  # fmt: skip
    axis.set(xlim=(0, 1), xlabel="p-value: share of non-members with as high a score")
    axis.set_ylabel("members")
    axis.legend()
    return figure


@styled
def render_owners(exposure: Mapping[str, float], numbers: Mapping[str, int]) -> Figure:
    """Mean exposure of each owner's images, a dot each; .5 is that of a non-member."""
    figure, axes = axes_of(figsize=(8.2, 0.27 * len(exposure) + 1.1))
    axis, rows = axes[0, 0], np.arange(len(exposure))
    values = np.array([*exposure.values()])
    axis.hlines(rows, 0.5, values, color="#bbbbbb", lw=2)
    axis.plot(values, rows, "o", color=MEMBER)
    axis.axvline(0.5, color="#444444", lw=1, ls="--")
    names = [f"{name} (n = {numbers[name]})" for name in exposure]
    axis.set_yticks(rows, names, parse_math=False)
    axis.set(xlim=(0, 1.02), xlabel="mean share of non-members that score lower (.5: not exposed)")
    axis.invert_yaxis()
    return figure


@styled
def render_exposed(
    rows: Sequence[tuple[str, Tensor, NDArray, NDArray | None]],
) -> Figure:
    """Image [3,H,W] | the model's loss [h,w] | the references' loss minus it, a row for each.

    The third is left out where there is no reference. Blue: the model does better than references.
    """
    compared = all(theirs is not None for _, _, _, theirs in rows)
    columns = 3 if compared else 2
    height, width = rows[0][1].shape[-2:]
    line = float(np.clip(3.6 * height / width, 1.2, 3.6))
    figure, axes = axes_of(len(rows), columns, figsize=(3.7 * columns, line * len(rows) + 1.0))
    top = max(float(np.nanquantile(np.concatenate([r[2].ravel() for r in rows]), 0.99)), 1e-6)
    palette = sns.blend_palette([NONMEMBER, "#f7f7f7", MEMBER], as_cmap=True)
    for line_of, (name, image, loss, theirs) in zip(axes, rows, strict=True):
        show_picture(line_of[0], image)
        line_of[0].set_ylabel(shortened(name), fontsize=8, parse_math=False)
        dark = line_of[1].imshow(loss, vmin=0, vmax=top, cmap=LOSS_COLOURS)
        if compared:
            shown = line_of[2].imshow(theirs - loss, vmin=-top, vmax=top, cmap=palette)
        for axis in line_of:
            bare(axis)
    for axis, title in zip(axes[0], ("image", "the model's loss", "references' minus it"),
                           strict=False):  # fmt: skip
        axis.set_title(title)
    bar = figure.colorbar(dark, ax=axes[:, :2], location="bottom", shrink=0.5, extend="max")
    bar.set_label(LOSS_LABEL)
    if compared:
        bar = figure.colorbar(shown, ax=axes[:, 2], location="bottom", extend="both")
        bar.set_label("nats (blue: the model is surer)")
    return figure


@styled
def render_releases(
    rows: Sequence[tuple[str, str, float, Interval]], xlabel: str = "mean IoU on non-members"
) -> Figure:
    """Leak beside use: a release's name, the attacker, its mean IoU, the AUC; a row for each.

    Naive and adaptive marks of one release are joined: the gap is what hoping for naive costs.
    """
    releases = list(dict.fromkeys(row[0] for row in rows))
    figure, axes = axes_of(
        1, 2, figsize=(9.6, 0.5 * len(releases) + 1.5), sharey=True, width_ratios=(3, 2)
    )
    leak, use = axes[0]
    place = {release: k for k, release in enumerate(releases)}
    sides = {"naive": -0.13, "adaptive": 0.13}
    for attacker, aside in sides.items():
        colour, marker, _ = ATTACKERS[attacker]
        own = [row for row in rows if row[1] == attacker]
        for k, (release, _, _, area) in enumerate(own):
            y = place[release] + aside
            leak.plot([area.low, area.high], [y, y], color=colour, lw=2.4)
            leak.plot(area.value, y, marker, color="white", mec=colour, mew=2, ms=7,
                      label=None if k else f"{attacker} attacker")  # fmt: skip
    for release, k in place.items():
        values = [row[3].value for row in rows if row[0] == release]
        if len(values) == 2:
            leak.plot(
                values, [k + aside for aside in sides.values()], color="#bbbbbb", lw=1, zorder=1
            )
        miou = next(row[2] for row in rows if row[0] == release)
        use.plot([0, miou], [k, k], color="#bbbbbb", lw=2)
        use.plot(miou, k, "s", color="#444444")
        use.annotate(f"{miou:.3f}", (miou, k), (7, 0), textcoords="offset points", va="center",
                     fontsize=8.5)  # fmt: skip
    leak.axvline(0.5, color="#444444", lw=1, ls="--", label="guessing")
    leak.set(yticks=range(len(releases)), yticklabels=releases)
    leak.set_xlabel("AUC of the attack (bar: interval)")
    leak.set_ylim(len(releases) - 0.5, -0.5)
    use.set(xlabel=xlabel, xlim=(0, 1.25 * max(row[2] for row in rows) + 1e-3))
    figure.legend(*leak.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
