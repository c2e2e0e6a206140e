"""Victims: segmentation networks from segmentation-models-pytorch, as a recipe says.

A shadow is a victim of the attacker's own.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import nullcontext
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segleak_utils.data import keep_freed_memory

# Mean and deviation of ImageNet's colours: the encoders' customary input scale.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# A plain name: timm would take "hf-hub:..." from a network and "local-dir:..." from a folder.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=100)]


class Recipe(BaseModel):
    """How a victim is trained; stored beside its weights, so that anyone can train it again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: Name = "upernet"
    encoder: Name = "tu-edgenext_xx_small"
    decoder_channels: int | None = Field(32, ge=8, le=1024)
    n_classes: int = Field(19, ge=2, le=255)
    norm: Literal["batch", "group"] = "batch"
    dropout: float = Field(0, ge=0, lt=1, description="share of channels dropped, see build_victim")
    output_stride: Literal[8, 16] | None = Field(None, description="dilated, see build_victim")
    epochs: int = Field(36, ge=1, le=1000)
    batch: int = Field(8, ge=2, le=256)
    lr: float = Field(3e-3, gt=0, le=1)
    weight_decay: float = Field(1e-2, ge=0, le=1)
    flip: bool = True
    crop_area: float = Field(0.8, gt=0, le=1, description="smallest share kept by a crop; 1: none")
    colour: float = Field(0.2, ge=0, lt=1, description="jitter: brightness, contrast, saturation")
    check_every: int = Field(4, ge=1, description="epochs between looks at the held-out set")
    patience: int = Field(3, ge=1, description="looks without a better held-out mIoU to stop at")


_MANY = 16  # images, from which on a convolution does a linear layer's work faster


class _PointwiseConvolutions(TorchFunctionMode):
    """Linear layers on maps [N,H,W,C] as convolutions of 1x1, by oneDNN instead of MKL.

    The same sums to their last digits, on AMD's processors in half the time.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None) -> object:
        if func is not F.linear or kwargs or args[0].ndim != 4:
            return func(*args, **(kwargs or {}))
        maps, weight, *bias = args
        found = F.conv2d(maps.permute(0, 3, 1, 2), weight[:, :, None, None], *bias)
        return found.permute(0, 2, 3, 1)


class _Normalised(nn.Module):
    """Puts the input scale inside the network: a victim takes plain images in 0..1."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        images = (images - self.mean) / self.std
        # not in training: what the shipped weights have learned shall be learned again
        asked = torch.is_inference_mode_enabled() and images.device.type == "cpu"
        with _PointwiseConvolutions() if asked and len(images) >= _MANY else nullcontext():
            return self.net(images)


def build_victim(recipe: Recipe, *, seed: int = 0) -> nn.Module:
    """An untrained network: images [N,3,H,W] in 0..1 → logits [N,C,H,W].

    No pretrained weights are loaded: nothing is downloaded. With ``norm="group"`` no image of a
    batch has a say in another's output, as DP-SGD asks for. With `dropout` whole channels go before
    the decoder and before the head (Tompson et al. 2015): neighbouring pixels are too alike for
    dropping single ones. With `output_stride` the encoder's last stages are dilated instead of
    strided: in pspnet all five then go to the decoder, of which it takes three by default. Raises
    ValueError for an architecture or encoder segmentation-models-pytorch does not know.
    """
    # here, not above: it takes longer to import than all else, and a `Recipe` does not need it
    import segmentation_models_pytorch as smp

    keep_freed_memory()
    kwargs = {}
    if recipe.decoder_channels is not None and recipe.arch.lower() in ("upernet", "deeplabv3plus"):
        kwargs["decoder_channels"] = recipe.decoder_channels
    if recipe.output_stride is not None:
        kwargs |= _dilated(recipe.arch, recipe.output_stride)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            net = smp.create_model(
                recipe.arch,
                recipe.encoder,
                encoder_weights=None,
                classes=recipe.n_classes,
                **kwargs,
            )
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"cannot build arch={recipe.arch!r} with encoder={recipe.encoder!r}: {error}. "
                "See segmentation-models-pytorch for the names it knows."
            ) from error
    if recipe.norm == "group":
        net = _without_batchnorm(net)
    if recipe.dropout:
        _insert_dropout(net, recipe.dropout)
    return _Normalised(net)


def _dilated(arch: str, stride: int) -> dict[str, int]:
    if arch.lower() == "deeplabv3plus":
        return {"encoder_output_stride": stride}
    if arch.lower() == "pspnet":  # the encoder takes output_stride; upsampling undoes it
        return {"encoder_depth": 5, "output_stride": stride, "upsampling": stride}
    raise ValueError(
        f"output_stride={stride} with arch={arch!r}: only pspnet and deeplabv3plus can be dilated; "
        "leave it None"
    )


def _without_batchnorm(net: nn.Module) -> nn.Module:
    """The network with GroupNorm for BatchNorm, and without in-place operations, for Opacus."""
    from opacus.validators import ModuleValidator  # only these networks need the extra `dp`

    replaced = [k for k, m in net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    net = ModuleValidator.fix(net)
    for name in replaced:
        norm = net.get_submodule(name)
        if not isinstance(norm, nn.GroupNorm):
            raise ValueError(
                f"{name} is a {type(norm).__name__}, which Opacus does not replace by GroupNorm; "
                "take another encoder, such as tu-edgenext_xx_small"
            )
        # Opacus makes 32 groups of 32 channels: a constant after the pyramid's pooling to 1x1
        norm.num_groups = math.gcd(8, norm.num_channels)
        while norm.num_groups > 1 and norm.num_channels // norm.num_groups < 4:
            norm.num_groups //= 2
    for module in net.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # an in-place ReLU overwrites what the gradient hooks need
    return net


class _Dropping:
    """Hooks, so that the weights keep their names.

    No closures: a copy of the network would call those of the first one, and drop as that does.
    """

    def __init__(self, dropout: nn.Module) -> None:
        self.dropout = dropout

    def before_decoder(self, _: nn.Module, args: tuple) -> tuple:
        return ([f if f.shape[1] <= 3 else self.dropout(f) for f in args[0]], *args[1:])

    def before_head(self, _: nn.Module, args: tuple) -> tuple:
        return (self.dropout(args[0]),)


def _insert_dropout(net: nn.Module, share: float) -> None:
    net.dropout = nn.Dropout2d(share)
    hooks = _Dropping(net.dropout)
    net.decoder.register_forward_pre_hook(hooks.before_decoder)
    net.segmentation_head.register_forward_pre_hook(hooks.before_head)


def fingerprint(model: nn.Module) -> str:
    """Hex key of a network: its layers, and what is in its state (weights, statistics).

    Two networks that answer differently have different ones. ValueError for a model without any
    state, of which nothing can be told; give it a ``get_extra_state``.

    >>> first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> fingerprint(first) == fingerprint(second)
    False
    """
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    if not state:
        raise ValueError(
            f"{type(model).__name__} has no weights to know it by; wrap it in an nn.Module whose "
            "get_extra_state says what its answers depend on"
        )
    content = hashlib.sha256(str(model).encode())
    for name, value in sorted(state.items()):
        if isinstance(value, torch.Tensor):
            content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            content.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:
            content.update(f"{name} {value!r}".encode())
    return content.hexdigest()
