"""Scenes (images with their label masks) from whatever source, all with the same items.

One item is `(image float32 [3, H, W] in 0..1, mask int64 [H, W])` with 255 = void. Here are arrays,
`folder` (any pairs of files) and `files`, through which the data sets of `streets` are read; CamVid
is in `drives`, and rooms above have sources of their own.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from segleak_utils.checks import numbers
from segleak_utils.checks.numbers import count
from segleak_utils.data.classes import PALETTE, VOID
from segleak_utils.data.imagefiles import (
    Convert,
    Grid,
    Item,
    Pair,
    grid,
    label_header,
    read_labels,
    read_pair,
)
from segleak_utils.data.labels import checked_labels, relabelled
from segleak_utils.data.twins import Pictures, Row, in_arrays, in_files, refuse_twins

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class _Store:
    """Where the pixels of some scenes are: `read(row)`, their grid, and a key of their content.

    `pictures` tells whether two of them are the same.
    """

    read: Callable[[int], Item]
    shape: Grid
    key: str
    pictures: Pictures

    def flipped(self) -> _Store:
        return replace(self, read=partial(_flipped_row, self.read), key=f"{self.key}, flipped")


class Scenes(torch.utils.data.Dataset):
    """Scenes with stable, unique ids; arrays in memory, memory-mapped, or files read on demand.

    `ids`: list of str; `class_names`: tuple of C str; `palette`: uint8 [C, 3]; `groups`: the video
    drive of each frame, or None; `shape`: (H, W), the same for all scenes. ValueError: ids that
    repeat, one picture under two ids, lengths that differ, grids that differ, a palette of another
    form.
    """

    def __init__(
        self,
        rows: Sequence[tuple[_Store, int]],
        ids: Sequence[str],
        class_names: Sequence[str],
        palette: np.ndarray | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        self._rows, self.ids, self.class_names = list(rows), list(ids), tuple(class_names)
        default = PALETTE[np.arange(self.n_classes) % len(PALETTE)]
        self.palette = default if palette is None else np.asarray(palette)
        self.groups = None if groups is None else tuple(groups)
        if not 1 <= self.n_classes <= VOID:
            raise ValueError(f"{self.n_classes} classes, expected 1..{VOID} ({VOID} is void)")
        if self.palette.shape != (self.n_classes, 3) or self.palette.dtype != np.uint8:
            found = f"{self.palette.dtype} {self.palette.shape}"
            raise ValueError(f"palette is {found}, expected uint8 ({self.n_classes}, 3)")
        lengths = [len(self._rows), len(self.ids), len(self.ids if groups is None else self.groups)]
        if len(set(lengths)) > 1:
            raise ValueError(f"lengths of scenes, ids and groups differ: {lengths}")
        if len(set(self.ids)) < len(self.ids):
            twice = sorted({i for i in self.ids if self.ids.count(i) > 1})[:3]
            raise ValueError(f"ids must be unique, found more than once: {', '.join(twice)}")
        shapes = {store.shape for store, _ in self._rows}
        if len(shapes) > 1:
            raise ValueError(f"scenes of different sizes (height, width): {sorted(shapes)}")
        refuse_twins(self.pictures())

    def pictures(self) -> list[Row]:
        """Where the picture of each scene is, with its id: for `twins`."""
        pairs = zip(self._rows, self.ids, strict=True)
        return [(store.pictures, row, name) for (store, row), name in pairs]

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        masks: np.ndarray,
        ids: Sequence[str],
        class_names: Sequence[str],
        palette: np.ndarray | None = None,
        *,
        groups: Sequence[str] | None = None,
        source: str | None = None,
    ) -> Scenes:
        """Scenes from images uint8 [N, 3, H, W] and masks uint8 [N, H, W], kept as they are.

        `source` says what the pixels follow from; without it their content is hashed. ValueError
        for another type or form.
        """
        for name, given in (("images", images), ("masks", masks)):
            if not isinstance(given, np.ndarray):
                raise ValueError(
                    f"{name} are {type(given).__name__}; expected a NumPy array, uint8"
                )
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
            found = f"{images.dtype} {images.shape}"
            raise ValueError(f"images are {found}, expected uint8 [N, 3, H, W]")
        expected = (len(images), *images.shape[2:])
        if masks.shape != expected or masks.dtype != np.uint8:
            raise ValueError(f"masks are {masks.dtype} {masks.shape}, expected uint8 {expected}")
        if source is None:
            content = hashlib.sha256(np.ascontiguousarray(images))
            content.update(np.ascontiguousarray(masks))
            source = content.hexdigest()
        store = _Store(partial(_array_row, images, masks), expected[1:], source, in_arrays(images))
        rows = [(store, row) for row in range(len(images))]
        return cls(rows, ids, class_names, palette, groups)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    @property
    def shape(self) -> Grid | None:
        return self._rows[0][0].shape if self._rows else None

    @cached_property
    def digest(self) -> str:
        """Hex key of what these scenes are: source parameters, classes, ids and their order."""
        key = [self.class_names, self.shape, [s.key for s, _ in self._rows], self.ids]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image float32 [3, H, W] in 0..1 and mask int64 [H, W]; ValueError for a bad pair."""
        store, row = self._rows[i]
        image, mask = store.read(row)
        mask = checked_labels(mask, f"scene {self.ids[i]}", self.n_classes)
        return torch.from_numpy(np.array(image)).float() / 255, torch.from_numpy(mask).long()

    def batches(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images [B, 3, H, W] and masks [B, H, W] in order; the last batch may be smaller."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        for start in range(0, len(self), batch_size):
            items = [self[i] for i in range(start, min(start + batch_size, len(self)))]
            images, masks = zip(*items, strict=True)
            yield torch.stack(images), torch.stack(masks)

    def subset(self, indices: Iterable[int]) -> Scenes:
        """The scenes at these positions, in the order given, or where a bool [N] says so.

        ValueError for positions outside 0..N-1, or another number of booleans than scenes.
        """
        chosen = list(indices)
        if chosen and all(isinstance(i, bool | np.bool_) for i in chosen):
            if len(chosen) != len(self):
                raise ValueError(f"{len(chosen)} booleans for {len(self)} scenes; expected as many")
            chosen = np.flatnonzero(chosen)
        chosen = [numbers.count(i, "a position", 0, len(self) - 1) for i in chosen]
        groups = None if self.groups is None else [self.groups[i] for i in chosen]
        rows, ids = [self._rows[i] for i in chosen], [self.ids[i] for i in chosen]
        return Scenes(rows, ids, self.class_names, self.palette, groups)

    def regrouped(self, groups: Sequence[str]) -> Scenes:
        """The same scenes in other groups; ValueError unless there is one for each."""
        return Scenes(self._rows, self.ids, self.class_names, self.palette, groups)

    def flipped(self) -> Scenes:
        """The same scenes right for left, images and masks: a second question about each of them.

        Ids stay, and so does whose picture it is: a scene and its flip are no two scenes of a list.
        The digest is another one.

        >>> grey, masks = np.zeros((1, 3, 1, 2), np.uint8), np.array([[[0, 1]]], np.uint8)
        >>> Scenes.from_arrays(grey, masks, ["a"], ["road", "car"]).flipped()[0][1]
        tensor([[1, 0]])
        """
        stores = {store: store.flipped() for store, _ in self._rows}
        rows = [(stores[store], row) for store, row in self._rows]
        return Scenes(rows, self.ids, self.class_names, self.palette, self.groups)

    def __add__(self, other: Scenes) -> Scenes:
        """Both lists of scenes, one after the other; ValueError unless the classes agree."""
        if self.class_names != other.class_names:
            raise ValueError(f"classes differ: {self.class_names} and {other.class_names}")
        groups = self.groups + other.groups if self.groups and other.groups else None
        rows, ids = self._rows + other._rows, self.ids + other.ids
        return Scenes(rows, ids, self.class_names, self.palette, groups)


def _flipped_row(read: Callable[[int], Item], row: int) -> Item:
    image, mask = read(row)
    return image[..., ::-1].copy(), mask[..., ::-1].copy()


def _array_row(images: np.ndarray, masks: np.ndarray, row: int) -> Item:
    return images[row], masks[row]


def checked_size(size: Grid | None) -> Grid | None:
    if size is None:
        return None
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}, expected (height, width), both positive, or None")
    return int(size[0]), int(size[1])


def folder(
    images: str | Path,
    masks: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    n_classes: int | None = None,
    palette: np.ndarray | None = None,
    size: Grid | None = None,
    name: str = "",
    mapping: Mapping[int, int] | None = None,
    void: int | Sequence[int] | None = None,
) -> Scenes:
    """Any folder of images with a folder of PNG label masks (ids 0..C-1, 255 = void), by stem.

    `mapping`: stored id -> label, for masks with other ids; `void`: the stored ids that do not
    count. Left out it is 255, and where 255 occurs, masks are read until each class has been seen:
    in masks of 0 and 255, 255 is a class. Files are read on demand. An id is the stem, or
    `name/stem`: name the folders when two of them meet in one `Split` and their stems coincide.
    FileNotFoundError: no such folder. ValueError: no class count, partners missing (up to 3 named),
    sizes or palettes that differ, a mapping to no class, 255 that may be a class, one picture under
    two names. A label that is not known or an unreadable file is a ValueError when it is read.
    """
    if class_names is None:
        if n_classes is None:
            raise ValueError("give class_names or n_classes")
        class_names = [f"class {c}" for c in range(n_classes)]
    if n_classes not in (None, len(class_names)):
        raise ValueError(f"{len(class_names)} class_names, but n_classes is {n_classes}")
    size = checked_size(size)
    mapping, numbers = _checked_ids(len(class_names), mapping, void)
    found = _by_stem(images, IMAGE_SUFFIXES), _by_stem(masks, (".png",))
    for here, there, kind in ((*found, "mask"), (*found[::-1], "image")):
        _expect_partners(here, there, kind)
    if not found[0]:
        raise ValueError(f"{images}: no images ({', '.join(IMAGE_SUFFIXES)})")
    pairs = [(found[0][stem], found[1][stem]) for stem in sorted(found[0])]
    _check_headers(pairs, size)
    told = {"n_classes": len(class_names), "mapping": mapping, "void": numbers}
    convert = partial(relabelled, **told)
    if void is None and numbers:
        _check_void([mask for _, mask in pairs], convert, mapping, class_names)
    ids = [f"{name}/{stem}" if name else stem for stem in sorted(found[0])]
    source = "folder" if mapping is None and numbers == (VOID,) else f"folder {mapping} {numbers}"
    return files(pairs, ids, class_names, palette, convert=convert, size=size, source=source)


def _checked_ids(
    n_classes: int, mapping: Mapping[int, int] | None, void: int | Sequence[int] | None
) -> tuple[dict[int, int] | None, tuple[int, ...]]:
    """The mapping, sorted, and the stored ids that are void; ValueError for one that is neither."""
    count(n_classes, "n_classes", 1, VOID)
    if mapping is not None:
        if not mapping:
            raise ValueError("mapping is empty, expected stored id -> label, or None")
        told = {count(i, "an id of mapping"): label for i, label in mapping.items()}
        high = n_classes - 1
        mapping = {i: count(told[i], f"mapping[{i}]", high=high) for i in sorted(told)}
    if void is None:
        return mapping, () if VOID in (mapping or ()) else (VOID,)
    numbers = tuple(count(i, "void") for i in ([void] if np.ndim(void) == 0 else void))
    both = sorted(set(numbers) & set(mapping or ()))
    if both:
        raise ValueError(f"{both} are void and in mapping; take them out of one of the two")
    return mapping, numbers


def _expect_partners(here: Mapping[str, Path], there: Mapping[str, Path], kind: str) -> None:
    """ValueError unless each stem has its partner; it tells a partner of another case."""
    alone = sorted(here.keys() - there.keys())
    if not alone:
        return
    cases = {stem.casefold(): path for stem, path in there.items()}
    near = [str(cases[stem.casefold()]) for stem in alone if stem.casefold() in cases]
    hint = f"; {near[0]} differs in upper and lower case: rename it" if near else ""
    some = [str(here[stem]) for stem in alone[:3]]
    raise ValueError(f"{len(alone)} without {kind} of the same stem: {some}{hint}")


def _check_headers(pairs: Sequence[Pair], size: Grid | None) -> None:
    """ValueError unless the grids fit, and the palettes, as far as they go, are the same."""
    with ThreadPoolExecutor() as threads:
        headers = list(threads.map(lambda pair: (grid(pair[0]), *label_header(pair[1])), pairs))
    first, longest, whose = headers[0][0], b"", None
    for pair, (image, mask, colours) in zip(pairs, headers, strict=True):
        if image != mask:
            raise ValueError(f"{pair[1]}: mask is {mask}, its image {image} (height, width)")
        if size is None and image != first:
            raise ValueError(f"{pair[0]}: {image}, but {pairs[0][0]} is {first}; give size=")
        if not (colours.startswith(longest) or longest.startswith(colours)):
            raise ValueError(
                f"{whose} and {pair[1]} have different palettes: one number may be two classes; "
                "save the masks with one palette, or as grey pictures of their ids"
            )
        if len(colours) > len(longest):
            longest, whose = colours, pair[1]


def _check_void(
    masks: Sequence[Path],
    convert: Convert,
    mapping: Mapping[int, int] | None,
    class_names: Sequence[str],
) -> None:
    """ValueError if 255, which nobody called void, occurs and one of the classes never does.

    Masks are read only until all the classes have been seen.
    """
    seen, first = np.zeros(256, bool), None
    for path in masks:
        here = np.bincount(convert(read_labels(path), str(path)).ravel(), minlength=256) > 0
        seen |= here
        if first is None and here[VOID]:
            first = path
        if seen[: len(class_names)].all():
            return
    absent = np.flatnonzero(~seen[: len(class_names)]).tolist()
    if first is None:
        return
    known = {c: c for c in range(len(class_names)) if seen[c]} if mapping is None else mapping
    raise ValueError(
        f"{first}: 255 occurs, and no mask has class {absent[0]} ({class_names[absent[0]]!r}): is "
        f"255 void or a class? If it is a class, give mapping={dict(known) | {VOID: absent[0]}}; "
        "if it is void and the class just absent, void=255"
    )


def files(
    pairs: Sequence[Pair],
    ids: Sequence[str],
    class_names: Sequence[str],
    palette: np.ndarray | None = None,
    *,
    convert: Convert | None = None,
    size: Grid | None = None,
    groups: Sequence[str] | None = None,
    source: str = "files",
) -> Scenes:
    """Scenes from pairs of image and label files, read on demand; sizes and dates make the digest.

    `convert(labels, name)` turns the stored ids [H, W] into uint8 labels 0..C-1 or 255, or raises
    ValueError naming the file; without it the ids are the labels. Only the first header is read
    here: `size` = (H, W) resizes all, else an item of another grid is a ValueError when it is read.
    """
    if not pairs:
        raise ValueError("no pairs of files, expected at least one")
    size = checked_size(size)
    shape = size or grid(pairs[0][0])
    with ThreadPoolExecutor(32) as threads:  # on a network disk each answer takes a while
        stats = list(threads.map(Path.stat, [path for pair in pairs for path in pair]))
    key = f"{source} {size} {[(stat.st_size, stat.st_mtime_ns) for stat in stats]}"
    convert = convert or partial(checked_labels, n_classes=len(class_names))
    read = partial(_file_row, pairs, convert, size, shape)
    pictures = in_files([pair[0] for pair in pairs], [stat.st_size for stat in stats[::2]])
    store = _Store(read, shape, hashlib.sha256(key.encode()).hexdigest(), pictures)
    return Scenes([(store, row) for row in range(len(pairs))], ids, class_names, palette, groups)


def _by_stem(directory: str | Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder with one of these suffixes, by stem in Unicode's composed form.

    Hidden files (`._NAME.png`, which archives of other systems bring along) are none of them.
    ValueError if two share a stem.
    """
    if not Path(directory).is_dir():
        raise FileNotFoundError(f"{directory}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted(Path(directory).iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        stem = unicodedata.normalize("NFC", path.stem)
        if files.setdefault(stem, path) != path:
            raise ValueError(f"{path} and {files[stem]} have the same stem; rename or remove one")
    return files


def _file_row(
    pairs: Sequence[Pair], convert: Convert, size: Grid | None, shape: Grid, row: int
) -> Item:
    image, labels = read_pair(pairs[row], convert, size)
    if labels.shape != shape:
        found = f"{pairs[row][0]}: {labels.shape}, but {pairs[0][0]} is {shape}"
        raise ValueError(f"{found} (height, width); give size=")
    return image, labels
