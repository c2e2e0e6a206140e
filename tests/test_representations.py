"""Representations against F.cross_entropy, float64 numpy, smp's Dice, and their own laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from segmentation_models_pytorch.losses import DiceLoss

from segleak_utils.data import VOID
from segleak_utils.representations import (
    LOSS_SCALE,
    argmax_posterior,
    boundary_distance,
    check_posterior,
    class_losses,
    class_shares,
    concatenation,
    dice,
    global_loss,
    labelled_loss_map,
    loss_map_of_logits,
    one_hot,
    structured_loss_map,
)

WRONG = -np.log(1e-30)  # 69.0776


def scene(seed: int, n=2, classes=19, height=12, width=20, void=0.1, dtype=torch.float32):
    """Logits, posterior and mask of a random batch."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, height, width, generator=generator, dtype=torch.float64)
    mask = torch.randint(classes, (n, height, width), generator=generator)
    mask[torch.rand(n, height, width, generator=generator) < void] = VOID
    mask[:, 0, 0] = 0  # never all void
    return logits.to(dtype), logits.softmax(1).to(dtype), mask


scenes = st.builds(
    scene,
    seed=st.integers(0, 10_000),
    n=st.integers(1, 3),
    classes=st.integers(2, 21),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    void=st.sampled_from([0.0, 0.3, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
few = settings(max_examples=40, deadline=None)


# ---- loss map ------------------------------------------------------------------------------------


def test_loss_map_of_a_tensor_worked_by_hand():
    posterior = torch.tensor([[[[0.5, 0.25, 1.0, 0.0]], [[0.5, 0.75, 0.0, 1.0]]]])
    mask = torch.tensor([[[0, 1, 0, 0]]])
    expected = torch.tensor([np.log(2), np.log(4 / 3), 0.0, WRONG]).float()
    loss = structured_loss_map(posterior, mask)
    assert loss.shape == (1, 1, 1, 4) and loss.dtype == torch.float32
    torch.testing.assert_close(loss[0, 0, 0], expected)
    assert not torch.signbit(loss).any()  # no -0.0, which prints as "-0."


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_loss_map_is_the_cross_entropy_of_the_logits(dtype, tolerance):
    logits, posterior, mask = scene(0, n=3, height=128, width=256, dtype=dtype)
    expected = F.cross_entropy(logits, mask, reduction="none", ignore_index=VOID)
    loss = structured_loss_map(posterior, mask)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss[:, 0], expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_loss_map_of_logits_is_that_of_their_softmax(layout):
    rng = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(3, 5, 6, 7, generator=rng)).contiguous(memory_format=layout)
    logits[0, :, 1, 1] = torch.tensor([0.0, 200, 0, 0, 0])  # a posterior of 0, and one of 1
    mask = torch.randint(0, 5, (3, 6, 7), generator=rng)
    mask[0, 1, 1], mask[0, 1, 2], mask[:, 0] = 0, 1, 255
    logits[0, :, 1, 2] = logits[0, :, 1, 1]
    found = loss_map_of_logits(logits, mask)
    expected = structured_loss_map(logits.softmax(1), mask)
    assert torch.equal(found, expected)
    assert (found[:, :, 0] == 0).all() and round(found[0, 0, 1, 1].item(), 2) == 69.08
    assert found[0, 0, 1, 2] == 0 and not torch.signbit(found).any()
    assert torch.equal(loss_map_of_logits(logits, mask.byte()), found)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(19, 128, 256), (19, 97, 1023), (66, 45, 777), (3, 20, 33)])
def test_loss_map_of_logits_is_the_same_to_the_bit_in_strips(shape, layout):
    rng = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(2, *shape, generator=rng)).contiguous(memory_format=layout)
    mask = torch.randint(0, shape[0], (2, *shape[1:]), generator=rng)
    assert torch.equal(
        loss_map_of_logits(logits, mask), structured_loss_map(logits.softmax(1), mask)
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda z, m: (z.masked_fill(z == z.max(), torch.nan), m), "NaN or infinite"),
        (lambda z, m: (z.masked_fill(z == z.max(), torch.inf), m), "NaN or infinite"),
        (lambda z, m: (z.long(), m), "logits must be a floating-point"),
        (lambda z, m: (z[:, :1], m), "logits has 1 classes"),
        (lambda z, m: (z, m + 3), "label 5, expected 0..2"),
        (lambda z, m: (z, m[:, 1:]), "bring both to one grid"),
    ],
)
def test_logits_that_are_none_are_refused(spoil, message):
    rng = torch.Generator().manual_seed(0)
    logits, mask = torch.randn(1, 3, 4, 5, generator=rng), torch.full((1, 4, 5), 2)
    for layout in (torch.contiguous_format, torch.channels_last):
        with pytest.raises(ValueError, match=message):
            loss_map_of_logits(*spoil(logits.contiguous(memory_format=layout), mask))


def test_loss_map_is_exact_against_float64_numpy():
    _, posterior, mask = scene(1, dtype=torch.float64)
    p, y = posterior.numpy(), mask.numpy()
    expected = np.zeros(y.shape)
    for n, row, column in np.ndindex(*y.shape):
        if y[n, row, column] != VOID:
            probability = p[n, y[n, row, column], row, column]
            expected[n, row, column] = -np.log(max(probability, 1e-30))
    np.testing.assert_allclose(structured_loss_map(posterior, mask)[:, 0], expected, rtol=1e-14)


@pytest.mark.parametrize("dtype, error", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_posteriors_are_widened_before_the_clamp(dtype, error):
    _, posterior, mask = scene(2)
    posterior, mask = posterior.clone(), mask.clone()
    posterior[:, :, 0, 0], mask[:, 0, 0] = 0, 0
    posterior[:, 1, 0, 0] = 1
    loss = structured_loss_map(posterior.to(dtype), mask)
    assert loss.dtype == torch.float32
    assert loss[0, 0, 0, 0].item() == pytest.approx(WRONG, rel=1e-6)  # 1e-30 is 0 in float16
    close = posterior.gather(1, mask.clamp(max=18)[:, None]) > 1e-3
    torch.testing.assert_close(
        loss[close], structured_loss_map(posterior, mask)[close], atol=error, rtol=error
    )


def test_loss_map_passes_gradients_for_an_adaptive_attacker():
    logits, _, mask = scene(3, n=1, classes=3, height=2, width=3, dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: structured_loss_map(z.softmax(1), mask), (logits,), atol=1e-6
    )
    assert torch.autograd.gradcheck(lambda z: concatenation(z.softmax(1), mask), (logits,))


@few
@given(scenes)
def test_void_pixels_are_zero_in_every_label_channel(batch):
    _, posterior, mask = batch
    void = mask == VOID
    classes = posterior.shape[1]
    assert (structured_loss_map(posterior, mask)[:, 0][void] == 0).all()
    assert (labelled_loss_map(posterior, mask).movedim(1, -1)[void] == 0).all()
    assert (concatenation(posterior, mask)[:, classes:].movedim(1, -1)[void] == 0).all()


@few
@given(scenes)
def test_what_lies_under_void_changes_nothing(batch):
    _, posterior, mask = batch
    other = torch.where((mask == VOID)[:, None], posterior.flip(1), posterior)
    for function in (structured_loss_map, labelled_loss_map, global_loss, dice):
        torch.testing.assert_close(function(posterior, mask), function(other, mask))


@few
@given(scenes, st.randoms(use_true_random=False))
def test_renaming_the_classes_changes_no_loss(batch, random):
    _, posterior, mask = batch
    order = list(range(posterior.shape[1]))
    random.shuffle(order)
    new_name = torch.arange(VOID + 1)
    new_name[order] = torch.arange(len(order))
    renamed, relabelled = posterior[:, order], new_name[mask]
    assert torch.equal(
        structured_loss_map(posterior, mask), structured_loss_map(renamed, relabelled)
    )
    torch.testing.assert_close(dice(posterior, mask), dice(renamed, relabelled))
    torch.testing.assert_close(
        class_shares(mask, len(order))[:, order], class_shares(relabelled, len(order))
    )


@few
@given(scenes)
def test_the_halves_of_the_concatenation_give_the_loss_map_back(batch):
    _, posterior, mask = batch
    classes = posterior.shape[1]
    both = concatenation(posterior, mask)
    assert both.shape[1] == 2 * classes and torch.equal(both[:, :classes], posterior)
    probability = (both[:, :classes] * both[:, classes:]).sum(1)
    labelled = both[:, classes:].sum(1) == 1
    assert torch.equal(labelled, mask != VOID)
    loss = torch.where(labelled, -probability.clamp(min=1e-30).log(), 0)
    torch.testing.assert_close(loss, structured_loss_map(posterior, mask)[:, 0])


@few
@given(scenes)
def test_the_labelled_loss_map_is_the_loss_map_and_the_one_hot_half(batch):
    _, posterior, mask = batch
    classes = posterior.shape[1]
    expected = [
        structured_loss_map(posterior, mask),
        concatenation(posterior, mask)[:, classes:],
    ]
    assert torch.equal(labelled_loss_map(posterior, mask), torch.cat(expected, 1))
    assert torch.equal(one_hot(mask, classes), expected[1].float())


@few
@given(scenes, st.integers(0, 1))
def test_a_mask_of_one_class_reads_one_channel(batch, label):
    _, posterior, mask = batch
    mask = torch.full_like(mask, label)
    loss = structured_loss_map(posterior, mask)
    torch.testing.assert_close(loss[:, 0], -posterior[:, label].log())
    shares = class_shares(mask, posterior.shape[1])
    assert (shares[:, label] == 1).all() and (shares.sum(1) == 1).all()
    losses = class_losses(loss, mask, posterior.shape[1])
    torch.testing.assert_close(losses[:, label], global_loss(posterior, mask))
    assert losses.isnan().sum() == losses.numel() - len(losses)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_masks_of_every_integer_type_give_the_same(dtype):
    _, posterior, mask = scene(4)
    for function in (structured_loss_map, concatenation, global_loss, dice):
        assert torch.equal(function(posterior, mask.to(dtype)), function(posterior, mask))


def test_channels_last_input_gives_the_same():
    _, posterior, mask = scene(5)
    last = posterior.contiguous(memory_format=torch.channels_last)
    for function in (structured_loss_map, concatenation, labelled_loss_map):
        assert torch.equal(function(last, mask), function(posterior, mask))
    assert torch.equal(argmax_posterior(last), argmax_posterior(posterior))


# ---- argmax --------------------------------------------------------------------------------------


@few
@given(scenes)
def test_after_argmax_a_pixel_is_right_or_weighs_69(batch):
    _, posterior, mask = batch
    hot = argmax_posterior(posterior)
    assert torch.equal(hot.argmax(1), posterior.argmax(1))
    assert (hot.sum(1) == 1).all() and ((hot == 0) | (hot == 1)).all()
    assert torch.equal(argmax_posterior(hot), hot)
    loss = structured_loss_map(hot, mask)[:, 0]
    wrong = (posterior.argmax(1) != mask) & (mask != VOID)
    assert loss[wrong].tolist() == pytest.approx([WRONG] * int(wrong.sum()), rel=1e-6)
    assert (loss[~wrong] == 0).all()


def test_the_first_class_wins_a_tie_and_other_pixels_stay():
    posterior = torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.5, 0.0], [0.1, 0.1, 0.8]]).T[None, :, None]
    expected = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1]]).T[None, :, None].float()
    assert torch.equal(argmax_posterior(posterior), expected)


def test_argmax_never_lets_a_nan_through():
    _, posterior, _ = scene(6)
    posterior[1, 3, 2, 2] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        argmax_posterior(posterior, check=False)


def test_loss_scale_brings_an_argmax_loss_to_about_one():
    assert pytest.approx(69.0776, abs=1e-3) == WRONG and 1 < WRONG * LOSS_SCALE < 1.5


# ---- scalars -------------------------------------------------------------------------------------


def test_global_loss_is_torchs_mean_and_takes_a_loss_map_too():
    logits, posterior, mask = scene(7, n=3, dtype=torch.float64)
    loss = global_loss(posterior, mask)
    for i in range(3):
        mean = F.cross_entropy(logits[i : i + 1], mask[i : i + 1], ignore_index=VOID)
        assert loss[i].item() == pytest.approx(mean.item(), rel=1e-12)
    assert torch.equal(global_loss(structured_loss_map(posterior, mask), mask), loss)


def test_class_losses_and_shares_add_up_to_the_global_loss():
    _, posterior, mask = scene(8, n=3, dtype=torch.float64)
    mask[0][mask[0] == 5] = VOID
    losses = class_losses(structured_loss_map(posterior, mask), mask, 19)
    shares = class_shares(mask, 19)
    assert losses[0, 5].isnan() and shares[0, 5] == 0
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    for i, label in ((0, 3), (2, 18)):
        here = mask[i] == label
        expected = -posterior[i, label][here].log().mean()
        assert losses[i, label].item() == pytest.approx(expected.item(), rel=1e-12)
        share = here.sum() / (mask[i] != VOID).sum()
        assert shares[i, label].item() == pytest.approx(share.item(), rel=1e-6)
    together = (losses.nan_to_num() * shares).sum(1)
    torch.testing.assert_close(together, global_loss(posterior, mask), rtol=1e-6, atol=0)


def test_dice_is_smps_dice_where_every_class_is_present():
    _, posterior, mask = scene(9, n=3, height=40, width=60, dtype=torch.float64)
    smp = DiceLoss("multiclass", ignore_index=VOID)
    for i, value in enumerate(dice(posterior, mask)):
        assert len(mask[i][mask[i] != VOID].unique()) == 19
        expected = 1 - smp(posterior[i : i + 1].log(), mask[i : i + 1])
        assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_dice_averages_the_classes_present_only():
    posterior = torch.tensor([[[[0.8, 0.6]], [[0.1, 0.3]], [[0.1, 0.1]]]])
    mask = torch.tensor([[[0, 1]]])
    expected = (2 * 0.8 / (1.4 + 1) + 2 * 0.3 / (0.4 + 1)) / 2
    assert dice(posterior, mask).item() == pytest.approx(expected)
    perfect = torch.eye(3)[[0, 1]].T[None, :, None]
    assert dice(perfect, mask).item() == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda p, y: global_loss(p, y),
        lambda p, y: global_loss(structured_loss_map(p, y), y),
        lambda p, y: dice(p, y),
        lambda p, y: class_shares(y, 19),
    ],
)
def test_an_image_without_a_labelled_pixel_is_named_not_averaged(function):
    _, posterior, mask = scene(10, n=3)
    mask[1] = VOID
    with pytest.raises(ValueError, match="image 1 of the batch has no labelled pixel"):
        function(posterior, mask)


# ---- errors --------------------------------------------------------------------------------------


def spoil(posterior, mask, what):
    posterior, mask = posterior.clone(), mask.clone()
    if what == "nan":
        posterior[0, 2, 1, 1] = float("nan")
    elif what == "infinite":
        posterior[0, 2, 1, 1] = float("inf")
    elif what == "negative":
        posterior[0, :2, 1, 1] = torch.tensor([-0.1, 0.1])
    elif what == "sum":
        posterior[0, :, 1, 1] *= 1.01
    elif what == "grid":
        mask = mask[:, :-1]
    elif what == "batch":
        mask = mask[:1]
    elif what == "label":
        mask[1, 2, 3] = 19
    elif what == "negative label":
        mask[1, 2, 3] = -1
    elif what == "float mask":
        mask = mask.float()
    elif what == "bool mask":
        mask = mask == 1
    elif what == "mask ndim":
        mask = mask[:, None]
    elif what == "ndim":
        posterior = posterior[0]
    elif what == "integer posterior":
        posterior = posterior.long()
    elif what == "numpy":
        posterior = posterior.numpy()
    elif what == "empty":
        posterior, mask = posterior[:0], mask[:0]
    return posterior, mask


@pytest.mark.parametrize(
    "what, message",
    [
        ("nan", "NaN"),
        ("infinite", "infinite"),
        ("negative", "negative probability.*-0.1"),
        ("sum", "sum to one.*0.01"),
        ("grid", r"mask is \[2, 11, 20\].*\[2, 12, 20\]"),
        ("batch", r"mask is \[1, 12, 20\]"),
        ("label", r"label 19, expected 0\.\.18 \(19 classes\) or 255"),
        ("negative label", "label -1"),
        ("float mask", "mask must be an integer tensor.*float32"),
        ("bool mask", "mask must be an integer tensor.*bool"),
        ("mask ndim", r"mask must be \[N, H, W\].*\[2, 1, 12, 20\]"),
        ("ndim", r"posterior must be \[N, C, H, W\].*\[19, 12, 20\]"),
        ("integer posterior", "floating-point.*int64"),
        ("numpy", "torch tensor"),
        ("empty", "not empty"),
    ],
)
def test_bad_input_is_refused_by_name(what, message):
    _, posterior, mask = scene(11)
    check_posterior(posterior, mask, 19)
    posterior, mask = spoil(posterior, mask, what)
    functions = [check_posterior, structured_loss_map, concatenation, labelled_loss_map]
    for function in [*functions, global_loss, dice]:
        with pytest.raises(ValueError, match=message):
            function(posterior, mask)


def test_the_number_of_classes_is_checked():
    _, posterior, mask = scene(12)
    with pytest.raises(ValueError, match="19 classes, expected 11"):
        check_posterior(posterior, mask, 11)
    with pytest.raises(ValueError, match="1 classes, expected 2 to 255"):
        check_posterior(torch.ones(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"label 18, expected 0\.\.10"):
        class_shares(torch.full((1, 2, 2), 18), 11)
    with pytest.raises(ValueError, match=r"label 18, expected 0\.\.10"):
        one_hot(torch.full((1, 2, 2), 18), 11)


def test_a_bad_loss_map_is_refused():
    _, posterior, mask = scene(13)
    loss_map = structured_loss_map(posterior, mask)
    for bad in (-loss_map, loss_map / 0):
        with pytest.raises(ValueError, match="loss map holds values"):
            class_losses(bad, mask, 19)
        with pytest.raises(ValueError, match="loss map holds values"):
            global_loss(bad, mask)
    with pytest.raises(ValueError, match=r"loss map must be \[N, 1, H, W\]"):
        class_losses(posterior, mask, 19)
    with pytest.raises(ValueError, match="mask is"):
        class_losses(loss_map, mask[:, 1:], 19)


def test_check_false_skips_the_values_but_never_the_shapes():
    _, posterior, mask = scene(14)
    loose = posterior * 0.5
    assert torch.equal(
        structured_loss_map(loose, mask, check=False) == 0,
        structured_loss_map(posterior, mask) == 0,
    )
    with pytest.raises(ValueError, match="mask is"):
        structured_loss_map(posterior, mask[:, 1:], check=False)


def test_no_function_changes_its_input():
    _, posterior, mask = scene(15)
    before, mask_before = posterior.clone(), mask.clone()
    loss_map = structured_loss_map(posterior, mask)
    loss_before = loss_map.clone()
    for function in (concatenation, labelled_loss_map, global_loss, dice):
        function(posterior, mask)
    class_losses(loss_map, mask, 19), class_shares(mask, 19), argmax_posterior(posterior)
    assert torch.equal(posterior, before) and torch.equal(mask, mask_before)
    assert torch.equal(loss_map, loss_before)


# ---- distance to the boundary --------------------------------------------------------------------


def test_distance_to_the_boundary_worked_by_hand():
    mask = torch.tensor([[[0, 0, 0, 0, 1, 1, VOID]] * 3])
    expected = torch.tensor([3.0, 2, 1, 0, 0, 0, 0]).expand(1, 3, 7)
    torch.testing.assert_close(boundary_distance(mask), expected)
    torch.testing.assert_close(boundary_distance(mask.mT), expected.mT)


def test_a_mask_of_one_label_has_no_boundary():
    two = torch.stack([torch.zeros(2, 3), torch.eye(2, 3)]).byte()
    found = boundary_distance(two)
    assert found[0].isinf().all()
    assert found[1].isfinite().all()
