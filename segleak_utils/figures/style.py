"""What all figures share: one style, and the colours of members (blue) and non-members (orange)."""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segleak_utils.figures.words import describe

DPI = 90  # of a live picture: sharp enough at a notebook's width, and quickly drawn
STYLE = Path(__file__).with_name("segleak.mplstyle")
MEMBER, NONMEMBER = "#0072B2", "#D55E00"
LOSS_LABEL = "loss of the true class (nats)"
# A loss map, and what nobody labelled on it: a grey that no loss has.
VOID_GREY = "#8d99a6"
LOSS_COLOURS = colormaps["magma"].with_extremes(bad=VOID_GREY)
# For series without a name below: colour, marker and dash, never told apart by colour only.
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
# For what is no attack (a victim, a number of patches) where attacks have their colours: slate.
PLAIN = (
    ("#26323F", "o", "-"),
    ("#8593A1", "s", "--"),
    ("#566778", "^", "-."),
    ("#26323F", "v", ":"),
    ("#8593A1", "D", "-"),
    ("#566778", "P", "--"),
)
# Each attack, by its name in the tables, looks the same in every figure. A colour comes again with
# another marker and dash, where two attacks are not drawn side by side; blue and vermilion are
# those of members and non-members.
ATTACKS = {
    "blind baseline": ("#000000", "o", "-"),
    "global loss": ("#E69F00", "s", "--"),
    "per-class logistic regression": ("#009E73", "^", "-."),
    "patches, loss map": ("#56B4E9", "v", ":"),
    "patches, loss map + label": ("#CC79A7", "D", "-"),
    "patches, loss map + label, trained live": ("#CC79A7", "s", "--"),
    "patches, concatenation": ("#6B4C2A", "P", "--"),
    "patches, calibrated loss map": ("#56B4E9", "X", "-"),
    "whole image, Type-I": ("#000000", "s", ":"),
    "whole image, Type-II": ("#000000", "^", "--"),
    "Dice": ("#8A8A1F", "o", "--"),
    "label-only, errors per class": ("#8A8A1F", "^", "-"),
    "global loss minus predictability": ("#8A8A1F", "D", ":"),
    "share of right pixels": ("#AA4499", "o", "--"),
    "share of right pixels minus references'": ("#AA4499", "s", ":"),
    "score minus references'": ("#AA4499", "^", "-."),
    "score": ("#000000", "D", "-."),
    "global loss minus references'": ("#56B4E9", "P", "--"),
    "LiRA, offline, fixed variance": ("#CC79A7", "X", "-."),
    "LiRA, offline, a variance an image": ("#CC79A7", "v", ":"),
    "LiRA, offline, the same networks": ("#6B4C2A", "X", ":"),
    "LiRA, online, fixed variance": ("#6B4C2A", "s", "-"),
    "LiRA, online, a variance an image": ("#56B4E9", "s", "-."),
    "RMIA": ("#6B4C2A", ">", "-."),
    "calibrated per-class regression": ("#009E73", "D", "-"),
    "calibrated regression, classes and boundaries": ("#332288", "s", ":"),
    "calibrated structured regression": ("#332288", "*", "-"),
    "structured regression, online": ("#332288", "P", "--"),
    "BaVarIA": ("#332288", "v", "-."),
    "blended ensemble": ("#009E73", "h", ":"),
    "blended ensemble, two questions": ("#8A8A1F", "P", "-."),
    "white box: structured regression + gradients of the head": ("#AA4499", "h", "-"),
}
# The same attack by who does not know of a defence and by who does.
ATTACKERS = {"naive": ("#44AA99", "s", "--"), "adaptive": ("#882255", "o", "-")}


def looks_of(
    series: Sequence | Mapping, others: Sequence[tuple[str, str, str]] = ()
) -> Sequence[tuple[str, str, str]]:
    """A look for each series; ValueError rather than two series that look alike.

    An attack or attacker has its own (`ATTACKS`, `ATTACKERS`); the rest have those of `others`,
    then those of `LOOKS`, and after these the same with another marker and dash.

    >>> looks_of(["adaptive", "some series", "global loss"])
    [('#882255', 'o', '-'), ('#000000', 'o', '-'), ('#E69F00', 's', '--')]
    """
    n = len(LOOKS)
    most = 4 * n  # as many rounds as there are dashes
    if len(series) > most:
        raise ValueError(f"{len(series)} series in one picture; at most {most} differ enough")
    known = {**ATTACKS, **ATTACKERS}
    named = [known.get(name) if isinstance(name, str) else None for name in series]
    taken = [look for look in named if look]
    rounds = [
        (LOOKS[k % n][0], LOOKS[(k + 3 * again) % n][1], LOOKS[(k + again) % n][2])
        for again in range(4)
        for k in range(n)
    ]
    rounds = [*others, *rounds]
    free = iter([look for look in rounds if not any(_alike(look, other) for other in taken)])
    try:
        return [look or next(free) for look in named]
    except StopIteration:
        raise ValueError(f"{len(series)} series in one picture do not differ enough") from None


def _alike(a: tuple[str, str, str], b: tuple[str, str, str]) -> bool:
    return a[0] == b[0] and (a[1] == b[1] or a[2] == b[2])


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
    """A figure as the bytes of a PNG, with words for it.

    The pixels are those of `Figure.savefig`, which draws all of it once more to lay it out.
    """
    canvas, engine, dots = figure.canvas, figure.get_layout_engine(), figure.dpi
    try:
        figure.dpi = dpi
        drawn = FigureCanvasAgg(figure)
        if engine is not None:
            engine.execute(figure)
            figure.set_layout_engine("none")
        drawn.draw()
        pixels = np.asarray(drawn.buffer_rgba())
        return Png(packed(pixels, dpi), describe(figure))
    finally:
        figure.set_layout_engine(engine)
        figure.set_canvas(canvas)
        figure.dpi = dots
