"""Means over victims that share their images: against plain AUCs, coverage, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from segleak_utils import metrics


def halves(rng: np.random.Generator, n_pairs: int, n: int) -> np.ndarray:
    first = rng.permuted(np.tile(np.arange(n) < n // 2, (n_pairs, 1)), axis=1)
    return np.stack([first, ~first], 1).reshape(2 * n_pairs, n)


def drawn(rng: np.random.Generator, k: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two attackers: images differ in difficulty and in risk."""
    inside = halves(rng, k // 2, n)
    risk, hard = rng.gamma(1.5, 0.7, n), rng.normal(0, 1, n)
    victim = rng.normal(1, 0.2, (k, 1)), rng.normal(0, 0.3, (k, 1))
    one, two = (
        share * hard + rng.normal(0, 0.8, (k, n)) + inside * risk * victim[0] + victim[1]
        for share in (1, 0.5)
    )
    return one, two, inside


def test_the_estimate_is_the_mean_of_what_each_victim_has():
    rng = np.random.default_rng(0)
    one, two, inside = drawn(rng, 6, 300)
    one = one.round(1)  # with ties
    plain = [np.mean([metrics.auc(s, m).value for s, m in zip(x, inside, strict=True)])
             for x in (one, two)]  # fmt: skip
    assert metrics.mean_auc(one, inside, seed=0).value == pytest.approx(plain[0])
    gap = metrics.mean_auc(one, inside, seed=0, against=two)
    assert gap.value == pytest.approx(plain[0] - plain[1]) and gap.high < 0
    rate = np.mean([metrics.tpr_at_fpr(s, m, 0.02).value for s, m in zip(one, inside, strict=True)])
    assert metrics.mean_tpr(one, inside, 0.02, seed=0).value == pytest.approx(rate)
    assert metrics.mean_auc(one, inside, seed=0) == metrics.mean_auc(one, inside, seed=0)
    assert str(metrics.mean_auc(one, inside, seed=0, against=one)) == ".00 [.00, .00]"


def test_only_some_members_count_and_all_non_members_accuse():
    rng = np.random.default_rng(3)
    one, _, inside = drawn(rng, 6, 300)
    some = rng.random(300) < 0.3
    rates = []
    for scores, member in zip(one, inside, strict=True):
        kept = ~member | some
        rates.append(metrics.tpr_at_fpr(scores[kept], member[kept], 0.02).value)
    found = metrics.mean_tpr(one, inside, 0.02, seed=0, of=some)
    assert found.value == pytest.approx(np.mean(rates))
    assert (found.n_members, found.n_nonmembers) == ((inside[0] & some).sum(), 150)
    everyone = metrics.mean_tpr(one, inside, 0.02, seed=0, of=np.ones(300, bool))
    assert everyone == metrics.mean_tpr(one, inside, 0.02, seed=0)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, times, some = np.random.default_rng(1), 80, np.arange(100) < 40
    far = [(x[0], i[0]) for x, _, i in (drawn(rng, 2, 100) for _ in range(2500))]
    truth = (
        np.mean([metrics.auc(x, i).value for x, i in far]),
        np.mean([metrics.tpr_at_fpr(x, i, 0.04).value for x, i in far]),
    )
    held = np.zeros(3)
    for seed in range(times):
        one, _, inside = drawn(rng, 8, 100)
        area = metrics.mean_auc(one, inside, seed=seed, n_boot=150)
        rate = metrics.mean_tpr(one, inside, 0.04, seed=seed, n_boot=150)
        part = metrics.mean_tpr(one, inside, 0.04, seed=seed, n_boot=150, of=some)
        held += [area.contains(truth[0]), rate.contains(truth[1]), part.contains(truth[1])]
    assert (held >= 0.9 * times).all(), held


def test_few_victims_that_differ_make_the_interval_wide():
    """Half of the pairs are told perfectly, half not at all: with many images that is all noise."""
    rng = np.random.default_rng(2)
    inside = halves(rng, 4, 2000)
    scores = rng.random(inside.shape)
    scores[:4] += inside[:4]
    found = metrics.mean_auc(scores, inside, seed=0)
    assert found.value == pytest.approx(0.75, abs=0.01) and found.high - found.low > 0.35


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"scores": np.full((4, 10), np.nan)}, "NaN"),
        ({"scores": np.zeros((4, 9))}, "expected"),
        ({"inside": np.ones((4, 10), bool)}, "in pairs"),
        ({"inside": np.ones((4, 10), int)}, "int"),
        ({"against": np.zeros((2, 10))}, "expected"),
        ({"seed": None}, "seed"),
        ({"fpr": 0.1}, "less than one"),
        ({"fpr": 1.5}, "fpr"),
        ({"of": np.arange(10)}, "of must be boolean"),
        ({"of": np.ones(9, bool)}, "of is"),
        ({"of": np.zeros(10, bool)}, "without members"),
    ],
)
def test_what_has_no_mean_is_refused(change, found):
    rng = np.random.default_rng(0)
    good = {"scores": rng.normal(0, 1, (4, 10)), "inside": halves(rng, 2, 10), "seed": 0,
            "fpr": 0.25}  # fmt: skip
    metrics.mean_tpr(**good)
    with pytest.raises(ValueError, match=found):
        metrics.mean_tpr(**good | change)
