"""Defences that stand between a victim and whoever asks it: what is released of a posterior.

Each function takes posteriors float [N,C,H,W] and returns what is released, in the same form, so
that every attack and every measure can be pointed at it. (`victims.dpsgd` has the defence inside
training.) All raise ValueError for what `representations.check_posterior` refuses; `check=False`
leaves that look out, where the caller has had it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segleak_utils.checks import VOID, numbers, tensors
from segleak_utils.representations import argmax_posterior, one_hot

LARGEST_STD = 1e6  # far beyond any use; float32 overflows later
SMALLEST_RELEASED = 1e-6  # noise may leave a class no less: a negative probability is none

Kind = Literal[
    "nothing",
    "argmax",
    "Gaussian noise",
    "top-k",
    "rounding",
    "temperature",
]


def label_only(posterior: Tensor, *, check: bool = True) -> Tensor:
    """Argmax as a service would send it: the most probable class of each pixel, int64 [N,H,W].

    `from_labels` brings it back into the form of a posterior: both say the same.

    >>> label_only(torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1))
    tensor([[[1]]])
    """
    return argmax_posterior(posterior, check=check).argmax(1)


def from_labels(labels: Tensor, n_classes: int) -> Tensor:
    """Released labels [N,H,W] as a posterior float32 [N,C,H,W] that is one at the label.

    Raises ValueError for a label outside 0..C-1 (a service predicts a class, never void), and for
    what are no integers [N,H,W].

    >>> from_labels(torch.tensor([[[1]]]), 3).flatten()
    tensor([0., 1., 0.])
    """
    n_classes = numbers.count(n_classes, "n_classes", 2, VOID)
    tensors.mask_shape(labels)
    if not 0 <= labels.min() <= labels.max() < n_classes:
        found = f"{int(labels.min())}..{int(labels.max())}"
        raise ValueError(f"labels {found}; expected 0..{n_classes - 1}")
    return one_hot(labels, n_classes)


def gaussian_noise(
    posterior: Tensor, std: float, generator: torch.Generator, *, check: bool = True
) -> Tensor:
    """Noise N(0, std) on every class and pixel, clamped to at least 1e-6, divided by its sum.

    With ``std=0`` the posterior itself. Raises ValueError for an `std` that is negative, not
    finite, or above a million.

    >>> posterior = torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1)
    >>> noisy = gaussian_noise(posterior, 0.1, torch.Generator().manual_seed(0))
    >>> bool(torch.equal(noisy, posterior)), round(float(noisy.sum()), 5)
    (False, 1.0)
    """
    std = numbers.real(std, "std", 0, LARGEST_STD)
    _check(posterior, check)
    if std == 0:
        return posterior
    noisy = torch.randn(posterior.shape, generator=generator, device=generator.device)
    noisy = noisy.to(posterior.device).mul_(std).add_(posterior).clamp_(min=SMALLEST_RELEASED)
    return noisy.div_(noisy.sum(1, keepdim=True))


def top_k(posterior: Tensor, k: int, *, check: bool = True) -> Tensor:
    """Only the `k` most probable classes of a pixel, divided by their sum; the others are zero.

    Raises ValueError for a `k` outside 1..C.

    >>> top_k(torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1), 2).flatten()  # 5/8, 3/8
    tensor([0.6250, 0.3750, 0.0000])
    """
    _check(posterior, check)
    n_classes = posterior.shape[1]
    k = _whole(k, "k", n_classes)
    if k == 1:
        return argmax_posterior(posterior, check=False)  # on a tie the first class, as there
    rows = posterior.movedim(1, -1).contiguous()  # topk along the last dimension is far faster
    values, classes = rows.topk(k, dim=-1)
    kept = torch.zeros_like(rows).scatter_(-1, classes, values)
    return (kept / values.sum(-1, keepdim=True)).movedim(-1, 1)


def rounding(posterior: Tensor, digits: int, *, check: bool = True) -> Tensor:
    """Probabilities rounded to `digits` decimals, divided by their sum.

    Where all would be rounded to zero, the most probable class is released alone. Raises
    ValueError for less than one digit, or more than the seven that a float32 has.

    >>> rounding(torch.tensor([0.54, 0.42, 0.04]).view(1, 3, 1, 1), 1).flatten()  # 5/9, 4/9
    tensor([0.5556, 0.4444, 0.0000])
    """
    digits = _whole(digits, "digits", 7)
    _check(posterior, check)
    rounded = posterior.round(decimals=digits)
    total = rounded.sum(1, keepdim=True)
    if bool((total == 0).any()):
        rounded = torch.where(total == 0, argmax_posterior(posterior, check=False), rounded)
        total = rounded.sum(1, keepdim=True)
    return rounded / total


def temperature(posterior: Tensor, t: float, *, check: bool = True) -> Tensor:
    """Every probability to the power 1/t, divided by their sum: t > 1 makes a posterior flatter.

    Raises ValueError for a `t` that is not finite and positive.

    >>> temperature(torch.tensor([0.9, 0.1]).view(1, 2, 1, 1), 2).flatten()  # as 3 to 1
    tensor([0.7500, 0.2500])
    """
    t = numbers.real(t, "temperature", 0, ends="()")
    _check(posterior, check)
    loss = posterior.clamp(min=1e-30).log()
    return ((loss - loss.amax(1, keepdim=True)) / t).softmax(1)  # 0 / t: no overflow at the top


def _whole(value: float, name: str, high: int) -> int:
    """A whole number from 1 to `high`; 2.0 is one, as a slider gives it."""
    whole = isinstance(value, float) and value.is_integer()
    return numbers.count(int(value) if whole else value, name, 1, high)


def _check(posterior: Tensor, check: bool) -> None:
    if check:
        tensors.check_posterior(posterior)


@dataclass(frozen=True)
class Release:
    """One of the above with its strength: a standard deviation, k, digits or a temperature."""

    kind: Kind = "nothing"
    strength: float = 0

    def __call__(
        self, posterior: Tensor, generator: torch.Generator, *, check: bool = True
    ) -> Tensor:
        """What is released of a posterior float [N,C,H,W]; only noise draws from `generator`.

        >>> posterior = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1)
        >>> Release("argmax")(posterior, torch.Generator()).flatten()
        tensor([1., 0., 0.])
        """
        match self.kind:
            case "nothing":
                _check(posterior, check)
                return posterior
            case "argmax":
                return argmax_posterior(posterior, check=check)
            case "Gaussian noise":
                return gaussian_noise(posterior, self.strength, generator, check=check)
            case "top-k":
                return top_k(posterior, self.strength, check=check)
            case "rounding":
                return rounding(posterior, self.strength, check=check)
            case "temperature":
                return temperature(posterior, self.strength, check=check)
        raise ValueError(f"unknown release {self.kind!r}")

    def __str__(self) -> str:
        return self.kind if self.kind in ("nothing", "argmax") else f"{self.kind} {self.strength:g}"
