"""Lower bounds on epsilon: by hand, against brute force, and where nothing may be said."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom

from segleak_utils import beyond, difficulty, dpaudit, experiment, frontier, protected
from segleak_utils.attacks import Outputs
from segleak_utils.contests import GLOBAL, LOGISTIC
from segleak_utils.data import Scenes
from segleak_utils.dpaudit import (
    Bound,
    OneRun,
    Row,
    audited,
    bound_at,
    epsilon_bound,
    one_run,
    one_run_bound,
    one_run_p_value,
)
from segleak_utils.dpsgd import DPRecipe, Privacy, train_private_victim
from segleak_utils.experiment import Plan
from segleak_utils.victims import Recipe, build_victim

# ---- hits against false alarms -------------------------------------------------------------------


def test_a_perfect_attack_on_few_images_proves_what_can_be_worked_out_by_hand():
    # all of 10 found: the TPR is above .025 ** (1 / 10); no alarm among 20: FPR below 1 - that
    tpr, fpr = 0.025 ** (1 / 10), 1 - 0.025 ** (1 / 20)
    expected = max(math.log(tpr / fpr), math.log((1 - fpr) / (1 - tpr)))
    assert epsilon_bound(10, 10, 0, 20, 0) == pytest.approx(expected)
    less = max(math.log((tpr - 0.1) / fpr), math.log((1 - fpr - 0.1) / (1 - tpr)))
    assert epsilon_bound(10, 10, 0, 20, 0.1) == pytest.approx(less)


def test_it_is_the_larger_of_both_directions_of_clopper_pearson():
    for hits, n, alarms, m, delta, level in (
        (30, 100, 2, 200, 1e-4, 0.95),
        (99, 100, 100, 200, 1e-4, 0.95),
        (60, 100, 40, 100, 0.0, 0.9),
    ):
        tail = (1 - level) / 2
        tpr, fpr = beta.ppf(tail, hits, n - hits + 1), beta.ppf(1 - tail, alarms + 1, m - alarms)
        # the limits by their definition: so many hits or more are just that unlikely
        assert binom.sf(hits - 1, n, tpr) == pytest.approx(tail)
        assert binom.cdf(alarms, m, fpr) == pytest.approx(tail)
        both = math.log((tpr - delta) / fpr), math.log((1 - fpr - delta) / (1 - tpr))
        assert epsilon_bound(hits, n, alarms, m, delta, level) == pytest.approx(max(both))
        # accusing the others of the opposite is the same attack in the mirror
        mirrored = epsilon_bound(m - alarms, m, n - hits, n, delta, level)
        assert mirrored == pytest.approx(max(both))


@pytest.mark.parametrize("counts", [(0, 9, 0, 9), (9, 9, 9, 9), (5, 9, 5, 9), (0, 9, 9, 9)])
def test_where_nothing_can_be_said_it_is_zero(counts):
    assert epsilon_bound(*counts, 1e-4) == 0.0
    assert epsilon_bound(*counts, 0.99) == 0.0


def test_it_grows_with_images_and_falls_with_level_and_delta():
    def of(n=200, delta=1e-3, level=0.95):
        return epsilon_bound(n // 2, n, n // 20, n, delta, level)

    assert 0 < of(100) < of(200) < of(2000) < math.log(10)
    assert of(delta=0) > of(delta=0.1) > of(delta=0.3)
    assert of(level=0.5) > of(level=0.95) > of(level=0.999)


def test_both_limits_hold_together_at_the_level():
    """Of 2000 audits of epsilon-private answers, at most 5 % claim more than epsilon."""
    epsilon, n, rng = 1.0, 100, np.random.default_rng(0)
    tpr = math.e**epsilon / (1 + math.e**epsilon)  # randomised response: both directions tight
    pairs = rng.binomial(n, [tpr, 1 - tpr], (2000, 2))
    low = np.array([epsilon_bound(hits, n, alarms, n, 0) for hits, alarms in pairs])
    assert (low > epsilon).mean() <= 0.05
    assert 0.3 < low.mean() < epsilon


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ((11, 10, 0, 10), "hits: 11 of 10"),
        ((-1, 10, 0, 10), "hits: -1 of 10"),
        ((1, 10, 0, 0), "alarms: 0 of 0"),
        ((0.5, 10, 0, 10), r"hits: 0\.5 of 10; expected integers"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts, match):
    with pytest.raises(ValueError, match=match):
        epsilon_bound(*counts, 1e-4)


@pytest.mark.parametrize("bad", [(-0.1, 0.95), (1, 0.95), (0, 0), (0, 1), (math.nan, 0.95)])
def test_so_are_a_delta_and_a_level_that_cannot_be(bad):
    with pytest.raises(ValueError, match="expected 0 <= delta < 1 and 0 < level < 1"):
        epsilon_bound(1, 2, 0, 2, *bad)
    with pytest.raises(ValueError, match="expected 0 <= delta < 1 and 0 < level < 1"):
        one_run_bound(np.arange(4.0), np.array([0, 0, 1, 1], bool), 4, *bad)


# ---- the threshold -------------------------------------------------------------------------------


def test_a_perfect_attack_reaches_what_half_of_the_images_can_show():
    member = np.arange(60) < 20
    of = audited(member + np.linspace(0, 0.5, 60), member, 1e-4, seed=0)
    assert (of.hits, of.n_members, of.alarms, of.n_nonmembers) == (10, 10, 0, 20)
    assert of.epsilon_low == of.largest == epsilon_bound(10, 10, 0, 20, 1e-4) > 0
    assert 0.5 <= of.threshold < 1.5


def test_the_threshold_is_the_best_of_the_half_that_is_not_counted():
    rng = np.random.default_rng(1)
    member = np.arange(400) < 150
    scores = rng.normal(size=400) + 2 * member
    of = audited(scores, member, 1e-4, seed=5)
    rng = np.random.default_rng(5)
    chosen = [rng.permutation(np.flatnonzero(group)) for group in (member, ~member)]
    chosen = np.concatenate([at[: len(at) // 2] for at in chosen])
    others = np.setdiff1d(np.arange(400), chosen)

    def bound(at, threshold):
        inside, outside = scores[at][member[at]], scores[at][~member[at]]
        hits, alarms = int((inside > threshold).sum()), int((outside > threshold).sum())
        return epsilon_bound(hits, len(inside), alarms, len(outside), 1e-4)

    best = max(bound(chosen, threshold) for threshold in scores[chosen])
    assert bound(chosen, of.threshold) == best
    assert of.epsilon_low == bound(others, of.threshold) > 0.5
    assert of == bound_at(scores[others], member[others], of.threshold, 1e-4)
    # what the counted half says has no part in the choice
    changed = scores.copy()
    changed[others] = rng.normal(size=len(others))
    assert audited(changed, member, 1e-4, seed=5).threshold == of.threshold
    assert audited(scores, member, 1e-4, seed=6) != of


def test_a_blind_attack_is_found_blind_as_often_as_the_level_says():
    rng = np.random.default_rng(2)
    member = np.arange(300) < 100
    draws = rng.normal(size=(200, 300))
    for level in (0.5, 0.95):
        found = [audited(scores, member, 0, seed=0, level=level).epsilon_low for scores in draws]
        assert np.mean(np.array(found) > 0) <= 1 - level
    # the best threshold of all, chosen on the images that are counted, proves what is not there
    oracle = [
        max(bound_at(scores, member, t, 0, level=0.5).epsilon_low for t in scores[::6])
        for scores in draws[:30]
    ]
    assert np.mean(np.array(oracle) > 0) > 0.5


def test_scores_that_are_all_the_same_prove_nothing():
    member = np.arange(40) < 20
    of = audited(np.zeros(40), member, 0, seed=0)
    assert of.epsilon_low == 0 and of.hits in (0, 10) and of.alarms in (0, 10)


def test_scores_that_cannot_be_audited_are_refused():
    member = np.arange(8) < 3
    with pytest.raises(ValueError, match=r"3 members and 5 non-members; expected at least 4"):
        audited(np.arange(8.0), member, 0, seed=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        audited(np.full(8, np.nan), member, 0, seed=0)
    with pytest.raises(ValueError, match="must be boolean"):
        bound_at(np.arange(8.0), member.astype(int), 0.5, 0)
    with pytest.raises(ValueError, match="threshold is NaN"):
        bound_at(np.arange(8.0), member, math.nan, 0)


# ---- one training --------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("n", [1, 4, 7])
def test_without_delta_the_p_value_is_that_of_all_outcomes_counted(n, epsilon):
    chance = math.exp(epsilon) / (1 + math.exp(epsilon))
    for right in range(n + 1):
        expected = sum(
            math.prod(chance if hit else 1 - chance for hit in outcome)
            for outcome in itertools.product((0, 1), repeat=n)
            if sum(outcome) >= right
        )
        assert one_run_p_value(n, n, right, epsilon, 0) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "guesses", "right"), [(10, 10, 9), (50, 20, 20), (50, 20, 0)])
def test_delta_adds_the_likeliest_shift_as_a_loop_has_it(n, guesses, right):
    epsilon, delta = 0.4, 1e-3
    chance = 1 / (1 + math.exp(-epsilon))
    shifts = [
        sum(binom.pmf(k, guesses, chance) for k in range(max(0, right - i), right)) / i
        for i in range(1, n + 1)
    ]
    expected = binom.sf(right - 1, guesses, chance) + 2 * n * delta * max(shifts)
    found = one_run_p_value(n, guesses, right, epsilon, delta)
    assert found == pytest.approx(min(expected, 1))


def test_the_bound_is_the_epsilon_at_which_the_p_value_meets_the_level():
    # all of 10 right: q ** 10 = .05
    chance = 0.05 ** (1 / 10)
    scores, included = np.arange(10.0), np.arange(10) >= 5
    assert one_run_bound(scores, included, 10, 0) == pytest.approx(math.log(chance / (1 - chance)))
    # the guesses of the paper's own example, 75 right of 100 on 1000 canaries
    low = dpaudit._one_run_low(1000, 100, 75, 1e-4, 0.95)
    assert one_run_p_value(1000, 100, 75, low, 1e-4) == pytest.approx(0.05)
    assert low == pytest.approx(0.673, abs=1e-3)
    assert dpaudit._one_run_low(1000, 100, 50, 1e-4, 0.95) == 0


def test_delta_can_take_all_of_it():
    scores, included = np.arange(10.0), np.arange(10) >= 5
    found = [one_run_bound(scores, included, 10, delta) for delta in (0, 1e-3, 1e-2, 0.5)]
    assert found == sorted(found, reverse=True) and found[0] > found[1] > found[-1] == 0


def test_the_ends_are_guessed_and_the_middle_is_not():
    #                 out        in  |   abstains   | out  in
    scores = np.array([-3.0, -2, -2.5, 0, 0.1, 0.2, 5, 7, 6])
    included = np.array([0, 0, 1, 0, 1, 0, 0, 1, 1], bool)
    of = one_run(scores, included, 6, 0)
    assert (of.right, of.guesses, of.n) == (4, 6, 9)
    of = one_run(scores, included, 5, 0)  # the odd one is an "in"
    assert (of.right, of.guesses) == (3, 5)
    assert one_run(scores, included, 1, 0).right == 1
    assert one_run(scores, included, 9, 0).guesses == 9
    assert of.largest == one_run(np.arange(5.0), np.arange(5) > 1, 5, 0).epsilon_low


def test_equal_scores_are_not_parted_by_their_order():
    included = np.arange(20) >= 10
    assert one_run(np.zeros(20), included, 20, 0).guesses == 0
    assert one_run_bound(np.zeros(20), included, 20, 0) == 0
    scores = np.array([0.0] * 3 + [1] * 14 + [2] * 3)
    of = one_run(scores, included, 12, 0)  # six at each end, but only three stand out
    assert (of.right, of.guesses) == (6, 6)


def answers(included, epsilon, rng):
    """Randomised response: each canary's coin, told rightly with chance e^eps / (1 + e^eps)."""
    true = rng.random(len(included)) < math.exp(epsilon) / (1 + math.exp(epsilon))
    return (included == true) + 1e-3 * rng.random(len(included))


def test_randomised_response_is_hardly_ever_found_to_leak_more_than_it_does():
    rng = np.random.default_rng(3)
    found = []
    for seed in range(200):
        included = dpaudit.coins(1000, seed)
        found.append(one_run_bound(answers(included, 1.0, rng), included, 1000, 0))
    assert np.mean(np.array(found) < 1) >= 0.95
    assert 0.75 < np.mean(found) < 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"scores": np.full(100, math.inf)}, "expected finite numbers"),
        ({"scores": np.zeros((100, 1))}, "expected finite numbers"),
        ({"scores": np.arange(99.0)}, "one for each of 99"),
        ({"included": np.arange(100) % 2}, "expected booleans"),
        ({"included": np.ones(100, bool)}, "100 of 100 canaries are included: that is no fair"),
        ({"n_guesses": 0}, r"n_guesses is 0, expected 1\.\.100"),
        ({"n_guesses": 101}, r"n_guesses is 101, expected 1\.\.100"),
    ],
)
def test_canaries_that_cannot_be_audited_are_refused(change, match):
    asked = {"scores": np.arange(100.0), "included": np.arange(100) % 2 == 0, "n_guesses": 10}
    with pytest.raises(ValueError, match=match):
        one_run_bound(**asked | change, delta=0)


def test_a_p_value_of_more_right_than_guessed_is_refused():
    with pytest.raises(ValueError, match="11 of 10 guesses"):
        one_run_p_value(100, 10, 11, 1.0, 0)


# ---- canaries ------------------------------------------------------------------------------------


def scenes_of(n: int, start: int = 0, side: int = 8) -> Scenes:
    rng = np.random.default_rng(start)
    masks = rng.integers(0, 3, (n, side, 2 * side), dtype=np.uint8)
    masks[:, 0] = 255
    images = rng.integers(0, 256, (n, 3, side, 2 * side), dtype=np.uint8)
    return Scenes.from_arrays(images, masks, [f"s{start + i}" for i in range(n)], ("a", "b", "c"))


def test_a_mislabelled_canary_has_the_mask_of_the_next():
    plain = scenes_of(4)
    of = dpaudit.with_masks_of_others(plain)
    for i in range(4):
        assert torch.equal(of[i][0], plain[i][0])
        assert torch.equal(of[i][1], plain[(i + 1) % 4][1])
    assert of.class_names == plain.class_names and not set(of.ids) & set(plain.ids)
    assert of.digest not in (plain.digest, dpaudit.with_masks_of_others(scenes_of(4, 9)).digest)
    with pytest.raises(ValueError, match="1 scene; expected at least 2"):
        dpaudit.with_masks_of_others(plain.subset([0]))


def test_coins_are_fair_and_repeatable():
    assert np.array_equal(dpaudit.coins(50, 1), dpaudit.coins(50, 1))
    assert not np.array_equal(dpaudit.coins(50, 1), dpaudit.coins(50, 2))
    assert 4800 < dpaudit.coins(10_000, 0).sum() < 5200


def test_canaries_are_scenes_that_nobody_else_has():
    """Victims and shadows have 10 000 indices each, up to victim 39 and shadow 49."""
    assert dpaudit.CANARY_START >= 500_000 + 10_000 * 50
    assert dpaudit.CANARY_START > protected.PUBLIC_START + 500


class Learner(torch.nn.Module):
    """Says 'class 0', a little more or less firmly; much more of images whose pixel it knows."""

    def __init__(self, known=None):
        super().__init__()
        self.known = known

    def forward(self, images):
        logits = torch.zeros(len(images), 3, *images.shape[-2:])
        for logit, pixel in zip(logits, images[:, :, 0, 0].tolist(), strict=True):
            own = self.known is not None
            logit[0] = 1.0 + own * pixel[0] / 10 + 3.0 * (own and pixel in self.known)
        return logits


def noise(city, seed, start, n, **_) -> Scenes:
    assert (city, seed, start) == ("harbour", 0, dpaudit.CANARY_START)
    images = np.random.default_rng(0).integers(0, 256, (n, 3, 8, 16), dtype=np.uint8)
    masks = np.zeros((n, 8, 16), np.uint8)
    return Scenes.from_arrays(images, masks, [f"c{i}" for i in range(n)], ("a", "b", "c"))


@pytest.fixture
def world(monkeypatch, tmp_path):
    """No drawing and no training: canaries of noise, and a training that learns them by heart."""
    monkeypatch.setenv("SEGLEAK_BUILD", str(tmp_path))
    seen = []

    def train(recipe, private, members, *, seed, start, checkpoint, **_):
        seen.append(SimpleNamespace(private=private, members=members, seed=seed))
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.touch()
        epsilon = 1.08 if private.noise_multiplier else math.inf
        promised = Privacy(epsilon, private.delta, private.noise_multiplier, 1.0, 1.0, 16)
        return Learner([image[:, 0, 0].tolist() for image, _ in members]), [], promised

    monkeypatch.setattr(dpaudit, "synthstreets", noise)
    monkeypatch.setattr(dpaudit, "train_private_victim", train)
    public = SimpleNamespace(model=Learner(), sha256="base")
    monkeypatch.setattr(protected, "public", lambda plan: public)
    return Plan(progress=False), seen


def test_a_training_that_learns_by_heart_is_caught_by_its_canaries(world):
    plan, seen = world
    row = dpaudit.canary_run(plan, "tuned-0", n=100)
    of = row.bound
    assert (of.guesses, of.right, of.n, of.delta) == (25, 25, 100, 1e-4)
    assert of.epsilon_low == of.largest > 1.5
    assert row.promised is None and row.verdict == "no promise"
    assert row.network == "canaries-tuned-0"
    assert seen[0].members.ids == [f"c{i}" for i in np.flatnonzero(dpaudit.coins(100, 0))]
    assert seen[0].private.batch == len(seen[0].members)
    # a training that promises privacy and learns by heart has a bug
    assert dpaudit.canary_run(plan, "tuned-12", n=100).broken


def test_a_training_is_done_once_and_a_finished_one_leaves_no_checkpoint(world):
    plan, seen = world
    row = dpaudit.canary_run(plan, "tuned-0", n=64)
    assert dpaudit.canary_run(plan, "tuned-0", n=64) == row and len(seen) == 1
    assert not list(plan.build.glob("checkpoints/*"))
    dpaudit.canary_run(plan, "tuned-0", n=64, seed=1)
    other = dpaudit.canary_run(plan, "tuned-0", n=64, mislabelled=True)
    assert len(seen) == 3 and seen[1].members.ids != seen[0].members.ids
    assert other.network == "canaries-tuned-0-mislabelled"
    assert all(name.endswith("-mislabelled") for name in seen[2].members.ids)


def test_canaries_for_a_training_without_a_public_network_are_refused(world):
    plan, _ = world
    for variant in ("scratch-1", "dropout", "tuned-7"):
        with pytest.raises(
            ValueError, match=f"variant '{variant}'; expected one of tuned-0, tuned"
        ):
            dpaudit.canary_run(plan, variant)
    with pytest.raises(ValueError, match="63 canaries, expected at least 64"):
        dpaudit.canary_run(plan, "tuned-0", n=63)


def test_a_real_training_on_canaries(world, monkeypatch):
    """One epoch without noise, on small pictures: it runs, and proves next to nothing."""
    plan, _ = world
    plan = replace(plan, recipe=Recipe(norm="group", decoder_channels=16, n_classes=3))
    private = DPRecipe(noise_multiplier=0, batch=16, epochs=1, lr=1e-3, trained="few")
    still = {"norm": "group", "crop_area": 1.0, "colour": 0.0}
    monkeypatch.setattr(
        protected, "TRAININGS", {"tuned-0": protected.Training(still, private, tuned=True)}
    )
    recipe = Recipe(**plan.recipe.model_dump() | still)
    public = SimpleNamespace(model=build_victim(recipe).eval(), sha256="base")
    monkeypatch.setattr(protected, "public", lambda plan: public)
    monkeypatch.setattr(dpaudit, "synthstreets", lambda *_, **__: scenes_of(64, side=32))
    monkeypatch.setattr(dpaudit, "train_private_victim", train_private_victim)
    row = dpaudit.canary_run(plan, "tuned-0", n=64)
    assert row.bound.guesses == 16 and row.bound.epsilon_low < 1 and row.promised is None


# ---- the table -----------------------------------------------------------------------------------


def row_of(epsilon_low: float, promised: float | None, largest: float = 5.0) -> Row:
    return Row(
        "victim-0-tuned-12",
        GLOBAL,
        promised,
        Bound(epsilon_low, 0.0, 3, 200, 4, 1000, 1e-4, 0.95, largest),
    )


def test_a_lower_bound_above_the_promise_is_called_a_bug():
    row = row_of(1.2, 1.1)
    assert row.broken and row.verdict == "ABOVE THE PROMISE: a bug"
    assert "| 1.20 (95 %, δ = 0.0001) |" in (told := dpaudit.table([row]))
    assert "ABOVE THE PROMISE: a bug |" in told


def test_below_it_nothing_is_claimed_of_the_promise():
    for row, verdict in (
        (row_of(0.3, 1.1), "not refuted"),
        (row_of(0.0, 6.8), "too few images to refute it"),
        (row_of(0.3, None), "no promise"),
    ):
        assert not row.broken and row.verdict == verdict
        told = dpaudit.table([row])
        assert f"| hits 3/200, alarms 4/1000 | 5.00 | {verdict} |" in told and "bug" not in told
        assert "does not prove the promise loose" in told
    run = OneRun(0.0, 70, 150, 600, 1e-4, 0.95, 3.0)
    told = dpaudit.table([Row("canaries", dpaudit.DIFFERENCE, None, run)])
    assert "| canaries | - |" in told and "70 of 150 guesses right, 600 canaries" in told


def shown_of(gap: float, n: int = 200) -> Outputs:
    """Half of the images are members; their loss is lower by the gap."""
    generator = torch.Generator().manual_seed(0)
    member = np.arange(n) < n // 2
    loss = 2 + torch.rand(n, 1, 4, 4, generator=generator)
    loss -= gap * torch.from_numpy(member).float()[:, None, None, None]
    return Outputs(loss.half(), torch.zeros(n, 4, 4, dtype=torch.uint8), member, 3)


def test_a_network_has_a_row_for_each_attack(monkeypatch):
    shown, unaware = shown_of(1.5), shown_of(0.0)
    of = SimpleNamespace(
        name="victim-0-tuned-12",
        meta={"privacy": {"epsilon": 1.08, "delta": 1e-3, "noise_multiplier": 12, "clip_norm": 1,
                          "sampling_rate": 1, "steps": 16}},
    )  # fmt: skip
    asked_for = []

    def attackers(scenario, service, wanted):
        asked_for.append((service.slug, wanted))
        return SimpleNamespace(regression=SimpleNamespace(scores=lambda features: -features[:, 0]))

    monkeypatch.setattr(frontier, "attackers", attackers)
    monkeypatch.setattr(experiment, "loss_outputs", lambda plan, of: shown)
    monkeypatch.setattr(protected, "public", lambda plan: "public")
    monkeypatch.setattr(
        difficulty, "asked", lambda plan, reference, of: {"public": unaware}[reference]
    )
    service = {s.variant: s for s in frontier.services()}["tuned-12"]
    plan = Plan(progress=False)
    rows = dpaudit.of_network(plan, of, service, tuned=True)
    assert [row.attack for row in rows] == [GLOBAL, LOGISTIC, dpaudit.DIFFERENCE]
    assert asked_for == [("tuned-multiplier-12", ())]
    for row in rows:
        assert (row.network, row.promised, row.bound.delta) == (of.name, 1.08, 1e-3)
        assert (row.bound.n_members, row.bound.n_nonmembers) == (50, 50)
        assert row.broken and row.bound.epsilon_low == row.bound.largest  # it leaks all there is
    of.meta = {}
    monkeypatch.setattr(difficulty, "networks", lambda plan, setting, count: ["a", "b"][:count])
    best = SimpleNamespace(scores=-shown.loss_maps[:, 0, 0, 0].numpy())
    monkeypatch.setattr(beyond, "best_model", lambda plan, of, shadows: (None, None, best))
    rows = dpaudit.of_network(plan, of, frontier.NOTHING, tuned=False)
    assert [row.attack for row in rows] == [GLOBAL, LOGISTIC, difficulty.CALIBRATED]
    assert {(row.promised, row.bound.delta) for row in rows} == {(None, 1e-4)}


def test_the_audit_goes_through_all_variants_and_prints(monkeypatch, capsys):
    seen = []

    def of_network(plan, of, service, *, tuned):
        seen.append((of, service.variant, tuned))
        return [row_of(0.1, 1.1)]

    monkeypatch.setattr(dpaudit, "of_network", of_network)
    scenario = SimpleNamespace(victim=lambda variant: f"victim-0 {variant}")
    monkeypatch.setattr(frontier, "synthstreets", lambda plan: scenario)
    rows = dpaudit.audit(Plan(progress=False))
    assert seen == [
        ("victim-0 ", "", False),
        ("victim-0 tuned-0", "tuned-0", True),
        ("victim-0 tuned-12", "tuned-12", True),
        ("victim-0 scratch-1", "scratch-1", False),
    ]
    assert capsys.readouterr().out == dpaudit.table(rows) + "\n" and len(rows) == 4
