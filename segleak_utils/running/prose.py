"""What a notebook puts on its page between the figures: sentences and tables, from results.

The cells that call these are folded (`hidden`): what they hold is prose, not the subject.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

from IPython.display import Markdown
from nbformat import NotebookNode

NOT_A_NUMBER = re.compile(r"\b(nan|None(?! of)|inf)\b")


def say(*paragraphs: str) -> Markdown:
    """Paragraphs of Markdown, each from a template that was filled in.

    ValueError for a number that is none: a sentence about it would be about nothing.

    >>> print(say("One.", "Two.").data)
    One.
    <BLANKLINE>
    Two.
    """
    text = "\n\n".join(inspect.cleandoc(paragraph) for paragraph in paragraphs if paragraph)
    if wrong := NOT_A_NUMBER.search(text):
        around = text[max(0, wrong.start() - 40) : wrong.end() + 20]
        raise ValueError(f"{wrong[0]} in a sentence: …{around}…")
    return Markdown(text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *around: str) -> Markdown:
    """A table, a row for each of `rows`, with a sentence before it and one after (`around`).

    ValueError for a row of another length than the head.

    >>> print(table(["attack", "AUC"], [("a", ".50")], "Before:").data)
    Before:
    <BLANKLINE>
    | attack | AUC |
    |---|---|
    | a | .50 |
    """
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row of {len(row)} cells under a head of {len(head)}: {row}")
        lines.append(f"| {' | '.join(map(str, row))} |")
    before, after = (*around, "", "")[:2]
    return say(before, "\n".join(lines), after)


def listed(names: Iterable[str], otherwise: str = "none", mark: str = "*") -> str:
    """Names in a sentence.

    >>> listed(["a", "b", "c"], mark=""), listed([])
    ('a, b and c', 'none')
    """
    *first, last = [f"{mark}{name}{mark}" for name in names] or [otherwise]
    return f"{', '.join(first)} and {last}" if first else last


def hidden(cell: NotebookNode) -> bool:
    """Whether a cell's code is folded in JupyterLab; on a page it is left out."""
    return bool(cell.metadata.get("jupyter", {}).get("source_hidden"))
