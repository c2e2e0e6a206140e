"""A stand-in for the authors' example folder and their checkpoints, in their layout.

The images are SynthStreets scenes; the posteriors are those of shipped victims, of which the
members are members. `fake` is quicker: noise for images, and posteriors drawn at random.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from segleak_utils import data, studies, victims
from segleak_utils.attacks.patchnets import deep_stem_resnet50
from segleak_utils.studies import experiment, protected

GRID = (128, 256)
VICTIMS = {"sgd": "", "dpsgd": "tuned-12"}  # variants of victim-0
KINDS = ("sgd", "dpsgd")


def make(
    root: Path,
    n: int = 12,
    kinds: tuple[str, ...] = KINDS,
    label_scale: int = 1,
    seed: int = 0,
    *,
    drawn: Path | None = None,
) -> Path:
    """The folder with `n` members and `n` non-members of the shipped victims; returns `root`.

    `label_scale` 8: labels and images of 1024x2048. `seed` chooses the scenes, drawn in `drawn`.
    """
    plan = studies.Plan(data_root=drawn or root.parent / "drawn", progress=False)
    whole = experiment.split(plan, "dependent")
    rng = np.random.default_rng(seed)
    for group, scenes in (("train", whole.victim_members), ("val", whole.victim_nonmembers)):
        chosen = scenes.subset(rng.permutation(len(scenes))[:n])
        answers = {}
        for kind in kinds:
            variant = VICTIMS[kind]
            of = (
                protected.network(plan, "victim-0", variant)
                if variant
                else experiment.network(plan, "victim-0")
            )
            found = [p for p, _ in victims.posterior_batches(of.model, chosen)]
            answers[kind] = torch.cat(found).numpy()
        for i, (image, mask) in enumerate(chosen):
            pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
            posteriors = {kind: answer[i] for kind, answer in answers.items()}
            write(
                root, group, f"scene_{i:03d}", pixels, mask.byte().numpy(), posteriors, label_scale
            )
    return root


def fake(
    root: Path,
    n: int = 3,
    kinds: tuple[str, ...] = KINDS,
    label_scale: int = 1,
    seed: int = 0,
    grid: tuple[int, int] = GRID,
    suffix: bool = False,
) -> Path:
    """The folder with random content: blocks of labels, posteriors that mostly favour them."""
    rng = np.random.default_rng(seed)
    for group in ("train", "val"):
        for i in range(n):
            blocks = rng.integers(0, len(data.CLASSES), (grid[0] // 8, grid[1] // 8))
            label = np.kron(blocks, np.ones((8, 8))).astype(np.uint8)
            label[:5] = data.VOID
            pixels = rng.integers(0, 256, (*grid, 3), dtype=np.uint8)
            answers = {}
            for kind in kinds:
                logits = rng.normal(size=(len(data.CLASSES), *grid))
                hot = label[None] == np.arange(len(data.CLASSES))[:, None, None]
                weight = np.exp(logits + 4 * hot * (rng.random(grid) < 0.8))
                answers[kind] = (weight / weight.sum(0)).astype(np.float32)
            name = f"{group}{i}"
            write(root, group, name, pixels, label, answers, label_scale, suffix=suffix)
    return root


def write(
    root: Path,
    group: str,
    name: str,
    pixels: np.ndarray,
    label: np.ndarray,
    posteriors: dict[str, np.ndarray],
    label_scale: int = 1,
    *,
    suffix: bool = False,
) -> None:
    """One item of the folder; with `suffix` the posteriors are called ``NAME_train.npy``."""
    if label_scale > 1:
        label, pixels = (a.repeat(label_scale, 0).repeat(label_scale, 1) for a in (label, pixels))
        label[label_scale // 2 :: label_scale] = data.VOID  # whoever takes other rows finds out
    folder = root / group
    for part in ("img", "label", *(f"pred_{kind}" for kind in posteriors)):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / "img" / f"{name}.png", compress_level=1)
    Image.fromarray(label).save(folder / "label" / f"{name}.png")
    for kind, posterior in posteriors.items():
        end = f"_{group}" if suffix else ""
        np.save(folder / f"pred_{kind}" / f"{name}{end}.npy", posterior)


def public_checkpoint(
    path: Path, channels: int, dilated: bool = False, module: bool = False, seed: int = 0
) -> Path:
    """A checkpoint of the public key layout with random weights; returns `path`."""
    state = random_network(channels, dilated=dilated, seed=seed).state_dict()
    prefix = "module." if module else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "state_dict": {prefix + k: v for k, v in state.items()}}, path)
    return path


def random_network(channels: int, *, dilated: bool = False, seed: int = 0) -> nn.Module:
    """The published network, untrained, whose logits differ from patch to patch.

    With BatchNorm as it is made, an untrained network says nearly the same of everything: so the
    statistics are those of some random patches, moved a little.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = deep_stem_resnet50(channels, dilated=dilated)
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # the plain mean over the batches
            nn.init.uniform_(norm.weight, 0.5, 1)
            nn.init.uniform_(norm.bias, -0.2, 0.2)
        net.train()(torch.rand(2, channels, 90, 90).pow(4) * 3)
        for norm in norms:
            norm.running_mean += 0.1 * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
    return net.eval()
