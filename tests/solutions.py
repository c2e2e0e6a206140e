"""Run a notebook's solutions at its end, each as a reader would who has run all cells."""

from __future__ import annotations

import copy
import re

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from segleak_utils.running import exercises

FOLDED = re.compile(r"<details>.*?```python\n(.*?)```", re.DOTALL)
SOLVED = re.compile(r"^solution \d+: (.*)$", re.MULTILINE)
CELL = """
import time as _time, traceback as _traceback
_began = _time.monotonic()
try:
    exec(compile({source!r}, "solution {number}", "exec"), dict(globals()))
    print(f"\\nsolution {number}: {{_time.monotonic() - _began:.1f}} s")
except Exception:
    print(f"\\nsolution {number}: failed\\n{{_traceback.format_exc()}}")
"""


def solutions(notebook: NotebookNode) -> list[str]:
    """The code of the folded solutions, in order; that of an exercise has to pass its check."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    checked = {exercise.solution: exercise.proof for exercise in exercises.of(notebook.cells)}
    return [checked.get(code, code) for text in texts for code in FOLDED.findall(text)]


def solved(notebook: NotebookNode) -> NotebookNode:
    """A copy with a cell at its end for each solution, with names of its own; see `outcomes`."""
    notebook = copy.deepcopy(notebook)
    for number, source in enumerate(solutions(notebook), start=1):
        cell = new_code_cell(CELL.format(source=source, number=number), id=f"solution-{number}")
        notebook.cells.append(cell)
    return notebook


def outcomes(executed: NotebookNode) -> list[str]:
    """What became of each solution of an executed, solved notebook: its seconds, or "failed"."""
    texts = [
        output["text"]
        for cell in executed.cells
        if cell.get("id", "").startswith("solution-")
        for output in cell.outputs
        if output.get("name") == "stdout"
    ]
    return SOLVED.findall("".join(texts))
