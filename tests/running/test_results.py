"""The rows of the final table."""

from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import pytest
from toy_rows import ROW

from segleak_utils.running import results

# --- the table ----------------------------------------------------------------------------------


def test_recorded_row_replaces_its_older_self_and_only_that(tmp_path):
    first, second = results.ResultRow(**ROW), results.ResultRow(**{**ROW, "attack": "blind"})
    results.record([first, second], tmp_path)
    newer = first.model_copy(update={"auc": 0.63})
    results.record([newer], tmp_path)
    assert results.read(tmp_path) == [newer, second]
    results.forget(["02_other"], tmp_path)
    assert len(results.read(tmp_path)) == 2
    assert results.forget(["01_good"], tmp_path) == [newer, second]
    assert results.read(tmp_path) == []
    results.record([first, first.model_copy(update={"notebook": "02_other"})], tmp_path)
    results.keep_only(["02_other"], tmp_path)
    assert [row.notebook for row in results.read(tmp_path)] == ["02_other"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"auc": 0.7}, "lies outside"),
        ({"auc": float("nan")}, "finite"),
        ({"tpr_low": None}, "low <= value <= high"),
        ({"n_nonmembers": 99}, "no TPR at 1 % FPR with 99"),
        ({"tpr_at_1pct": None, "tpr_low": None, "tpr_high": None}, "no TPR, and yet"),
        ({"precision_prior_1pct": 1.2}, "less than or equal to 1"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_implausible_row_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        results.ResultRow(**{**ROW, **change})


def test_row_without_tpr_shows_a_dash():
    no_tpr = dict.fromkeys(["tpr_at_1pct", "tpr_low", "tpr_high", *results.PRECISIONS])
    row = results.ResultRow(**{**ROW, **no_tpr, "n_nonmembers": 99, "auc_high": 1.0})
    line = results.table([row]).splitlines()[-1]
    assert re.search(r"\.625 \[\.600, 1\.000\]  - +-$", line)


def test_precision_stands_beside_the_tpr():
    head, *_, line = results.table([results.ResultRow(**ROW)]).splitlines()
    assert line[head.index("prec. 50/10/1 %") :] == ".75 / .25 / .03"
    assert line[head.index("TPR@1 %") :].startswith(".030 [.010, .050]")


def test_the_table_fits_a_terminal_and_tells_rows_apart():
    long = "calibrated structured regression of classes and boundaries, and of what else there is"
    changes = [
        {"attack": long, "victim": "victim-0, " + 12 * "a defence "}, {"representation": "one"},
        {"representation": "two"}, {"attack": "blind baseline"}, {"n_nonmembers": 500},
    ]  # fmt: skip
    rows = [results.ResultRow(**{**ROW, **change}) for change in changes]
    lines = results.table(rows).splitlines()
    assert max(map(len, lines)) <= 100
    titles = [line for line in lines if line.startswith(ROW["notebook"])]
    assert len(titles) == 3 and titles[2].endswith("300 members, 500 non-members")
    attacks = [line[:45].rstrip() for line in lines]
    name = ROW["attack"]
    assert [f"{name}, one", f"{name}, two", "blind baseline"] == attacks[
        attacks.index(f"{name}, one") :
    ][:3]
    assert attacks[-1] == name  # alone in its block
    shown = " ".join(line[:45].strip() for line in lines)
    assert long in shown


def test_damaged_table_is_named(tmp_path):
    (tmp_path / "results.json").write_text('[{"auc": ')
    with pytest.raises(ValueError, match=r"results\.json is not a list of result rows; delete it"):
        results.read(tmp_path)


def _record_many(build: Path, who: str) -> None:
    for k in range(60):
        results.record([results.ResultRow(**{**ROW, "victim": f"{who} {k}"})], build)


@pytest.mark.slow
def test_of_two_writers_at_once_none_loses_a_row(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_record_many, args=(tmp_path, who)) for who in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = {row.victim for row in results.read(tmp_path)}
    assert found == {f"{who} {k}" for who in "ab" for k in range(60)}
