"""The blind baseline on the auditor's own two lists: can they be told apart without any model?

It is learned across folds, since there is nothing else to learn such a difference from, and its
interval comes from relabelling: DeLong's would miss .5 in 16 % of the cases in which nothing
differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from segleak_utils.audit.findings import Blind, Number
from segleak_utils.checks import numbers

FOLDS = 5
PENALTY = 0.1  # of the ridge, for each image
TELLING = 2.0  # deviations from chance of a look that is learned from; three looks in any case
FAR = 4.0  # deviations beyond which a look is no further away


def blind(
    features: ArrayLike,
    names: Sequence[str],
    member: ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    relabellings: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Blind:
    """Tell members from non-members by features float [N,F] alone, each look and its square.

    Ridge regression across folds, whole groups in a fold; the AUC is the mean of the folds'. The
    relabelled lists (whole groups where a group is of one kind) say what AUC chance gives: the
    interval holds .5 if that AUC lies in the central `level` of theirs. ValueError for what cannot
    be, fewer than ten of a kind, and too few relabellings for that level.
    """
    k = place(relabellings, level)
    features = numbers.finite(features, "features", "[N, F]")
    member = numbers.labels(member, len(features), of="features")
    if len(names) != features.shape[1]:
        raise ValueError(f"{len(names)} names for {features.shape[1]} features")
    m, n = int(member.sum()), int((~member).sum())
    if min(m, n) < 10:
        raise ValueError(f"{m} members and {n} non-members; a blind baseline needs ten of each")
    codes = np.arange(len(member)) if groups is None else np.unique(groups, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    looks = _looks(features)
    labels = np.stack([member, *_relabelled(member, codes, relabellings, rng)])
    areas = _across_folds(looks, labels, _folds(codes, rng))
    value, chance = float(areas[0]), areas[1:]
    p_value = float((1 + (chance >= value).sum()) / (1 + len(chance)))
    low, high = np.sort(chance)[[k - 1, -k]]
    low, high = value + 0.5 - float(high), value + 0.5 - float(low)
    return Blind(
        auc=Number(
            value=value, low=max(0.0, min(low, value)), high=min(1.0, max(high, value)),
            level=level, n_members=m, n_nonmembers=n, how="relabelling",
            n_member_groups=None if groups is None else len(np.unique(codes[member])),
            n_nonmember_groups=None if groups is None else len(np.unique(codes[~member])),
        ),
        p_value=p_value,
        relabellings=relabellings,
        looks=tuple(names),
        most_telling=most_telling(features, names, member),
        differs=low > 0.5,
    )  # fmt: skip


def place(relabellings: int, level: float) -> int:
    """Which of the sorted relabelled AUCs, from either end, bounds their central `level`.

    Beyond it lies a share of at most (1 - level) / 2, itself counted. ValueError where even the
    outermost is too far in.

    >>> place(200, 0.95)
    5
    """
    tail = 0.5 - level / 2
    found = int(tail * (relabellings + 1) + 1e-9)
    if found < 1:
        least = math.ceil(1 / tail - 1e-6) - 1
        raise ValueError(
            f"{relabellings} relabellings cannot tell what happens in one of {1 / (2 * tail):.0f} "
            f"audits; an interval of level {level:g} needs at least {least}"
        )
    return found


def can_tell(member: ArrayLike, groups: Sequence[str] | None, level: float) -> bool:
    """Whether relabelled owners are enough for any difference between the lists to be seen.

    Two lists of three owners each can be dealt out in 20 ways, and the most telling of 20 is no
    surprise at 95 %.

    >>> member = np.arange(16) < 8
    >>> [can_tell(member, list(of), 0.95) for of in ("aaabbbccdddeeeff", "abcdefghijklmnop")]
    [False, True]
    """
    member = np.asarray(member, bool)
    codes = np.arange(len(member)) if groups is None else np.unique(groups, return_inverse=True)[1]
    m, n = np.bincount(codes, member), np.bincount(codes, ~member)
    if (m * n == 0).all():
        ways = math.comb(len(m), int((m > 0).sum()))
    else:
        ways = math.prod(math.comb(int(a + b), int(a)) for a, b in zip(m, n, strict=True))
    return ways > 2 / (1 - level)


def most_telling(features: NDArray, names: Sequence[str], member: NDArray) -> str:
    """The look by which alone members and non-members are told apart best."""
    ranks = rankdata(features, axis=0)
    m, n = int(member.sum()), int((~member).sum())
    areas = (ranks[member].sum(0) - m * (m + 1) / 2) / (m * n)
    return names[int(np.abs(areas - 0.5).argmax())]


def _looks(features: NDArray) -> NDArray[np.float64]:
    """Each look in deviations from its mean, and its square, without those that are constant."""
    spread = features.std(0)
    kept = spread > 1e-12 * (1 + np.abs(features).max(0))
    scaled = (features[:, kept] - features[:, kept].mean(0)) / spread[kept]
    scaled = scaled.clip(-FAR, FAR)
    return np.hstack([scaled, scaled**2 - 1])


def _folds(codes: NDArray, rng: np.random.Generator) -> NDArray[np.intp]:
    """The fold of each image: whole groups together, folds of about one size."""
    groups, sizes = np.unique(codes, return_counts=True)
    order = rng.permutation(len(groups))
    order = order[np.argsort(-sizes[order], kind="stable")]
    n_folds = min(FOLDS, max(2, len(groups) // 4))  # so that most folds hold both kinds
    load, fold = np.zeros(n_folds), np.zeros(codes.max() + 1, np.intp)
    for group in order:
        least = int(load.argmin())
        fold[groups[group]], load[least] = least, load[least] + sizes[group]
    return fold[codes]


def _relabelled(
    member: NDArray, codes: NDArray, n: int, rng: np.random.Generator
) -> list[NDArray[np.bool_]]:
    """The labels dealt out anew: to groups where each is of one kind, else within each group."""
    n_codes = codes.max() + 1
    share = np.bincount(codes, member, n_codes) / np.maximum(
        np.bincount(codes, minlength=n_codes), 1
    )
    if np.isin(share, (0, 1)).all():
        kinds = np.unique(codes)
        pure = share[kinds] == 1
        dealt = np.zeros(n_codes, bool)
        found = []
        for _ in range(n):
            dealt[kinds] = rng.permutation(pure)
            found.append(dealt[codes])
        return found
    found = []
    for _ in range(n):
        labels = member.copy()
        for code in np.unique(codes):
            rows = np.flatnonzero(codes == code)
            labels[rows] = rng.permutation(labels[rows])
        found.append(labels)
    return found


def _across_folds(looks: NDArray, labels: NDArray[np.bool_], folds: NDArray) -> NDArray[np.float64]:
    """AUC of each labelling [L,N], learned on the other folds; folds weighed by their pairs.

    Looks that tell nothing on the other folds are left out: many of them would drown one that does.
    """
    total, weight = np.zeros(len(labels)), np.zeros(len(labels))
    for fold in np.unique(folds):
        here = folds == fold
        x, y = looks[~here], labels[:, ~here].astype(np.float64)
        middle = x.mean(0)
        y = y - y.mean(1, keepdims=True)
        x = x - middle
        weights = _weights(x.T @ x, x.T @ y.T, len(x), (y**2).sum(1))
        scores = (looks[here] - middle) @ weights
        ranks = rankdata(scores, axis=0)
        own = labels[:, here].T
        m, n = own.sum(0), (~own).sum(0)
        pairs = m * n
        total += (ranks * own).sum(0) - m * (m + 1) / 2
        weight += pairs
    # of few owners no fold may hold both kinds: then nothing can be told
    return np.divide(total, weight, out=np.full(len(labels), 0.5), where=weight > 0)


def _weights(left: NDArray, right: NDArray, n: int, spread: NDArray) -> NDArray[np.float64]:
    """Ridge weights [F,L] on the looks that tell something: left = X'X, right = X'Y [F,L]."""
    found = np.zeros_like(right)
    scale = np.sqrt(np.diag(left))[:, None] * np.sqrt(spread)
    telling = np.abs(np.divide(right, scale, out=np.zeros_like(right), where=scale > 0)) * n**0.5
    order = np.argsort(-telling, axis=0, kind="stable")
    counts = np.minimum(np.maximum((telling > TELLING).sum(0), 3), len(left))
    for count in np.unique(counts[counts > 0]):  # systems of one size are solved together
        which = np.flatnonzero(counts == count)
        kept = order[:count, which].T
        part = left[kept[:, :, None], kept[:, None]] + PENALTY * n * np.eye(count)
        solved = np.linalg.solve(part, right[kept, which[:, None]][..., None])
        found[kept, which[:, None]] = solved[..., 0]
    return found
