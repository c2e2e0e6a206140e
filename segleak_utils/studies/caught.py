"""Which bound sees which fault, and with how many canaries: the audits of `faults`.

What was measured is in docs/faults.csv.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from segleak_utils.checks import numbers
from segleak_utils.studies import beyond, canaries, canary_audit, promises, proofs
from segleak_utils.studies.canary_audit import Audit
from segleak_utils.studies.faults import (
    LATE,
    MEAN,
    NONE,
    SHUFFLED,
    SILENT,
    WEAK,
    Double,
    image_moves,
    moves_key,
    shuffled,
    shuffled_scores,
)
from segleak_utils.studies.plan import ROOT, Plan
from segleak_utils.studies.rows import measured
from segleak_utils.victims import accountant
from segleak_utils.victims.accountant import Privacy

RESULTS = ROOT / "docs" / "faults.csv"
COUNTS = (100, 1_000, 10_000, 30_000)
BOUNDS = (
    "one run, (ε, δ)",
    "one run, curve",
    "curve, Clopper-Pearson",
    "curve, joint beta",
    "one threshold, Clopper-Pearson",
    "one threshold, joint beta",
)  # in the order of `proofs.proofs`


@dataclass(frozen=True)
class Row:
    """One fault: the audits at each number of canaries, and how large the canary was.

    `canary`: "norm 1", "norm 10" (in clip norms) or "image". `moves`: how far an image moves the
    sum, in clip norms.
    """

    fault: str
    canary: str
    audits: tuple[Audit, ...]
    moves: float | None = None

    def seen_with(self, method: int) -> int | None:
        """The fewest canaries from which on this bound (by its place) is above the promise."""
        found = None
        for of in reversed(self.audits):
            if of.proofs[method].epsilon_low <= of.privacy.epsilon:
                break
            found = of.n
        return found


class Line(BaseModel):
    """One fault and one bound: `seen_with` so many canaries and more it is above the promise.

    `epsilon_low` is what the largest number of `canaries` shows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: str
    canary: str
    moves: float | None
    noise_multiplier: float
    sampling_rate: float
    steps: int
    promised: float
    bound: str
    seen_with: int | None
    canaries: int
    epsilon_low: float
    key: str


def audited(
    privacy: Privacy,
    fault: str = NONE,
    *,
    times: float = canaries.LOUD,
    moves: float | None = None,
    counts: Sequence[int] = COUNTS,
    seed: int = 0,
) -> list[Audit]:
    """Audits of the double, one for each number of canaries.

    The attacker knows whether records are shuffled, and rehearses that.
    """
    of, out = promises.family(privacy), []
    score, drawn = canaries.scores, proofs.poisson
    if fault == SHUFFLED:
        score, drawn = shuffled_scores, shuffled
    for n in counts:
        numbers.count(n, "a number of canaries", canaries.LEAST)
        double = Double(privacy, 2 * n, fault=fault, moves=moves, seed=seed)
        choice = proofs.rehearse(privacy, n, score=score, drawn=drawn, of=of)
        seen = canaries.watch(double, n, seed=seed, times=times)
        out.append(canary_audit.judged(seen, choice, score=score, of=of, seed=seed))
    return out


def rows(
    plan: Plan | None, counts: Sequence[int] = COUNTS, *, sampled: bool = True, seed: int = 0
) -> list[Row]:
    """Every fault under the promise of `tuned-12`, sampling under that of `scratch-1`.

    Without `plan` no image is a canary; without `sampled` nothing is sampled. A minute in all.
    """
    full = accountant.promise(12, 1.0, 1.0, 16, 1e-4)
    out = []
    for fault in (NONE, WEAK, SILENT, LATE, MEAN):
        for times in (1.0, canaries.LOUD):
            found = audited(full, fault, times=times, counts=counts, seed=seed)
            out.append(Row(fault, f"norm {times:g}", tuple(found)))
    if plan is not None:
        for fault, moved in image_moves(plan).items():
            found = audited(full, moves=moved, counts=counts, seed=seed)
            out.append(Row(fault, "image", tuple(found), moved))
    if sampled:
        part = accountant.promise(1, 1.0, 1 / 8, 80, 1e-4)
        for fault in (NONE, SHUFFLED):
            found = audited(part, fault, counts=counts, seed=seed)
            out.append(Row(fault, f"norm {canaries.LOUD:g}", tuple(found)))
    return out


def lines(found: Sequence[Row], key: str = "") -> list[Line]:
    """The rows as a table's lines, one for each bound."""
    return [
        Line(
            fault=row.fault,
            canary=row.canary,
            moves=row.moves,
            noise_multiplier=(last := row.audits[-1]).privacy.noise_multiplier,
            sampling_rate=last.privacy.sampling_rate,
            steps=last.privacy.steps,
            promised=last.privacy.epsilon,
            bound=bound,
            seen_with=row.seen_with(k),
            canaries=last.n,
            epsilon_low=last.proofs[k].epsilon_low,
            key=key,
        )
        for row in found
        for k, bound in enumerate(BOUNDS)
    ]


def measure(plan: Plan, path: Path | None = None) -> list[Line]:
    """Every fault: prints the table, and writes its lines to `path` (``build/faults.csv``)."""
    found = lines(rows(plan), _short(plan))
    beyond.write(found, path or plan.build / "faults.csv")
    print(table(found))
    return found


def shipped(plan: Plan, path: Path = RESULTS) -> list[Line]:
    """What was measured, from docs/faults.csv.

    Raises FileNotFoundError, or ValueError for a damaged table, and for one of another public
    network, recipe or version than there is.
    """
    key = _short(plan)
    return measured(path, Line, lambda line: line.key == key, "epsilon --faults")


def _short(plan: Plan) -> str:
    text = json.dumps({k: str(v) for k, v in moves_key(plan).items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def table(found: Sequence[Line], bounds: Sequence[str] = BOUNDS) -> str:
    """A line for each fault, as Markdown: from how many canaries on each bound sees it."""
    out = [
        f"| fault | canary | promised (adding or removing) | {' | '.join(bounds)} |",
        "|" + "---|" * (3 + len(bounds)),
    ]
    groups: dict[tuple, dict[str, Line]] = {}
    for line in found:
        of = (line.fault, line.canary, line.moves, line.sampling_rate)
        groups.setdefault(of, {})[line.bound] = line
    for (fault, canary, moves, rate), by in groups.items():
        cells = [
            f"{by[b].seen_with:,}" if by[b].seen_with else f"- ({by[b].epsilon_low:.2f})"
            for b in bounds
        ]
        how = canary + (f", moves {moves:.2f}" if moves is not None else "")
        how += "" if rate == 1 else f", rate 1/{round(1 / rate)}"
        promised = next(iter(by.values())).promised
        out.append(f"| {fault} | {how} | {promised:.2f} | {' | '.join(cells)} |")
    return "\n".join(out)
