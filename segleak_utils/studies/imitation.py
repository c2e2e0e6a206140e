"""References that imitate: trained on the attacker's images to answer as the network they stand by.

GLiRA (Galichin et al. 2024) and IMIA (Du et al. 2025) find that such references vary less around
the victim than those of the labels alone. Here they take the place of the attacker's networks: as
many, on the same images, by the same recipe. IMIA's second half, in which they learn the attacked
images too, is left out: it asks for a training for every set of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segleak_utils import metrics
from segleak_utils.attacks import calibration, references
from segleak_utils.attacks.references import Case
from segleak_utils.studies import asking, experiment, networks
from segleak_utils.studies.networks import Network
from segleak_utils.studies.plan import Plan
from segleak_utils.whole import write_whole

SEED = 120
# Who is attacked, and with whose images: the first is a shadow, on which a choice may be made.
TARGETS = ("shadow-dependent-2", "victim-0")
PLAIN, IMITATIVE, BOTH = "labels alone", "imitative", "both"
SHOWN = (references.DIFFERENCE, references.LIRA, references.RMIA, references.CALIBRATED)


def imitator(plan: Plan, of: Network, source: Network) -> Network:
    """A network that was trained on a shadow's members to answer as another network.

    Kept in ``build/imitations``. It costs that network one question about each of these images.
    """
    own = replace(plan, weights=plan.build / "imitations")
    held_out = experiment.roles(plan, source.name)[2]
    seed = SEED + int(source.name.rpartition("-")[2])
    name = f"{source.name}-as-{of.name}"
    scenes = source.members, source.nonmembers, held_out
    return networks.load_or_train(own, name, *scenes, seed=seed, imitated=of)


def cases(plan: Plan, of: Network, shadows: Sequence[Network]) -> dict[str, tuple[Case, list]]:
    """The network's images beside each kind of references, and the shadows' beside the same kind.

    A shadow is imitated by means of the other shadows' images. ValueError for less than two.
    """
    if len(shadows) < 2:
        raise ValueError(f"{len(shadows)} shadow; a shadow needs another one as its reference")
    found: dict[str, list[Case]] = {kind: [] for kind in (PLAIN, IMITATIVE, BOTH)}
    for target in (of, *shadows):
        plain = [one for one in shadows if one is not target]
        like = [imitator(plan, target, source) for source in plain]
        for kind, beside in ((PLAIN, plain), (IMITATIVE, like), (BOTH, [*plain, *like])):
            found[kind].append(asking.case(plan, target, beside))
    return {kind: (first, learned) for kind, (first, *learned) in found.items()}


def imitation(plan: Plan, targets: Sequence[str] = TARGETS, path: Path | None = None) -> str:
    """Attacks with references, by the kind of these, on each target: a table in Markdown.

    The attacker has two networks, and two more that imitate. Prints each target's table, and
    writes all of them to `path` (``build/imitation.md``).
    """
    shadows, parts = experiment.networks(plan, "dependent", 2), []
    for name in targets:
        of = experiment.network(plan, name)
        told = cases(plan, of, shadows)
        parts.append(table(name, told))
        print(parts[-1], flush=True)
    text = "\n\n".join(parts)
    write_whole(path or plan.build / "imitation.md", text)
    return text


def table(name: str, told: dict[str, tuple[Case, list[Case]]]) -> str:
    """A line for each attack and kind of references, beside the same attack with plain ones.

    The deviation is that of the network's confidence from its references' mean, on non-members:
    what they leave unexplained.
    """
    head = ["attack", "references", "AUC", "TPR at 1 % FPR", "precision at 50 / 10 / 1 %"]
    head += ["AUC minus that with plain ones", "its TPR minus theirs", "deviation"]
    lines = [f"{name}:", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    plain = {a.name: a.scores for a in references.reference_attacks(*told[PLAIN])}
    for kind, (of, learned) in told.items():
        sure, theirs = (calibration.confidence(loss)[..., ~of.member] for loss in of.losses)
        spread = (sure - theirs.mean(0)).std(ddof=1)
        for attack in references.reference_attacks(of, learned):
            if attack.name not in SHOWN:
                continue
            pair = attack.scores, plain[attack.name], of.member
            cells = [attack.name, kind, f"{metrics.auc(attack.scores, of.member):.3}"]
            cells += metrics.tpr_cells(attack.scores, of.member, 0.01)
            cells += [
                f"{metrics.paired_auc_difference(*pair, seed=0):+.3}",
                f"{metrics.paired_tpr_difference(*pair, 0.01, seed=0):+.3}",
                f"{spread:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
