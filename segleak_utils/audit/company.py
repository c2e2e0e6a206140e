"""Whom the audited network is compared with: references, and shadows, that are asked as it is."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segleak_utils.audit.asking import Asked, ask
from segleak_utils.audit.config import Audit
from segleak_utils.audit.looks import Looks, look
from segleak_utils.audit.networks import Network, network
from segleak_utils.audit.pictures import Picture, of_pairs
from segleak_utils.audit.pixels import Reader
from segleak_utils.audit.releases import tried
from segleak_utils.audit.training import trained


@dataclass(frozen=True, eq=False)
class ShadowAsked:
    """A reference on its own lists of M images: what it said, bool [M] who was in, what the K
    others said; unseen: bool [K,M], which of them was not trained on which image."""

    own: Asked
    member: NDArray[np.bool_]
    references: tuple[Asked, ...]
    unseen: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Company:
    """What all networks said. unseen: bool [K,N], which reference was not trained on which of the
    audited images."""

    victim: Asked
    references: tuple[Asked, ...]
    unseen: NDArray[np.bool_]
    shadows: tuple[ShadowAsked, ...]
    labels_only: bool
    source: str
    sha256: str | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Other:
    """A reference: the network, the names or paths that it was trained on, its own two lists."""

    network: Network
    trained_on: frozenset[str]
    lists: tuple[Picture, ...] = ()


def company(
    told: Audit,
    model: object | None,
    pictures: Sequence[Picture],
    reader: Reader,
    looks: Looks,
    *,
    base: Path,
    progress: bool,
) -> Company:
    """Ask the audited network and all references about the pictures; shadows about theirs, too.

    ValueError where a shadow's pictures are audited ones, and where only a reference has no
    probabilities.
    """
    of = {"model": model, "tile": told.data.tile, "base": base, "data": told.data}
    victim = network(told.answers, reader.n_classes, **of)
    others = [*_given(told, reader, base), *_trained(told, reader, looks, base, progress)]
    for k, other in enumerate(others, 1):
        if other.network.labels_only and not victim.labels_only:
            raise ValueError(
                f"references, {k}: has label maps only, and the audited model has probabilities, "
                "which differ from these in any case: give its posteriors, or audit label maps, too"
            )
    kept = base / told.out / "kept"
    keys = _keys(others, pictures, looks, reader, kept, progress)
    how = {
        "grid": told.data.grid,
        "batch": told.answers.batch,
        "seed": told.seed,
        "releases": tried(reader.n_classes) if told.releases and not victim.labels_only else (),
    }

    def asked(who: Network, about: Sequence[Picture], name: str) -> Asked:
        return ask(who, about, reader, kept, progress=name if progress else None, **how)

    own = asked(victim, pictures, "asking the model")
    theirs = tuple(
        asked(of.network, pictures, f"asking reference {k}") for k, of in enumerate(others, 1)
    )
    unseen = np.array([[not named(of, other.trained_on) for of in pictures] for other in others])
    unseen = unseen.reshape(len(others), len(pictures))
    warnings = tuple(
        f"Reference {k}: none of the {len(other.trained_on)} names in its trained_on is of an "
        "audited image; if it was trained on some, write them as the audited files are called."
        for k, (other, row) in enumerate(zip(others, unseen, strict=True), 1)
        if other.trained_on and row.all()
    )
    in_training = [
        {key for key, of in zip(own, other.lists, strict=True) if of.member}
        for other, own in zip(others, keys, strict=True)
    ]
    shadows = []
    for k, other in enumerate(others):
        if not other.lists:
            continue
        name = f"asking about shadow {k + 1}'s images"
        beside = [i for i in range(len(others)) if i != k]
        shadows.append(
            ShadowAsked(
                asked(other.network, other.lists, name),
                np.array([of.member for of in other.lists]),
                tuple(asked(of, other.lists, name) for of in
                      [*(others[i].network for i in beside), victim]),
                np.array([
                    *([key not in in_training[i] and not named(of, others[i].trained_on)
                       for key, of in zip(keys[k], other.lists, strict=True)] for i in beside),
                    [True] * len(other.lists),
                ]),
            )
        )  # fmt: skip
    return Company(
        own, theirs, unseen, tuple(shadows), victim.labels_only, victim.source, victim.sha256,
        warnings,
    )  # fmt: skip


def named(picture: Picture, names: frozenset[str]) -> bool:
    """Whether a picture is among the names (NFC): by its id, or the end of its path, with or
    without the file's ending."""
    if not names:
        return False
    ends = {picture.id, str(picture.image)}
    for path in {os.path.abspath(picture.image), os.path.realpath(picture.image)}:
        parts = Path(path).parts
        ends |= {"/".join(parts[i:]) for i in range(1, len(parts))} | {path}
    ends |= {end.removesuffix(picture.image.suffix) for end in ends}
    return not names.isdisjoint(unicodedata.normalize("NFC", end) for end in ends)


def _given(told: Audit, reader: Reader, base: Path) -> list[Other]:
    found = []
    for k, of in enumerate(told.references, 1):
        if of.kind is None or of.kind == "scores":
            raise ValueError(f"references, {k}: give one of model, file, posteriors, labels")
        how = {"tile": told.data.tile, "base": base, "data": told.data}
        who = network(of, reader.n_classes, **how)
        seen: frozenset[str] = frozenset()
        if of.trained_on is not None:
            path = base / of.trained_on
            if not path.is_file():
                raise FileNotFoundError(f"references, {k}: trained_on: {path} is not there")
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise ValueError(f"references, {k}: trained_on: {path}: {error}") from None
            lines = unicodedata.normalize("NFC", text).splitlines()
            seen = frozenset(
                line.strip().replace("\\", "/").removeprefix("./") for line in lines if line.strip()
            )
            if not seen:
                raise ValueError(f"references, {k}: trained_on: {path} names no image")
        lists: list[Picture] = []
        if of.shadow is not None:
            for pairs, member in ((of.shadow.members, True), (of.shadow.nonmembers, False)):
                lists += of_pairs(pairs, told.data, member=member, base=base)
        found.append(Other(who, seen, tuple(lists)))
    return found


def _trained(told: Audit, reader: Reader, looks: Looks, base: Path, progress: bool) -> list[Other]:
    if told.train_references is None:
        return []
    return [
        Other(network(of.answers, reader.n_classes, model=of.model), frozenset(), of.lists)
        for of in trained(told, reader, looks, base=base, progress=progress)
    ]


def _keys(
    others: Sequence[Other],
    pictures: Sequence[Picture],
    looks: Looks,
    reader: Reader,
    kept: Path,
    progress: bool,
) -> list[Sequence[str]]:
    """Keys of the pixels of each reference's own lists, by which one finds a picture in another's.

    ValueError for a shadow that was trained on, or is asked about, an audited picture: what is
    learned from it would not be what it seems.
    """
    audited = dict(zip(looks.pixels, (of.id for of in pictures), strict=True))
    name = "looking at shadows' images" if progress else None
    found = [
        look(of.lists, reader, kept, progress=name).pixels if of.lists else () for of in others
    ]
    for k, (other, pixels) in enumerate(zip(others, found, strict=True), 1):
        for picture, key in zip(other.lists, pixels, strict=True):
            if key in audited:
                raise ValueError(
                    f"shadow {k}: {picture.image} is {audited[key]} of the audited lists; an "
                    "attack must not learn from the images that it is tried on"
                )
    return found
