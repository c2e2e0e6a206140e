"""Exercises: what a check says, and that each notebook's have all their parts."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

from segleak_utils.metrics import Interval
from segleak_utils.running import execution, exercises

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
ALL = {
    path.stem: nbformat.read(path, as_version=4).cells for path in FOLDER.glob(execution.PATTERN)
}
FOUND = {name: exercises.of(cells) for name, cells in sorted(ALL.items())}
EACH = [
    pytest.param(name, k, id=f"{name}-{k + 1}")
    for name, of in FOUND.items()
    for k in range(len(of))
]
FOLDED = "<details><summary>Solution</summary>\n\n```python\n{}\n```\n\nSo.\n</details>"


def four(solution: str = "x = 2 + 2", answer: str = "x = ...") -> list:
    cells = [
        new_markdown_cell("What is 2 + 2?"),
        new_code_cell(answer),
        new_code_cell("exercises.check(x, exercises.number(4, 0))"),
        new_markdown_cell(FOLDED.format(solution)),
    ]
    for cell, tag in zip(cells, exercises.TAGS, strict=True):
        cell.metadata["tags"] = [tag]
    return cells


def test_an_answer_is_open_wrong_or_right():
    amiss = exercises.number(0.25, 0.01, {"That is its complement.": 0.75})
    told = {
        answer: exercises.check(answer, amiss, so="Done.") for answer in (0.255, 0.75, 0.5, 0.1)
    }
    assert {k: v.right for k, v in told.items()} == {
        0.255: True,
        0.75: False,
        0.5: False,
        0.1: False,
    }
    assert [v.text for v in told.values()] == [
        "**Right.** Done.",
        "**Not yet.** That is its complement.",
        "**Not yet.** 0.5 is too high.",
        "**Not yet.** 0.1 is too low.",
    ]
    assert exercises.check(0.25, amiss)._repr_markdown_() == "**Right.**"
    assert exercises.check(Interval(0.25, 0.2, 0.3, 10, 10), amiss).right


@pytest.mark.parametrize("answer", [..., (1, ...), (..., ...)])
def test_dots_that_are_left_are_open_whatever_the_check(answer):
    told = exercises.check(answer, lambda _: "")
    assert not told.right and told.text.startswith("**Open.**")


@pytest.mark.parametrize(
    "answer", [None, "x", [], float("nan"), float("inf"), object()], ids=lambda a: type(a).__name__
)
def test_an_odd_answer_is_told_and_not_raised(answer):
    assert exercises.check(answer, exercises.number(0, 1)).text.startswith("**Not yet.** ")
    told = exercises.check(answer, lambda of: of.nothing_of_that_name)
    assert not told.right and "AttributeError" in told.text


def test_a_choice_says_why_not():
    amiss = exercises.choice("b", {"a": "That is the other one."})
    assert exercises.check("b", amiss).right
    assert exercises.check("a", amiss).text == "**Not yet.** That is the other one."
    assert exercises.check("c", amiss).text == "**Not yet.** 'c' is none of a, b."


def test_four_cells_make_an_exercise_and_its_solution_passes():
    (first, second) = exercises.of([new_markdown_cell("prose"), *four(), *four("x = 5")])
    assert first.question == "What is 2 + 2?" and first.solution == "x = 2 + 2\n"
    assert verdict_of(first.answer, first).text.startswith("**Open.**")
    assert verdict_of(first.solution, first).right
    assert verdict_of(second.solution, second).text == "**Not yet.** 5 is too high."


def test_a_solution_that_does_not_pass_its_check_is_no_proof():
    good, bad = exercises.of([*four(), *four("x = 5")])
    exec(good.proof, {"exercises": exercises})
    with pytest.raises(AssertionError, match="5 is too high"):
        exec(bad.proof, {"exercises": exercises})


def verdict_of(answer: str, exercise: exercises.Exercise) -> exercises.Verdict:
    names: dict[str, object] = {"exercises": exercises}
    exec(answer, names)
    return eval(exercise.check, names)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda cells: cells[:3], "exercise 1 has cells"),
        (lambda cells: [cells[1], cells[0], *cells[2:]], "exercise 1 has cells"),
        (lambda cells: [*cells[:3], new_markdown_cell("x", metadata=cells[3].metadata)], "no code"),
    ],
    ids=["one missing", "two exchanged", "nothing folded"],
)
def test_parts_of_an_exercise_are_refused(spoil, said):
    with pytest.raises(ValueError, match=said):
        exercises.of(spoil(four()))


# ---- those of the notebooks ----------------------------------------------------------------------


def bound(source: str) -> set[str]:
    return {
        n.id for n in ast.walk(ast.parse(source))
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }  # fmt: skip


@pytest.mark.parametrize("name", [name for name, of in FOUND.items() if of])
def test_a_notebook_has_three_to_five(name):
    assert 3 <= len(FOUND[name]) <= 5
    for k, exercise in enumerate(FOUND[name], start=1):
        assert exercise.question.startswith(f"**{k}.") or f"\n**{k}." in exercise.question
        assert "<summary>Hint</summary>" in exercise.question


@pytest.mark.parametrize(("name", "k"), EACH)
def test_an_answer_has_dots_for_what_its_solution_finds(name, k):
    exercise = FOUND[name][k]
    asked = ast.parse(exercise.answer).body
    assert asked and all(
        isinstance(line, ast.Assign) and getattr(line.value, "value", None) is ... for line in asked
    ), exercise.answer
    answers = bound(exercise.answer)
    assert answers <= bound(exercise.solution)
    call = ast.parse(exercise.check).body[-1].value
    assert ast.unparse(call.func) == "exercises.check"
    assert answers == {n.id for n in ast.walk(call.args[0]) if isinstance(n, ast.Name)}


@pytest.mark.parametrize("name", [name for name, of in FOUND.items() if of])
def test_a_check_is_folded_away(name):
    for cell in ALL[name]:
        if "check" in cell.metadata.get("tags", []):
            assert cell.metadata.jupyter.source_hidden


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, of in FOUND.items() if of])
def test_no_check_takes_the_dots_for_an_answer(name, build):
    """The notebook as it was executed, with all its exercises open."""
    executed = nbformat.read(build / "notebooks" / f"{name}.ipynb", as_version=4)
    told = [
        cell.outputs[-1].data["text/markdown"] for cell in executed.cells
        if "check" in cell.metadata.get("tags", [])
    ]  # fmt: skip
    assert len(told) == len(FOUND[name])
    assert all(text.startswith("**Open.**") for text in told), told
