"""Exercises that check themselves: what a check says, and which cells belong together.

An exercise is four cells, told by their tags, one after the other: ``exercise`` (Markdown: the
question, hints folded), ``answer`` (code: the names to be found, each bound to ``...``), ``check``
(code, ending in `check`) and ``solution`` (Markdown: the code, folded). A solution is written down
once, in its fold: whoever wants to see it pass puts it in the place of the answer (`of`).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

TAGS = ("exercise", "answer", "check", "solution")
FOLD = re.compile(r"<details><summary>Solution</summary>\n\n```python\n(.*?)```", re.DOTALL)
Amiss = Callable[[object], str]


# ---- what a check says ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what there is to say of it; a notebook shows the text."""

    right: bool
    text: str

    def _repr_markdown_(self) -> str:
        return self.text


def check(answer: object, amiss: Amiss, *, so: str = "") -> Verdict:
    """Say that an answer is right, and what follows (`so`), or what is amiss.

    `amiss` gets the answer and returns a sentence about its mistake, or "". An answer in which a
    ``...`` is left is open. What `amiss` raises on an odd answer is told, not raised: a notebook
    whose exercises nobody has done runs to its end.

    >>> check(..., number(0.5, 0.01)).text
    '**Open.** Put your answer in the place of the dots, and run both cells.'
    >>> check(0.7, number(0.5, 0.01)).text
    '**Not yet.** 0.7 is too high.'
    >>> check(0.5, number(0.5, 0.01), so="A coin does as well.").text
    '**Right.** A coin does as well.'
    """
    parts = answer if isinstance(answer, tuple) else (answer,)
    if any(part is ... for part in parts):
        return Verdict(
            False, "**Open.** Put your answer in the place of the dots, and run both cells."
        )
    try:
        complaint = amiss(answer)
    except Exception as error:
        complaint = f"This cannot be looked at ({type(error).__name__}: {error})."
    if complaint:
        return Verdict(False, f"**Not yet.** {complaint}")
    return Verdict(True, f"**Right.** {so}".rstrip())


def number(expected: float, within: float, mistakes: Mapping[str, float] | None = None) -> Amiss:
    """An `Amiss` for one number; `mistakes`: what to say to who has found a number that is known.

    An interval counts as its estimate.
    """

    def amiss(found: object) -> str:
        try:
            value = float(getattr(found, "value", found))
        except (TypeError, ValueError):
            return f"One number is asked for, and this is {type(found).__name__}."
        if not math.isfinite(value):
            return f"{value} is no answer."
        if abs(value - expected) <= within:
            return ""
        for told, wrong in (mistakes or {}).items():
            if abs(value - wrong) <= within:
                return told
        return f"{value:.4g} is too {'high' if value > expected else 'low'}."

    return amiss


def choice(expected: object, others: Mapping[object, str]) -> Amiss:
    """An `Amiss` for one of several; `others`: why each of the others is not it."""

    def amiss(found: object) -> str:
        known = [expected, *others]
        if found not in known:
            return f"{found!r} is none of {', '.join(sorted(map(str, known)))}."
        return others.get(found, "")

    return amiss


# ---- which cells belong together -----------------------------------------------------------------


@dataclass(frozen=True)
class Exercise:
    """The sources of an exercise's cells; `solution`: the code in its fold."""

    question: str
    answer: str
    check: str
    solution: str

    @property
    def proof(self) -> str:
        """Code that puts the solution in the place of the answer, and fails unless it passes."""
        cell = ast.parse(self.check)
        told = ast.unparse(cell.body.pop())  # the call of `check`
        steps = (self.solution, ast.unparse(cell), f"told_now = {told}")
        return "\n".join([*steps, "assert told_now.right, told_now.text", ""])


def of(cells: Iterable[NotebookNode]) -> list[Exercise]:
    """The exercises among the cells of a notebook.

    ValueError for cells of an exercise that are not the four in their order, or a fold without
    code.
    """
    tagged = [(tag, cell.source) for cell in cells for tag in cell.metadata.get("tags", [])]
    tagged = [(tag, source) for tag, source in tagged if tag in TAGS]
    found = []
    for k in range(0, len(tagged), len(TAGS)):
        tags, sources = zip(*tagged[k : k + len(TAGS)], strict=True)
        if tags != TAGS:
            raise ValueError(f"exercise {len(found) + 1} has cells {tags}; expected {TAGS}")
        fold = FOLD.search(sources[3])
        if fold is None:
            raise ValueError(
                f"exercise {len(found) + 1}: no code is folded in its solution; expected "
                "<details><summary>Solution</summary>, an empty line, and ```python"
            )
        found.append(Exercise(*sources[:3], fold[1]))
    return found
