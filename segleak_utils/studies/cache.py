"""What is costly to compute again, kept in ``build/cache`` under a key of all it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from segleak_utils.whole import checksum, replace_file

VERSION = 3  # part of every key: raise it when cached numbers change


def entry(build: Path, step: str, key: Mapping[str, object]) -> Path:
    """The file in which a step keeps what it computed under this key."""
    named = hashlib.sha256(_text(step, key).encode()).hexdigest()[:32]
    return build / "cache" / f"{named}.safetensors"


def _text(step: str, key: Mapping[str, object]) -> str:
    parts = {name: str(value) for name, value in key.items()}
    return json.dumps([VERSION, step, parts], sort_keys=True)


def cached(
    build: Path,
    step: str,
    key: Mapping[str, object],
    compute: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Arrays from ``build/cache``, or computed and kept there; a spoilt entry is computed again.

    `key`: everything that the arrays depend on, by name (hashes, parameters, seeds), each told
    apart by its text. tests/studies/test_cache_keys.py changes each of them.
    """
    arrays = kept(build, step, key)
    if arrays is None:
        arrays = compute()
        keep(build, step, key, arrays)
    return arrays


def kept(build: Path, step: str, key: Mapping[str, object]) -> dict[str, np.ndarray] | None:
    """What is kept under that key; None where there is nothing, or only a spoilt entry.

    An entry that is torn, was changed by an accident, or is another key's, is removed.
    """
    path = entry(build, step, key)
    if path.is_file():
        arrays = _read(path, _text(step, key))
        if arrays is not None:
            return arrays
        path.unlink(missing_ok=True)
    return None


def keep(build: Path, step: str, key: Mapping[str, object], arrays: dict[str, np.ndarray]) -> None:
    """Keep arrays under that key: whole or not at all. The entry says whose it is."""
    said = {"key": _text(step, key), "checksum": checksum(arrays)}
    replace_file(entry(build, step, key), lambda part: save_file(arrays, part, said))


def _read(path: Path, text: str) -> dict[str, np.ndarray] | None:
    """The arrays of an entry; None where it cannot be read, or its key or checksum is another."""
    try:
        with safe_open(path, "np") as file:
            said = file.metadata() or {}
            if said.get("key") != text:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        return None
    return arrays if said.get("checksum") == checksum(arrays) else None
