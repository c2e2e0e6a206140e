"""Answers of any make, as posteriors; whether they are what was said of them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from segleak_utils.audit.config import Answers
from segleak_utils.checks import tensors

# A file of float16 rounds each of C probabilities; a network in float32 does not.
TOLERANCE = {torch.float16: 2e-2, torch.bfloat16: 5e-2}
USUAL = 2e-3


def chosen(out: object, output: str | int | None, name: str) -> object:
    """The tensor in what a model returned, or a file holds, by the way of known libraries.

    torchvision's ``"out"``, transformers' ``.logits``, and Mask2Former's queries put together; else
    `output` says which. ValueError, listing what there is, where that is not clear.
    """
    if output is not None:
        return _picked(out, output, name)
    if isinstance(out, Tensor) or out is None:
        return out
    queries = [_part(out, f"{part}_queries_logits") for part in ("class", "masks")]
    if all(isinstance(part, Tensor) for part in queries):
        return semantic(*queries)
    for part in ("out", "logits"):
        if isinstance(found := _part(out, part), Tensor):
            return found
    parts = _parts(out)
    if len(parts) == 1:
        return next(iter(parts.values()))
    if not parts:
        return out
    listed = ", ".join(f"{key!r}: {_shape(part)}" for key, part in [*parts.items()][:6])
    raise ValueError(f"{name} gives several things ({listed}); say which one by answers.output")


def _part(out: object, key: str) -> object:
    return out.get(key) if isinstance(out, Mapping) else getattr(out, key, None)


def _parts(out: object) -> dict[str | int, object]:
    if isinstance(out, Mapping):
        return dict(out)
    if isinstance(out, tuple | list):
        return dict(enumerate(out))
    return {}


def _picked(out: object, output: str | int, name: str) -> object:
    parts = _parts(out)
    if output in parts:
        return parts[output]
    if isinstance(output, str) and (found := getattr(out, output, None)) is not None:
        return found
    known = ", ".join(map(repr, parts)) or type(out).__name__
    raise ValueError(f"{name}: answers.output is {output!r}; there is {known}")


def _shape(part: object) -> str:
    return str(list(part.shape)) if hasattr(part, "shape") else type(part).__name__


def semantic(classes: Tensor, masks: Tensor) -> Tensor:
    """Mask2Former's queries as probabilities of classes, [B,C,h,w].

    classes: [B,Q,C+1] logits, the last "no object"; masks: [B,Q,h,w] logits. The semantic map of
    Cheng et al. (CVPR 2022), sum over queries of class times mask, divided by its sum.
    """
    scores = torch.einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], masks.sigmoid())
    scores = scores.clamp(min=1e-30)
    return scores / scores.sum(1, keepdim=True)


def in_layout(values: object, told: Answers, n_classes: int, n: int, name: str) -> Tensor:
    """The values as a tensor [N,C,h,w], classes first; one channel stays one.

    ValueError, naming where they come from, for what is no such tensor, or where the classes seem
    to come last and nobody said so.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        found = values.dtype if isinstance(values, Tensor) else f"a {type(values).__name__}"
        raise ValueError(f"{name} is {found}; expected floats, one for each class and pixel")
    if values.ndim == 3 and len(values) == n and n_classes == 2 and values.shape[1] != 2:
        values = values[:, None]  # one number a pixel
    if values.ndim != 4 or len(values) != n or not values.numel():
        raise ValueError(
            f"{name} is {list(values.shape)} for {n} images; expected [{n}, {n_classes}, h, w]"
        )
    last, allowed = told.layout == "channels_last", {n_classes} | ({1} if n_classes == 2 else set())
    if last:
        values = values.movedim(-1, 1)
    if values.shape[1] in allowed:
        return values
    other = values.movedim(1, -1).shape[1] if last else values.shape[-1]
    hint = ""
    if not last and other in allowed:
        hint = ": the classes seem to come last, say so by answers.layout: channels_last"
    elif last and list(values.movedim(1, -1).shape)[1] in allowed:
        hint = ": the classes come first, leave out answers.layout"
    raise ValueError(f"{name} has {values.shape[1]} classes, the data have {n_classes}{hint}")


def as_posterior(values: Tensor, told: Answers, name: str) -> Tensor:
    """Posteriors float32 [N,C,h,w], which sum to 1, of values [N,C,h,w] that are what `told` says.

    One channel is that of the second of two classes: a sigmoid's. ValueError, naming where they
    come from, for values that are not what was said: NaN, probabilities said to be logits, logits
    said to be probabilities.
    """
    low, high = (float(value) for value in tensors.extremes(values))
    if not (low > -float("inf") and high < float("inf")):
        if told.returns != "log_probabilities" or high != high or high == float("inf"):
            raise ValueError(f"{name} holds NaN or infinite values: mend the model or the file")
        values = values.clamp(min=-1e4)  # the logarithm of a probability of 0
    tolerance = TOLERANCE.get(values.dtype, USUAL)
    values = values.float()
    single = values.shape[1] == 1
    if told.returns == "logits":
        if low >= 0 and high <= 1:
            raise ValueError(f"{name} was said to be logits, and all is in 0..1{_seem(values)}")
        if single:
            values = torch.cat([torch.zeros_like(values), values], 1)
        return values.softmax(1)
    if told.returns == "log_probabilities":
        if high > 1e-3:
            raise ValueError(
                f"{name} was said to be log-probabilities, and goes up to {high:.3g}: expected at "
                "most 0; these may be logits"
            )
        values = values.exp()
    elif low < -tolerance or high > 1 + tolerance:
        raise ValueError(
            f"{name} was said to be probabilities, and goes from {low:.3g} to {high:.3g}: expected "
            "0..1; these may be logits"
        )
    values = values.clamp(0, 1)
    if single:
        return torch.cat([1 - values, values], 1)
    total = values.sum(1, keepdim=True)
    off = float((total - 1).abs().max())
    if off > tolerance:
        raise ValueError(
            f"{name} was said to be {told.returns.replace('_', '-')}, and a pixel's sum is off by "
            f"{off:.3g} from 1 (allowed {tolerance:g}); are these logits, or sigmoids of classes "
            "that do not exclude each other?"
        )
    return values / total


def _seem(values: Tensor) -> str:
    """What values in 0..1 seem to be, where logits were expected, and what to do."""
    known = ": these are probabilities, say so by answers.returns: probabilities"
    if values.shape[1] == 1:
        return known
    if not bool(((values.sum(1) - 1).abs() < 1e-2).all()):
        known = ": sigmoids of classes that do not exclude each other? Give what goes into them"
    return f"{known}. If they are logits all the same, add 1 to all: it changes no posterior"


def stride_between(fine: tuple[int, int], coarse: tuple[int, int], name: str) -> int:
    """The whole number by which a grid (h, w) is coarser than an image (H, W), rounded up.

    >>> stride_between((128, 250), (32, 63), "answers")
    4
    """
    stride = max(1, round(fine[0] / coarse[0]))
    for step in (stride, stride + 1, stride - 1):
        if step > 0 and tuple(-(-side // step) for side in fine) == tuple(coarse):
            return step
    raise ValueError(
        f"{name} has a grid of {coarse[0]}x{coarse[1]} for an image of {fine[0]}x{fine[1]} (height "
        "x width); expected the same, or every 2nd, 3rd, ... pixel of it in both directions"
    )
