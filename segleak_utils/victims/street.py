"""A victim at the paper's scale: the usual street-scene recipe, over one process or several.

`processes.run_processes` starts them, `processes.processes` joins them, and each calls
`train_street_victim`. The default values are the customary ones for street scenes (SGD with a
polynomial rate, crops, scales 0.5 to 2, flips), not read in the paper.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm.std import tqdm

from segleak_utils.data import VOID, Scenes
from segleak_utils.victims import processes
from segleak_utils.victims.asking import MULTIPLE, device_of, has_bf16
from segleak_utils.victims.checkpoints import resume
from segleak_utils.victims.encoders import load_encoder
from segleak_utils.victims.networks import Name, Recipe, build_victim
from segleak_utils.victims.processes import is_first
from segleak_utils.victims.weights import save_weights
from segleak_utils.whole import replace_file, sha256


class StreetRecipe(BaseModel):
    """How a victim of the paper's kind is trained: one file of `configs/` gives the fields.

    The values are those that street-scene segmentation is customarily trained with, not the
    paper's. There is no auxiliary head.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: Literal["upernet", "pspnet", "deeplabv3plus"] = "upernet"
    encoder: Name = "resnet50"
    encoder_weights: Path | None = Field(None, description="by `fetch_encoder`; None: random")
    decoder_channels: int | None = Field(None, ge=8, le=1024, description="None: the library's")
    norm: Literal["batch", "group"] = "batch"
    output_stride: Literal[8, 16] | None = Field(None, description="pspnet, deeplabv3plus: dilated")
    n_classes: int = Field(19, ge=2, le=255)
    epochs: int = Field(200, ge=1, le=10_000)
    batch: int = Field(8, ge=1, le=4096, description="images a step, over all processes")
    lr: float = Field(0.01, gt=0, le=10)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, le=1)
    power: float = Field(0.9, gt=0, le=10, description="rate: lr * (1 - step / steps) ** power")
    crop: tuple[int, int] = Field((512, 1024), description="(height, width) trained on")
    scale: tuple[float, float] = Field((0.5, 2.0), description="smallest and largest zoom")
    flip: bool = True
    colour: float = Field(0.25, ge=0, lt=1, description="jitter: brightness, contrast, saturation")
    workers: int = Field(4, ge=0, le=256, description="loading processes for each process")

    @model_validator(mode="after")
    def _consistent(self) -> StreetRecipe:
        if any(side < MULTIPLE or side % MULTIPLE for side in self.crop):
            raise ValueError(f"crop {self.crop}: expected multiples of {MULTIPLE}")
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 10:
            raise ValueError(f"scale {self.scale}: expected 0.1 <= smallest <= largest <= 10")
        if self.output_stride is not None and self.arch == "upernet":
            raise ValueError("output_stride is for pspnet and deeplabv3plus; leave it out")
        if self.encoder_weights is not None and self.norm == "group":
            raise ValueError("encoder_weights hold batch norms and do not fit norm='group'")
        return self

    @property
    def network(self) -> Recipe:
        """The network alone, as `victims.build_victim` makes it."""
        return Recipe(**self.model_dump(include=_NETWORK))


_NETWORK = {"arch", "encoder", "decoder_channels", "n_classes", "norm", "output_stride"}


# --------------------------------------------------------------------------------------- data


def seed_of(*parts: int) -> int:
    """One seed in 0..2**64-1 from several numbers >= 0: none alike by a sum of theirs."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


class Crops(Dataset):
    """Random crops of some scenes in one epoch: image float32 [3,h,w] in 0..1, mask int64 [h,w].

    A crop follows from (seed, epoch, index) alone, whichever process or worker draws it. What
    lies outside the scene is black and void.
    """

    def __init__(self, scenes: Scenes, recipe: StreetRecipe, seed: int, epoch: int) -> None:
        self.scenes, self.recipe, self.seed, self.epoch = scenes, recipe, seed, epoch

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image, mask = self.scenes[i]
        with torch.random.fork_rng(devices=[]):
            # not torch.manual_seed, which would seed the GPU's dropout again with every image
            torch.default_generator.manual_seed(seed_of(self.seed, self.epoch, int(i)))
            image, mask = self._chain()(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)

    def _chain(self) -> v2.Compose:
        recipe = self.recipe
        zoom = torch.empty(()).uniform_(*recipe.scale).item()
        # Cropped, then zoomed: the same picture as the other way round, at a fraction of the work.
        # (v2.ScaleJitter takes its target as width, height, and would halve a wide scene.)
        window = [max(1, round(side / zoom)) for side in recipe.crop]
        fill = {tv_tensors.Image: 0, tv_tensors.Mask: VOID}
        steps = [v2.RandomCrop(window, pad_if_needed=True, fill=fill), v2.Resize(recipe.crop)]
        if recipe.flip:
            steps.append(v2.RandomHorizontalFlip())
        if recipe.colour > 0:
            steps.append(v2.ColorJitter(recipe.colour, recipe.colour, recipe.colour))
        return v2.Compose(steps)


def batches(
    scenes: Scenes, recipe: StreetRecipe, *, seed: int, epoch: int, rank: int = 0, world: int = 1
) -> DataLoader:
    """The batches of process `rank` of `world` in one epoch, of ``recipe.batch // world`` crops.

    The processes' s-th batches together hold the crops of a single process's s-th batch. Scenes
    that fill no batch are left out of this epoch.
    """
    sampler = DistributedSampler(
        scenes, world, rank, shuffle=True, seed=seed_of(seed, epoch) % 2**63, drop_last=True
    )
    return DataLoader(
        Crops(scenes, recipe, seed, epoch),
        batch_size=recipe.batch // world,
        sampler=sampler,
        num_workers=recipe.workers,
        drop_last=True,
        pin_memory=torch.cuda.is_available(),
    )


# ----------------------------------------------------------------------------------- training


def train_street_victim(
    recipe: StreetRecipe,
    members: Scenes,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: str | None = "victim",
) -> tuple[nn.Module, list[dict]]:
    """Train on the members; call it in every process. Returns the victim (eval) and its history.

    The history has one dict an epoch: ``epoch`` and ``loss``, the mean over the steps of the
    cross-entropy per labelled pixel. Several processes share each batch and take the step that
    one process alone would take, up to rounding, where a network has no dropout (upernet) and, on
    the CPU, ``norm="group"``: there batch norms see a process's own images only, with a warning;
    on GPUs they are synchronised. After each epoch the first process writes `checkpoint`, from
    which an interrupted run goes on to the weights of an uninterrupted one; another recipe's,
    seed's or members' checkpoint is not used. bf16 on GPUs that have it.

    Raises ValueError where classes, batch, processes and members do not go together or the loss
    is not finite; FileNotFoundError or ValueError for encoder weights, see `load_encoder`.
    """
    device, world = processes.device(), processes.world()
    _check(recipe, members, seed, device, world)
    model = build_victim(recipe.network, seed=seed)
    if recipe.encoder_weights is not None:
        load_encoder(model, recipe.encoder_weights, recipe.encoder)
    synchronised = world > 1 and device.type == "cuda"
    if synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = model.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        model.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
    )
    steps = len(members) // recipe.batch
    schedule = torch.optim.lr_scheduler.PolynomialLR(
        optimiser, steps * recipe.epochs, power=recipe.power
    )
    run, identity = {"epoch": 0, "history": []}, _identity(recipe, members, seed)
    if checkpoint is not None and checkpoint.exists():
        state = resume(checkpoint, identity, model, optimiser=optimiser, schedule=schedule)
        run = state["run"] if state else run

    bar = tqdm(
        total=recipe.epochs * steps,
        initial=run["epoch"] * steps,
        desc=progress,
        unit="step",
        disable=not progress or not is_first(),
        mininterval=2,
    )
    with bar, torch.random.fork_rng(devices=[]):
        network = _shared(model, recipe)
        while run["epoch"] < recipe.epochs:
            # dropout: one seed an epoch and process, so that a resumed run draws the same
            torch.manual_seed(seed_of(seed, run["epoch"], processes.rank(), len(members)))
            crops = batches(
                members, recipe, seed=seed, epoch=run["epoch"], rank=processes.rank(), world=world
            )
            loss = _one_epoch(network, crops, optimiser, schedule, bar)
            if not np.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss} in epoch {run['epoch'] + 1}: training diverged; lower lr "
                    f"(it is {recipe.lr})"
                )
            run["epoch"] += 1
            run["history"].append({"epoch": run["epoch"], "loss": loss})
            bar.set_postfix(epoch=run["epoch"], loss=f"{loss:.3f}")
            if checkpoint is not None and is_first():
                state = {"identity": identity, "run": run, "model": model.state_dict()}
                state |= {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
                replace_file(checkpoint, lambda part, state=state: torch.save(state, part))
            if world > 1:
                dist.barrier()  # nobody reads a checkpoint that the first has not written
    if synchronised:  # the same weights with plain norms, for whoever has no processes
        weights = model.state_dict()
        model = build_victim(recipe.network).to(device, memory_format=torch.channels_last)
        model.load_state_dict(weights)
    return model.eval(), run["history"]


def _check(
    recipe: StreetRecipe, members: Scenes, seed: int, device: torch.device, world: int
) -> None:
    if seed < 0:
        raise ValueError(f"seed {seed}; expected 0 or more")
    if members.n_classes != recipe.n_classes:
        raise ValueError(
            f"the recipe has {recipe.n_classes} classes, the members {members.n_classes}; they "
            "must agree"
        )
    if recipe.batch % world:
        raise ValueError(
            f"a batch of {recipe.batch} cannot be shared by {world} processes: take a multiple "
            f"of {world}"
        )
    if len(members) < recipe.batch:
        raise ValueError(f"{len(members)} members; at least one batch ({recipe.batch}) is needed")
    if recipe.norm == "batch" and (world == 1 or device.type == "cpu"):
        if recipe.batch // world < 2:
            raise ValueError(
                f"a batch of {recipe.batch} over {world} processes leaves batch norms a single "
                "image; take a larger batch, or norm='group'"
            )
        if world > 1 and is_first():
            warnings.warn(
                f"batch norms are not synchronised on the CPU: each of {world} processes takes "
                "its own images' statistics, and the result is not a single process's; "
                "norm='group' has none",
                stacklevel=3,
            )


def _identity(recipe: StreetRecipe, members: Scenes, seed: int) -> str:
    """What the weights follow from: not from how many workers load, nor where a file lies."""
    text = recipe.model_dump_json(exclude={"workers", "encoder_weights"})
    encoder = None if recipe.encoder_weights is None else sha256(recipe.encoder_weights)
    return hashlib.sha256(f"{text} {encoder} {members.digest} {seed}".encode()).hexdigest()


def _shared(model: nn.Module, recipe: StreetRecipe) -> nn.Module:
    """The model whose gradients are averaged over the processes; alone, the model itself."""
    if not processes.joined():
        return model
    device = device_of(model)
    idle = recipe.arch == "pspnet" and recipe.output_stride is None  # leaves two stages unused
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=idle,
    )


def global_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """This process's part of the cross-entropy per labelled pixel of the whole batch, a scalar.

    Its mean over the processes is that cross-entropy, and so for the gradients, however unevenly
    the labelled pixels are spread; 0 where no process has any. Logits [N,C,H,W], masks int64
    [N,H,W] with 255 = void.
    """
    count = (masks != VOID).sum()
    if processes.joined():
        dist.all_reduce(count)
    total = F.cross_entropy(logits.float(), masks, ignore_index=VOID, reduction="sum")
    return total * processes.world() / count.clamp(min=1)


def _one_epoch(network, crops, optimiser, schedule, bar) -> float:
    network.train()
    device = device_of(network)
    total = torch.zeros((), device=device, dtype=torch.float64)
    for images, masks in crops:
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        masks = masks.to(device, non_blocking=True)
        fast = device.type == "cuda" and has_bf16(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            logits = network(images)
        loss = global_loss(logits, masks)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        total += loss.detach()
        bar.update()
    if processes.joined():
        dist.all_reduce(total)
    return total.item() / processes.world() / len(crops)


def save_street_victim(model: nn.Module, path: Path, recipe: StreetRecipe, meta: dict) -> str:
    """Store a victim (float16) so that `victims.load_victim` builds it again; return the SHA-256.

    The header holds `meta`, the network's recipe under ``"recipe"`` and this one under
    ``"training"``.
    """
    network = recipe.model_dump(include=_NETWORK)
    own = {"recipe": network, "training": recipe.model_dump(mode="json")}
    return save_weights(model, path, meta | own)
