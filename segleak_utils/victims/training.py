"""Training a victim on its members as a practitioner would."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from tqdm.std import tqdm

from segleak_utils.checks import tensors
from segleak_utils.data import VOID, Scenes
from segleak_utils.victims.asking import best_device, device_of, has_bf16
from segleak_utils.victims.checkpoints import resume
from segleak_utils.victims.iou import mean_iou
from segleak_utils.victims.networks import Recipe, build_victim, fingerprint
from segleak_utils.whole import replace_file


def train_victim(
    recipe: Recipe,
    members: Scenes,
    held_out: Scenes,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: str | None = "victim",
    line: int = 0,
    answers: Tensor | None = None,
    start: nn.Module | None = None,
) -> tuple[nn.Module, list[dict]]:
    """Train a victim on its members as a practitioner would; return it with its history.

    Augmentation (flip, scale and crop, colour), AdamW with a one-cycle rate, bf16 where the
    hardware has it, and the weights of the best held-out mIoU. The history holds one dict an
    epoch: ``epoch, loss`` and, when looked at, ``held_out_miou``. With `checkpoint` an interrupted
    run goes on where it stopped; two runs with one seed on one machine give the same weights.
    `line` is the row of the progress bar, where several victims are trained side by side.
    `answers`: posteriors float [N,C,H,W] of another network on the members, to be imitated: half
    as much as they the labels count (as in GLiRA, Galichin et al. 2024, and IMIA, Du et al. 2025).
    `start`: a network of this recipe's layers with whose weights it begins, not with random ones.
    Raises ValueError where recipe and scenes disagree on the classes, for an empty set, held-out
    scenes that are members, members or held-out scenes without a labelled pixel, or answers that
    are of another shape or no distributions.
    """
    if members.n_classes != recipe.n_classes or held_out.n_classes != recipe.n_classes:
        raise ValueError(
            f"the recipe has {recipe.n_classes} classes, the members {members.n_classes}, the "
            f"held-out scenes {held_out.n_classes}; they must agree"
        )
    if len(members) < recipe.batch or len(held_out) == 0:
        raise ValueError(
            f"{len(members)} members and {len(held_out)} held-out scenes: at least one batch "
            f"({recipe.batch}) and one held-out scene are needed"
        )
    shared = sorted({*members.ids} & {*held_out.ids})
    if shared:
        raise ValueError(
            f"{len(shared)} held-out scenes are members, e.g. {shared[0]}: they would say that to "
            "learn by heart is to learn; hold out scenes that are not trained on"
        )
    if answers is not None:
        expected = (len(members), recipe.n_classes, *members.shape)
        if tuple(answers.shape) != expected:
            raise ValueError(f"answers {tuple(answers.shape)}; expected {expected}, as the members")
        for part in answers.split(64):
            tensors.posterior_values(part.float())
    device = best_device()
    model = build_victim(recipe, seed=seed).to(device, memory_format=torch.channels_last)
    if start is not None:
        model.load_state_dict(start.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    steps = len(members) // recipe.batch
    total = steps * recipe.epochs
    rising = 0.2 if total != 5 else 0.3  # a fifth of 5 steps has no length, and it divides by it
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=total, pct_start=rising
    )
    run = {"epoch": 0, "best": -1.0, "waited": 0, "history": [], "weights": None}
    identity = _identity(recipe, members, held_out, seed, answers, start)
    if checkpoint is not None and checkpoint.exists():
        state = resume(checkpoint, identity, model, optimiser=optimiser, schedule=schedule)
        run = state["run"] if state else run

    bar = tqdm(
        total=recipe.epochs,
        initial=run["epoch"],
        desc=progress,
        unit="epoch",
        disable=not progress,
        position=line,
    )
    with bar, torch.random.fork_rng(devices=[]):
        while run["epoch"] < recipe.epochs and run["waited"] < recipe.patience:
            # One seed an epoch: a resumed run draws the same crops as an uninterrupted one.
            torch.manual_seed(seed * 100_003 + run["epoch"])
            record = {"loss": _one_epoch(model, members, recipe, optimiser, schedule, answers)}
            run["epoch"] += 1
            record["epoch"] = run["epoch"]
            if run["epoch"] % recipe.check_every == 0 or run["epoch"] == recipe.epochs:
                record["held_out_miou"] = _held_out_miou(model, held_out)
                better = record["held_out_miou"] > run["best"]
                run["waited"] = 0 if better else run["waited"] + 1
                if better:
                    run["best"] = record["held_out_miou"]
                    run["weights"] = {k: v.clone() for k, v in model.state_dict().items()}
            run["history"].append(record)
            bar.set_postfix(loss=f"{record['loss']:.3f}", held_out_miou=f"{run['best']:.3f}")
            bar.update()
            if checkpoint is not None:
                state = {"identity": identity, "run": run, "model": model.state_dict()}
                state |= {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
                replace_file(checkpoint, lambda part, state=state: torch.save(state, part))
    model.load_state_dict(run["weights"])
    return model.eval(), run["history"]


def _held_out_miou(model: nn.Module, held_out: Scenes) -> float:
    try:
        return mean_iou(model, held_out)
    except ValueError as error:
        raise ValueError(f"the held-out scenes cannot be looked at: {error}") from error


def _identity(recipe: Recipe, members: Scenes, held_out: Scenes, seed: int, answers, start) -> str:
    text = f"{recipe.model_dump_json()} {members.digest} {held_out.digest} {seed}"
    if answers is not None:
        text += f" {hashlib.sha256(answers.contiguous().numpy().tobytes()).hexdigest()}"
    if start is not None:
        text += f" {fingerprint(start)}"
    return hashlib.sha256(text.encode()).hexdigest()


def _one_epoch(model, members, recipe, optimiser, schedule, answers) -> float:
    model.train()
    device, total, learned = device_of(model), 0.0, 0
    order = torch.randperm(len(members)).tolist()
    steps = len(members) // recipe.batch
    augment = augmentation(recipe, tuple(members[0][1].shape))
    for step in range(steps):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        pairs = [augment(*_with_answer(members[i], answers, i)) for i in chosen]
        images = torch.stack([image for image, _ in pairs]).to(device)
        masks = torch.stack([mask for _, mask in pairs]).to(device)
        if answers is not None:
            masks, imitated = masks[:, 0].long(), masks[:, 1:]
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), masks, ignore_index=VOID)
        if answers is not None:
            loss = F.cross_entropy(logits.float(), imitated) + loss / 2
        optimiser.zero_grad(set_to_none=True)
        if (masks != VOID).any():  # the mean loss of no pixel is NaN, and so would be all weights
            loss.backward()
            total += loss.item()
            learned += 1
        optimiser.step()
        schedule.step()
    if not learned:
        raise ValueError("the members have no labelled pixel: all are void")
    return total / learned


def _with_answer(pair: tuple[Tensor, Tensor], answers: Tensor | None, i: int) -> tuple:
    """The mask with the answer's planes below it: both are flipped and cropped as one."""
    image, mask = pair
    return pair if answers is None else (image, torch.cat([mask[None].float(), answers[i].float()]))


def augmentation(recipe: Recipe, size: tuple[int, int]) -> Callable:
    """(image, mask) → (image, mask) under the recipe's random flip, scale, crop and colour."""
    steps: list[nn.Module] = []
    if recipe.crop_area < 1:
        aspect = size[1] / size[0]
        steps.append(
            v2.RandomResizedCrop(
                size,
                scale=(recipe.crop_area, 1.0),
                ratio=(0.85 * aspect, 1.18 * aspect),
                antialias=False,
            )
        )
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip())
    if recipe.colour > 0:
        steps.append(v2.ColorJitter(recipe.colour, recipe.colour, recipe.colour))
    chain = v2.Compose(steps) if steps else v2.Identity()

    def augment(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        image, mask = chain(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)

    return augment
