"""Online attacks: the attacker trains networks on the very images in question, half of them each.

Carlini et al., "Membership inference attacks from first principles", IEEE S&P 2022, section V. The
structured form is ours: a regression on zones, its references halfway between in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from segleak_utils.attacks import calibration
from segleak_utils.attacks.contests import Attack
from segleak_utils.attacks.references import Case, structured_features
from segleak_utils.checks import numbers

ONLINE = "LiRA, online, fixed variance"
OFFLINE = "LiRA, offline, the same networks"
STRUCTURED = "structured regression, online"


def halves(n_images: int, n_networks: int, seed: int) -> np.ndarray:
    """Which images each network is trained on: bool [networks, images], half of each image's.

    Every choice of half of the networks is dealt to as many images, in random order.
    ValueError for an odd number of networks, or less than four: two of a kind have no deviation.

    >>> halves(6, 4, seed=0).sum(0)  # each image is inside half of the four networks
    array([2, 2, 2, 2, 2, 2])
    """
    n_networks = numbers.count(n_networks, "n_networks")
    if n_networks < 4 or n_networks % 2:
        raise ValueError(f"{n_networks} networks: expected an even number, 4 or more")
    n_images, seed = numbers.count(n_images, "n_images", 1), numbers.count(seed, "seed")
    choices = list(combinations(range(n_networks), n_networks // 2))
    order = np.random.default_rng(seed).permutation(n_images) % len(choices)
    inside = np.zeros((n_networks, n_images), bool)
    for image, choice in enumerate(order):
        inside[list(choices[choice]), image] = True
    return inside


def paired_halves(n_images: int, seeds: Sequence[int | Sequence[int]]) -> np.ndarray:
    """Which images each network of a pair is trained on: bool [2 * pairs, images].

    The first of each pair, dealt by its seed, half of them; the second the rest. ValueError for an
    odd number of images, or none.

    >>> paired_halves(4, [0, 1]).sum(0)
    array([2, 2, 2, 2])
    """
    n_images = numbers.count(n_images, "n_images", 2)
    if n_images % 2:
        raise ValueError(f"{n_images} images: expected an even number, for halves")
    found = np.zeros((2 * len(seeds), n_images), bool)
    for pair, seed in enumerate(seeds):
        order = np.random.default_rng(seed).permutation(n_images)
        found[2 * pair, order[: n_images // 2]] = True
        found[2 * pair + 1, order[n_images // 2 :]] = True
    return found


def online_attacks(target: np.ndarray, theirs: np.ndarray, inside: np.ndarray) -> list[Attack]:
    """Online LiRA, and offline LiRA by the same networks.

    target: the victim's confidences [N] (`calibration.confidence`); theirs: those of the attacker's
    networks, [K,N]; inside: bool [K,N], which of them were trained on the image, half of them for
    each image. ValueError for other shapes, values that are not finite, `inside` that is not
    boolean, or another share.

    >>> inside = np.array([[True, False], [True, False], [False, True], [False, True]])
    >>> theirs = np.where(inside, 3.0, 0.0) + np.array([[0.0], [1.0], [0.0], [1.0]])
    >>> target = np.array([3.5, 0.5])  # like the networks that were trained on the first image
    >>> online, offline = online_attacks(target, theirs, inside)
    >>> online.scores > online.threshold
    array([ True, False])
    """
    target = numbers.finite(target, "target", "[N]")
    theirs = numbers.finite(theirs, "theirs", "[K, N]")
    inside = np.asarray(inside)
    if inside.dtype != bool:
        raise ValueError(f"inside must be boolean, found {inside.dtype}: write `labels == 1`")
    if theirs.shape != inside.shape or theirs.shape[1:] != target.shape:
        found = f"{target.shape}, {theirs.shape} and {inside.shape}"
        raise ValueError(f"shapes {found}; expected [N], [K,N] and [K,N]")
    if len(inside) % 2 or (inside.sum(0) != len(inside) // 2).any():
        raise ValueError("each image must be inside half of the networks: see `halves`")
    # each image has networks of its own on either side: [K/2,N] both
    first = np.argsort(~inside, axis=0, kind="stable")
    within, out = np.split(np.take_along_axis(theirs, first, 0), 2)
    scores = {
        ONLINE: calibration.lira_online(target, within, out, fixed=True),
        OFFLINE: calibration.lira_offline(target, out, fixed=True),
    }
    # a likelihood ratio of 1; offline, as far above the others as they lie around their mean
    thresholds = {ONLINE: 0.0, OFFLINE: 1.0}
    return [Attack(name, "confidence", s, thresholds[name]) for name, s in scores.items()]


def by_side(said: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What networks in pairs say, parted by who was trained on the image: [K/2,N,...] both.

    said: [K,N,...]; inside: bool [K,N]. Of each pair (0 and 1, 2 and 3, ...) one network was
    trained on the image and the other was not, else ValueError. So each image has as many on
    either side, also when a pair is left out.

    >>> inside = np.array([[True, False], [False, True]])
    >>> by_side(np.array([[1, 2], [3, 4]]), inside)
    (array([[1, 4]]), array([[3, 2]]))
    """
    said = np.asarray(said)
    inside = numbers.in_pairs(inside, said.shape[:2])
    first = inside[::2].reshape(len(inside) // 2, -1, *[1] * (said.ndim - 2))
    return np.where(first, said[::2], said[1::2]), np.where(first, said[1::2], said[::2])


def imia(target: np.ndarray, inside: np.ndarray, out: np.ndarray) -> np.ndarray:
    """IMIA's score: how much nearer the victim is to networks that learned the image, float64 [N].

    Confidences of the victim, [N], of networks that were trained on the images, [K,N], and of
    others, [K',N]. Squared distances from the means (Du et al. 2025); 0 where having learned an
    image makes nobody surer of it. ValueError for other shapes, values that are not finite.

    >>> imia(np.array([2.0, 2.0]), np.array([[3.0, 0.0]]), np.array([[0.0, 1.0]]))
    array([3., 0.])
    """
    target, within, without = _means(target, inside, out)
    nearer = (without - target) ** 2 - (within - target) ** 2
    return np.where(within < without, 0, nearer)


def halfway(target: np.ndarray, inside: np.ndarray, out: np.ndarray) -> np.ndarray:
    """How much surer the victim is than a network halfway between "in" and "out": float64 [N].

    Takes, and refuses, what `imia` does. It grows with the victim's confidence without end: a
    victim that is surer than the networks that learned the image is no less suspect.

    >>> halfway(np.array([2.0, 2.0]), np.array([[3.0, 0.0]]), np.array([[0.0, 1.0]]))
    array([0.5, 1.5])
    """
    target, within, without = _means(target, inside, out)
    return target - (within + without) / 2


def _means(target: np.ndarray, *theirs: np.ndarray) -> list[np.ndarray]:
    """The victim's confidences, and the means over each kind of networks; all [N]."""
    target, found = numbers.finite(target, "target", "[N]"), []
    for kind in theirs:
        kind = numbers.finite(kind, "confidences", "[K, N]")
        if kind.shape[1:] != target.shape or not len(kind):
            raise ValueError(f"confidences are {kind.shape}; expected [K, {len(target)}], K >= 1")
        found.append(kind.mean(0))
    return [target, *found]


def structured_model(said: np.ndarray, inside: np.ndarray) -> Pipeline:
    """A logistic regression, learned on each of the attacker's networks in the victim's place.

    said: [K,N,6C], `references.of_zones` of networks in pairs; inside: bool [K,N]. It sees
    `references.structured_features`, with all other pairs for references: one of each pair was
    trained on the image, so that their mean lies halfway between in and out. The pair's own other
    half is left out: it is out where its partner is in, and would give the label away. ValueError
    for less than three pairs, and as `by_side`.
    """
    said = numbers.finite(said, "said", "[K, N, 6C]")
    by_side(said, inside)  # refuses what is not in pairs
    if len(said) < 6:
        raise ValueError(f"{len(said)} networks; expected at least six, in pairs")
    rows = []
    for k, (own, member) in enumerate(zip(said, inside, strict=True)):
        others = np.delete(said, [k - k % 2, k - k % 2 + 1], 0)
        rows.append(structured_features(Case(own, others, member)))
    # many more rows than features: no penalty need be chosen
    model = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))
    return model.fit(np.concatenate(rows), np.concatenate(list(inside)))


def structured_scores(model: Pipeline, own: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Scores [N] by a `structured_model` of what the victim said [N,6C], beside its networks."""
    nobody = np.arange(len(own)) % 2 == 0  # who is a member is not looked at
    return model.decision_function(structured_features(Case(own, said, nobody)))


def structured_online(own: np.ndarray, said: np.ndarray, inside: np.ndarray) -> Attack:
    """The structured online attack on one victim: `structured_model` and `structured_scores`.

    own: [N,6C], of the victim; said: [K,N,6C] and inside: bool [K,N], of the attacker's networks,
    in pairs. ValueError as they raise, and for other images or the victim among the networks.
    """
    scores = structured_scores(structured_model(said, inside), own, said)
    return Attack(STRUCTURED, "class losses + references'", scores, 0.0, rule="as likely in as out")
