"""A copy of a training of `victims.dpsgd`, to be watched through its canaries (`canaries.Step`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segleak_utils.data import Scenes
from segleak_utils.studies import protected
from segleak_utils.studies.canaries import Canaries
from segleak_utils.studies.plan import Plan
from segleak_utils.victims import Recipe, dpsgd
from segleak_utils.victims.dpsgd import DPRecipe

IMAGES = 16  # images in a step of a copy: the path is the training's, the time is not


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
        planned: int,
        seed: int = 0,
        start: Mapping[str, Tensor] | None = None,
        noise_times: float = 1.0,
    ) -> None:
        """`noise_times`: a fault; so much of the noise that is promised is added."""
        self._parts = dpsgd.prepare(
            recipe, private, members, planned=planned, seed=seed, start=start
        )
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
    times = how.schedule(plan).an_epoch
    noise = how.private.noise_multiplier if noise_multiplier is None else noise_multiplier
    private = DPRecipe(**how.private.model_dump() | {"batch": IMAGES, "noise_multiplier": noise})
    seen, held_out = protected.public_scenes(plan)
    some = (held_out + seen).subset(range(IMAGES * times))
    how_many = {"planned": len(some), "seed": seed}
    start = protected.public(plan).model.state_dict() if how.tuned else None
    return Copy(how.recipe(plan), private, some, start=start, noise_times=noise_times, **how_many)
