"""Attacks of other papers on the same victim, so that a contest has them beside ours.

Each is built from its paper and named after it; what had to be adapted is said where it is done.
They learn, and choose their thresholds, on shadows only. Throughout, a higher score means "member".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import timm
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm.std import tqdm

from segleak_utils import (
    attacks,
    contests,
    experiment,
    metrics,
    protected,
    representations,
    victims,
)
from segleak_utils.contests import Attack
from segleak_utils.data import VOID, Scenes
from segleak_utils.experiment import Network, Plan

DICE = "Dice"
TYPE_1, TYPE_2 = "whole image, Type-I", "whole image, Type-II"
LABEL_ONLY = "label-only, errors per class"
SHAFRAN = "global loss minus predictability"

Learned = tuple[nn.Module, list[dict], tuple[np.ndarray, np.ndarray]]


def peer_attacks(
    plan: Plan,
    victim: Network,
    shadows: list[Network],
    *,
    recipe: ImageRecipe | None = None,
    seed: int = 0,
) -> list[Attack]:
    """The five peers on one victim, on the images of `experiment.loss_outputs` and in their order.

    `recipe`, `seed`: of the whole-image classifiers. Raises ValueError without shadows, and where
    the victim's scenes and a shadow's overlap.
    """
    if not shadows:
        raise ValueError("no shadow to learn from; at least one is needed")
    for shadow in shadows:
        experiment.check_apart(victim, shadow)
    member = np.concatenate([_member(of) for of in shadows])
    scores, *own = [_answers(plan, of)["dice"].astype(np.float64) for of in (victim, *shadows)]
    threshold = metrics.best_threshold(np.concatenate(own), member)
    return [
        Attack(DICE, "mean Dice", scores, threshold),
        *_whole_image(plan, victim, shadows, recipe or ImageRecipe(), seed),
        _label_only(plan, victim, shadows, member),
        _shafran(plan, victim, shadows, member),
    ]


def predictions(plan: Plan, of: Network, reference: Network | None = None) -> Tensor:
    """Most probable class of each pixel of a network's members, then non-members: uint8 [N,H,W].

    With `reference`, what that one says of the same scenes; ValueError if it was trained on one of
    them. Cached.
    """
    if reference is not None:
        experiment.check_apart(of, reference)
        of = replace(reference, members=of.members, nonmembers=of.nonmembers)
    return torch.from_numpy(_answers(plan, of)["predictions"])


def _answers(plan: Plan, of: Network) -> dict[str, np.ndarray]:
    """Predictions uint8 [N,H,W] and mean Dice float32 [N] of members, then non-members; cached.

    Dice: Chobola, Usynin and Kaissis, "Membership inference attacks against semantic segmentation
    models", AISec 2023, arXiv 2212.01082: the Dice loss of an image against a threshold. Theirs is
    of the posteriors, as here; classes that are absent are left out here (`representations.dice`).
    """

    def compute() -> dict[str, np.ndarray]:
        told = plan.progress and f"predictions of {of.name}"
        classes, dices = [], []
        for scenes in (of.members, of.nonmembers):
            for posterior, masks in victims.posterior_batches(of.model, scenes, progress=told):
                dices.append(representations.dice(posterior, masks))
                classes.append(posterior.argmax(1).byte())
        return {"predictions": torch.cat(classes).numpy(), "dice": torch.cat(dices).numpy()}

    return experiment.cached(plan, ("answers", *_identity(of)), compute)


def _identity(of: Network) -> tuple[str, str, str]:
    return of.sha256, of.members.digest, of.nonmembers.digest


def _member(of: Network) -> np.ndarray:
    return np.arange(len(of.members) + len(of.nonmembers)) < len(of.members)


# --------------------------------------------------------------- Type-I and Type-II of seg-mia


@dataclass(frozen=True)
class ImageRecipe:
    """How a whole-image classifier is trained; every choice made on shadow data.

    arch: a residual network of timm, untrained; theirs was a ResNet-34 with weights of ImageNet.
    pool: maps are averaged over squares of as many pixels; theirs were whole.
    """

    arch: str = "resnet18"
    pool: int = 2
    epochs: int = 12
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-2
    select_share: float = 0.15


def image_maps(posterior: Tensor, masks: Tensor, pool: int) -> Tensor:
    """What a whole-image classifier sees, in steps of 1/255: uint8 [N,2C,H/pool,W/pool].

    Near 1 bf16, in which it is trained, has no finer steps, and 1600 images fit into memory.
    posterior: float [N,C,H,W]; masks: integer [N,H,W]. Type-I sees the first C channels, the
    posterior; Type-II also the label, one-hot, void all-zero. ValueError for a bad posterior or
    mask, or a pool that is not within them.
    """
    if not 1 <= pool <= min(masks.shape[-2:]):
        raise ValueError(f"pool {pool}: expected 1..{min(masks.shape[-2:])}, within the map")
    both = representations.concatenation(posterior, masks)
    return F.avg_pool2d(both, pool).mul_(255).round_().byte()


def train_image_attacker(
    recipe: ImageRecipe,
    maps: Tensor,
    member: np.ndarray,
    *,
    seed: int,
    progress: str | None = None,
) -> Learned:
    """Train a classifier to tell the maps uint8 [N,K,h,w] of members from others; member: bool [N].

    A share `select_share` of the images is kept aside to choose the epoch (by AUC). The rest is
    flipped at random; bf16 where the hardware has it. Two runs with one seed on one machine give
    the same weights. Returns net, history (``epoch, loss, select_auc``), and (scores float32 [M],
    member bool [M]) of the images kept aside. ValueError for maps of another form, and where
    there are not enough images of both kinds. Source: as `_answers`.
    """
    if maps.ndim != 4 or maps.dtype != torch.uint8 or member.shape != maps.shape[:1]:
        found = f"{maps.dtype} {tuple(maps.shape)} and {member.shape}"
        raise ValueError(f"maps and member are {found}; expected uint8 [N,K,h,w] and [N]")
    learn, select = _kept_aside(recipe, member, seed)
    device, labels = victims.best_device(), torch.from_numpy(member).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = image_net(recipe, maps.shape[1]).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    steps = len(learn) // recipe.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.lr, total_steps=steps * recipe.epochs
    )
    generator, history, best = torch.Generator().manual_seed(seed), [], -1.0
    for epoch in tqdm(range(recipe.epochs), desc=progress, unit="epoch", disable=not progress):
        net.train()
        order, total = learn[torch.randperm(len(learn), generator=generator)], 0.0
        for chosen in order[: steps * recipe.batch].split(recipe.batch):
            flip = torch.rand(len(chosen), generator=generator) < 0.5
            seen = torch.where(flip[:, None, None, None], maps[chosen].flip(-1), maps[chosen])
            with torch.autocast(device.type, torch.bfloat16, enabled=victims.has_bf16(device)):
                logits = net(_scaled(seen, device))
            loss = F.cross_entropy(logits.float(), labels[chosen].to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        scores = image_scores(net, maps, select)
        auc = float(roc_auc_score(member[select], scores))
        history.append({"epoch": epoch + 1, "loss": total / steps, "select_auc": auc})
        if auc > best:
            best, aside = auc, scores
            kept = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(kept)
    return net.eval(), history, (aside, member[select])


def image_net(recipe: ImageRecipe, channels: int) -> nn.Module:
    """An untrained classifier of maps float [N,K,h,w] in 0..1 → logits [N,2]."""
    return timm.create_model(recipe.arch, pretrained=False, in_chans=channels, num_classes=2)


@torch.inference_mode()
def image_scores(net: nn.Module, maps: Tensor, indices: Tensor | None = None) -> np.ndarray:
    """Member logit minus the other one of maps uint8 [N,K,h,w], or those at `indices`: float32."""
    device, chosen = victims.device_of(net), torch.arange(len(maps)) if indices is None else indices
    logits = [net.eval()(_scaled(maps[part], device)).float().cpu() for part in chosen.split(32)]
    return torch.cat([part[:, 1] - part[:, 0] for part in logits]).numpy()


def _scaled(maps: Tensor, device: torch.device) -> Tensor:
    return (maps.to(device).float() / 255).contiguous(memory_format=torch.channels_last)


def _kept_aside(recipe: ImageRecipe, member: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """Indices to learn from and to select on, int64, balanced by kind."""
    if min(member.sum(), (~member).sum()) * recipe.select_share < 1:
        raise ValueError(
            f"{member.sum()} members and {(~member).sum()} non-members: too few to keep a share of "
            f"{recipe.select_share:g} of both aside"
        )
    parts = train_test_split(
        np.arange(len(member)), test_size=recipe.select_share, random_state=seed, stratify=member
    )
    if len(parts[0]) < recipe.batch:
        raise ValueError(f"{len(parts[0])} images are fewer than one batch of {recipe.batch}")
    return torch.from_numpy(parts[0]), torch.from_numpy(parts[1])


def _whole_image(plan, victim, shadows, recipe, seed) -> list[Attack]:
    n_classes = victim.members.n_classes
    channels = {TYPE_1: n_classes, TYPE_2: 2 * n_classes}
    key = ("whole image", *(part for of in shadows for part in _identity(of)), recipe, seed)

    def train() -> dict[str, np.ndarray]:
        maps = torch.cat([part for of in shadows for part in _streamed_maps(plan, of, recipe)])
        member, out = np.concatenate([_member(of) for of in shadows]), {}
        for name, seen in channels.items():
            told = plan.progress and name
            net, _, (scores, aside) = train_image_attacker(
                recipe, maps[:, :seen], member, seed=seed, progress=told
            )
            state = {f"{name}.{k}": v.cpu().contiguous() for k, v in net.state_dict().items()}
            out |= {k: v.numpy() for k, v in state.items()}
            out |= {f"{name} aside": scores, f"{name} member": aside}
        return out

    learned = experiment.cached(plan, key, train)

    def score() -> dict[str, np.ndarray]:
        nets = {name: image_net(recipe, seen) for name, seen in channels.items()}
        for name, net in nets.items():
            state = {k: torch.from_numpy(learned[f"{name}.{k}"]) for k in net.state_dict()}
            net.load_state_dict(state)
            net.to(victims.best_device(), memory_format=torch.channels_last)
        found = {name: [] for name in nets}
        for maps in _streamed_maps(plan, victim, recipe):
            for name, net in nets.items():
                found[name].append(image_scores(net, maps[:, : channels[name]]))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    scored = experiment.cached(plan, (*key, *_identity(victim)), score)
    seen = {TYPE_1: "posteriors", TYPE_2: "posteriors + labels"}
    return [
        Attack(
            name,
            seen[name],
            scored[name].astype(np.float64),
            metrics.best_threshold(learned[f"{name} aside"], learned[f"{name} member"]),
        )
        for name in channels
    ]


def _streamed_maps(plan: Plan, of: Network, recipe: ImageRecipe) -> Iterator[Tensor]:
    told = plan.progress and f"posteriors of {of.name}"
    for scenes in (of.members, of.nonmembers):
        for posterior, masks in victims.posterior_batches(of.model, scenes, progress=told):
            yield image_maps(posterior, masks, recipe.pool)


# --------------------------------------------------------------------------------- label-only


def label_features(predicted: Tensor, masks: Tensor, n_classes: int) -> np.ndarray:
    """What the predicted classes alone tell of an image: float64 [N,6C].

    predicted, masks: integer [N,H,W]. Of each class, inside and then near its boundaries: the share
    of wrong pixels (0 where there is none), that times the share of the image's labelled pixels,
    and this share. The products sum up to the share of wrong pixels of the image.
    ValueError for two grids, a foreign label, or an image without a labelled pixel.

    Choquette-Choo et al., "Label-only membership inference attacks", ICML 2021, call an image a
    member if its label is right (the gap attack, after Yeom et al. 2018). An image has thousands of
    labels here: that the rates of classes and of boundaries are told apart is ours.
    """
    if predicted.shape != masks.shape:
        found = f"{tuple(predicted.shape)} and {tuple(masks.shape)}"
        raise ValueError(f"predictions and masks are {found}; expected the same [N,H,W]")
    representations.class_shares(masks, n_classes)  # refuses foreign labels and empty images
    labelled = masks != VOID
    zone = masks.long() + n_classes * representations.near_boundary(masks)
    zone = zone.masked_fill(~labelled, 2 * n_classes).flatten(1)
    bins = torch.zeros(len(masks), 2 * n_classes + 1, dtype=torch.float64)
    wrong = (predicted != masks).double().flatten(1)
    errors = bins.scatter_add(1, zone, wrong)[:, :-1]
    pixels = bins.scatter_add(1, zone, torch.ones_like(wrong))[:, :-1]
    total = pixels.sum(1, keepdim=True)
    return torch.cat([errors / pixels.clamp(min=1), errors / total, pixels / total], 1).numpy()


def _label_only(plan, victim, shadows, member) -> Attack:
    def features(of: Network) -> np.ndarray:
        masks, said = experiment.loss_outputs(plan, of).masks, predictions(plan, of)
        starts = range(0, len(masks), 64)
        c = of.members.n_classes
        return np.concatenate(
            [label_features(said[i : i + 64], masks[i : i + 64], c) for i in starts]
        )

    rows = np.concatenate([features(of) for of in shadows])
    return contests.learned(LABEL_ONLY, "errors + shares", features(victim), rows, member)


# ------------------------------------------------------------------------------ predictability

_GRID = (32, 64)
_ALPHAS = np.concatenate([[0.0], np.geomspace(0.01, 100, 41)])


def predictability_errors(
    features: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    penalty: float = 1.0,
    folds: int = 5,
    seed: int = 0,
) -> Tensor:
    """How badly a linear map from features, fitted on some pixels of an image, tells the others.

    features: float [N,F,h,w]; targets: float [N,K,h,w]; weights: float [N,h,w], 0 for pixels that
    do not count. One ridge regression (intercept free) for each image and fold; the pixels are cut
    into `folds` at random, alike for all images. Returns the weighted mean over all pixels, each
    told by the fit that has not seen it, of the absolute error, averaged over K: float64 [N].

    Shafran, Peleg and Hoshen, "Membership inference attacks are easier on difficult problems", ICCV
    2021: plain least squares there, on one random 70 % of the pixels. Raises ValueError for other
    shapes, values that are not finite, or an image whose pixels do not count.
    """
    n, _, *grid = features.shape
    if targets.shape[:1] + targets.shape[2:] != (n, *grid) or weights.shape != (n, *grid):
        found = f"{tuple(features.shape)}, {tuple(targets.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"shapes {found}; expected [N,F,h,w], [N,K,h,w] and [N,h,w]")
    if penalty <= 0 or not 2 <= folds <= weights[0].numel():
        raise ValueError(f"penalty {penalty}, folds {folds}: expected above 0, and 2 to h x w")
    if not all(bool(torch.isfinite(part).all()) for part in (features, targets, weights)):
        raise ValueError("features, targets or weights hold NaN or infinite values")
    if bool((weights < 0).any()) or bool((weights.flatten(1).sum(1) == 0).any()):
        raise ValueError("an image has a negative weight, or none of its pixels counts (all void?)")
    pixels = torch.ones_like(features[:, :1])
    x, y, w = torch.cat([features, pixels], 1), targets, weights[:, None]
    order = torch.randperm(weights[0].numel(), generator=torch.Generator().manual_seed(seed))
    x, y, w = (part.flatten(2).double().transpose(1, 2)[:, order] for part in (x, y, w))
    parts = list(zip(*(part.tensor_split(folds, 1) for part in (x, y, w)), strict=True))
    moments = []  # each fold's own, once: the others' are the sum without it
    for x, y, w in parts:
        weighted = (x * w).transpose(1, 2)
        moments.append((weighted @ x, weighted @ y))
    gram, cross = (sum(kind) for kind in zip(*moments, strict=True))
    ridge = torch.full((gram.shape[-1],), penalty, dtype=torch.float64)
    ridge[-1] = 1e-9  # the intercept is free, but all pixels that count may lie in one fold
    total = torch.zeros(n, dtype=torch.float64)
    for (x, y, w), (own_gram, own_cross) in zip(parts, moments, strict=True):
        # positive definite, so no pivots: MKL's batched LU fails after a change of threads
        factor = torch.linalg.cholesky(gram - own_gram + ridge.diag())
        fit = torch.cholesky_solve(cross - own_cross, factor)
        total += ((x @ fit - y).abs().mean(2) * w[..., 0]).sum(1)
    return total / weights.flatten(1).sum(1, dtype=torch.float64)


def predictability(plan: Plan, scenes: Scenes) -> np.ndarray:
    """`predictability_errors` of the labels of scenes, float64 [N]: no victim is asked. Cached.

    Features are those of the encoder of `protected.public`, trained on another city, all stages
    brought to one grid of 32 x 64. The paper's are of a Wide-ResNet-50 trained on ImageNet, which
    is not at hand offline; this one is the shipped one, whatever the plan.
    """
    public = protected.public(Plan(data_root=plan.data_root, progress=plan.progress))

    def compute() -> dict[str, np.ndarray]:
        told = plan.progress and "predictability"
        bar = tqdm(total=len(scenes), desc=told, unit="image", disable=not told, mininterval=2)
        found = []
        with bar:
            for images, masks in scenes.batches(16):
                found.append(errors_of(public.model, images, masks, scenes.n_classes))
                bar.update(len(images))
        return {"errors": torch.cat(found).numpy()}

    key = ("predictability", scenes.digest, public.sha256)
    return experiment.cached(plan, key, compute)["errors"]


def errors_of(model: nn.Module, images: Tensor, masks: Tensor, n_classes: int) -> Tensor:
    """`predictability_errors` of labels [N,H,W] from `deep_features` of their images: [N]."""
    return predictability_errors(deep_features(model, images), *_targets(masks, n_classes))


@torch.inference_mode()
def deep_features(model: nn.Module, images: Tensor) -> Tensor:
    """All stages of a victim's encoder on a grid of 32 x 64, float32 [N,F,32,64]; each channel of
    an image has mean 0 and deviation 1. images: float [N,3,H,W] in 0..1."""
    images = (images.to(victims.device_of(model)) - model.mean) / model.std
    stages = [stage for stage in model.eval().net.encoder(images)[1:] if stage.shape[1]]
    features = torch.cat(
        [F.interpolate(s, _GRID, mode="bilinear", align_corners=False) for s in stages], 1
    ).cpu()
    spread = features.std((2, 3), keepdim=True).clamp(min=1e-6)  # a dead channel stays 0
    return (features - features.mean((2, 3), keepdim=True)) / spread


def _targets(masks: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Shares of the classes [N,C,h,w] among a cell's labelled pixels, and the labelled share."""
    shares = F.adaptive_avg_pool2d(representations.one_hot(masks, n_classes), _GRID)
    labelled = shares.sum(1)
    return shares / labelled[:, None].clamp(min=1e-6), labelled


def best_alpha(losses: np.ndarray, errors: np.ndarray, member: np.ndarray) -> float:
    """The weight of the predictability with the highest AUC on *shadow* images, from a grid.

    losses, errors: float [N]; member: bool [N]. The paper subtracts errors of one kind, so its
    weight is 1; a cross-entropy and an absolute error need one of their own.
    """
    return float(max(_ALPHAS, key=lambda a: metrics.auc(a * errors - losses, member).value))


def _shafran(plan, victim, shadows, member) -> Attack:
    def parts(of: Network) -> tuple[np.ndarray, np.ndarray]:
        losses = -attacks.global_loss_scores(experiment.loss_outputs(plan, of)).astype(np.float64)
        both = [predictability(plan, scenes) for scenes in (of.members, of.nonmembers)]
        return losses, np.concatenate(both)

    losses, errors = (
        np.concatenate(kind) for kind in zip(*(parts(of) for of in shadows), strict=True)
    )
    alpha = best_alpha(losses, errors, member)
    threshold = metrics.best_threshold(alpha * errors - losses, member)
    losses, errors = parts(victim)
    return Attack(SHAFRAN, "mean loss + predictability", alpha * errors - losses, threshold)
