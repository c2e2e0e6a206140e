"""What an attack on one image costs: seconds, nothing cached, everything trained before."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from segleak_utils import attacks, representations
from segleak_utils.attacks import ensembles, peers, references, variances, whitebox
from segleak_utils.attacks.contests import BLIND, GLOBAL, LOGISTIC, patch_attack
from segleak_utils.attacks.patchnets import CALIBRATED_MAP, REPRESENTATIONS, PatchNet
from segleak_utils.studies import literature, protected
from segleak_utils.studies.experiment import N_PATCHES
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import Plan
from segleak_utils.victims import head_gradient_norms


def seconds_an_image(
    plan: Plan, victim: Network, shadows: Sequence[Network], n: int = 16
) -> dict[str, float]:
    """Seconds that each attack of the contest takes for an image, its questions included.

    Measured on n members and n non-members with the threads there are, and added up: a question to
    one network, the representation, the classifier (untrained ones take as long as trained ones).
    A calibrated attack also asks each of the shadows. ValueError for n below 1.
    """
    if not 1 <= n <= min(len(victim.members), len(victim.nonmembers)):
        raise ValueError(f"n is {n}: expected 1 or more, and no more than there are scenes")
    parts = [scenes.subset(range(n)) for scenes in (victim.members, victim.nonmembers)]
    few = replace(victim, members=parts[0], nonmembers=parts[1])
    images, masks = next((parts[0] + parts[1]).batches(2 * n))
    shown = attacks.ask(few.model, *parts, keep_posteriors=True)
    shown = replace(shown, references=shown.loss_maps)
    posterior = shown.posteriors.float()

    def of(work: Callable[[], object]) -> float:
        work()  # the first time is of caches and threads that wake up
        begun = time.perf_counter()
        work()
        return (time.perf_counter() - begun) / (2 * n)

    def patches(representation) -> float:
        net = PatchNet(representation, shown.n_classes, plan.attack.width).eval()
        how = {"n_patches": N_PATCHES, "patch": plan.attack.patch, "seed": 0}
        return of(lambda: attacks.score_outputs(net, shown, representation, **how))

    def whole_image(channels: int) -> float:
        recipe = peers.ImageRecipe()
        maps = peers.image_maps(posterior, masks, recipe.pool)[:, :channels]
        net = peers.image_net(recipe, channels)
        return of(lambda: peers.image_maps(posterior, masks, recipe.pool)) + of(
            lambda: peers.image_scores(net, maps)
        )

    ask = of(lambda: attacks.ask(few.model, *parts))
    everyone = (1 + len(shadows)) * ask
    zones = of(lambda: attacks.class_features(references.zones(shown)))
    public = protected.public(Plan(data_root=plan.data_root, progress=plan.progress)).model
    said = posterior.argmax(1)
    seconds = {
        BLIND: of(lambda: [attacks.blind_features(part) for part in parts]),
        GLOBAL: ask,
        LOGISTIC: ask + of(lambda: attacks.class_features(shown)),
        peers.DICE: ask + of(lambda: representations.dice(posterior, masks)),
        peers.TYPE_1: ask + whole_image(shown.n_classes),
        peers.TYPE_2: ask + whole_image(2 * shown.n_classes),
        peers.LABEL_ONLY: ask + of(lambda: peers.label_features(said, masks, shown.n_classes)),
        peers.SHAFRAN: ask
        + of(lambda: literature.errors_of(public, images, masks, shown.n_classes)),
        patch_attack(CALIBRATED_MAP): everyone + patches(CALIBRATED_MAP),
    }
    seconds |= {patch_attack(r): ask + patches(r) for r in REPRESENTATIONS}
    simple = (references.DIFFERENCE, references.LIRA, references.LIRA_EACH, references.RMIA)
    seconds |= dict.fromkeys(simple, everyone)
    structured = (references.PER_CLASS, references.ZONES, references.CALIBRATED)
    once = everyone + (1 + len(shadows)) * zones
    trees = of(_grown(2 * n, 10 * victim.members.n_classes))
    norms = of(lambda: head_gradient_norms(few.model, images, masks))
    seconds |= {variances.BAVARIA: everyone, ensembles.ENSEMBLE: once + trees}
    seconds |= {ensembles.TWO_QUESTIONS: 2 * once + trees}
    seconds |= {whitebox.WHITE_BOX: once + (1 + len(shadows)) * norms}
    return seconds | dict.fromkeys(structured, once)


def _grown(n: int, n_features: int) -> Callable[[], object]:
    """What the ensemble's trees take for n rows; grown on noise, they are as large as any."""
    rng = np.random.default_rng(0)
    rows, member = rng.normal(size=(400, n_features)), np.arange(400) < 200
    trees = [
        HistGradientBoostingClassifier(**ensembles.TREES, random_state=seed).fit(rows, member)
        for seed in ensembles.SEEDS
    ]
    return lambda: [tree.decision_function(rows[:n]) for tree in trees]
