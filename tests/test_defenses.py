"""Defences at the output: small exact tensors, numpy again, and the laws of every release."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segleak_utils.defenses import (
    SMALLEST_RELEASED,
    Release,
    from_labels,
    gaussian_noise,
    label_only,
    rounding,
    temperature,
    top_k,
)
from segleak_utils.representations import argmax_posterior, check_posterior

few = settings(max_examples=40, deadline=None)
NAN, INF = float("nan"), float("inf")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def posterior_of(seed=0, n=2, classes=5, height=3, width=4, spread=2.0, dtype=torch.float32):
    """A random posterior: flat where `spread` is 0, nearly one-hot where it is large."""
    logits = torch.randn(n, classes, height, width, generator=seeded(seed), dtype=torch.float64)
    return (spread * logits).softmax(1).to(dtype)


some = st.builds(
    posterior_of,
    seed=st.integers(0, 10_000),
    n=st.integers(1, 3),
    classes=st.integers(4, 21),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    spread=st.sampled_from([0.0, 0.1, 1.0, 5.0, 100.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)


def pixel(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, :, None, None]


RELEASES = [
    Release(),
    Release("argmax"),
    Release("Gaussian noise", 0),
    Release("Gaussian noise", 0.05),
    Release("Gaussian noise", 3),
    Release("top-k", 1),
    Release("top-k", 3),
    Release("rounding", 1),
    Release("rounding", 4),
    Release("temperature", 0.1),
    Release("temperature", 10),
]
by_name = pytest.mark.parametrize("release", RELEASES, ids=str)

FUNCTIONS = {
    "argmax": label_only,
    "Gaussian noise": lambda p: gaussian_noise(p, 0.1, seeded()),
    "no noise": lambda p: gaussian_noise(p, 0, seeded()),
    "top-k": lambda p: top_k(p, 2),
    "rounding": lambda p: rounding(p, 2),
    "temperature": lambda p: temperature(p, 2),
} | {f"Release {r}": lambda p, r=r: r(p, seeded()) for r in RELEASES}


# ---- every release -------------------------------------------------------------------------------


@by_name
@few
@given(some)
def test_what_is_released_is_a_distribution_of_the_same_form(release, posterior):
    before = posterior.clone()
    released = release(posterior, seeded())
    check_posterior(released)
    assert released.shape == posterior.shape
    assert torch.equal(posterior, before)  # what was asked for is not changed in place


@pytest.mark.parametrize("release", [r for r in RELEASES if r.kind != "Gaussian noise"], ids=str)
@few
@given(some)
def test_without_noise_the_most_probable_class_stays_so(release, posterior):
    released = release(posterior, seeded())
    winner = posterior.argmax(1, keepdim=True)
    top = released.gather(1, winner)[:, 0]
    tied = (posterior == posterior.amax(1, keepdim=True)).sum(1) > 1
    assert torch.equal(top[~tied], released.amax(1)[~tied])


@by_name
def test_a_checked_posterior_need_not_be_looked_at_again(release):
    posterior = posterior_of()
    found = release(posterior, seeded(), check=False)
    assert torch.equal(found, release(posterior, seeded()))


@by_name
def test_a_release_takes_channels_last_like_any_other(release):
    posterior = posterior_of()
    last = posterior.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(release(last, seeded()), release(posterior, seeded()))


@pytest.mark.parametrize("ask", FUNCTIONS.values(), ids=FUNCTIONS.keys())
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: 5 * p.log(), "negative probability"),  # logits
        (lambda p: 2 * p, "sum to one"),
        (lambda p: torch.where(p == p.max(), NAN, p), "NaN"),
        (lambda p: torch.where(p == p.max(), INF, p), "infinite"),
        (lambda p: p[0], r"must be \[N, C, H, W\]"),
        (lambda p: p[None], r"must be \[N, C, H, W\]"),
        (lambda p: p.long(), "floating-point"),
        (lambda p: p[:0], "not empty"),
    ],
)
def test_what_is_no_posterior_is_refused_by_every_defence(ask, spoil, message):
    with pytest.raises(ValueError, match=message):
        ask(spoil(posterior_of()))


def test_a_release_does_what_its_function_does():
    posterior = posterior_of()
    for release, expected in (
        (Release(), posterior),
        (Release("argmax"), argmax_posterior(posterior)),
        (Release("Gaussian noise", 0.2), gaussian_noise(posterior, 0.2, seeded())),
        (Release("top-k", 2), top_k(posterior, 2)),
        (Release("rounding", 1), rounding(posterior, 1)),
        (Release("temperature", 3), temperature(posterior, 3)),
    ):
        assert torch.equal(release(posterior, seeded()), expected)


def test_only_noise_draws_from_the_generator():
    for release in RELEASES:
        generator, untouched = seeded(), seeded()
        release(posterior_of(), generator)
        drew = not torch.equal(generator.get_state(), untouched.get_state())
        assert drew == (release.kind == "Gaussian noise" and release.strength > 0)


def test_a_release_has_a_name_and_an_unknown_one_is_refused():
    assert [str(r) for r in (Release(), Release("argmax"), Release("top-k", 3))] == [
        "nothing", "argmax", "top-k 3",
    ]  # fmt: skip
    assert str(Release("Gaussian noise", 0.05)) == "Gaussian noise 0.05"
    with pytest.raises(ValueError, match="unknown release 'blur'"):
        Release("blur")(posterior_of(), seeded())
    for kind in ("top-k", "rounding", "temperature"):  # a strength that was forgotten
        with pytest.raises(ValueError, match="is 0"):
            Release(kind)(posterior_of(), seeded())


# ---- argmax and labels ---------------------------------------------------------------------------


@few
@given(some)
def test_argmax_and_released_labels_say_the_same(posterior):
    labels = label_only(posterior)
    assert labels.dtype == torch.int64 and labels.shape == posterior[:, 0].shape
    hot = from_labels(labels, posterior.shape[1])
    check_posterior(hot)
    assert hot.dtype == torch.float32 and torch.equal(hot, argmax_posterior(posterior).float())
    assert torch.equal(label_only(hot), labels)
    assert torch.equal(Release("argmax")(posterior, seeded()).float(), hot)


def test_the_first_class_wins_a_tie_in_the_labels_too():
    posterior = torch.cat([pixel(0.2, 0.4, 0.4), pixel(0.5, 0.5, 0.0)])
    assert label_only(posterior).flatten().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "n", "found"),
    [
        (torch.zeros(1, 2, 2), 3, "must be an integer tensor"),
        (torch.zeros(1, 2, 2, dtype=torch.bool), 3, "must be an integer tensor"),
        (torch.zeros(2, 2, dtype=torch.int64), 3, r"must be \[N, H, W\]"),
        (torch.zeros(0, 2, 2, dtype=torch.int64), 3, "not empty"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), 1, r"n_classes is 1; expected 2\.\.255"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), 3.0, "n_classes is 3.0; expected a whole number"),
    ],
)
def test_what_are_no_labels_are_refused(labels, n, found):
    with pytest.raises(ValueError, match=found):
        from_labels(labels, n)


@pytest.mark.parametrize(
    ("labels", "found"), [([0, 5], r"0\.\.5"), ([-1, 2], r"-1\.\.2"), ([1, 255], r"1\.\.255")]
)
def test_a_service_predicts_a_class_and_never_void(labels, found):
    with pytest.raises(ValueError, match=rf"labels {found}; expected 0\.\.4"):
        from_labels(torch.tensor([[labels]]), 5)


# ---- Gaussian noise ------------------------------------------------------------------------------


@pytest.mark.parametrize("std", [1e-4, 0.1, 5])
def test_noise_is_what_numpy_makes_of_the_same_draws(std):
    posterior = posterior_of(n=3, classes=19, height=20, width=30)
    draws = torch.randn(posterior.shape, generator=seeded(7)).double().numpy()
    noisy = np.maximum(posterior.double().numpy() + std * draws, 1e-6)
    released = gaussian_noise(posterior, std, seeded(7))
    expected = noisy / noisy.sum(1, keepdims=True)
    np.testing.assert_allclose(released, expected, rtol=1e-5, atol=2e-7)  # below the clamp


def test_noise_follows_its_seed_and_goes_on_drawing():
    posterior = posterior_of()
    first = gaussian_noise(posterior, 0.1, seeded(1))
    assert torch.equal(first, gaussian_noise(posterior, 0.1, seeded(1)))
    assert not torch.equal(first, gaussian_noise(posterior, 0.1, seeded(2)))
    generator = seeded(1)
    assert torch.equal(gaussian_noise(posterior, 0.1, generator), first)
    assert not torch.equal(gaussian_noise(posterior, 0.1, generator), first)  # a second answer


def test_the_global_random_numbers_have_no_part_in_the_noise():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    gaussian_noise(posterior_of(), 0.1, seeded())
    assert torch.equal(torch.rand(2), expected)


def test_no_noise_leaves_the_posterior_as_it_is():
    posterior = posterior_of(spread=100)  # with exact zeros, which a clamp would lift
    assert (posterior == 0).any()
    assert torch.equal(gaussian_noise(posterior, 0, seeded()), posterior)


def test_noise_leaves_no_class_at_zero():
    # Without the clamp half of these classes would be negative.
    posterior = posterior_of(n=1, classes=4, height=50, width=50, spread=100)
    released = gaussian_noise(posterior, 0.5, seeded())
    assert released.min() > 0 and SMALLEST_RELEASED == 1e-6
    lowest = released == released.amin(1, keepdim=True)
    assert (released[lowest] < 1e-5).float().mean() > 0.5


def test_stronger_noise_moves_a_posterior_further():
    posterior = posterior_of(height=30, width=30)
    gaps = [
        (gaussian_noise(posterior, std, seeded()) - posterior).abs().mean().item()
        for std in (0.001, 0.01, 0.1, 1)
    ]
    assert gaps == sorted(gaps) and gaps[0] < 0.002 and gaps[-1] > 0.1


@pytest.mark.parametrize("std", [-0.1, -1e-9, 2e6, NAN, INF, -INF, True, "1", None])
def test_a_std_that_is_negative_or_not_finite_is_named(std):
    for ask in (lambda p: gaussian_noise(p, std, seeded()),
                lambda p: Release("Gaussian noise", std)(p, seeded())):  # fmt: skip
        with pytest.raises(
            ValueError, match=rf"std is {std!r}; expected a number in \[0, 1e\+06\]"
        ):
            ask(posterior_of())


# ---- top-k ---------------------------------------------------------------------------------------


def test_top_k_worked_by_hand():
    posterior = pixel(0.1, 0.5, 0.25, 0.15)
    torch.testing.assert_close(top_k(posterior, 2), pixel(0, 2 / 3, 1 / 3, 0))
    torch.testing.assert_close(top_k(posterior, 3), pixel(0, 5 / 9, 2.5 / 9, 1.5 / 9))


@few
@given(some, st.data())
def test_top_k_keeps_the_k_largest_and_their_proportions(posterior, data):
    classes = posterior.shape[1]
    k = data.draw(st.integers(1, classes))
    released = top_k(posterior, k)
    assert ((released > 0).sum(1) <= k).all()
    ordered = posterior.sort(1, descending=True).values[:, :k]
    expected = ordered / ordered.sum(1, keepdim=True)
    torch.testing.assert_close(released.sort(1, descending=True).values[:, :k], expected)
    # What was kept was not changed but for one factor a pixel.
    factor = ordered.sum(1, keepdim=True)
    torch.testing.assert_close((released * factor)[released > 0], posterior[released > 0])


def test_one_class_is_argmax_and_all_classes_are_the_posterior():
    posterior = posterior_of(n=3, classes=19, height=10, width=10)
    assert torch.equal(top_k(posterior, 1), argmax_posterior(posterior))
    torch.testing.assert_close(top_k(posterior, 19), posterior)
    assert torch.equal(top_k(posterior, 2.0), top_k(posterior, 2))  # as a slider gives it


@pytest.mark.parametrize("k", [0, 6, 1.5, -1, NAN, INF, True, "2", None])
def test_a_k_that_is_no_number_of_classes_is_named(k):
    for ask in (lambda p: top_k(p, k), lambda p: Release("top-k", k)(p, seeded())):
        with pytest.raises(ValueError, match=rf"k is {k!r}; expected (a whole number|1\.\.5)"):
            ask(posterior_of())


# ---- rounding ------------------------------------------------------------------------------------


def test_rounding_worked_by_hand():
    posterior = pixel(0.62, 0.24, 0.13, 0.01)
    torch.testing.assert_close(rounding(posterior, 1), pixel(6 / 9, 2 / 9, 1 / 9, 0))
    torch.testing.assert_close(rounding(posterior, 2), posterior)


@few
@given(some, st.integers(1, 6))
def test_rounding_is_numpys_where_something_is_left(posterior, digits):
    rounded = np.round(posterior.double().numpy(), digits)
    total = rounded.sum(1, keepdims=True)
    # A value at the border of two roundings may fall to either side in float32.
    scaled = posterior.double().numpy() * 10**digits
    clear = (np.abs(scaled - np.floor(scaled) - 0.5) > 1e-3 * scaled + 1e-9).all(1, keepdims=True)
    expected = np.divide(rounded, total, out=np.zeros_like(rounded), where=total > 0)
    found = rounding(posterior, digits).double().numpy()
    keep = np.broadcast_to(clear & (total > 0), found.shape)
    np.testing.assert_allclose(found[keep], expected[keep], rtol=1e-5, atol=1e-7)


def test_where_all_would_be_zero_the_most_probable_class_is_released_alone():
    posterior = posterior_of(classes=30, spread=0.01)  # about .033 everywhere: zero at one digit
    assert posterior.max() < 0.05
    assert torch.equal(rounding(posterior, 1), argmax_posterior(posterior))
    # Other pixels of the same batch are rounded as ever.
    posterior[0, :, 0, 0] = 0
    posterior[0, :2, 0, 0] = torch.tensor([0.74, 0.26])
    found = rounding(posterior, 1)
    torch.testing.assert_close(found[0, :2, 0, 0], torch.tensor([0.7, 0.3]))
    assert torch.equal(found[1], argmax_posterior(posterior)[1])


def test_an_exactly_flat_posterior_is_released_as_its_first_class():
    posterior = torch.full((1, 40, 1, 2), 1 / 40)
    assert rounding(posterior, 1)[0, :, 0, 0].tolist() == [1.0] + 39 * [0.0]


@pytest.mark.parametrize("digits", [0, -1, 8, 1.5, NAN, INF, True, "2", None])
def test_digits_that_are_no_positive_whole_number_are_named(digits):
    for ask in (lambda p: rounding(p, digits), lambda p: Release("rounding", digits)(p, seeded())):
        with pytest.raises(
            ValueError, match=rf"digits is {digits!r}; expected (a whole number|1\.\.7)"
        ):
            ask(posterior_of())


# ---- temperature ---------------------------------------------------------------------------------


def test_temperature_worked_by_hand():
    posterior = pixel(0.64, 0.32, 0.04)
    roots = torch.tensor([0.8, 0.32**0.5, 0.2])
    torch.testing.assert_close(temperature(posterior, 2).flatten(), roots / roots.sum())
    squares = torch.tensor([0.4096, 0.1024, 0.0016])
    torch.testing.assert_close(temperature(posterior, 0.5).flatten(), squares / squares.sum())


def test_temperature_is_that_of_the_logits():
    logits = 3 * torch.randn(2, 7, 5, 6, generator=seeded())
    found = temperature(logits.softmax(1), 2.5)
    torch.testing.assert_close(found, (logits / 2.5).softmax(1), atol=1e-5, rtol=1e-4)


@few
@given(some, st.floats(0.05, 100))
def test_a_temperature_keeps_the_order_and_one_changes_nothing(posterior, t):
    order = posterior.argsort(1)
    along = temperature(posterior, t).gather(1, order)
    assert (along.diff(dim=1) >= -1e-6).all()
    torch.testing.assert_close(temperature(posterior, 1), posterior, atol=1e-6, rtol=1e-5)


def test_a_hot_posterior_is_flat_and_a_cold_one_is_argmax():
    posterior = posterior_of(classes=8)
    hot = temperature(posterior, 1e6)
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / 8), atol=1e-4, rtol=0)
    cold = temperature(posterior, 1e-4)
    torch.testing.assert_close(cold, argmax_posterior(posterior))


@pytest.mark.parametrize("t", [0, -1, -0.5, NAN, INF, -INF, True, "2", None])
def test_a_temperature_that_is_not_finite_and_positive_is_named(t):
    for ask in (lambda p: temperature(p, t), lambda p: Release("temperature", t)(p, seeded())):
        with pytest.raises(ValueError, match=f"temperature is {t!r}; expected a number above 0"):
            ask(posterior_of())


@pytest.mark.parametrize(
    "release",
    [
        Release("rounding", 10),
        Release("rounding", 40),
        Release("rounding", 400),
        Release("temperature", 1e-6),
        Release("temperature", 1e-40),
        Release("temperature", 1e300),
        Release("Gaussian noise", 1e6),
        Release("Gaussian noise", 1e39),
    ],
    ids=str,
)
def test_an_absurd_strength_is_refused_or_gives_a_distribution_all_the_same(release):
    try:
        released = release(posterior_of(), seeded())
    except ValueError:
        return
    check_posterior(released)  # above all: no NaN is released
