"""Networks that are asked: Python objects and files, whole or tile by tile where told."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segleak_utils.audit.answers import as_posterior, chosen, in_layout
from segleak_utils.audit.code import code_of
from segleak_utils.audit.config import Answers, Size
from segleak_utils.audit.files import Opened, opened
from segleak_utils.audit.pictures import Picture
from segleak_utils.victims import best_device, fingerprint
from segleak_utils.victims.asking import evaluating
from segleak_utils.whole import sha256

# Two posteriors of one image may differ by so much in the mean: by other kernels.
STEADY, UNSTEADY = 1e-3, {torch.float16: 5e-3, torch.bfloat16: 2e-2}
SIDES = 32  # what sides are padded to a multiple of, for a network that refuses others


class _RefusedError(ValueError):
    """Images that a network does not take."""


class Model:
    """A network that is asked: images in, posteriors out; it is left in the mode it was in.

    `sha256` is that of its file, or a key of its weights; `source` says in words what answers.
    ValueError where it takes whole numbers, and images are not brought to 0..255.
    """

    labels_only = False

    def __init__(
        self,
        call: Callable[[Tensor], object],
        told: Answers,
        n_classes: int,
        *,
        source: str,
        digest: str | None,
        tile: Size | None = None,
        device: torch.device | None = None,
        code: str = "",
        at_once: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.call, self.told, self.n_classes, self.tile = call, told, n_classes, tile
        self.source, self.sha256, self.code = source, digest, code
        self.device, self.dtype = device or torch.device("cpu"), dtype
        if not dtype.is_floating_point and (told.scale != 255 or told.mean is not None):
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"{source} takes images of whole numbers ({kind}), and those are 0..255: give "
                "answers.scale: 255, without mean and std"
            )
        self.at_once = at_once  # how many images it takes, where it takes no other number
        self._refused: set[tuple[int, ...]] = set()  # sides that it takes padded only

    def identity(self, probe: Tensor) -> str:
        """Hex key of all that its answers depend on.

        Of a callable without weights, what it says of `probe`, an image [3,H,W].
        """
        options = self.told.model_dump(
            include={"returns", "output", "layout", "mean", "std", "scale", "order"}
        )
        told = f"{sorted(options.items())} {self.tile} {self.sha256} {self.code}"
        key = hashlib.sha256(told.encode())
        if isinstance(self.call, nn.Module):
            key.update(code_of(self.call).encode())
        if self.sha256 is None:
            said, _ = self.posteriors(probe[None], (), 1)
            key.update(said.contiguous().numpy().tobytes())
        return key.hexdigest()

    def check(self, images: Tensor, stride: int) -> None:
        """ValueError unless the first image [B,3,H,W] is answered alike twice, and beside another.

        A network in training mode answers by chance (dropout), or by the images beside (batch
        norm); the numbers that come of it look like any others.
        """
        first = images[:1]
        alone, _ = self.posteriors(first, (), stride)
        other = torch.zeros_like(first) if float(first.mean()) > 0.25 else torch.ones_like(first)
        ways = {} if self.told.random else {"asked again": first}
        if not self.told.random and self.told.batch > 1:
            ways["asked beside another image"] = torch.cat([first, other])
        for how, batch in ways.items():
            found, _ = self.posteriors(batch, (), stride)
            off = float((found[:1] - alone).abs().amax(1).mean())
            if off > UNSTEADY.get(self.dtype, STEADY):
                raise ValueError(
                    f"{self.source} answers otherwise when {how} (posteriors differ by {off:.2g} "
                    "in the mean): is it in training mode, with dropout or batch norm? Call "
                    ".eval() before it is written or handed over. If its answers are noisy on "
                    "purpose, answers.random: true; if it takes one image at a time, "
                    "answers.batch: 1"
                )

    @torch.inference_mode()
    def posteriors(
        self, images: Tensor, pictures: Sequence[Picture], stride: int
    ) -> tuple[Tensor, int]:
        """Posteriors float32 [B,C,h,w] of every `stride`-th pixel of images [B,3,H,W], and stride.

        ValueError for answers that are not what was said of them, or of another number of classes.
        """
        if self.tile is not None and tuple(self.tile) != tuple(images.shape[-2:]):
            return self._by_tiles(images, stride).cpu(), stride
        return self._whole(images, stride).cpu(), stride

    def _whole(self, images: Tensor, stride: int, first: tuple[int, int] = (0, 0)) -> Tensor:
        """Posteriors of every `stride`-th pixel from `first` on (y, x), where the model is."""
        height, width = images.shape[-2:]
        kept = (..., *(slice(start, end, stride) for start, end in
                       zip(first, (height, width), strict=True)))  # fmt: skip
        values, images = self._answers(images)
        if self.told.returns == "logits":  # brought to the grid first, as every library does
            values = self._on_grid(values, images)
        if values.shape[-2:] == images.shape[-2:]:
            return self._posterior(values[kept])  # of what is not kept, no softmax and no check
        return self._on_grid(self._posterior(values), images)[kept]

    def _posterior(self, values: Tensor) -> Tensor:
        return as_posterior(values, self.told, f"the answer of {self.source}")

    def _on_grid(self, values: Tensor, images: Tensor) -> Tensor:
        if values.shape[-2:] == images.shape[-2:]:
            return values
        part = max(1, round(images.shape[-2] / values.shape[-2]))
        if part > 64 or any(
            abs(side - part * own) > part
            for side, own in zip(images.shape[-2:], values.shape[-2:], strict=True)
        ):
            raise ValueError(
                f"the answer of {self.source} is {list(values.shape)} for images "
                f"{list(images.shape)}; expected their grid, or one that is coarser alike in both "
                "directions"
            )
        return F.interpolate(
            values.float(), images.shape[-2:], mode="bilinear", align_corners=False
        )

    def _answers(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What it returns, [B,C,h,w], classes first, and the images that it was asked about.

        Those are padded at the right and at the bottom where it takes no others: encoders that
        halve five times take sides that are multiples of 32.
        """
        sides = tuple(images.shape[-2:])
        more = [-side % SIDES for side in sides]
        if sides not in self._refused:
            try:
                return self._returned(images), images
            except _RefusedError:
                if not any(more):
                    raise
                refusal = sys.exception()
        padded = F.pad(images, (0, more[1], 0, more[0]), mode="replicate")
        try:
            found = self._returned(padded)
        except _RefusedError:
            raise refusal from None
        self._refused.add(sides)
        return found, padded

    def _returned(self, images: Tensor) -> Tensor:
        told, name = self.told, f"the answer of {self.source}"
        images = images.to(self.device)
        if told.order == "BGR":
            images = images.flip(1)
        if told.mean is not None:
            mean, std = (torch.tensor(part, device=self.device) for part in (told.mean, told.std))
            images = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        images = images * told.scale
        images = (images if self.dtype.is_floating_point else images.round()).to(self.dtype)
        return torch.cat(
            [
                in_layout(chosen(out, told.output, name), told, self.n_classes, n, name)[:wanted]
                for out, n, wanted in self._asked(images)
            ]
        )

    def _asked(self, images: Tensor) -> Iterator[tuple[object, int, int]]:
        """What it returns of parts of the images, how many went in, and how many of them count."""
        n = self.at_once or len(images)
        for part in images.split(n):
            more = part[-1:].expand(n - len(part), -1, -1, -1)
            yield self._called(torch.cat([part, more])), n, len(part)

    def _called(self, images: Tensor) -> object:
        module = self.call if isinstance(self.call, nn.Module) else None
        try:
            with evaluating(module) if module is not None else torch.inference_mode():
                return self.call(images)
        except Exception as error:  # each library has its own
            dtype = str(images.dtype).removeprefix("torch.")
            raise _RefusedError(
                f"{self.source} does not take images {list(images.shape)}, {dtype}: "
                f"{type(error).__name__}: {error}. If it takes one size, give data.size or "
                "data.tile; if one image at a time, answers.batch: 1"
            ) from error

    def _by_tiles(self, images: Tensor, stride: int) -> Tensor:
        """Asked tile by tile, the last one at the edge; where tiles overlap, the mean of them."""
        sides = images.shape[-2:]
        wanted = [max(side, tile) for side, tile in zip(sides, self.tile, strict=True)]
        more = [whole - side for whole, side in zip(wanted, sides, strict=True)]
        padded = F.pad(images, (0, more[1], 0, more[0]), mode="replicate")
        grid = [-(-side // stride) for side in wanted]
        total = torch.zeros(len(images), self.n_classes, *grid, device=self.device)
        count = torch.zeros(1, 1, *grid, device=self.device)
        for y in starts(wanted[0], self.tile[0]):
            for x in starts(wanted[1], self.tile[1]):
                first = -y % stride, -x % stride  # of the tile's pixels that are kept
                if first[0] >= self.tile[0] or first[1] >= self.tile[1]:
                    continue
                tile = padded[..., y : y + self.tile[0], x : x + self.tile[1]]
                part = self._whole(tile, stride, first)
                top, left = (y + first[0]) // stride, (x + first[1]) // stride
                at = (..., slice(top, top + part.shape[-2]), slice(left, left + part.shape[-1]))
                total[at] += part
                count[at] += 1
        return (total / count)[..., : -(-sides[0] // stride), : -(-sides[1] // stride)]


def starts(length: int, tile: int) -> list[int]:
    """Where tiles begin that cover a length; the last one ends at its end.

    >>> starts(10, 4)
    [0, 4, 6]
    """
    found = list(range(0, length - tile + 1, tile))
    return found if found[-1] + tile == length else [*found, length - tile]


def device_of(name: str) -> torch.device:
    """The device of that name, "auto" for the best; ValueError for one that is not there."""
    if name == "auto":
        return best_device()
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # "meta" gives nothing back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = f"cuda (0..{torch.cuda.device_count() - 1})" if torch.cuda.is_available() else "cpu"
        raise ValueError(
            f"answers.device: {name!r} is not there; this machine has {there} ({error})"
        ) from None
    return device


def model_of(
    told: Answers,
    n_classes: int,
    *,
    model: object | None = None,
    tile: Size | None = None,
    base: Path = Path(),
) -> Model:
    """The network that `told` names, or the object `model` as `told` describes it.

    `base` is the folder that relative paths and modules are looked for in. FileNotFoundError for a
    file that is not there; ValueError for what names no network, or a device that is not there.
    """
    device = device_of(told.device)
    if model is None and told.file is not None:
        path = base / told.file
        of: Opened = opened(path, device)
        return Model(
            of.call, told, n_classes, source=path.name, digest=of.sha256, tile=tile,
            device=of.device, at_once=of.at_once, dtype=of.dtype,
        )  # fmt: skip
    source = "the model" if model is not None else told.model
    found = imported(told.model, base) if model is None else model
    if not callable(found):
        raise ValueError(f"{source} is a {type(found).__name__}; expected a callable")
    how = {"source": source, "digest": None, "tile": tile, "device": device}
    if isinstance(found, nn.Module):
        found = found.to(device)
        how |= {"digest": fingerprint(found) if found.state_dict() else None}
        how |= {"dtype": dtype_of(found)}
    if model is None:  # what its file holds beside the classes counts, too
        how |= {"code": _written(told.model)}
    return Model(found, told, n_classes, **how)


def dtype_of(module: nn.Module) -> torch.dtype:
    """What a network computes in: the type of its first floating-point weight, else float32."""
    floats = (of.dtype for of in module.parameters() if of.is_floating_point())
    return next(floats, torch.float32)


def _written(name: str) -> str:
    """SHA-256 of the file of the module in "package.module:name"; "" where it has none."""
    path = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    return "" if path is None else sha256(Path(path))


def imported(name: str, base: Path = Path()) -> object:
    """What "package.module:name" names; a class or a function without arguments is called."""
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(f"answers.model is {name!r}; expected package.module:name")
    where = str(base.resolve())
    if where not in sys.path:
        sys.path.insert(0, where)
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"answers.model: {module} cannot be imported from {where} ({error})"
        ) from error
    try:
        found = functools.reduce(getattr, attribute.split("."), found)
    except AttributeError as error:
        raise ValueError(f"answers.model: {module} has no {attribute}") from error
    if isinstance(found, nn.Module) or not callable(found):
        return found
    try:
        needed = [
            of
            for of in inspect.signature(found).parameters.values()
            if of.default is of.empty and of.kind in (of.POSITIONAL_ONLY, of.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return found
    return found if needed else found()
