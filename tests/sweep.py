"""Move every control of a notebook: what only a moved slider would break then breaks in a test.

Setting `value` in the kernel runs the callbacks, so it needs no browser.
"""

from __future__ import annotations

import copy
import inspect
import re
import symtable

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

MOVED = re.compile(r"^swept (\d+) controls$", re.MULTILINE)


def sweep_controls() -> None:
    """Bring every control of this kernel to its stops and back; print how many were moved."""
    import ipywidgets
    from IPython import get_ipython
    from ipywidgets.widgets import widget  # `Widget.widgets`, the public name, is deprecated

    def stops(control: ipywidgets.Widget) -> list:
        options = getattr(control, "options", None)
        if isinstance(control, ipywidgets.Checkbox | ipywidgets.ToggleButton):
            return [not control.value]
        if isinstance(control, ipywidgets.SelectionRangeSlider):
            values = [value for _, value in control._options_full]
            return [(value, value) for value in values] + [(values[0], values[-1])]
        if isinstance(control, ipywidgets.SelectMultiple):
            return [(value,) for _, value in control._options_full]
        if options is not None and hasattr(control, "index"):
            return [value for _, value in control._options_full]  # (label, value), however given
        if isinstance(control, ipywidgets.IntProgress | ipywidgets.FloatProgress):
            return []  # shows a value, but nobody can move it
        if not (hasattr(control, "min") and hasattr(control, "max") and hasattr(control, "value")):
            return []
        low, high = control.min, control.max
        if isinstance(control.value, tuple):
            return [(low, low), (low, high), (high, high)]
        middle = (low + high) // 2 if isinstance(control.value, int) else (low + high) / 2
        if isinstance(control, ipywidgets.FloatLogSlider):
            return [control.base**power for power in (low, middle, high)]
        return [low, middle, high]

    # a callback clears what the one before has shown: an error would be gone after the next move
    shell = get_ipython()
    if shell is not None:
        shell.display_pub.clear_output = lambda wait=False: None
    moved = 0
    for control in list(widget._instances.values()):
        places = stops(control)
        # a SelectionRangeSlider may begin with a value that it does not accept
        state = "index" if hasattr(control, "index") else "value"
        start = getattr(control, state, None)
        for place in places:
            control.value = place
        if places:
            setattr(control, state, start)  # each control is swept from the first picture
            moved += 1
    print(f"swept {moved} controls")


def cell() -> NotebookNode:
    """A cell that moves every control of the notebook at whose end it stands; see `moved`."""
    return new_code_cell(f"{inspect.getsource(sweep_controls)}\n\nsweep_controls()", id="sweep")


def alone(notebook: NotebookNode) -> NotebookNode:
    """A copy with the cells alone that the first slider's needs: those that bind what it uses."""
    notebook = copy.deepcopy(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shows = next(k for k, cell in enumerate(code) if "widgets.show(" in cell.source)
    kept, used = [], set()
    for k in range(shows, -1, -1):
        binds, uses = names_of(code[k].source)
        if k == shows or used & binds:
            kept.insert(0, code[k])
            used |= uses
    notebook.cells = kept
    return notebook


def names_of(source: str) -> tuple[set[str], set[str]]:
    """Names that a cell binds for other cells, and those that it takes from them or uses itself."""
    top = symtable.symtable(source, "a cell", "exec")
    binds = {name.get_name() for name in top.get_symbols() if name.is_assigned()}
    binds |= {name.get_name() for name in top.get_symbols() if name.is_imported()}
    uses, tables = set(), [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        uses |= {
            name.get_name()
            for name in table.get_symbols()
            if name.is_referenced() and (table is top or name.is_global())
        }
    return binds, uses


def moved(notebook: NotebookNode) -> int:
    """How many controls the `cell` of an executed notebook has moved."""
    outputs = [o for c in notebook.cells if c.id == "sweep" for o in c.outputs]
    texts = [o["text"] for o in outputs if o.get("name") == "stdout"]
    found = MOVED.findall("".join(texts))
    return int(found[-1]) if found else 0
