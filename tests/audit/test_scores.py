"""Scores that were brought: a table, read or refused line by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segleak_utils.audit.scores import Scored, read_scores

pytest.importorskip("pandas")
HEAD = "image,member,loss\n"


def read(folder: Path, text: str) -> Scored:
    path = folder / "scores.csv"
    path.write_text(text, encoding="utf-8")
    return read_scores(path)


def test_losses_groups_and_references_are_read(tmp_path):
    found = read(
        tmp_path,
        "image,member,group,loss,reference_10,reference_2\n"
        "a,1,anna,0.5,10,2\nb,no,bert,1e-3,11,3\nc,TRUE,anna,0,12,4\n",
    )
    assert found.ids == ("a", "b", "c") and found.member.tolist() == [True, False, True]
    assert found.groups == ("anna", "bert", "anna") and found.are_losses
    assert found.values.tolist() == [0.5, 1e-3, 0] and found.values.dtype == np.float64
    assert found.references.tolist() == [[2, 3, 4], [10, 11, 12]]  # by number, not by text


def test_scores_may_be_below_0_and_stand_alone(tmp_path):
    found = read(tmp_path, "member,score,image\n1,-2,a\n0,3,b\n")
    assert not found.are_losses and found.values.tolist() == [-2, 3]
    assert found.groups is None and found.references.shape == (0, 2)


def test_a_parquet_file_says_the_same(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = {"image": ["a", "b"], "member": [True, False], "loss": [0.25, 1.0]}
    pandas.DataFrame(table).to_parquet(tmp_path / "scores.parquet")
    found = read_scores(tmp_path / "scores.parquet")
    assert found.values.tolist() == [0.25, 1] and found.member.tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "a,1,nan\nb,0,1\n", "line 2, loss is 'nan'; expected a finite number"),
        (HEAD + "a,1,1\nb,0,inf\n", "line 3, loss is 'inf'"),
        (HEAD + "a,1,1\nb,0,low\n", "line 3, loss is 'low'"),
        (HEAD + "a,1,1\nb,0\n", "line 3, loss is ''"),
        (HEAD + "a,1,-1\nb,0,1\n", "line 2, loss is -1; losses are at least 0: call .* score"),
        (HEAD + "a,1,1\nb,maybe,1\n", "line 3: member is 'maybe'; expected 1 or 0"),
        (HEAD + "a,1,1\na,0,1\n", "image a comes twice"),
        (HEAD + "a,1,1\n,0,1\n", "line 3: image is empty"),
        (HEAD + "a,1,1\nb,1,1\n", "all images are members"),
        (HEAD + "a,0,1\nb,0,1\n", "all images are non-members"),
        (HEAD, "no rows"),
        ("", "cannot be read as a table"),
        ("image,loss\na,1\n", "no column member"),
        ("image;member;loss\na;1;1\n", "no column image, member; it has image;member;loss"),
        ("image,member\na,1\n", "expected either loss or score"),
        ("image,member,loss,score\na,1,1,1\n", "expected either loss or score"),
        ("image,member,loss,loss\na,1,1,1\n", "loss"),
        ("image,member,loss,refrence_1\na,1,1,1\n", "unknown columns refrence_1; known are"),
        ("image,member,loss,reference_01\na,1,1,1\n", "unknown columns reference_01"),
        ("image,member,loss,reference_1\na,1,1,\nb,0,1,1\n", "line 2, reference_1 is ''"),
        ("image,member,group,loss\na,1,,1\nb,0,x,1\n", "line 2: group is empty"),
        # a cell too many in every line would shift the columns: a loss of 5 for one of 1
        (HEAD + "a,1,1,5\nb,0,0,7\n", "cannot be read as a table"),
        (HEAD + "a,1,1\nb,0,0,7\n", "cannot be read as a table"),
    ],
)
def test_a_table_that_is_no_scores_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"scores.csv"):
        read_scores(tmp_path / "scores.csv")


def test_many_rows_take_no_square_of_their_number(tmp_path):
    n = 50_000  # 25 seconds, if each were compared with all
    found = read(tmp_path, HEAD + "".join(f"i{k},{k % 2},{k}\n" for k in range(n)))
    assert len(found.ids) == n and found.values[-1] == n - 1
