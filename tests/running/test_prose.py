"""Sentences and tables of the notebooks, and the cells that hold them."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from segleak_utils.running import execution, pages, prose

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob(execution.PATTERN))


@pytest.mark.parametrize("wrong", ["nan", "None", "inf"])
def test_no_sentence_is_about_a_number_that_is_none(wrong):
    with pytest.raises(ValueError, match=f"{wrong} in a sentence: …the AUC is {wrong}…"):
        prose.say(f"the AUC is {wrong}")
    assert prose.say("None of them: a nanny; infinity").data


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a row of 1 cells under a head of 2"):
        prose.table(["a", "b"], [("x",)])
    text = prose.table(["a"], [(1,)], "before", "after").data
    assert text.splitlines() == ["before", "", "| a |", "|---|", "| 1 |", "", "after"]


def ending(source: str) -> str:
    """The function that a cell's last line calls, e.g. "prose.say"."""
    body = ast.parse(source).body
    last = body[-1] if body else None
    called = isinstance(last, ast.Expr) and isinstance(last.value, ast.Call)
    return ast.unparse(last.value.func) if called else ""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_that_say_something_are_folded(path):
    for index, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code":
            folded, end = prose.hidden(cell), ending(cell.source)
            assert not end.startswith("prose.") or folded, f"cell {index}\n{cell.source}"


def test_a_page_folds_the_code_and_keeps_what_it_says():
    folded = new_code_cell("prose.say('a secret')", metadata={"jupyter": {"source_hidden": True}})
    output = {"output_type": "execute_result", "data": {"text/markdown": "told"}, "metadata": {}}
    folded.outputs = [nbformat.from_dict({**output, "execution_count": 1})]
    notebook = new_notebook(cells=[folded, new_code_cell("shown = 1")])
    page = pages.page(notebook, "name")
    before, _, rest = page.partition("<details><summary>code</summary>")
    inside, _, after = rest.partition("</details>")
    assert "a secret" in inside and "a secret" not in before + after
    assert "told" in after and "shown" in after
