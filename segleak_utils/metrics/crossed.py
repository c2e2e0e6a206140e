"""Rates over several victims that were asked about the same images: both are drawn anew.

Victims that share their images are no independent measurements: an image that stands out does so
in all of them. And images that share their victim are none either.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segleak_utils.checks import numbers
from segleak_utils.metrics.intervals import Interval

DRAWS = 500
Rate = Callable[[NDArray, NDArray, NDArray, NDArray], NDArray]


def mean_auc(
    scores: ArrayLike,
    inside: ArrayLike,
    *,
    seed: int,
    against: ArrayLike | None = None,
    n_boot: int = DRAWS,
) -> Interval:
    """Mean over victims of the AUC, with a 95 % interval over images *and* pairs of victims.

    scores: [K,N] of K victims on the same N images, higher means member; inside: bool [K,N], who
    was trained on what, networks 0 and 1, 2 and 3, ... on the two halves of the images. With
    `against` (other scores [K,N]) the mean of the differences. Images and pairs are drawn anew,
    each by itself (Owen's pigeonhole bootstrap, 2007), which is somewhat too wide. ValueError for
    other shapes, scores that are not finite, or networks that are not in pairs.

    >>> inside = np.stack([np.arange(40) < 20, np.arange(40) >= 20])
    >>> print(mean_auc(np.where(inside, 1.0, 0.0), inside, seed=0))
    1.00 [1.00, 1.00]
    """
    return _mean(_weighted_auc, scores, inside, against, seed, n_boot)


def mean_tpr(
    scores: ArrayLike,
    inside: ArrayLike,
    fpr: float,
    *,
    seed: int,
    against: ArrayLike | None = None,
    of: ArrayLike | None = None,
    n_boot: int = DRAWS,
) -> Interval:
    """Mean over victims of the TPR at an FPR, each by a threshold of its own; else as `mean_auc`.

    of: bool [N], the images whose members count; thresholds come from all non-members. ValueError
    for an FPR below one of a victim's non-members, and where none of a victim's members counts.
    """
    fpr = numbers.real(fpr, "fpr", 0, 1, ends="()")
    inside = np.asarray(inside)
    _checked(scores, inside)
    outside = int((~inside).sum(1).min())
    if fpr * outside < 1 - 1e-9:
        raise ValueError(
            f"fpr {fpr:g} of {outside} non-members a victim is less than one; expected at least "
            f"{1 / outside:.2g}"
        )
    if of is None:
        of = np.ones(inside.shape[1], bool)
    of = numbers.labels(of, inside.shape[1], "of", "a row of scores")
    if not (inside & of).any(1).all():
        raise ValueError("of leaves a victim without members; expected some of each victim's")
    return _mean(partial(_weighted_tpr, fpr=fpr), scores, inside, against, seed, n_boot, of)


def _mean(
    rate: Rate,
    scores: ArrayLike,
    inside: ArrayLike,
    against: ArrayLike | None,
    seed: int,
    n_boot: int,
    of: NDArray[np.bool_] | None = None,
) -> Interval:
    inside = np.asarray(inside)
    signs = [(scores, 1), *([] if against is None else [(against, -1)])]
    checked = [(_checked(values, inside), sign) for values, sign in signs]
    rng = np.random.default_rng(numbers.count(seed, "seed"))
    n_boot = numbers.count(n_boot, "n_boot", 40)
    k, n = inside.shape
    # the first row is the estimate: every image and pair once
    images = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), n_boot)])
    counted = images if of is None else images * of  # as members
    pairs = np.vstack([np.ones(k // 2), rng.multinomial(k // 2, np.full(k // 2, 2 / k), n_boot)])
    rates = np.stack(
        [
            sum(
                sign * rate(values[v], inside[v], counted[:, inside[v]], images[:, ~inside[v]])
                for values, sign in checked
            )
            for v in range(k)
        ],
        1,
    )
    means = (rates * pairs.repeat(2, 1)).sum(1) / k
    low, high = np.quantile(means[1:], [0.025, 0.975])
    value = float(means[0])
    members = int((inside[0] if of is None else inside[0] & of).sum())
    outside = n - int(inside[0].sum())
    return Interval(value, min(value, low), max(value, high), members, outside)


def _checked(scores: ArrayLike, inside: NDArray) -> NDArray[np.float64]:
    scores = numbers.finite(scores, "scores", "[K, N]")
    inside = numbers.in_pairs(inside, scores.shape)
    if not inside.any(1).all() or inside.all(1).any():
        raise ValueError("a victim has no members, or no non-members")
    return scores


def _weighted_auc(scores, member, weights, others) -> NDArray[np.float64]:
    """AUC [B] where images count as often as weights [B,members] and others [B,rest] say."""
    order = np.argsort(scores[~member])
    below = np.hstack([np.zeros((len(others), 1)), np.cumsum(others[:, order], 1)])
    sorted_ = scores[~member][order]
    first, last = (np.searchsorted(sorted_, scores[member], side) for side in ("left", "right"))
    won = (below[:, first] + below[:, last]) / 2
    pairs = weights.sum(1) * others.sum(1)
    return np.divide((won * weights).sum(1), pairs, out=np.full(len(won), 0.5), where=pairs > 0)


def _weighted_tpr(scores, member, weights, others, fpr: float) -> NDArray[np.float64]:
    """TPR [B], as `_weighted_auc`: above the score with at most `fpr` of the others above it."""
    order = np.argsort(-scores[~member], kind="stable")
    above = np.cumsum(others[:, order], 1)
    allowed = fpr * others.sum(1, keepdims=True) + 1e-9
    first = (above > allowed).argmax(1)  # the first that must not be accused
    thresholds = scores[~member][order][first]
    found = (scores[member][None] > thresholds[:, None]) * weights
    total = weights.sum(1)
    return np.divide(found.sum(1), total, out=np.zeros(len(total)), where=total > 0)
