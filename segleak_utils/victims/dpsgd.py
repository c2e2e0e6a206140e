"""DP-SGD: training that bounds what any one member can change in the weights, by Opacus.

Each image's gradient is clipped to a norm, the clipped ones are added up, and noise is added that
hides any single one (Abadi et al. 2016). The bound holds if the loss of an image is its own: see
`per_image_loss`.
"""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from opacus import GradSampleModule, PrivacyEngine
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV, compute_safe_domain_size
from opacus.optimizers import DPOptimizer
from opacus.utils.batch_memory_manager import BatchMemoryManager
from opacus.validators import ModuleValidator
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.hooks import RemovableHandle
from tqdm.std import tqdm

from segleak_utils.checks import numbers
from segleak_utils.data import VOID, Scenes
from segleak_utils.victims.asking import best_device, device_of
from segleak_utils.victims.checkpoints import resume
from segleak_utils.victims.networks import Recipe, build_victim
from segleak_utils.victims.training import augmentation
from segleak_utils.whole import replace_file

SMALLEST_NOISE = 0.3  # below, the accountant needs gigabytes to say that nothing is promised
LARGEST_NOISE = 1000  # beyond any use; an infinite one keeps the accountant busy for ever
LARGEST_STEPS = 10**9
# Below, the tight accountant's own rounding is larger; above, what is promised says nothing, and
# RDP's epsilon may be negative.
DELTAS = (1e-12, 1e-2)
# Points of the tight accountant's grid: 8 million take 5 seconds and more than a gigabyte.
LARGEST_GRID = 2**23
EPSILON_ERROR = 0.01  # Opacus' own
LOSS_ERROR = 0.05  # where a whole curve is asked for, many times


def _none_or_enough(noise_multiplier: float) -> float:
    if 0 < noise_multiplier < SMALLEST_NOISE:
        raise ValueError(f"a noise multiplier is 0 or at least {SMALLEST_NOISE}")
    return noise_multiplier


NoiseMultiplier = Annotated[
    float, Field(ge=0, le=LARGEST_NOISE, allow_inf_nan=False), AfterValidator(_none_or_enough)
]


class DPRecipe(BaseModel):
    """The private part of a training; with the `Recipe` it says all that can be said of it.

    `batch`: the members are divided into steps of at most so many on average, drawn by Poisson
    sampling. `physical` is how many images are in memory at once. A `noise_multiplier` of 0 is the
    same training without privacy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    noise_multiplier: NoiseMultiplier
    clip_norm: float = Field(1.0, gt=0, allow_inf_nan=False)
    batch: int = Field(ge=16, le=100_000)  # below, a Poisson batch may well be empty
    epochs: int = Field(ge=1, le=10_000)
    lr: float = Field(gt=0, le=10)
    trained: Literal["all", "decoder", "few"] = "all"
    crop: int | None = Field(None, ge=32, le=4096, description="side of a window; width is twice")
    delta: float = Field(1e-4, ge=DELTAS[0], le=DELTAS[1], description="below 1 / members")
    physical: int = Field(8, ge=1, le=4096)

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans(cls, value: object) -> object:
        if isinstance(value, bool):  # pydantic takes True for a noise of 1
            raise ValueError(f"found {value}; expected a number or a name")
        return value


@dataclass(frozen=True)
class Privacy:
    """What a training promises: (epsilon, delta) for adding or removing one image.

    `accountant` has computed it: ``rdp`` is somewhat pessimistic, where the tight one cannot.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    clip_norm: float
    sampling_rate: float
    steps: int
    accountant: str = "prv"

    def __str__(self) -> str:
        by = "" if self.accountant == "prv" else ", by RDP, since the tight accountant cannot do it"
        if self.noise_multiplier == 0:
            return "no noise, so nothing is promised (ε = ∞)"
        return (
            f"ε = {self.epsilon:.2f} at δ = {self.delta:g} after {self.steps} steps (noise "
            f"multiplier {self.noise_multiplier:g}, rate {self.sampling_rate:g}{by})"
        )


class AccountantError(ValueError):
    """An accountant cannot compute this epsilon: too large a grid, or no finite number."""


def per_image_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of each image over *its own* labelled pixels: float [N]; 0 where all is void.

    The usual mean over all labelled pixels of a batch divides every image's loss by a number that
    the other images have a part in; then clipping one gradient does not bound one image's effect.
    logits: float [N,C,H,W]; masks: int64 [N,H,W].

    >>> logits = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log().view(1, 2, 1, 2)
    >>> per_image_loss(logits, torch.tensor([[[0, 255]]]))  # -log(3/4); the other pixel is void
    tensor([0.2877])
    """
    loss = F.cross_entropy(logits, masks, ignore_index=VOID, reduction="none")
    return loss.sum((1, 2)) / (masks != VOID).sum((1, 2)).clamp(min=1)


def epsilon(
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float,
    *,
    accountant: Literal["prv", "rdp"] = "prv",
) -> float:
    """The ε that Opacus' accountant gives for so many steps; infinite without noise.

    ``prv`` (Gopi et al. 2021) is tight, ``rdp`` fast and somewhat pessimistic; never below 0.
    Raises ValueError for noise that is neither 0 nor in `SMALLEST_NOISE`..`LARGEST_NOISE`, a rate
    outside 0..1, steps that are no whole number above 0, a delta outside `DELTAS` (it must be far
    below one over the number of members, or who publishes one of them keeps the promise), and
    where the tight accountant would need too large a grid.

    >>> round(epsilon(12, 1.0, 16, 1e-4, accountant="rdp"), 2), epsilon(0, 1.0, 16, 1e-4)
    (1.19, inf)
    """
    noise, rate, steps, delta = _asked(noise_multiplier, sampling_rate, steps, delta)
    if accountant not in ("prv", "rdp"):
        raise ValueError(f"accountant {accountant!r}; expected 'prv' or 'rdp'")
    if noise == 0:
        return math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RDP's remark on its best order
        found = _tight(noise, rate, steps, delta) if accountant == "prv" else math.nan
        if accountant == "rdp":
            counts = RDPAccountant()
            counts.history = [(noise, rate, steps)]
            found = counts.get_epsilon(delta)
    if not math.isfinite(found):
        raise AccountantError(
            f"the {accountant} accountant gives {found} for noise {noise:g}, rate {rate:g} and "
            f"{steps} steps; expected a finite epsilon: use more noise or fewer steps"
        )
    return max(0.0, float(found))


def _asked(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> tuple:
    noise = numbers.real(noise_multiplier, "noise_multiplier", 0, LARGEST_NOISE)
    if 0 < noise < SMALLEST_NOISE:
        raise ValueError(f"noise_multiplier is {noise}; expected 0 or >= {SMALLEST_NOISE}")
    rate = numbers.real(sampling_rate, "sampling_rate", 0, 1, ends="(]")
    steps = numbers.count(steps, "steps", 1, LARGEST_STEPS)
    delta = numbers.real(delta, "delta", *DELTAS)
    return noise, rate, steps, delta


def _tight(noise: float, rate: float, steps: int, delta: float) -> float:
    """The tight accountant's epsilon; AccountantError where its grid is too large, or it fails."""
    asked = f"noise {noise:g}, rate {rate:g}, {steps} steps and delta {delta:g}"
    mend = 'use accountant="rdp", more noise or fewer steps'
    _check_grid(noise, rate, steps, delta)
    counts = PRVAccountant()
    counts.history = [(noise, rate, steps)]
    try:
        return counts.get_epsilon(delta, eps_error=EPSILON_ERROR)
    except (RuntimeError, ValueError) as error:
        raise AccountantError(f"the prv accountant fails for {asked} ({error}): {mend}") from None


def _check_grid(noise: float, rate: float, steps: int, delta: float) -> None:
    points = grid_points(noise, rate, steps, delta)
    asked = f"noise {noise:g}, rate {rate:g}, {steps} steps and delta {delta:g}"
    mend = 'use accountant="rdp", more noise or fewer steps'
    if not points <= LARGEST_GRID:
        raise AccountantError(
            f"the prv accountant needs a grid of {points:.2g} points for {asked}; expected at "
            f"most {LARGEST_GRID:.2g}, about a gigabyte: {mend}"
        )


def promise(
    noise_multiplier: float, clip_norm: float, sampling_rate: float, steps: int, delta: float
) -> Privacy:
    """What so many steps promise: by the tight accountant, or by RDP where that one cannot do it.

    Raises ValueError as `epsilon` for what no training can be.

    >>> promise(12, 1.0, 1.0, 16, 1e-4).accountant, promise(0.5, 1.0, 1.0, 2000, 1e-4).accountant
    ('prv', 'rdp')
    """
    clip_norm = numbers.real(clip_norm, "clip_norm", 0, ends="()")
    asked, accountant = (noise_multiplier, sampling_rate, steps, delta), "prv"
    try:
        found = epsilon(*asked)
    except AccountantError:
        found, accountant = epsilon(*asked, accountant="rdp"), "rdp"
    return Privacy(
        found, delta, noise_multiplier, clip_norm, sampling_rate, steps, accountant=accountant
    )


def privacy_loss(
    noise_multiplier: float, sampling_rate: float, steps: int, delta: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The tight accountant's own privacy loss: losses [n], ascending, and their chances [n].

    The loss is log P(sums | a member more) / P(sums | without), the chance that with the member.
    `metrics.loss_curve` makes the trade-off curve of it. Raises ValueError as `epsilon`, and for no
    noise.

    >>> losses, chances = privacy_loss(2.0, 1.0, 4, 1e-4)
    >>> round(float(losses @ chances), 2)  # mu 1: half its square
    0.5
    """
    noise, rate, steps, delta = _asked(noise_multiplier, sampling_rate, steps, delta)
    if noise == 0:
        raise ValueError("noise_multiplier is 0; expected more: without noise the loss is infinite")
    _check_grid(noise, rate, steps, delta)
    counts = PRVAccountant()
    counts.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = counts._get_dprv(eps_error=LOSS_ERROR, delta_error=delta / 1000)
    return found.domain.ts, np.maximum(found.pmf, 0)


def grid_points(noise: float, rate: float, steps: int, delta: float) -> float:
    """How many points the tight accountant would lay out, as its own formula has it.

    It spans what RDP says may be lost, both ways, in meshes of error / sqrt(steps log(12 / error of
    delta) / 2), where delta may be off by a thousandth (Gopi et al. 2021).

    >>> grid_points(1.0, 1.0, 100, 1e-4) < 1e7 < grid_points(0.3, 1.0, 300, 1e-4)
    True
    """
    off = delta / 1000
    mechanism = PoissonSubsampledGaussianPRV(rate, noise)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RDP's remark on its best order
        span = compute_safe_domain_size([mechanism], [steps], EPSILON_ERROR, off)
    return float(2 * span * math.sqrt(steps * math.log(12 / off) / 2) / EPSILON_ERROR)


def check_private(model: nn.Module) -> None:
    """Raise ValueError for a layer that DP-SGD cannot train, such as BatchNorm."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"{name} is a {type(module).__name__}: it mixes the images of a batch, so no bound "
                'on one image holds. Build the network with Recipe(norm="group")'
            )
    found = ModuleValidator.validate(model, strict=False)
    if found:
        raise ValueError(f"Opacus cannot train this network: {found[0]}")


def image_gradients(
    model: nn.Module, images: Tensor, masks: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """What Opacus takes for the gradient of each image, float [N, parameters], before clipping.

    `loss` maps (logits, masks) to the mean over the batch. Raises ValueError as `check_private`.
    """
    inner = copy.deepcopy(model).train()
    check_private(inner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _contiguous_inputs(inner)
        watched = GradSampleModule(inner)
        loss(watched(images), masks).backward()
    return torch.cat([p.grad_sample.flatten(1) for p in watched.parameters()], 1)


def _contiguous_inputs(model: nn.Module) -> list[RemovableHandle]:
    """Hand every convolution its input in the customary memory layout; returns the hooks.

    Opacus reads the pixels of a convolution without padding in that layout, whatever the real one:
    of EdgeNeXt's channels-last maps it makes gradients that are wrong, and says nothing.
    """
    return [
        module.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]


def clipped(gradients: Tensor, clip_norm: float) -> Tensor:
    """Each row [N, parameters] scaled to at most that norm (Abadi et al. 2016, algorithm 1).

    ValueError for a norm that is not finite and positive.

    >>> clipped(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), clip_norm=1.0)  # norms 5 and .5
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    clip_norm = numbers.real(clip_norm, "clip_norm", 0, ends="()")
    return gradients * (clip_norm / gradients.norm(dim=1, keepdim=True)).clamp(max=1)


def trained_names(model: nn.Module, trained: Literal["all", "decoder", "few"]) -> list[str]:
    """Names of the parameters that a `DPRecipe` trains: the fewer, the less noise in all.

    ``few``: biases, the scales of norms and layers (Bu et al. 2022), and the head.
    """
    names = []
    for name, parameter in model.named_parameters():
        head = name.startswith("net.segmentation_head")
        if (
            trained == "all"
            or (trained == "decoder" and not name.startswith("net.encoder"))
            or (trained == "few" and (head or parameter.ndim == 1))
        ):
            names.append(name)
    return names


class _Augmented(Dataset):
    """Members as a PyTorch data set, a new augmentation at each look."""

    def __init__(self, members: Scenes, recipe: Recipe, crop: int | None) -> None:
        self.members, self.augment = members, augmentation(recipe, members.shape)
        self.crop = crop and (min(crop, members.shape[0]), min(2 * crop, members.shape[1]))

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image, mask = self.augment(*self.members[i])
        if self.crop:
            top = int(torch.randint(image.shape[1] - self.crop[0] + 1, ()))
            left = int(torch.randint(image.shape[2] - self.crop[1] + 1, ()))
            window = slice(top, top + self.crop[0]), slice(left, left + self.crop[1])
            image, mask = image[:, *window], mask[*window]
        return image, mask


@dataclass(frozen=True)
class Prepared:
    """A private training before its first step, and what it will have promised after its last.

    `sampling` and `noise` are the generators of the batches and of the noise; augmentations draw
    from torch's own. `layout` are the hooks of `_contiguous_inputs`.
    """

    model: GradSampleModule
    optimiser: DPOptimizer
    loader: DataLoader
    sampling: torch.Generator
    noise: torch.Generator
    layout: list[RemovableHandle]
    promised: Privacy

    def seed(self, seed: int, epoch: int) -> None:
        """A seed of its own for each source of random numbers and each epoch."""
        for k, source in enumerate((self.sampling, self.noise, torch)):
            source.manual_seed(3 * (seed * 100_003 + epoch) + k)


def prepare(
    recipe: Recipe,
    private: DPRecipe,
    members: Scenes,
    *,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
) -> Prepared:
    """Network, optimiser and loader of `train_private_victim`, by Opacus, and the promise.

    The promise comes first: what the accountant refuses is better known before an epoch. Raises
    ValueError as `train_private_victim`.
    """
    numbers.count(seed, "seed")
    model = build_victim(recipe, seed=seed)
    if start is not None:
        model.load_state_dict(start)
    check_private(model)
    if len(members) < private.batch:
        raise ValueError(f"{len(members)} members, fewer than the expected batch {private.batch}")
    if not private.delta < 1 / len(members):
        raise ValueError(
            f"delta is {private.delta:g} for {len(members)} members; expected less than 1 / "
            f"{len(members)} = {1 / len(members):.2g}: else who publishes one of them keeps the "
            "promise; choose a smaller delta"
        )
    model.to(best_device()).train()
    chosen = trained_names(model, private.trained)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    trained = [p for p in model.parameters() if p.requires_grad]
    layout = _contiguous_inputs(model)
    optimiser = torch.optim.Adam(trained, private.lr)
    sampling, noise = torch.Generator(), torch.Generator(device_of(model))
    loader = DataLoader(
        _Augmented(members, recipe, private.crop), batch_size=private.batch, generator=sampling
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus: no secure random numbers (see above)
        model, optimiser, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=optimiser,
            data_loader=loader,
            noise_multiplier=private.noise_multiplier,
            max_grad_norm=private.clip_norm,
            noise_generator=noise,
        )
    promised = promise(
        private.noise_multiplier,
        private.clip_norm,
        loader.sample_rate,
        len(loader) * private.epochs,
        private.delta,
    )
    return Prepared(model, optimiser, loader, sampling, noise, layout, promised)


def train_private_victim(
    recipe: Recipe,
    private: DPRecipe,
    members: Scenes,
    *,
    seed: int,
    start: dict[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    progress: str | None = "victim",
    line: int = 0,
) -> tuple[nn.Module, list[dict], Privacy]:
    """Train a victim by DP-SGD; return it, a history of one dict an epoch, and the promise.

    `start` are weights to begin with, of a public network: they must not have seen a member. What
    the recipe does not train keeps them. The last weights count, and no held-out set is
    asked: each look would have its price. With `checkpoint` an interrupted run goes on.

    The noise comes from `seed`, so that a run can be repeated: the promise is one to somebody who
    does not know the seed. A real release draws it from a secure source (Opacus' `secure_mode`).
    What will be promised is printed before the first epoch, if there is any progress to print.
    Raises ValueError for BatchNorm, for fewer members than a batch, a delta of one over the number
    of members or more, a damaged checkpoint, and whatever `promise` refuses.
    """
    parts = prepare(recipe, private, members, seed=seed, start=start)
    if progress:
        tqdm.write(f"{progress}: {parts.promised}")
    model, optimiser = parts.model, parts.optimiser
    text = f"{recipe.model_dump_json()} {private.model_dump_json()} {members.digest} {seed}"
    text += _digest(start or {})
    run = {"identity": hashlib.sha256(text.encode()).hexdigest(), "history": []}
    if checkpoint is not None and checkpoint.exists():
        state = resume(checkpoint, run["identity"], model, optimiser=optimiser)
        run["history"] = state["history"] if state else []
    bar = tqdm(
        total=private.epochs,
        initial=len(run["history"]),
        desc=progress,
        unit="epoch",
        disable=not progress,
        position=line,
    )
    with bar, torch.random.fork_rng(devices=[]):
        while len(run["history"]) < private.epochs:
            epoch = len(run["history"])
            parts.seed(seed, epoch)
            loss = _one_epoch(model, optimiser, parts.loader, private.physical)
            run["history"].append({"epoch": epoch + 1, "loss": loss})
            bar.set_postfix(loss=f"{loss:.3f}")
            bar.update()
            if checkpoint is not None:
                state = run | {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
                replace_file(checkpoint, lambda part, state=state: torch.save(state, part))
    model.remove_hooks()
    for hook in parts.layout:
        hook.remove()
    return model._module.requires_grad_(True).eval(), run["history"], parts.promised


def _one_epoch(model, optimiser, loader, physical: int) -> float:
    total, count = 0.0, 0
    for losses in physical_steps(model, optimiser, loader, physical):
        total, count = total + losses.sum().item(), count + len(losses)
    return total / count


def physical_steps(
    model: GradSampleModule, optimiser: DPOptimizer, loader: DataLoader, physical: int
) -> Iterator[Tensor]:
    """One epoch: after each part of a batch that fits into memory, the losses of its images."""
    device = device_of(model)
    memory = BatchMemoryManager(
        data_loader=loader, max_physical_batch_size=physical, optimizer=optimiser
    )
    with memory as parts, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: hooks on a module whose input needs no gradient
        for images, masks in parts:
            losses = per_image_loss(model(images.to(device)).float(), masks.to(device))
            losses.mean().backward()  # Opacus takes the mean apart again, image by image
            optimiser.step()
            optimiser.zero_grad()
            yield losses.detach()


def _digest(state: Mapping[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name, value in state.items():
        content.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()
