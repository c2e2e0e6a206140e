"""What an attacker makes of a victim's posteriors: loss maps, concatenations, and scalars.

Paper, section 3: He, Rahimian, Schiele, Fritz, "Segmentations-Leak: Membership Inference
Attacks and Defenses in Semantic Image Segmentation", ECCV 2020, arXiv 1912.09685.

Shapes, here and below: posterior is float [N, C, H, W] (softmax over dim 1), mask is integer
[N, H, W] with labels 0..C-1 and 255 for void. float64 posteriors give float64 results, float16,
bfloat16 and float32 ones give float32. Every function takes a batch and none loops over classes.

`check=True` looks at the values (NaN, negative, rows that do not sum to one, foreign labels) and
raises ValueError; it reads the posterior twice, so a hot loop over batches that were checked once
may pass `check=False`. Shapes and dtypes are looked at always: that costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from segleak_utils.checks import VOID, numbers, tensors
from segleak_utils.checks.tensors import check_posterior, extremes  # noqa: F401

# A probability of zero would give an infinite loss; the paper's public code stops at 1e-30.
SMALLEST_PROBABILITY = 1e-30

# Of float32: a strip of an image and its softmax then fit into a core's own cache of a megabyte or
# two. Of 128x256 pixels and 19 classes it has 32 rows.
_VALUES_IN_CACHE = 160_000
_VECTOR = 16  # values of float32 in the widest register

# After the argmax defence a wrong pixel weighs -log(1e-30) = 69.08 and a right one 0. A net trained
# on losses of about 0..5 would saturate, so such maps are brought back to about 1 by this factor.
LOSS_SCALE = 1 / 50


def structured_loss_map(
    posterior: torch.Tensor, mask: torch.Tensor, *, check: bool = True
) -> torch.Tensor:
    """Cross-entropy of every pixel, -log max(p_y, 1e-30), as an image; void pixels are 0.

    Returns float [N, 1, H, W], values 0..69.08 (nats). Paper, section 3.2.
    Raises ValueError for what `check_posterior` refuses.

    >>> posterior = torch.tensor([[0.5, 0.25], [0.5, 0.75]]).view(1, 2, 1, 2)  # 2 classes, 2 pixels
    >>> structured_loss_map(posterior, torch.tensor([[[0, 255]]]))  # -log .5, and void
    tensor([[[[0.6931, 0.0000]]]])
    """
    tensors.pair(posterior, mask, check)
    return _loss(posterior, mask)


def loss_map_of_logits(
    logits: torch.Tensor, mask: torch.Tensor, *, check: bool = True
) -> torch.Tensor:
    """`structured_loss_map` of the softmax of logits [N, C, H, W], without keeping the softmax.

    Returns float [N, 1, H, W], values 0..69.08 (nats); void pixels are 0. Raises ValueError for
    logits that are not finite, and for masks that `check_posterior` refuses.

    >>> logits = torch.tensor([[1.0, 1.0], [1.0, 3.0]]).log().view(1, 2, 1, 2)
    >>> loss_map_of_logits(logits, torch.tensor([[[0, 0]]]))  # -log 1/2 and -log 1/4
    tensor([[[[0.6931, 1.3863]]]])
    """
    tensors.posterior_shape(logits, name="logits")
    tensors.mask_shape(mask, logits)
    if check:
        if not np.isfinite([float(value) for value in extremes(logits)]).all():
            raise ValueError("logits hold NaN or infinite values: mend the victim's output")
        tensors.mask_labels(mask, logits.shape[1])
    images = zip(_widened(logits).split(1), mask.split(1), strict=True)
    return torch.cat([_loss_in_strips(one, labels) for one, labels in images])


def concatenation(
    posterior: torch.Tensor, mask: torch.Tensor, *, check: bool = True
) -> torch.Tensor:
    """Posterior, then the one-hot label; void pixels are all-zero in the one-hot half.

    Returns float [N, 2C, H, W]. Paper, section 3.2.
    Raises ValueError for what `check_posterior` refuses.

    >>> posterior = torch.tensor([[0.5, 0.25], [0.5, 0.75]]).view(1, 2, 1, 2)
    >>> concatenation(posterior, torch.tensor([[[1, 255]]]))[0, :, 0]  # a row a channel
    tensor([[0.5000, 0.2500],
            [0.5000, 0.7500],
            [0.0000, 0.0000],
            [1.0000, 0.0000]])
    """
    tensors.pair(posterior, mask, check)
    return _stack_one_hot(posterior, mask, posterior.shape[1])


def labelled_loss_map(
    posterior: torch.Tensor, mask: torch.Tensor, *, check: bool = True
) -> torch.Tensor:
    """Loss map, then the one-hot label: a loss means something else on a pole than on a road.

    Returns float [N, 1 + C, H, W]; void pixels are zero in every channel.
    Raises ValueError for what `check_posterior` refuses.

    >>> posterior = torch.tensor([[0.5, 0.25], [0.5, 0.75]]).view(1, 2, 1, 2)
    >>> labelled_loss_map(posterior, torch.tensor([[[1, 255]]]))[0, :, 0]  # loss, then the label
    tensor([[0.6931, 0.0000],
            [0.0000, 0.0000],
            [1.0000, 0.0000]])
    """
    tensors.pair(posterior, mask, check)
    return _stack_one_hot(_loss(posterior, mask), mask, posterior.shape[1])


def one_hot(mask: torch.Tensor, n_classes: int, *, check: bool = True) -> torch.Tensor:
    """The mask as float32 [N, n_classes, H, W]; void pixels are all-zero.

    Raises ValueError for a mask that is not integer [N, H, W] or holds a foreign label.

    >>> one_hot(torch.tensor([[[1, 0, 255]]]), 2)[0, :, 0]
    tensor([[0., 1., 0.],
            [1., 0., 0.]])
    """
    tensors.mask_shape(mask)
    numbers.count(n_classes, "n_classes", 1, VOID)
    if check:
        tensors.mask_labels(mask, n_classes)
    batch, height, width = mask.shape
    nothing = torch.empty(batch, 0, height, width, device=mask.device)
    return _stack_one_hot(nothing, mask, n_classes)


def global_loss(
    posterior_or_loss_map: torch.Tensor, mask: torch.Tensor, *, check: bool = True
) -> torch.Tensor:
    """Mean loss over the labelled pixels of each image: the baseline without structure.

    Takes a posterior [N, C, H, W] or, where it has one channel, a loss map [N, 1, H, W].
    Returns float [N] (nats). A *low* loss points to a member.
    Raises ValueError for what `check_posterior` refuses, for a loss map that is negative or not
    finite, and for an image without a labelled pixel (it has no loss).

    >>> loss = torch.tensor([1.0, 3.0, 9.0]).view(1, 1, 1, 3)
    >>> global_loss(loss, torch.tensor([[[0, 1, 255]]]))  # void does not count
    tensor([2.])
    """
    if getattr(posterior_or_loss_map, "ndim", 0) == 4 and posterior_or_loss_map.shape[1] == 1:
        loss_map = posterior_or_loss_map
        tensors.loss_map(loss_map, mask, check)
        if check:
            tensors.mask_labels(mask, VOID)  # how many classes there are is not known here
    else:
        tensors.pair(posterior_or_loss_map, mask, check)
        loss_map = _loss(posterior_or_loss_map, mask)
    labelled = mask != VOID
    # In float64: 32 768 addends in float32 would leave five digits.
    total = (loss_map[:, 0] * labelled).sum((1, 2), dtype=torch.float64)
    return (total / _labelled_pixels(labelled)).to(_result_dtype(loss_map))


def class_losses(
    loss_map: torch.Tensor, mask: torch.Tensor, n_classes: int, *, check: bool = True
) -> torch.Tensor:
    """Mean loss of each class's pixels, float [N, n_classes]; NaN where a class is absent.

    loss_map: float [N, 1, H, W]. Raises ValueError for a loss map that is negative or not finite,
    a mask on another grid, or a label outside 0..n_classes-1 that is not 255.

    >>> loss = torch.tensor([1.0, 3.0, 0.5]).view(1, 1, 1, 3)
    >>> class_losses(loss, torch.tensor([[[0, 0, 2]]]), 3)  # class 1 is absent
    tensor([[2.0000,    nan, 0.5000]])
    """
    tensors.loss_map(loss_map, mask, check)
    if check:
        tensors.mask_labels(mask, n_classes)
    total = _sum_by_class(loss_map[:, 0], mask, n_classes)
    pixels = _pixels_by_class(mask, n_classes)
    return (total / pixels).to(_result_dtype(loss_map))


def class_shares(mask: torch.Tensor, n_classes: int, *, check: bool = True) -> torch.Tensor:
    """Share of the labelled pixels that each class holds, float32 [N, n_classes]; rows sum to one.

    It never touches the victim, so it feeds the blind baseline.
    Raises ValueError for a foreign label or an image without a labelled pixel.

    >>> class_shares(torch.tensor([[[0, 0, 0, 1, 255]]]), 3)
    tensor([[0.7500, 0.2500, 0.0000]])
    """
    tensors.mask_shape(mask)
    numbers.count(n_classes, "n_classes", 1, VOID)
    if check:
        tensors.mask_labels(mask, n_classes)
    labelled = mask != VOID
    pixels = _pixels_by_class(mask, n_classes)
    return (pixels / _labelled_pixels(labelled)[:, None]).float()


def boundary_distance(mask: torch.Tensor) -> torch.Tensor:
    """Of each pixel, the distance to the nearest pixel across a label boundary, float32 [N,H,W].

    A boundary pixel has a neighbour (above, below, left or right) of another label, void included;
    its distance is 0. In a mask of one label there is no boundary: infinite.
    Raises ValueError for a mask that is not integer [N, H, W].

    >>> boundary_distance(torch.tensor([[[0, 0, 0, 1, 1]]]))
    tensor([[[2., 1., 0., 0., 1.]]])
    """
    tensors.mask_shape(mask)
    labels = mask.cpu().numpy()
    edge = np.zeros(labels.shape, bool)
    across = labels[:, :, 1:] != labels[:, :, :-1]
    down = labels[:, 1:] != labels[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    found = [distance_transform_edt(~e) if e.any() else np.full(e.shape, np.inf) for e in edge]
    return torch.from_numpy(np.stack(found)).float()


def near_boundary(mask: torch.Tensor, within: int = 2) -> torch.Tensor:
    """Whether another class lies within so many rows and columns of a pixel: bool [N,H,W].

    Void is no class: it makes no boundary, and is never near one.
    Raises ValueError for a mask that is not integer [N, H, W].

    >>> near_boundary(torch.tensor([[[0, 0, 0, 1, 255, 255, 2]]]), within=1)
    tensor([[[False, False,  True,  True, False, False, False]]])
    """
    tensors.mask_shape(mask)
    labels = mask.short() if mask.dtype == torch.uint8 else mask  # room for the -1
    labelled = mask != VOID
    highest, lowest = labels.masked_fill(~labelled, -1), labels  # void, 255, is above all classes
    for side in (1, 2):
        highest = _over_neighbours(torch.maximum, highest, side, within)
        lowest = _over_neighbours(torch.minimum, lowest, side, within)
    return (highest != lowest) & labelled


def _over_neighbours(
    keep: Callable[..., torch.Tensor], labels: torch.Tensor, side: int, within: int
) -> torch.Tensor:
    """The largest or least of each pixel and those within so many rows (or columns) of it."""
    out, size = labels.clone(), labels.shape[side]
    for shift in range(1, min(within, size - 1) + 1):
        ahead, behind = labels.narrow(side, shift, size - shift), out.narrow(side, 0, size - shift)
        keep(behind, ahead, out=behind)
        behind, ahead = labels.narrow(side, 0, size - shift), out.narrow(side, shift, size - shift)
        keep(ahead, behind, out=ahead)
    return out


def dice(posterior: torch.Tensor, mask: torch.Tensor, *, check: bool = True) -> torch.Tensor:
    """Soft Dice of each image, averaged over the classes present in its mask; float [N] in 0..1.

    Dice of class c: 2 sum(p_c y_c) / (sum p_c + sum y_c) over the labelled pixels. It is the
    quantity behind segmentation-models-pytorch's multiclass DiceLoss, but per image, and classes
    that are absent leave the mean instead of entering it as a perfect zero loss.
    A *high* Dice points to a member.
    Raises ValueError for what `check_posterior` refuses, and for an image without a labelled pixel.

    >>> posterior = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).view(1, 2, 1, 2)
    >>> dice(posterior, torch.tensor([[[0, 1]]]))  # 2 * .75 / (1 + 1) for both classes
    tensor([0.7500])
    """
    tensors.pair(posterior, mask, check)
    n_classes = posterior.shape[1]
    labelled = mask != VOID
    _labelled_pixels(labelled)
    overlap = _sum_by_class(_probability_of_label(posterior, mask)[:, 0], mask, n_classes)
    pixels = _pixels_by_class(mask, n_classes)
    predicted = (_widened(posterior) * labelled[:, None]).sum((2, 3)).double()
    present = pixels > 0
    per_class = 2 * overlap / (predicted + pixels).clamp(min=1)
    mean = (per_class * present).sum(1) / present.sum(1)
    return mean.to(_result_dtype(posterior))


def argmax_posterior(posterior: torch.Tensor, *, check: bool = True) -> torch.Tensor:
    """What the argmax defence releases: one for the most probable class, zero elsewhere.

    Returns float [N, C, H, W], exactly one 1 a pixel; on a tie the first class wins.
    Raises ValueError for what `check_posterior` refuses; a NaN is refused also with `check=False`.

    >>> argmax_posterior(torch.tensor([0.2, 0.5, 0.3]).view(1, 3, 1, 1)).flatten()
    tensor([0., 1., 0.])
    """
    tensors.posterior_shape(posterior)
    if check:
        tensors.posterior_values(posterior)
    wide = _widened(posterior.detach())
    hot = _empty(wide.shape, wide)
    # Comparing with the maximum is vectorised; torch.argmax over the channel dimension is not, and
    # takes more than ten times as long on a CPU.
    torch.ge(wide, wide.amax(1, keepdim=True), out=hot)
    height, width = hot.shape[2:]
    if bool((hot.sum((1, 2, 3)) != height * width).any()):
        _keep_first_of_ties(hot)
    return hot


def _keep_first_of_ties(hot: torch.Tensor) -> None:
    """Leave one winner at each pixel of `hot`, in place; only the tied pixels are visited."""
    winners = hot.sum(1)
    if bool((winners == 0).any()):
        raise ValueError(
            f"posterior holds NaN at {int((winners == 0).sum())} pixels, so it has no most "
            "probable class: mend the victim's output"
        )
    image, row, column = torch.nonzero(winners > 1, as_tuple=True)
    first = hot[image, :, row, column].argmax(1)
    hot[image, :, row, column] = 0
    hot[image, first, row, column] = 1


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    """float32, or float64 where the input is."""
    return tensor.to(_result_dtype(tensor))


def _result_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _empty(shape: torch.Size | tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Uninitialised memory of `like`'s device, in its result dtype."""
    dtype = _result_dtype(like)
    if like.device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=like.device)
    # NumPy asks Linux for huge pages and torch does not: touching tens of MB of new memory in 4 KB
    # pages takes several times longer than the arithmetic.
    return torch.from_numpy(np.empty(tuple(shape), torch.empty((), dtype=dtype).numpy().dtype))


def _probability_of_label(posterior: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """p_y, [N, 1, H, W]; void pixels hold some class's probability, for the caller to overwrite."""
    # 255 is beyond the last class, so the clamp sends void pixels to an index that exists.
    label = mask.long().clamp(max=posterior.shape[1] - 1)[:, None]
    # Widened after the gather: 1e-30 is not a float16, and one channel is cheaper than C.
    return _widened(posterior.gather(1, label))


def _loss(posterior: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    probability = _probability_of_label(posterior, mask).masked_fill_((mask == VOID)[:, None], 1.0)
    # Rounding can leave 1 + 1e-7, hence the upper end; abs instead of a minus sign avoids -0.0.
    return probability.clamp_(SMALLEST_PROBABILITY, 1.0).log_().abs_()


def _loss_in_strips(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    rows = logits.shape[2]
    if logits.device.type == "cpu":  # what is between stays in a core's cache
        rows = _VALUES_IN_CACHE // (logits.shape[1] * logits.shape[3])
        # whole vectors of a processor: their remainder may be rounded otherwise
        rows = max(_VECTOR, rows // _VECTOR * _VECTOR)
    strips = zip(logits.split(rows, 2), mask.split(rows, 1), strict=True)
    return torch.cat([_loss(strip.softmax(1), labels) for strip, labels in strips], 2)


def _stack_one_hot(first: torch.Tensor, mask: torch.Tensor, n_classes: int) -> torch.Tensor:
    batch, channels, height, width = first.shape
    out = _empty((batch, channels + n_classes, height, width), first)
    out[:, :channels] = first
    label = mask.long().clamp(max=n_classes - 1)[:, None]
    labelled = (mask != VOID)[:, None].to(out.dtype)
    out[:, channels:].zero_().scatter_(1, label, labelled)
    return out


def _sum_by_class(values: torch.Tensor, mask: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Sum of `values` [N, H, W] over the pixels of each class, float64 [N, n_classes]."""
    # void falls into one bin more, which is dropped
    bins = torch.zeros(len(mask), n_classes + 1, dtype=torch.float64, device=values.device)
    for own, image, labels in zip(bins, values, mask, strict=True):  # its wide copies stay in cache
        own.scatter_add_(0, labels.clamp(max=n_classes).long().flatten(), image.double().flatten())
    return bins[:, :n_classes]


def _pixels_by_class(mask: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Number of pixels of each class, float64 [N, n_classes]."""
    counts = [
        torch.bincount(labels.clamp(max=n_classes).flatten(), minlength=n_classes + 1)
        for labels in mask
    ]
    return torch.stack(counts)[:, :n_classes].double()


def _labelled_pixels(labelled: torch.Tensor) -> torch.Tensor:
    """Number of labelled pixels, [N]; refuses an image that has none."""
    pixels = labelled.sum((1, 2))
    empty = torch.nonzero(pixels == 0).flatten().tolist()
    if empty:
        raise ValueError(
            f"image {empty[0]} of the batch has no labelled pixel (all are void, {VOID}): "
            "leave it out, its loss does not exist"
        )
    return pixels
