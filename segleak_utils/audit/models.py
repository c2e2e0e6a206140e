"""Networks that are asked: Python objects, files of torch and ONNX, tile by tile where told."""

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
from segleak_utils.audit.pictures import Picture
from segleak_utils.victims import best_device, fingerprint
from segleak_utils.victims.asking import evaluating
from segleak_utils.whole import sha256

FILES = {".pt2": "torch.export", ".pt": "TorchScript", ".ts": "TorchScript", ".onnx": "ONNX"}


class Model:
    """A network that is asked: images in, posteriors out; it is left in the mode it was in.

    `sha256` is that of its file, or a key of its weights; `source` says in words what answers.
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
    ) -> None:
        self.call, self.told, self.n_classes, self.tile = call, told, n_classes, tile
        self.source, self.sha256 = source, digest
        self.device = device or torch.device("cpu")
        self.at_once: int | None = None  # how many images it takes, where it takes no other number

    def identity(self, probe: Tensor) -> str:
        """Hex key of all that its answers depend on.

        Of a callable without weights, what it says of `probe`, an image [3,H,W].
        """
        options = self.told.model_dump(
            include={"returns", "output", "layout", "mean", "std", "scale", "order"}
        )
        key = hashlib.sha256(f"{sorted(options.items())} {self.tile} {self.sha256}".encode())
        if isinstance(self.call, nn.Module):
            key.update(code_of(self.call).encode())
        if self.sha256 is None:
            said, _ = self.posteriors(probe[None], (), 1)
            key.update(said.contiguous().numpy().tobytes())
        return key.hexdigest()

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
        kept = (..., *(slice(start, None, stride) for start in first))
        values = self._answers(images)
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

    def _answers(self, images: Tensor) -> Tensor:
        """What it returns, [B,C,h,w], classes first."""
        told, name = self.told, f"the answer of {self.source}"
        images = images.to(self.device)
        if told.order == "BGR":
            images = images.flip(1)
        if told.mean is not None:
            mean, std = (torch.tensor(part, device=self.device) for part in (told.mean, told.std))
            images = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
        images = images * told.scale
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
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise ValueError(
                f"{self.source} does not take images {list(images.shape)}, float32: {error}. If it "
                "takes one size, give data.size or data.tile; if one image at a time, "
                "answers.batch: 1"
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
        torch.zeros(1, device=device)
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
    how = {"tile": tile, "device": device}
    if model is None and told.file is not None:
        return _of_file(base / told.file, told, n_classes, how)
    source = "the model" if model is not None else told.model
    found = imported(told.model, base) if model is None else model
    if not callable(found):
        raise ValueError(f"{source} is a {type(found).__name__}; expected a callable")
    digest = None
    if isinstance(found, nn.Module):
        found = found.to(device)
        digest = fingerprint(found) if found.state_dict() else None
    return Model(found, told, n_classes, source=source, digest=digest, **how)


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


def _of_file(path: Path, told: Answers, n_classes: int, how: dict) -> Model:
    if not path.is_file():
        raise FileNotFoundError(f"answers.file: {path} is not there")
    kind = FILES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"answers.file: {path.name}; expected {', '.join(FILES)}. A file of weights alone "
            "(.pth, .safetensors) is no network: name what builds it by answers.model"
        )
    device = how["device"]
    try:
        if kind == "ONNX":
            call, at_once = _onnx(path)
            how = how | {"device": torch.device("cpu")}
        elif kind == "torch.export":
            call, at_once = torch.export.load(path).module().to(device), None
        else:
            call, at_once = torch.jit.load(path, map_location=device).eval(), None
    except ImportError:
        raise ValueError('ONNX files need onnxruntime: pip install "segleak[audit]"') from None
    except Exception as error:  # each library has its own
        raise ValueError(
            f"answers.file: {path} cannot be read as {kind} ({type(error).__name__}: {error}). A "
            "file of weights alone is no network: name what builds it by answers.model"
        ) from error
    if isinstance(call, nn.Module) and kind == "torch.export":
        call = call.forward  # an exported program has no mode to be put in
        at_once = _one_size(path)
    found = Model(call, told, n_classes, source=path.name, digest=sha256(path), **how)
    found.at_once = at_once
    return found


def _one_size(path: Path) -> int | None:
    """How many images an exported program takes, where that was fixed when it was exported."""
    program = torch.export.load(path)
    names = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names and "val" in node.meta:
            first = node.meta["val"].shape[0]
            return first if isinstance(first, int) else None
    return None


def _onnx(path: Path) -> tuple[Callable[[Tensor], dict[str, Tensor]], int | None]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]

    def call(images: Tensor) -> dict[str, Tensor]:
        found = session.run(None, {given.name: images.cpu().numpy()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    return call, given.shape[0] if isinstance(given.shape[0], int) else None
