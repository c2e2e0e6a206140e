"""The attacks of other papers on a victim of the experiment: who is asked, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.std import tqdm

from segleak_utils import attacks, representations, victims
from segleak_utils.attacks import peers
from segleak_utils.attacks.contests import Attack
from segleak_utils.data import Scenes
from segleak_utils.studies import asking, protected
from segleak_utils.studies.cache import cached
from segleak_utils.studies.networks import Network, check_apart
from segleak_utils.studies.plan import Plan


def peer_attacks(
    plan: Plan,
    victim: Network,
    shadows: list[Network],
    *,
    recipe: peers.ImageRecipe | None = None,
    seed: int = 0,
) -> list[Attack]:
    """The five peers on one victim, on the images of `asking.loss_outputs` and in their order.

    `recipe`, `seed`: of the whole-image classifiers. Raises ValueError without shadows, and where
    the victim's scenes and a shadow's overlap.
    """
    if not shadows:
        raise ValueError("no shadow to learn from; at least one is needed")
    for shadow in shadows:
        check_apart(victim, shadow)
    member = np.concatenate([of.member for of in shadows])
    scores, *own = [_answers(plan, of)["dice"].astype(np.float64) for of in (victim, *shadows)]
    rows, *theirs = [_label_rows(plan, of) for of in (victim, *shadows)]
    known, *learned = [_predictable(plan, of) for of in (victim, *shadows)]
    of_shadows = tuple(np.concatenate(kind) for kind in zip(*learned, strict=True))
    return [
        peers.dice_attack(scores, np.concatenate(own), member),
        *_whole_image(plan, victim, shadows, recipe or peers.ImageRecipe(), seed),
        peers.label_only_attack(rows, np.concatenate(theirs), member),
        peers.predictability_attack(known, of_shadows, member),
    ]


def predictions(plan: Plan, of: Network, reference: Network | None = None) -> Tensor:
    """Most probable class of each pixel of a network's members, then non-members: uint8 [N,H,W].

    With `reference`, what that one says of the same scenes; ValueError if it was trained on one of
    them. Cached.
    """
    if reference is not None:
        check_apart(of, reference)
        of = replace(reference, members=of.members, nonmembers=of.nonmembers)
    return torch.from_numpy(_answers(plan, of)["predictions"])


def _answers(plan: Plan, of: Network) -> dict[str, np.ndarray]:
    """Predictions uint8 [N,H,W] and mean Dice float32 [N] of members, then non-members; cached."""

    def compute() -> dict[str, np.ndarray]:
        told = plan.progress and f"predictions of {of.name}"
        classes, dices = [], []
        for scenes in (of.members, of.nonmembers):
            for posterior, masks in victims.posterior_batches(of.model, scenes, progress=told):
                dices.append(representations.dice(posterior, masks))
                classes.append(posterior.argmax(1).byte())
        return {"predictions": torch.cat(classes).numpy(), "dice": torch.cat(dices).numpy()}

    return cached(plan.build, "answers", of.identity, compute)


def _whole_image(plan, victim, shadows, recipe, seed) -> list[Attack]:
    channels = peers.image_channels(victim.members.n_classes)
    key = {"shadows": [of.identity for of in shadows], "recipe": recipe, "seed": seed}

    def train() -> dict[str, np.ndarray]:
        maps = torch.cat([part for of in shadows for part in _streamed_maps(plan, of, recipe)])
        member, out = np.concatenate([of.member for of in shadows]), {}
        for name, seen in channels.items():
            told = plan.progress and name
            net, _, (scores, aside) = peers.train_image_attacker(
                recipe, maps[:, :seen], member, seed=seed, progress=told
            )
            state = {f"{name}.{k}": v.cpu().contiguous() for k, v in net.state_dict().items()}
            out |= {k: v.numpy() for k, v in state.items()}
            out |= {f"{name} aside": scores, f"{name} member": aside}
        return out

    learned = cached(plan.build, "whole image, learned", key, train)

    def score() -> dict[str, np.ndarray]:
        nets = {name: peers.image_net(recipe, seen) for name, seen in channels.items()}
        for name, net in nets.items():
            state = {k: torch.from_numpy(learned[f"{name}.{k}"]) for k in net.state_dict()}
            net.load_state_dict(state)
            net.to(victims.best_device(), memory_format=torch.channels_last)
        found = {name: [] for name in nets}
        for maps in _streamed_maps(plan, victim, recipe):
            for name, net in nets.items():
                found[name].append(peers.image_scores(net, maps[:, : channels[name]]))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    scored = cached(plan.build, "whole image", key | victim.identity, score)
    return [
        peers.whole_image_attack(
            name, scored[name], learned[f"{name} aside"], learned[f"{name} member"]
        )
        for name in channels
    ]


def _streamed_maps(plan: Plan, of: Network, recipe: peers.ImageRecipe) -> Iterator[Tensor]:
    told = plan.progress and f"posteriors of {of.name}"
    for scenes in (of.members, of.nonmembers):
        for posterior, masks in victims.posterior_batches(of.model, scenes, progress=told):
            yield peers.image_maps(posterior, masks, recipe.pool)


def _label_rows(plan: Plan, of: Network) -> np.ndarray:
    masks, said = asking.loss_outputs(plan, of).masks, predictions(plan, of)
    parts = (slice(i, i + 64) for i in range(0, len(masks), 64))
    n_classes = of.members.n_classes
    return np.concatenate([peers.label_features(said[p], masks[p], n_classes) for p in parts])


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

    key = {"scenes": scenes.digest, "features": public.fingerprint}
    return cached(plan.build, "predictability", key, compute)["errors"]


def errors_of(model: nn.Module, images: Tensor, masks: Tensor, n_classes: int) -> Tensor:
    """`predictability_errors` of labels [N,H,W] from `deep_features` of their images: [N]."""
    features = victims.deep_features(model, images, peers.GRID)
    return peers.predictability_errors(features, *peers.label_shares(masks, n_classes))


def _predictable(plan: Plan, of: Network) -> tuple[np.ndarray, np.ndarray]:
    """Global losses and errors of a network's members, then non-members."""
    losses = -attacks.global_loss_scores(asking.loss_outputs(plan, of)).astype(np.float64)
    both = [predictability(plan, scenes) for scenes in (of.members, of.nonmembers)]
    return losses, np.concatenate(both)
