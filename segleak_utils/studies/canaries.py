"""Gradient canaries: what an attacker sees of them who sees all noisy sums of one training.

A canary is a record whose gradient lies along one weight that no other canary has. Each is in by a
fair coin; the attacker looks at its weight in every noisy sum. None has a part in another's score,
so one training is as good as thousands with one canary each. What is watched is a *copy* of a
training, on weights that nobody will use. Nasr et al., USENIX Security 2023; Steinke et al.,
NeurIPS 2023; Mahloujifar et al., ICML 2025.

A training is watched through two methods and two numbers, see `Step`; `copied` is our own. What the
canaries prove is in `proofs`, the audit and its command in `canary_audit`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.std import tqdm

from segleak_utils.checks import numbers
from segleak_utils.victims.accountant import Privacy

N_CANARIES = 10_000
LOUD = 10.0  # a canary's norm in clip norms: one of norm 1 cannot tell whether anybody clips
LEAST = 64  # canaries, and weights without one, from which the noise is learned
CHUNK = 2**23  # numbers in memory at once, where canaries are written out as rows


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
    """A private training, step by step. It promises `privacy` after `privacy.steps` steps, for
    adding or removing a record; rate and steps are public, whatever number of records there is.

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
