"""The patch attack (paper, section 3.2): random patches of a representation, classified, averaged.

It is learned on shadows only. Throughout, a higher score means "member".
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from tqdm.std import tqdm

from segleak_utils import representations
from segleak_utils.attacks.outputs import Outputs, represent
from segleak_utils.attacks.patchnets import PatchNet, Representation, dense_logits, mixed_logits
from segleak_utils.attacks.windows import crop, cut, patch_corners
from segleak_utils.checks import numbers
from segleak_utils.data import keep_freed_memory
from segleak_utils.victims import best_device, device_of, has_bf16, resume
from segleak_utils.whole import replace_file

# On a CPU more of them at once fall out of its cache: 96 take ten times as long a patch.
_PATCHES_AT_ONCE = 8


def _score_name(score: str) -> None:
    if score not in ("margin", "logit1"):
        raise ValueError(f"score={score!r}; expected 'margin' or 'logit1' (the public code's)")


def _margin(logits: Tensor, score: str) -> Tensor:
    return logits[:, 1] - logits[:, 0] if score == "margin" else logits[:, 1]


@torch.inference_mode()
def patch_scores(
    net: nn.Module,
    maps: Tensor,
    n_patches: int,
    patch: int,
    generator: torch.Generator,
    *,
    score: Literal["margin", "logit1"] = "margin",
    batched: bool = True,
    mixed: bool = False,
) -> Tensor:
    """Membership score of each patch, float32 [N,P], for maps [N,K,H,W]; eval mode.

    The mean over P is the image's score (paper, section 3.2). ``margin`` is the difference of the
    two logits, ``logit1`` the member logit alone. One patch at a time with `batched=False`. With
    `mixed` a ResNet-50 looks in bf16 and judges in float32: faster where the hardware has bf16,
    and exact to some two digits.
    """
    _score_name(score)
    net.eval()
    corners = patch_corners(len(maps), n_patches, tuple(maps.shape[-2:]), patch, generator)
    device, judge, groups = device_of(net), net, iter([(maps, corners)])
    if batched and isinstance(net, PatchNet):  # once a pixel, not once for each patch on it,
        judge = net.judge  # and image by image: what was seen of one is in the cache when it is cut
        seen = (net.local(one.to(device)) for one in maps.split(1))
        groups = zip(seen, corners.split(1), strict=True)
    elif mixed:
        judge = partial(mixed_logits, net)
    at_once = _PATCHES_AT_ONCE * (2 if mixed else 1) if batched else 1  # bf16 takes half the cache
    scores = [
        _margin(judge(part.to(device)), score)
        for some, places in groups
        for part in cut(some, places, patch, at_once)
    ]
    return torch.cat(scores).view(len(maps), n_patches).float().cpu()


@torch.inference_mode()
def dense_scores(
    net: nn.Module,
    maps: Tensor,
    patch: int,
    *,
    score: Literal["margin", "logit1"] = "margin",
    mixed: bool = False,
) -> Tensor:
    """Membership scores of all windows of `patch` pixels, 8 apart: float32 [N, rows, columns].

    The map [N,K,H,W] is looked at once, so the cost does not grow with the number of windows. It is
    another attack than exact patches: a window sees what surrounds it, where a patch sees its own
    zero padding. Trained networks, a `PatchNet` and a ResNet-50, order images nearly alike either
    way (docs/results.md has rank correlations); their scores differ, so a threshold of the one is
    none of the other. Takes what `patch_scores` takes; ValueError for a patch that does not fit
    into the map.
    """
    _score_name(score)
    patch = numbers.count(patch, "patch", 1, min(maps.shape[-2:]))
    device, out = device_of(net), []
    for one in maps.to(memory_format=torch.channels_last).split(1):
        logits = dense_logits(net.eval(), one.to(device), patch, mixed=mixed)
        out.append(_margin(logits.flatten(0, 2), score).view(logits.shape[:3]))
    return torch.cat(out).float().cpu()


def score_outputs(
    net: nn.Module,
    shown: Outputs,
    representation: Representation,
    *,
    n_patches: int,
    patch: int,
    seed: int,
    mixed: bool = False,
    progress: str | None = None,
) -> np.ndarray:
    """Patch scores float32 [N,P] of one attacker on outputs that were kept.

    Raises ValueError as `patch_corners`, and for a seed that is no whole number.
    """
    generator = torch.Generator().manual_seed(numbers.count(seed, "seed"))
    starts = range(0, len(shown), 16)
    score = partial(patch_scores, net, mixed=mixed)
    parts = [
        score(shown.maps(representation, slice(i, i + 16)), n_patches, patch, generator)
        for i in tqdm(starts, desc=progress, unit="batch", disable=not progress, mininterval=2)
    ]
    return torch.cat(parts).numpy()


Seen = Representation | tuple[object, Representation]


def stream_scores(
    answers: Iterable[tuple[Tensor, Tensor]],
    nets: Mapping[Seen, nn.Module],
    *,
    n_patches: int,
    patch: int,
    seed: int,
) -> dict[Seen, np.ndarray]:
    """Patch scores float32 [N,P] of several attackers in one pass over a victim's answers.

    answers: batches of (posterior float [B,C,H,W], masks integer [B,H,W]), as
    `victims.posterior_batches` yields them; N runs over all of them. nets: by the representation
    that they see, or by (a name, the representation) where several see the same. Every attacker
    sees the same patches; no posterior is kept. ValueError for what `check_posterior` refuses, and
    where nothing was answered.
    """
    seed = numbers.count(seed, "seed")
    generators = {key: torch.Generator().manual_seed(seed) for key in nets}
    kept: dict[Seen, list[Tensor]] = {key: [] for key in nets}
    seen = {key: key if isinstance(key, str) else key[1] for key in nets}
    for posterior, masks in answers:
        representations.check_posterior(posterior, masks)
        for r in dict.fromkeys(seen.values()):
            maps = represent(posterior, masks, r)
            for key in (key for key in nets if seen[key] == r):
                found = patch_scores(nets[key], maps, n_patches, patch, generators[key])
                kept[key].append(found)
    if not all(kept.values()):
        raise ValueError("no answer to score: give at least one batch of posteriors and masks")
    return {key: torch.cat(parts).numpy() for key, parts in kept.items()}


@torch.inference_mode()
def evidence_map(net: nn.Module, maps: Tensor, patch: int, steps: int = 24) -> Tensor:
    """Where an attacker sees a member: float32 [H,W] for one representation [1,K,H,W].

    Each pixel has the mean score of the patches that cover it, on a regular grid of at most
    `steps` x `steps` patches that reaches every edge. Raises ValueError for more than one map, a
    patch that does not fit into it, or so few steps that pixels are left out between the patches.
    """
    size = tuple(maps.shape[-2:])
    patch, steps = numbers.count(patch, "patch", -1), numbers.count(steps, "steps", 1)
    if len(maps) != 1 or not 1 <= patch <= min(size):
        raise ValueError(
            f"maps {tuple(maps.shape)}, patch {patch}: expected [1,K,H,W] and a patch within"
        )
    least = -(-max(size) // patch)
    if steps < least:
        raise ValueError(
            f"steps is {steps}; expected at least {least}, so that patches of {patch} pixels cover "
            f"a map of {size[0]}x{size[1]}"
        )
    rows, columns = (torch.linspace(0, s - patch, steps).round().long().unique() for s in size)
    corners = torch.cartesian_prod(rows, columns)
    total, count = torch.zeros(size), torch.zeros(size)
    for part in corners.split(_PATCHES_AT_ONCE):
        logits = net.eval()(crop(maps, part[None], patch).to(device_of(net)))
        for (row, column), score in zip(part.tolist(), _margin(logits, "margin"), strict=True):
            total[row : row + patch, column : column + patch] += score.item()
            count[row : row + patch, column : column + patch] += 1
    return total / count


@dataclass(frozen=True)
class AttackRecipe:
    """How a patch attacker is trained; every choice made on shadow data.

    Raises ValueError for numbers that cannot be: counts below 1, a rate that is not above 0, a
    share outside (0, 1).
    """

    representation: Representation = "loss map + label"
    patch: int = 90
    epochs: int = 12
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 1e-2
    width: int = 16
    select_share: float = 0.15

    def __post_init__(self) -> None:
        for name in ("patch", "epochs", "batch", "width"):
            numbers.count(getattr(self, name), name, 1)
        numbers.real(self.lr, "lr", 0, ends="()")
        numbers.real(self.weight_decay, "weight_decay", 0)
        numbers.real(self.select_share, "select_share", 0, 1, ends="()")


def train_attacker(
    recipe: AttackRecipe,
    shadows: list[Outputs],
    *,
    seed: int,
    net: nn.Module | None = None,
    checkpoint: Path | None = None,
    progress: str | None = "attacker",
    line: int = 0,
) -> tuple[nn.Module, list[dict], tuple[np.ndarray, np.ndarray]]:
    """Train a patch classifier to tell the shadows' members from their non-members.

    A share `select_share` of the shadows' images is kept aside to choose the epoch (by AUC over 4
    patches). `net` replaces the laptop's `PatchNet`; a GPU with bf16 trains in mixed precision.
    With `checkpoint` an interrupted training goes on after its last whole epoch and ends in the
    same weights; a file of another recipe, other seed or other shadows is ignored. Returns the net,
    a history of one dict an epoch (``epoch, loss, select_auc``), and (scores float32 [M], member
    bool [M]) of the images kept aside, from which a threshold can be chosen. Raises ValueError
    without shadows, for a shadow without both kinds, for patches larger than the maps, and for a
    damaged checkpoint.
    """
    keep_freed_memory()
    seed = numbers.count(seed, "seed")
    if not shadows:
        raise ValueError("no shadow outputs to learn from; at least one shadow is needed")
    for shadow in shadows:
        if shadow.member.all() or not shadow.member.any():
            raise ValueError("a shadow needs both members and non-members")
        height, width = shadow.masks.shape[1:]
        if recipe.patch > min(height, width):
            raise ValueError(
                f"patches of {recipe.patch}x{recipe.patch} from maps of {height}x{width}: they "
                f"have to fit; give AttackRecipe(patch={min(height, width)}) or less"
            )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = net or PatchNet(recipe.representation, shadows[0].n_classes, recipe.width)
    net = net.to(best_device(), memory_format=torch.channels_last)
    learn, select = _hold_out(shadows, recipe.select_share, generator)
    optimiser = torch.optim.AdamW(net.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    steps = len(learn) // recipe.batch
    if steps < 1:
        raise ValueError(f"{len(learn)} shadow images are fewer than one batch of {recipe.batch}")
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=steps * recipe.epochs
    )
    run = {"epoch": 0, "best": -1.0, "history": [], "kept": None, "aside": None}
    # what a checkpoint's weights follow from; hashing takes a while, so only where there may be one
    identity = f"{recipe} {seed} {[s.digest for s in shadows]}" if checkpoint else ""
    if checkpoint is not None and checkpoint.exists():
        state = resume(checkpoint, identity, net, optimiser=optimiser, schedule=schedule)
        if state:
            run = state["run"]
            generator.set_state(state["generator"].cpu())
    bar = tqdm(
        range(run["epoch"], recipe.epochs),
        initial=run["epoch"],
        total=recipe.epochs,
        desc=progress,
        unit="epoch",
        disable=not progress,
        position=line,
    )
    for epoch in bar:
        with _one_thread(isinstance(net, PatchNet)):
            total = _one_epoch(net, shadows, learn, recipe, optimiser, schedule, generator)
            scores, member = _select_scores(net, shadows, select, recipe, seed)
        auc = float(roc_auc_score(member, scores))
        run["history"].append({"epoch": epoch + 1, "loss": total / steps, "select_auc": auc})
        bar.set_postfix(loss=f"{total / steps:.3f}", select_auc=f"{auc:.3f}")
        run["epoch"] = epoch + 1
        if auc > run["best"]:
            aside = torch.from_numpy(scores), torch.from_numpy(member)
            run |= {"best": auc, "kept": copy.deepcopy(net.state_dict()), "aside": aside}
        if checkpoint is not None:
            state = {"identity": identity, "run": run, "generator": generator.get_state()}
            parts = {"model": net, "optimiser": optimiser, "schedule": schedule}
            state |= {name: part.state_dict() for name, part in parts.items()}
            replace_file(checkpoint, lambda part, state=state: torch.save(state, part))
    net.load_state_dict(run["kept"])
    return net.eval(), run["history"], tuple(part.cpu().numpy() for part in run["aside"])


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """The laptop's net learns the same however many cores there are: sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if wanted else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _one_epoch(net, shadows, learn, recipe, optimiser, schedule, generator) -> float:
    """Sum of the losses of an epoch's steps."""
    net.train()
    device = device_of(net)
    mixed = device.type == "cuda" and has_bf16(device)  # on a CPU the laptop's numbers stay exact
    order, total = learn[torch.randperm(len(learn), generator=generator)], 0.0
    for step in range(len(learn) // recipe.batch):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        patches, labels = _patches(shadows, chosen, recipe, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            logits = net(patches.to(device))
        loss = F.cross_entropy(logits.float(), labels.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        total += loss.item()
    return total


def _hold_out(shadows, share, generator) -> tuple[Tensor, Tensor]:
    """(shadow, image) index pairs [M,2] to learn from and to select on, balanced by kind."""
    learn, select = [], []
    for k, shadow in enumerate(shadows):
        for kind in (True, False):
            images = torch.from_numpy(np.flatnonzero(shadow.member == kind))
            images = images[torch.randperm(len(images), generator=generator)]
            pairs = torch.stack([torch.full_like(images, k), images], 1)
            cut = max(1, round(share * len(pairs)))
            select.append(pairs[:cut])
            learn.append(pairs[cut:])
    return torch.cat(learn), torch.cat(select)


def _patches(shadows, chosen, recipe, generator) -> tuple[Tensor, Tensor]:
    """One random, randomly flipped patch of each chosen image, and its label."""
    patches, labels = [], []
    for k, shadow in enumerate(shadows):
        images = chosen[chosen[:, 0] == k, 1]
        if len(images) == 0:
            continue
        size = tuple(shadow.masks.shape[-2:])
        corners = patch_corners(len(images), 1, size, recipe.patch, generator)
        # cut first: the representation is made of a quarter of the pixels then
        part = shadow.subset(images.numpy()).cut(corners, recipe.patch)
        patches.append(part.maps(recipe.representation, slice(None)))
        labels.append(torch.from_numpy(shadow.member[images.numpy()]).long())
    cut = torch.cat(patches).contiguous(memory_format=torch.channels_last)
    flip = torch.rand(len(cut), generator=generator) < 0.5
    return torch.where(flip[:, None, None, None], cut.flip(-1), cut), torch.cat(labels)


def _select_scores(net, shadows, select, recipe, seed) -> tuple[np.ndarray, np.ndarray]:
    scores, labels = [], []
    for k, shadow in enumerate(shadows):
        aside = shadow.subset(select[select[:, 0] == k, 1].numpy())
        patches = score_outputs(
            net, aside, recipe.representation, n_patches=4, patch=recipe.patch, seed=seed
        )
        scores.append(patches.mean(1))
        labels.append(aside.member)
    return np.concatenate(scores), np.concatenate(labels)
