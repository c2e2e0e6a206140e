"""DP-SGD: training that bounds what any one member can change in the weights, by Opacus.

Each image's gradient is clipped to a norm, the clipped ones are added up, and noise is added that
hides any single one (Abadi et al. 2016). The bound holds if the loss of an image is its own: see
`per_image_loss`.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from opacus import GradSampleModule, PrivacyEngine
from opacus.optimizers import DPOptimizer
from opacus.utils.batch_memory_manager import BatchMemoryManager
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from opacus.validators import ModuleValidator
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.hooks import RemovableHandle
from tqdm.std import tqdm

from segleak_utils.checks import numbers
from segleak_utils.data import VOID, Scenes
from segleak_utils.victims.accountant import (
    DELTAS,
    LARGEST_NOISE,
    SMALLEST_NOISE,
    Privacy,
    promise,
)
from segleak_utils.victims.asking import best_device, device_of
from segleak_utils.victims.checkpoints import resume
from segleak_utils.victims.networks import Recipe, build_victim
from segleak_utils.victims.training import augmentation
from segleak_utils.whole import replace_file

FEWEST = 8  # members in a step, on average: then none of 300 steps is empty 9 times in 10


def _none_or_enough(noise_multiplier: float) -> float:
    if 0 < noise_multiplier < SMALLEST_NOISE:
        raise ValueError(f"a noise multiplier is 0 or at least {SMALLEST_NOISE}")
    return noise_multiplier


NoiseMultiplier = Annotated[
    float, Field(ge=0, le=LARGEST_NOISE, allow_inf_nan=False), AfterValidator(_none_or_enough)
]


class DPRecipe(BaseModel):
    """The private part of a training; with the `Recipe` it says all that can be said of it.

    `batch`: as many members as are *planned* for are divided into steps of at most so many on
    average, drawn by Poisson sampling (`schedule`). `physical` is how many images are in memory at
    once. A `noise_multiplier` of 0 is the same training without privacy.
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

    def schedule(self, planned: int) -> Schedule:
        """Rate, steps and divisor, for a training that is planned for so many members.

        `planned` is a public number: the accountant's promise, for one member more or less, holds
        if nothing here depends on how many there really are (opacus#819; arXiv 2605.15648).
        Raises ValueError for less than a batch.

        >>> recipe = DPRecipe(noise_multiplier=1, batch=250, epochs=10, lr=1e-3)
        >>> recipe.schedule(2000)
        Schedule(sampling_rate=0.125, an_epoch=8, steps=80, divisor=250)
        """
        planned = numbers.count(planned, "planned", 1)
        if planned < self.batch:
            raise ValueError(
                f"planned for {planned} members, fewer than the expected batch {self.batch}: "
                "choose a smaller batch"
            )
        an_epoch = -(-planned // self.batch)
        return Schedule(1 / an_epoch, an_epoch, an_epoch * self.epochs, planned // an_epoch)


@dataclass(frozen=True)
class Schedule:
    """What is public of a training: the share of the members in a step, the steps of an epoch and
    in all, and what a step's noisy sum is divided by."""

    sampling_rate: float
    an_epoch: int
    steps: int
    divisor: int


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

    Of the parameters that are trained. `loss` maps (logits, masks) to the mean over the batch.
    Raises ValueError as `check_private`.
    """
    inner = copy.deepcopy(model).train()
    check_private(inner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _contiguous_inputs(inner)
        watched = GradSampleModule(inner)
        loss(watched(images), masks).backward()
    trained = [p for p in watched.parameters() if p.requires_grad]
    return torch.cat([p.grad_sample.flatten(1) for p in trained], 1)


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
    planned: int,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
) -> Prepared:
    """Network, optimiser and loader of `train_private_victim`, by Opacus, and the promise.

    The promise comes first: what the accountant refuses is better known before an epoch. Raises
    ValueError as `train_private_victim`.
    """
    numbers.count(seed, "seed")
    public = private.schedule(planned)
    model = build_victim(recipe, seed=seed)
    if start is not None:
        model.load_state_dict(start)
    check_private(model)
    if len(members) * public.sampling_rate < FEWEST:
        raise ValueError(
            f"{len(members)} members, of whom {len(members) * public.sampling_rate:g} are in "
            f"a step on average; expected at least {FEWEST}, or a step may well be empty"
        )
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
        _Augmented(members, recipe, private.crop),
        batch_sampler=UniformWithReplacementSampler(
            num_samples=len(members),
            sample_rate=public.sampling_rate,
            generator=sampling,
            steps=public.an_epoch,
        ),
        generator=sampling,
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
    # Opacus makes these of how many members there are
    loader.batch_sampler.sample_rate = loader.sample_rate = public.sampling_rate
    loader.batch_sampler.steps = public.an_epoch
    optimiser.expected_batch_size = public.divisor
    promised = promise(
        private.noise_multiplier,
        private.clip_norm,
        public.sampling_rate,
        public.steps,
        private.delta,
    )
    return Prepared(model, optimiser, loader, sampling, noise, layout, promised)


def train_private_victim(
    recipe: Recipe,
    private: DPRecipe,
    members: Scenes,
    *,
    planned: int,
    seed: int,
    start: dict[str, Tensor] | None = None,
    checkpoint: Path | None = None,
    progress: str | None = "victim",
    line: int = 0,
) -> tuple[nn.Module, list[dict], Privacy]:
    """Train a victim by DP-SGD; return it, a history of one dict an epoch, and the promise.

    `planned`: the public number of members that the recipe is for (`DPRecipe.schedule`); with one
    member more or less the training has the same steps. The losses of the history are exact
    functions of the members: they are for whoever trains, and no part of what is promised.
    `start` are weights to begin with, of a public network: they must not have seen a member. What
    the recipe does not train keeps them. The last weights count, and no held-out set is
    asked: each look would have its price. With `checkpoint` an interrupted run goes on.

    The noise comes from `seed`, so that a run can be repeated: the promise is one to somebody who
    does not know the seed. A real release draws it from a secure source (Opacus' `secure_mode`).
    What will be promised is printed before the first epoch, if there is any progress to print.
    Raises ValueError for BatchNorm, for less planned than a batch, so few members that a step may
    be empty, a delta of one over the number of members or more, a damaged checkpoint, and whatever
    `promise` refuses.
    """
    parts = prepare(recipe, private, members, planned=planned, seed=seed, start=start)
    if progress:
        tqdm.write(f"{progress}: {parts.promised}")
    model, optimiser = parts.model, parts.optimiser
    text = f"{recipe.model_dump_json()} {private.model_dump_json()} {members.digest} {seed} "
    text += f"{planned} "
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
