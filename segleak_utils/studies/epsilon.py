"""What DP-SGD promised beside what attacks can show, on the shipped networks and with canaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from segleak_utils import attacks
from segleak_utils.attacks import calibration
from segleak_utils.attacks.contests import GLOBAL, LOGISTIC
from segleak_utils.attacks.references import CALIBRATED
from segleak_utils.data import Scenes
from segleak_utils.metrics import Bound, OneRun, audited, one_run
from segleak_utils.studies import asking, beyond, experiment, networks, offers, protected
from segleak_utils.studies.cache import cached
from segleak_utils.studies.experiment import CITY
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import Plan
from segleak_utils.synthstreets import draw
from segleak_utils.victims.dpsgd import DPRecipe, train_private_victim

VERSION = 1  # part of every cache key: raise it when cached numbers change
DIFFERENCE = "global loss minus the public network's"
VARIANTS = ("", "tuned-0", "tuned-12", "scratch-1")  # "" is the plain victim
CANARY_START = 1_000_000  # scenes that no victim, shadow or non-member has
N_CANARIES = 600
GUESSED = 0.25  # share of the canaries that is guessed; fixed before any canary was scored
CAVEAT = (
    "Members beside non-members exchange one image for another: they are held against the promise "
    "for replacing; canaries are in or out by a coin. A lower bound far below the promise does not "
    "prove the promise loose: the attack may be weak and the images few. 'At most' is what a "
    "perfect attack would show on as many images. Each row holds at its own level, so among 20 "
    "rows one may err; Clopper-Pearson takes the images for independent, which one network's "
    "scores are only nearly."
)


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

    Raises ValueError as `canary_scores`, which trains.
    """
    of = {"n": n, "mislabelled": mislabelled, "seed": seed}
    scores, included, (promised, delta) = canary_scores(plan, variant, **of)
    bound = one_run(scores, included, round(GUESSED * n), delta, level)
    return Row(_canary_name(variant, mislabelled), DIFFERENCE, protected.finite(promised), bound)


def _canary_name(variant: str, mislabelled: bool) -> str:
    return f"canaries-{variant}" + "-mislabelled" * mislabelled


def canary_scores(
    plan: Plan,
    variant: str = "tuned-12",
    *,
    n: int = N_CANARIES,
    mislabelled: bool = False,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], tuple[float, float]]:
    """Scores [n] of images as canaries, their coins [n], and the promised epsilon and delta.

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
    canaries = draw(CITY, 0, CANARY_START, n, root=plan.data_root, progress=plan.progress)
    if mislabelled:
        canaries = with_masks_of_others(canaries)
    base, included = protected.public(plan), coins(n, seed)
    # one step an epoch, planned for the half that coins put in on average, whatever they fall
    planned = n // 2
    private = DPRecipe(**how.private.model_dump() | {"batch": planned})
    key = {
        "version": VERSION,
        "public": base.fingerprint,
        "canaries": canaries.digest,
        "seed": seed,
        "recipe": how.recipe(plan),
        "private": private,
    }
    name = _canary_name(variant, mislabelled)
    members = canaries.subset(np.flatnonzero(included))
    checkpoint = plan.build / "checkpoints" / f"{name}-{members.digest[:8]}.pt"

    def compute() -> dict[str, NDArray]:
        model, _, promised = train_private_victim(
            how.recipe(plan),
            private,
            members,
            planned=planned,
            seed=seed,
            start=base.model.state_dict(),
            checkpoint=checkpoint,
            progress=name if plan.progress else None,
            line=networks.bar_line,
        )
        nobody = canaries.subset(range(0))
        before, after = (
            attacks.global_loss_scores(attacks.ask(of, canaries, nobody))
            for of in (base.model, model)
        )
        return {
            "scores": after.astype(np.float64) - before,
            "promise": np.array([promised.epsilon, promised.delta]),
        }

    found = cached(plan.build, "canaries", key, compute)
    checkpoint.unlink(missing_ok=True)
    return found["scores"], included, tuple(found["promise"].tolist())


# -------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Row:
    """One attack on one network; `promised` is the accountant's epsilon for adding or removing an
    image, `replacing` that for one in another's place; None where nothing is promised."""

    network: str
    attack: str
    promised: float | None
    bound: Bound | OneRun
    replacing: float | None = None

    @property
    def against(self) -> float | None:
        """The promise that the bound is held against, None where nothing is promised.

        A canary's coin adds it or leaves it out. Who compares members with others exchanges one
        image for another.
        """
        if self.promised is None or isinstance(self.bound, OneRun):
            return self.promised
        return math.inf if self.replacing is None else self.replacing

    @property
    def broken(self) -> bool:
        """Whether more leaks than was promised: training, accountant or audit has a bug."""
        return self.against is not None and self.bound.epsilon_low > self.against

    @property
    def verdict(self) -> str:
        if self.broken:
            return "ABOVE THE PROMISE: a bug"
        if self.promised is None:
            return "no promise"
        if self.bound.largest <= self.against:
            return "too few images to refute it"
        return "not refuted"


def of_network(
    plan: Plan, of: Network, service: offers.Service, *, tuned: bool, seed: int = 0
) -> list[Row]:
    """The rows of one network: global loss, per-class regression and, if tuned, the difference.

    For the plain victim the best attack, too. The regression learned on the shadows with the same
    training. A difference is that from the public network. Where nothing is promised, delta is that
    of the promises.
    """
    shown, promised = asking.loss_outputs(plan, of), protected.promise(of)
    knows = offers.attackers(offers.synthstreets(plan), service, ()).regression
    scored = {
        GLOBAL: attacks.global_loss_scores(shown),
        LOGISTIC: knows.scores(attacks.class_features(shown)),
    }
    if tuned:
        reference = asking.asked(plan, protected.public(plan), of)
        scored[DIFFERENCE] = calibration.difference_scores(shown, [reference])
    if not service.variant:  # the eight networks have the plain training
        shadows = experiment.networks(plan, "dependent", len(plan.shadow_seeds))
        scored[CALIBRATED] = beyond.best_model(plan, of, shadows)[2].scores
    delta = promised.delta if promised else DPRecipe.model_fields["delta"].default
    both = (promised.epsilon, promised.replacing) if promised else (None, None)
    if promised and promised.noise_multiplier == 0:
        both = None, None
    return [
        Row(of.name, attack, both[0], audited(scores, shown.member, delta, seed=seed), both[1])
        for attack, scores in scored.items()
    ]


def audit(plan: Plan, variants: Sequence[str] = VARIANTS, *, canaries: bool = False) -> list[Row]:
    """Audit ``victim-0`` and its variants trained by DP-SGD; prints and returns the rows.

    With `canaries` the tuned variants also in one run each: `canary_run`, with true masks and with
    those of other scenes. Nothing is chosen on the images on which a bound is computed.
    """
    plan = replace(plan, examples=None)
    scenario, rows = offers.synthstreets(plan), []
    services = {service.variant: service for service in offers.services() if service.variant}
    for variant in variants:
        service = services.get(variant, offers.NOTHING)
        tuned = bool(variant) and protected.TRAININGS[variant].tuned
        rows += of_network(plan, scenario.victim(variant), service, tuned=tuned)
        if canaries and tuned:
            rows += [canary_run(plan, variant, mislabelled=wrong) for wrong in (False, True)]
    print(table(rows))
    return rows


def table(rows: Sequence[Row]) -> str:
    """A line for each attack on each network, as Markdown, and how to read it."""
    lines = [
        "| network | ε promised, adding or removing an image | replacing one | attack "
        "| ε at least | counts | at most | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        of = row.bound
        counts = (
            f"{of.right} of {of.guesses} guesses right, {of.n} canaries"
            if isinstance(of, OneRun)
            else f"hits {of.hits}/{of.n_members}, alarms {of.alarms}/{of.n_nonmembers}"
        )
        promised, other = ("-" if e is None else f"{e:.2f}" for e in (row.promised, row.replacing))
        low = f"{of.epsilon_low:.2f} ({100 * of.level:g} %, δ = {of.delta:g})"
        lines.append(
            f"| {row.network} | {promised} | {other} | {row.attack} | {low} | {counts} "
            f"| {of.largest:.2f} | {row.verdict} |"
        )
    return "\n".join([*lines, "", CAVEAT])
