"""What an audit costs beside the network that it asks: seconds an image, and memory.

    python benchmarks/audit.py [--images 1000] [--resnet 16]

Pictures of 512x1024 with 19 classes are generated (20 of them, each under many names), and two
networks are asked about them on one core, with all releases: a cheap one about all of them, in a
process of its own whose memory is measured, and a ResNet-50 segmentation network (torchvision's
`fcn_resnet50`, random weights) about a few. The overhead is all time that is not the network's own
forward pass, divided by the ResNet-50's. `backbone` is the least such a network may be: a ResNet-50
that is not dilated, and one convolution. Seconds are those that the core worked.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segleak_utils.audit.asking import ask
from segleak_utils.audit.config import Answers, Data, Pairs
from segleak_utils.audit.looks import look
from segleak_utils.audit.networks import network
from segleak_utils.audit.pictures import Picture, listed
from segleak_utils.audit.pixels import Reader
from segleak_utils.audit.releases import tried

N_CLASSES, SIZE, DISTINCT = 19, (512, 1024), 20
NETWORKS = ("cheap", "fcn_resnet50", "backbone")


class Cheap(nn.Module):
    """A 1x1 convolution: next to no time, and answers of full size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, N_CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return 4 * self.layer(images)


class Backbone(nn.Module):
    """A plain ResNet-50, not dilated, and one convolution: as little as such a network may do."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import resnet50

        self.layers = nn.Sequential(*[*resnet50(weights=None).children()][:-2])
        self.head = nn.Conv2d(2048, N_CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(images))


class Timed(nn.Module):
    """A network that counts the seconds of its forward passes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seconds = inner, 0.0

    def forward(self, images: Tensor) -> object:
        begun = time.process_time()
        found = self.inner(images)
        self.seconds += time.process_time() - begun
        return found


def built(name: str) -> nn.Module:
    """One of `NETWORKS`, with random weights."""
    torch.manual_seed(0)
    if name == "fcn_resnet50":
        from torchvision.models.segmentation import fcn_resnet50

        return fcn_resnet50(weights=None, weights_backbone=None, num_classes=N_CLASSES)
    return Cheap() if name == "cheap" else Backbone()


def write_pictures(root: Path, n: int) -> Data:
    """Half of n pictures in each of two lists: smooth and noisy, PNG; masks of patches."""
    rng = np.random.default_rng(0)
    for i in range(n):
        part = root / ("members" if i % 2 else "nonmembers")
        for kind in ("images", "masks"):
            (part / kind).mkdir(parents=True, exist_ok=True)
            path, first = part / kind / f"{i:06}.png", root / f"{kind}{i % DISTINCT}.png"
            if not first.exists():
                _drawn(rng, kind).save(first)
            os.link(first, path)
    pairs = {
        name: Pairs(images=root / name / "images", masks=root / name / "masks")
        for name in ("members", "nonmembers")
    }
    return Data(n_classes=N_CLASSES, **pairs)


def _drawn(rng: np.random.Generator, kind: str) -> Image.Image:
    size = SIZE[::-1]
    if kind == "masks":
        ids = rng.integers(0, N_CLASSES + 1, (16, 32)).astype(np.uint8)
        ids[ids == N_CLASSES] = 255
        return Image.fromarray(ids).resize(size, Image.Resampling.NEAREST)
    coarse = Image.fromarray(rng.integers(0, 256, (32, 64, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32)
    noisy = smooth + rng.normal(0, 3, smooth.shape)  # as a camera's: a PNG of 1 MB
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def measured(
    name: str, pictures: list[Picture], data: Data, folder: Path, batch: int, releases: bool
) -> dict[str, float]:
    """Seconds an image of looking, asking and the forward passes in it; peak memory in MB."""
    torch.set_num_threads(1)
    reader, timed = Reader(data), Timed(built(name))
    of = network(Answers(returns="logits", device="cpu"), N_CLASSES, model=timed)
    own = tried(N_CLASSES) if releases else ()
    begun = time.process_time()
    look(pictures, reader, folder)
    looked = time.process_time()
    ask(of, pictures, reader, folder, releases=own, grid=data.grid, batch=batch)
    asked = time.process_time()
    forward = timed.seconds
    look(pictures, reader, folder)
    ask(of, pictures, reader, folder, releases=own, grid=data.grid, batch=batch)
    n = len(pictures)
    return {
        "n": n,
        "looking": (looked - begun) / n,
        "asking": (asked - looked - forward) / n,
        "forward": forward / n,
        "second run": (time.process_time() - asked) / n,
        "asked again": timed.seconds - forward,
        "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "MB on disk": sum(path.stat().st_size for path in folder.rglob("*.npz")) / 1e6,
    }


def in_own_process(name: str, n: int, batch: int, releases: bool) -> dict[str, float]:
    """`measured` of n pictures in a process of its own, on one core."""
    told = ["--child", name, "--images", str(n), "--batch", str(batch)]
    command = [sys.executable, __file__, *told, *(() if releases else ("--plain",))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument(
        "--resnet", type=int, default=16, help="pictures a ResNet-50 is asked about"
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--child", choices=NETWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            data = write_pictures(root, options.images)
            told = options.batch, not options.plain
            found = measured(options.child, listed(data), data, root / "kept", *told)
        print(json.dumps(found))
        return
    few = max(16, options.images // 10)
    rows = [
        ("cheap", few, True), ("cheap", options.images, True), ("cheap", few, False),
        ("backbone", options.resnet, True), ("fcn_resnet50", options.resnet, True),
    ]  # fmt: skip
    print("| network | images | releases | looking | asking | forward | overhead | memory | disk |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, n, releases in rows:
        of = in_own_process(name, n, options.batch, releases)
        if of["asked again"]:
            raise AssertionError(f"{name} was asked again in a second run")
        share = (of["looking"] + of["asking"]) / of["forward"]
        overhead = "" if name == "cheap" else f"{share:.1%}"
        print(
            f"| {name} | {n} | {'6' if releases else 'none'} | {of['looking']:.3f} s "
            f"| {of['asking']:.3f} s | {of['forward']:.3f} s | {overhead} | {of['MB']:.0f} MB "
            f"| {of['MB on disk']:.1f} MB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
