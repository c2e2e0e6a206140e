"""Answers on disk: folders of posteriors, and of predicted label maps, one an image."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from segleak_utils.audit.answers import as_posterior, chosen, in_layout, stride_between
from segleak_utils.audit.config import Answers, Data
from segleak_utils.audit.masks import ARRAYS, one_palette, read_mask, stored
from segleak_utils.audit.pictures import Picture, paths_in
from segleak_utils.data import VOID
from segleak_utils.representations import one_hot

POSTERIORS = (".npy", ".npz", ".safetensors", ".zarr")
LABELS = (".png", ".tif", ".tiff", ".bmp", *ARRAYS)


class Recorded:
    """A network that is known by what it answered: files stand in for it, found by their names.

    The file of an image is named as its id, or as its stem; both lists may have a folder of their
    own, "members" and "nonmembers", and so may what an id has before its last "/".
    """

    sha256 = None

    def __init__(
        self,
        folder: Path,
        told: Answers,
        n_classes: int,
        *,
        labels_only: bool = False,
        data: Data | None = None,
    ) -> None:
        self.told, self.n_classes, self.labels_only = told, n_classes, labels_only
        self.data = Data(n_classes=n_classes) if data is None else data
        if labels_only and told.ids is None and _means_two_things(self.data):
            raise ValueError(
                "answers.ids: with data.mapping or data.colours, say what predicted label maps "
                f"hold: labels (0..{n_classes - 1}), or stored (ids or colours as in the masks)"
            )
        suffixes = LABELS if labels_only else POSTERIORS
        self.folder, self.source = (
            folder,
            f"{'label maps' if labels_only else 'posteriors'} on file",
        )
        parts = [folder / name for name in ("members", "nonmembers")]
        if folder.is_dir() and all(part.is_dir() for part in parts):
            self.files = {
                f"{part.name}/{stem}": path
                for part in parts
                for stem, path in paths_in(part, suffixes).items()
            }
        else:
            self.files = paths_in(folder, suffixes)
        if not any(path.suffix.lower() in suffixes for path in folder.rglob("*")):
            raise ValueError(f"{folder}: no answers ({', '.join(suffixes)})")
        self._whose: dict[Path, Picture] = {}

    def identity(self, probe: Tensor) -> str:
        """Hex key of what the answers depend on: names, sizes and dates of all files inside."""
        options = self.told.model_dump(include={"returns", "output", "layout", "ids"})
        found = ((path, path.stat()) for path in sorted(self.folder.rglob("*")) if path.is_file())
        stats = [
            (path.relative_to(self.folder).as_posix(), of.st_size, of.st_mtime_ns)
            for path, of in found
        ]
        return hashlib.sha256(f"{sorted(options.items())} {stats}".encode()).hexdigest()

    def refuse_shared(self, pictures: Sequence[Picture]) -> None:
        """ValueError where one file would be the answer to two pictures, a picture has two, or
        predicted label maps tell their classes by several palettes.

        FileNotFoundError for a picture without an answer.
        """
        known: tuple[bytes, Path | None] = b"", None
        for picture in pictures:
            path = self.file_of(picture)
            other = self._whose.setdefault(path, picture)
            if other.image != picture.image:
                raise ValueError(
                    f"{path} would be the answer to both {other.image} and {picture.image}, which "
                    "share a name: put answers into folders like the images' "
                    f"({picture.id}), or rename the images"
                )
            if self.labels_only:
                known = one_palette(known, path, self.data if self.told.ids == "stored" else None)

    def file_of(self, picture: Picture) -> Path:
        """The file with the answer to a picture; FileNotFoundError, naming it, without one."""
        part = "members" if picture.member else "nonmembers"
        stem = unicodedata.normalize("NFC", picture.image.stem)
        inside = PurePosixPath(picture.id)
        if len(inside.parts) > 1 and not (inside.is_absolute() or ".." in inside.parts):
            suffixes = LABELS if self.labels_only else POSTERIORS
            at = self.folder / inside.parent
            name = inside.stem if inside.name == picture.image.name else inside.name
            forms = [name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))]
            tried = ([at / f"{one}{suffix}" for one in forms] for suffix in suffixes)
            first = (next((path for path in paths if path.exists()), None) for paths in tried)
            found = [path for path in first if path is not None]
            if len(found) > 1:
                raise ValueError(f"{found[0]} and {found[1]} have the same stem; remove one")
            if found:
                return found[0]
        for name in (picture.id, f"{part}/{picture.id}", f"{part}/{stem}", stem):
            if name in self.files:
                return self.files[name]
        raise FileNotFoundError(
            f"{self.folder}: no answer for {picture.id} ({len(self.files)} files; expected one "
            f"named {stem}{'.png' if self.labels_only else '.npy'}, say)"
        )

    def posteriors(
        self, images: Tensor, pictures: Sequence[Picture], stride: int
    ) -> tuple[Tensor, int]:
        """Posteriors float32 [B,C,h,w] of the pictures on file, at about every `stride`-th pixel.

        The second is the stride that they come at: a multiple of that on file. ValueError, naming
        the file, for what does not fit.
        """
        found, strides = [], set()
        for picture in pictures:
            path = self.file_of(picture)
            values = self._labels(path) if self.labels_only else self._values(path)
            own = stride_between(tuple(images.shape[-2:]), tuple(values.shape[-2:]), str(path))
            more = max(1, stride // own)
            values = values[..., ::more, ::more]
            found.append(values if self.labels_only else as_posterior(values, self.told, str(path)))
            strides.add(own * more)
        if len(strides) > 1:
            raise ValueError(f"{self.folder}: answers of images of one size are on several grids")
        return torch.cat(found), strides.pop()

    def _labels(self, path: Path) -> Tensor:
        if self.told.ids == "stored":
            found = read_mask(path, self.data)
            if (found == VOID).any():
                raise ValueError(f"{path}: void is predicted; expected one of the classes")
            return one_hot(torch.from_numpy(found.astype(np.int64))[None], self.n_classes)
        ids = torch.from_numpy(stored(path).astype(np.int64))[None]
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.n_classes:
            raise ValueError(
                f"{path}: predicted class {low if low < 0 else high}; expected 0.."
                f"{self.n_classes - 1}, one of the classes (a model predicts no void)"
            )
        return one_hot(ids, self.n_classes)

    def _values(self, path: Path) -> Tensor:
        values = chosen(arrays(path), self.told.output, str(path))
        if isinstance(values, np.ndarray):
            if values.dtype.kind != "f":
                raise ValueError(f"{path}: {values.dtype}; expected floating-point values")
            values = torch.from_numpy(np.ascontiguousarray(values))
        if isinstance(values, Tensor) and values.ndim == 3:
            values = values[None]
        elif isinstance(values, Tensor) and values.ndim == 2 and self.n_classes == 2:
            values = values[None, None]
        return in_layout(values, self.told, self.n_classes, 1, str(path))


def _means_two_things(data: Data) -> bool:
    """Whether an id on file may be another label than its own number."""
    changed = {i: label for i, label in (data.mapping or {}).items() if i != label}
    return bool(changed) or data.colours is not None


def arrays(path: Path) -> object:
    """What a file holds: an array, or several by their names; ValueError, naming it, for others."""
    try:
        match path.suffix.lower():
            case ".npy":
                return np.load(path, allow_pickle=False)
            case ".npz":
                with np.load(path, allow_pickle=False) as file:
                    return {name: file[name] for name in file.files}
            case ".safetensors":
                from safetensors.torch import load_file

                return load_file(path)
            case ".zarr":
                import zarr

                found = zarr.open(str(path), mode="r")
                return (
                    found[...]
                    if hasattr(found, "shape")
                    else {k: v[...] for k, v in found.arrays()}
                )
    except ImportError:
        raise ValueError('zarr files need zarr: pip install "segleak[audit]"') from None
    except Exception as error:  # each library has its own
        raise ValueError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); is it whole?"
        ) from error
    raise ValueError(f"{path}: expected {', '.join(POSTERIORS)}")
