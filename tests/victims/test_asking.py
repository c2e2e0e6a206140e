"""Logits and posteriors, whatever the model's way of returning them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_victims import VOID, Oracle, scenes_of

from segleak_utils.representations import structured_loss_map
from segleak_utils.victims import (
    logit_batches,
    logits_of,
    loss_batches,
    posterior_batches,
    posteriors,
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


def test_posterior_batches_run_over_all_scenes_in_order_in_eval_mode():
    scenes, model = scenes_of(5), Oracle().train()
    found = list(posterior_batches(model, scenes, 2))
    assert not model.training and [len(masks) for _, masks in found] == [2, 2, 1]
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
