"""Logits and posteriors, whatever the model's way of returning them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toy_victims import VOID, Oracle, scenes_of

from segleak_utils.representations import structured_loss_map
from segleak_utils.victims import (
    described,
    logit_batches,
    logits_of,
    loss_batches,
    padded,
    posterior_batches,
    posteriors,
    posteriors_at,
)

# ---- logits --------------------------------------------------------------------------------------


def test_logits_of_a_tensor_a_dict_and_an_object():
    images, logits = torch.rand(2, 3, 8, 16), torch.randn(2, 5, 8, 16)
    for out in (logits, {"out": logits, "aux": None}, SimpleNamespace(logits=logits)):
        assert torch.equal(logits_of(lambda _, out=out: out, images), logits)
    assert logits_of(lambda _: logits.bfloat16(), images).dtype == torch.float32


def test_logits_at_a_quarter_are_brought_to_the_grid_bilinearly():
    images, ramp = torch.rand(1, 3, 16, 32), torch.arange(8.0).expand(1, 2, 4, 8)
    found = logits_of(lambda _: SimpleNamespace(logits=ramp), images)
    assert found.shape == (1, 2, 16, 32)
    # pixel j lies at (j + .5) / 4 - .5 of the coarse grid, clamped at its ends
    expected = ((torch.arange(32) + 0.5) / 4 - 0.5).clamp(0, 7)
    assert torch.allclose(found[0, 1, 5], expected, atol=1e-5)
    assert torch.allclose(posteriors(lambda _: ramp, images).sum(1), torch.ones(1, 16, 32))


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (torch.zeros(2, 5, 8), r"\(2, 5, 8\)"),
        (torch.zeros(1, 5, 8, 16), r"\(1, 5, 8, 16\)"),
        ({"logits": torch.zeros(2, 5, 8, 16)}, "dict"),
        ([torch.zeros(2, 5, 8, 16)], "list"),
        (np.zeros((2, 5, 8, 16)), "ndarray"),
        ({"out": None}, "NoneType"),
    ],
)
def test_other_outputs_are_refused_with_what_was_found(out, found):
    with pytest.raises(ValueError, match=rf"returned {found}; expected logits .*\(2, 3, 8, 16\)"):
        logits_of(lambda _: out, torch.rand(2, 3, 8, 16))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = torch.zeros(2, 5, 8, 16)
    logits[1, 2, 3, 4] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        posteriors(lambda _: logits, torch.rand(2, 3, 8, 16))


def test_posterior_batches_run_over_all_scenes_in_order():
    scenes, model = scenes_of(5), Oracle()
    found = list(posterior_batches(model, scenes, 2))
    assert [len(masks) for _, masks in found] == [2, 2, 1]
    assert torch.equal(torch.cat([m for _, m in found]), torch.stack([m for _, m in scenes]))
    for posterior, masks in found:
        labelled = masks != VOID
        assert torch.equal(posterior.argmax(1)[labelled], masks[labelled])


def test_losses_and_logits_come_in_the_batches_of_the_posteriors():
    model, scenes = Oracle(), scenes_of(5)
    asked = [batches(model, scenes, 2) for batches in (posterior_batches, loss_batches)]
    logits = [found for found, _ in logit_batches(model, scenes, 2)]
    for (posterior, masks), (loss, same), raw in zip(*asked, logits, strict=True):
        assert torch.equal(masks, same)
        assert torch.equal(posterior, raw.softmax(1))
        assert torch.equal(loss, structured_loss_map(posterior, masks))


@pytest.mark.parametrize("returns", ["logits", "log_probabilities"])
def test_no_loss_map_is_made_of_infinite_logits(returns):
    certain = torch.tensor([0.0, -torch.inf, -torch.inf])
    scenes, shape = scenes_of(2), (2, 3, *scenes_of(2).shape)
    model = described(lambda _: certain.view(1, 3, 1, 1).expand(shape), returns=returns)
    for asked in (model, lambda images: model(images)):
        with pytest.raises(ValueError, match="NaN or infinite"):
            next(loss_batches(asked, scenes))


# ---- what is no victim's answer ------------------------------------------------------------------

IMAGES = torch.rand(2, 3, 8, 16, generator=torch.Generator().manual_seed(0))
LOGITS = torch.randn(2, 4, 8, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (LOGITS.softmax(1), r"look like probabilities .* expected logits\. .*described\("),
        (LOGITS.sigmoid(), "look like sigmoids or one-hots, expected logits"),
        (nn.functional.one_hot(LOGITS.argmax(1)).movedim(-1, 1).float(), "look like probabilities"),
        (LOGITS.argmax(1, keepdim=True).expand(LOGITS.shape), r"torch\.int64; expected floating"),
        (LOGITS > 0, r"torch\.bool; expected floating-point logits"),
        (LOGITS.to(torch.complex64), r"torch\.complex64; expected floating-point logits"),
        (LOGITS[:, :1], r"one channel; expected logits of two classes or more.*torch\.cat"),
        (LOGITS.movedim(1, -1), r"classes come last; expected .*permute\(0, 3, 1, 2\)"),
        (LOGITS[..., :7, :14], "returned 7x14 for images of 8x16; expected the same grid or"),
        (LOGITS.mT, "returned 16x8 for images of 8x16"),
        (LOGITS[..., :1, :1], "returned 1x1 for images of 8x16"),
    ],
    ids=["softmax", "sigmoid", "one-hot", "labels", "bool", "complex", "one class", "channels last",
         "another grid", "transposed", "one answer an image"],
)  # fmt: skip
def test_an_answer_that_is_no_logits_is_refused(out, said):
    with pytest.raises(ValueError, match=said):
        logits_of(lambda _: out, IMAGES)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ((IMAGES * 255).byte(), "floating-point torch tensor"),
        (IMAGES * 255, r"from .* to 25\d, expected 0\.\.1: divide bytes by 255"),
        (IMAGES - 0.5, r"expected 0\.\.1.*described\(model, preprocess="),
        (IMAGES * torch.nan, r"expected 0\.\.1"),
        (IMAGES[0], "not empty, found"),
    ],
    ids=["bytes", "0..255", "normalised", "NaN", "one image"],
)
def test_images_that_are_not_in_0_to_1_are_refused(images, said):
    with pytest.raises(ValueError, match=said):
        posteriors(lambda _: LOGITS, images)


@pytest.mark.parametrize("part", [1, 2, 3, 4])
def test_an_answer_on_a_coarser_grid_is_brought_to_the_images(part):
    coarse = LOGITS[..., : -(-8 // part), : -(-16 // part)]
    assert logits_of(lambda _: coarse, IMAGES).shape == (2, 4, 8, 16)


def test_one_answer_for_a_whole_square_image_is_refused():
    with pytest.raises(ValueError, match=r"returned 1x1 for .* of 64x64; .* at most 32"):
        logits_of(lambda _: LOGITS[..., :1, :1], torch.rand(2, 3, 64, 64))


def test_what_a_model_returns_can_be_said():
    expected = LOGITS.softmax(1)
    for returns, out in {
        "logits": LOGITS,
        "log_probabilities": LOGITS.log_softmax(1),
        "probabilities": expected,
    }.items():
        for given in (out, {"out": out}, SimpleNamespace(logits=out)):
            model = described(lambda _, given=given: given, returns=returns)
            torch.testing.assert_close(posteriors(model, IMAGES), expected)
    # logits that happen to lie in 0..1
    assert torch.equal(logits_of(described(lambda _: expected), IMAGES), expected)


@pytest.mark.parametrize(
    ("returns", "out"),
    [
        ("probabilities", LOGITS),
        ("probabilities", LOGITS.sigmoid()),
        ("log_probabilities", LOGITS),
        ("log_probabilities", LOGITS.softmax(1)),
    ],
)
def test_what_was_said_is_checked(returns, out):
    with pytest.raises(ValueError, match=r"posterior (does not sum to one|has a negative prob)"):
        posteriors(described(lambda _: out, returns=returns), IMAGES)


def test_an_unknown_word_for_what_is_returned():
    with pytest.raises(ValueError, match="returns is 'softmax'; expected one of logits, log_prob"):
        described(lambda _: LOGITS, returns="softmax")


def test_a_model_may_want_its_images_otherwise():
    seen = []
    model = described(lambda x: seen.append(x) or LOGITS, preprocess=lambda x: 2 * x - 1)
    logits_of(model, IMAGES)
    assert torch.equal(seen[0], 2 * IMAGES - 1)


class Normed(nn.Module):
    """Answers otherwise in training mode, and is changed by being asked in it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.see, self.norm, self.drop = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout2d(0.5)

    def forward(self, images):
        return 3 * self.drop(self.norm(self.see(images)))


@pytest.mark.parametrize(
    "ask",
    [
        logits_of,
        posteriors,
        posteriors_at,
        lambda model, images: next(
            iter(posterior_batches(model, scenes_of(2, names=tuple("abcd"))))
        ),
        lambda model, images: logits_of(padded(model), images[..., :5, :7]),
    ],
    ids=["logits_of", "posteriors", "posteriors_at", "posterior_batches", "padded"],
)
def test_a_network_is_asked_in_eval_mode_and_left_as_it_was(ask):
    model = Normed()
    model.norm.eval()  # as it was: some parts in one mode, some in the other
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    model.norm.train()
    ask(model, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.norm.eval()
    assert [module.training for module in model.modules()] == modes
    if ask is posteriors:
        training, expected = posteriors(model.train(), IMAGES), posteriors(model.eval(), IMAGES)
        assert torch.equal(training, expected)


@pytest.mark.parametrize("n_classes", [3, 5])
def test_another_number_of_classes_than_the_scenes_is_refused(n_classes):
    with pytest.raises(ValueError, match=f"the model's answer has 4 classes, expected {n_classes}"):
        next(posterior_batches(lambda _: LOGITS, scenes_of(2, names=tuple("abcde"[:n_classes]))))


def test_large_images_come_in_smaller_batches():
    seen = []
    scenes = scenes_of(3, height=512, width=1024)

    def model(images):
        seen.append(len(images))
        return torch.randn(len(images), 3, 64, 128)

    for _ in posterior_batches(model, scenes):
        pass
    assert seen == [1, 1, 1]
