"""The shelf of weights: ``manifest.json``, what is stored, and what vouches for it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from segleak_utils import victims
from segleak_utils.whole import write_whole


def manifest(folder: Path) -> dict[str, dict]:
    """The entries of ``manifest.json``, by name; empty where there is none."""
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(entry["sha256"], str) for entry in entries.values()):
            return entries
        raise ValueError("an entry has no sha256")
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from git") from error


# What a training depends on beside its recipe: their versions are kept beside the weights.
PACKAGES = ("torch", "timm", "numpy", "segmentation-models-pytorch")


def ship(
    folder: Path,
    name: str,
    model: nn.Module | Mapping[str, Tensor],
    meta: dict,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Store weights and their line in the manifest."""
    meta = {**meta, "versions": {p: importlib.metadata.version(p) for p in PACKAGES}}
    digest = victims.save_weights(model, folder / f"{name}.safetensors", meta, dtype)
    entries = manifest(folder) | {name: {"sha256": digest, **meta}}
    write_manifest(folder, entries)


def write_manifest(folder: Path, entries: dict[str, dict]) -> None:
    """Write ``manifest.json``, sorted by name; whole or not at all."""
    text = json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False)
    write_whole(folder / "manifest.json", text + "\n")


def shipped(folder: Path, name: str) -> Path | None:
    """The weight file of that name, or None where it is to be trained.

    Raises ValueError for a file without its line in the manifest: nobody vouches for it.
    """
    path, entries = folder / f"{name}.safetensors", manifest(folder)
    if not path.is_file():
        return None
    if name not in entries:
        raise ValueError(f"{path} is not in the manifest; delete it to train it again")
    return path
