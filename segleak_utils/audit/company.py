"""Whom the audited network is compared with: references, and shadows, that are asked as it is."""

from __future__ import annotations

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
    """A reference on its own lists: what it said, bool [M] who was in, what the others said."""

    own: Asked
    member: NDArray[np.bool_]
    references: tuple[Asked, ...]


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

    ValueError where a shadow's pictures are audited ones, or another reference was trained on them.
    """
    tile = told.data.tile
    victim = network(told.answers, reader.n_classes, model=model, tile=tile, base=base)
    others = [*_given(told, reader, base), *_trained(told, reader, looks, base, progress)]
    kept = base / told.out / "kept"
    _check_lists(others, pictures, looks, reader, kept, progress)
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
    unseen = np.array(
        [[not ({of.id, of.image.name, of.image.stem, str(of.image)} & other.trained_on)
          for of in pictures] for other in others],
        bool,
    ).reshape(len(others), len(pictures))  # fmt: skip
    shadows = []
    for k, other in enumerate(others):
        if not other.lists:
            continue
        name = f"asking about shadow {k + 1}'s images"
        beside = [of for i, of in enumerate(others) if i != k]
        shadows.append(
            ShadowAsked(
                asked(other.network, other.lists, name),
                np.array([of.member for of in other.lists]),
                tuple(asked(of, other.lists, name) for of in
                      [*(one.network for one in beside), victim]),
            )
        )  # fmt: skip
    return Company(
        own, theirs, unseen, tuple(shadows), victim.labels_only, victim.source, victim.sha256
    )


def _given(told: Audit, reader: Reader, base: Path) -> list[Other]:
    found = []
    for k, of in enumerate(told.references, 1):
        if of.kind is None or of.kind == "scores":
            raise ValueError(f"references, {k}: give one of model, file, posteriors, labels")
        who = network(of, reader.n_classes, tile=told.data.tile, base=base)
        seen: frozenset[str] = frozenset()
        if of.trained_on is not None:
            path = base / of.trained_on
            if not path.is_file():
                raise FileNotFoundError(f"references, {k}: trained_on: {path} is not there")
            lines = path.read_text(encoding="utf-8").splitlines()
            seen = frozenset(line.strip() for line in lines if line.strip())
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


def _check_lists(
    others: Sequence[Other],
    pictures: Sequence[Picture],
    looks: Looks,
    reader: Reader,
    kept: Path,
    progress: bool,
) -> None:
    """ValueError for a shadow that was trained on, or is asked about, an audited picture, or on
    one of another shadow's: what is learned from it would not be what it seems."""
    audited = dict(zip(looks.pixels, (of.id for of in pictures), strict=True))
    seen: dict[str, int] = {}
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
            if picture.member:
                seen[key] = k
    for k, (other, pixels) in enumerate(zip(others, found, strict=True), 1):
        for picture, key in zip(other.lists, pixels, strict=True):
            if seen.get(key, k) != k:
                raise ValueError(
                    f"shadow {k}: {picture.image} was trained on by shadow {seen[key]}; that one "
                    "is its reference, which must not have seen it: give them images of their own"
                )
