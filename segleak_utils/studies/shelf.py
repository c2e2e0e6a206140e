"""The shelf of weights: ``manifest.json``, what is stored, and what vouches for it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from segleak_utils import victims
from segleak_utils.whole import alone, replace_file, write_whole

NAME = re.compile(r"\w[\w.+=-]*")  # names of networks and attackers are file names, never paths


def manifest(folder: Path) -> dict[str, dict]:
    """The entries of ``manifest.json``, by name; empty where there is none.

    Raises ValueError for a damaged file, or a name in it that is no plain one.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(entry["sha256"], str) for entry in entries.values()):
            raise ValueError("an entry has no sha256")
        for name in entries:
            check_name(name)
        return entries
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it from git") from error


def check_name(name: str) -> None:
    """Raise ValueError for a name that could lead out of the folder of weights."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} is no name of weights; expected letters, digits and . _ + = - alone, "
            "and no path"
        )


# What a training depends on beside its recipe: their versions are kept beside the weights.
PACKAGES = ("torch", "timm", "numpy", "segmentation-models-pytorch")


def ship(
    folder: Path,
    name: str,
    model: nn.Module | Mapping[str, Tensor],
    meta: dict,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Store weights and their line in the manifest; ValueError for a name that is a path."""
    check_name(name)
    meta = {**meta, "versions": {p: importlib.metadata.version(p) for p in PACKAGES}}
    with alone(folder / "manifest.json"):  # the file and its line are one writer's
        digest = victims.save_weights(model, folder / f"{name}.safetensors", meta, dtype)
        _write(folder, manifest(folder) | {name: {"sha256": digest, **meta}})


def write_manifest(folder: Path, entries: Mapping[str, dict]) -> None:
    """Put these entries into ``manifest.json``, beside those of others that are in it."""
    for name in entries:
        check_name(name)
    with alone(folder / "manifest.json"):
        _write(folder, manifest(folder) | entries)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove these weights and their lines in the manifest, the files first."""
    gone = set(names)
    for name in gone:
        check_name(name)
    with alone(folder / "manifest.json"):
        for name in gone:
            (folder / f"{name}.safetensors").unlink(missing_ok=True)
        _write(folder, {k: v for k, v in manifest(folder).items() if k not in gone})


def adopt(folder: Path, apart: Path) -> None:
    """Copy the weights of another folder, with their lines, into this one."""
    with alone(folder / "manifest.json"):
        trained = manifest(apart)
        # the manifest first: a file that it does not name would be refused
        _write(folder, manifest(folder) | trained)
        for name in trained:
            if (path := apart / f"{name}.safetensors").is_file():
                replace_file(folder / path.name, partial(shutil.copyfile, path))


def _write(folder: Path, entries: dict[str, dict]) -> None:
    """Write ``manifest.json``, sorted by name; whole or not at all. Hold its lock around this."""
    text = json.dumps(dict(sorted(entries.items())), indent=1, ensure_ascii=False)
    write_whole(folder / "manifest.json", text + "\n")


def shipped(folder: Path, name: str) -> Path | None:
    """The weight file of that name, or None where it is to be trained.

    Raises ValueError for a file without its line in the manifest: nobody vouches for it. So for a
    name that is a path.
    """
    check_name(name)
    path, entries = folder / f"{name}.safetensors", manifest(folder)
    if not path.is_file():
        return None
    if name not in entries:
        raise ValueError(f"{path} is not in the manifest; delete it to train it again")
    return path
