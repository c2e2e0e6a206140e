"""Miniature data trees in the true layout and file names of Cityscapes, BDD100K and Mapillary.

The pictures are drawn from the seed: a few big regions in the colour of their class, plus noise.
"""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
from PIL import Image

from segleak_utils.data import PALETTE

# The ids of the 19 classes in each data set, written down again so that tests compare two lists.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
MAPILLARY_IDS = (
    (13, 41, 24), (15, 2), (17,), (6,), (3,), (45, 47), (48,), (50,), (30,), (29,),
    (27,), (19,), (20, 21, 22), (55,), (61,), (54,), (58,), (57,), (52,),
)  # fmt: skip
CITIES = {"train": ("aachen", "bochum", "zurich"), "val": ("frankfurt", "lindau")}


def scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and mask uint8 [H, W] of train ids: 6 to 8 classes and some void."""
    height, width = size
    mask = np.zeros(size, np.uint8)  # road
    horizon, kerb = (int(height * rng.uniform(*span)) for span in ((0.3, 0.5), (0.6, 0.75)))
    mask[:kerb] = 1  # pavement
    mask[:horizon] = 10  # sky
    for left in range(0, width, max(width // 4, 1)):
        top, block = rng.integers(0, horizon), (2, 8)[rng.integers(2)]  # building, vegetation
        mask[top:kerb, left : left + max(width // 4, 1)] = block
    for thing in (13, 11, rng.integers(3, 19)):  # car, person, anything
        left, wide = rng.integers(0, width), rng.integers(2, max(width // 4, 3))
        mask[horizon : kerb + 2, left : left + wide] = thing
    mask[-1] = 255
    colour = np.vstack([PALETTE, np.zeros((237, 3), np.uint8)])[mask]
    image = np.clip(colour + rng.normal(0, 20, colour.shape), 0, 255)
    return image.astype(np.uint8), mask


def save(path: Path, array: np.ndarray, palette: bool = False) -> Path:
    """Write an image file, its folder too; with `palette` as mode P."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array)
    if palette:
        picture.putpalette(np.arange(768) % 256)
    picture.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def cityscapes_tree(
    root: Path, n_train: int, n_val: int, size: tuple[int, int] = (16, 32), seed: int = 0
) -> Path:
    """`leftImg8bit/` and `gtFine/` with labelIds, the colour labels and polygons beside them."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", n_train), ("val", n_val)):
        for i in range(count):
            city = CITIES[split][i * len(CITIES[split]) // count]
            image, mask = scene(rng, size)
            name = f"{city}_{i:06d}_000019"
            label = root / "gtFine" / split / city / f"{name}_gtFine"
            save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
            label_ids = np.where(mask == 255, rng.choice([0, 1, 4, 9, 29]), 0).astype(np.uint8)
            for train_id, label_id in enumerate(CITYSCAPES_IDS):
                label_ids[mask == train_id] = label_id
            save(label.with_name(f"{label.name}_labelIds.png"), label_ids)
            save(label.with_name(f"{label.name}_color.png"), image)
            label.with_name(f"{label.name}_polygons.json").write_text("{}")
    return root


def bdd100k_tree(
    root: Path,
    n_train: int,
    n_val: int,
    size: tuple[int, int] = (16, 32),
    seed: int = 0,
    layout: str = "seg",
) -> Path:
    """The layout with `seg/images`, or "10k": `images/10k` and `labels/sem_seg/masks`."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", n_train), ("val", n_val)):
        for _ in range(count):
            image, mask = scene(rng, size)
            name = "-".join(rng.bytes(4).hex() for _ in range(2))
            if layout == "seg":
                save(root / "seg" / "images" / split / f"{name}.jpg", image)
                save(root / "seg" / "labels" / split / f"{name}_train_id.png", mask)
            else:
                save(root / "images" / "10k" / split / f"{name}.jpg", image)
                save(root / "labels" / "sem_seg" / "masks" / split / f"{name}.png", mask)
    return root


def mapillary_tree(
    root: Path,
    n_training: int,
    n_validation: int,
    size: tuple[int, int] = (16, 32),
    seed: int = 0,
    converted: bool = False,
) -> Path:
    """Vistas v1.2, images of several sizes, ids 0..65; with `cityscapes_labels` if `converted`."""
    rng = np.random.default_rng(seed)
    letters = np.array(list(string.ascii_letters + string.digits + "-_"))
    for split, count in (("training", n_training), ("validation", n_validation)):
        for i in range(count):
            image, mask = scene(rng, (size[0] + 4 * (i % 2), size[1] + 8 * (i % 2)))
            name = "".join(rng.choice(letters, 22))
            labels = np.full(mask.shape, rng.choice([0, 1, 63, 65]), np.uint8)
            for train_id, ids in enumerate(MAPILLARY_IDS):
                at = mask == train_id
                labels[at] = rng.choice(ids, at.sum())
            save(root / split / "images" / f"{name}.jpg", image)
            save(root / split / "labels" / f"{name}.png", labels, palette=True)
            if converted:
                save(root / split / "cityscapes_labels" / f"{name}.png", mask)
    return root
