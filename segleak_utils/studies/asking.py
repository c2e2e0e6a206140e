"""Who asks whom: what networks say of scenes, asked once and cached, as the core's `Outputs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from segleak_utils import attacks, representations
from segleak_utils.attacks import Outputs, calibration
from segleak_utils.attacks.references import Case, averaged, of_zones
from segleak_utils.attacks.whitebox import Opened
from segleak_utils.checks import numbers
from segleak_utils.data import VOID, Scenes
from segleak_utils.studies.cache import cached, entry, keep, kept
from segleak_utils.studies.networks import Network, check_apart
from segleak_utils.studies.plan import Plan
from segleak_utils.victims import confusion_matrix, gradient_norms, logit_batches


def asked(plan: Plan, reference: Network, of: Network) -> Outputs:
    """What a reference says of another network's scenes, loss maps and all; cached.

    Raises ValueError if it was trained on one of them.
    """
    check_apart(of, reference)
    return loss_outputs(plan, _on(reference, of))


def _on(reference: Network, of: Network) -> Network:
    return replace(reference, members=of.members, nonmembers=of.nonmembers)


def case(plan: Plan, of: Network, references: Sequence[Network], *, questions: int = 1) -> Case:
    """Ask the network and the references about its scenes.

    questions: how often about each, 1 or 2; the second time about its flip, and what counts is the
    mean of both losses. Raises ValueError without a reference, for one that was trained on some of
    the scenes, or another number of questions.
    """
    if not references:
        raise ValueError(f"no reference for {of.name}; at least one is needed")
    for reference in references:
        check_apart(of, reference)
    numbers.count(questions, "questions", 1, 2)
    return averaged([_asked(plan, one, references) for one in (of, of.flipped())[:questions]])


def _asked(plan: Plan, of: Network, references: Sequence[Network]) -> Case:
    own, *theirs = [told(plan, by, of) for by in (of, *references)]
    return Case(own, np.stack(theirs), of.member)


def told(plan: Plan, by: Network, of: Network) -> np.ndarray:
    """What a network says of another one's scenes by zone, members first: float64 [N,6C]; cached.

    Whether it was trained on some of them is not asked: see `case`.
    """
    return np.concatenate([_told_of(plan, by, scenes) for scenes in (of.members, of.nonmembers)])


def confidence(plan: Plan, by: Network, of: Network) -> np.ndarray:
    """How sure a network is of another one's scenes, members first: float64 [N].

    `calibration.confidence` of their mean losses. Whether it was trained on some of them is
    not asked: see `case`.
    """
    zones = told(plan, by, of)
    n = zones.shape[1] // 3
    return calibration.confidence(zones[:, n : 2 * n].sum(1))


def _told_of(plan: Plan, by: Network, scenes: Scenes) -> np.ndarray:
    """Losses of the zones [N,6C]; cached: a kilobyte an image, where its loss map has a hundred."""

    def compute() -> dict[str, np.ndarray]:
        known = kept(plan.build, "loss maps", _loss_key(by, scenes))
        if known is not None:
            loss, masks = (torch.from_numpy(known[name]) for name in ("loss", "masks"))
            parts = [Outputs(loss, masks, np.zeros(len(masks), bool), scenes.n_classes)]
        else:
            name = by.name if plan.progress else None
            parts = attacks.ask_in_parts(by.model, scenes, scenes.subset(range(0)), progress=name)
        return {"zones": np.concatenate([of_zones(part) for part in parts])}

    key = _loss_key(by, scenes)
    return cached(plan.build, "zones", key, compute)["zones"]


def shadow_cases(
    plan: Plan,
    shadows: Sequence[Network],
    victim: Network,
    *,
    questions: int = 1,
    stand_in: bool = False,
) -> list[Case]:
    """What the attacker learns from: each shadow beside all others.

    With a single shadow its reference is the victim, which has not seen the shadow's scenes
    either: the attacker asks it about their own images. So a shadow has K - 1 references where the
    victim has K. With `stand_in` the victim is asked about all shadows' images, and is the
    reference that each of them lacks, at the price of so many questions more. questions: as `case`.
    """
    more = [victim] if stand_in or len(shadows) == 1 else []
    others = [[*(b for b in shadows if b is not a), *more] for a in shadows]
    pairs = zip(shadows, others, strict=True)
    return [case(plan, a, theirs, questions=questions) for a, theirs in pairs]


def opened(plan: Plan, of: Network, references: Sequence[Network]) -> Opened:
    """The `case`, and the gradients of all heads on its scenes: whoever asks has the weights."""
    known = case(plan, of, references)
    own, *theirs = [_gradients(plan, by, of) for by in (of, *references)]
    return Opened(known, own, np.stack(theirs))


def _gradients(plan: Plan, by: Network, of: Network) -> np.ndarray:
    """`victims.gradient_norms` on a network's scenes, members first: [N,1+C]; cached."""

    def norms(scenes: Scenes) -> np.ndarray:
        name = by.name if plan.progress else None
        compute = lambda: {"norms": gradient_norms(by.model, scenes, progress=name)}  # noqa: E731
        return cached(plan.build, "gradients", _loss_key(by, scenes), compute)["norms"]

    return np.concatenate([norms(scenes) for scenes in (of.members, of.nonmembers)])


def loss_outputs(plan: Plan, of: Network) -> Outputs:
    """Loss maps of a network on its members and non-members; cached (100 kB an image).

    Each group for itself: networks may have their non-members in common.
    """
    both = [_loss_maps(plan, of, scenes) for scenes in (of.members, of.nonmembers)]
    loss, masks = (torch.cat([torch.from_numpy(k[key]) for k in both]) for key in ("loss", "masks"))
    return Outputs(loss, masks, of.member, of.members.n_classes)


def _loss_maps(plan: Plan, of: Network, scenes: Scenes) -> dict[str, np.ndarray]:
    def compute() -> dict[str, np.ndarray]:
        told = of.name if plan.progress else None
        shown = attacks.ask(of.model, scenes, scenes.subset(range(0)), progress=told)
        return {"loss": shown.loss_maps.numpy(), "masks": shown.masks.numpy()}

    return cached(plan.build, "loss maps", _loss_key(of, scenes), compute)


def _loss_key(of: Network, scenes: Scenes) -> dict[str, str]:
    return {"network": of.fingerprint, "scenes": scenes.digest}


def answers_of(
    plan: Plan, of: Network, *, progress: str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """A network's posteriors and masks on its members, then its non-members, as a stream.

    On the way the loss maps are kept for `loss_outputs`, if they are not yet there.
    """
    for scenes in (of.members, of.nonmembers):
        key, parts = _loss_key(of, scenes), []
        there = entry(plan.build, "loss maps", key).is_file()
        for logits, masks in logit_batches(of.model, scenes, progress=progress):
            if not there:
                loss = representations.loss_map_of_logits(logits, masks.to(logits.device))
                parts.append((loss.half().cpu(), masks.byte()))
            yield logits.softmax(1).cpu(), masks
        if parts:
            loss, labels = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
            keep(plan.build, "loss maps", key, {"loss": loss, "masks": labels})


@dataclass(frozen=True)
class Survey:
    """A network's answers on N images in a few numbers each, members first.

    confusion: int64 [N,C,C]; confidence: the mean of the highest posterior over the labelled
    pixels, float32 [N]; dice: mean over the classes, float32 [N].
    """

    confusion: np.ndarray
    confidence: np.ndarray
    dice: np.ndarray


def survey(plan: Plan, of: Network) -> Survey:
    """Ask a network about its scenes for a `Survey`, and the loss maps on the way; cached."""

    def compute() -> dict[str, np.ndarray]:
        found: list[tuple[Tensor, ...]] = []
        for posterior, masks in answers_of(plan, of, progress=of.name if plan.progress else None):
            top, predicted = posterior.max(1)
            labelled = masks != VOID
            sure = (top * labelled).sum((1, 2)) / labelled.sum((1, 2))
            pairs = zip(predicted, masks, strict=True)
            counts = [confusion_matrix(p, m, of.members.n_classes) for p, m in pairs]
            found.append(
                (torch.stack(counts), sure, representations.dice(posterior, masks, check=False))
            )
        parts = (torch.cat(part).numpy() for part in zip(*found, strict=True))
        return dict(zip(("confusion", "confidence", "dice"), parts, strict=True))

    return Survey(**cached(plan.build, "survey", of.identity, compute))


def blind_features(plan: Plan, members: Scenes, nonmembers: Scenes) -> np.ndarray:
    """`attacks.blind_features` of members, then non-members; cached."""

    def compute() -> dict[str, np.ndarray]:
        both = [attacks.blind_features(scenes) for scenes in (members, nonmembers)]
        return {"features": np.concatenate(both)}

    key = {"members": members.digest, "nonmembers": nonmembers.digest}
    return cached(plan.build, "blind", key, compute)["features"]


def with_references(plan: Plan, of: Network, references: Sequence[Network]) -> Outputs:
    """A network's outputs on its scenes, and the mean loss maps of references that never saw them.

    float16 as all loss maps; ValueError without a reference.
    """
    if not references:
        raise ValueError(f"no reference for {of.name}; at least one is needed")
    shown = loss_outputs(plan, of)
    total = shown.loss_maps.float().zero_()
    for reference in references:
        total += asked(plan, reference, of).loss_maps
    return replace(shown, references=(total / len(references)).half())
