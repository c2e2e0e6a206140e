"""Victims: segmentation networks trained on *members* only, and what they give away, posteriors.

A shadow is a victim of the attacker's own. Networks come from segmentation-models-pytorch; any
callable that maps images to logits can stand in for one (see `logits_of`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from opacus.validators import ModuleValidator
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm.std import tqdm

from segleak_utils.data import VOID, Scenes

# Mean and deviation of ImageNet's colours: the encoders' customary input scale.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Recipe(BaseModel):
    """How a victim is trained; stored beside its weights, so that anyone can train it again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: str = "upernet"
    encoder: str = "tu-edgenext_xx_small"
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


class _Normalised(nn.Module):
    """Puts the input scale inside the network: a victim takes plain images in 0..1."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - self.mean) / self.std)


def build_victim(recipe: Recipe, *, seed: int = 0) -> nn.Module:
    """An untrained network: images [N,3,H,W] in 0..1 → logits [N,C,H,W].

    No pretrained weights are loaded: nothing is downloaded. With ``norm="group"`` no image of a
    batch has a say in another's output, as DP-SGD asks for. With `dropout` whole channels go before
    the decoder and before the head (Tompson et al. 2015): neighbouring pixels are too alike for
    dropping single ones. With `output_stride` the encoder's last stages are dilated instead of
    strided: in pspnet all five then go to the decoder, of which it takes three by default. Raises
    ValueError for an architecture or encoder segmentation-models-pytorch does not know.
    """
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


def _insert_dropout(net: nn.Module, share: float) -> None:
    net.dropout = nn.Dropout2d(share)  # by hooks: the weights keep their names

    def before_decoder(_: nn.Module, args: tuple) -> tuple:
        return ([f if f.shape[1] <= 3 else net.dropout(f) for f in args[0]], *args[1:])

    net.decoder.register_forward_pre_hook(before_decoder)
    net.segmentation_head.register_forward_pre_hook(lambda _, args: (net.dropout(args[0]),))


def logits_of(model: Callable, images: Tensor) -> Tensor:
    """Logits float32 [N,C,H,W] on the images' grid, whatever the model's way of returning them.

    Takes a tensor, a dict with ``"out"`` (torchvision), or an object with ``.logits``
    (transformers, at 1/4 size: brought to the grid bilinearly). Raises ValueError otherwise, and
    for logits that are not finite.
    """
    out = model(images)
    if isinstance(out, dict) and "out" in out:
        out = out["out"]
    elif hasattr(out, "logits"):
        out = out.logits
    if not isinstance(out, Tensor) or out.ndim != 4 or len(out) != len(images):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"the model returned {found}; expected logits [N,C,H,W] for images "
            f"{tuple(images.shape)}, a dict with 'out', or an object with .logits"
        )
    out = out.float()
    if out.shape[-2:] != images.shape[-2:]:
        out = F.interpolate(out, size=images.shape[-2:], mode="bilinear", align_corners=False)
    if not torch.isfinite(out).all():
        raise ValueError("the model returned logits that are NaN or infinite")
    return out


@torch.inference_mode()
def posteriors(model: Callable, images: Tensor) -> Tensor:
    """Per-pixel posteriors, float32 [N,C,H,W]: softmax over the classes. No autocast: exact."""
    return logits_of(model, images).softmax(dim=1)


@torch.inference_mode()
def posterior_batches(
    model: Callable, scenes: Scenes, batch: int = 16, *, progress: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (posteriors float32 [B,C,H,W], masks int64 [B,H,W]) over all scenes, in order.

    A stream: the posteriors of a few thousand images (5 MB each) are never in memory at once.
    """
    if isinstance(model, nn.Module):
        model.eval()
    device = device_of(model)
    bar = tqdm(total=len(scenes), desc=progress, unit="image", disable=not progress, mininterval=2)
    with bar:
        for images, masks in scenes.batches(batch):
            yield posteriors(model, images.to(device)).cpu(), masks
            bar.update(len(images))


def device_of(model: Callable) -> torch.device:
    """Where the model's weights lie; the CPU for a model without any."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def best_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mean_iou(model: nn.Module, scenes: Scenes, batch: int = 16) -> float:
    """Mean over the classes present of intersection over union, pooled over all images."""
    confusion = torch.zeros(scenes.n_classes, scenes.n_classes, dtype=torch.int64)
    for posterior, masks in posterior_batches(model, scenes, batch):
        confusion += confusion_matrix(posterior.argmax(1), masks, scenes.n_classes)
    return iou_of(confusion).nanmean().item()


def confusion_matrix(predicted: Tensor, masks: Tensor, n_classes: int) -> Tensor:
    """Pixel counts int64 [C (true), C (predicted)] over the non-void pixels.

    Raises ValueError for a predicted or true class outside 0..C-1.
    """
    keep = masks != VOID
    for kind, found in (("predicted", predicted[keep]), ("true", masks[keep])):
        if found.numel() and not 0 <= found.min() <= found.max() < n_classes:
            wrong = found.min().item() if found.min() < 0 else found.max().item()
            raise ValueError(f"{kind} class {wrong}; expected 0..{n_classes - 1}")
    pairs = masks[keep] * n_classes + predicted[keep]
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes)


def iou_of(confusion: Tensor) -> Tensor:
    """Intersection over union per class, float64 [C]; NaN where a class is absent throughout."""
    hits = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - hits
    return torch.where(confusion.sum(1) > 0, hits / union, torch.nan)


# ---------------------------------------------------------------------------------- training


def train_victim(
    recipe: Recipe,
    members: Scenes,
    held_out: Scenes,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: str | None = "victim",
    line: int = 0,
) -> tuple[nn.Module, list[dict]]:
    """Train a victim on its members as a practitioner would; return it with its history.

    Augmentation (flip, scale and crop, colour), AdamW with a one-cycle rate, bf16 where the
    hardware has it, and the weights of the best held-out mIoU. The history holds one dict an
    epoch: ``epoch, loss`` and, when looked at, ``held_out_miou``. With `checkpoint` an interrupted
    run goes on where it stopped; two runs with one seed on one machine give the same weights.
    `line` is the row of the progress bar, where several victims are trained side by side.
    Raises ValueError where recipe and scenes disagree on the classes, or on an empty set.
    """
    if members.n_classes != recipe.n_classes or held_out.n_classes != recipe.n_classes:
        raise ValueError(
            f"the recipe has {recipe.n_classes} classes, the members {members.n_classes}, the "
            f"held-out scenes {held_out.n_classes}; they must agree"
        )
    if len(members) < recipe.batch or len(held_out) == 0:
        raise ValueError(
            f"{len(members)} members and {len(held_out)} held-out scenes: at least one batch "
            f"({recipe.batch}) and one held-out scene are needed"
        )
    device = best_device()
    model = build_victim(recipe, seed=seed).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    steps = len(members) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=steps * recipe.epochs, pct_start=0.2
    )
    run = {"epoch": 0, "best": -1.0, "waited": 0, "history": [], "weights": None}
    identity = _identity(recipe, members, held_out, seed)
    if checkpoint is not None and checkpoint.exists():
        state = resume(checkpoint, identity, model, optimiser=optimiser, schedule=schedule)
        run = state["run"] if state else run

    bar = tqdm(
        total=recipe.epochs,
        initial=run["epoch"],
        desc=progress,
        unit="epoch",
        disable=not progress,
        position=line,
    )
    with bar, torch.random.fork_rng(devices=[]):
        while run["epoch"] < recipe.epochs and run["waited"] < recipe.patience:
            # One seed an epoch: a resumed run draws the same crops as an uninterrupted one.
            torch.manual_seed(seed * 100_003 + run["epoch"])
            record = {"loss": _one_epoch(model, members, recipe, optimiser, schedule)}
            run["epoch"] += 1
            record["epoch"] = run["epoch"]
            if run["epoch"] % recipe.check_every == 0 or run["epoch"] == recipe.epochs:
                record["held_out_miou"] = mean_iou(model, held_out)
                if math.isnan(record["held_out_miou"]):
                    raise ValueError("the held-out scenes have no labelled pixel: all are void")
                better = record["held_out_miou"] > run["best"]
                run["waited"] = 0 if better else run["waited"] + 1
                if better:
                    run["best"] = record["held_out_miou"]
                    run["weights"] = {k: v.clone() for k, v in model.state_dict().items()}
            run["history"].append(record)
            bar.set_postfix(loss=f"{record['loss']:.3f}", held_out_miou=f"{run['best']:.3f}")
            bar.update()
            if checkpoint is not None:
                state = {"identity": identity, "run": run, "model": model.state_dict()}
                state |= {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
                replace_file(checkpoint, lambda part, state=state: torch.save(state, part))
    model.load_state_dict(run["weights"])
    return model.eval(), run["history"]


def _identity(recipe: Recipe, members: Scenes, held_out: Scenes, seed: int) -> str:
    text = f"{recipe.model_dump_json()} {members.digest} {held_out.digest} {seed}"
    return hashlib.sha256(text.encode()).hexdigest()


def resume(checkpoint: Path, identity: str, model: nn.Module, **others: object) -> dict | None:
    """Load model, optimiser and so on from a checkpoint; return it, None if it is another run's.

    `others` are stored under their names. Raises ValueError for a damaged file.
    """
    try:
        state = torch.load(checkpoint, weights_only=True, map_location=device_of(model))
        if state["identity"] != identity:
            return None  # start afresh rather than mix the two
        for name, part in {"model": model, **others}.items():
            part.load_state_dict(state[name])
    except (
        RuntimeError, KeyError, TypeError, EOFError, OSError, ValueError, pickle.UnpicklingError
    ) as error:  # fmt: skip
        raise ValueError(
            f"{checkpoint} cannot be read ({type(error).__name__}); delete it to start afresh"
        ) from error
    return state


def _one_epoch(model, members, recipe, optimiser, schedule) -> float:
    model.train()
    device, total = device_of(model), 0.0
    order = torch.randperm(len(members)).tolist()
    steps = len(members) // recipe.batch
    augment = augmentation(recipe, tuple(members[0][1].shape))
    for step in range(steps):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        pairs = [augment(*members[i]) for i in chosen]
        images = torch.stack([image for image, _ in pairs]).to(device)
        masks = torch.stack([mask for _, mask in pairs]).to(device)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), masks, ignore_index=VOID)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        total += loss.item()
    return total / steps


def augmentation(recipe: Recipe, size: tuple[int, int]) -> Callable:
    """(image, mask) → (image, mask) under the recipe's random flip, scale, crop and colour."""
    steps: list[nn.Module] = []
    if recipe.crop_area < 1:
        aspect = size[1] / size[0]
        steps.append(
            v2.RandomResizedCrop(
                size,
                scale=(recipe.crop_area, 1.0),
                ratio=(0.85 * aspect, 1.18 * aspect),
                antialias=False,
            )
        )
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.colour > 0:
        steps.append(v2.ColorJitter(recipe.colour, recipe.colour, recipe.colour))
    chain = v2.Compose(steps) if steps else v2.Identity()

    def augment(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        image, mask = chain(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)

    return augment


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is native there: emulated bf16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


# ----------------------------------------------------------------------------- weights on disk


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary name, then rename: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_weights(
    model: nn.Module | Mapping[str, Tensor],
    path: Path,
    meta: dict,
    dtype: torch.dtype = torch.float16,
) -> str:
    """Write the weights as safetensors with `meta` in the header; return the SHA-256.

    Of a network that shares most weights with another, the tensors of its own are enough. int8 is
    half of float16: kernels in 255 steps, a scale for each output channel; the rest is float16.
    Raises ValueError for weights that are not finite in `dtype`.
    """
    tensors = dict(model.state_dict() if isinstance(model, nn.Module) else model)
    whole = torch.float16 if dtype == torch.int8 else dtype
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value.to(whole)).all():
            raise ValueError(f"{name} holds values that are not finite in {whole} (too large?)")
    if dtype == torch.int8:
        tensors = _in_steps(tensors)
    tensors = {
        name: (value.to(whole) if value.is_floating_point() else value).cpu().contiguous()
        for name, value in tensors.items()
    }
    header = {"meta": json.dumps(meta, sort_keys=True)}
    replace_file(path, lambda part: save_file(tensors, part, header))
    return sha256(path)


_SCALE = ".int8_scale"


def _in_steps(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Kernels as int8, and beside each the size of a step for each output channel."""
    out = {}
    for name, value in tensors.items():
        if value.is_floating_point() and value.ndim > 1:
            # the step as it will be read, or the weights would be off by its rounding
            step = (value.flatten(1).abs().amax(1) / 127).clamp_min(1e-6).half().float()
            out[name + _SCALE] = step
            value = (value / step.view(-1, *[1] * (value.ndim - 1))).round().clamp(-127, 127).char()
        out[name] = value
    return out


def _from_steps(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The opposite of `_in_steps`, float32."""
    out = {name: value for name, value in tensors.items() if not name.endswith(_SCALE)}
    for name in tensors.keys() - out.keys():
        of = name.removesuffix(_SCALE)
        step = tensors[name].float()
        out[of] = out[of].float() * step.view(-1, *[1] * (out[of].ndim - 1))
    return out


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex; FileNotFoundError where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: Path, expected: str | None = None) -> tuple[dict[str, Tensor], dict]:
    """State dict (float32) and meta of a file by `save_weights`, checked against its SHA-256.

    Raises FileNotFoundError, or ValueError for a file that is damaged or not the one expected.
    """
    found = sha256(path)
    if expected is not None and found != expected:
        raise ValueError(
            f"{path} is not the file the manifest names: its SHA-256 is {found[:12]}…, expected "
            f"{expected[:12]}…; restore it from git, or retrain it"
        )
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            meta = json.loads((file.metadata() or {}).get("meta", "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    return _from_steps(state), meta


def load_victim(path: Path, expected: str | None = None) -> tuple[nn.Module, dict]:
    """A victim in eval mode and its meta, built from the recipe stored in the file.

    A callable on images already; float16 or int8 on disk, float32 in memory.
    """
    state, meta = read_weights(path, expected)
    if "recipe" not in meta:
        raise ValueError(f"{path} holds no victim: its header has no 'recipe'")
    try:
        recipe = Recipe(**meta["recipe"])
    except (ValidationError, TypeError) as error:
        raise ValueError(
            f"{path} holds no victim, but something made as {meta['recipe']}"
        ) from error
    model = build_victim(recipe)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its own recipe: {error}") from error
    return model.eval().to(best_device(), memory_format=torch.channels_last), meta
