"""Findings of an audit that was never run, for what reads findings."""

from __future__ import annotations

import numpy as np
import torch

from segleak_utils import metrics
from segleak_utils.audit import findings as f
from segleak_utils.audit.report import Exposed

N, M = 60, 120
MEMBER = np.arange(N + M) < N


def number(interval: metrics.Interval, how: str = "DeLong over images") -> f.Number:
    return f.Number(
        value=interval.value, low=interval.low, high=interval.high, level=interval.level,
        n_members=interval.n_members, n_nonmembers=interval.n_nonmembers, how=how,
    )  # fmt: skip


def made_up(kind: str = "leak", **changes: object) -> tuple[f.Findings, dict[str, np.ndarray]]:
    """Findings with every part filled, and the scores of their attacks."""
    rng = np.random.default_rng(0)
    scores = {
        name: rng.normal(0, 1, N + M) + shift * MEMBER
        for name, shift in (("global loss", 0.8), ("RMIA", 1.5), ("Dice", 0.4))
    }
    attacks = []
    for name, values in scores.items():
        tpr = number(metrics.tpr_at_fpr(values, MEMBER, 0.1), "binomial mixture over images")
        at = f.AtFpr(fpr=0.1, tpr=tpr, precision={"0.5": 0.9, "0.1": 0.5, "0.01": 0.09})
        area = number(metrics.auc(values, MEMBER))
        attacks.append(
            f.Attack(name=name, seen="mean loss", needs="nothing", auc=area, at_fpr=(at,))
        )
    images = [
        f.Image(
            id=f"scene {i}", member=bool(MEMBER[i]), group=f"drive {i % 7}",
            score=float(scores["RMIA"][i]), rank=i + 1, p_value=float(rng.random() ** 2),
            flagged=i < 6, loss=0.5,
        )
        for i in range(N + M)
    ]  # fmt: skip
    groups = [
        f.Group(group=f"drive {g}", n_members=9, n_nonmembers=17, n_flagged=1,
                exposure=0.5 + g / 20, p_value=0.2)
        for g in range(7)
    ]  # fmt: skip
    releases = [
        f.Release(release=name, attacker=who, attack="RMIA", auc=area.auc, miou_members=0.5,
                  miou_nonmembers=miou)
        for name, miou, area in (("nothing", 0.45, attacks[1]), ("argmax", 0.45, attacks[2]))
        for who in ("naive", "adaptive")
    ]  # fmt: skip
    parts = {
        "verdict": f.Verdict(
            kind=kind, found="It was found.", sure="That is sure.", silent="This it does not say.",
            warnings=("Seven owners are few.",),
        ),
        "audited": f.Audited(
            name="net <b>", answers="model pkg:net", sha256="a" * 64, n_members=N, n_nonmembers=M,
            n_groups=7, n_classes=4, lists_sha256="b" * 64, n_references=2, n_shadows=0,
            miou_members=0.5, miou_nonmembers=0.45, versions={"segleak": "0.1.0"},
            command="segleak audit audit.yml", config={"level": 0.95}, seconds=12.3,
        ),
        "headline": "RMIA",
        "attacks": tuple(attacks),
        "not_run": (f.NotRun(name="structured regression", needs="It needs a shadow."),),
        "blind": f.Blind(
            auc=number(metrics.auc(rng.normal(0, 1, N + M), MEMBER), "relabelling"), p_value=0.4,
            relabellings=200, looks=("mean of red", "gradient"), most_telling="gradient",
            differs=False,
        ),
        "twins": (
            f.Twin(first="scene 0", second="scene 70", between_lists=True, kind="same pixels",
                   distance=0),
        ),
        "releases": tuple(releases),
        "gate": f.Gate(
            limits=(
                f.Limit(measure="auc", limit=0.6, number=attacks[1].auc, decision="fails",
                        why="the lower end is above the limit"),
            ),
            exit_code=3,
        ),
        "images": tuple(images),
        "groups": tuple(groups),
    }  # fmt: skip
    return f.Findings(**(parts | changes)), scores


def exposed(references: bool = True) -> list[Exposed]:
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(1)
    return [
        Exposed(
            f"scene {i}",
            torch.rand(3, 48, 96, generator=generator),
            rng.random((24, 48)).astype(np.float32),
            rng.random((24, 48)).astype(np.float32) if references else None,
        )
        for i in range(3)
    ]
