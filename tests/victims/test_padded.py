"""Victims for images of any size, and posteriors on a coarse grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from two_processes import SMALL, scenes_of

from segleak_utils.victims import build_victim, padded, posterior_batches, posteriors, posteriors_at

# ---- inference -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def victim():
    return build_victim(SMALL.network, seed=2).eval()


def test_padded_takes_any_size_and_leaves_multiples_alone(victim):
    images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(posteriors(padded(victim), images), posteriors(victim, images))
    with pytest.raises(RuntimeError, match="divisible"):
        victim(images[..., :45])
    found = posteriors(padded(victim), images[:, :, :20, :45])
    wide = F.pad(images[:, :, :20, :45], (0, 19, 0, 12), mode="replicate")
    assert found.shape == (2, 3, 20, 45)
    expected = posteriors(victim, wide)[..., :20, :45]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # another memory layout


def test_padded_streams_and_is_asked_in_eval_mode(victim):
    members = scenes_of(3, height=24, width=40)
    model = padded(build_victim(SMALL.model_copy(update={"arch": "pspnet"}).network, seed=2))
    seen = []
    model.model.register_forward_pre_hook(lambda net, _: seen.append(net.training))
    [(found, masks)] = posterior_batches(model, members, 4)
    assert found.shape == (3, 3, 24, 40) and masks.shape == (3, 24, 40)
    assert seen == [False] and model.training


@pytest.mark.parametrize("stride", [1, 8])
def test_posteriors_at_a_stride_are_those_of_the_whole(victim, stride):
    images = torch.rand(2, 3, 36, 61)
    found = posteriors_at(padded(victim), images, stride)
    assert found.shape == (2, 3, -(-36 // stride), -(-61 // stride))
    assert found.dtype == torch.float32
    whole = posteriors(padded(victim), images)
    assert torch.allclose(found, whole[..., ::stride, ::stride], atol=1e-6)


def test_posteriors_at_no_stride_and_of_a_plain_callable(victim):
    with pytest.raises(ValueError, match="stride 0"):
        posteriors_at(victim, torch.rand(1, 3, 32, 64), 0)
    net = nn.Conv2d(3, 4, 1)
    for model in (net, lambda images: {"out": net(images)}):
        assert posteriors_at(padded(model), torch.rand(1, 3, 9, 17)).shape == (1, 4, 2, 3)
