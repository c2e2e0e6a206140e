"""Dense scores beside exact patches at the same windows: are they the same attack?

    python benchmarks/dense.py [--images N] [--resnet plain|dilated [--epochs N]]

The shipped attackers on victim-0, N members and N non-members; with `--resnet` the paper's network,
trained on loss maps of the same two shadows first (two minutes of a core an epoch, resumable). A
window of the one pass sees what surrounds it, a patch its own zero padding. Prints, of the images'
mean scores, the rank correlation, both AUCs and their paired difference.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

sys.path.pop(0)  # this folder, whose statistics.py is not the standard library's

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from segleak_utils import attacks, metrics
from segleak_utils.attacks.patchnets import (
    CALIBRATED_MAP,
    REPRESENTATIONS,
    Representation,
    deep_stem_resnet50,
)
from segleak_utils.attacks.windows import crop
from segleak_utils.studies import asking, experiment, patchattacks
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import Plan


def exact_scores(net, maps: torch.Tensor, patch: int, grid: tuple[int, int]) -> torch.Tensor:
    """Scores of the patches at the windows of `attacks.dense_scores`, [N, rows, columns]."""
    corners = torch.cartesian_prod(*(torch.arange(side) * 8 for side in grid))
    found = []
    with torch.inference_mode():
        for one in maps.split(1):
            logits = [net(crop(one, part[None], patch)) for part in corners.split(16)]
            logits = torch.cat(logits)
            found.append((logits[:, 1] - logits[:, 0]).view(1, *grid))
    return torch.cat(found)


def trained_resnet(plan: Plan, shadows: list[Network], kind: str, epochs: int) -> nn.Module:
    """The paper's network, which learned on the shadows' loss maps; its convolutions in bf16."""
    shown = [attacks.ask(of.model, of.members, of.nonmembers) for of in shadows]
    recipe = attacks.AttackRecipe("loss map", experiment.PATCH, epochs, lr=1e-3)
    torch.manual_seed(0)
    net = deep_stem_resnet50(1, dilated=kind == "dilated")
    net.forward = torch.autocast("cpu", torch.bfloat16)(net.forward)
    kept = plan.build / "checkpoints" / f"resnet-{kind}.pt"
    net, history, _ = attacks.train_attacker(recipe, shown, seed=1, net=net, checkpoint=kept)
    del net.forward  # scores are exact
    print("AUC on shadow images kept aside:", [round(h["select_auc"], 3) for h in history])
    return net


def laptops(
    plan: Plan, shadows: list[Network], n_classes: int
) -> Iterator[tuple[str, Representation, nn.Module]]:
    """The shipped attackers: what each is called, what it sees, the network."""
    for r in (*REPRESENTATIONS, CALIBRATED_MAP):
        name = patchattacks.attacker_name("dependent", r)
        hashes = {of.name: of.sha256 for of in shadows}
        yield r, r, patchattacks.load_attacker(plan, name, r, hashes, n_classes)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=150, help="members, and non-members")
    parser.add_argument("--resnet", choices=("plain", "dilated"), help="the paper's network")
    parser.add_argument("--epochs", type=int, default=8, help="of its training")
    arguments = parser.parse_args()
    n = arguments.images
    plan = replace(experiment.plan_of("quick"), progress=False)
    victim, pair = experiment.network(plan, "victim-0"), experiment.networks(plan, "dependent", 2)
    few = replace(
        victim,
        members=victim.members.subset(range(n)),
        nonmembers=victim.nonmembers.subset(range(n)),
    )
    shown = asking.with_references(plan, few, pair)
    asked = attacks.ask(few.model, few.members, few.nonmembers, keep_posteriors=True)
    shown = replace(shown, posteriors=asked.posteriors)
    if arguments.resnet:
        net = trained_resnet(plan, pair, arguments.resnet, arguments.epochs)
        attackers = [(f"ResNet-50, {arguments.resnet}", REPRESENTATIONS[0], net)]
    else:
        attackers = laptops(plan, pair, victim.members.n_classes)
    print("| attacker | Spearman of images | AUC, patches | AUC, dense | dense minus patches |")
    print("|---|---|---|---|---|")
    for name, r, net in attackers:
        dense, exact = [], []
        for i in range(0, len(shown), 8):
            maps = shown.maps(r, slice(i, i + 8))
            dense.append(attacks.dense_scores(net, maps, experiment.PATCH))
            grid = tuple(dense[-1].shape[1:])
            exact.append(exact_scores(net, maps, experiment.PATCH, grid).mean((1, 2)).numpy())
        ours = np.concatenate([part.mean((1, 2)).numpy() for part in dense]).astype(float)
        theirs = np.concatenate(exact).astype(float)
        cells = [
            f"{spearmanr(ours, theirs).statistic:.3f}",
            f"{metrics.auc(theirs, shown.member):.3}",
            f"{metrics.auc(ours, shown.member):.3}",
            f"{metrics.paired_auc_difference(ours, theirs, shown.member, seed=0):+.3}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
