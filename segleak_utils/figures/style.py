"""What all figures share: one style, and the colours of members (blue) and non-members (orange)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("segleak.mplstyle")
MEMBER, NONMEMBER = "#0072B2", "#D55E00"
LOSS_LABEL = "loss of the true class (nats)"
# One colour, marker and dash for each attack, wherever it appears: never told apart by colour only.
LOOKS = (
    ("#000000", "o", "-"),
    ("#E69F00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#56B4E9", "v", ":"),
    ("#CC79A7", "D", "-"),
    ("#0072B2", "P", "--"),
    ("#D55E00", "X", "-."),
    ("#6B4C2A", "*", ":"),
)


def styled(render: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the project's style, and show nothing: the caller gets the figure."""

    @functools.wraps(render)
    def draw(*args: object, **kwargs: object) -> Figure:
        with plt.style.context(STYLE):
            figure = render(*args, **kwargs)
        plt.close(figure)  # else a notebook would show it twice
        return figure

    return draw


def axes_of(rows: int = 1, columns: int = 1, **kwargs) -> tuple[Figure, np.ndarray]:
    """A figure with its axes as [rows, columns]."""
    return plt.subplots(rows, columns, squeeze=False, **kwargs)
