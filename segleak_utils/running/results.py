"""The rows of the final table: one attack on one victim, with its intervals and counts.

The rows live in ``build/results.json`` (and ``results.csv``); the environment variable
``SEGLEAK_BUILD`` names another build folder.
"""

from __future__ import annotations

import csv
import io
import json
import os
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from segleak_utils.whole import alone, write_whole

Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
TPR_FPR = 0.01
COLUMNS = 100  # of a terminal
WIDTHS = (45, 17, 17, 15)  # of the table's columns
PRECISIONS = ("precision_prior_50pct", "precision_prior_10pct", "precision_prior_1pct")


class ResultRow(BaseModel):
    """One line of the table. ``tpr_*`` is the TPR at 1 % FPR: None with fewer than 100
    non-members, for whom the smallest false-positive rate that can be claimed is above 1 %.
    ``precision_prior_*``: the share of accusations that are right at these rates, where 50, 10 or
    1 % of those asked about are members."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    notebook: str
    victim: str
    setting: str
    attack: str
    representation: str
    n_members: Count
    n_nonmembers: Count
    auc: Unit
    auc_low: Unit
    auc_high: Unit
    tpr_at_1pct: Unit | None = None
    tpr_low: Unit | None = None
    tpr_high: Unit | None = None
    precision_prior_50pct: Unit | None = None
    precision_prior_10pct: Unit | None = None
    precision_prior_1pct: Unit | None = None
    note: str = ""

    @model_validator(mode="after")
    def _intervals(self) -> ResultRow:
        if not self.auc_low <= self.auc <= self.auc_high:
            raise ValueError(f"AUC {self.auc} lies outside [{self.auc_low}, {self.auc_high}]")
        tpr = [self.tpr_low, self.tpr_at_1pct, self.tpr_high]
        worth = self.precisions
        if tpr == [None] * 3:
            if worth != (None,) * 3:
                raise ValueError(f"no TPR, and yet its precision is {worth}")
            return self
        if None in tpr or tpr != sorted(tpr):
            raise ValueError(f"TPR and its interval must be low <= value <= high, found {tpr}")
        if self.n_nonmembers * TPR_FPR < 1:
            raise ValueError(f"no TPR at 1 % FPR with {self.n_nonmembers} non-members (< 100)")
        return self

    @property
    def precisions(self) -> tuple[float | None, ...]:
        """The precision at priors of 50, 10 and 1 %."""
        return tuple(getattr(self, name) for name in PRECISIONS)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells two rows apart; a row recorded again replaces its older self."""
        return self.notebook, self.victim, self.setting, self.attack, self.representation


def build_folder() -> Path:
    """Return the folder for everything that is made by a run."""
    return Path(os.environ.get("SEGLEAK_BUILD") or Path(__file__).resolve().parents[2] / "build")


def read(build: Path | None = None) -> list[ResultRow]:
    """Return the recorded rows, in the order of recording; ValueError for a damaged file."""
    path = (build or build_folder()) / "results.json"
    if not path.is_file():
        return []
    try:
        return [ResultRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a list of result rows; delete it: {error}") from error


def write(rows: Iterable[ResultRow], build: Path | None = None) -> None:
    """Write ``results.json`` and ``results.csv``."""
    build = build or build_folder()
    dicts = [row.model_dump() for row in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(ResultRow.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(dicts)
    write_whole(build / "results.json", json.dumps(dicts, indent=1, ensure_ascii=False) + "\n")
    write_whole(build / "results.csv", table.getvalue())


def record(rows: Iterable[ResultRow], build: Path | None = None) -> None:
    """Add rows to the table; a row with the same key as an older one takes its place."""
    build = build or build_folder()
    with alone(build / "results.json"):  # two notebooks may run side by side
        merged = {row.key: row for row in read(build)}
        merged.update({row.key: row for row in rows})
        # in the order of the notebooks, whichever came first
        write(sorted(merged.values(), key=lambda row: row.notebook), build)


def forget(notebooks: Iterable[str], build: Path | None = None) -> list[ResultRow]:
    """Drop the rows of these notebooks; the rows that were dropped."""
    build, gone = build or build_folder(), set(notebooks)
    with alone(build / "results.json"):
        rows = read(build)
        write([row for row in rows if row.notebook not in gone], build)
    return [row for row in rows if row.notebook in gone]


def keep_only(notebooks: Iterable[str], build: Path | None = None) -> None:
    """Drop the rows of all other notebooks."""
    build, kept = build or build_folder(), set(notebooks)
    with alone(build / "results.json"):
        write([row for row in read(build) if row.notebook in kept], build)


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return " ".join([f"{value:.3f}", f"[{low:.3f}, {high:.3f}]"]).replace("0.", ".")


def _worth(precisions: tuple[float | None, ...]) -> str:
    if None in precisions:
        return "-"
    return " / ".join(f"{x:.2f}".removeprefix("0") for x in precisions)


def table(rows: Iterable[ResultRow]) -> str:
    """Lay the rows out as text of at most 100 columns, a block for each victim; notes are left out.

    Attack, AUC and TPR at 1 % FPR with their intervals, precision at priors of 50, 10 and 1 %.
    """
    blocks: dict[tuple, list[ResultRow]] = {}
    for row in rows:
        whose = row.notebook, row.victim, row.setting, row.n_members, row.n_nonmembers
        blocks.setdefault(whose, []).append(row)
    head = ["attack", "AUC [95 % CI]", "TPR@1 % [95 % CI]", "prec. 50/10/1 %"]
    lines = [_line(head), _line(["-" * width for width in WIDTHS])]
    for (notebook, victim, setting, m, n), block in blocks.items():
        title = f"{notebook}: {victim}, {setting}; {m} members, {n} non-members"
        lines += ["", *textwrap.wrap(title, COLUMNS)]
        attacks = [row.attack for row in block]
        for row in block:
            name = row.attack
            if attacks.count(name) > 1:
                name += f", {row.representation}"
            first, *more = textwrap.wrap(name, WIDTHS[0], subsequent_indent="  ") or [""]
            numbers = [
                _interval(row.auc, row.auc_low, row.auc_high),
                _interval(row.tpr_at_1pct, row.tpr_low, row.tpr_high),
                _worth(row.precisions),
            ]
            lines += [_line([first, *numbers]), *more]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()
