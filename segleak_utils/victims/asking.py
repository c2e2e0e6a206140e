"""Asking a network: logits, posteriors, in a stream, on a coarse grid, with dropout left on.

Any callable images -> logits is a victim (see `logits_of`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.std import tqdm

from segleak_utils.checks import tensors
from segleak_utils.data import Scenes, keep_freed_memory
from segleak_utils.representations import SMALLEST_PROBABILITY, loss_map_of_logits

PIXELS = 16 * 128 * 256  # of a batch at most: posteriors of 19 classes are then 40 MB
MULTIPLE = 32  # the encoders halve an image five times: all sides are multiples of this


def logits_of(model: Callable, images: Tensor) -> Tensor:
    """Logits float32 [N,C,H,W] on the images' grid, whatever the model's way of returning them.

    images: float [N,3,H,W] in 0..1. Takes a tensor, a dict with ``"out"`` (torchvision), or an
    object with ``.logits`` (transformers, at 1/4 size: brought to the grid bilinearly). A network
    is asked in eval mode and left in the mode it was in. Raises ValueError for other images or
    answers, for logits that are not finite, and for those that look like probabilities: see
    `described`.

    >>> images = torch.zeros(1, 3, 2, 2)
    >>> logits_of(lambda images: {"out": images[:, :2] + 2}, images).flatten()
    tensor([2., 2., 2., 2., 2., 2., 2., 2.])
    """
    tensors.images(images)
    with evaluating(model):
        return _answer(model, images)


def _answer(model: Callable, images: Tensor) -> Tensor:
    """The same of a network in whatever mode it is."""
    out = _unwrapped(model(images))
    if not isinstance(out, Tensor) or out.ndim != 4 or len(out) != len(images):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"the model returned {found}; expected logits [N,C,H,W] for images "
            f"{tuple(images.shape)}, a dict with 'out', or an object with .logits"
        )
    tensors.answers_grid(out, images)
    out = out.float()
    if not isinstance(model, Described):
        tensors.logits_values(out, f"victims.{described.__name__}(model, returns=...)")
    if out.shape[-2:] != images.shape[-2:]:
        out = F.interpolate(out, size=images.shape[-2:], mode="bilinear", align_corners=False)
    return out


def _unwrapped(out: object) -> object:
    """The tensor in what a model returned, where it is the way of a known library."""
    if isinstance(out, dict) and "out" in out:
        return out["out"]
    return getattr(out, "logits", out)


@contextmanager
def evaluating(model: Callable) -> Iterator[None]:
    """Asked in training mode a network would answer by its batch, and be changed by it."""
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


Returned = Literal["logits", "log_probabilities", "probabilities"]


class Described(nn.Module):
    """A model whose input and answers somebody has described: a victim, see `described`."""

    def __init__(
        self, model: Callable, returns: Returned, preprocess: Callable[[Tensor], Tensor] | None
    ) -> None:
        super().__init__()
        self.model, self.returns, self.preprocess = model, returns, preprocess

    def forward(self, images: Tensor) -> Tensor:
        out = self.model(images if self.preprocess is None else self.preprocess(images))
        out = _unwrapped(out)
        if not isinstance(out, Tensor) or self.returns == "logits":
            return out
        if self.returns == "log_probabilities":
            tensors.check_posterior(out.exp())
            return out
        tensors.check_posterior(out)
        return out.clamp(min=SMALLEST_PROBABILITY).log()


def described(
    model: Callable,
    *,
    returns: Returned = "logits",
    preprocess: Callable[[Tensor], Tensor] | None = None,
) -> Described:
    """A victim of a model of which you say what it returns, and what its images go through first.

    All victims take images in 0..1: `preprocess` brings them to what the model was trained on.
    ValueError for an unknown word, and when asked for answers that are not what was said.

    >>> half = described(lambda images: torch.full((1, 2, 1, 1), 0.5), returns="probabilities")
    >>> posteriors(half, torch.zeros(1, 3, 1, 1)).flatten()
    tensor([0.5000, 0.5000])
    """
    if returns not in get_args(Returned):
        raise ValueError(f"returns is {returns!r}; expected one of {', '.join(get_args(Returned))}")
    return Described(model, returns, preprocess)


@torch.inference_mode()
def posteriors(model: Callable, images: Tensor) -> Tensor:
    """Per-pixel posteriors, float32 [N,C,H,W]: softmax over the classes. No autocast: exact.

    >>> def model(images):  # logits log 1 and log 3, whatever the image
    ...     return torch.tensor([1.0, 3.0]).log().view(1, 2, 1, 1).expand(len(images), 2, 1, 2)
    >>> posteriors(model, torch.zeros(1, 3, 1, 2))[0, :, 0]
    tensor([[0.2500, 0.2500],
            [0.7500, 0.7500]])
    """
    return logits_of(model, images).softmax(dim=1)


@torch.inference_mode()
def posterior_batches(
    model: Callable, scenes: Scenes, batch: int = 16, *, progress: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (posteriors float32 [B,C,H,W], masks int64 [B,H,W]) over all scenes, in order.

    A stream: the posteriors of a few thousand images (5 MB each) are never in memory at once.
    """
    for logits, masks in logit_batches(model, scenes, batch, progress=progress):
        yield logits.softmax(dim=1).cpu(), masks


@torch.inference_mode()
def loss_batches(
    model: Callable, scenes: Scenes, batch: int = 16, *, progress: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (loss maps float32 [B,1,H,W], masks int64 [B,H,W]) over all scenes, in order.

    The loss maps of `posterior_batches`, without the posteriors. Raises ValueError for what
    `representations.loss_map_of_logits` refuses.
    """
    unseen = isinstance(model, Described)  # all other logits, and the masks, were looked at
    for logits, masks in logit_batches(model, scenes, batch, progress=progress):
        loss = loss_map_of_logits(logits, masks.to(logits.device), check=unseen)
        yield loss.cpu(), masks


@torch.inference_mode()
def logit_batches(
    model: Callable, scenes: Scenes, batch: int = 16, *, progress: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits float32 [B,C,H,W] where the model is, masks int64 [B,H,W]) over all scenes.

    At most `batch` images at a time, fewer of large ones. ValueError for what `logits_of` refuses,
    and for another number of classes than the scenes have.
    """
    keep_freed_memory()
    if scenes.shape is not None:
        batch = max(1, min(batch, PIXELS // (scenes.shape[0] * scenes.shape[1])))
    device = device_of(model)
    bar = tqdm(total=len(scenes), desc=progress, unit="image", disable=not progress, mininterval=2)
    with bar:
        for images, masks in scenes.batches(batch):
            logits = logits_of(model, images.to(device))
            tensors.posterior_shape(logits, scenes.n_classes, "the model's answer")
            yield logits, masks
            bar.update(len(images))


def device_of(model: Callable) -> torch.device:
    """Where the model's weights lie; the CPU for a model without any."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is native there: emulated bf16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class Padded(nn.Module):
    """A victim for images of any size: pads right and bottom, and crops the logits back."""

    def __init__(self, model: Callable, multiple: int) -> None:
        super().__init__()
        self.model, self.multiple = model, multiple

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        right, bottom = -width % self.multiple, -height % self.multiple
        images = F.pad(images, (0, right, 0, bottom), mode="replicate")
        return logits_of(self.model, images)[..., :height, :width]


def padded(model: Callable, multiple: int = MULTIPLE) -> Padded:
    """The model on images [N,3,H,W] whose sides need not be multiples of 32: logits [N,C,H,W].

    The image's last row and column are repeated. On sides that are multiples nothing changes.

    >>> seen = []
    >>> def model(images):
    ...     seen.append(tuple(images.shape))
    ...     return images[:, :2] - 1
    >>> padded(model, multiple=4)(torch.zeros(1, 3, 5, 8)).shape, seen
    (torch.Size([1, 2, 5, 8]), [(1, 3, 8, 8)])
    """
    return Padded(model, multiple)


@torch.inference_mode()
def posteriors_at(model: Callable, images: Tensor, stride: int = 8) -> Tensor:
    """Posteriors at every `stride`-th pixel, float32 [N,C,ceil(H/stride),ceil(W/stride)].

    ``posteriors(model, images)[..., ::stride, ::stride]`` without the softmax of all the others.
    No autocast. Runs, and leaves the result, where the model is. ValueError for a stride below 1.

    >>> def model(images):  # the odds of class 1 are 81 to the power of the brightness
    ...     return torch.cat([0 * images[:, :1], images[:, :1] * torch.tensor(81.0).log()], 1)
    >>> images = (torch.arange(4.0) / 4).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    >>> posteriors_at(model, images, stride=2)[0, 1]  # of pixels 0 and 2: 1/2 and 9/10
    tensor([[0.5000, 0.9000]])
    """
    if stride < 1:
        raise ValueError(f"stride {stride}; expected 1 or more")
    tensors.images(images)
    return logits_of(model, images.to(device_of(model)))[..., ::stride, ::stride].softmax(dim=1)


def mc_dropout(model: nn.Module, passes: int, *, seed: int) -> Callable[[Tensor], Tensor]:
    """A victim that answers with dropout switched on: the mean of some random passes.

    Returns a function images [N,3,H,W] → logits [N,C,H,W] (the log of the mean posterior), to be
    used wherever a victim is. Its k-th call draws from `seed` and k. Where an encoder comes before
    all dropout, it looks once. Raises ValueError for a network without dropout, or no pass.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p]
    if not layers:
        raise ValueError("the network has no dropout layer; train one with Recipe(dropout=…)")
    if passes < 1:
        raise ValueError(f"passes is {passes}; expected at least 1")
    calls = itertools.count()

    @torch.inference_mode()
    def ask(images: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]), evaluating(model):
            torch.manual_seed(seed * 1_000_003 + next(calls))
            try:
                for layer in layers:
                    layer.training = True
                images = images.to(device_of(model))
                with _looking_once(model, layers):
                    mean = sum(_answer(model, images).softmax(1) for _ in range(passes)) / passes
            finally:
                for layer in layers:
                    layer.training = False
        return mean.clamp(min=SMALLEST_PROBABILITY).log().cpu()

    return ask


@contextmanager
def _looking_once(model: nn.Module, random: Sequence[nn.Module]) -> Iterator[None]:
    """Keep what the encoder says of the first images for all that follow, if it is not random."""
    encoder = getattr(getattr(model, "net", None), "encoder", None)
    if encoder is None or any(layer in random for layer in encoder.modules()):
        yield
        return
    look, kept = encoder.forward, []

    def once(images: Tensor) -> Sequence[Tensor]:
        if not kept:
            kept.append(look(images))
        return kept[0]

    encoder.forward = once
    try:
        yield
    finally:
        del encoder.forward


@torch.inference_mode()
def deep_features(model: nn.Module, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """All stages of a victim's encoder, brought to one grid (h, w): float32 [N,F,h,w].

    Each channel of an image has mean 0 and deviation 1. images: float [N,3,H,W] in 0..1.
    """
    tensors.images(images)
    images = (images.to(device_of(model)) - model.mean) / model.std
    with evaluating(model):
        stages = [stage for stage in model.net.encoder(images)[1:] if stage.shape[1]]
    features = torch.cat(
        [F.interpolate(s, grid, mode="bilinear", align_corners=False) for s in stages], 1
    ).cpu()
    spread = features.std((2, 3), keepdim=True).clamp(min=1e-6)  # a dead channel stays 0
    return (features - features.mean((2, 3), keepdim=True)) / spread
