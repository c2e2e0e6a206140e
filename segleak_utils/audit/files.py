"""Files of networks: torch.export, TorchScript and ONNX, as callables."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segleak_utils.whole import sha256

FILES = {".pt2": "torch.export", ".pt": "TorchScript", ".ts": "TorchScript", ".onnx": "ONNX"}
ONNX_TYPES = {
    "tensor(float16)": torch.float16, "tensor(double)": torch.float64, "tensor(uint8)": torch.uint8,
}  # fmt: skip
MODAL = ("batch_norm", "dropout", "feature_dropout", "alpha_dropout", "native_dropout")
MODES = ("training", "train")  # arguments of torch's operators that say in which mode they are


@dataclass(frozen=True, eq=False)
class Opened:
    """A network of a file: what is called, where it is, and which images it takes.

    at_once: how many images, where it takes no other number; dtype: of the images.
    """

    call: Callable[[Tensor], object]
    sha256: str
    device: torch.device
    at_once: int | None = None
    dtype: torch.dtype = torch.float32


def opened(path: Path, device: torch.device) -> Opened:
    """The network in a file; ONNX is asked on the CPU.

    FileNotFoundError for a file that is not there; ValueError for what is no network, and for one
    that was written in training mode: it would answer by chance, or by the images beside.
    """
    if not path.is_file():
        raise FileNotFoundError(f"answers.file: {path} is not there")
    kind = FILES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(
            f"answers.file: {path.name}; expected {', '.join(FILES)}. A file of weights alone "
            "(.pth, .safetensors) is no network: name what builds it by answers.model"
        )
    read = {"torch.export": _exported, "TorchScript": _scripted, "ONNX": _onnx}[kind]
    try:
        found = read(path, device)
    except ImportError:
        raise ValueError('ONNX files need onnxruntime: pip install "segleak[audit]"') from None
    except _TrainingError:
        raise
    except Exception as error:  # each library has its own
        raise ValueError(
            f"answers.file: {path} cannot be read as {kind} ({type(error).__name__}: {error}). A "
            "file of weights alone is no network: name what builds it by answers.model"
        ) from error
    return found


class _TrainingError(ValueError):
    def __init__(self, path: Path, operator: str) -> None:
        super().__init__(
            f"answers.file: {path} was written in training mode ({operator}): its answers follow "
            "from chance, or from the images beside; call .eval() and write it again"
        )


def _exported(path: Path, device: torch.device) -> Opened:
    program = torch.export.load(path)
    names = set(program.graph_signature.user_inputs)
    n, dtype = None, torch.float32
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is not None:
            said = zip(schema.arguments, node.args, strict=False)
            given = {of.name: value for of, value in said} | node.kwargs
            if any(given.get(mode) is True for mode in MODES):
                raise _TrainingError(path, schema.name)
        if node.op == "placeholder" and node.name in names and "val" in node.meta:
            first, dtype = node.meta["val"].shape[0], node.meta["val"].dtype
            n = first if isinstance(first, int) else None
    # an exported program has no mode to be put in
    call = program.module().to(device).forward
    return Opened(call, sha256(path), device, n, dtype)


def _scripted(path: Path, device: torch.device) -> Opened:
    call: nn.Module = torch.jit.load(path, map_location=device).eval()
    nodes = getattr(call, "inlined_graph", None)
    kinds = MODAL if nodes is not None else ()
    for node in (of for kind in kinds for of in nodes.findAllNodes(f"aten::{kind}")):
        arguments = torch._C.parse_schema(node.schema()).arguments
        for of, value in zip(arguments, node.inputs(), strict=False):
            if of.name in MODES and value.toIValue() is True:  # a traced mode is a constant
                raise _TrainingError(path, node.kind())
    weights = [*call.parameters()]
    if not weights and nodes is not None:  # frozen: they are constants
        weights = [of.output().toIValue() for of in nodes.findAllNodes("prim::Constant")]
    floats = (of.dtype for of in weights if isinstance(of, Tensor) and of.is_floating_point())
    return Opened(call, sha256(path), device, dtype=next(floats, torch.float32))


def _onnx(path: Path, device: torch.device) -> Opened:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    dtype = ONNX_TYPES.get(given.type, torch.float32)

    def call(images: Tensor) -> dict[str, Tensor]:
        found = session.run(None, {given.name: images.cpu().numpy()})
        return dict(zip(names, map(torch.from_numpy, found), strict=True))

    n = given.shape[0] if isinstance(given.shape[0], int) else None
    return Opened(call, _sha256_of_all(path), torch.device("cpu"), n, dtype)


def _sha256_of_all(path: Path) -> str:
    """SHA-256 of an ONNX file, and of the files beside it that its weights are in."""
    # in protobuf: the field "location" of an external tensor, and the length of a file's name
    told = re.finditer(rb"\x0a\x08location\x12([\x01-\x7f])", content := path.read_bytes())
    names = {content[of.end() : of.end() + of[1][0]].decode(errors="replace") for of in told}
    beside = [path.parent / name for name in sorted(names)]
    digests = [sha256(of) for of in (path, *beside) if of.is_file()]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()
