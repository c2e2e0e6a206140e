"""What a network answered, on disk: posteriors on a coarse grid, written in a stream, read lazily.

A store is a folder of safetensors files (shards) of a few images each, with ``posterior`` float16
[n,C,h,w], ``loss`` float16 [n,1,h,w] (the structured loss map, from the float32 posterior) and
``mask`` uint8 [n,h,w], and a ``store.json`` that says whose answers these are. A shard is written
whole or not at all, so an interrupted run goes on where it stopped. It says whose it is, which of
them, and what its tensors come to, and is checked by that before it is used. Neither writing nor
reading ever holds more posteriors than one shard or the rows asked for.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.std import tqdm

from segleak_utils import representations
from segleak_utils.data import Scenes
from segleak_utils.whole import checksum, replace_file

STRIDE = 8  # the paper's grid: every eighth pixel of every eighth row
SHARD = 32  # images a file: 40 MB of 19 classes on 128x256


@dataclass(frozen=True)
class Store:
    """A finished store; `n` images of `n_classes` classes on the grid `shape` = (h, w)."""

    folder: Path
    n: int
    n_classes: int
    shape: tuple[int, int]
    shard: int
    identity: str

    @classmethod
    def open(cls, folder: Path) -> Store:
        """FileNotFoundError: no store, or shards missing; ValueError: damaged, or mixed up.

        The shards' values are checked when they are first read, by `losses` and so on: ValueError
        names the shard that is not as it was written.
        """
        header = _header(folder)
        if header is None:
            raise FileNotFoundError(f"{folder}: no store.json, so no posteriors are kept there")
        store = cls(folder, *(header[k] for k in ("n", "n_classes")), tuple(header["shape"]),
                    header["shard"], header["identity"])  # fmt: skip
        missing = [path.name for k, path in store._shards() if not store._has(k)]
        if missing:
            raise FileNotFoundError(
                f"{folder}: {len(missing)} of {-(-store.n // store.shard)} shards are missing or "
                f"damaged, e.g. {missing[0]}; run the command that writes them again, it goes on "
                "from there"
            )
        return store

    def losses(self) -> Tensor:
        """All structured loss maps, float16 [N,1,h,w] (66 kB an image on 128x256)."""
        return torch.cat([part["loss"] for part in self._parts("loss")])

    def masks(self) -> Tensor:
        """All masks, uint8 [N,h,w]."""
        return torch.cat([part["mask"] for part in self._parts("mask")])

    def posteriors(self) -> Posteriors:
        """The posteriors, float16 [N,C,h,w], not read yet."""
        return Posteriors(self, torch.arange(self.n))

    def _parts(self, *names: str) -> Iterator[dict[str, Tensor]]:
        for k, _ in self._shards():
            with self._opened(k) as file:
                yield {name: file.get_tensor(name) for name in names}

    def _shards(self) -> Iterator[tuple[int, Path]]:
        for k in range(-(-self.n // self.shard)):
            yield k, self.folder / f"{k:05d}.safetensors"

    def _rows(self, k: int) -> range:
        return range(k * self.shard, min((k + 1) * self.shard, self.n))

    def _has(self, k: int) -> bool:
        """Whether shard k is there, whole, and of this place in this store; not its values."""
        try:
            with safe_open(self.folder / f"{k:05d}.safetensors", "pt") as file:
                shape = file.get_slice("posterior").get_shape()
                said = file.metadata() or {}
        except (OSError, SafetensorError):
            return False
        mine = (said.get("identity"), said.get("number")) == (self.identity, str(k))
        return mine and shape == [len(self._rows(k)), self.n_classes, *self.shape]

    def _sound(self, k: int) -> bool:
        """Whether shard k is this store's, and its values are those that were written."""
        path = self.folder / f"{k:05d}.safetensors"
        return self._has(k) and _as_written(path, path.stat().st_mtime_ns)

    @contextmanager
    def _opened(self, k: int) -> Iterator[safe_open]:
        path = self.folder / f"{k:05d}.safetensors"
        if not self._sound(k):
            raise ValueError(
                f"{path} is not as it was written (its checksum, number or network is another); "
                "run the command that writes the store again, it mends this shard"
            )
        with safe_open(path, "pt") as file:
            yield file


@cache
def _as_written(path: Path, changed: int) -> bool:
    """Whether a shard has its checksum; read once a process, until the file has `changed`."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return (file.metadata() or {}).get("checksum") == _comes_to(tensors)
    except (OSError, SafetensorError):
        return False


def _comes_to(tensors: dict[str, Tensor]) -> str:
    return checksum({name: value.numpy() for name, value in tensors.items()})


@dataclass(frozen=True)
class Posteriors:
    """Rows of a store that are read when they are asked for; stands in for float16 [N,C,h,w]."""

    store: Store
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), self.store.n_classes, *self.store.shape

    def index_select(self, dim: int, indices: Tensor) -> Posteriors:
        """Some of the rows (dim 0), still not read."""
        if dim != 0:
            raise ValueError(f"dim is {dim}; only whole images can be chosen, dim 0")
        return replace(self, rows=self.rows[indices])

    def __getitem__(self, indices: Tensor | slice) -> Tensor:
        """Read rows: float16 [n,C,h,w]."""
        wanted = self.rows[indices]
        out = torch.empty(len(wanted), *self.shape[1:], dtype=torch.float16)
        shards = wanted // self.store.shard
        for k in shards.unique().tolist():
            with self.store._opened(k) as file:
                part = file.get_slice("posterior")
                for at in torch.nonzero(shards == k).flatten().tolist():
                    row = int(wanted[at]) - k * self.store.shard
                    out[at] = part[row : row + 1][0]
        return out


def write(
    folder: Path,
    scenes: Scenes,
    query: Callable[[Tensor], Tensor],
    *,
    name: str,
    identity: str,
    n_classes: int,
    stride: int = STRIDE,
    shard: int = SHARD,
    batch: int = 1,
    workers: int = 0,
    progress: bool = True,
) -> Store:
    """Ask a network about all scenes and keep what it answers; only what is missing is asked.

    A shard whose values are not those that were written counts as missing.

    `query(images [B,3,H,W])` returns posteriors float [B,C,h,w] at every `stride`-th pixel;
    `identity` names the network (its SHA-256). Prints beforehand what will be done, how long and
    how large. ValueError: another network's or other scenes' store lies in `folder`, the disk is
    too small, or the answers do not fit the masks.
    """
    height, width = scenes.shape
    shape = -(-height // stride), -(-width // stride)
    digest = identity_of(identity, scenes, stride)
    store = Store(folder, len(scenes), n_classes, shape, shard, digest)
    header = {"n": store.n, "n_classes": n_classes, "shape": shape, "shard": shard}
    header |= {"identity": digest, "network": name}
    found = _header(folder)
    if found is not None and found != json.loads(json.dumps(header)):
        raise ValueError(
            f"{folder} holds the answers of another network, or on other images: {found['n']} "
            f"images, grid {found['shape']}, {found['identity'][:8]}…; expected {store.n}, "
            f"{list(shape)}, {digest[:8]}…. Delete the folder, or take another one"
        )
    missing = [k for k, _ in store._shards() if not store._sound(k)]
    rows = [row for k in missing for row in store._rows(k)]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(header, indent=1) + "\n"
    replace_file(folder / "store.json", lambda part: part.write_text(text, encoding="utf-8"))
    if not rows:
        return store
    seconds = _seconds_an_image(scenes, query, rows[0])
    print(announce(store, name, len(rows), seconds), flush=True)
    check_space(folder, len(rows) * bytes_an_image(n_classes, shape))
    loader = DataLoader(scenes.subset(rows), batch, num_workers=workers)
    bar = tqdm(total=store.n, initial=store.n - len(rows), desc=name, unit="image",
               disable=not progress, mininterval=2)  # fmt: skip
    with bar:
        answers = _answers(loader, query, stride, (n_classes, *shape), name)
        for k in missing:
            images = [next(answers) for _ in store._rows(k)]
            tensors = {part: torch.stack([i[part] for i in images]) for part in images[0]}
            path = folder / f"{k:05d}.safetensors"
            said = {"identity": digest, "number": str(k), "checksum": _comes_to(tensors)}
            replace_file(path, lambda p, t=tensors, said=said: save_file(t, p, said))
            bar.update(len(images))
    return store


def identity_of(network: str, scenes: Scenes, stride: int = STRIDE) -> str:
    """What a store of that network's (its SHA-256) answers on those scenes is known by."""
    key = json.dumps([network, scenes.digest, stride])
    return hashlib.sha256(key.encode()).hexdigest()


def _answers(loader, query, stride, expected, name) -> Iterator[dict[str, Tensor]]:
    """One image's posterior, loss map and mask at a time."""
    for images, masks in loader:
        coarse = masks[:, ::stride, ::stride]
        posterior = query(images).float().cpu()
        if tuple(posterior.shape[1:]) != expected:
            raise ValueError(
                f"{name} answers {tuple(posterior.shape[1:])} (classes, height, width), expected "
                f"{expected}: posteriors at every {stride}th pixel of the images"
            )
        loss = representations.structured_loss_map(posterior, coarse)  # checks the values too
        for p, e, m in zip(posterior.half(), loss.half(), coarse.byte(), strict=True):
            yield {"posterior": p, "loss": e, "mask": m}


def bytes_an_image(n_classes: int, shape: tuple[int, int]) -> int:
    """Disk space of one image: posterior and loss in float16, the mask in uint8.

    >>> bytes_an_image(19, (128, 256))  # 38 for the posterior, 2 for the loss, 1 for the mask
    1343488
    """
    return (2 * n_classes + 2 + 1) * shape[0] * shape[1]


def announce(store: Store, name: str, n_missing: int, seconds: float) -> str:
    """What a run will do, how large and about how long."""
    size = n_missing * bytes_an_image(store.n_classes, store.shape)
    minutes = n_missing * seconds / 60
    return (
        f"{name}: {n_missing} of {store.n} images to ask about; posteriors "
        f"{store.n_classes}x{store.shape[0]}x{store.shape[1]} in float16, {size / 1e9:.2f} GB in "
        f"{store.folder} ({shutil.disk_usage(store.folder).free / 1e9:.0f} GB free); about "
        f"{minutes:.1f} minutes, at {seconds:.2f} s an image"
    )


def check_space(folder: Path, needed: int) -> None:
    """ValueError unless the disk of `folder` has room for `needed` bytes and a tenth more."""
    free = shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise ValueError(
            f"{folder}: {needed / 1e9:.2f} GB will be written, {free / 1e9:.2f} GB are free; make "
            "room, or take a folder on another disk"
        )


def _seconds_an_image(scenes: Scenes, query: Callable, row: int) -> float:
    """Seconds of reading and asking about one image; the first call warms up."""
    for _ in range(2):
        started = time.perf_counter()
        query(scenes[row][0][None])
    return time.perf_counter() - started


def _header(folder: Path) -> dict | None:
    """What store.json says; None where there is none."""
    path = folder / "store.json"
    if not path.is_file():
        return None
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        if {"n", "n_classes", "shape", "shard", "identity"} <= header.keys():
            return header
        raise ValueError("entries are missing")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); delete the folder {folder}") from error
