"""Attacks of other papers on the same victim, so that a contest has them beside ours.

Each is built from its paper and named after it; what had to be adapted is said where it is done.
They learn, and choose their thresholds, on shadows only. Throughout, a higher score means "member".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm.std import tqdm

from segleak_utils import metrics, representations, victims
from segleak_utils.attacks.contests import Attack, learned
from segleak_utils.attacks.outputs import Outputs
from segleak_utils.checks import numbers, tensors
from segleak_utils.data import VOID

DICE = "Dice"
TYPE_1, TYPE_2 = "whole image, Type-I", "whole image, Type-II"
LABEL_ONLY = "label-only, errors per class"
SHAFRAN = "global loss minus predictability"

Learned = tuple[nn.Module, list[dict], tuple[np.ndarray, np.ndarray]]


def peer_attacks(
    shown: Outputs, shadows: Sequence[Outputs], *, recipe: ImageRecipe | None = None, seed: int = 0
) -> list[Attack]:
    """Dice, both whole-image classifiers and label-only, from what victim and shadows have said.

    The outputs must hold their posteriors. `recipe`, `seed`: of the whole-image classifiers. (The
    predictability needs images, too: `predictability_attack`.) ValueError without shadows, or
    without posteriors.
    """
    if not shadows:
        raise ValueError("no shadow to learn from; at least one is needed")
    recipe, n_classes = recipe or ImageRecipe(), shown.n_classes
    member = np.concatenate([of.member for of in shadows])
    scores, *own = [dice_scores(of) for of in (shown, *shadows)]
    found = [dice_attack(scores, np.concatenate(own), member)]
    ours, *theirs = [_maps_of(of, recipe.pool) for of in (shown, *shadows)]
    for name, seen in image_channels(n_classes).items():
        net, _, aside = train_image_attacker(
            recipe, torch.cat([maps[:, :seen] for maps in theirs]), member, seed=seed
        )
        found.append(whole_image_attack(name, image_scores(net, ours[:, :seen]), *aside))
    rows, *own = [_label_rows(of) for of in (shown, *shadows)]
    return [*found, label_only_attack(rows, np.concatenate(own), member)]


def _in_parts(shown: Outputs) -> Iterator[tuple[Tensor, Tensor]]:
    """Posteriors float32 and masks of a few images at a time."""
    if shown.posteriors is None:
        raise ValueError("the posteriors of these outputs were not kept; ask with them")
    for i in range(0, len(shown), 16):
        yield shown.posteriors[i : i + 16].float(), shown.masks[i : i + 16].long()


def _maps_of(shown: Outputs, pool: int) -> Tensor:
    return torch.cat([image_maps(*part, pool) for part in _in_parts(shown)])


def _label_rows(shown: Outputs) -> np.ndarray:
    parts = ((p.argmax(1), m) for p, m in _in_parts(shown))
    return np.concatenate([label_features(*part, shown.n_classes) for part in parts])


# ----------------------------------------------------------------------------------------- Dice


def dice_scores(shown: Outputs) -> np.ndarray:
    """Mean Dice of each image, float64 [N]; ValueError where the posteriors were not kept."""
    found = [representations.dice(*part) for part in _in_parts(shown)]
    return torch.cat(found).double().numpy()


def dice_attack(scores: np.ndarray, own: np.ndarray, member: np.ndarray) -> Attack:
    """A threshold on the mean Dice: the victim's images [N], the shadows' [M]; member: bool [M].

    Chobola, Usynin and Kaissis, "Membership inference attacks against semantic segmentation
    models", AISec 2023, arXiv 2212.01082: the Dice loss of an image against a threshold. Theirs is
    of the posteriors, as here; classes that are absent are left out here (`representations.dice`).

    >>> attack = dice_attack(np.array([0.9, 0.1]), np.array([3.0, 2, 1, 0]), np.arange(4) < 2)
    >>> attack.threshold
    1.5
    """
    return Attack(DICE, "mean Dice", scores, metrics.best_threshold(own, member))


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

    def __post_init__(self) -> None:
        """Raise ValueError for counts below 1, a rate not above 0, a share outside (0, 1)."""
        for name in ("pool", "epochs", "batch"):
            numbers.count(getattr(self, name), name, 1)
        numbers.real(self.lr, "lr", 0, ends="()")
        numbers.real(self.weight_decay, "weight_decay", 0)
        numbers.real(self.select_share, "select_share", 0, 1, ends="()")


def image_maps(posterior: Tensor, masks: Tensor, pool: int) -> Tensor:
    """What a whole-image classifier sees, in steps of 1/255: uint8 [N,2C,H/pool,W/pool].

    Near 1 bf16, in which it is trained, has no finer steps, and 1600 images fit into memory.
    posterior: float [N,C,H,W]; masks: integer [N,H,W]. Type-I sees the first C channels, the
    posterior; Type-II also the label, one-hot, void all-zero. ValueError for a bad posterior or
    mask, or a pool that is not within them.

    >>> posterior = torch.tensor([[[[0.2, 0.6]] * 2, [[0.8, 0.4]] * 2]])
    >>> image_maps(posterior, torch.tensor([[[0, 0]] * 2]), pool=2).flatten()  # .4, .6, 1, 0
    tensor([102, 153, 255,   0], dtype=torch.uint8)
    """
    tensors.mask_shape(masks)
    pool = numbers.count(pool, "pool", 1, min(masks.shape[-2:]))
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
    there are not enough images of both kinds. Source: as `dice_attack`.
    """
    if maps.ndim != 4 or maps.dtype != torch.uint8 or member.shape != maps.shape[:1]:
        found = f"{maps.dtype} {tuple(maps.shape)} and {member.shape}"
        raise ValueError(f"maps and member are {found}; expected uint8 [N,K,h,w] and [N]")
    numbers.labels(member, len(maps), of="maps")
    seed = numbers.count(seed, "seed")
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
    import timm  # not in the core

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


def image_channels(n_classes: int) -> dict[str, int]:
    """How many channels of `image_maps` each whole-image classifier sees, by its name.

    >>> image_channels(19)
    {'whole image, Type-I': 19, 'whole image, Type-II': 38}
    """
    return {TYPE_1: n_classes, TYPE_2: 2 * n_classes}


def whole_image_attack(
    name: str, scores: np.ndarray, aside: np.ndarray, member: np.ndarray
) -> Attack:
    """A classifier's scores of the victim's images, and its threshold from shadow images.

    aside, member: scores and bool [M] of those that were kept aside in its training.
    """
    seen = {TYPE_1: "posteriors", TYPE_2: "posteriors + labels"}[name]
    return Attack(name, seen, scores.astype(np.float64), metrics.best_threshold(aside, member))


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

    >>> predicted, masks = torch.tensor([[[0, 0, 1, 1]]]), torch.zeros(1, 1, 4, dtype=torch.int64)
    >>> label_features(predicted, masks, 1)  # a half is wrong, all of it inside
    array([[0.5, 0. , 0.5, 0. , 1. , 0. ]])
    """
    tensors.mask_shape(predicted)
    tensors.mask_shape(masks)
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


def label_only_attack(of_victim: np.ndarray, of_shadows: np.ndarray, member: np.ndarray) -> Attack:
    """A regression on the `label_features` of the shadows' images; member: bool, of these."""
    return learned(LABEL_ONLY, "errors + shares", of_victim, of_shadows, member)


# ------------------------------------------------------------------------------ predictability

GRID = (32, 64)  # of features and labels, for the predictability
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
    penalty = numbers.real(penalty, "penalty", 0, ends="()")
    folds = numbers.count(folds, "folds", 2, weights[0].numel())
    seed = numbers.count(seed, "seed")
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


def label_shares(masks: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Shares of the classes [N,C,h,w] among a cell's labelled pixels, and the labelled share.

    >>> shares, labelled = label_shares(torch.zeros(1, 64, 64, dtype=torch.int64), 2)
    >>> shares[0, :, 0, 0], labelled[0, 0, 0]
    (tensor([1., 0.]), tensor(1.))
    """
    shares = F.adaptive_avg_pool2d(representations.one_hot(masks, n_classes), GRID)
    labelled = shares.sum(1)
    return shares / labelled[:, None].clamp(min=1e-6), labelled


def best_alpha(losses: np.ndarray, errors: np.ndarray, member: np.ndarray) -> float:
    """The weight of the predictability with the highest AUC on *shadow* images, from a grid.

    losses, errors: float [N]; member: bool [N]. The paper subtracts errors of one kind, so its
    weight is 1; a cross-entropy and an absolute error need one of their own. ValueError for other
    forms, and values that are not finite or below 0.
    """
    losses, errors = _losses_and_errors(losses, errors)
    return float(max(_ALPHAS, key=lambda a: metrics.auc(a * errors - losses, member).value))


def predictability_attack(
    of_victim: tuple[np.ndarray, np.ndarray],
    of_shadows: tuple[np.ndarray, np.ndarray],
    member: np.ndarray,
) -> Attack:
    """Minus the global loss, plus the errors times a weight that is chosen on shadow images.

    Each: (global losses, `predictability_errors`), float [N]; member: bool, of the shadows' images.

    >>> member, losses = np.arange(8) < 4, np.array([3.0, 1, 3, 1, 4, 2, 4, 2])
    >>> hard = np.array([2.0, 0, 2, 0, 2, 0, 2, 0])  # half of an image's loss is its difficulty
    >>> attack = predictability_attack((losses, hard), (losses, hard), member)
    >>> attack.scores[member].min() > attack.scores[~member].max()
    np.True_
    """
    losses, errors = _losses_and_errors(*of_shadows)
    alpha = best_alpha(losses, errors, member)
    threshold = metrics.best_threshold(alpha * errors - losses, member)
    losses, errors = _losses_and_errors(*of_victim)
    return Attack(SHAFRAN, "mean loss + predictability", alpha * errors - losses, threshold)


def _losses_and_errors(losses: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    losses, errors = numbers.finite(losses, "losses"), numbers.finite(errors, "errors")
    if losses.shape != errors.shape:
        raise ValueError(f"{len(losses)} losses and {len(errors)} errors; expected one of each")
    for name, values in (("losses", losses), ("errors", errors)):
        if values.size and values.min() < 0:
            raise ValueError(f"{name} go down to {values.min():.3g}; expected all >= 0")
    return losses, errors
