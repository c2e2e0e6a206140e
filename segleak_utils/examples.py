"""The example folder that the paper's authors published: posteriors without a network.

    examples/{train,val}/{img,label,pred_sgd,pred_dpsgd}/NAME.{png,npy}

``train`` holds members and ``val`` non-members of two victims, one trained by SGD and one by
DP-SGD. What they answered lies in the `.npy` files, so nobody has to run them: `Recorded` stands in
for the victim everywhere. The public attackers are scored as the published script scores them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.std import tqdm

from segleak_utils import attacks, defenses, metrics, patchnets, representations
from segleak_utils.attacks import Outputs
from segleak_utils.data import CLASSES, VOID, Grid, Scenes
from segleak_utils.patchnets import Representation
from segleak_utils.victims import best_device

Kind = Literal["sgd", "dpsgd"]
KINDS: tuple[Kind, ...] = ("sgd", "dpsgd")
LAYOUT = "{train,val}/{img,label,pred_sgd,pred_dpsgd}/NAME.{png,npy}"
GROUPS = {"train": "members", "val": "non-members"}
FINER = 8  # labels may be this many times finer than the posteriors: every 8th pixel is taken
PATCH = 90
# The checkpoints' names, and what their networks look at.
ATTACKERS: dict[Representation, str] = {
    "loss map": "loss.pth.tar",
    "concatenation": "concate.pth.tar",
}


# ------------------------------------------------------------------------------------ the folder


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

    def victim(self, kind: Kind) -> Recorded:
        """The victim of that kind, as far as it has been recorded."""
        files = self.of(kind)
        images = (one[0] for scenes in (self.members, self.nonmembers) for one in scenes)
        return Recorded(dict(zip(map(content, images), files, strict=True)))


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

    Raises ValueError for a file that is torn or no plain array, and for another form.
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
    return array


def values(path: Path) -> Tensor:
    """The posterior on file, float32 [1,19,H,W], as it is: not divided by its sum.

    Raises ValueError for what `stored` refuses, for NaN, infinite or negative values, and for a
    pixel without any probability.
    """
    posterior = torch.from_numpy(np.array(stored(path), dtype=np.float32))[None]
    if not bool(torch.isfinite(posterior).all() and (posterior >= 0).all()):
        raise ValueError(
            f"{path} holds NaN, infinite or negative values; expected posteriors (after softmax)"
        )
    if not bool((posterior.sum(1) > 0).all()):
        raise ValueError(f"{path} has a pixel where no class has any probability")
    return posterior


def _label(path: Path, answers: Sequence[Path], grid: Grid) -> np.ndarray:
    """The label uint8 [H,W] on the posteriors' grid."""
    with _opened(path) as file:
        if file.mode not in ("L", "P"):
            raise ValueError(f"{path}: pixel mode {file.mode}, expected one channel of labels")
        label = np.array(file)
    for answer in answers:
        found = stored(answer).shape[1:]
        finer = tuple(FINER * side for side in found)
        if label.shape not in (found, finer) or found != grid:
            raise ValueError(
                f"{path} is {label.shape[0]}x{label.shape[1]} and {answer} {found[0]}x{found[1]} "
                f"(height x width); expected a posterior of {grid[0]}x{grid[1]}, like the first, "
                f"and a label on the same grid or on one {FINER} times as fine"
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


def _picture(path: Path, grid: Grid) -> np.ndarray:
    """The image uint8 [3,H,W], brought to the posteriors' grid."""
    with _opened(path) as file:
        image = file.convert("RGB")
    if (image.height, image.width) != tuple(grid):
        image = image.resize(grid[::-1], Image.Resampling.BILINEAR)  # Pillow antialiases
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _opened(path: Path) -> Image.Image:
    try:
        file = Image.open(path)
        file.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    return file


# ------------------------------------------------------------------------------------ the victim


def content(image: Tensor) -> bytes:
    """What an image float32 [3,H,W] is recognised by."""
    return hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).digest()


class Recorded(nn.Module):
    """A victim that answers with what is on file: images [N,3,H,W] → log-posteriors [N,19,H,W].

    It knows the images of its folder, pixel by pixel as their `Scenes` give them; for any other
    ValueError. The answers stay on disk until they are asked for. Their softmax is the posterior on
    file, divided by its sum.
    """

    def __init__(self, files: Mapping[bytes, Path]) -> None:
        super().__init__()
        self.files = dict(files)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.answer(image) for image in images]).to(images.device)

    def answer(self, image: Tensor) -> Tensor:
        """Log-posterior float32 [1,19,H,W] of one image."""
        path = self.files.get(content(image))
        if path is None:
            raise ValueError(
                f"no answer is on file for this image {tuple(image.shape)}: a recorded victim "
                f"knows only the {len(self.files)} images of its folder, unchanged"
            )
        posterior = values(path)
        posterior /= posterior.sum(1, keepdim=True)
        return posterior.clamp(min=representations.SMALLEST_PROBABILITY).log()


def outputs(
    root: Path | str, kind: Kind, release: Callable[[Tensor], Tensor] | None = None
) -> Outputs:
    """What one of the folder's victims gave away, with posteriors (float16, as everywhere).

    `release` is a defence that they pass through. Raises what `read` raises.
    """
    of = read(root)
    return attacks.outputs(
        of.victim(kind), of.members, of.nonmembers, keep_posteriors=True, release=release
    )


# ------------------------------------------------------------------------- the public attackers


def public_attackers(folder: Path | str) -> dict[Representation, Path]:
    """The published checkpoints in a folder, by what they look at; at least one must be there."""
    found = {r: Path(folder) / name for r, name in ATTACKERS.items()}
    found = {r: path for r, path in found.items() if path.is_file()}
    if not found:
        names = " nor ".join(ATTACKERS.values())
        raise FileNotFoundError(f"{folder} holds neither {names}: no published attacker")
    return found


def load_attacker(path: Path | str, representation: Representation, dilated: bool) -> nn.Module:
    """A published attacker, which must look at that representation; ValueError otherwise."""
    if representation not in ATTACKERS:
        known = ", ".join(ATTACKERS)
        raise ValueError(f"representation {representation!r}; the published attackers: {known}")
    net = patchnets.load_public_attacker(path, dilated)
    found = net.conv1[0].in_channels
    expected = patchnets.channels(representation, len(CLASSES))
    if found != expected:
        raise ValueError(f"{path} has {found} input channels; the {representation} has {expected}")
    return net.to(best_device(), memory_format=torch.channels_last)


@torch.inference_mode()
def published_scores(
    root: Path | str,
    attacker: Path | str,
    representation: Representation,
    *,
    kind: Kind = "sgd",
    n_patches: int = 6,
    argmax: bool = False,
    gaussian_std: float = 0.0,
    dilated: bool = False,
    seed: int = 0,
    progress: str | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Score the folder's images with a published attacker, step by step as the published script.

    A posterior gets its noise and is clamped at 1e-6 (`gaussian_std`), is divided by its sum, and
    cut to its argmax; a loss map is divided by 50 after argmax, a concatenation never is. Then
    random patches of 90x90, all of an image at once. (The script's corners leave out the last row
    and column; ours are uniform over all.)
    Returns ({"logit1": float64 [N], "margin": float64 [N]}, member bool [N]): the mean over the
    patches of the member logit alone, by which the script ranks, and of the difference of the two.
    Raises ValueError for argmax and noise at once, which the script refuses too.
    """
    if not 1 <= n_patches <= 1000 or not 0 <= gaussian_std <= 1000 or seed < 0:
        raise ValueError(
            f"n_patches {n_patches}, gaussian_std {gaussian_std}, seed {seed}: expected 1..1000 "
            "patches, a deviation of 0..1000, and a seed of 0 or more"
        )
    if argmax and gaussian_std:
        raise ValueError("argmax and Gaussian noise at once: the published script has either")
    of, net = read(root), load_attacker(attacker, representation, dilated)
    scenes, files = of.members + of.nonmembers, of.of(kind)
    draws = torch.Generator().manual_seed(seed)
    noise = torch.Generator().manual_seed(seed + 1)  # its own: patches are alike with and without
    corners = attacks.patch_corners(len(scenes), n_patches, scenes.shape, PATCH, draws)
    logits = []
    items = zip(scenes, files, corners, strict=True)
    told = {"desc": progress, "unit": "image", "disable": not progress, "mininterval": 2}
    for (_, mask), path, own in tqdm(items, total=len(scenes), **told):
        posterior = defenses.gaussian_noise(values(path), gaussian_std, noise, check=False)
        posterior = posterior / posterior.sum(1, keepdim=True)
        maps = published_maps(posterior, mask[None], representation, argmax=argmax)
        patches = attacks.crop(maps, own[None], PATCH).contiguous(memory_format=torch.channels_last)
        parts = [net(part.to(best_device())).float().cpu() for part in patches.split(8)]
        logits.append(torch.cat(parts).double().mean(0))
    mean = torch.stack(logits)
    scores = {"logit1": mean[:, 1].numpy(), "margin": (mean[:, 1] - mean[:, 0]).numpy()}
    return scores, np.arange(len(scenes)) < len(of.members)


def published_maps(
    posterior: Tensor, masks: Tensor, representation: Representation, *, argmax: bool = False
) -> Tensor:
    """The input of a published attacker, float [N,1 or 38,H,W], for posteriors [N,19,H,W]."""
    if not argmax:
        return attacks.represent(posterior, masks, representation)
    posterior = representations.argmax_posterior(posterior, check=False)
    maps = attacks.represent(posterior, masks, representation)
    return maps * representations.LOSS_SCALE if representation == "loss map" else maps


HEAD = (
    "| victim | release | attacker | score | AUC | TPR at 1 % FPR | members / non-members |",
    "|---|---|---|---|---|---|---|",
)


def table(
    root: Path | str,
    attackers: Path | str,
    *,
    only: Sequence[Representation] = tuple(ATTACKERS),
    kind: Kind = "sgd",
    n_patches: int = 6,
    argmax: bool = False,
    gaussian_std: float = 0.0,
    dilated: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> str:
    """The published attackers in a folder `attackers` on the example folder, as Markdown.

    AUC on the member logit, as published, and on the margin, with n and 95 % intervals; the TPR at
    1 % FPR where there are 100 non-members for it. `only` names the representations wanted.
    """
    options = {"kind": kind, "argmax": argmax, "gaussian_std": gaussian_std}
    lines = _lines(root, attackers, only, n_patches, dilated, seed, progress, **options)
    return "\n".join([*HEAD, *lines, "", NO_BLIND])


def tables(
    root: Path | str,
    attackers: Path | str,
    *,
    n_patches: int = 6,
    gaussian_std: float = 0.1,
    dilated: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> str:
    """The `table` for each option of the published script: none, argmax, noise, and DP-SGD."""
    options = ({}, {"argmax": True}, {"gaussian_std": gaussian_std}, {"kind": "dpsgd"})
    only, lines = tuple(ATTACKERS), []
    for option in options:
        lines += _lines(root, attackers, only, n_patches, dilated, seed, progress, **option)
    return "\n".join([*HEAD, *lines, "", NO_BLIND])


def _lines(root, attackers, only, n_patches, dilated, seed, progress, **options) -> list[str]:
    found = {r: path for r, path in public_attackers(attackers).items() if r in only}
    if not found:
        wanted = ", ".join(f"{r} ({ATTACKERS.get(r, 'unknown')})" for r in only)
        raise FileNotFoundError(f"{attackers} has no attacker on {wanted}")
    std, victim = options.get("gaussian_std"), options.get("kind", "sgd")
    release = "argmax" if options.get("argmax") else f"noise {std:g}" if std else "none"
    names = {"logit1": "member logit, as published", "margin": "margin of the logits"}
    lines = []
    for r, path in found.items():
        scores, member = published_scores(
            root, path, r, n_patches=n_patches, dilated=dilated, seed=seed,
            progress=f"{path.name}, {victim}" * progress, **options,
        )  # fmt: skip
        for name, told in names.items():
            area, tpr = metrics.auc(scores[name], member), "-"
            if area.n_nonmembers >= 100:
                tpr = f"{metrics.tpr_at_fpr(scores[name], member, 0.01):.3}"
            of = {"sgd": "SGD", "dpsgd": "DP-SGD"}[victim]
            n = f"{area.n_members} / {area.n_nonmembers}"
            lines.append(f"| {of} | {release} | {r} | {told} | {area:.3} | {tpr} | {n} |")
    return lines


def note(shadows: str) -> str:
    """What a reader must know where the examples' victims meet drawn shadows; Markdown."""
    return (
        "**This run attacks the paper's example folder.** Its victims are known by what they "
        "answered: `examples-sgd` and `examples-dpsgd` stand where the text has the first and the "
        f"second victim. The folder has no shadows, so those are ours, of {shadows}: nothing was "
        "ever photographed there. That is a hard *independent* setting, whatever `setting` says. "
        "Read the blind baseline first: if its interval misses .5, members and non-members differ "
        "by themselves. And the text between the figures was written for the drawn city; where it "
        "names a class, a number of images or an order, go by the figures."
    )


NO_BLIND = (
    "There is no shadow data in this folder: no blind baseline can be learned from it, so nothing "
    "here shows that members and non-members do not differ by themselves."
)
