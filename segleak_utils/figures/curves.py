"""The curves and the statistics: pure functions from numbers to a Figure, in the common style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from segleak_utils import metrics
from segleak_utils.figures.style import (
    ATTACKS,
    MEMBER,
    NONMEMBER,
    PLAIN,
    axes_of,
    looks_of,
    styled,
)
from segleak_utils.metrics import Interval

# ---------------------------------------------------------------------------------- networks


@styled
def render_class_bars(
    values: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    xlabel: str,
    xscale: str = "linear",
) -> Figure:
    """A number for each class and group, e.g. intersection over union of members, as dots."""
    figure, axes = axes_of(figsize=(8, 0.27 * len(class_names) + 1.1))
    axis, rows = axes[0, 0], np.arange(len(class_names))
    looks = ((MEMBER, "o"), (NONMEMBER, "D"))
    axis.hlines(rows, *np.sort(np.stack([*values.values()]), 0)[[0, -1]], color="#bbbbbb", lw=2)
    for (name, numbers), (colour, marker) in zip(values.items(), looks, strict=False):
        axis.plot(numbers, rows, marker, color=colour, label=name)
    axis.set(yticks=rows, yticklabels=class_names, xlabel=xlabel, xscale=xscale)
    axis.invert_yaxis()
    axis.legend(loc="best")
    return figure


@styled
def render_victim_training(found: Mapping) -> Figure:
    """A network's training as its file tells it: loss, and mean IoU on the held-out scenes.

    `found` is ``meta["metrics"]`` of `experiment.Network`.
    """
    figure, axes = axes_of(1, 2, figsize=(9.6, 3.3))
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


@styled
def render_trust(accuracy: np.ndarray, confidence: np.ndarray, member: np.ndarray) -> Figure:
    """How often a network is right about an image against how sure it is: a dot for each image.

    accuracy, confidence: float [N] in 0..1; member: bool [N]. Crosses are the means of the groups.
    """
    figure, axes = axes_of(figsize=(6.4, 5.2))
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


@styled
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
    figure, axes = axes_of(1, 2, sharey=True, figsize=(9.6, 0.27 * len(class_names) + 1.3))
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


@styled
def render_scores(
    scores: Mapping[str, np.ndarray],
    member: np.ndarray,
    thresholds: Mapping[str, float] | None = None,
) -> Figure:
    """Histograms of membership scores of members and non-members, a panel for each attack."""
    figure, axes = axes_of(1, len(scores), figsize=(max(4.6 * len(scores), 5.5), 3.1))
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


@styled
def render_roc(
    scores: Mapping[str, np.ndarray],
    member: np.ndarray,
    areas: Mapping[str, Interval],
    rates: Mapping[str, Interval] | None = None,
    fpr: float = 0.01,
) -> Figure:
    """ROC of several attacks on the same images: linear, and log-log from the 1/n floor up.

    `rates`: TPRs at `fpr` with their intervals, as bars side by side on the log-log panel.
    """
    figure, axes = axes_of(1, 2, figsize=(10.5, 4.6))
    linear, log = axes[0]
    looks = zip(scores.items(), looks_of(scores), strict=True)
    for k, ((name, values), (colour, mark, dash)) in enumerate(looks):
        curve = metrics.roc(values, member)
        label = f"{name}: {areas[name]}"
        linear.plot(curve.fpr, curve.tpr, color=colour, ls=dash, label=label)
        shown = curve.fpr >= curve.smallest_fpr
        log.plot(curve.fpr[shown], curve.tpr[shown], color=colour, ls=dash)
        if rates:
            rate, least = rates[name], 0.1 / curve.n_members  # a logarithm has no 0
            at = fpr * 1.09 ** (k - (len(scores) - 1) / 2)
            log.plot([at] * 2, [max(rate.low, least), rate.high], color=colour, lw=2)
            log.plot(at, max(rate.value, least), mark, color="white", mec=colour, ms=5)
    floor = curve.smallest_fpr
    diagonal = np.array([floor, 1])
    linear.plot([0, 1], [0, 1], color="#888888", lw=1, label="guessing")
    log.plot(diagonal, diagonal, color="#888888", lw=1)
    log.axvline(floor, color="#888888", lw=1, ls=":")
    log.text(floor * 1.08, 0.8, f"1/n, n = {curve.n_nonmembers}", rotation=90, va="top",
             fontsize=8, color="#555555")  # fmt: skip
    linear.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title="linear")
    bars = f" (bars: 95 % interval at {100 * fpr:g} %)" if rates else ""
    log.set(xscale="log", yscale="log", xlim=(floor * 0.8, 1), title=f"log-log{bars}")
    log.set_ylim(1 / curve.n_members, 1)
    for axis in (linear, log):
        axis.set(xlabel="false positive rate (non-members accused)")
        axis.set(ylabel="true positive rate (members found)")
    levels = " or ".join(
        f"{100 * level:g} %" for level in sorted({a.level for a in areas.values()})
    )
    figure.legend(*linear.get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  fontsize=9, title=f"AUC [{levels} interval]", frameon=False)  # fmt: skip
    return figure


@styled
def render_intervals(
    intervals: Mapping[str, Interval], xlabel: str, reference: float | None = 0.5
) -> Figure:
    """Estimates with their intervals, one line each, and the value that means "nothing".

    An attack has its own colour and marker (`style.ATTACKS`); whatever else is grey.
    """
    figure, axes = axes_of(figsize=(8.6, 0.42 * len(intervals) + 1.0))
    axis = axes[0, 0]
    for row, (name, interval) in enumerate(intervals.items()):
        colour, marker, _ = ATTACKS.get(name, ("#444444", "o", "-"))
        axis.plot([interval.low, interval.high], [row, row], color=colour, lw=3)
        axis.plot(interval.value, row, marker, color="white", mec=colour, mew=2, ms=7)
    if reference is not None:
        axis.axvline(reference, color="#444444", lw=1, ls="--")
    axis.set(yticks=range(len(intervals)), yticklabels=intervals, xlabel=xlabel)
    axis.set_ylim(len(intervals) - 0.5, -0.5)
    return figure


@styled
def render_against(
    x: Sequence[float],
    series: Mapping[str, Sequence[Interval]],
    xlabel: str,
    ylabel: str = "AUC",
    reference: Mapping[str, float] | None = None,
    xscale: str = "linear",
) -> Figure:
    """Estimates against a quantity, e.g. AUC against the number of patches, with 95 % bands."""
    figure, axes = axes_of(figsize=(8.2, 3.9))
    axis = axes[0, 0]
    for (name, found), (colour, marker, dash) in zip(
        series.items(), looks_of(series, PLAIN), strict=True
    ):
        axis.plot(x, [i.value for i in found], color=colour, marker=marker, ls=dash, label=name)
        axis.fill_between(
            x, [i.low for i in found], [i.high for i in found], color=colour, alpha=0.13, lw=0
        )
    for name, value in (reference or {}).items():
        axis.axhline(value, color="#444444", lw=1.2, ls="--")
        axis.annotate(
            name, (1.01, value), xycoords=("axes fraction", "data"), va="center", fontsize=9
        )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel=f"{ylabel} (band: 95 % interval)", xscale=xscale)
    axis.set_xticks(list(x), [f"{value:g}" for value in x])
    axis.minorticks_off()  # a logarithmic axis would put labels of its own between
    # above the curves: no line runs through it
    figure.legend(loc="outside upper center", ncols=min(len(series), 2))
    return figure


@styled
def render_trainings(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Several attackers' trainings in one picture: loss, and AUC of the images kept aside."""
    figure, axes = axes_of(1, 2, figsize=(9.6, 3.3))
    panels = ((axes[0, 0], "loss", "cross-entropy (nats)", np.log(2)),
              (axes[0, 1], "select_auc", "AUC on shadow images kept aside", 0.5))  # fmt: skip
    for axis, key, label, guess in panels:
        for (name, history), (colour, marker, dash) in zip(
            histories.items(), looks_of(histories, PLAIN), strict=True
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


@styled
def render_toy_roc(scores: np.ndarray, member: np.ndarray) -> Figure:
    """A ROC by hand: the scores on a line, the staircase they make, and the pairs it counts."""
    figure, axes = axes_of(1, 3, figsize=(11.5, 3.7), width_ratios=(1, 1.15, 1.15))
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


@styled
def render_subsamples(drawn: Mapping[int, Sequence[Interval]], truth: Interval) -> Figure:
    """Intervals of the same attack from small samples: a block for each n, `truth` from all.

    Intervals that hold .5 are grey: that experiment could not have told the attack from guessing.
    """
    figure, axes = axes_of(figsize=(10.5, 3.9))
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


@styled
def render_grouped(
    panels: Mapping[str, Mapping[str, Mapping[str, Interval]]],
    xlabel: str,
    reference: float | None = 0.5,
) -> Figure:
    """Intervals in panels side by side: {panel: {line: {series: interval}}}, one look a series."""
    lines = list(next(iter(panels.values())))
    series = list(next(iter(next(iter(panels.values())).values())))
    looks = looks_of(series, PLAIN)
    attacks = [look[0] for name, look in zip(series, looks, strict=True) if name in ATTACKS]
    akin = len({*attacks}) < len(attacks)  # attacks of one colour differ in their dash
    height = (0.16 * len(series) + 0.22) * len(lines) + 1.3
    figure, axes = axes_of(1, len(panels), sharey=True, figsize=(10.5, height))
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        for row, name in enumerate(lines):
            for k, (key, (colour, marker, dash)) in enumerate(zip(series, looks, strict=True)):
                interval, y = rows[name][key], row + 0.7 * ((k + 0.5) / len(series) - 0.5)
                ends, line = [interval.low, interval.high], dash if akin else "-"
                axis.plot(ends, [y, y], color=colour, lw=2.6, ls=line)
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
