"""Who is trained on what, online."""

from __future__ import annotations

import numpy as np
import pytest

from segleak_utils import metrics
from segleak_utils.attacks import calibration
from segleak_utils.attacks.online import (
    by_side,
    halfway,
    halves,
    imia,
    online_attacks,
    structured_model,
    structured_online,
    structured_scores,
)
from segleak_utils.attacks.references import Case, structured_features


def test_every_image_is_in_half_of_the_networks():
    inside = halves(60, 4, seed=3)
    assert inside.shape == (4, 60) and (inside.sum(0) == 2).all()
    assert (inside.sum(1) == 30).all()
    choices, counts = np.unique(inside, axis=1, return_counts=True)
    assert choices.shape[1] == 6 and (counts == 10).all()
    np.testing.assert_array_equal(inside, halves(60, 4, seed=3))
    assert (inside != halves(60, 4, seed=4)).any()
    for n in (2, 5):
        with pytest.raises(ValueError, match=f"{n} networks: expected an even number"):
            halves(60, n, seed=0)


@pytest.mark.parametrize(
    ("n_images", "n_networks", "seed"),
    [(0, 4, 0), (1.5, 4, 0), (6, 4.0, 0), (6, True, 0), (6, 4, None), (6, 4, -1)],
)
def test_halves_are_of_whole_numbers(n_images, n_networks, seed):
    with pytest.raises(ValueError, match=r"(n_images|n_networks|seed) is"):
        halves(n_images, n_networks, seed)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"target": np.array([0, np.nan])}, "target holds 1 NaN"),
        ({"theirs": np.full((4, 2), np.inf)}, "theirs holds 8 NaN or infinite"),
        ({"theirs": np.zeros((4, 3))}, "expected"),
        ({"inside": np.array([[1, 1], [1, 1], [0, 0], [0, 0]])}, "inside must be boolean"),
        ({"inside": np.ones((4, 2), bool)}, "inside half of the networks"),
        ({"target": np.zeros((2, 1))}, "target must be real numbers"),
    ],
)
def test_what_online_attacks_cannot_compare_is_refused(change, found):
    inside = np.array([[True, True], [True, True], [False, False], [False, False]])
    theirs = np.arange(8.0).reshape(4, 2)
    good = {"target": np.zeros(2), "theirs": theirs, "inside": inside}
    with pytest.raises(ValueError, match=found):
        online_attacks(**good | change)


def said(rng: np.random.Generator, n_pairs: int, n: int, leak: float) -> tuple:
    """Features of four zones by networks in pairs: two of the zones leak."""
    first = rng.random((n_pairs, n)) < 0.5
    inside = np.stack([first, ~first], 1).reshape(2 * n_pairs, n)
    hard = rng.gamma(4, 0.1, (n, 4))
    shares = rng.dirichlet(np.ones(4), n)
    shares[: n // 2, 3] = 0  # a zone that half of the images have not
    shares /= shares.sum(1, keepdims=True)
    noise = np.exp(rng.normal(0, [0.1, 0.1, 1, 0.1], (2 * n_pairs, n, 4)))
    mean = hard * noise * np.exp(-leak * inside[..., None] * [1, 0.5, 0, 0]) * (shares > 0)
    total = mean * shares
    return np.concatenate([mean, total, np.broadcast_to(shares, mean.shape)], -1), inside


def test_the_structured_attack_finds_more_than_the_mean_does():
    known, inside = said(np.random.default_rng(0), 9, 400, leak=0.15)
    attack = structured_online(known[0], known[2:], inside[2:])
    plain = calibration.confidence(known[..., 4:8].sum(-1))
    lira = online_attacks(plain[0], plain[2:], inside[2:])[0]
    ahead = metrics.paired_auc_difference(attack.scores, lira.scores, inside[0], seed=0)
    assert ahead.low > 0
    right = metrics.balanced_accuracy_at(attack.scores, inside[0], attack.threshold)
    assert right.low > 0.5
    again = structured_online(known[0], known[2:], inside[2:])
    np.testing.assert_array_equal(attack.scores, again.scores)


def test_the_structured_attack_finds_nothing_where_nothing_is():
    areas = []
    for seed in range(8):
        known, inside = said(np.random.default_rng(seed), 5, 300, leak=0.0)
        scores = structured_online(known[0], known[2:], inside[2:]).scores
        areas.append(metrics.auc(scores, inside[0]))
    assert sum(area.contains(0.5) for area in areas) >= 6
    assert abs(np.mean([area.value for area in areas]) - 0.5) < 0.03


def test_partners_are_told_apart_and_left_out():
    known, inside = said(np.random.default_rng(0), 4, 50, leak=0.3)
    within, out = by_side(known, inside)
    assert (within[0, inside[0]] == known[0, inside[0]]).all()
    assert (out[0, inside[0]] == known[1, inside[0]]).all()
    # the partner would be a trace of the label in the mean: without it the two kinds are alike
    model = structured_model(known, inside)
    beside = structured_scores(model, known[0], known[2:])
    by_hand = structured_features(Case(known[0], known[2:], inside[0]))
    np.testing.assert_array_equal(beside, model.decision_function(by_hand))
    rows = [
        structured_features(Case(known[k], np.delete(known, [k // 2 * 2, k // 2 * 2 + 1], 0), m))
        for k, m in enumerate(inside)
    ]
    # their means are the same whoever is left out
    assert model.steps[0][1].scale_ == pytest.approx(np.concatenate(rows).std(0))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda k, i: (k[0], k[1:], i[1:]), "pairs"),
        (lambda k, i: (k[2], k[2:], i[2:]), "own losses"),
        (lambda k, i: (k[0], k[2:6], i[2:6]), "4 networks; expected at least six"),
        (lambda k, i: (k[0], k[2:], ~np.eye(len(i) - 2, len(i[0]), dtype=bool)), "pairs"),
        (lambda k, i: (k[0], k[2:], i[2:].astype(int)), "bool"),
        (lambda k, i: (k[0, ::-1], k[2:], i[2:]), "different images"),
        (lambda k, i: (k[0, :, :-1], k[2:], i[2:]), "expected"),
        (lambda k, i: (np.full_like(k[0], np.nan), k[2:], i[2:]), "NaN"),
    ],
)
def test_what_the_structured_attack_cannot_compare_is_refused(change, found):
    with pytest.raises(ValueError, match=found):
        structured_online(*change(*said(np.random.default_rng(0), 6, 30, leak=0.2)))


@pytest.mark.parametrize("score", [imia, halfway])
def test_what_pupils_cannot_be_compared_with_is_refused(score):
    target, theirs = np.zeros(3), np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"confidences are \(2, 2\); expected \[K, 3\], K >= 1"):
        score(target, theirs[:, :2], theirs)
    with pytest.raises(ValueError, match=r"confidences are \(0, 3\)"):
        score(target, theirs, theirs[:0])
    with pytest.raises(ValueError, match="confidences must be real numbers"):
        score(target, theirs[0], theirs)
    with pytest.raises(ValueError, match="finite"):
        score(target, theirs * np.nan, theirs)


def test_pupils_are_worth_more_than_those_who_never_saw_the_image():
    """Images differ in how hard they are, and in how much a network learns of them."""
    rng = np.random.default_rng(0)
    n = 4000
    member, hard, gain = np.arange(n) < n // 2, rng.normal(size=n), rng.gamma(2, 0.5, n)
    noise = 0.2 * rng.normal(size=(5, n))
    target = hard + gain * member + noise[0]
    out, inside = hard + noise[1:3], hard + gain + noise[3:]
    plain = metrics.auc(target - out.mean(0), member)
    for score in (imia, halfway):
        assert metrics.auc(score(target, inside, out), member).low > plain.high
    nobody = hard + 0.2 * rng.normal(size=n)  # a network that saw none of the images
    assert metrics.auc(halfway(nobody, inside, out), member).contains(0.5)
