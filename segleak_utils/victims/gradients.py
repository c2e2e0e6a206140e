"""What whoever has the weights can compute of an image: gradients of its loss, in the last layer.

Another threat than the posteriors: a service does not give these away, a published network does.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.std import tqdm

from segleak_utils.checks import tensors
from segleak_utils.data import VOID, Scenes
from segleak_utils.victims.asking import device_of, evaluating

PIXELS = 16 * 128 * 256  # of a batch at most


def head_of(model: nn.Module) -> nn.Conv2d:
    """The last convolution of a network, which makes the classes: its head.

    ValueError where there is none, or one whose channels are not all connected.

    >>> head_of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 19, 1)))
    Conv2d(8, 19, kernel_size=(1, 1), stride=(1, 1))
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    if not layers or layers[-1].groups != 1 or isinstance(layers[-1].padding, str):
        raise ValueError(
            f"{type(model).__name__} does not end with a plain convolution; gradients of the head "
            "are of such a layer"
        )
    return layers[-1]


def head_gradient_norms(model: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    """Norms of the gradient of each image's mean loss by the head's weights: float64 [N,1+C].

    images: float [N,3,H,W] in 0..1; masks: int [N,H,W], 255 is void. First of all weights and
    biases of the head, then of those that make each class. Nobody else's gradient is computed: the
    network is passed once. ValueError as `head_of`, for bad images or masks, or an image without a
    labelled pixel.
    """
    tensors.images(images)
    tensors.mask_shape(masks)
    labelled = masks != VOID
    if not labelled.flatten(1).any(1).all():
        raise ValueError("an image has no labelled pixel, all are void: it has no loss")
    head, seen = head_of(model), {}

    def keep(_: nn.Module, given: tuple[Tensor], out: Tensor) -> Tensor:
        seen["features"], seen["scores"] = given[0].detach(), out.detach().requires_grad_()
        return seen["scores"]

    handle = head.register_forward_hook(keep)
    try:
        with evaluating(model), torch.enable_grad():
            logits = model(images)
            if logits.shape[-2:] != masks.shape[-2:]:
                logits = F.interpolate(logits, size=masks.shape[-2:], mode="bilinear")
            loss = F.cross_entropy(logits, masks.long(), ignore_index=VOID, reduction="none")
            each = loss.flatten(1).sum(1) / labelled.flatten(1).sum(1)
            (slope,) = torch.autograd.grad(each.sum(), seen["scores"])  # no image in another's
    finally:
        handle.remove()
    patches = F.unfold(seen["features"], head.kernel_size, head.dilation, head.padding, head.stride)
    slope = slope.flatten(2).double()
    weights = slope @ patches.double().transpose(1, 2)  # [N,C,F*k*k]
    squares = (weights**2).sum(2)
    if head.bias is not None:
        squares += slope.sum(2) ** 2
    return torch.cat([squares.sum(1, keepdim=True), squares], 1).sqrt()


def gradient_norms(
    model: nn.Module, scenes: Scenes, *, progress: str | None = None
) -> NDArray[np.float64]:
    """`head_gradient_norms` of scenes, in their order: float64 [N,1+C]."""
    if not len(scenes):
        return np.zeros((0, 1 + scenes.n_classes))
    pixels, device, found = scenes.shape[0] * scenes.shape[1], device_of(model), []
    bar = tqdm(total=len(scenes), desc=progress, unit="image", disable=not progress, mininterval=2)
    with bar:
        for images, masks in scenes.batches(max(1, PIXELS // pixels)):
            images = images.to(device, memory_format=torch.channels_last)
            found.append(head_gradient_norms(model, images, masks.to(device)).cpu())
            bar.update(len(images))
    return torch.cat(found).numpy()
