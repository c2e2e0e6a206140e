"""What is costly to compute again, kept in ``build/cache`` under a key of all it depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from segleak_utils.whole import replace_file

VERSION = 3  # part of every key: raise it when cached numbers change


def entry(build: Path, step: str, key: Mapping[str, object]) -> Path:
    """The file in which a step keeps what it computed under this key."""
    parts = {name: str(value) for name, value in key.items()}
    text = json.dumps([VERSION, step, parts], sort_keys=True)
    return build / "cache" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def cached(
    build: Path,
    step: str,
    key: Mapping[str, object],
    compute: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Arrays from ``build/cache``, or computed and kept there; a torn entry is computed again.

    `key`: everything that the arrays depend on, by name (hashes, parameters, seeds), each told
    apart by its text. tests/studies/test_cache_keys.py changes each of them.
    """
    arrays = kept(build, step, key)
    if arrays is None:
        arrays = compute()
        keep(build, step, key, arrays)
    return arrays


def kept(build: Path, step: str, key: Mapping[str, object]) -> dict[str, np.ndarray] | None:
    """What is kept under that key; None where there is nothing, or only a torn entry."""
    path = entry(build, step, key)
    if path.is_file():
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError):
            path.unlink()
    return None


def keep(build: Path, step: str, key: Mapping[str, object], arrays: dict[str, np.ndarray]) -> None:
    """Keep arrays under that key: whole or not at all."""
    replace_file(entry(build, step, key), lambda part: save_file(arrays, part))
