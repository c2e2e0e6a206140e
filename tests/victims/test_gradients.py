"""Norms of the head's gradients against one backward pass an image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from toy_outputs import C, scenes_of

from segleak_utils import victims
from segleak_utils.victims import gradients


def network(bias: bool = True, kernel: int = 3) -> nn.Module:
    torch.manual_seed(0)
    head = nn.Conv2d(6, C, kernel, padding=kernel // 2, bias=bias)
    body = [nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*body, head, nn.UpsamplingBilinear2d(scale_factor=2))


def naive(model: nn.Module, image: torch.Tensor, mask: torch.Tensor) -> list[float]:
    """The definition: one image, one loss, one backward pass."""
    model.eval().zero_grad()
    F.cross_entropy(model(image[None]), mask[None], ignore_index=255).backward()
    head = model[3]
    rows = [head.weight.grad.flatten(1)]
    if head.bias is not None:
        rows.append(head.bias.grad[:, None])
    by_class = torch.cat(rows, 1).double().norm(dim=1)
    return [by_class.norm().item(), *by_class.tolist()]


@pytest.mark.parametrize(("bias", "kernel"), [(True, 3), (False, 1)])
def test_norms_are_those_of_a_backward_pass_an_image(bias, kernel):
    model, scenes = network(bias, kernel), scenes_of(5)
    model.train()
    found = victims.gradient_norms(model, scenes)
    assert model.training and found.shape == (5, 1 + C)
    for row, (image, mask) in zip(found, scenes, strict=True):
        assert row.tolist() == pytest.approx(naive(model, image, mask), rel=1e-4)
    images, masks = next(scenes.batches(5))
    assert torch.allclose(
        victims.head_gradient_norms(model, images, masks), torch.from_numpy(found)
    )
    assert not model[3]._forward_hooks
    assert victims.gradient_norms(model, scenes.subset([])).shape == (0, 1 + C)


def test_what_has_no_head_or_no_loss_is_named():
    images, masks = next(scenes_of(2).batches(2))
    with pytest.raises(ValueError, match="does not end with a plain convolution"):
        victims.head_gradient_norms(nn.Linear(2, 2), images, masks)
    with pytest.raises(ValueError, match="does not end with a plain convolution"):
        gradients.head_of(nn.Conv2d(4, 4, 1, groups=2))
    masks[1] = 255
    with pytest.raises(ValueError, match="no labelled pixel"):
        victims.head_gradient_norms(network(), images, masks)
