"""Scenes drawn by parallel processes, once, and kept in a checksummed cache on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm.std import tqdm

from segleak_utils.data.workers import in_processes
from segleak_utils.whole import alone, sweep

Drawn = tuple[np.ndarray, np.ndarray]
Key = TypeVar("Key")
FILES = ("images.npy", "masks.npy")
FEW = 500  # fewer are drawn here: two processes take 2 s of a core to start, a scene 8 ms


def drawn_once(
    folder: Path,
    draw: Callable[[Key], Drawn],
    keys: Sequence[Key],
    grid: tuple[int, int],
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Drawn:
    """Memory maps of images uint8 [N, 3, H, W] and masks uint8 [N, H, W], one row per key.

    `draw(key)` gives an image uint8 [H, W, 3] and a mask uint8 [H, W]; it must be picklable and
    follow from the key alone. The folder's *name* must hold all parameters of the drawing. A
    folder whose name or checksums disagree with what is written in it is drawn again, with a
    warning. Interrupting leaves neither a folder nor a process behind; what a killed process left
    is removed. Of several processes one draws and the others wait for it. OSError: a full disk, or
    a folder that cannot be written.
    """
    left = rf"\.{re.escape(folder.name)}\.(\d+)-\w+\.part"  # half drawn, of a process by its PID
    sweep(folder.parent, left)
    drawn = _open_cache(folder)
    if drawn is not None:
        return drawn
    with alone(folder):
        drawn = _open_cache(folder)  # another process may have drawn it meanwhile
        if drawn is not None:
            return drawn
        sweep(folder.parent, left)  # what that process left, if it was killed
        if folder.exists():
            warnings.warn(f"{folder}: stale or torn cache, drawing it again", stacklevel=3)
        # A text bar: in notebooks that run headlessly a widget bar would freeze at 0 %.
        interval = 0.2 if sys.stderr.isatty() else 5
        bar = partial(tqdm, desc=folder.name, total=len(keys), unit="scene", mininterval=interval)
        workers = workers if len(keys) >= FEW else 1
        with closing(in_processes(draw, keys, workers, chunksize=25)) as scenes:
            _write_cache(folder, bar(scenes, disable=not progress), (len(keys), *grid))
        drawn = _open_cache(folder)
    if drawn is None:
        raise OSError(f"{folder}: what was just written does not read back; is the disk full?")
    return drawn


def _write_cache(folder: Path, drawn: Iterable[Drawn], shape: tuple[int, int, int]) -> None:
    """Write to a temporary folder, the checksums last, then rename it to `folder`."""
    count, height, width = shape
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.{os.getpid()}-"
    part = Path(tempfile.mkdtemp(".part", prefix, folder.parent))
    try:
        opened = partial(np.lib.format.open_memmap, mode="w+", dtype=np.uint8)
        images = opened(part / "images.npy", shape=(count, 3, height, width))
        masks = opened(part / "masks.npy", shape=(count, height, width))
        for row, (image, mask) in enumerate(drawn):
            images[row], masks[row] = image.transpose(2, 0, 1), mask
        images.flush()
        masks.flush()
        del images, masks  # Windows renames no folder with open files in it
        meta = {"name": folder.name, "sha256": _checksums(part)}
        (part / "meta.json").write_text(json.dumps(meta))
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _checksums(folder: Path) -> list[str]:
    return [_checksum(path, path.stat().st_mtime_ns) for path in (folder / n for n in FILES)]


@lru_cache
def _checksum(path: Path, changed: int) -> str:
    """Its SHA-256; what a process has read once is not read again until it has `changed`."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _open_cache(folder: Path) -> Drawn | None:
    """The memory maps of a whole cache of these parameters, else None."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta != {"name": folder.name, "sha256": _checksums(folder)}:
            return None
        return np.load(folder / "images.npy", "r"), np.load(folder / "masks.npy", "r")
    except (OSError, ValueError):
        return None
