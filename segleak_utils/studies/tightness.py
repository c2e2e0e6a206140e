"""How tight the audit of DP-SGD is, and what an attacker who sees less has left of it.

Copies of our private trainings with gradient canaries: with the noise that was promised, with less
of it, and with members that are sampled. The attacker sees all noisy sums, or only the weights at
the end; with images for canaries, only the losses at the end. What was measured is in
docs/tightness.csv.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from segleak_utils.metrics import guessed, guesses_bound, one_run_gaussian_bound
from segleak_utils.studies import beyond, canaries, copied, epsilon, promises, proofs, protected
from segleak_utils.studies.cache import cached
from segleak_utils.studies.plan import ROOT, Plan
from segleak_utils.studies.proofs import Proof
from segleak_utils.studies.rows import measured
from segleak_utils.victims import accountant
from segleak_utils.victims.accountant import Privacy

VERSION = 1  # part of the cache's key and of the table's: raise it when a number changes
RESULTS = ROOT / "docs" / "tightness.csv"

SUMS = "all noisy sums"
WEIGHTS = "the final weights"
LOSSES = "the final losses"
MISLABELLED = "the final losses, images with another's mask"
ATTACKERS = (LOSSES, MISLABELLED, WEIGHTS, SUMS)


@dataclass(frozen=True)
class Run:
    """One copy of a training with gradient canaries; `added`: of its noise, so much."""

    variant: str
    noise_multiplier: float
    added: float
    seed: int


RUNS = (
    *(Run("tuned-12", 12.0, 1.0, seed) for seed in range(3)),
    *(Run("tuned-12", 3.0, 1.0, seed) for seed in range(4)),
    *(Run("tuned-12", 12.0, 0.75, seed) for seed in range(3)),
    *(Run("scratch-1", 1.0, 1.0, seed) for seed in range(3)),
)


class Line(BaseModel):
    """One bound that one attacker on one training proves; `promised` is that of the accountant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str
    noise_multiplier: float
    added: float
    sampling_rate: float
    steps: int
    seed: int
    canaries: int
    attacker: str
    bound: str
    promised: float
    delta: float
    epsilon_low: float
    largest: float
    counts: str
    key: str

    @property
    def share(self) -> float:
        return self.epsilon_low / self.promised


# ------------------------------------------------------------------------------------------ one run


def watched(plan: Plan, run: Run, n: int = canaries.N_CANARIES) -> dict[str, NDArray]:
    """Scores of all attackers on one run: trained once (a minute), and cached.

    "sums", "weights" [n] and of both "control" [m], "included" [n], "promise" (epsilon).
    """
    step = copied.copy_of(
        plan,
        run.variant,
        noise_multiplier=run.noise_multiplier,
        noise_times=run.added,
        seed=run.seed,
    )
    key = _key(plan, run) | {"n": n, "times": canaries.LOUD, "privacy": asdict(step.privacy)}

    def compute() -> dict[str, NDArray]:
        seen = canaries.watch(step, n, seed=run.seed, progress=plan.progress)
        way = (step.started - step.weights()) / step.lr
        spare = np.setdiff1d(np.arange(step.n_weights), seen.weights)[: 2 * n]
        return {
            "sums": canaries.scores(seen.sums, seen.privacy),
            "sums control": canaries.scores(seen.control, seen.privacy),
            "weights": way[seen.weights],
            "weights control": way[spare],
            "included": seen.included,
        }

    return cached(plan.build, "gradient canaries", key, compute) | {
        "promise": np.array([step.privacy.epsilon])
    }


def _key(plan: Plan, run: Run) -> dict[str, object]:
    how = protected.TRAININGS[run.variant]
    seen, held_out = protected.public_scenes(plan)
    return {
        "version": VERSION,
        "run": run,
        "public": protected.public(plan).fingerprint,
        "scenes": seen.digest + held_out.digest,
        "recipe": how.recipe(plan),
        "private": how.private,
    }


def _short(plan: Plan, run: Run) -> str:
    text = json.dumps({k: str(v) for k, v in _key(plan, run).items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _current(plan: Plan) -> Callable[[Line], bool]:
    """Whether a line was measured with today's networks, recipes and version."""
    key_of = functools.cache(lambda run: _short(plan, run))
    return lambda line: line.key == key_of(_run_of(line))


def _privacy(plan: Plan, run: Run) -> Privacy:
    how = protected.TRAININGS[run.variant]
    public, private = how.schedule(plan), how.private
    return accountant.promise(
        run.noise_multiplier, private.clip_norm, public.sampling_rate, public.steps, private.delta
    )


def lines_of(plan: Plan, run: Run, n: int = canaries.N_CANARIES) -> list[Line]:
    """All bounds of one run: of the noisy sums and, if nobody is sampled, of the final weights.

    The way of a weight by Adam is rehearsed as the sums are.
    """
    found, privacy = watched(plan, run, n), _privacy(plan, run)
    of = promises.family(privacy)
    attackers = {SUMS: ("sums", canaries.scores)}
    if privacy.sampling_rate == 1:
        attackers[WEIGHTS] = ("weights", canaries.adam_path)
    out = []
    for attacker, (name, score) in attackers.items():
        choice = proofs.rehearse(privacy, n, score=score, of=of)
        proved = proofs.proofs(found[name], found["included"], privacy, choice, of=of)
        out += [_line(plan, run, privacy, n, attacker, proof) for proof in proved]
    return out


def _line(plan: Plan, run: Run, privacy: Privacy, n: int, attacker: str, proof: Proof) -> Line:
    return Line(
        **asdict(run),
        sampling_rate=privacy.sampling_rate,
        steps=privacy.steps,
        canaries=n,
        attacker=attacker,
        bound=proof.method,
        promised=privacy.epsilon,
        delta=privacy.delta,
        epsilon_low=proof.epsilon_low,
        largest=proof.largest,
        counts=proof.counts,
        key=_short(plan, run),
    )


def image_lines(plan: Plan, run: Run = RUNS[0], n: int = epsilon.N_CANARIES) -> list[Line]:
    """The bounds of one run from the final losses of images, each in by a coin.

    Only those of one run: images share all weights, so hits on them are no independent trials.
    """
    privacy, out = _privacy(plan, run), []
    for attacker, wrong in ((LOSSES, False), (MISLABELLED, True)):
        scores, included, _ = epsilon.canary_scores(plan, run.variant, n=n, mislabelled=wrong)
        right, made, n = guessed(scores, included, round(epsilon.GUESSED * n))
        counts = f"{right} of {made} guesses right"
        for method, bound in (
            (proofs.STEINKE, guesses_bound),
            (proofs.ONE_RUN.format("Gaussian DP"), one_run_gaussian_bound),
        ):
            low, most = (bound(n, made, r, privacy.delta) for r in (right, made))
            proof = Proof(method, low, most, counts)
            out.append(_line(plan, run, privacy, n, attacker, proof))
    return out


def measure(
    plan: Plan, path: Path | None = None, *, images: bool = True, known: Path = RESULTS
) -> list[Line]:
    """Every run, and the images: half an hour on one core.

    Lines of `known` that were measured with these networks, recipes and this version are taken as
    they are. Prints the table, and writes the lines to `path` (``build/tightness.csv``).
    """
    kept = [*filter(_current(plan), beyond.read(known, Line))] if known.is_file() else []
    found: list[Line] = []
    for run in RUNS:
        there = [x for x in kept if _run_of(x) == run and x.attacker in (SUMS, WEIGHTS)]
        found += there or lines_of(plan, run)
    if images:
        found += [x for x in kept if x.attacker in (LOSSES, MISLABELLED)] or image_lines(plan)
    beyond.write(found, path or plan.build / "tightness.csv")
    print(table(found))
    return found


def shipped(plan: Plan, path: Path = RESULTS) -> list[Line]:
    """What was measured, from docs/tightness.csv.

    Raises FileNotFoundError, or ValueError for a damaged table, and for one of another public
    network, recipe or version than there is.
    """
    return measured(path, Line, _current(plan), "epsilon --tight")


def by_attacker(found: Sequence[Line]) -> dict[str, Line]:
    """What each attacker proves under the promise of `tuned-12`, of the first run: a figure.

    By the bound that was named before, not the largest: the whole curve, with Clopper-Pearson for
    weights and sums, in one run for images.
    """
    first = [line for line in found if _run_of(line) == RUNS[0]]
    out = {}
    for attacker in ATTACKERS:
        by = {kind(line.bound): line for line in first if line.attacker == attacker}
        if by:
            out[attacker] = by.get("curve, Clopper-Pearson") or by["one run, curve"]
    return out


def _run_of(line: Line) -> Run:
    return Run(line.variant, line.noise_multiplier, line.added, line.seed)


def table(found: Sequence[Line]) -> str:
    """A line for each training and attacker, as Markdown; over seeds, lowest and highest."""
    kinds = ("one run, (ε, δ)", "one run, curve", "curve, Clopper-Pearson", "curve, joint beta")
    kinds += ("one threshold",)
    groups: dict[tuple, list[Line]] = {}
    for x in found:
        # a line from the file has four digits
        key = (x.variant, x.noise_multiplier, x.added, round(x.promised, 4), x.attacker)
        groups.setdefault(key, []).append(x)
    lines = [
        f"| training | promised (adding or removing) | attacker | canaries | {' | '.join(kinds)} |",
        "|" + "---|" * (4 + len(kinds)),
    ]
    for (variant, noise, added, promised, attacker), group in groups.items():
        cells = []
        for name in kinds:
            values = sorted(x.epsilon_low for x in group if kind(x.bound) == name)
            ends = sorted({f"{value:.2f}" for value in values[:1] + values[-1:]})
            cells.append("-".join(ends) if values else "")
        less = "" if added == 1 else f", adds {added * noise:g}"
        lines.append(
            f"| {variant}, noise multiplier {noise:g}{less} | {promised:.2f} | {attacker} | "
            f"{group[0].canaries:,} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def kind(bound: str) -> str:
    """The kind of a bound, whatever curve it is held against; "" for one that no table has."""
    if bound in (proofs.STEINKE, proofs.ONE, proofs.ONE_JOINT):
        return {proofs.STEINKE: "one run, (ε, δ)", proofs.ONE: "one threshold"}.get(bound, "")
    if bound.startswith("one run"):
        return "one run, curve"
    return "curve, joint beta" if bound.endswith("joint beta") else "curve, Clopper-Pearson"
