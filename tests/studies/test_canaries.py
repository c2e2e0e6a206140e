"""Gradient canaries: what is seen, what it proves, what turns the audit red, and the command."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from toy_victims import scenes_of

from segleak_utils import run
from segleak_utils.metrics import gaussian_curve, gaussian_epsilon, loss_curve, refuted_by
from segleak_utils.run import options
from segleak_utils.studies import (
    Plan,
    beyond,
    canaries,
    canary_audit,
    caught,
    copied,
    faults,
    promises,
    proofs,
    tightness,
)
from segleak_utils.studies.canaries import Canaries, scores, watch
from segleak_utils.studies.canary_audit import audit
from segleak_utils.studies.faults import Double
from segleak_utils.studies.promises import family
from segleak_utils.studies.proofs import Choice, rehearse
from segleak_utils.victims import Recipe, accountant, build_victim
from segleak_utils.victims.accountant import promise
from segleak_utils.victims.dpsgd import DPRecipe

FULL = promise(12, 1.0, 1.0, 16, 1e-4)
LOUDER = promise(3, 1.0, 1.0, 16, 1e-4)
SAMPLED = promise(1, 1.0, 1 / 8, 16, 1e-4)
N = 2000


@pytest.fixture(scope="module")
def choice():
    return rehearse(LOUDER, N)


# ---- canaries and sums ---------------------------------------------------------------------------


def test_rows_are_the_gradients_written_out_whatever_fits_into_memory(monkeypatch):
    of = Canaries(np.array([4, 0, 2]), 3.0, 5)
    rows = of.rows()
    assert rows.tolist() == [[0, 0, 0, 0, 3], [3, 0, 0, 0, 0], [0, 0, 3, 0, 0]]
    monkeypatch.setattr(canaries, "CHUNK", 10)
    parts = list(of.chunks())
    assert [len(part) for part in parts] == [2, 1] and torch.equal(torch.cat(parts), rows)
    assert len(of) == 3 and not list(Canaries(np.array([], int), 1.0, 5).chunks())


def test_what_is_seen_is_in_clip_norms_whatever_the_unit_of_the_sums():
    class Scaled(Double):
        def step(self, records):
            return 1e-3 * super().step(records) - 7

    plain, scaled = (watch(kind(LOUDER, 2 * N, seed=1), N, seed=2) for kind in (Double, Scaled))
    assert plain.sums.shape == (16, N) == plain.control.shape
    assert np.allclose(plain.sums, scaled.sums, atol=1e-6)
    inside = plain.sums[:, plain.included].mean()
    outside = plain.sums[:, ~plain.included].mean()
    assert inside == pytest.approx(1, abs=0.1) and outside == pytest.approx(0, abs=0.1)
    assert plain.control.std(1) == pytest.approx(np.full(16, 3.0))
    again = watch(Double(LOUDER, 2 * N, seed=1), N, seed=2)
    assert np.array_equal(plain.sums, again.sums) and 900 < plain.included.sum() < 1100


def test_the_score_of_sampled_members_is_the_ratio_of_the_densities_of_all_steps():
    sums = np.random.default_rng(0).normal(size=(5, 3))
    for privacy in (SAMPLED, FULL):
        q, noise = privacy.sampling_rate, privacy.noise_multiplier
        expected = np.zeros(3)
        for t in range(5):
            for i in range(3):
                ratio = math.exp(((sums[t, i]) ** 2 - (sums[t, i] - 1) ** 2) / (2 * noise**2))
                expected[i] += math.log(1 - q + q * ratio)
        assert scores(sums, privacy) == pytest.approx(expected)


def test_shuffled_records_are_scored_by_all_places_that_they_may_have_had():
    sums = np.random.default_rng(0).normal(size=(16, 2))  # two epochs of eight steps
    loss = sums - 0.5
    expected = [
        logsumexp([loss[a, i] + loss[8 + b, i] for a in range(8) for b in range(8)]) - math.log(64)
        for i in range(2)
    ]
    assert faults.shuffled_scores(sums, SAMPLED) == pytest.approx(np.array(expected))


def test_the_way_to_the_weights_is_that_of_adam():
    sums = np.random.default_rng(0).normal(size=(6, 4))
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    adam = torch.optim.Adam([weight], lr=0.01)
    for gradient in sums:
        weight.grad = torch.from_numpy(gradient)
        adam.step()
    assert canaries.adam_path(sums, FULL) == pytest.approx(-weight.detach().numpy() / 0.01)


# ---- the hypotheses ------------------------------------------------------------------------------


def test_the_accountants_curve_is_the_gaussian_one_where_all_are_in_each_step():
    losses, chances = accountant.privacy_loss(2.0, 1.0, 4, 1e-4)
    curve = loss_curve(losses[chances > 0], chances[chances > 0])
    rates = np.array([1e-3, 0.05, 0.4, 0.9])
    assert curve(rates) == pytest.approx(gaussian_curve(1.0)(rates), abs=1e-3)
    mirrored = promises.both_ways(curve)(rates)
    assert mirrored == pytest.approx(curve(rates), abs=2e-3)


@pytest.mark.slow
def test_a_sampled_training_lies_on_the_accountants_curve():
    """Hits and alarms of a simulated training, against the curve of just that training."""
    rng, n = np.random.default_rng(0), 100_000
    sums = rng.standard_normal((2, 16, n))
    sums[0] += rng.random((16, n)) < 1 / 8
    inside, outside = (scores(part, SAMPLED) for part in sums)
    of = family(SAMPLED)
    assert of.epsilon(1.0) == pytest.approx(SAMPLED.epsilon)
    alarms = np.array([0.01, 0.1, 0.5])
    hits = [(inside > t).mean() for t in np.quantile(outside, 1 - alarms)]
    assert of.curve(1.0)(alarms) == pytest.approx(np.array(hits), abs=0.012)
    back = promises.both_ways(of.curve(1.0))(alarms)
    assert (back >= of.curve(1.0)(alarms) - 1e-9).all()
    rejects = [(outside < t).mean() for t in np.quantile(inside, alarms)]
    assert back == pytest.approx(np.maximum(hits, rejects), abs=0.012)
    # between the curves that are computed a straight line is near enough
    losses, chances = accountant.privacy_loss(1 / 1.13, 1 / 8, 16, 1e-4)
    exact = loss_curve(losses[chances > 0], chances[chances > 0])(alarms)
    assert of.curve(1.13)(alarms) == pytest.approx(exact, abs=1e-3)


def test_a_rehearsal_finds_the_threshold_in_the_middle_and_guesses_some(choice):
    found = audit(Double(LOUDER, 2 * N), N)
    assert 16 <= choice.guesses <= N / 2 and 16 <= choice.guesses_curve <= N / 2
    assert rehearse(LOUDER, N) == choice  # by its seed
    # no threshold proves anything with so few: then it is the one that would with more
    few = rehearse(FULL, 64)
    assert abs(few.threshold) < 1 and found.n == N


# ---- the audit -----------------------------------------------------------------------------------


def test_a_training_that_keeps_its_promise_is_not_refuted_and_nearly_all_of_it_is_shown():
    found = audit(Double(LOUDER, 2 * N), N)
    by = {proof.method: proof for proof in found.proofs}
    low = [by[proofs.CLOPPER.format("Gaussian DP")], by[proofs.JOINT.format("Gaussian DP")]]
    plain, curve = by[proofs.STEINKE], by[proofs.ONE_RUN.format("Gaussian DP")]
    assert found.verdict is low[0] and not found.refuted and found.exit_code == 0
    assert plain.epsilon_low < curve.epsilon_low < low[0].epsilon_low < low[1].epsilon_low
    assert by[proofs.ONE].epsilon_low < by[proofs.ONE_JOINT].epsilon_low < plain.epsilon_low
    assert 0.7 * LOUDER.epsilon < low[0].epsilon_low < LOUDER.epsilon
    assert all(proof.epsilon_low <= proof.largest for proof in found.proofs)
    assert found.control == 0
    text = canary_audit.table(found)
    assert "Not refuted: ε ≥" in text and "**Gaussian DP, Clopper-Pearson**" in text


def test_with_the_goals_canaries_the_goals_are_met(choice):
    """At least 70 % of the promise for multiplier 12, 90 % for 3, on average over seeds."""
    for privacy, goal in ((FULL, 0.7), (LOUDER, 0.9)):
        of, n = family(privacy), canaries.N_CANARIES
        fixed = rehearse(privacy, n, of=of)
        shares = []
        for seed in range(12):
            seen = watch(Double(privacy, 2 * n, seed=seed), n, seed=seed)
            accused = scores(seen.sums, privacy) > fixed.threshold
            groups = seen.included, ~seen.included
            counts = [x for g in groups for x in (int(accused[g].sum()), int(g.sum()))]
            low = of.bound(lambda curve, counts=counts: refuted_by(curve, *counts))
            shares.append(low / privacy.epsilon)
        assert np.mean(shares) >= goal and max(shares) <= 1


@pytest.mark.slow
def test_sampled_members_are_audited_by_the_accountants_curve():
    found = audit(Double(SAMPLED, 2 * N), N)
    assert found.verdict.method == "accountant's curve, Clopper-Pearson"
    assert 0.5 * SAMPLED.epsilon < found.verdict.epsilon_low < SAMPLED.epsilon
    assert found.control == 0 and not found.refuted


# ---- faults --------------------------------------------------------------------------------------


def seen_of(fault=faults.NONE, times=canaries.LOUD, n=N, privacy=LOUDER, moves=None) -> bool:
    step = Double(privacy, 2 * n, fault=fault, moves=moves)
    of = family(privacy)
    fixed = rehearse(privacy, n, of=of)
    return canary_audit.judged(watch(step, n, times=times), fixed, of=of).refuted


@pytest.mark.parametrize(
    ("fault", "times", "red"),
    [
        (faults.NONE, 1.0, False),
        (faults.WEAK, 1.0, True),
        (faults.SILENT, 1.0, True),
        # a canary that no clipping touches does not see that there is none
        (faults.LATE, 1.0, False),
        (faults.LATE, canaries.LOUD, True),
        (faults.MEAN, 1.0, False),
        (faults.MEAN, canaries.LOUD, True),
    ],
)
def test_a_planted_fault_turns_the_audit_red(fault, times, red):
    assert seen_of(fault, times) is red


def test_an_image_that_moves_others_is_seen_and_one_that_does_not_is_not():
    assert seen_of(moves=1.5) and not seen_of(moves=1.0)


def test_shuffling_takes_every_record_once_an_epoch_and_poisson_does_not():
    for fault, same in ((faults.SHUFFLED, True), (faults.NONE, False)):
        double = Double(SAMPLED, 300, fault=fault)
        drawn = []
        for _ in range(16):
            drawn.append(double.sample(200))
            double.step(Canaries(np.array([], int), 1.0, 300))
        counts = np.array(drawn).reshape(2, 8, 200).sum(1)
        assert (counts == 1).all() == same

    drawn = faults.shuffled(np.random.default_rng(0), SAMPLED, 200)
    assert (drawn.reshape(2, 8, 200).sum(1) == 1).all() and 10 < drawn[0].sum() < 45
    drawn = proofs.poisson(np.random.default_rng(0), SAMPLED, 200)
    assert drawn.shape == (16, 200) and drawn.mean() == pytest.approx(1 / 8, abs=0.03)


def test_a_table_of_faults_says_from_how_many_canaries_on(monkeypatch):
    monkeypatch.setattr(caught, "image_moves", lambda plan: {faults.NONE: 1.0, faults.PIXELS: 9.0})
    found = caught.rows(Plan(progress=False), (64, 256), sampled=False)
    by = {(row.fault, row.canary): row for row in found}
    curve = 2  # the bound that decides
    assert by[faults.SILENT, "norm 1"].seen_with(curve) == 64
    assert by[faults.NONE, "norm 10"].seen_with(curve) is None
    assert by[faults.PIXELS, "image"].seen_with(curve) == 64
    told = caught.lines(found, "k")
    text = caught.table(told)
    assert text.count("\n") == 2 + len(found) - 1 and faults.LATE in text
    assert "| image, moves 9.00 | 1.08 |" in text and "| 64 |" in text and "| - (0." in text
    with pytest.raises(ValueError, match="fault 'typo'; expected one of none, "):
        Double(FULL, 10, fault="typo")


RIGHT = Recipe(norm="group", decoder_channels=16, n_classes=3)


def batch(n=4):
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, 32, 64, generator=rng)
    masks = torch.randint(0, 3, (n, 32, 64), generator=rng)
    return images, masks


def test_the_shipped_faults_are_of_todays_network_and_a_foreign_table_is_refused(tmp_path):
    found = caught.shipped(Plan(progress=False))
    assert {line.fault for line in found} == {*faults.MECHANISM, *faults.IMAGE}
    by = {(x.fault, x.canary, x.sampling_rate): x for x in found if x.bound == caught.BOUNDS[2]}
    # what keeps its promise is never called a breach, and what breaks it is, at each threshold
    assert all(x.seen_with is None for (fault, _, _), x in by.items() if fault == faults.NONE)
    for fault in (faults.WEAK, faults.SILENT, faults.LATE, faults.MEAN):
        assert by[fault, "norm 10", 1.0].seen_with <= 10_000
    assert by[faults.LAYOUT, "image", 1.0].seen_with is None
    beyond.write([line.model_copy(update={"key": "other"}) for line in found], tmp_path / "f.csv")
    with pytest.raises(ValueError, match=r"another network, .*epsilon --faults"):
        caught.shipped(Plan(progress=False), tmp_path / "f.csv")


def test_an_image_moves_the_sum_by_its_own_gradient_unless_images_are_mixed():
    images, masks = batch()
    model = build_victim(RIGHT, seed=0)
    own = faults.sum_moved(model, images, masks, faults._own, 1e-2)
    assert own == pytest.approx(1, abs=1e-3)
    void = masks.clone()
    void[:-1, 1:] = 255
    assert faults.sum_moved(model, images, void, faults._own, 1e-2) <= 1.001
    # the gradients of the others shrink below the clip norm once an image has all the pixels
    norms = faults._gradients(model, images[:-1], void[:-1], faults._shared, True).norm(dim=1)
    clip = float(norms.min())
    assert faults.sum_moved(model, images, void, faults._shared, clip) > 1.2
    mixing = build_victim(Recipe(**RIGHT.model_dump() | {"norm": "batch"}), seed=0)
    # with BatchNorm an image changes the gradients of the others, and so may move the sum further
    for network, coupled in ((model, False), (mixing, True)):
        whole, rest = (
            faults._gradients(network, images[:n], masks[:n], faults._own, True) for n in (4, 3)
        )
        change = (whole[:3] - rest).norm() / rest.norm()
        assert (change > 0.1) == coupled and (coupled or change < 1e-4)


def test_opacus_layout_is_wrong_gradients_and_no_breach():
    images, masks = batch()
    model = build_victim(RIGHT, seed=0).to(memory_format=torch.channels_last)
    right, wrong = (faults._gradients(model, images, masks, faults._own, k) for k in (True, False))
    assert (right - wrong).norm() > 0.05 * right.norm()
    assert faults.sum_moved(model, images, masks, faults._own, 1e-2, layout=False) <= 1.001


# ---- our own training ----------------------------------------------------------------------------

PRIVATE = DPRecipe(noise_multiplier=3, batch=16, epochs=2, lr=4e-3, trained="few")


@pytest.fixture(scope="module")
def watched_copy():
    scenes = scenes_of(16)
    recipe = Recipe(norm="group", decoder_channels=16, n_classes=scenes.n_classes)
    copy = copied.Copy(recipe, PRIVATE, scenes, planned=16, seed=1)
    return copy, watch(copy, 500, seed=1, times=10)


def test_a_copy_clips_sums_and_blurs_by_opacus_and_learns_by_adam(watched_copy):
    copy, seen = watched_copy
    assert copy.privacy == promise(3, 1.0, 1.0, 2, 1e-4)
    assert len(copy.weights()) == copy.n_weights
    inside, outside = seen.sums[:, seen.included], seen.sums[:, ~seen.included]
    # canaries of ten clip norms are cut to one
    assert inside.mean() == pytest.approx(1, abs=0.5) and outside.mean() == pytest.approx(
        0, abs=0.5
    )
    assert seen.control.std() == pytest.approx(3, rel=0.02)
    way = (copy.started - copy.weights())[seen.weights] / copy.lr
    rehearsed = canaries.adam_path(seen.sums, seen.privacy)
    assert np.corrcoef(way, rehearsed)[0, 1] > 0.9


def test_a_copy_without_noise_has_the_clipped_sum_exactly():
    scenes = scenes_of(16)
    recipe = Recipe(norm="group", decoder_channels=16, n_classes=scenes.n_classes)
    copy = copied.Copy(recipe, PRIVATE, scenes, planned=16, noise_times=0.0)
    assert copy.sample(9).all()
    for clip, norm in ((1.0, 10.0), (0.5, 0.5)):
        found = copy.step(Canaries(np.array([3, 7, copy.n_weights - 1]), norm, copy.n_weights))
        expected = np.zeros(copy.n_weights)
        expected[[3, 7, -1]] = clip
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_copy_of_what_has_no_noise_is_refused():
    for variant in ("tuned-0", "dropout", "typo"):
        with pytest.raises(
            ValueError, match=f"variant '{variant}'; expected one of tuned-12, scra"
        ):
            copied.copy_of(Plan(progress=False), variant)


# ---- a training of the user's --------------------------------------------------------------------

OWN = """
import numpy as np
from segleak_utils.victims.dpsgd import promise

class Mine:
    n_weights = 5000
    privacy = promise(4, 1.0, 1.0, 16, 1e-4)
    noise = {noise}

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def sample(self, n):
        return np.ones(n, bool)

    def step(self, canaries):
        rows = canaries.rows()
        clipped = rows * (1 / rows.norm(dim=1, keepdim=True)).clamp(max=1)
        return clipped.sum(0).numpy() + self.noise * self.rng.standard_normal(self.n_weights)

class Half:
    privacy = None

def typed():
    of = Mine()
    of.privacy = 1.08
    return of
"""


@pytest.mark.parametrize(("noise", "code"), [(4, 0), (2, 3)])
def test_the_command_audits_a_training_of_the_users_and_says_so_by_its_exit_code(
    noise, code, tmp_path, capsys
):
    path = tmp_path / "mine.py"
    path.write_text(OWN.format(noise=noise), encoding="utf-8")
    line = ["--no-install", "epsilon", "--canaries", "1000", "--step", f"{path}:Mine"]
    assert run.main(line) == code
    out = capsys.readouterr().out
    assert out.startswith("Promised: ε = 3.") and "at δ = 0.0001 after 16 steps" in out
    assert ("REFUTED: ε ≥" in out) == (code == 3) and "1000 canaries" in out


def test_a_training_that_is_none_is_named(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(OWN.format(noise=4), encoding="utf-8")
    for place, match in (
        ("mine.py", "expected FILE.py:NAME"),
        (f"{path}:Other", "has no function or class Other"),
        (f"{path}:Half", "has no n_weights and no sample and no step"),
        (f"{path}:typed", "privacy is a float; expected"),
    ):
        with pytest.raises(ValueError, match=match):
            canary_audit.load(place)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        canary_audit.load(f"{tmp_path / 'no.py'}:Mine")
    assert run.main(["--no-install", "epsilon", "--step", f"{path}:Mine"]) == 1
    assert "--step FILE.py:NAME needs --canaries N" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        options.parser().parse_args(["epsilon", "--canaries", "63"])


class Wrong(Double):
    """A training that answers what it should not."""

    def __init__(self, **answers):
        super().__init__(LOUDER, 500)
        self.answers = answers

    def sample(self, n):
        return self.answers.get("sample", lambda n: np.ones(n, bool))(n)

    def step(self, records):
        return self.answers.get("step", super().step)(records)


@pytest.mark.parametrize(
    ("answers", "match"),
    [
        ({"sample": lambda n: np.ones(n)}, "gave float64"),
        ({"sample": lambda n: np.ones(n + 1, bool)}, "expected as many booleans"),
        ({"step": lambda _: np.zeros(499)}, r"a sum \[499\]"),
        ({"step": lambda _: np.full(500, np.nan)}, "with 500 values that are not finite"),
    ],
)
def test_answers_that_cannot_be_are_refused(answers, match):
    with pytest.raises(ValueError, match=match):
        watch(Wrong(**answers), 100)


def test_too_few_weights_or_canaries_and_no_noise_are_refused():
    with pytest.raises(ValueError, match="500 weights for 450 canaries; expected at least 514"):
        watch(Double(LOUDER, 500), 450)
    with pytest.raises(ValueError, match="n is 63; expected at least 64"):
        watch(Double(LOUDER, 500), 63)
    quiet = replace(LOUDER, noise_multiplier=0, epsilon=math.inf)
    with pytest.raises(ValueError, match="the noise multiplier is 0: nothing is promised"):
        watch(Double(quiet, 500), 100)


# ---- how tight it is -----------------------------------------------------------------------------


def line(**changes) -> tightness.Line:
    usual = {
        "variant": "tuned-12", "noise_multiplier": 12.0, "added": 1.0, "sampling_rate": 1.0,
        "steps": 16, "seed": 0, "canaries": 10_000, "attacker": tightness.SUMS,
        "bound": proofs.STEINKE, "promised": 1.0, "delta": 1e-4, "epsilon_low": 0.5,
        "largest": 4.0, "counts": "", "key": "k",
    }  # fmt: skip
    return tightness.Line(**usual | changes)


def test_the_figure_has_the_bound_that_was_named_before_and_the_table_the_ends_over_seeds():
    found = [
        line(), line(epsilon_low=0.7, bound=proofs.CLOPPER.format("Gaussian DP")),
        line(seed=1, epsilon_low=0.6), line(seed=2, epsilon_low=0.55, promised=1.00001),
        line(epsilon_low=0.8, bound=proofs.JOINT.format("Gaussian DP")),
        line(attacker=tightness.WEIGHTS, bound=proofs.CLOPPER.format("Gaussian DP")),
        line(attacker=tightness.LOSSES, bound=proofs.ONE_RUN.format("Gaussian DP")),
        line(added=0.75, epsilon_low=0.9),
    ]  # fmt: skip
    best = tightness.by_attacker(found)
    assert list(best) == [tightness.LOSSES, tightness.WEIGHTS, tightness.SUMS]
    assert best[tightness.SUMS].epsilon_low == 0.7 == best[tightness.SUMS].share
    text = tightness.table(found)
    assert "| 0.50-0.60 |  | 0.70 | 0.80 |" in text and "adds 9" in text


def test_a_table_of_another_network_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tightness, "_short", lambda plan, run: "k")
    beyond.write([line(), line(seed=1)], tmp_path / "t.csv")
    assert tightness.shipped(Plan(), tmp_path / "t.csv") == [line(), line(seed=1)]
    beyond.write([line(key="other")], tmp_path / "t.csv")
    with pytest.raises(ValueError, match="measured with another network, recipe or version"):
        tightness.shipped(Plan(), tmp_path / "t.csv")


def test_what_was_measured_under_todays_key_is_not_measured_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tightness, "RUNS", tightness.RUNS[:2])
    monkeypatch.setattr(tightness, "_short", lambda plan, run: f"k{run.seed}")
    images = line(attacker=tightness.LOSSES, key="k0", bound=proofs.ONE_RUN.format("Gaussian DP"))
    beyond.write([line(key="k0"), line(seed=1, key="old"), images], tmp_path / "t.csv")
    measured = []
    monkeypatch.setattr(
        tightness, "lines_of", lambda plan, run: measured.append(run) or [line(seed=1, key="k1")]
    )
    found = tightness.measure(Plan(progress=False), tmp_path / "new.csv", known=tmp_path / "t.csv")
    assert measured == [tightness.RUNS[1]]
    assert found == [line(key="k0"), line(seed=1, key="k1"), images]
    assert beyond.read(tmp_path / "new.csv", tightness.Line) == found


def test_the_bound_of_a_goal_is_that_of_its_counts():
    """Choice and proofs fit together: the counts that are printed give the bounds."""
    privacy, n = LOUDER, 4000
    seen = watch(Double(privacy, 2 * n), n)
    fixed = Choice(0.8, 200, 100)
    found = proofs.proofs(scores(seen.sums, privacy), seen.included, privacy, fixed)
    by = {proof.method: proof for proof in found}
    hits, n_in, alarms, n_out = (
        int(word) for part in by[proofs.ONE].counts.replace("hits ", "").split(", alarms ")
        for word in part.split("/")
    )  # fmt: skip
    assert n_in + n_out == n
    mu = family(privacy).bound(lambda curve: refuted_by(curve, hits, n_in, alarms, n_out))
    assert by[proofs.CLOPPER.format("Gaussian DP")].epsilon_low == pytest.approx(mu)
    assert mu < gaussian_epsilon(4 / 3, 1e-4)
