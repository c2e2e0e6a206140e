"""The example folder that the paper's authors published: posteriors without a network.

    examples/{train,val}/{img,label,pred_sgd,pred_dpsgd}/NAME.{png,npy}

``train`` holds members and ``val`` non-members of two victims, one trained by SGD and one by
DP-SGD. What they answered lies in the `.npy` files, so nobody has to run them: `victims.Recorded`
stands in for the victim everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segleak_utils.data.classes import CLASSES, VOID
from segleak_utils.data.imagefiles import Grid, read_labels, read_picture
from segleak_utils.data.scenes import Scenes

Kind = Literal["sgd", "dpsgd"]
KINDS: tuple[Kind, ...] = ("sgd", "dpsgd")
LAYOUT = "{train,val}/{img,label,pred_sgd,pred_dpsgd}/NAME.{png,npy}"
GROUPS = {"train": "members", "val": "non-members"}
SUM_TOLERANCE = 1e-2  # how far from 1 the sum over the classes of a posterior may be
SMALLEST_FLOAT16 = 2.0**-24  # a zero of float16 may be anything below: it costs 16.6 nats
FINER = 8  # labels may be this many times finer than the posteriors: every 8th pixel is taken


@dataclass(frozen=True)
class Examples:
    """The folder's scenes, and for each kind of victim the file that holds its answer on each.

    `files`: kind → path of the `.npy` of each scene, members first; `fingerprint` changes when a
    file does.
    """

    root: Path
    members: Scenes
    nonmembers: Scenes
    files: Mapping[Kind, Sequence[Path]]
    fingerprint: str

    def of(self, kind: Kind) -> Sequence[Path]:
        """The posteriors of one kind; FileNotFoundError where the folder has none."""
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}; expected one of {', '.join(KINDS)}")
        if kind not in self.files:
            raise FileNotFoundError(f"{self.root} has no pred_{kind}; expected {LAYOUT}")
        return self.files[kind]

    def digest(self, kind: Kind) -> str:
        """Hex key of the folder and the victim of that kind."""
        return hashlib.sha256(f"{self.fingerprint} {kind}".encode()).hexdigest()


def read(root: Path | str) -> Examples:
    """Read the folder: images brought to the posteriors' grid, ids ``examples/train/NAME``.

    A posterior is ``NAME.npy`` or ``NAME_train.npy`` (``_val``); a label lies on its grid, or on a
    grid 8 times as fine, of which every 8th pixel is taken. Only the headers of the posteriors are
    read here, their values when they are asked for.
    Raises FileNotFoundError for another layout or a missing partner; ValueError for an unreadable
    file, labels that are no train ids, grids that do not fit, another number of classes, and for
    two images with the same pixels.
    """
    root = Path(root)
    found = {group: _listed(root, group) for group in GROUPS}
    kinds = [k for k in KINDS if any((root / group / f"pred_{k}").is_dir() for group in GROUPS)]
    if not kinds:
        raise FileNotFoundError(f"{root} has neither pred_sgd nor pred_dpsgd; expected {LAYOUT}")
    files = {k: [_prediction(p, k) for pairs in found.values() for p, _ in pairs] for k in kinds}
    parts = [path for pairs in found.values() for pair in pairs for path in pair]
    parts += [path for one in files.values() for path in one]
    stats = [(str(path.relative_to(root)), path.stat()) for path in parts]
    key = repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    fingerprint = hashlib.sha256(key.encode()).hexdigest()
    counts = tuple(len(pairs) for pairs in found.values())
    return _read(root, fingerprint, counts, tuple(parts), tuple(kinds))


@lru_cache(maxsize=4)  # the fingerprint is part of the key: an edited folder is read again
def _read(root, fingerprint, counts, parts, kinds) -> Examples:
    total = sum(counts)
    labels, pictures = parts[: 2 * total : 2], parts[1 : 2 * total : 2]
    files = {k: parts[(2 + i) * total : (3 + i) * total] for i, k in enumerate(kinds)}
    grid = stored(files[kinds[0]][0]).shape[1:]
    with ThreadPoolExecutor() as threads:
        answers = list(zip(*files.values(), strict=True))
        masks = list(threads.map(partial(_label, grid=grid), labels, answers))
        images = list(threads.map(partial(_picture, grid=grid), pictures))
    ids = [f"examples/{path.parent.parent.name}/{path.stem}" for path in labels]
    seen: dict[bytes, str] = {}
    for image, name in zip(images, ids, strict=True):
        twin = seen.setdefault(image.tobytes(), name)
        if twin != name:
            raise ValueError(
                f"{root}: {twin} and {name} have the same pixels; an image is answered once, and "
                "is a member or not. Remove one of them"
            )
    both = Scenes.from_arrays(np.stack(images), np.stack(masks), ids, CLASSES)
    members, nonmembers = both.subset(range(counts[0])), both.subset(range(counts[0], total))
    return Examples(root, members, nonmembers, files, fingerprint)


def _listed(root: Path, group: str) -> list[tuple[Path, Path]]:
    """Label and image of each item of a group, by name."""
    labels, images = root / group / "label", root / group / "img"
    for folder in (labels, images):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected {root}/{LAYOUT}")
    # other systems' hidden files (._NAME.png) come along in archives
    found = sorted(p for p in labels.glob("*.png") if not p.name.startswith("."))
    if not found:
        raise ValueError(f"{labels}: no *.png, so no {GROUPS[group]}; expected {root}/{LAYOUT}")
    for label in found:
        if not (images / label.name).is_file():
            raise FileNotFoundError(f"{images / label.name}: missing, but {label} is there")
    return [(label, images / label.name) for label in found]


def _prediction(label: Path, kind: Kind) -> Path:
    folder, group = label.parent.parent / f"pred_{kind}", label.parent.parent.name
    names = [f"{label.stem}.npy", f"{label.stem}_{group}.npy"]
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(f"{folder}: neither {' nor '.join(names)}, but {label} is there")
    if len(found) > 1:
        raise ValueError(f"{folder}: both {' and '.join(names)}; remove the wrong one")
    return found[0]


def stored(path: Path) -> np.ndarray:
    """A posterior as it is on file, float [19,H,W], mapped and not yet read.

    Raises ValueError for a file that is torn, goes on behind its array, or is no plain array, and
    for another form.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a plain .npy array ({error}); copy it again"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind != "f":
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise ValueError(f"{path} holds {found}; expected a float array [{len(CLASSES)},H,W]")
    if len(array) != len(CLASSES):
        raise ValueError(
            f"{path} has {len(array)} classes, shape {array.shape}; expected [{len(CLASSES)},H,W], "
            "the classes first"
        )
    behind = path.stat().st_size - array.offset - array.nbytes
    if behind:
        raise ValueError(
            f"{path} goes on for {behind} bytes behind its array {array.shape}, expected none: two "
            "files in one, or a header that was changed; save it again"
        )
    return array


def values(path: Path, *, normalise: bool = False) -> Tensor:
    """The posterior on file, float32 [1,19,H,W], as it is; with `normalise` divided by its sum.

    In a file of float16 a zero becomes 2**-24, the smallest number that it can show.
    Raises ValueError for what `stored` refuses, for NaN, infinite or negative values, for a pixel
    without any probability, and, without `normalise`, for sums over the classes that are further
    than 0.01 from 1.
    """
    array = stored(path)
    posterior = torch.from_numpy(np.array(array, dtype=np.float32))[None]
    if not bool(torch.isfinite(posterior).all() and (posterior >= 0).all()):
        raise ValueError(
            f"{path} holds NaN, infinite or negative values; expected posteriors (after softmax)"
        )
    sums = posterior.sum(1, keepdim=True)
    if not bool((sums > 0).all()):
        raise ValueError(f"{path} has a pixel where no class has any probability")
    if normalise:
        posterior /= sums
    elif float((sums - 1).abs().max()) > SUM_TOLERANCE:
        raise ValueError(f"{path}: {_told_by_sums(posterior, sums)}")
    if array.dtype == np.float16:
        posterior.clamp_(min=SMALLEST_FLOAT16)
    return posterior


def _told_by_sums(posterior: Tensor, sums: Tensor) -> str:
    """What posteriors seem to be whose sums over the classes are not 1, and what to do."""
    found = (
        f"the sums over the classes are {float(sums.min()):.3g} to {float(sums.max()):.3g}, "
        "expected 1"
    )
    for axis, name in ((2, "rows"), (3, "columns")):
        if float((posterior.sum(axis) - 1).abs().max()) <= SUM_TOLERANCE:
            return f"{found}, but over the {name} they are 1: apply softmax over the classes, dim 0"
    return (
        f"{found}: save the softmax over the classes, not sigmoids or sums of several answers; if "
        "each pixel only lacks its factor, values(path, normalise=True)"
    )


def _label(path: Path, answers: Sequence[Path], grid: Grid) -> np.ndarray:
    """The label uint8 [H,W] on the posteriors' grid."""
    label = read_labels(path)
    if label.dtype != np.uint8:
        raise ValueError(f"{path}: labels of {label.dtype}, expected 8 bits")
    for answer in answers:
        found = stored(answer).shape[1:]
        finer = tuple(FINER * side for side in found)
        if label.shape not in (found, finer) or found != grid:
            raise ValueError(
                f"{path} is {label.shape[0]}x{label.shape[1]} and {answer} {found[0]}x{found[1]} "
                f"(height x width); expected a posterior of {grid[0]}x{grid[1]}, like the first, "
                f"and a label on the same grid or on one {FINER} times as fine"
                f"{_turned(label, found)}"
            )
    wrong = np.unique(label[(label >= len(CLASSES)) & (label != VOID)])
    if len(wrong):
        raise ValueError(
            f"{path} has labels {', '.join(map(str, wrong[:5]))}; expected Cityscapes train ids "
            f"0..{len(CLASSES) - 1} and {VOID} for void. Are these labelIds? Convert them first"
        )
    label = label if label.shape == grid else label[::FINER, ::FINER]
    if (label == VOID).all():
        raise ValueError(f"{path} has no labelled pixel: all are void")
    return label


def _turned(label: np.ndarray, found: Grid) -> str:
    """A word on a posterior [19,W,H], or nothing."""
    turned = label.shape[::-1] in (found, tuple(FINER * side for side in found))
    return "; height and width of the posterior are exchanged: transpose it" if turned else ""


def _picture(path: Path, grid: Grid) -> np.ndarray:
    """The image uint8 [3,H,W], brought to the posteriors' grid."""
    image = read_picture(path)
    if (image.height, image.width) != tuple(grid):
        image = image.resize(grid[::-1], Image.Resampling.BILINEAR)  # Pillow antialiases
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
