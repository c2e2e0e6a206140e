"""What is tried in a notebook's own kernel once its last cell has run: its sliders, its solutions.

The suite executes the notebooks once; to run them again for these would take minutes.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import sweep
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from segleak_utils.running import engine, exercises

SOLUTION = re.compile(r"<details>.*?```python\n(.*?)```", re.DOTALL)


def cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The sweep of the controls, if there are any, then each folded solution in its order."""
    live = any("widgets.show(" in cell.source for cell in notebook.cells)
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    # that of an exercise has to pass its check
    proofs = {exercise.solution: exercise.proof for exercise in exercises.of(notebook.cells)}
    found = [proofs.get(text, text) for source in prose for text in SOLUTION.findall(source)]
    # each with names of its own, as a reader meets it who skips the others
    apart = [f"exec(compile({text!r}, 'a solution', 'exec'), dict(globals()))" for text in found]
    return [*([sweep.cell()] if live else []), *map(new_code_cell, apart)]


@contextlib.contextmanager
def kernels(folder: Path) -> Iterator[None]:
    """Notebooks that are executed meanwhile go on with their `cells`; each writes NAME.ipynb here.

    The executed notebook itself, and the state of its widgets, stay as its last cell left them.
    """

    class Client(engine.Client):
        def papermill_execute_cells(self) -> None:
            super().papermill_execute_cells()
            executed = self.nb
            if any(c.cell_type == "code" and c.execution_count is None for c in executed.cells):
                return  # it failed, and the runner says where
            before = copy.deepcopy((self.widget_state, self.widget_buffers))
            tried = new_notebook()
            for cell in cells(executed):
                executed.cells.append(cell)  # where the client puts what it shows
                with contextlib.suppress(CellExecutionError):
                    self.execute_cell(cell, len(executed.cells) - 1)
                tried.cells.append(executed.cells.pop())
            self.set_widgets_metadata()
            tried.metadata.widgets = executed.metadata.pop("widgets", {})
            self.widget_state, self.widget_buffers = before
            folder.mkdir(parents=True, exist_ok=True)
            name = executed.metadata.papermill["input_path"]
            nbformat.write(tried, folder / Path(name).name)

    before = engine.Client
    engine.Client = Client
    try:
        yield
    finally:
        engine.Client = before
