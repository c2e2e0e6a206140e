"""What all figures share: one style, and the colours of members (blue) and non-members (orange)."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

from segleak_utils.figures.words import describe

DPI = 90  # of a live picture: sharp enough at a notebook's width, and quickly drawn
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


def looks_of(series: Sequence | Mapping, first: int = 0) -> Sequence[tuple[str, str, str]]:
    """A look for each series; ValueError rather than two series that look alike.

    From the ninth on colours come again, with another marker and dash.
    """
    n, most = len(LOOKS), 4 * len(LOOKS)  # as many rounds as there are dashes
    if len(series) > most:
        raise ValueError(f"{len(series)} series in one picture; at most {most} differ enough")
    looks = []
    for k in range(first, first + len(series)):
        again = (k - first) // n
        looks.append((LOOKS[k % n][0], LOOKS[(k + 3 * again) % n][1], LOOKS[(k + again) % n][2]))
    return looks


class Png(bytes):
    """The bytes of a PNG that say what it shows."""

    alt: str

    def __new__(cls, content: bytes, alt: str) -> Png:
        png = super().__new__(cls, content)
        png.alt = alt
        return png


def styled(render: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the project's style, and show nothing: the caller gets the figure.

    Where a notebook shows it, what it shows is said in the output's metadata.
    """

    @functools.wraps(render)
    def draw(*args: object, **kwargs: object) -> Figure:
        with plt.style.context(STYLE):
            figure = render(*args, **kwargs)
        plt.close(figure)  # else a notebook would show it twice
        figure._repr_mimebundle_ = functools.partial(_alt, figure)
        return figure

    return draw


def _alt(figure: Figure, **_: object) -> tuple[dict, dict]:
    """No picture, only words for the one that IPython makes of the figure."""
    return {}, {"image/png": {"alt": describe(figure)}}


def axes_of(rows: int = 1, columns: int = 1, **kwargs) -> tuple[Figure, np.ndarray]:
    """A figure with its axes as [rows, columns]."""
    return plt.subplots(rows, columns, squeeze=False, **kwargs)


def packed(pixels: np.ndarray, dpi: float) -> bytes:
    """Pixels uint8 [H, W, 4] as the bytes of a PNG, quickly.

    Rows are compressed as they are (filter 0 of the PNG specification): in figures, large areas of
    one colour, that is smaller than what Pillow makes of them, in a third of its time.
    """
    height, width, _ = pixels.shape
    rows = np.zeros((height, 4 * width + 1), np.uint8)  # each begins with the number of its filter
    rows[:, 1:] = np.reshape(pixels, (height, 4 * width))
    dots = round(dpi / 0.0254)  # a metre
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"pHYs", struct.pack(">IIB", dots, dots, 1)),
        (b"IDAT", zlib.compress(rows, 1)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def png(figure: Figure, dpi: int = DPI) -> Png:
    """A figure as the bytes of a PNG, with words for it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=dpi)
    # cut off as Matplotlib does it, but 8.2 inches of 90 dots are 738 and not 737.999
    size = figure.bbox_inches.transformed(Affine2D().scale(dpi)).size
    width, height = size.round(6).astype(int)
    pixels = np.frombuffer(buffer.getbuffer(), np.uint8).reshape(height, width, 4)
    return Png(packed(pixels, dpi), describe(figure))
