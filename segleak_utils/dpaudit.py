"""What an attack proves of epsilon, beside what DP-SGD promises: a lower bound under an upper one.

(epsilon, delta) bounds every attack's hits by its false alarms, so an attack that does better
refutes the promise. Jagielski, Ullman and Oprea, "Auditing differentially private machine
learning", NeurIPS 2020; Nasr et al., "Adversary instantiation", IEEE S&P 2021; Steinke, Nasr and
Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023. The other way round nothing
follows: a lower bound far below the promise may mean a weak attack or few images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import beta, binom, binomtest

from segleak_utils import (
    attacks,
    beyond,
    calibration,
    difficulty,
    experiment,
    frontier,
    metrics,
    protected,
)
from segleak_utils.contests import GLOBAL, LOGISTIC
from segleak_utils.data import Scenes, synthstreets
from segleak_utils.difficulty import CALIBRATED
from segleak_utils.dpsgd import DPRecipe, train_private_victim
from segleak_utils.experiment import CITY, Network, Plan, cached

VERSION = 1  # part of every cache key: raise it when cached numbers change
DIFFERENCE = "global loss minus the public network's"
VARIANTS = ("", "tuned-0", "tuned-12", "scratch-1")  # "" is the plain victim
CANARY_START = 1_000_000  # scenes that no victim, shadow or non-member has
N_CANARIES = 600
GUESSED = 0.25  # share of the canaries that is guessed; fixed before any canary was scored
UNFAIR = 1e-6  # fair coins fall so unevenly once in a million audits
CAVEAT = (
    "A lower bound far below the promise does not prove the promise loose: the attack may be weak "
    "and the images few. 'At most' is what a perfect attack would show on as many images. Each row "
    "holds at its own level, so among 20 rows one may err; Clopper-Pearson takes the images for "
    "independent, which one network's scores are only nearly."
)


# ------------------------------------------------------------------- hits against false alarms


@dataclass(frozen=True)
class Bound:
    """What hits and false alarms at one threshold prove of epsilon.

    `largest` is what a perfect attack would prove with as many images.
    """

    epsilon_low: float
    threshold: float
    hits: int
    n_members: int
    alarms: int
    n_nonmembers: int
    delta: float
    level: float
    largest: float


def epsilon_bound(
    hits: int,
    n_members: int,
    alarms: int,
    n_nonmembers: int,
    delta: float,
    level: float = 0.95,
) -> float:
    """Lower confidence bound on epsilon from hits among members and alarms among non-members.

    The larger of log((TPR - delta) / FPR) and its mirror image log((1 - FPR - delta) / (1 - TPR))
    (Jagielski et al. 2020, section 3; Nasr et al. 2021), with the lower limit of the TPR and the
    upper one of the FPR, one-sided Clopper-Pearson limits that fail with probability
    (1 - level) / 2 each. Both directions need the same two limits, so no third share of the level
    is spent. 0 where nothing can be said. Raises ValueError for counts that are no integers or out
    of range, delta outside 0..1 or a level outside (0, 1).
    """
    for what, count, n in (("hits", hits, n_members), ("alarms", alarms, n_nonmembers)):
        whole = all(isinstance(x, int | np.integer) for x in (count, n))
        if not (whole and 0 <= count <= n and n >= 1):
            raise ValueError(f"{what}: {count} of {n}; expected integers, 0 <= {what} <= n, n >= 1")
    _check(delta, level)
    found = _log_ratio(np.array([hits]), n_members, np.array([alarms]), n_nonmembers, delta, level)
    return max(0.0, float(found[0]))


def audited(
    scores: ArrayLike, member: ArrayLike, delta: float, *, seed: int, level: float = 0.95
) -> Bound:
    """Lower bound on epsilon from an attack's scores [n], higher = member.

    The threshold is the one with the largest bound on a random half (by `seed`) of the members and
    of the non-members; hits and alarms are counted on the other half, which it has not seen. One
    training has one set of members, so here an image that is in stands beside one that is out: the
    promise is about one image more or less, the comparison exchanges one for another.
    Raises ValueError as `metrics.roc`, and for fewer than four members or non-members.
    """
    _check(delta, level)
    curve = metrics.roc(scores, member)  # checks both
    scores, member = np.asarray(scores, np.float64), np.asarray(member)
    if min(curve.n_members, curve.n_nonmembers) < 4:
        found = f"{curve.n_members} members and {curve.n_nonmembers} non-members"
        raise ValueError(f"{found}; expected at least 4 of each, to choose on half of them")
    rng = np.random.default_rng(seed)
    choose = np.zeros(len(scores), bool)
    for group in (member, ~member):
        at = np.flatnonzero(group)
        choose[rng.permutation(at)[: len(at) // 2]] = True
    curve = metrics.roc(scores[choose], member[choose])
    counts = (curve.tpr * curve.n_members, curve.fpr * curve.n_nonmembers)
    hits, alarms = (np.rint(count).astype(int) for count in counts)
    found = _log_ratio(hits, curve.n_members, alarms, curve.n_nonmembers, delta, level)
    best = int(np.argmax(found))
    threshold = below = curve.thresholds[best]
    if best and np.isfinite(below):  # half-way to the next score, as `metrics.best_threshold`
        middle = below / 2 + curve.thresholds[best - 1] / 2
        threshold = middle if below <= middle < curve.thresholds[best - 1] else below
    return bound_at(scores[~choose], member[~choose], threshold, delta, level=level)


def bound_at(
    scores: ArrayLike, member: ArrayLike, threshold: float, delta: float, *, level: float = 0.95
) -> Bound:
    """Lower bound on epsilon at a threshold that was chosen on *other* images (the shadow's, say).

    Raises ValueError as `metrics.roc`, and for a threshold that is NaN.
    """
    metrics.roc(scores, member)  # for its checks
    if np.isnan(threshold):
        raise ValueError("threshold is NaN; expected a number that was chosen on other images")
    accused, member = np.asarray(scores) > threshold, np.asarray(member)
    n, m = int(member.sum()), int((~member).sum())
    hits, alarms = int(accused[member].sum()), int(accused[~member].sum())
    low = epsilon_bound(hits, n, alarms, m, delta, level)
    largest = epsilon_bound(n, n, 0, m, delta, level)
    return Bound(low, float(threshold), hits, n, alarms, m, delta, level, largest)


def _log_ratio(hits, n: int, alarms, m: int, delta: float, level: float) -> NDArray[np.float64]:
    """The bound of each pair of counts, below 0 (or -inf) where it says nothing."""
    half = (1 - level) / 2
    tpr = np.where(hits > 0, beta.ppf(half, np.maximum(hits, 1), n - hits + 1), 0.0)
    fpr = np.where(alarms < m, beta.ppf(1 - half, alarms + 1, np.maximum(m - alarms, 1)), 1.0)
    with np.errstate(divide="ignore"):
        one = np.log(np.maximum(tpr - delta, 0)) - np.log(fpr)
        other = np.log(np.maximum(1 - fpr - delta, 0)) - np.log1p(-tpr)
    return np.maximum(one, other)


# --------------------------------------------------------------------------------- one training


@dataclass(frozen=True)
class OneRun:
    """What the guesses about `n` canaries prove of epsilon.

    `largest` is what as many guesses would prove if all were right.
    """

    epsilon_low: float
    right: int
    guesses: int
    n: int
    delta: float
    level: float
    largest: float


def one_run(
    scores: ArrayLike, included: ArrayLike, n_guesses: int, delta: float, level: float = 0.95
) -> OneRun:
    """Guess the canaries with the highest scores in, those with the lowest out; count and bound.

    Half of the `n_guesses` go to each end (the odd one to "in"), the rest abstains; so does a group
    of equal scores that does not fit as a whole, since their order would say what their scores do
    not. `included`, bool [n], must come from an independent fair coin for each canary, and
    `n_guesses` from elsewhere than these scores. Steinke et al. 2023, section 5.
    Raises ValueError for scores that are not finite or of another length, `included` that is not
    boolean or so uneven that no fair coin did it, and `n_guesses` outside 1..n.
    """
    scores, included = np.asarray(scores), np.asarray(included)
    if scores.ndim != 1 or scores.dtype.kind not in "iuf" or not np.isfinite(scores).all():
        raise ValueError(f"scores: {scores.dtype} {scores.shape}; expected finite numbers [n]")
    if included.dtype != bool or included.shape != scores.shape:
        found = f"{included.dtype} {included.shape}"
        raise ValueError(f"included: {found}; expected booleans, one for each of {len(scores)}")
    n = len(scores)
    if not 1 <= n_guesses <= n:
        raise ValueError(f"n_guesses is {n_guesses}, expected 1..{n}")
    if binomtest(int(included.sum()), n).pvalue < UNFAIR:
        raise ValueError(
            f"{included.sum()} of {n} canaries are included: that is no fair coin. The audit needs "
            "each of them included with probability 1/2, independently"
        )
    _check(delta, level)
    ascending, lowest = np.sort(scores), n_guesses // 2
    highest = n_guesses - lowest
    floor = ascending[n - highest - 1] if highest < n else -np.inf
    said_in = scores > floor
    said_out = scores < ascending[lowest] if lowest else np.zeros(n, bool)
    guesses = int(said_in.sum() + said_out.sum())
    right = int((said_in & included).sum() + (said_out & ~included).sum())
    low, largest = (_one_run_low(n, guesses, r, delta, level) for r in (right, guesses))
    return OneRun(low, right, guesses, n, delta, level, largest)


def one_run_bound(
    scores: ArrayLike, included: ArrayLike, n_guesses: int, delta: float, level: float = 0.95
) -> float:
    """Lower confidence bound on epsilon from a single training: that of `one_run`."""
    return one_run(scores, included, n_guesses, delta, level).epsilon_low


def one_run_p_value(n: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """How likely `right` of the guesses on n canaries are if training is (epsilon, delta)-private.

    At most P[B >= right] + 2 n delta max over i of P[right > B >= right - i] / i, where B counts
    the successes of as many guesses that are right with probability e^epsilon / (1 + e^epsilon)
    (Steinke et al. 2023, section 5). Raises ValueError unless 0 <= right <= guesses <= n.
    """
    if not 0 <= right <= guesses <= n or not epsilon >= 0:
        raise ValueError(f"{right} of {guesses} guesses on {n} canaries, epsilon {epsilon}")
    chance = expit(epsilon)
    value = binom.sf(right - 1, guesses, chance)
    if delta and right:
        below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, chance))
        value += 2 * n * delta * (below / np.arange(1, right + 1)).max()
    return float(min(value, 1))


def _one_run_low(n: int, guesses: int, right: int, delta: float, level: float) -> float:
    def excess(epsilon: float) -> float:
        return one_run_p_value(n, guesses, right, epsilon, delta) - (1 - level)

    if excess(0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0, high))


def _check(delta: float, level: float) -> None:
    if not (0 <= delta < 1 and 0 < level < 1):
        raise ValueError(f"delta {delta}, level {level}; expected 0 <= delta < 1 and 0 < level < 1")


# ------------------------------------------------------------------------------------- canaries


def coins(n: int, seed: int) -> NDArray[np.bool_]:
    """A fair coin for each of n canaries."""
    return np.random.default_rng(seed).random(n) < 0.5


def with_masks_of_others(scenes: Scenes) -> Scenes:
    """The images, each with the mask of the next one: canaries that must be learned by heart."""
    if len(scenes) < 2:
        raise ValueError(f"{len(scenes)} scene; expected at least 2, to exchange their masks")
    images, masks = zip(*(scenes[i] for i in range(len(scenes))), strict=True)
    return Scenes.from_arrays(
        (torch.stack(images) * 255).round().byte().numpy(),
        torch.stack(masks).byte().roll(-1, 0).numpy(),
        [f"{i}-mislabelled" for i in scenes.ids],
        scenes.class_names,
        scenes.palette,
        source=f"mislabelled {scenes.digest}",
    )


def canary_run(
    plan: Plan,
    variant: str = "tuned-12",
    *,
    n: int = N_CANARIES,
    mislabelled: bool = False,
    seed: int = 0,
    level: float = 0.95,
) -> Row:
    """Tune the public network on canaries, each in by a fair coin, and guess which ones were.

    The training is the variant's, with all included canaries in a step and no other member. A
    canary's score is the public network's global loss minus the tuned one's. Trained once (some
    minutes) and cached; an interrupted training goes on. Raises ValueError for a variant that is
    not tuned, and for fewer than 64 canaries.
    """
    how = protected.TRAININGS.get(variant)
    if how is None or how.private is None or not how.tuned:
        tuned = [name for name, t in protected.TRAININGS.items() if t.private and t.tuned]
        raise ValueError(f"variant {variant!r}; expected one of {', '.join(tuned)}")
    if n < 64:
        raise ValueError(f"{n} canaries, expected at least 64: fewer prove nothing")
    canaries = synthstreets(CITY, 0, CANARY_START, n, root=plan.data_root, progress=plan.progress)
    if mislabelled:
        canaries = with_masks_of_others(canaries)
    base, included = protected.public(plan), coins(n, seed)
    # one step an epoch; Opacus divides it by the number included, a factor that Adam cancels
    private = DPRecipe(**how.private.model_dump() | {"batch": int(included.sum())})
    key = (
        f"canaries v{VERSION}", base.sha256, canaries.digest, seed, how.recipe(plan), private,
    )  # fmt: skip
    name = f"canaries-{variant}" + "-mislabelled" * mislabelled
    members = canaries.subset(np.flatnonzero(included))
    checkpoint = plan.build / "checkpoints" / f"{name}-{members.digest[:8]}.pt"

    def compute() -> dict[str, NDArray]:
        model, _, promised = train_private_victim(
            how.recipe(plan),
            private,
            members,
            seed=seed,
            start=base.model.state_dict(),
            checkpoint=checkpoint,
            progress=name if plan.progress else None,
            line=experiment.bar_line,
        )
        nobody = canaries.subset(range(0))
        before, after = (
            attacks.global_loss_scores(attacks.outputs(of, canaries, nobody))
            for of in (base.model, model)
        )
        return {
            "scores": after.astype(np.float64) - before,
            "promise": np.array([promised.epsilon, promised.delta]),
        }

    found = cached(plan, key, compute)
    checkpoint.unlink(missing_ok=True)
    epsilon, delta = found["promise"].tolist()
    bound = one_run(found["scores"], included, round(GUESSED * n), delta, level)
    return Row(name, DIFFERENCE, protected.finite(epsilon), bound)


# -------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """One attack on one network; `promised` is Opacus' epsilon, None where nothing is promised."""

    network: str
    attack: str
    promised: float | None
    bound: Bound | OneRun

    @property
    def broken(self) -> bool:
        """Whether more leaks than was promised: training, accountant or audit has a bug."""
        return self.promised is not None and self.bound.epsilon_low > self.promised

    @property
    def verdict(self) -> str:
        if self.broken:
            return "ABOVE THE PROMISE: a bug"
        if self.promised is None:
            return "no promise"
        if self.bound.largest <= self.promised:
            return "too few images to refute it"
        return "not refuted"


def of_network(
    plan: Plan, of: Network, service: frontier.Service, *, tuned: bool, seed: int = 0
) -> list[Row]:
    """The rows of one network: global loss, per-class regression and, if tuned, the difference.

    For the plain victim the best attack, too. The regression learned on the shadows with the same
    training. A difference is that from the public network. Where nothing is promised, delta is that
    of the promises.
    """
    shown, promised = experiment.loss_outputs(plan, of), protected.promise(of)
    knows = frontier.attackers(frontier.synthstreets(plan), service, ()).regression
    scored = {
        GLOBAL: attacks.global_loss_scores(shown),
        LOGISTIC: knows.scores(attacks.class_features(shown)),
    }
    if tuned:
        reference = difficulty.asked(plan, protected.public(plan), of)
        scored[DIFFERENCE] = calibration.difference_scores(shown, [reference])
    if not service.variant:  # the eight networks have the plain training
        shadows = difficulty.networks(plan, "dependent", len(plan.shadow_seeds))
        scored[CALIBRATED] = beyond.best_model(plan, of, shadows)[2].scores
    delta = promised.delta if promised else DPRecipe.model_fields["delta"].default
    epsilon = promised.epsilon if promised else None
    return [
        Row(of.name, attack, epsilon, audited(scores, shown.member, delta, seed=seed))
        for attack, scores in scored.items()
    ]


def audit(plan: Plan, variants: Sequence[str] = VARIANTS, *, canaries: bool = False) -> list[Row]:
    """Audit ``victim-0`` and its variants trained by DP-SGD; prints and returns the rows.

    With `canaries` the tuned variants also in one run each: `canary_run`, with true masks and with
    those of other scenes. Nothing is chosen on the images on which a bound is computed.
    """
    plan = replace(plan, examples=None)
    scenario, rows = frontier.synthstreets(plan), []
    services = {service.variant: service for service in frontier.services() if service.variant}
    for variant in variants:
        service = services.get(variant, frontier.NOTHING)
        tuned = bool(variant) and protected.TRAININGS[variant].tuned
        rows += of_network(plan, scenario.victim(variant), service, tuned=tuned)
        if canaries and tuned:
            rows += [canary_run(plan, variant, mislabelled=wrong) for wrong in (False, True)]
    print(table(rows))
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line for each attack on each network, as Markdown, and how to read it."""
    lines = [
        "| network | ε promised | attack | ε at least | counts | at most | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        of = row.bound
        counts = (
            f"{of.right} of {of.guesses} guesses right, {of.n} canaries"
            if isinstance(of, OneRun)
            else f"hits {of.hits}/{of.n_members}, alarms {of.alarms}/{of.n_nonmembers}"
        )
        promised = "-" if row.promised is None else f"{row.promised:.2f}"
        low = f"{of.epsilon_low:.2f} ({100 * of.level:g} %, δ = {of.delta:g})"
        lines.append(
            f"| {row.network} | {promised} | {row.attack} | {low} | {counts} | {of.largest:.2f} | "
            f"{row.verdict} |"
        )
    return "\n".join([*lines, "", CAVEAT])
