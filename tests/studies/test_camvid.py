"""Tables over blocks of frames: whose intervals they are, and blocks in the place of owners."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from segleak_utils import metrics
from segleak_utils.attacks.contests import BLIND, GLOBAL, Attack, Contest
from segleak_utils.studies import beyond, camvid, standard

MEMBER = np.repeat([True, False], [110, 120])
BLOCKS = [f"A, block {k // 10}" for k in range(230)]


def contest() -> Contest:
    rng = np.random.default_rng(0)
    own = rng.standard_normal(23).repeat(10)
    scores = {BLIND: own + rng.standard_normal(230), GLOBAL: own + 2 * MEMBER}
    attacks = tuple(Attack(name, name, values, 0.0) for name, values in scores.items())
    return Contest("victim", "dependent", MEMBER, attacks)


def test_rows_and_lines_have_intervals_over_blocks():
    of = contest()
    shadow = SimpleNamespace(members=range(5), nonmembers=range(5))
    lines = beyond.lines(of, [shadow], of[GLOBAL].scores, groups=BLOCKS)
    rows = standard.rows(of, "camvid", BLOCKS)
    for attack, line, row in zip(of.attacks, lines, rows, strict=True):
        area = metrics.grouped_auc(attack.scores, MEMBER, BLOCKS)
        assert line.interval().low == row.auc_low == area.low
        assert area.low < metrics.auc(attack.scores, MEMBER).low
        tpr = metrics.tpr_interval(attack.scores, MEMBER, 0.01, seed=0, groups=BLOCKS)
        assert line.interval("tpr_1").high == row.tpr_high == tpr.high
        behind = metrics.grouped_auc_difference(of[GLOBAL].scores, attack.scores, MEMBER, BLOCKS)
        assert line.interval("behind").low == behind.low
        assert line.tpr_behind is None
    by_frame = standard.rows(of, "camvid")[1]
    assert by_frame.auc == rows[1].auc and by_frame.auc_low > rows[1].auc_low


def test_a_block_has_the_mean_or_the_highest_of_its_frames_scores():
    of = contest()
    lines = camvid.owners(of, BLOCKS)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[:2] for row in cells] == [["dependent", BLIND], ["dependent", GLOBAL]]
    assert {row[-1] for row in cells} == {"11 / 12"}
    assert len({line.count("|") for line in (camvid.OWNERS_HEAD, *lines)}) == 1
    means = of[GLOBAL].scores.reshape(23, 10).mean(1)
    assert cells[1][3] == f"{metrics.auc(means, MEMBER[::10])}"
    highest = of[BLIND].scores.reshape(23, 10).max(1)
    assert cells[0][4] == f"{metrics.auc(highest, MEMBER[::10])}"
    # in whatever order the frames come
    shuffled = np.random.default_rng(1).permutation(230)
    again = Contest(
        of.victim,
        of.setting,
        MEMBER[shuffled],
        tuple(Attack(a.name, a.representation, a.scores[shuffled], 0.0) for a in of.attacks),
    )
    assert camvid.owners(again, [BLOCKS[k] for k in shuffled]) == lines


def test_blocks_come_members_first_as_scores_do():
    victim = SimpleNamespace(
        members=SimpleNamespace(groups=("A, block 1",)),
        nonmembers=SimpleNamespace(groups=("A, block 0", "B, block 2")),
    )
    assert camvid._blocks(victim) == ["A, block 1", "A, block 0", "B, block 2"]


def test_frames_of_one_block_only_say_nothing():
    of = contest()
    with pytest.raises(ValueError, match="all members are of one group"):
        standard.rows(of, "camvid", ["a"] * 110 + BLOCKS[110:])
