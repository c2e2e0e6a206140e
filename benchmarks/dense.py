"""Dense scores beside exact patches at the same windows: are they the same attack?

    python benchmarks/dense.py [--images N]

The shipped attackers on victim-0, N members and N non-members. A window of the one pass sees what
surrounds it, a patch its own zero padding. Prints, of the images' mean scores, the rank
correlation, both AUCs and their paired difference.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

sys.path.pop(0)  # this folder, whose statistics.py is not the standard library's

import numpy as np
import torch
from scipy.stats import spearmanr

from segleak_utils import attacks, metrics
from segleak_utils.attacks.patchnets import CALIBRATED_MAP, REPRESENTATIONS
from segleak_utils.attacks.windows import crop
from segleak_utils.studies import asking, experiment, patchattacks


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=150, help="members, and non-members")
    n = parser.parse_args().images
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
    print("| attacker | Spearman of images | AUC, patches | AUC, dense | dense minus patches |")
    print("|---|---|---|---|---|")
    for r in (*REPRESENTATIONS, CALIBRATED_MAP):
        name = patchattacks.attacker_name("dependent", r)
        hashes = {of.name: of.sha256 for of in pair}
        net, _ = patchattacks.load_attacker(plan, name, r, hashes, victim.members.n_classes)
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
        print(f"| {r} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
