"""The audit that goes red: faults planted in a test double of private training, and who sees them.

The double is the mechanism alone, for the weights of the canaries: clipping, sum, noise, sampling.
What a fault does to the gradients of *other* images cannot be seen by a canary that brings its own
gradient. There the canary is an image, and how far it moves the sum of all gradients is measured on
a real network; the double then draws the noise. Which bound sees which fault is in `caught`.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from opacus import GradSampleModule
from scipy.special import logsumexp
from torch import Tensor, nn

from segleak_utils.data import VOID, Scenes
from segleak_utils.studies import protected
from segleak_utils.studies.cache import cached
from segleak_utils.studies.canaries import Canaries
from segleak_utils.studies.plan import Plan
from segleak_utils.victims import Recipe, build_victim, dpsgd
from segleak_utils.victims.accountant import Privacy

VERSION = 1  # part of the keys of what is kept: raise it when a number changes
NONE = "none"
WEAK = "noise times 0.75"
SILENT = "no noise in every fourth step"
LATE = "clipping after the noise"
MEAN = "the batch's mean clipped, not each gradient"
SHUFFLED = "shuffling instead of Poisson sampling"
PIXELS = "loss divided by the batch's labelled pixels"
BATCHNORM = "BatchNorm left in"
LAYOUT = "Opacus' contiguity fault"

MECHANISM = (NONE, WEAK, SILENT, LATE, MEAN, SHUFFLED)
IMAGE = (PIXELS, BATCHNORM, LAYOUT)


class Double:
    """A training that is nothing but its mechanism; `fault` is one of `MECHANISM`.

    `moves`: how far a canary moves the sum that is clipped and right, in clip norms; an image that
    changes what others add moves it further than its own clipped gradient.
    """

    def __init__(
        self,
        privacy: Privacy,
        n_weights: int,
        *,
        fault: str = NONE,
        moves: float | None = None,
        seed: int = 0,
    ) -> None:
        if fault not in MECHANISM:
            raise ValueError(f"fault {fault!r}; expected one of {', '.join(MECHANISM)}")
        self.privacy, self.n_weights, self.fault = privacy, n_weights, fault
        self.moves = moves
        self._rng = np.random.default_rng(seed)
        self._step, self._place = 0, None

    def sample(self, n: int) -> NDArray[np.bool_]:
        rate = self.privacy.sampling_rate
        if self.fault != SHUFFLED:
            return self._rng.random(n) < rate
        steps = round(1 / rate)  # an epoch's
        if self._step % steps == 0:
            self._place = self._rng.permutation(n) % steps
        return self._place == self._step % steps

    def step(self, records: Canaries) -> NDArray[np.float64]:
        clip, noise = self.privacy.clip_norm, self.privacy.noise_multiplier
        norm = records.norm if self.moves is None else self.moves * clip
        if self.fault not in (LATE, MEAN) and self.moves is None:
            norm = min(norm, clip)
        total = np.zeros(self.n_weights)
        np.add.at(total, records.weights, norm)
        if self.fault == MEAN and len(records):
            mean = np.linalg.norm(total) / len(records)
            total *= min(1, clip / max(mean, 1e-12))
        silent = self.fault == SILENT and self._step % 4 == 3
        size = 0.75 if self.fault == WEAK else 0.0 if silent else 1.0
        total += size * noise * clip * self._rng.standard_normal(self.n_weights)
        if self.fault == LATE:
            total *= min(1, clip / np.linalg.norm(total))
        self._step += 1
        return total


def shuffled(rng: np.random.Generator, privacy: Privacy, n: int) -> NDArray[np.bool_]:
    """Which of n records are in which step, bool [steps, n]: each in one of every epoch."""
    steps = round(1 / privacy.sampling_rate)
    places = rng.integers(0, steps, (privacy.steps // steps, 1, n))
    return (places == np.arange(steps)[:, None]).reshape(-1, n)


def shuffled_scores(sums: NDArray[np.float64], privacy: Privacy) -> NDArray[np.float64]:
    """The log-likelihood ratio if each record is in one step of every epoch: [steps, n] to [n]."""
    steps = round(1 / privacy.sampling_rate)
    loss = (2 * sums - 1) / (2 * privacy.noise_multiplier**2)
    epochs = loss.reshape(-1, steps, sums.shape[1])
    return (logsumexp(epochs, axis=1) - np.log(steps)).sum(0)


# ------------------------------------------------------ what an image does to the sum of the others


def sum_moved(
    model: nn.Module,
    images: Tensor,
    masks: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    clip_norm: float,
    *,
    layout: bool = True,
) -> float:
    """How far the last image moves the sum of clipped gradients, in clip norms.

    At most 1 where no image has a part in another's gradient. The weights are the few that
    `tuned-12` trains. `loss` is the mean over a batch.
    `layout`: hand Opacus tensors in the layout that it takes for granted (see `victims.dpsgd`).
    """
    with_it = _gradients(model, images, masks, loss, layout)
    without = _gradients(model, images[:-1], masks[:-1], loss, layout)
    one, other = (dpsgd.clipped(part, clip_norm).sum(0) for part in (with_it, without))
    return float((one - other).norm()) / clip_norm


def _gradients(model, images, masks, loss, layout: bool) -> Tensor:
    inner = copy.deepcopy(model).cpu().train()
    few = dpsgd.trained_names(inner, "few")
    for name, parameter in inner.named_parameters():
        parameter.requires_grad_(name in few)
    for module in inner.modules():  # Opacus knows no gradient of a BatchNorm's own weights
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(False)
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if layout:
            dpsgd._contiguous_inputs(inner)
        watched = GradSampleModule(inner, strict=False)
        loss(watched(images), masks).backward()
    found = [p.grad_sample.flatten(1) for p in watched.parameters() if p.requires_grad]
    return torch.cat(found, 1)


def _own(logits: Tensor, masks: Tensor) -> Tensor:
    return dpsgd.per_image_loss(logits.float(), masks).mean()


def _shared(logits: Tensor, masks: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), masks, ignore_index=VOID)


OTHERS = 15  # images beside the canary
FEW_OTHERS = 7  # where a batch's statistics are the matter


def image_moves(plan: Plan, clip_norm: float = 1.0) -> dict[str, float]:
    """How far one image moves the sum, in clip norms, by each of `IMAGE` and, as `NONE`, rightly.

    The images are of the public city, the network is the public one (for BatchNorm an untrained
    one that has it). The canary is fully labelled where the others are nearly void, or a
    chessboard, or a scene like the others. Half a minute, once: it is cached.
    """
    scenes, public = _scenes(plan), protected.public(plan)

    def compute() -> dict[str, NDArray]:
        images, masks = (torch.stack(part) for part in zip(*scenes, strict=True))
        model = public.model.cpu().float()
        void = masks.clone()
        void[:-1, :, 2:] = VOID  # two columns are left
        few = images[-FEW_OTHERS - 1 :].clone()
        height, width = few.shape[-2:]
        few[-1] = (torch.arange(height)[:, None] + torch.arange(width)) % 2
        right = max(
            sum_moved(model, images, void, _own, clip_norm),
            sum_moved(model, few, masks[-FEW_OTHERS - 1 :], _own, clip_norm),
        )
        mixing = build_victim(_with_batchnorm(plan), seed=0)
        moved = (
            right,
            sum_moved(model, images, void, _shared, clip_norm),
            sum_moved(mixing, few, masks[-FEW_OTHERS - 1 :], _own, clip_norm),
            sum_moved(model, images, masks, _own, clip_norm, layout=False),
        )
        return {"moves": np.array(moved)}

    found = cached(plan.build, "image moves", moves_key(plan, clip_norm), compute)["moves"]
    return dict(zip((NONE, *IMAGE), found.tolist(), strict=True))


def moves_key(plan: Plan, clip_norm: float = 1.0) -> dict[str, object]:
    """All that `image_moves` depends on."""
    return {
        "version": VERSION,
        "public": protected.public(plan).fingerprint,
        "scenes": _scenes(plan).digest,
        "recipe": _with_batchnorm(plan),
        "clip norm": clip_norm,
    }


def _scenes(plan: Plan) -> Scenes:
    return protected.public_scenes(plan)[1].subset(range(OTHERS + 1))


def _with_batchnorm(plan: Plan) -> Recipe:
    return Recipe(**plan.recipe.model_dump() | {"norm": "batch"})


def layout_error(plan: Plan) -> float:
    """How wrong Opacus' gradients are without the remedy: relative error of their norm."""
    scenes = protected.public_scenes(plan)[1].subset(range(2))
    images, masks = (torch.stack(part) for part in zip(*scenes, strict=True))
    public = protected.public(plan).model.cpu().float()
    right, wrong = (_gradients(public, images, masks, _own, layout) for layout in (True, False))
    return float((wrong - right).norm() / right.norm())
