"""Gradient canaries: what an attacker who sees all noisy sums of one training proves of epsilon.

A canary is a record whose gradient lies along one weight that no other canary has. Each is in by a
fair coin; the attacker looks at its weight in every noisy sum. None has a part in another's score,
so one training is as good as thousands with one canary each. What is audited is a *copy* of a
training, on weights that nobody will use. Nasr et al., USENIX Security 2023; Steinke et al.,
NeurIPS 2023; Mahloujifar et al., ICML 2025.

A training is audited through two methods and two numbers, see `Step`; `Copy` is our own. Threshold
and number of guesses are fixed on a *rehearsal*, sums that are drawn as the training has promised.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta
from torch import Tensor
from tqdm.std import tqdm

from segleak_utils.checks import numbers
from segleak_utils.data import Scenes
from segleak_utils.metrics import (
    epsilon_bound,
    gaussian_curve,
    gaussian_epsilon,
    guessed,
    guesses_bound,
    joint_beta_bound,
    loss_curve,
    lowest,
    one_run_excess,
    refuted_by,
)
from segleak_utils.metrics.tradeoff import LARGEST_MU, Curve
from segleak_utils.studies import protected
from segleak_utils.studies.plan import Plan
from segleak_utils.victims import Recipe, dpsgd
from segleak_utils.victims.dpsgd import DPRecipe, Privacy

N_CANARIES = 10_000
LOUD = 10.0  # a canary's norm in clip norms: one of norm 1 cannot tell whether anybody clips
LEAST = 64  # canaries, and weights without one, from which the noise is learned
REHEARSED = 20_000  # canaries in, and as many out, on which threshold and guesses are chosen
CHUNK = 2**23  # numbers in memory at once, where canaries are written out as rows
# Of the noise that was promised, divided by that of the curves that are compared.
STRICTEST, LAXEST = 1 / 20, 4
NOT_REFUTED, REFUTED = 0, 3  # exit codes; 3 is that of an audit that fails


# --------------------------------------------------------------- what is audited, and through what


@dataclass(frozen=True)
class Canaries:
    """Records of one step: record j has the gradient `norm` along weight `weights[j]`, else 0."""

    weights: NDArray[np.int64]
    norm: float
    n_weights: int

    def __len__(self) -> int:
        return len(self.weights)

    def rows(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Their per-sample gradients written out, float [records, n_weights].

        >>> Canaries(np.array([2, 0]), 5.0, 3).rows()
        tensor([[0., 0., 5.],
                [5., 0., 0.]])
        """
        at = torch.from_numpy(self.weights[start:stop])
        rows = torch.zeros(len(at), self.n_weights)
        rows[torch.arange(len(at)), at] = self.norm
        return rows

    def chunks(self) -> Iterator[Tensor]:
        """`rows` in parts that fit into memory."""
        size = max(1, CHUNK // self.n_weights)
        for start in range(0, len(self), size):
            yield self.rows(start, start + size)


class Step(Protocol):
    """A private training, step by step. It promises `privacy` after `privacy.steps` steps.

    `sample` says which of n further records the training's own sampler takes for the next step:
    bool [n]. `step` takes that step with the canaries that were drawn among its records, through
    its own clipping and noise, and returns the noisy sum that its optimiser is given, [n_weights],
    in any unit. What the own members add may be subtracted, as the attacker knows them; else it
    blurs the picture, and less is proved.
    """

    privacy: Privacy
    n_weights: int

    def sample(self, n: int) -> ArrayLike: ...

    def step(self, canaries: Canaries) -> ArrayLike: ...


@dataclass(frozen=True)
class Seen:
    """What the attacker saw: of each step, the sum at each canary's weight, in clip norms.

    `sums`: float [steps, n], in units in which the noise has its promised size. `included`: bool
    [n], the coins. `control`: the same of weights without a canary, float [steps, m].
    """

    sums: NDArray[np.float64]
    included: NDArray[np.bool_]
    control: NDArray[np.float64]
    weights: NDArray[np.int64]
    privacy: Privacy


def watch(
    step: Step, n: int = N_CANARIES, *, seed: int = 0, times: float = LOUD, progress: bool = False
) -> Seen:
    """Run a training with n canaries, each in by a fair coin, and look at their weights.

    `times`: the canaries' norm in clip norms. What is left of the weights teaches the attacker the
    size of the noise, so that a sum in any unit will do. Raises ValueError for too few weights or
    canaries, for a training without noise, and for sums that are not finite or of another length.
    """
    privacy, n = step.privacy, numbers.count(n, "n", LEAST)
    times = numbers.real(times, "times", 0, ends="(]")
    if not privacy.noise_multiplier > 0:
        raise ValueError("the noise multiplier is 0: nothing is promised that could be refuted")
    n_weights = numbers.count(step.n_weights, "n_weights", 1)
    if n_weights < n + LEAST:
        raise ValueError(
            f"{n_weights} weights for {n} canaries; expected at least {n + LEAST}, one for each "
            f"and {LEAST} without: use fewer canaries"
        )
    rng = np.random.default_rng(numbers.count(seed, "seed"))
    places = rng.permutation(n_weights)
    own, spare = places[:n], places[n : 2 * n]
    included = rng.random(n) < 0.5
    members = own[included]
    sums, control = [], []
    for t in tqdm(range(privacy.steps), desc="canaries", unit="step", disable=not progress):
        drawn = np.asarray(step.sample(len(members)))
        if drawn.dtype != bool or drawn.shape != members.shape:
            raise ValueError(
                f"sample({len(members)}) gave {drawn.dtype} {list(drawn.shape)}; expected as many "
                "booleans"
            )
        found = np.asarray(
            step.step(Canaries(members[drawn], times * privacy.clip_norm, n_weights)), np.float64
        )
        if found.shape != (n_weights,) or not np.isfinite(found).all():
            raise ValueError(
                f"step {t + 1} gave a sum {list(found.shape)} with {(~np.isfinite(found)).sum()} "
                f"values that are not finite; expected {n_weights} numbers"
            )
        # without any noise there is a unit left: nothing is infinitely large
        size = max(found[spare].std(), 1e-6 * np.abs(found).max(), 1e-300)
        found = (found - found[spare].mean()) * (privacy.noise_multiplier / size)
        sums.append(found[own])
        control.append(found[spare])
    return Seen(np.array(sums), included, np.array(control), own, privacy)


def scores(sums: NDArray[np.float64], privacy: Privacy) -> NDArray[np.float64]:
    """The log-likelihood ratio of "in" against "out" from all steps: [steps, n] to [n].

    With all members in each step it rises with the plain sum.
    """
    q, noise = privacy.sampling_rate, privacy.noise_multiplier
    if q == 1:
        return (2 * sums - 1).sum(0) / (2 * noise**2)
    drawn = math.log(q) + (2 * sums - 1) / (2 * noise**2)
    return np.logaddexp(math.log1p(-q), drawn).sum(0)


def adam_path(sums: NDArray[np.float64], privacy: Privacy) -> NDArray[np.float64]:
    """How far Adam goes against its gradient in all, [steps, n] to [n]: all that weights show.

    Adam with its usual rates of decay: the way to the final weights, in learning rates.
    """
    first, second, way = np.zeros(sums.shape[1]), np.zeros(sums.shape[1]), np.zeros(sums.shape[1])
    for t, gradient in enumerate(sums, 1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        way += first / (1 - 0.9**t) / np.sqrt(second / (1 - 0.999**t) + 1e-16)
    return way


# ---------------------------------------------------------------- the promises that are compared


@dataclass(frozen=True)
class Family:
    """The promises of such trainings, from the strictest to the laxest, along one number."""

    name: str
    curve: Callable[[float], Curve]
    epsilon: Callable[[float], float]
    low: float
    high: float
    tolerance: float

    def bound(self, excess: Callable[[Curve], float]) -> float:
        """The epsilon of the strictest promise that is not refuted; 0 where none is."""
        at = lowest(lambda x: excess(self.curve(x)), self.low, self.high, tolerance=self.tolerance)
        return self.epsilon(at) if at > self.low else 0.0


def family(privacy: Privacy) -> Family:
    """Gaussian differential privacy if all members are in each step, else the accountant's curve.

    Along mu, or along the noise: how much less of it there is than was promised.
    """
    q, steps, delta, noise = (
        privacy.sampling_rate,
        privacy.steps,
        privacy.delta,
        privacy.noise_multiplier,
    )
    if q == 1:
        return Family(
            "Gaussian DP",
            gaussian_curve,
            lambda mu: gaussian_epsilon(mu, delta),
            0.0,
            LARGEST_MU,
            1e-9,
        )
    least = noise
    while least / 1.1 >= dpsgd.SMALLEST_NOISE and dpsgd.grid_points(
        least / 1.1, q, steps, delta
    ) < (2**21):
        least /= 1.1
    least = max(least, noise / LAXEST)
    low, high = max(noise / dpsgd.LARGEST_NOISE, STRICTEST), noise / least
    points = np.concatenate([np.geomspace(low, 0.5, 6)[:-1], np.geomspace(0.5, high, 24)])
    return Family(
        "accountant's curve",
        lambda x: _between(points, x, lambda at: _sampled(noise / at, q, steps, delta)),
        lambda x: dpsgd.promise(noise / x, privacy.clip_norm, q, steps, delta).epsilon,
        low,
        high,
        1e-4,
    )


def _between(points: NDArray[np.float64], x: float, of: Callable[[float], Curve]) -> Curve:
    """The curve at x, straight between those at the two points around it: each takes a second."""
    k = int(np.clip(np.searchsorted(points, x), 1, len(points) - 1))
    below, above = of(float(points[k - 1])), of(float(points[k]))
    share = (x - points[k - 1]) / (points[k] - points[k - 1])
    return lambda fpr: (1 - share) * below(fpr) + share * above(fpr)


@functools.lru_cache(maxsize=256)
def _sampled(noise: float, rate: float, steps: int, delta: float) -> Curve:
    losses, chances = dpsgd.privacy_loss(noise, rate, steps, delta)
    some = chances > 0
    return loss_curve(losses[some], chances[some])


def both_ways(curve: Curve) -> Curve:
    """The larger of a curve and its mirror image: what bounds hits *and* rejections."""
    grid = np.concatenate([[0], np.logspace(-12, -2, 200), np.linspace(0.01, 1, 2000)])
    allowed = curve(grid)
    order = np.argsort(1 - allowed, kind="stable")
    alarms, hits = (1 - allowed)[order], (1 - grid)[order]
    return lambda fpr: np.maximum(curve(np.asarray(fpr)), np.interp(fpr, alarms, hits, right=1.0))


# ------------------------------------------------------------------------------------ the rehearsal


@dataclass(frozen=True)
class Choice:
    """What is fixed before a canary is scored: a threshold, and each bound's number of guesses."""

    threshold: float
    guesses: int  # (epsilon, delta), Steinke et al.
    guesses_curve: int  # the whole curve, Mahloujifar et al.


Score = Callable[[NDArray[np.float64], Privacy], NDArray[np.float64]]
Drawn = Callable[[np.random.Generator, Privacy, int], NDArray[np.bool_]]


def poisson(rng: np.random.Generator, privacy: Privacy, n: int) -> NDArray[np.bool_]:
    """Which of n records are in which step, bool [steps, n]: each by itself."""
    return rng.random((privacy.steps, n)) < privacy.sampling_rate


def rehearse(
    privacy: Privacy,
    n: int = N_CANARIES,
    *,
    score: Score = scores,
    drawn: Drawn = poisson,
    seed: int = 1,
    level: float = 0.95,
    of: Family | None = None,
) -> Choice:
    """Choose threshold and guesses on sums that are drawn as the training has promised.

    The threshold and the shares of guesses with the largest bounds, if n canaries did as those of
    the rehearsal. No canary of the audit has a part in it, so nothing is spent. `drawn`: as the
    attacker believes that records are sampled, where that is not as promised.
    """
    rng, of = np.random.default_rng(seed), of or family(privacy)
    shape = privacy.steps, REHEARSED
    noise = privacy.noise_multiplier * rng.standard_normal((2, *shape))
    inside = score(noise[0] + drawn(rng, privacy, REHEARSED), privacy)
    outside = score(noise[1], privacy)
    both = np.concatenate([inside, outside])
    thresholds = np.quantile(both, np.concatenate([[0.002, 0.005], np.linspace(0.01, 0.995, 198)]))
    half = n // 2
    while True:
        hits, alarms = (
            np.rint(half * (group[:, None] > thresholds).mean(0)) for group in (inside, outside)
        )
        tail = (1 - level) / 2
        tpr = np.where(hits > 0, beta.ppf(tail, np.maximum(hits, 1), half - hits + 1), 0.0)
        fpr = np.where(
            alarms < half, beta.ppf(1 - tail, alarms + 1, np.maximum(half - alarms, 1)), 1.0
        )

        def excess(x: float, tpr=tpr, fpr=fpr) -> NDArray:
            return tpr - of.curve(x)(fpr)

        at = lowest(lambda x: float(excess(x).max()), of.low, of.high, tolerance=of.tolerance)
        if at > of.low or half > 100 * REHEARSED:
            break
        half *= 4  # so few canaries prove nothing at any threshold: which is best for more of them?
    threshold = float(thresholds[int(np.argmax(excess(at)))])
    coins = np.arange(2 * REHEARSED) < REHEARSED
    best = {"plain": (0.0, 2), "curve": (0.0, 2)}
    for share in np.geomspace(0.01, 1, 12):
        right, made, _ = guessed(both, coins, max(2, round(share * 2 * REHEARSED)))
        guesses = max(2, round(share * n))
        right = min(guesses, math.floor(guesses * right / max(made, 1)))
        plain = guesses_bound(n, guesses, right, privacy.delta, level)
        # by Gaussian curves: they are quick, and only say how many to guess
        curve = lowest(
            lambda mu, g=guesses, r=right: one_run_excess(gaussian_curve(mu), n, g, r, level),
            0,
            LARGEST_MU,
        )
        for name, found in (("plain", plain), ("curve", curve)):
            best[name] = max(best[name], (found, guesses))
    return Choice(threshold, best["plain"][1], best["curve"][1])


# --------------------------------------------------------------------------------------- the bounds

STEINKE = "one run, (ε, δ)"
ONE_RUN = "one run, {}"
CLOPPER = "{}, Clopper-Pearson"
JOINT = "{}, joint beta"
ONE = "one threshold, Clopper-Pearson"
ONE_JOINT = "one threshold, joint beta"


@dataclass(frozen=True)
class Proof:
    """One bound: `largest` is what a perfect attack on as many canaries would prove.

    `decides`: the audit's verdict goes by this one, which was named before.
    """

    method: str
    epsilon_low: float
    largest: float
    counts: str
    decides: bool = False


def proofs(
    found: NDArray[np.float64],
    included: NDArray[np.bool_],
    privacy: Privacy,
    choice: Choice,
    *,
    level: float = 0.95,
    of: Family | None = None,
) -> list[Proof]:
    """Every bound from the canaries' scores [n] and their coins [n].

    The verdict is that of the whole curve by Clopper-Pearson: the only one of them that is both
    tight and exact at any number of canaries.
    """
    of, delta = of or family(privacy), privacy.delta
    found, included = numbers.scored(found, included)
    accused = found > choice.threshold
    n, m = int(included.sum()), int((~included).sum())
    hits, alarms = int(accused[included].sum()), int(accused[~included].sum())
    said = f"hits {hits}/{n}, alarms {alarms}/{m}"
    out = []

    def add(method: str, bound: Callable[[bool], float], counts: str, decides=False) -> None:
        out.append(Proof(method.format(of.name), bound(False), bound(True), counts, decides))

    def one_run(guesses: int, bound: Callable[[int, int, int], float], method: str) -> None:
        right, made, of_n = guessed(found, included, guesses)
        counts = f"{right} of {made} guesses right"
        add(method, lambda best: bound(of_n, made, made if best else right), counts)

    one_run(
        choice.guesses, lambda n, made, right: guesses_bound(n, made, right, delta, level), STEINKE
    )
    one_run(
        choice.guesses_curve,
        lambda n, made, right: of.bound(
            lambda curve: one_run_excess(
                curve if privacy.sampling_rate == 1 else both_ways(curve), n, made, right, level
            )
        ),
        ONE_RUN,
    )
    for method, interval in ((CLOPPER, "clopper-pearson"), (JOINT, "joint-beta")):
        add(
            method,
            lambda best, interval=interval: of.bound(
                lambda curve: refuted_by(
                    curve,
                    *((n, n, 0, m) if best else (hits, n, alarms, m)),
                    level,
                    interval=interval,
                )
            ),
            said,
            decides=method == CLOPPER,
        )
    for method, bound in ((ONE, epsilon_bound), (ONE_JOINT, joint_beta_bound)):
        add(
            method,
            lambda best, bound=bound: bound(
                *((n, n, 0, m) if best else (hits, n, alarms, m)), delta, level
            ),
            said,
        )
    return out


# ---------------------------------------------------------------------------------------- the audit


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
        f"REFUTED: ε ≥ {low:.2f} was shown, {promised:.2f} was promised. Training, accountant or "
        "audit has a bug."
        if found.refuted
        else f"Not refuted: ε ≥ {low:.2f} was shown, {promised:.2f} was promised."
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
            "segleak_utils.victims.dpsgd.promise(...) returns"
        )
    return step


# ------------------------------------------------------------------------------ a copy of our own


class Copy:
    """A copy of a training of `victims.dpsgd`: its network, Opacus' optimiser and loader, Adam.

    Canaries are added where the images' gradients are: Opacus clips them, sums them up and adds its
    noise. What the images add is subtracted from what is seen.
    """

    def __init__(
        self,
        recipe: Recipe,
        private: DPRecipe,
        members: Scenes,
        *,
        seed: int = 0,
        start: Mapping[str, Tensor] | None = None,
        noise_times: float = 1.0,
    ) -> None:
        """`noise_times`: a fault; so much of the noise that is promised is added."""
        self._parts = dpsgd.prepare(recipe, private, members, seed=seed, start=start)
        self._seed, self._physical, self.lr = seed, private.physical, private.lr
        optimiser = self._parts.optimiser
        optimiser.noise_multiplier *= noise_times
        self._add_noise = optimiser.add_noise
        optimiser.add_noise = self._with_canaries
        optimiser.attach_step_hook(self._look)
        self.privacy = self._parts.promised
        self.n_weights = sum(p.numel() for p in optimiser.params)
        self._steps = self._run()
        self._coins = torch.Generator().manual_seed(seed + 77)
        self._sum: Tensor | None = None
        self.started = self.weights()

    def weights(self) -> NDArray[np.float64]:
        """The weights that are trained, [n_weights]."""
        params = self._parts.optimiser.params
        return torch.cat([p.detach().flatten().cpu() for p in params]).double().numpy()

    def sample(self, n: int) -> NDArray[np.bool_]:
        """By Opacus' own sampler, at the rate of the images."""
        sampler = self._parts.loader.batch_sampler
        one = type(sampler)(
            num_samples=n, sample_rate=sampler.sample_rate, generator=self._coins, steps=1
        )
        drawn = np.zeros(n, bool)
        drawn[next(iter(one))] = True
        return drawn

    def step(self, canaries: Canaries) -> NDArray[np.float64]:
        self._canaries, self._sum = canaries, None
        while self._sum is None:
            next(self._steps)
        return self._sum.double().numpy()

    def _run(self) -> Iterator[Tensor]:
        parts, epoch = self._parts, 0
        while True:
            with torch.random.fork_rng(devices=[]):
                parts.seed(self._seed, epoch)
                yield from dpsgd.physical_steps(
                    parts.model, parts.optimiser, parts.loader, self._physical
                )
            epoch += 1

    def _with_canaries(self) -> None:
        """Opacus' own clipping and summing, before its noise.

        Tensor by tensor: elsewhere a canary's gradient is 0 and adds nothing to its norm, and rows
        over all weights would need gigabytes.
        """
        optimiser, records = self._parts.optimiser, self._canaries
        params = list(optimiser.params)
        self._others = torch.cat([p.summed_grad.flatten() for p in params])
        ends = np.cumsum([p.numel() for p in params])
        tensor = np.searchsorted(ends, records.weights, side="right")
        for k in np.unique(tensor):
            own, start = params[k], ends[k] - params[k].numel()
            for p in params:
                p.requires_grad_(p is own)
            part = Canaries(records.weights[tensor == k] - start, records.norm, own.numel())
            for rows in part.chunks():
                own.grad_sample = rows.to(own.device).reshape(len(rows), *own.shape)
                optimiser.clip_and_accumulate()
        for p in params:
            p.requires_grad_(True)
        self._add_noise()

    def _look(self, optimiser) -> None:
        seen = torch.cat([p.grad.flatten() for p in optimiser.params])
        scale = optimiser.expected_batch_size * optimiser.accumulated_iterations
        self._sum = (seen * scale - self._others).cpu()


IMAGES = 16  # images in a step of a copy: the path is the training's, the time is not


def copy_of(
    plan: Plan,
    variant: str = "tuned-12",
    *,
    noise_multiplier: float | None = None,
    noise_times: float = 1.0,
    seed: int = 0,
) -> Copy:
    """A copy of a variant's training on scenes of the *public* city.

    Rate, steps, noise, clip norm, network and Adam are the variant's; a step has 16 images on
    average, not hundreds. Raises ValueError for a variant that is not trained by DP-SGD.
    """
    how = protected.TRAININGS.get(variant)
    if how is None or how.private is None or how.private.noise_multiplier == 0:
        known = [
            k for k, t in protected.TRAININGS.items() if t.private and t.private.noise_multiplier
        ]
        raise ValueError(f"variant {variant!r}; expected one of {', '.join(known)}")
    everyone = (
        protected.SCRATCH_TIMES * plan.sizes.n_members if not how.tuned else (plan.sizes.n_members)
    )
    times = math.ceil(everyone / how.private.batch)  # steps an epoch
    noise = how.private.noise_multiplier if noise_multiplier is None else noise_multiplier
    private = DPRecipe(**how.private.model_dump() | {"batch": IMAGES, "noise_multiplier": noise})
    seen, held_out = protected.public_scenes(plan)
    some = (held_out + seen).subset(range(IMAGES * times))
    start = protected.public(plan).model.state_dict() if how.tuned else None
    return Copy(how.recipe(plan), private, some, seed=seed, start=start, noise_times=noise_times)
