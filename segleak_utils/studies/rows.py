"""The rows of the contest, and tables of rows of any kind as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

from segleak_utils import metrics
from segleak_utils.attacks.contests import BLIND
from segleak_utils.studies.plan import ROOT
from segleak_utils.whole import write_whole

RESULTS = ROOT / "docs" / "contest.csv"
ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))  # of a field, and of an interval


class Measured(BaseModel):
    """A row with `n_members`, `n_nonmembers` and estimates of three fields each: ``auc``,
    ``auc_low``, ``auc_high``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def interval(self, name: str = "auc") -> metrics.Interval:
        """One of its estimates with its interval, by the name of its first field."""
        values = (getattr(self, name + end) for end, _ in ENDS)
        return metrics.Interval(*values, self.n_members, self.n_nonmembers, 0.95)


def ends(values: Mapping[str, metrics.Interval]) -> dict[str, float]:
    """Estimates by name as the fields of a `Measured` row."""
    return {name + end: getattr(v, part) for name, v in values.items() for end, part in ENDS}


class Line(Measured):
    """An attack on a victim. Rates are None where the non-members are too few to claim them.

    networks: those that the attacker trains. `behind` is the AUC of the best attack with as many
    networks (or with two) minus that of this one, on the same images (paired bootstrap);
    `tpr_behind` is the same of the TPR at 1 % FPR.
    `asked_once`: further questions to the victim, whatever is attacked then; `questions`: those
    about each attacked image, to it and to each reference. `threat`: what the attacker has,
    "answers" or the "weights". `seconds`: for an image, nothing cached
    (`costs.seconds_an_image`).
    """

    victim: str
    setting: str
    attack: str
    networks: int = Field(ge=0)
    n_members: int
    n_nonmembers: int
    auc: float
    auc_low: float
    auc_high: float
    tpr_1: float | None = None
    tpr_1_low: float | None = None
    tpr_1_high: float | None = None
    tpr_01: float | None = None
    tpr_01_low: float | None = None
    tpr_01_high: float | None = None
    accuracy: float
    behind: float
    behind_low: float
    behind_high: float
    tpr_behind: float | None = None
    tpr_behind_low: float | None = None
    tpr_behind_high: float | None = None
    asked_once: int = 0
    seconds: float | None = None
    questions: int = 1
    threat: str = "answers"


def write(found: Sequence[BaseModel], path: Path) -> None:
    """Write lines, choices or other rows of one kind as CSV, four digits."""
    text = io.StringIO()
    fields = list(type(found[0]).model_fields)
    writer = csv.DictWriter(text, fieldnames=fields, lineterminator="\n")
    writer.writeheader()
    for line in found:
        values = line.model_dump().items()
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in values})
    write_whole(path, text.getvalue())


Row = TypeVar("Row", bound=BaseModel)


def read(path: Path = RESULTS, kind: type[Row] = Line) -> list[Row]:
    """The rows of a CSV by `write`; FileNotFoundError, or ValueError for another or a damaged
    one."""
    if not path.is_file():
        raise FileNotFoundError(f"no table {path}; docs/results.md has the command that makes it")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        texts = {k for k, field in kind.model_fields.items() if field.annotation is str}
        found = [
            kind(**{k: None if v == "" and k not in texts else v for k, v in row.items()})
            for row in rows
        ]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a table of {kind.__name__} rows: {error}") from error
    if not found:
        raise ValueError(f"{path} is empty; make it again, or restore it from git")
    return found


def measured(path: Path, kind: type[Row], current: Callable[[Row], bool], again: str) -> list[Row]:
    """The rows of a table in docs/, all of them `current`; `again`: the command that makes it.

    Raises as `read`, and ValueError for a row of another network, recipe or version than there is.
    """
    found = read(path, kind)
    if not all(map(current, found)):
        raise ValueError(
            f"{path} was measured with another network, recipe or version; measure it again: "
            f"python3 -m segleak_utils.run {again}"
        )
    return found


def best_of(found: Sequence[Line]) -> str:
    """The attack that the others were held against: of no victim is it behind itself.

    ValueError where there is none, or more than one.
    """
    level = {x.attack for x in found} - {
        x.attack for x in found if (x.behind, x.behind_low, x.behind_high) != (0, 0, 0)
    }
    if len(level) != 1:
        raise ValueError(f"{len(level)} attacks that the others are held against; expected one")
    return level.pop()


def table(found: Sequence[Line]) -> str:
    """The lines as a table in Markdown, with intervals."""
    head = ["victim", "setting", "attack", "networks", "AUC", "TPR at 1 % FPR", "at 0.1 %"]
    head += ["precision at 1 % FPR, priors of 50 / 10 / 1 %", "balanced accuracy"]
    head += ["the best one's AUC minus this", "its TPR at 1 % FPR minus this"]
    head += ["questions an image", "ms an image"]
    out = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for line in found:
        rates = ["-" if getattr(line, n) is None else f"{line.interval(n):.3}" for n in
                 ("tpr_1", "tpr_01")]  # fmt: skip
        worth = "-" if line.tpr_1 is None else metrics.precisions(line.tpr_1, 0.01)
        name = line.attack if line.threat == "answers" else f"{line.attack} (has the weights)"
        cells = [line.victim, line.setting, name, str(line.networks)]
        cells += [f"{line.interval():.3}", *rates, worth, f"{line.accuracy:.2f}"]
        cells += [f"{line.interval('behind'):+.3}"]
        cells += ["-" if line.tpr_behind is None else f"{line.interval('tpr_behind'):+.3}"]
        cells += ["0" if line.attack == BLIND else str(line.questions)]
        cells += ["-" if line.seconds is None else f"{1000 * line.seconds:.0f}"]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)
