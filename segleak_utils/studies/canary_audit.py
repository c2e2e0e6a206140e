"""The audit of a private training by gradient canaries: its verdict, its table, its command."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segleak_utils.metrics import refuted_by
from segleak_utils.studies.canaries import LOUD, N_CANARIES, Seen, Step, scores, watch
from segleak_utils.studies.copied import copy_of
from segleak_utils.studies.plan import Plan
from segleak_utils.studies.promises import Family, family
from segleak_utils.studies.proofs import Choice, Proof, Score, proofs, rehearse
from segleak_utils.victims.accountant import Privacy

NOT_REFUTED, REFUTED = 0, 3  # exit codes; 3 is that of an audit that fails


@dataclass(frozen=True)
class Audit:
    """What canaries prove of a training; `control`: weights without one, which prove nothing."""

    privacy: Privacy
    n: int
    level: float
    proofs: tuple[Proof, ...]
    control: float

    @property
    def verdict(self) -> Proof:
        return next(proof for proof in self.proofs if proof.decides)

    @property
    def refuted(self) -> bool:
        return self.verdict.epsilon_low > self.privacy.epsilon

    @property
    def exit_code(self) -> int:
        return REFUTED if self.refuted else NOT_REFUTED


def audit(
    step: Step,
    n: int = N_CANARIES,
    *,
    seed: int = 0,
    times: float = LOUD,
    level: float = 0.95,
    progress: bool = False,
) -> Audit:
    """Run a training with n gradient canaries and hold what they prove against its promise."""
    of = family(step.privacy)
    choice = rehearse(step.privacy, n, level=level, of=of)
    seen = watch(step, n, seed=seed, times=times, progress=progress)
    return judged(seen, choice, of=of, level=level, seed=seed)


def judged(
    seen: Seen,
    choice: Choice,
    *,
    score: Score = scores,
    of: Family | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Audit:
    """The bounds of what was seen; the control has coins that were never used."""
    of, privacy = of or family(seen.privacy), seen.privacy
    found = proofs(score(seen.sums, privacy), seen.included, privacy, choice, level=level, of=of)
    unused = np.random.default_rng(seed + 1).random(seen.control.shape[1]) < 0.5
    accused = score(seen.control, privacy) > choice.threshold
    counts = (
        int(accused[unused].sum()),
        max(1, int(unused.sum())),
        int(accused[~unused].sum()),
        max(1, int((~unused).sum())),
    )
    nothing = of.bound(lambda curve: refuted_by(curve, *counts, level))
    return Audit(privacy, len(seen.included), level, tuple(found), nothing)


def table(found: Audit) -> str:
    """An audit as Markdown, and its verdict in a sentence."""
    lines = [
        f"| bound ({100 * found.level:g} %, {found.n} canaries) | ε at least | counts | at most |",
        "|---|---|---|---|",
    ]
    for proof in found.proofs:
        name = f"**{proof.method}**" if proof.decides else proof.method
        lines.append(f"| {name} | {proof.epsilon_low:.2f} | {proof.counts} | {proof.largest:.2f} |")
    low, promised = found.verdict.epsilon_low, found.privacy.epsilon
    verdict = (
        f"REFUTED: ε ≥ {low:.2f} was shown, {promised:.2f} was promised for adding or removing one "
        "record. Training, accountant or audit has a bug."
        if found.refuted
        else f"Not refuted: ε ≥ {low:.2f} was shown, {promised:.2f} was promised for adding or "
        "removing one record."
    )
    control = f"Weights without a canary show ε ≥ {found.control:.2f}; expected 0."
    return "\n".join([*lines, "", f"{verdict} {control}"])


def command(plan: Plan, n: int, place: str | None = None) -> int:
    """Audit the training at `place` (`load`), or a copy of `tuned-12`; print, return an exit code.

    0: not refuted; 3: more leaks than was promised.
    """
    step = load(place) if place else copy_of(plan)
    print(f"Promised: {step.privacy}.", flush=True)
    found = audit(step, n, progress=plan.progress)
    print(table(found))
    return found.exit_code


def load(place: str) -> Step:
    """A training of the user's, ``FILE.py:NAME``: what NAME() returns there.

    Runs that file. Raises FileNotFoundError where there is none, ValueError for another form, a
    name that is not in it, and what is no `Step`.
    """
    path, colon, name = place.rpartition(":")
    if not colon or not name.isidentifier():
        raise ValueError(f"--step {place!r}; expected FILE.py:NAME, NAME() being the training")
    if not Path(path).is_file():
        raise FileNotFoundError(f"--step {place}: there is no file {path}")
    spec = importlib.util.spec_from_file_location("segleak_user_step", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--step {place}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        raise ValueError(f"--step {place}: {path} has no function or class {name}")
    step = getattr(module, name)()
    lacks = [part for part in ("privacy", "n_weights", "sample", "step") if not hasattr(step, part)]
    if lacks:
        raise ValueError(f"--step {place}: what {name}() returned has no {' and no '.join(lacks)}")
    if not isinstance(step.privacy, Privacy):
        raise ValueError(
            f"--step {place}: privacy is a {type(step.privacy).__name__}; expected what "
            "segleak_utils.victims.accountant.promise(...) returns"
        )
    return step
