"""DP-SGD: the loss of one image, the accountant, and trainings whose gradients are looked at."""

from __future__ import annotations

import itertools
import math
import time

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from opacus.accountants.analysis import rdp as opacus_rdp
from pydantic import ValidationError
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

from segleak_utils.data import Scenes
from segleak_utils.running import execution
from segleak_utils.victims import Recipe, build_victim, dpsgd
from segleak_utils.victims.accountant import (
    Privacy,
    epsilon,
    grid_points,
    privacy_loss,
    promise,
    replacing,
)
from segleak_utils.victims.dpsgd import (
    DPRecipe,
    check_private,
    per_image_loss,
    physical_steps,
    prepare,
    train_private_victim,
)

VOID, C = 255, 3
NAMES = ("road", "car", "sky")
STILL = {"flip": False, "crop_area": 1, "colour": 0}
SMALL = Recipe(norm="group", decoder_channels=16, n_classes=C, **STILL)
PRIVATE = DPRecipe(noise_multiplier=1, batch=16, epochs=2, lr=1e-3)


def scenes_of(n: int = 20, seed: int = 0, height: int = 32, width: int = 64) -> Scenes:
    """Images whose brightness says the mask; the upper rows are void."""
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, C, (n, height // 8, width // 8), dtype=np.uint8)
    masks = masks.repeat(8, 1).repeat(8, 2)
    masks[:, :2] = VOID
    images = np.where(masks == VOID, 0, 40 + 80 * masks.astype(int)).astype(np.uint8)
    images = np.repeat(images[:, None], 3, 1)
    return Scenes.from_arrays(images, masks, [f"s{seed}-{i}" for i in range(n)], NAMES)


def train(private=PRIVATE, members=None, *, recipe=SMALL, seed=3, **kwargs):
    members = scenes_of() if members is None else members
    kwargs = {"planned": max(len(members), private.batch)} | kwargs
    return train_private_victim(recipe, private, members, seed=seed, progress=None, **kwargs)


def but(recipe, **changes):
    return type(recipe)(**recipe.model_dump() | changes)


def same_weights(a, b) -> bool:
    a, b = (m if isinstance(m, dict) else m.state_dict() for m in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# ---- the loss of an image ------------------------------------------------------------------------


def batch_of(seed=0, n=3, height=4, width=5, void=0.3):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, C, height, width, generator=generator, dtype=torch.float64)
    masks = torch.randint(C, (n, height, width), generator=generator)
    masks[torch.rand(n, height, width, generator=generator) < void] = VOID
    return 3 * logits, masks


batches = st.builds(
    batch_of,
    seed=st.integers(0, 10_000),
    n=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    void=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
)


@settings(max_examples=50, deadline=None)
@given(batches)
def test_the_loss_is_that_of_each_image_by_itself(batch):
    logits, masks = batch
    expected = []
    for one, mask in zip(logits, masks, strict=True):
        labelled = mask != VOID
        pixels = -one.log_softmax(0).gather(0, mask.clamp(max=C - 1)[None])[0][labelled]
        expected.append(pixels.mean().item() if labelled.any() else 0.0)
    found = per_image_loss(logits, masks)
    assert found.shape == (len(logits),)
    assert found.tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def gradient(loss_of, logits, masks):
    """The gradient that the first image's logits get from `loss_of` of the whole batch."""
    logits = logits.clone().requires_grad_()
    loss_of(logits, masks).backward()
    return logits.grad[0]


def test_other_images_of_the_batch_change_neither_loss_nor_gradient():
    logits, masks = batch_of()
    other_logits, other_masks = logits.clone(), masks.clone()
    other_logits[1:] += 1
    other_masks[1:], other_masks[1, 0, 0] = VOID, 1  # nearly all void
    a, b = per_image_loss(logits, masks), per_image_loss(other_logits, other_masks)
    assert torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1])

    def ours(logits, masks):
        return per_image_loss(logits, masks).mean()

    def usual(logits, masks):
        return F.cross_entropy(logits, masks, ignore_index=VOID)

    assert torch.equal(gradient(ours, logits, masks), gradient(ours, other_logits, other_masks))
    # The usual mean gives the first image another gradient once the others have fewer pixels.
    a, b = gradient(usual, logits, masks), gradient(usual, other_logits, other_masks)
    assert b.norm() > 1.5 * a.norm()


def test_an_image_of_void_alone_adds_nothing():
    logits, masks = batch_of(void=0)
    masks[1] = VOID
    logits.requires_grad_()
    loss = per_image_loss(logits, masks)
    loss.sum().backward()
    assert loss[1] == 0 and (loss[[0, 2]] > 0).all()
    assert (logits.grad[1] == 0).all() and logits.grad.isfinite().all()
    assert (logits.grad[0] != 0).any()


# ---- the accountant ------------------------------------------------------------------------------


def analytic_epsilon(noise_multiplier: float, steps: int, delta: float) -> float:
    """The exact one of the Gaussian mechanism (Balle and Wang 2018), composed `steps` times."""
    mu = math.sqrt(steps) / noise_multiplier

    def excess(e):
        return norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta

    return brentq(excess, 0, 200)


@pytest.mark.parametrize(
    ("noise", "steps", "delta"),
    [(1, 1, 1e-4), (2, 4, 1e-5), (5, 10, 1e-4), (4, 100, 1e-5), (20, 100, 1e-6)],
)
def test_without_sampling_it_is_the_analytic_gaussian_mechanism(noise, steps, delta):
    expected = analytic_epsilon(noise, steps, delta)
    assert epsilon(noise, 1, steps, delta) == pytest.approx(expected, rel=0.03)
    loose = epsilon(noise, 1, steps, delta, accountant="rdp")
    assert expected <= loose < 1.5 * expected


def test_the_rdp_of_a_sampled_run_is_that_of_opacus_tables():
    orders = [1 + x / 10 for x in range(1, 100)] + list(range(12, 64))
    moments = opacus_rdp.compute_rdp(q=0.02, noise_multiplier=1.1, steps=500, orders=orders)
    expected, _ = opacus_rdp.get_privacy_spent(orders=orders, rdp=moments, delta=1e-5)
    assert epsilon(1.1, 0.02, 500, 1e-5, accountant="rdp") == pytest.approx(expected)


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_it_falls_with_noise_and_delta_and_grows_with_rate_and_steps(accountant):
    def of(noise=1.0, rate=0.05, steps=100, delta=1e-4):
        return epsilon(noise, rate, steps, delta, accountant=accountant)

    for values, order in (
        ([of(noise=x) for x in (0.6, 0.8, 1, 2, 4)], -1),
        ([of(rate=x) for x in (0.02, 0.05, 0.1, 0.5, 1)], 1),
        ([of(steps=x) for x in (20, 100, 300)], 1),
        ([of(delta=x) for x in (1e-6, 1e-4, 1e-2)], -1),
    ):
        assert all(order * (b - a) > 0 for a, b in itertools.pairwise(values))
        assert all(0 < x < math.inf for x in values)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.7, 5), st.floats(0.01, 1), st.integers(1, 200))
def test_the_tight_accountant_never_promises_less_than_the_fast_one(noise, rate, steps):
    tight = epsilon(noise, rate, steps, 1e-4)
    assert 0 <= tight <= epsilon(noise, rate, steps, 1e-4, accountant="rdp") + 0.01


def test_without_noise_nothing_is_promised():
    assert epsilon(0, 0.1, 10, 1e-4) == epsilon(0, 1, 1, 1e-2, accountant="rdp") == math.inf


@pytest.mark.parametrize(
    "bad",
    [
        {"noise_multiplier": -0.1},
        {"noise_multiplier": 0.29},
        {"noise_multiplier": 1001},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": True},
        {"sampling_rate": True},
        {"sampling_rate": 0},
        {"sampling_rate": 1.01},
        {"sampling_rate": math.nan},
        {"steps": 0},
        {"steps": -1},
        {"steps": 1.5},
        {"steps": True},
        {"steps": math.nan},
        {"steps": math.inf},
        {"delta": 0},
        {"delta": 1e-13},
        {"delta": 1e-300},
        {"delta": 0.011},
        {"delta": 0.5},
        {"delta": 1},
        {"delta": math.nan},
    ],
    ids=str,
)
def test_what_no_training_can_be_is_refused_by_name(bad):
    asked = {"noise_multiplier": 1, "sampling_rate": 0.1, "steps": 10, "delta": 1e-4} | bad
    ((name, value),) = bad.items()
    for accountant in ("prv", "rdp"):
        with pytest.raises(ValueError, match=rf"^{name} is {value}; expected"):
            epsilon(**asked, accountant=accountant)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(0.3, 1, 300), (1, 1, 3000), (1000, 1, 10**7), (0.3, 0.5, 10**9)]
)
def test_a_grid_of_gigabytes_is_refused_at_once_and_the_fast_accountant_answers(noise, rate, steps):
    begun = time.perf_counter()
    with pytest.raises(
        ValueError, match=r'a grid of .* points .*: use accountant="rdp", more noise'
    ):
        epsilon(noise, rate, steps, 1e-4)
    assert time.perf_counter() - begun < 1
    assert 0 < epsilon(noise, rate, steps, 1e-4, accountant="rdp") < math.inf


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1, 0.064, 400), (12, 1, 16), (0.7, 0.5, 9)])
def test_the_grid_that_is_foretold_is_the_one_that_is_laid_out(noise, rate, steps):
    counts = PRVAccountant()
    counts.history = [(noise, rate, steps)]
    domain = counts._get_dprv(eps_error=0.01, delta_error=1e-7).domain
    assert grid_points(noise, rate, steps, 1e-4) == pytest.approx(domain.size, abs=5)


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_hardly_any_loss_is_never_below_none(accountant):
    """Opacus says -.00004 for the first by its tight accountant."""
    for noise, rate, steps in ((1000, 1e-3, 10), (1000, 1e-9, 1), (100, 1e-12, 1)):
        for delta in (1e-12, 1e-4, 1e-2):
            assert 0 <= epsilon(noise, rate, steps, delta, accountant=accountant) < 0.5


def test_a_delta_of_one_over_the_members_or_more_is_refused():
    with pytest.raises(
        ValueError, match=r"delta is 0\.01 for 128 members; expected less than 1 / 1"
    ):
        train(private=but(PRIVATE, delta=1e-2), members=scenes_of(128))


# ---- recipe and network --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", -1),
        ("noise_multiplier", math.inf),
        ("noise_multiplier", math.nan),
        ("clip_norm", 0),
        ("clip_norm", math.inf),
        ("batch", 15),
        ("epochs", 0),
        ("lr", 0),
        ("trained", "head"),
        ("crop", 16),
        ("delta", 0),
        ("delta", 1e-13),
        ("delta", 0.02),
        ("delta", 1),
        ("delta", math.nan),
        ("noise_multiplier", True),
        ("clip_norm", True),
        ("epochs", True),
        ("physical", 0),
        ("momentum", 0.9),
    ],
)
def test_a_private_recipe_refuses_what_is_unknown_or_out_of_bounds(field, value):
    with pytest.raises(ValidationError, match=rf"{field}\n"):
        but(PRIVATE, **{field: value})


def test_batchnorm_is_refused_with_its_name_and_the_mend():
    mend = r'net\.decoder\S* is a BatchNorm2d: .*Recipe\(norm="group"\)'
    with pytest.raises(ValueError, match=mend):
        check_private(build_victim(but(SMALL, norm="batch")))
    with pytest.raises(ValueError, match=mend):
        train(recipe=but(SMALL, norm="batch"))
    for layer, name in ((nn.BatchNorm1d(2), "BatchNorm1d"), (nn.SyncBatchNorm(2), "SyncBatchN")):
        with pytest.raises(ValueError, match=f"0 is a {name}"):
            check_private(nn.Sequential(layer))


def test_another_layer_that_opacus_cannot_train_is_refused_too():
    with pytest.raises(ValueError, match="Opacus cannot train this network"):
        check_private(nn.Sequential(nn.LSTM(2, 2)))
    check_private(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)))


def test_so_few_members_that_a_step_may_be_empty_are_refused():
    with pytest.raises(ValueError, match="planned for 15 members, fewer than the expected batch"):
        train(planned=15)
    with pytest.raises(
        ValueError, match="10 members, of whom 5 are in a step on average; expected"
    ):
        train(members=scenes_of(10), planned=20)


def test_a_member_more_or_less_changes_no_public_number():
    """`len(loader)` says how many members there are: 16 in one step of 16, 17 in two."""
    parts = {n: prepare(SMALL, PRIVATE, scenes_of(n), planned=16, seed=3) for n in (15, 16, 17, 33)}
    seen = {
        (
            of.promised, len(of.loader), of.loader.batch_sampler.sample_rate, of.loader.sample_rate,
            of.optimiser.expected_batch_size,
        )
        for of in parts.values()
    }  # fmt: skip
    assert len(seen) == 1 and seen.pop()[1:] == (1, 1.0, 1.0, 16)
    assert parts[33].promised.steps == PRIVATE.epochs


def test_a_schedule_is_of_the_plan_and_the_recipe():
    recipe = but(PRIVATE, batch=250, epochs=10)
    assert recipe.schedule(2000) == dpsgd.Schedule(1 / 8, 8, 80, 250)
    assert recipe.schedule(2001) == dpsgd.Schedule(1 / 9, 9, 90, 222)  # what len(loader) would do
    assert but(PRIVATE, batch=16).schedule(49 * 16).an_epoch == 49  # int(1 / (1 / 49)) is 48
    for planned in (0, 2.5, True):
        with pytest.raises(ValueError, match="planned"):
            recipe.schedule(planned)


# ---- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return train()


def test_a_training_says_what_it_promises(trained):
    model, history, promised = trained
    assert [h["epoch"] for h in history] == [1, 2]
    assert all(0 < h["loss"] < 10 for h in history)
    # 20 members in batches of 16 are two steps an epoch, each with a member in two.
    assert promised == Privacy(epsilon(1, 0.5, 4, 1e-4), 1e-4, 1, 1, 0.5, 4)
    assert 0 < promised.epsilon <= epsilon(1, 0.5, 4, 1e-4, accountant="rdp")
    assert not model.training and all(p.requires_grad for p in model.parameters())
    # A plain network comes back: no hooks, no gradients of single images, the names of a victim.
    assert model.state_dict().keys() == build_victim(SMALL).state_dict().keys()
    assert not hasattr(next(model.parameters()), "grad_sample") or (
        next(model.parameters()).grad_sample is None
    )
    assert model(torch.rand(1, 3, 32, 64)).shape == (1, C, 32, 64)


def test_what_is_promised_is_printed_before_the_first_epoch(monkeypatch, capsys):
    said = []
    monkeypatch.setattr(dpsgd, "_one_epoch", lambda *_: said.append(capsys.readouterr().out) or 1.0)
    train_private_victim(SMALL, PRIVATE, scenes_of(), planned=20, seed=3, progress="mine")
    expected = f"mine: ε = {epsilon(1, 0.5, 4, 1e-4):.2f} for adding or removing one image, "
    assert said[0].startswith(expected + "at most ") and not said[1]
    assert "for replacing one, at δ = 0.0001 after 4 steps" in said[0]
    train()
    assert not capsys.readouterr().out


def test_a_training_that_is_prepared_promises_before_it_steps_and_steps_part_by_part():
    parts = prepare(SMALL, but(PRIVATE, physical=5), scenes_of(16), planned=16, seed=3)
    assert parts.promised == promise(1, 1, 1.0, 2, 1e-4)  # all 16 in each of two steps
    before = {k: v.clone() for k, v in parts.model.state_dict().items()}
    parts.seed(3, 0)
    losses = list(physical_steps(parts.model, parts.optimiser, parts.loader, 5))
    assert sum(map(len, losses)) == 16 and max(map(len, losses)) <= 5
    assert all((part > 0).all() and not part.requires_grad for part in losses)
    assert not same_weights(before, parts.model)


def test_rdp_answers_where_the_tight_accountant_cannot_and_says_so():
    found = promise(0.5, 1.0, 1.0, 2000, 1e-4)
    assert found.accountant == "rdp"
    assert found.epsilon == epsilon(0.5, 1.0, 2000, 1e-4, accountant="rdp")
    assert "by RDP, since the tight accountant cannot" in str(found)
    tight = promise(12, 0.5, 1.0, 16, 1e-4)
    assert tight == Privacy(epsilon(12, 1.0, 16, 1e-4), 1e-4, 12, 0.5, 1.0, 16) != found
    assert "RDP" not in str(tight) and str(tight).startswith(
        "ε = 1.08 for adding or removing one image, 2.37 for replacing one, at δ = 0.0001"
    )
    assert "nothing is promised" in str(promise(0, 1.0, 1.0, 16, 1e-4))


def test_a_privacy_loss_is_that_of_a_gaussian_where_all_are_in_each_step():
    losses, chances = privacy_loss(4.0, 1.0, 16, 1e-4)  # mu 1
    assert chances.sum() == pytest.approx(1, abs=1e-6) and (np.diff(losses) > 0).all()
    mean, spread = losses @ chances, math.sqrt(losses**2 @ chances - (losses @ chances) ** 2)
    assert (mean, spread) == pytest.approx((0.5, 1.0), abs=1e-3)
    with pytest.raises(ValueError, match="without noise the loss is infinite"):
        privacy_loss(0, 1.0, 16, 1e-4)


def test_replacing_an_image_is_twice_the_way_where_all_are_in_each_step():
    assert replacing(12, 1.0, 16, 1e-4) == pytest.approx(epsilon(6, 1.0, 16, 1e-4), abs=0.02)
    assert promise(12, 1.0, 1.0, 16, 1e-4).replacing == replacing(12, 1.0, 16, 1e-4)
    assert replacing(0, 1.0, 16, 1e-4) == math.inf
    assert promise(0.5, 1.0, 1.0, 2000, 1e-4).replacing > 10_000  # beyond any curve, still a bound


def test_replacing_a_sampled_image_is_at_most_removing_one_and_adding_another():
    q, delta = 0.5, 1e-4

    def adding(fpr):  # one step: the threshold on its sum is the best test
        t = norm.isf(fpr)
        return (1 - q) * norm.sf(t) + q * norm.sf(t - 1)

    t = np.linspace(-30, 30, 200_001)
    alarms, hits = (1 - q) * norm.cdf(t) + q * norm.cdf(t - 1), norm.cdf(t)
    rates = np.geomspace(1e-14, 1, 100_000)
    both = adding(np.interp(rates, alarms, hits))
    exact = np.log(np.maximum(both - delta, 1e-300) / rates).max()
    found = replacing(1.0, q, 1, delta)
    assert exact < found < exact + 0.15 and found > epsilon(1.0, q, 1, delta)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained):
    model, history, _ = trained
    torch.rand(5)  # whatever was drawn before has no part
    again, same, _ = train()
    assert same_weights(model, again) and history == same
    other, _, _ = train(seed=4)
    assert not same_weights(model, other)


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    train(but(PRIVATE, epochs=1))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.slow
def test_training_learns_where_there_is_no_noise():
    private = but(PRIVATE, noise_multiplier=0, epochs=8, lr=3e-3)
    _, history, promised = train(private)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert promised.epsilon == math.inf and promised.noise_multiplier == 0


@pytest.mark.parametrize("batches", [1, 2, 7, 49, 93, 100])
def test_the_rate_that_is_promised_is_the_one_that_is_drawn_at(monkeypatch, batches):
    drawn = []

    def epoch(model, optimiser, loader, physical):
        drawn.append(
            (loader.sample_rate, loader.batch_sampler.sample_rate, len([*loader.batch_sampler]))
        )
        return 1.0

    monkeypatch.setattr("segleak_utils.victims.dpsgd._one_epoch", epoch)
    asked = []
    monkeypatch.setattr(
        "segleak_utils.victims.accountant.epsilon", lambda *args: asked.append(args) or 1.0
    )
    *_, promised = train(but(PRIVATE, epochs=3), scenes_of(16 * batches))
    rate, same, steps = drawn[0]
    assert rate == same == pytest.approx(1 / batches)
    assert promised.sampling_rate == pytest.approx(rate)
    assert promised.steps == 3 * steps
    assert asked == [(1, promised.sampling_rate, promised.steps, 1e-4)]


def test_a_crop_is_a_window_of_the_image_and_its_own_mask():
    members = scenes_of(4, height=64, width=128)
    torch.manual_seed(0)
    places = set()
    for crop, shape in ((32, (32, 64)), (48, (48, 96)), (500, (64, 128)), (None, (64, 128))):
        cropped = dpsgd._Augmented(members, SMALL, crop)
        assert len(cropped) == 4
        for _ in range(5):
            image, mask = cropped[1]
            assert image.shape == (3, *shape) and mask.shape == shape
            expected = torch.where(mask == VOID, 0, 40 + 80 * mask) / 255
            assert torch.allclose(image, expected.float().expand(3, -1, -1))
            places.add((crop, mask.sum().item()))
    assert len(places) > 6  # windows differ from look to look


@pytest.mark.slow
def test_a_crop_is_what_the_network_is_trained_on(monkeypatch):
    seen = watch_losses(monkeypatch)
    train(but(PRIVATE, epochs=1, crop=32), scenes_of(16, height=64, width=96))
    assert {tuple(masks.shape[1:]) for masks in seen} == {(32, 64)}


# ---- gradients -----------------------------------------------------------------------------------


def watch_losses(monkeypatch) -> list[torch.Tensor]:
    """The masks of every part of a batch that is trained on."""
    seen, loss = [], dpsgd.per_image_loss
    monkeypatch.setattr(
        dpsgd, "per_image_loss", lambda logits, masks: seen.append(masks) or loss(logits, masks)
    )
    return seen


def first_gradient(monkeypatch, private, members, **kwargs) -> torch.Tensor:
    """Of the first step, the sum over its images as one vector: before it is divided by a size."""
    kept, adam = [], torch.optim.Adam

    class Watched(adam):
        def step(self, closure=None):
            grads = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
            kept.append(torch.cat(grads).clone())
            return super().step(closure)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Watched)
        train(but(private, epochs=1), members, **kwargs)
    steps = math.ceil(len(members) / private.batch)
    assert len(kept) == steps
    return kept[0] * (len(members) // steps)  # the expected size, by which Opacus divides


QUIET = but(PRIVATE, noise_multiplier=0)


@pytest.mark.slow
@pytest.mark.parametrize("physical", [2, 7, 16])
def test_unclipped_the_gradient_is_the_sum_over_the_images(monkeypatch, physical):
    # All members at once: 16 in batches of 16 are drawn with certainty. The encoder hands on
    # tensors that lie channels last, and Opacus unfolds a convolution's input as if contiguous.
    members = scenes_of(16)
    private = but(QUIET, clip_norm=1e6, physical=physical)
    found = first_gradient(monkeypatch, private, members)
    model = build_victim(SMALL, seed=3).train()
    expected = 0
    for image, mask in members:
        model.zero_grad()
        F.cross_entropy(model(image[None]), mask[None], ignore_index=VOID).backward()
        expected = expected + torch.cat([p.grad.flatten() for p in model.parameters()])
    assert (found - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("clip_norm", [0.01, 0.5])
def test_the_sum_of_clipped_gradients_is_bounded(monkeypatch, clip_norm):
    members, seen = scenes_of(16), watch_losses(monkeypatch)  # all are drawn with certainty
    found = first_gradient(monkeypatch, but(QUIET, clip_norm=clip_norm), members).norm()
    assert [len(masks) for masks in seen] == [8, 8]
    assert 0 < found <= clip_norm * 16 * (1 + 1e-5)
    loose = first_gradient(monkeypatch, but(QUIET, clip_norm=1e6), members).norm()
    assert loose > found  # the clip has a part in it


@pytest.mark.slow
def test_the_step_on_the_page_is_that_of_the_library():
    """Notebook 08 has a step of DP-SGD in a dozen lines."""
    path = execution.ROOT / "notebooks" / "08_what_dp_promises.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    page = {"torch": torch, "dpsgd": dpsgd}
    exec(next(cell.source for cell in cells if cell.id == "dp-step"), page)
    clip, scenes = 0.5, scenes_of(16)
    private = but(PRIVATE, noise_multiplier=0, clip_norm=clip, trained="few")
    parts = prepare(SMALL, private, scenes, planned=16, seed=3)
    plain = build_victim(SMALL, seed=3).train()
    for name, weight in plain.named_parameters():
        weight.requires_grad_(name in dpsgd.trained_names(plain, "few"))
    seen = []
    parts.optimiser.attach_step_hook(
        lambda of: seen.append(torch.cat([p.grad.flatten() for p in of.params]) * 16)
    )
    parts.seed(3, 0)
    list(physical_steps(parts.model, parts.optimiser, parts.loader, 8))
    batch = [torch.stack(part) for part in zip(*scenes, strict=True)]
    quiet, loud = (
        page["private_step"](plain, *batch, clip, noise, torch.Generator().manual_seed(1))
        for noise in (0, 2)
    )
    assert torch.allclose(quiet, seen[0], atol=1e-4 * float(quiet.norm()))
    drawn = torch.randn(len(quiet), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(loud - quiet, 2 * clip * drawn, atol=1e-4)


def test_one_image_more_moves_the_sum_by_no_more_than_the_clip_norm(monkeypatch):
    members = scenes_of(17)
    with_it = first_gradient(monkeypatch, but(QUIET, clip_norm=0.1, batch=17), members)
    without = first_gradient(monkeypatch, but(QUIET, clip_norm=0.1), members.subset(range(16)))
    moved = (with_it - without).norm()
    assert 0.09 < moved <= 0.1 * 1.001


@pytest.mark.slow
def test_an_image_of_void_alone_does_not_move_the_sum(monkeypatch):
    members = scenes_of(16)
    void = np.full((1, 32, 64), VOID, np.uint8)
    blank = Scenes.from_arrays(np.zeros((1, 3, 32, 64), np.uint8), void, ["void"], NAMES)
    without = first_gradient(monkeypatch, but(QUIET, clip_norm=0.1), members)
    with_it = first_gradient(monkeypatch, but(QUIET, clip_norm=0.1, batch=17), members + blank)
    assert with_it.isfinite().all()
    assert (with_it - without).norm() < 1e-4


def test_the_noise_has_the_promised_size(monkeypatch):
    quiet = first_gradient(monkeypatch, but(QUIET, clip_norm=0.5), scenes_of(16))
    loud = but(PRIVATE, noise_multiplier=3, clip_norm=0.5)
    noise = first_gradient(monkeypatch, loud, scenes_of(16)) - quiet
    assert noise.std().item() == pytest.approx(3 * 0.5, rel=0.01)
    assert abs(noise.mean().item()) < 0.01
    other = first_gradient(monkeypatch, loud, scenes_of(16), seed=4)
    assert (other - quiet - noise).std() > 1.5  # another seed, other noise


@pytest.mark.slow
@pytest.mark.parametrize("physical", [3, 20])
def test_how_many_images_fit_into_memory_changes_nothing(physical):
    # Augmentation is drawn image by image in the order of the batch, so the parts do not matter.
    recipe = but(SMALL, flip=True, crop_area=0.5, colour=0.2)
    private = but(QUIET, epochs=1, lr=1e-5)  # Adam's step follows the sign of a tiny gradient
    a, history, _ = train(private, recipe=recipe)
    b, other, _ = train(but(private, physical=physical), recipe=recipe)
    assert history[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-4)
    first, second = a.state_dict(), b.state_dict()
    start = build_victim(recipe, seed=3).state_dict()
    gap = sum((first[k] - second[k]).square().sum() for k in first).sqrt()
    way = sum((first[k] - start[k]).square().sum() for k in first).sqrt()
    assert gap < 0.05 * way


@pytest.mark.slow
def test_how_many_images_fit_into_memory_changes_no_gradient(monkeypatch):
    a, b = (
        first_gradient(monkeypatch, but(QUIET, physical=physical), scenes_of())
        for physical in (4, 20)
    )
    assert (a - b).norm() < 1e-4 * a.norm()


# ---- start and decoder ---------------------------------------------------------------------------


def test_weights_to_start_with_are_started_with(monkeypatch):
    start = build_victim(SMALL, seed=9).state_dict()
    monkeypatch.setattr("segleak_utils.victims.dpsgd._one_epoch", lambda *_: 1.0)
    model, *_ = train(start=start)
    assert same_weights(model, start)
    model, *_ = train()
    assert same_weights(model, build_victim(SMALL, seed=3))


def test_a_trained_decoder_leaves_the_encoder_as_it_was():
    start = build_victim(SMALL, seed=9).state_dict()
    before = {k: v.clone() for k, v in start.items()}
    model, _, promised = train(but(PRIVATE, trained="decoder", epochs=1), start=start)
    assert same_weights(start, before)  # the caller's weights are not trained in place
    moved = {k.split(".")[1] for k, v in model.state_dict().items() if not torch.equal(v, start[k])}
    assert moved == {"decoder", "segmentation_head"}
    assert all(p.requires_grad for p in model.parameters())
    assert promised.epsilon == epsilon(1, 0.5, 2, 1e-4)


def test_all_of_the_network_is_trained_otherwise(trained):
    start, moved = build_victim(SMALL, seed=3).state_dict(), trained[0].state_dict()
    still = [k for k in start if torch.equal(start[k], moved[k])]
    assert not still


# ---- checkpoint ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_resumed_run_ends_in_the_weights_of_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    whole, epochs = dpsgd._one_epoch, []

    def interrupted(*args):
        if epochs:
            raise KeyboardInterrupt
        epochs.append(1)
        return whole(*args)

    path = tmp_path / "deep" / "run.pt"
    monkeypatch.setattr("segleak_utils.victims.dpsgd._one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint=path)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]
    left = []
    monkeypatch.setattr(
        "segleak_utils.victims.dpsgd._one_epoch", lambda *a: left.append(1) or whole(*a)
    )
    torch.rand(7)  # whatever happened in between
    model, history, promised = train(checkpoint=path)
    assert len(left) == 1 and same_weights(model, trained[0])
    assert history == trained[1] and promised == trained[2]  # the promise is of the whole run
    # once complete, nothing is trained
    model, history, promised = train(checkpoint=path)
    assert len(left) == 1 and same_weights(model, trained[0])
    assert history == trained[1] and promised == trained[2]


@pytest.mark.slow
def test_another_runs_checkpoint_is_not_gone_on_with(tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr(
        "segleak_utils.victims.dpsgd._one_epoch", lambda *_: epochs.append(1) or 1.0
    )
    path = tmp_path / "run.pt"
    train(checkpoint=path)
    content = path.read_bytes()
    for changes, new_epochs in (
        ({}, 0),
        ({"seed": 5}, 2),
        ({"members": scenes_of(seed=1)}, 2),
        ({"recipe": but(SMALL, flip=True)}, 2),
        ({"private": but(PRIVATE, noise_multiplier=2)}, 2),
        ({"private": but(PRIVATE, clip_norm=2)}, 2),
        # Weights that were begun with belong to the run as much as its recipe does.
        ({"start": build_victim(SMALL, seed=9).state_dict()}, 2),
    ):
        path.write_bytes(content)
        epochs.clear()
        train(checkpoint=path, **changes)
        assert len(epochs) == new_epochs, changes.keys()


@pytest.mark.parametrize("damage", ["empty", "half", "text", "foreign", "no dict", "weights"])
def test_a_damaged_checkpoint_is_named(tmp_path, monkeypatch, damage):
    monkeypatch.setattr("segleak_utils.victims.dpsgd._one_epoch", lambda *_: 1.0)
    path = tmp_path / "run.pt"
    train(checkpoint=path)
    content = path.read_bytes()
    if damage == "foreign":
        torch.save({"epoch": torch.rand(9)}, path)
    elif damage == "no dict":
        torch.save([1, 2], path)
    elif damage == "weights":
        state = torch.load(path, weights_only=True)
        torch.save(state | {"model": {}}, path)
    else:
        torn = {"empty": b"", "half": content[: len(content) // 2], "text": b"hello\n" * 9}
        path.write_bytes(torn[damage])
    with pytest.raises(ValueError, match=r"run\.pt cannot be read .*delete it to start afresh"):
        train(checkpoint=path)
