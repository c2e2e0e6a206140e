"""What was worked out for each image, kept on disk in parts, so that a killed audit goes on.

A part is a file of a few images. Its rows are found by a key for each image, so that lists may
grow, shrink and change places; whatever is torn, or of another version, is worked out again.
"""

from __future__ import annotations

import io
import json
import re
import uuid
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm.std import tqdm

from segleak_utils.victims import processes
from segleak_utils.whole import sweep, write_whole

AT_ONCE = 16  # images a file: what a killed audit loses at most
NAME = re.compile(
    r"[0-9a-f]{32}\.([0-9a-f]{8})\.npz"
)  # the CRC-32 of its bytes is in a part's name
Row = dict[str, NDArray]


class Parts:
    """The rows of some images, in the order of their keys; only a file at a time is in memory."""

    def __init__(self, where: Sequence[tuple[Path, int]]) -> None:
        self._where = list(where)
        self._open: tuple[Path, dict[str, NDArray]] | None = None

    def __len__(self) -> int:
        return len(self._where)

    def one(self, name: str, i: int) -> NDArray:
        """What is kept under a name of the image at position i."""
        path, row = self._where[i]
        if self._open is None or self._open[0] != path:
            self._open = path, _read(path)
        found = self._open[1]
        return found[name][row] if name in found else found[f"{row}/{name}"]

    def rows(self, name: str) -> NDArray:
        """The same of all images, stacked: [N, ...]."""
        found: list[NDArray | None] = [None] * len(self)
        for i in self.by_file():
            found[i] = self.one(name, i)
        return np.stack(found)

    def by_file(self) -> list[int]:
        """All positions, those of one file together: each file is then read once."""
        return sorted(range(len(self)), key=lambda i: (str(self._where[i][0]), i))


def in_parts(
    folder: Path,
    keys: Sequence[str],
    compute: Callable[[Sequence[int]], Sequence[Row]],
    *,
    at_once: int = AT_ONCE,
    progress: str | None = None,
) -> Parts:
    """Rows for all keys: from `folder` where they are, else from `compute(positions)`.

    Each finished part is written before the next begins. Started by torchrun, every process works
    out its share of what the first one misses, and all wait for all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, r"[0-9a-f.]+\.npz\.(\d+)-\d+\.part")
    known = _known(folder)
    # a process that looks later would miss less, and shares of two lists leave gaps
    missing = processes.of_first([i for i, key in enumerate(keys) if key not in known])
    own = missing[processes.rank() :: processes.world()]
    shown = progress and f"{progress}, {len(own)} images"
    with tqdm(total=len(own), desc=shown, unit="image", disable=not (progress and own),
              mininterval=2) as bar:  # fmt: skip
        for start in range(0, len(own), at_once):
            part = own[start : start + at_once]
            rows = compute(part)
            _write(folder, [keys[i] for i in part], rows)
            bar.update(len(part))
    processes.wait()
    known = _known(folder) if missing else known
    lost = [key for key in keys if key not in known]
    if lost:
        raise OSError(f"{folder}: {len(lost)} rows that were written are not there; a full disk?")
    return Parts([known[key] for key in keys])


def _write(folder: Path, keys: Sequence[str], rows: Sequence[Row]) -> None:
    content: dict[str, NDArray] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = {i: row[name] for i, row in enumerate(rows) if name in row}
        # as one array where they can: to pack and unpack a small one takes as long as a large one
        if len(values) == len(rows) and len({(v.shape, v.dtype) for v in values.values()}) == 1:
            content[name] = np.stack(list(values.values()))
        else:
            content |= {f"{i}/{name}": value for i, value in values.items()}
    file = io.BytesIO()
    head = np.frombuffer(json.dumps(list(keys)).encode(), np.uint8)
    np.savez_compressed(file, **content, head=head)
    whole = file.getvalue()
    write_whole(folder / f"{uuid.uuid4().hex}.{zlib.crc32(whole):08x}.npz", whole)


def _read(path: Path) -> dict[str, NDArray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != "head"}


_seen: dict[tuple[str, int, int], list[str]] = {}  # keys in files that this process has looked at


def _known(folder: Path) -> dict[str, tuple[Path, int]]:
    """Where the row of each key is; files that are torn are removed, foreign ones left alone."""
    found: dict[str, tuple[Path, int]] = {}
    for path in sorted(folder.glob("*.npz")):
        name = NAME.fullmatch(path.name)
        keys = name and _keys(path, int(name[1], 16))
        found |= {key: (path, row) for row, key in enumerate(keys or ())}
    return found


def _keys(path: Path, crc: int) -> list[str] | None:
    """The keys of a part; None where it is not what was written, and removed."""
    try:
        stat = path.stat()
        file = str(path), stat.st_size, stat.st_mtime_ns
        if file not in _seen:
            whole = path.read_bytes()
            # before anything unpacks it: zlib and zipfile stumble over damage in many ways
            if zlib.crc32(whole) != crc:
                path.unlink(missing_ok=True)
                return None
            with np.load(io.BytesIO(whole), allow_pickle=False) as content:
                _seen[file] = json.loads(content["head"].tobytes())
        return _seen[file]
    except FileNotFoundError:
        return None  # another process removed it
