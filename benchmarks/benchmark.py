"""How fast the costly steps are, against the plain way of doing each, on the same inputs.

    python benchmarks/benchmark.py [--only scenes representations labels patches dense resnet]

Every pair is first checked to give the same result, then timed in turns (A B A B ...), so that a
machine that slows down slows both; the table shows medians over the turns. Run it on an idle
machine: torch's threads wait for each other, so a busy core costs them far more than it costs the
plain loops, which use one thread.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from segleak_utils import attacks, representations
from segleak_utils.attacks import patchnets
from segleak_utils.data import CLASSES, to_train_ids
from segleak_utils.data.labels import MAPILLARY_TABLE
from segleak_utils.synthstreets import render_scene

N_CLASSES = len(CLASSES)
MAPILLARY_CLASSES = 66


@dataclass(frozen=True)
class Row:
    """One line of the table: two ways to do the same work, in units a second."""

    step: str
    unit: str
    fast: str
    fast_rate: float
    plain: str
    plain_rate: float


def seconds(*ways: Callable[[], object], repeats: int) -> list[float]:
    """Median seconds of one call of each way, in turns; a turn calls a way for 50 ms or more."""
    taken: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats):
        for way, times in zip(ways, taken, strict=True):
            calls, start = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - start < 0.05:
                way()
                calls += 1
            times.append((time.perf_counter() - start) / calls)
    return [statistics.median(times) for times in taken]


# ---- scenes --------------------------------------------------------------------------------------


def scenes_rows(repeats: int, n_scenes: int) -> list[Row]:
    """Rendering a set from nothing, the start of the worker processes included."""
    from segleak_utils import synthstreets

    def render(workers: int | None) -> torch.Tensor:
        with tempfile.TemporaryDirectory() as root:  # a new one, or the cache would answer
            scenes = synthstreets.draw(
                "harbour", 0, 0, n_scenes, root=root, workers=workers, progress=False
            )
            return torch.stack([scenes[i][0] for i in (0, n_scenes - 1)])

    assert torch.equal(render(None), render(1)), "workers change the pictures"
    all_cores, one = seconds(lambda: render(None), lambda: render(1), repeats=repeats)
    names = (f"{os.cpu_count()} cores", "1 core")
    return [
        Row("render scenes", "scenes/s", names[0], n_scenes / all_cores, names[1], n_scenes / one)
    ]


# ---- representations -----------------------------------------------------------------------------


def posterior_batch(n_images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of rendered scenes, and posteriors that mostly, not always, agree with them."""
    masks = np.stack([render_scene("harbour", 0, i)[1] for i in range(n_images)])
    mask = torch.from_numpy(masks.astype(np.int64))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n_images, N_CLASSES, *mask.shape[1:], generator=generator)
    label = representations.one_hot(mask, N_CLASSES)
    return (2 * noise + 4 * label).softmax(1), mask


def plain_loss_map(posterior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Class by class on whole planes, in the order of steps of the paper's public code."""
    loss = np.zeros((1, *mask.shape), np.float32)
    for label in range(N_CLASSES):
        here = mask == label
        plane = posterior[label] * here
        plane[plane < 1e-30] = 1e-30
        loss[0, here] = -np.log(plane)[here]
    return loss


def plain_masked_loss_map(posterior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Class by class, with everything done under the mask only: a careful port."""
    loss = np.zeros((1, *mask.shape), np.float32)
    for label in range(N_CLASSES):
        here = mask == label
        loss[0, here] = -np.log(np.maximum(posterior[label][here], 1e-30))
    return loss


def plain_argmax(posterior: np.ndarray) -> np.ndarray:
    """Sort the classes of every pixel (as the public code does), then set winners by class."""
    hot = np.zeros_like(posterior)
    winner = np.argsort(posterior, axis=0)[-1]
    for label in range(N_CLASSES):
        hot[label, winner == label] = 1
    return hot


def plain_unsorted_argmax(posterior: np.ndarray) -> np.ndarray:
    """The same with np.argmax instead of a sort: a careful port."""
    hot = np.zeros_like(posterior)
    winner = np.argmax(posterior, axis=0)
    for label in range(N_CLASSES):
        hot[label, winner == label] = 1
    return hot


def plain_concatenation(posterior: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The one-hot half class by class, behind the posterior."""
    hot = np.zeros_like(posterior)
    for label in range(N_CLASSES):
        hot[label, mask == label] = 1
    return np.concatenate([posterior, hot])


def representations_rows(repeats: int, n_images: int) -> list[Row]:
    posterior, mask = posterior_batch(n_images)
    p, y = posterior.numpy(), mask.numpy()
    pairs = list(zip(p, y, strict=True))
    representations.check_posterior(posterior, mask)  # once, so the timed calls need not

    def loss_map(check: bool) -> torch.Tensor:
        return representations.structured_loss_map(posterior, mask, check=check)

    def argmax(check: bool) -> torch.Tensor:
        return representations.argmax_posterior(posterior, check=check)

    def both(check: bool) -> torch.Tensor:
        return representations.concatenation(posterior, mask, check=check)

    all_threads = torch.get_num_threads()

    def on(threads: int, step: Callable[[bool], torch.Tensor], check: bool = False) -> Callable:
        def way() -> torch.Tensor:
            torch.set_num_threads(threads)
            return step(check)

        return way

    plain_ways = [
        ("loss map", loss_map, "loop, whole planes", lambda p, y: plain_loss_map(p, y)),
        ("loss map", loss_map, "loop, masked", lambda p, y: plain_masked_loss_map(p, y)),
        ("argmax", argmax, "loop, argsort", lambda p, y: plain_argmax(p)),
        ("argmax", argmax, "loop, np.argmax", lambda p, y: plain_unsorted_argmax(p)),
        ("concatenation", both, "loop", lambda p, y: plain_concatenation(p, y)),
    ]
    rows = []
    for step, ours, name, one_image in plain_ways:
        expected = np.stack([one_image(*pair) for pair in pairs])
        # The logarithms of the two libraries may differ in the last bit.
        np.testing.assert_allclose(ours(True).numpy(), expected, rtol=1e-5, atol=1e-6)
        ways = {
            f"torch, {all_threads} threads": on(all_threads, ours),
            "torch, 1 thread": on(1, ours),
            f"torch, {all_threads} threads, checks": on(all_threads, ours, check=True),
        }
        loop = partial(lambda f: [f(*pair) for pair in pairs], one_image)
        *taken, looped = seconds(*ways.values(), loop, repeats=repeats)
        torch.set_num_threads(all_threads)
        for way, time_taken in zip(ways, taken, strict=True):
            rates = n_images / time_taken, n_images / looped
            rows.append(Row(step, "images/s", way, rates[0], name, rates[1]))
    return rows


# ---- labels --------------------------------------------------------------------------------------


def plain_conversion(labels: np.ndarray) -> np.ndarray:
    """Class by class on whole planes, in the order of steps of the authors' script."""
    out = np.full(labels.shape, 255, np.uint8)
    for label in range(MAPILLARY_CLASSES):
        out[labels == label] = MAPILLARY_TABLE[label]
    return out


def labels_rows(repeats: int) -> list[Row]:
    """Mapillary's 66 ids to the 19 of Cityscapes, one label of 12 megapixels (3024x4032)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, MAPILLARY_CLASSES, (95, 126), np.uint8)  # regions of 32x32 pixels
    labels = np.kron(labels, np.ones((32, 32), np.uint8))[:3024]
    np.testing.assert_array_equal(to_train_ids(labels, MAPILLARY_TABLE), plain_conversion(labels))
    table, loop = seconds(
        lambda: to_train_ids(labels, MAPILLARY_TABLE),
        lambda: plain_conversion(labels),
        repeats=repeats,
    )
    return [Row("label conversion", "labels/s", "table, checked", 1 / table, "loop", 1 / loop)]


# ---- patches -------------------------------------------------------------------------------------


def patches_rows(repeats: int, n_images: int) -> list[Row]:
    """Scores of the same random patches, in batches and one at a time, by the laptop's network."""
    posterior, mask = posterior_batch(n_images)
    rows = []
    for representation, n_patches in (
        ("loss map + label", 6),
        ("concatenation", 6),
        ("concatenation", 24),
    ):
        torch.manual_seed(0)
        net = patchnets.PatchNet(representation, N_CLASSES)
        net = net.eval().to(memory_format=torch.channels_last)
        score = partial(_score, net, attacks.represent(posterior, mask, representation), n_patches)
        torch.testing.assert_close(score(), score(batched=False), rtol=1e-3, atol=1e-3)
        together, alone = seconds(score, partial(score, batched=False), repeats=repeats)
        work, step = n_images * n_patches, f"{n_patches} patches, {representation}"
        rows.append(Row(step, "patches/s", "batched", work / together, "one by one", work / alone))
    return rows


def dense_rows(repeats: int, n_images: int) -> list[Row]:
    """All windows of the calibrated loss map in one pass, against P random ones in batches.

    No pair for a check: the mean over P comes near the mean over all only for a large P.
    """
    posterior, mask = posterior_batch(n_images)
    labelled = attacks.represent(posterior, mask, "loss map + label")
    maps = torch.cat([labelled[:, :1], labelled[:, :1].roll(1, 0), labelled[:, 1:]], 1)
    torch.manual_seed(0)
    net = patchnets.PatchNet(patchnets.CALIBRATED_MAP, N_CLASSES)
    net = net.eval().to(memory_format=torch.channels_last)
    rows = []
    for n_patches in (6, 50, 500):
        ways = partial(attacks.dense_scores, net, maps, 90), partial(_score, net, maps, n_patches)
        whole, sampled = (n_images / t for t in seconds(*ways, repeats=repeats))
        rows.append(
            Row("calibrated loss map", "images/s", "dense", whole, f"{n_patches} patches", sampled)
        )
    return rows


def resnet_rows(repeats: int, n_images: int, n_patches: int) -> list[Row]:
    """The paper's ResNet-50 on the concatenation: in batches, in bf16, densely; one at a time."""
    maps = attacks.represent(*posterior_batch(n_images), "concatenation")
    torch.manual_seed(0)
    net = patchnets.deep_stem_resnet50(maps.shape[1]).eval().to(memory_format=torch.channels_last)
    few = maps[:2]
    exact = _score(net, few, 2)
    torch.testing.assert_close(exact, _score(net, few, 2, batched=False), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(exact, _score(net, few, 2, mixed=True), rtol=5e-2, atol=5e-2)
    work = n_images * n_patches
    ways = {
        "batched": partial(_score, net, maps, n_patches),
        "batched, bf16": partial(_score, net, maps, n_patches, mixed=True),
        "dense": partial(attacks.dense_scores, net, maps, 90),
        "dense, bf16": partial(attacks.dense_scores, net, maps, 90, mixed=True),
    }
    plain = {
        "one by one": partial(_score, net, maps, n_patches, batched=False),
        "one by one, as published": partial(_as_published, net, maps, n_patches),
    }
    taken = seconds(*ways.values(), *plain.values(), repeats=repeats)
    rates = dict(zip([*ways, *plain], (work / t for t in taken), strict=True))
    step = f"{n_images} x {n_patches} patches, ResNet-50"
    return [
        Row(step, "patches/s", way, rates[way], slow, rates[slow]) for slow in plain for way in ways
    ]


def _score(net: torch.nn.Module, maps: torch.Tensor, n_patches: int, **how: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return attacks.patch_scores(net, maps, n_patches, 90, generator, **how)


def _as_published(net: torch.nn.Module, maps: torch.Tensor, n_patches: int) -> torch.Tensor:
    """One patch at a time and with a graph for gradients, as the authors' script has it."""
    corners = attacks.patch_corners(
        len(maps), n_patches, maps.shape[-2:], 90, torch.Generator().manual_seed(0)
    )
    return torch.stack(
        [
            sum(net(one[None, :, r : r + 90, c : c + 90]).detach() for r, c in own.tolist())
            for one, own in zip(maps.contiguous(), corners, strict=True)
        ]
    )


# ---- table ---------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    head = ("step", "unit", "fast way", "rate", "plain way", "rate", "ratio")
    cells = [
        (
            row.step,
            row.unit,
            row.fast,
            f"{row.fast_rate:,.0f}",
            row.plain,
            f"{row.plain_rate:,.0f}",
            f"{row.fast_rate / row.plain_rate:.1f}x",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if name in ("rate", "ratio") else text.ljust(width)
            for text, width, name in zip(line, widths, head, strict=True)
        )
        for line in (head, tuple("-" * width for width in widths), *cells)
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = ("scenes", "representations", "labels", "patches", "dense", "resnet")
    parser.add_argument("--only", nargs="+", choices=steps, default=steps)
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each way")
    parser.add_argument("--scenes", type=int, default=120, help="scenes to render in a turn")
    parser.add_argument("--images", type=int, default=8, help="images in a batch")
    arguments = parser.parse_args()

    print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads, Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}; "
        f"{N_CLASSES} x 128 x 256, {arguments.images} images a batch; median of "
        f"{arguments.repeats} turns\n"
    )
    rows = []
    if "scenes" in arguments.only:
        rows += scenes_rows(arguments.repeats, arguments.scenes)
    if "representations" in arguments.only:
        rows += representations_rows(arguments.repeats, arguments.images)
    if "labels" in arguments.only:
        rows += labels_rows(arguments.repeats)
    if "patches" in arguments.only:
        rows += patches_rows(arguments.repeats, arguments.images)
    if "dense" in arguments.only:
        rows += dense_rows(arguments.repeats, arguments.images)
    if "resnet" in arguments.only:
        rows += resnet_rows(min(arguments.repeats, 2), 20, 50)
    print(table(rows))


if __name__ == "__main__":
    main()
