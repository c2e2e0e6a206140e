"""Formulas as MathML, which a browser draws by itself: no script, and nothing to fetch."""

from __future__ import annotations

import html
import re


def mathml(tex: str, *, block: bool = False) -> str:
    """LaTeX's mathematics as a MathML element; ValueError for a command that is not known.

    >>> mathml("a_1").partition("<mrow>")[2]
    '<msub><mi>a</mi><mn>1</mn></msub></mrow></math>'
    """
    from latex2mathml import converter

    doubled = re.search(r"\\\\(?=[a-zA-Z])", tex)
    if doubled and r"\begin" not in tex:  # there it ends a line
        raise ValueError(f"a doubled backslash at {doubled.start()} in the formula {tex!r}")
    try:
        element = converter.convert(tex.strip(), display="block" if block else "inline")
    except Exception as error:  # each of latex2mathml's is its own
        raise ValueError(f"the formula {tex!r} cannot be read: {error!r}") from error
    if unknown := re.search(r"\\[a-zA-Z]+", html.unescape(element)):
        raise ValueError(f"unknown command {unknown[0]} in the formula {tex!r}")
    return element.replace("<math ", f'<math alttext="{html.escape(tex.strip())}" ', 1)
