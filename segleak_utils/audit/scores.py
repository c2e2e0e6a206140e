"""A CSV of scores or losses, one row an image: an audit of anything that gives a number."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segleak_utils.audit.pictures import need_columns, table_of, yes_or_no


@dataclass(frozen=True, eq=False)
class Scored:
    """Numbers that were brought: `values` float64 [N], losses or scores (higher: member), and of K
    references, [K,N]; whose each image is, or None."""

    ids: tuple[str, ...]
    member: NDArray[np.bool_]
    groups: tuple[str, ...] | None
    values: NDArray[np.float64]
    references: NDArray[np.float64]
    are_losses: bool


def read_scores(path: Path) -> Scored:
    """Columns image, member, loss or score, and where there are any group, reference_1, ...

    References' columns hold what the value's column holds. FileNotFoundError, or ValueError naming
    the line: a column is missing, both or neither of loss and score, a cell that is no finite
    number, a loss below 0, an image twice, no members or no non-members.
    """
    rows = table_of(path)
    need_columns(path, rows, ("image", "member"))
    given = [name for name in ("loss", "score") if name in rows[0]]
    if len(given) != 1:
        raise ValueError(
            f"{path}: columns {', '.join(rows[0])}; expected either loss or score (higher: member)"
        )
    theirs = sorted(
        (name for name in rows[0] if re.fullmatch(r"reference_[1-9]\d*", name)),
        key=lambda name: int(name.split("_")[1]),
    )
    foreign = set(rows[0]) - {"image", "member", "group", *given, *theirs}
    if foreign:
        raise ValueError(
            f"{path}: unknown columns {', '.join(sorted(foreign))}; known are image, member, "
            "group, loss or score, reference_1, ..."
        )
    ids = [row["image"] for row in rows]
    if "" in ids:
        raise ValueError(f"{path}, line {ids.index('') + 2}: image is empty")
    if twice := sorted(name for name, times in Counter(ids).items() if times > 1)[:3]:
        raise ValueError(f"{path}: image {', '.join(twice)} comes twice")
    columns = {
        name: np.array([_number(row[name], given[0], f"{path}, line {line}, {name}")
                        for line, row in enumerate(rows, 2)])
        for name in (*given, *theirs)
    }  # fmt: skip
    member = np.array(
        [yes_or_no(row["member"], f"{path}, line {line}") for line, row in enumerate(rows, 2)]
    )
    if member.all() or not member.any():
        raise ValueError(f"{path}: all images are {'members' if member.all() else 'non-members'}")
    groups = tuple(row["group"] for row in rows) if "group" in rows[0] else None
    if groups is not None and "" in groups:
        raise ValueError(f"{path}, line {groups.index('') + 2}: group is empty")
    references = [columns[name] for name in theirs]
    return Scored(
        tuple(ids), member, groups, columns[given[0]],
        np.stack(references) if references else np.empty((0, len(ids))), given[0] == "loss",
    )  # fmt: skip


def _number(cell: str, kind: str, where: str) -> float:
    try:
        found = float(cell)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{where} is {cell!r}; expected a finite number")
    if kind == "loss" and found < 0:
        raise ValueError(f"{where} is {found:g}; losses are at least 0: call the column score")
    return found
