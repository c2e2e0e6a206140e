"""The published attackers on the authors' example folder, scored as the published script does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.std import tqdm

from segleak_utils import attacks, defenses, metrics, representations
from segleak_utils.attacks import Outputs, patchnets
from segleak_utils.attacks.patchnets import Representation
from segleak_utils.data import CLASSES
from segleak_utils.data.examples import Kind, read, values
from segleak_utils.victims import best_device, recorded

PATCH = 90
# The checkpoints' names, and what their networks look at.
ATTACKERS: dict[Representation, str] = {
    "loss map": "loss.pth.tar",
    "concatenation": "concate.pth.tar",
}


def outputs(
    root: Path | str, kind: Kind, release: Callable[[Tensor], Tensor] | None = None
) -> Outputs:
    """What one of the folder's victims gave away, with posteriors (float16, as everywhere).

    `release` is a defence that they pass through. Raises what `read` raises.
    """
    of = read(root)
    return attacks.ask(
        recorded(of, kind), of.members, of.nonmembers, keep_posteriors=True, release=release
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
    "| victim | release | attacker | score | AUC | TPR at 1 % FPR | precision at 50 / 10 / 1 % "
    "| members / non-members |",
    "|---|---|---|---|---|---|---|---|",
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
    1 % FPR, and its precision, where there are 100 non-members for it. `only` names the
    representations wanted.
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
            area = metrics.auc(scores[name], member)
            of = {"sgd": "SGD", "dpsgd": "DP-SGD"}[victim]
            cells = [of, release, r, told, f"{area:.3}"]
            cells += metrics.tpr_cells(scores[name], member, 0.01)
            cells += [f"{area.n_members} / {area.n_nonmembers}"]
            lines.append(f"| {' | '.join(cells)} |")
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
