"""A victim's weights on disk: safetensors with the recipe in the header, checked by SHA-256."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from segleak_utils.victims.asking import best_device
from segleak_utils.victims.networks import Recipe, build_victim
from segleak_utils.whole import checksum, replace_file, sha256


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
    known = {"checksum": checksum_of(tensors, json.dumps(meta, sort_keys=True))}
    # one entry: several would come in any order, and the file would have another SHA-256 each time
    header = {"meta": json.dumps(meta | known, sort_keys=True)}
    replace_file(path, lambda part: save_file(tensors, part, header))
    return sha256(path)


def checksum_of(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """`whole.checksum` of tensors on the CPU, by their bytes: NumPy knows no bfloat16."""
    raw = {
        f"{name} {value.dtype} {tuple(value.shape)}": value.reshape(-1).view(torch.uint8).numpy()
        for name, value in tensors.items()
    }
    return checksum(raw, text)


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


def read_weights(path: Path, expected: str | None = None) -> tuple[dict[str, Tensor], dict]:
    """State dict (float32) and meta of a file by `save_weights`.

    Checked against `expected`, its SHA-256, and against the checksum in its header. Raises
    FileNotFoundError, or ValueError for a file that is damaged, is not the one expected, or has
    neither of the two to be checked by.
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
            header = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    meta = _meta(path, header.get("meta", "{}"))
    said, text = meta.pop("checksum", None), json.dumps(meta, sort_keys=True)
    if said is None and expected is None:
        raise ValueError(
            f"{path} has no checksum in its header, so nothing vouches for it; give its SHA-256, "
            "expected=..., from the manifest.json beside it"
        )
    if said is not None and said != (comes_to := checksum_of(state, text)):
        raise ValueError(
            f"{path} is damaged: its weights come to checksum {comes_to}, its header says {said}; "
            "restore it, or retrain it"
        )
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    try:
        return _from_steps(state), meta
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: its int8 steps do not fit its weights ({error})") from error


def _meta(path: Path, text: str) -> dict:
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file by save_weights: its meta is no JSON "
            f"({type(error).__name__})"
        ) from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path}: its meta is a {type(meta).__name__}, expected a dict of names")
    return meta


def load_victim(path: Path, expected: str | None = None) -> tuple[nn.Module, dict]:
    """A victim in eval mode and its meta, built from the recipe stored in the file.

    A callable on images already; float16 or int8 on disk, float32 in memory. Raises what
    `read_weights` raises, and ValueError for a file that holds no victim.
    """
    state, meta = read_weights(path, expected)
    if "recipe" not in meta:
        raise ValueError(f"{path} holds no victim: its header has no 'recipe'")
    model = deepcopy(_untrained(_recipe(path, meta["recipe"])))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its own recipe: {error}") from error
    return model.eval().to(best_device(), memory_format=torch.channels_last), meta


@lru_cache(maxsize=4)
def _untrained(recipe: Recipe) -> nn.Module:
    """To be copied: drawing weights at random takes longer than to read those of a file."""
    return build_victim(recipe)


def _recipe(path: Path, found: object) -> Recipe:
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no victim: its recipe is a {type(found).__name__}")
    try:
        return Recipe(**found)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise ValueError(
            f"{path} holds no victim, but something made as {', '.join(list(found)[:9])}: "
            f"{where}: {problem['msg']}"
        ) from error
