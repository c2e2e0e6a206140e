"""Attacks: from a victim's outputs on an image to one membership score, learned on shadows only.

The patch attack (paper, section 3.2) classifies random patches of a representation as member or
non-member and averages over the patches of an image. Its bars to pass: the global loss, a logistic
regression on per-class losses, and the blind baseline, which never sees the victim at all.
Throughout, a higher score means "member".
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from tqdm.std import tqdm

from segleak_utils import representations
from segleak_utils.data import Scenes
from segleak_utils.patchnets import (
    CALIBRATED,
    REPRESENTATIONS,
    PatchNet,
    Representation,
    dense_logits,
    mixed_logits,
)
from segleak_utils.store import Posteriors
from segleak_utils.victims import (
    best_device,
    device_of,
    has_bf16,
    posterior_batches,
    replace_file,
    resume,
)

# On a CPU more of them at once fall out of its cache: 96 take ten times as long a patch.
_PATCHES_AT_ONCE = 8


def represent(posterior: Tensor, masks: Tensor, representation: Representation) -> Tensor:
    """A representation float32 [B,K,H,W] of posteriors [B,C,H,W] that were checked before."""
    if representation == "loss map":
        return representations.structured_loss_map(posterior, masks, check=False)
    if representation == "loss map + label":
        return representations.labelled_loss_map(posterior, masks, check=False)
    if representation == "concatenation":
        return representations.concatenation(posterior, masks, check=False)
    raise ValueError(f"unknown representation {representation!r}; known: {REPRESENTATIONS}")


@dataclass(frozen=True)
class Outputs:
    """What one network gave away on some scenes, as the attacker keeps it.

    loss_maps: float16 [N,1,H,W]; masks: uint8 [N,H,W]; member: bool [N], whether the network was
    trained on the scene; posteriors: float16 [N,C,H,W] or None where only the loss was kept;
    those of a `store` stay on disk until some are asked for. references: float16 [N,1,H,W], the
    mean loss maps of networks that never saw the images, or None where nobody asked one.
    """

    loss_maps: Tensor
    masks: Tensor
    member: np.ndarray
    n_classes: int
    posteriors: Tensor | Posteriors | None = None
    references: Tensor | None = None

    def __len__(self) -> int:
        return len(self.masks)

    def subset(self, indices: np.ndarray) -> Outputs:
        """The outputs on the images at `indices`, int or bool."""
        chosen = torch.arange(len(self))[torch.from_numpy(np.asarray(indices))]
        kept = None if self.posteriors is None else self.posteriors.index_select(0, chosen)
        theirs = None if self.references is None else self.references[chosen]
        return replace(
            self,
            loss_maps=self.loss_maps[chosen],
            masks=self.masks[chosen],
            member=self.member[indices],
            posteriors=kept,
            references=theirs,
        )

    def cut(self, corners: Tensor, patch: int) -> Outputs:
        """One square patch of each image; corners: int64 [N,1,2]."""
        kept = None if self.posteriors is None else crop(self.posteriors[:], corners, patch)
        theirs = None if self.references is None else crop(self.references, corners, patch)
        return replace(
            self,
            loss_maps=crop(self.loss_maps, corners, patch),
            masks=crop(self.masks[:, None], corners, patch)[:, 0],
            posteriors=kept,
            references=theirs,
        )

    def maps(self, representation: Representation, indices: Tensor | slice) -> Tensor:
        """The representation float32 [B,K,H,W] of the images at `indices`."""
        masks = self.masks[indices].long()
        if representation == "concatenation":
            if self.posteriors is None:
                raise ValueError(
                    "the posteriors of these outputs were not kept; collect them with "
                    "keep_posteriors=True"
                )
            return represent(self.posteriors[indices].float(), masks, representation)
        loss_maps = self.loss_maps[indices].float()
        if representation == "loss map":
            return loss_maps
        label = representations.one_hot(masks, self.n_classes)
        if representation == "loss map + label":
            return torch.cat([loss_maps, label], 1)
        if representation == CALIBRATED:
            if self.references is None:
                raise ValueError("no reference was asked about these images: see `calibration`")
            calibrated = loss_maps - self.references[indices].float()
            return torch.cat([loss_maps, calibrated, label], 1)
        raise ValueError(f"unknown representation {representation!r}; known: {REPRESENTATIONS}")


def outputs(
    model: nn.Module,
    members: Scenes,
    nonmembers: Scenes,
    *,
    keep_posteriors: bool = False,
    release: Callable[[Tensor], Tensor] | None = None,
    progress: str | None = None,
) -> Outputs:
    """Query a network on scenes it was trained on and on scenes it was not.

    `release` is a defence that its posteriors pass through.
    """
    kept: list[tuple[Tensor, ...]] = []
    for scenes in (members, nonmembers):
        name = progress and f"{progress}, {len(scenes)} scenes"
        for posterior, masks in posterior_batches(model, scenes, progress=name):
            posterior = posterior if release is None else release(posterior)
            loss = representations.structured_loss_map(posterior, masks).half()
            kept.append((loss, masks.byte(), posterior.half() if keep_posteriors else masks[:0]))
    loss_maps, masks, posteriors = (torch.cat(parts) for parts in zip(*kept, strict=True))
    member = np.arange(len(masks)) < len(members)
    kept_posteriors = posteriors if keep_posteriors else None
    return Outputs(loss_maps, masks, member, members.n_classes, kept_posteriors)


# -------------------------------------------------------------------------------- patch attack


def patch_corners(
    n_images: int, n_patches: int, size: tuple[int, int], patch: int, generator: torch.Generator
) -> Tensor:
    """Random upper left corners of square patches, int64 [N,P,2] (row, column), uniform.

    Raises ValueError for a patch larger than the map or a number of patches below 1.
    """
    if not 1 <= patch <= min(size) or n_patches < 1:
        raise ValueError(
            f"{n_patches} patches of {patch}x{patch} from maps of {size[0]}x{size[1]}: need at "
            "least one patch, no larger than the map"
        )
    rows = torch.randint(size[0] - patch + 1, (n_images, n_patches), generator=generator)
    columns = torch.randint(size[1] - patch + 1, (n_images, n_patches), generator=generator)
    return torch.stack([rows, columns], -1)


def crop(maps: Tensor, corners: Tensor, patch: int) -> Tensor:
    """Cut patches: maps [N,K,H,W], corners [N,P,2] → [N*P,K,patch,patch]."""
    return torch.cat([*_cut(maps, corners, patch, at_once=max(1, corners.shape[:2].numel()))])


def _cut(maps: Tensor, corners: Tensor, patch: int, at_once: int) -> Iterator[Tensor]:
    """The patches in the order of `crop`, a few at a time."""
    windows = maps.unfold(2, patch, 1).unfold(3, patch, 1)
    image = torch.arange(len(maps)).repeat_interleave(corners.shape[1])
    rows, columns = corners.reshape(-1, 2).unbind(-1)
    for i in range(0, len(image), at_once):
        some = slice(i, i + at_once)
        patches = windows[image[some], :, rows[some], columns[some]]
        yield patches.contiguous(memory_format=torch.channels_last)


def _margin(logits: Tensor, score: str) -> Tensor:
    if score == "margin":
        return logits[:, 1] - logits[:, 0]
    if score == "logit1":
        return logits[:, 1]
    raise ValueError(f"score={score!r}; expected 'margin' or 'logit1' (the public code's)")


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
    net.eval()
    corners = patch_corners(len(maps), n_patches, tuple(maps.shape[-2:]), patch, generator)
    judge = net
    if batched and isinstance(net, PatchNet):  # once a pixel, not once for each patch on it
        judge = net.judge
        maps = torch.cat([net.local(one.to(device_of(net))) for one in maps.split(1)])
    elif mixed:
        judge = partial(mixed_logits, net)
    at_once = _PATCHES_AT_ONCE * (2 if mixed else 1) if batched else 1  # bf16 takes half the cache
    parts = _cut(maps, corners, patch, at_once)
    scores = [_margin(judge(part.to(device_of(net))), score) for part in parts]
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

    The map [N,K,H,W] is looked at once, so the cost does not grow with the number of windows. A
    window sees what surrounds it where a patch sees its own zero padding: the same network, and
    nearly the same scores. Takes what `patch_scores` takes; ValueError for a patch that does not
    fit into the map.
    """
    if not 1 <= patch <= min(maps.shape[-2:]):
        raise ValueError(f"patch {patch}: expected 1..{min(maps.shape[-2:])}, within the map")
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
    """Patch scores float32 [N,P] of one attacker on outputs that were kept."""
    generator = torch.Generator().manual_seed(seed)
    starts = range(0, len(shown), 16)
    score = partial(patch_scores, net, mixed=mixed)
    parts = [
        score(shown.maps(representation, slice(i, i + 16)), n_patches, patch, generator)
        for i in tqdm(starts, desc=progress, unit="batch", disable=not progress, mininterval=2)
    ]
    return torch.cat(parts).numpy()


def stream_scores(
    model: nn.Module,
    scenes: Sequence[Scenes],
    nets: dict[Representation, nn.Module],
    *,
    n_patches: int,
    patch: int,
    seed: int,
    progress: str | None = None,
) -> dict[Representation, np.ndarray]:
    """Patch scores float32 [N,P] of several attackers in one pass over a victim's posteriors.

    Every attacker sees the same patches; no posterior is kept. N runs over all `scenes` in order.
    """
    generators = {r: torch.Generator().manual_seed(seed) for r in nets}
    kept: dict[Representation, list[Tensor]] = {r: [] for r in nets}
    for part in scenes:
        for posterior, masks in posterior_batches(model, part, progress=progress):
            representations.check_posterior(posterior, masks)
            for r, net in nets.items():
                maps = represent(posterior, masks, r)
                kept[r].append(patch_scores(net, maps, n_patches, patch, generators[r]))
    return {r: torch.cat(parts).numpy() for r, parts in kept.items()}


@torch.inference_mode()
def evidence_map(net: nn.Module, maps: Tensor, patch: int, steps: int = 24) -> Tensor:
    """Where an attacker sees a member: float32 [H,W] for one representation [1,K,H,W].

    Each pixel has the mean score of the patches that cover it, on a regular grid of at most
    `steps` x `steps` patches that reaches every edge. Raises ValueError for more than one map, or
    a patch that does not fit into it.
    """
    size = tuple(maps.shape[-2:])
    if len(maps) != 1 or not 1 <= patch <= min(size):
        raise ValueError(
            f"maps {tuple(maps.shape)}, patch {patch}: expected [1,K,H,W] and a patch within"
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
    """How a patch attacker is trained; every choice made on shadow data."""

    representation: Representation = "loss map + label"
    patch: int = 90
    epochs: int = 12
    batch: int = 32
    lr: float = 3e-3
    weight_decay: float = 1e-2
    width: int = 16
    select_share: float = 0.15


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
    same weights; a file of another recipe, seed or number of images is ignored. Returns the net,
    a history of one dict an epoch (``epoch, loss, select_auc``), and (scores float32 [M], member
    bool [M]) of the images kept aside, from which a threshold can be chosen. Raises ValueError
    without shadows, for a shadow without both kinds, and for a damaged checkpoint.
    """
    if not shadows:
        raise ValueError("no shadow outputs to learn from; at least one shadow is needed")
    for shadow in shadows:
        if shadow.member.all() or not shadow.member.any():
            raise ValueError("a shadow needs both members and non-members")
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
    identity = f"{recipe} {seed} {[len(shadow) for shadow in shadows]}"
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


# ------------------------------------------------------------------------- the bars to be passed


def global_loss_scores(shown: Outputs) -> np.ndarray:
    """Minus the mean loss over the labelled pixels (Yeom et al. 2018), float [N]."""
    losses = [
        representations.global_loss(shown.loss_maps[i : i + 64].float(), shown.masks[i : i + 64])
        for i in range(0, len(shown), 64)
    ]
    return -torch.cat(losses).numpy()


def class_features(shown: Outputs) -> np.ndarray:
    """Mean loss of each class (0 where absent), its sum, and the class shares: float [N,3C].

    The sum is mean times share, what the class adds to the mean of the image. A linear model
    cannot multiply the two, and without it could not even rebuild the global loss.
    """
    parts = []
    for i in range(0, len(shown), 64):
        masks = shown.masks[i : i + 64]
        loss = representations.class_losses(
            shown.loss_maps[i : i + 64].float(), masks, shown.n_classes
        ).nan_to_num(0.0)
        shares = representations.class_shares(masks, shown.n_classes).to(loss.dtype)
        parts.append(torch.cat([loss, loss * shares, shares], 1))
    return torch.cat(parts).double().numpy()


def blind_features(scenes: Scenes) -> np.ndarray:
    """What can be known of an image without any victim: float [N,C+7].

    Class shares, mean and deviation of each colour, and the mean gradient. If members can be told
    from non-members by these, the two differ by themselves.
    """
    parts = []
    pixels = scenes.shape[0] * scenes.shape[1]
    for images, masks in scenes.batches(max(1, 64 * 128 * 256 // pixels)):  # bounded memory
        shares = representations.class_shares(masks, scenes.n_classes)
        gradient = images.diff(dim=-1).abs().mean((1, 2, 3))[:, None]
        colours = [images.mean((2, 3)), images.std((2, 3)), gradient]
        parts.append(torch.cat([shares.float(), *colours], 1))
    return torch.cat(parts).double().numpy()


def logistic_attack(features: np.ndarray, member: np.ndarray) -> Pipeline:
    """Logistic regression on per-image features of shadows; its penalty chosen on shadows too.

    Score others by ``model.decision_function(features)``.
    """
    if not np.isfinite(features).all():
        raise ValueError("features hold NaN or infinite values; replace absent classes first")
    model = LogisticRegressionCV(
        Cs=np.logspace(-3, 2, 6),
        l1_ratios=(0.0,),
        cv=5,
        scoring="roc_auc",
        max_iter=2000,
        use_legacy_attributes=False,
    )
    return make_pipeline(StandardScaler(), model).fit(features, member)


class LinearAttack(nn.Module):
    """A `logistic_attack` as four tensors, to be stored beside the patch attackers."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        for name in ("mean", "scale", "weight"):
            self.register_buffer(name, torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros(1, dtype=torch.float64))

    @classmethod
    def of(cls, fitted: Pipeline) -> LinearAttack:
        scaler, model = fitted.steps[0][1], fitted.steps[1][1]
        attack = cls(len(scaler.mean_))
        values = (scaler.mean_, scaler.scale_, model.coef_[0], model.intercept_)
        for name, value in zip(("mean", "scale", "weight", "bias"), values, strict=True):
            getattr(attack, name).copy_(torch.as_tensor(value))
        return attack

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Membership scores float64 [N] of features float [N,K]."""
        scaled = (torch.from_numpy(features).double() - self.mean) / self.scale
        return (scaled @ self.weight + self.bias).numpy()
