"""Posteriors, logits, masks and loss maps.

Shapes and dtypes cost nothing to look at; whoever has looked at the values once may leave that out.
"""

from __future__ import annotations

import numpy as np
import torch

from segleak_utils.checks import VOID

_MASK_DTYPES = (torch.uint8, torch.int16, torch.int32, torch.int64)
_FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# How far the sum over classes may be from one: bfloat16 keeps 8 bits, so rounding alone moves a
# probability by up to 0.4 %.
_SUM_TOLERANCE = {torch.bfloat16: 1e-2}
_DEFAULT_SUM_TOLERANCE = 1e-3


def check_posterior(
    posterior: torch.Tensor, mask: torch.Tensor | None = None, n_classes: int | None = None
) -> None:
    """Raise ValueError unless `posterior` is a distribution over classes that fits `mask`.

    posterior: float [N, C, H, W]. mask: integer [N, H, W] or None. n_classes: expected C or None.
    Refused: another dtype or number of dimensions, an empty batch, C other than `n_classes`, NaN or
    infinite or negative probabilities, a pixel whose sum differs from one by more than 1e-3 (1e-2
    for bfloat16), a mask on another grid, a label outside 0..C-1 that is not 255.
    """
    posterior_shape(posterior, n_classes)
    posterior_values(posterior)
    if mask is not None:
        mask_shape(mask, posterior)
        mask_labels(mask, posterior.shape[1])


def images(images: torch.Tensor) -> None:
    """Floating-point [N, 3, H, W] in 0..1, as `Scenes` give them: what every victim takes."""
    _floats("images", images, "[N, 3, H, W]")
    low, high = (float(value) for value in extremes(images))
    if not -1e-6 <= low <= high <= 1 + 1e-6:
        raise ValueError(
            f"images hold values from {low:.3g} to {high:.3g}, expected 0..1: divide bytes by 255; "
            "what a model normalises by is its own, victims.described(model, preprocess=...)"
        )


def answers_grid(out: torch.Tensor, images: torch.Tensor) -> None:
    """A model's answer [N, C, h, w] in floats, where h and w are H and W, or the same part of them.

    Part: a whole number, as an encoder that halves has it, up to 32 (rounded up).
    """
    height, width = images.shape[-2:]
    _, classes, h, w = out.shape
    if not out.is_floating_point():
        raise ValueError(f"the model returned {out.dtype}; expected floating-point logits")
    if (classes, h) == (height, width) and w != width:
        raise ValueError(
            f"the model returned {list(out.shape)} for images {list(images.shape)}: the classes "
            "come last; expected [N, C, H, W], permute(0, 3, 1, 2)"
        )
    part = max(1, round(height / h))
    if part > 32 or (-(-height // part), -(-width // part)) != (h, w):
        raise ValueError(
            f"the model returned {h}x{w} for images of {height}x{width}; expected the same grid or "
            "one that is coarser by one whole number, at most 32, in both directions"
        )
    if classes < 2:
        raise ValueError(
            "the model returned one channel; expected logits of two classes or more: of a single "
            "logit z make torch.cat([torch.zeros_like(z), z], 1)"
        )


def logits_values(logits: torch.Tensor, mend: str) -> None:
    """Finite, and not all in 0..1: of these a softmax would make a distribution of no meaning.

    mend: how to say that they are something else, or that they are logits all the same.
    """
    low, high = (float(value) for value in extremes(logits))
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the model returned logits that are NaN or infinite")
    if low >= 0 and high <= 1:
        total = logits.detach().sum(1)
        alike = bool(((total - 1).abs() < 1e-2).all())
        kind = "probabilities (they sum to 1)" if alike else "sigmoids or one-hots"
        raise ValueError(
            f"the model returned values from {low:.3g} to {high:.3g}: these look like {kind}, "
            f"expected logits. Say what it returns, {mend}; 'logits' if they are"
        )


def extremes(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest of a tensor, or NaN twice if it holds one.

    >>> extremes(torch.tensor([2.0, 1.0, 3.0]))
    (tensor(1.), tensor(3.))
    """
    # in the order of memory it takes a tenth of the time
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    low, high = values.detach().aminmax()
    return low, high


def pair(posterior: torch.Tensor, mask: torch.Tensor, values: bool) -> None:
    """`check_posterior` with its mask; without `values` only shapes and dtypes."""
    posterior_shape(posterior)
    mask_shape(mask, posterior)
    if values:
        posterior_values(posterior)
        mask_labels(mask, posterior.shape[1])


def _floats(name: str, tensor: torch.Tensor, layout: str) -> None:
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in _FLOAT_DTYPES:
        found = getattr(tensor, "dtype", type(tensor).__name__)
        raise ValueError(f"{name} must be a floating-point torch tensor {layout}, found {found}")
    if tensor.ndim != 4 or tensor.numel() == 0:
        raise ValueError(f"{name} must be {layout} and not empty, found {list(tensor.shape)}")


def posterior_shape(
    posterior: torch.Tensor, n_classes: int | None = None, name: str = "posterior"
) -> None:
    """Floating-point [N, C, H, W] of 2..255 classes, or of `n_classes`."""
    _floats(name, posterior, "[N, C, H, W]")
    found = posterior.shape[1]
    if n_classes is not None and found != n_classes:
        raise ValueError(f"{name} has {found} classes, expected {n_classes}")
    if not 2 <= found <= VOID:
        raise ValueError(f"{name} has {found} classes, expected 2 to {VOID} ({VOID} is void)")


def posterior_values(posterior: torch.Tensor) -> None:
    """A distribution over dim 1 in each pixel."""
    # A minimum and a sum say it all: with none negative and sums near one, none can be large, and
    # NaN or infinity survive in the sum.
    posterior = posterior.detach()
    smallest = float(posterior.amin())
    if smallest < 0:
        raise ValueError(
            f"posterior has a negative probability ({smallest:.3g}): pass softmax outputs, not "
            "logits, and renormalise after noise"
        )
    wide = torch.float64 if posterior.dtype == torch.float64 else torch.float32
    off = float(posterior.sum(1, dtype=wide).sub_(1).abs_().amax())
    if not np.isfinite(off):
        raise ValueError("posterior holds NaN or infinite values: mend the victim's output")
    tolerance = _SUM_TOLERANCE.get(posterior.dtype, _DEFAULT_SUM_TOLERANCE)
    if off > tolerance:
        raise ValueError(
            f"posterior does not sum to one over classes: a pixel is off by {off:.3g} (allowed "
            f"{tolerance:g}): apply softmax over dim 1, or renormalise"
        )


def mask_shape(mask: torch.Tensor, partner: torch.Tensor | None = None) -> None:
    """Integer [N, H, W], on the grid of its partner [N, ..., H, W]."""
    if not isinstance(mask, torch.Tensor) or mask.dtype not in _MASK_DTYPES:
        found = getattr(mask, "dtype", type(mask).__name__)
        raise ValueError(f"mask must be an integer tensor (uint8 or int16 to int64), found {found}")
    if mask.ndim != 3 or mask.numel() == 0:
        raise ValueError(f"mask must be [N, H, W] and not empty, found {list(mask.shape)}")
    if partner is not None:
        expected = [partner.shape[0], *partner.shape[2:]]
        if list(mask.shape) != expected:
            raise ValueError(
                f"mask is {list(mask.shape)} but posterior or loss map asks for {expected}: bring "
                "both to one grid (masks by nearest neighbour)"
            )


def mask_labels(mask: torch.Tensor, n_classes: int) -> None:
    """Labels 0..n_classes-1, or 255."""
    labels = mask.masked_fill(mask == VOID, 0)
    low, high = (int(value) for value in labels.aminmax())
    if low < 0 or high >= n_classes:
        raise ValueError(
            f"mask holds label {low if low < 0 else high}, expected 0..{n_classes - 1} "
            f"({n_classes} classes) or {VOID} for void"
        )


def loss_map(loss_map: torch.Tensor, mask: torch.Tensor, values: bool) -> None:
    """Floating-point [N, 1, H, W] on the mask's grid; with `values`, finite and not negative."""
    _floats("loss map", loss_map, "[N, 1, H, W]")
    if loss_map.shape[1] != 1:
        raise ValueError(f"loss map must be [N, 1, H, W], found {list(loss_map.shape)}")
    mask_shape(mask, loss_map)
    if values:
        low, high = (float(value) for value in loss_map.detach().aminmax())
        if not (low >= 0 and np.isfinite(high)):
            raise ValueError(
                f"loss map holds values from {low:.3g} to {high:.3g}, expected finite ones >= 0"
            )
