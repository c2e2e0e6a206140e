"""The report: one HTML file that asks nobody for anything, and the same for machines.

`write` puts `report.html`, `audit.json`, `images.csv`, `groups.csv` and `figures/` into a folder.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from segleak_utils import figures
from segleak_utils.audit.findings import PRIORS, Findings, Group, Image, Number
from segleak_utils.metrics import Interval
from segleak_utils.whole import write_whole

SHOWN_GROUPS = 30  # owners in the picture, the most exposed first; groups.csv has all
SHOWN_IMAGES = 20  # rows of the table in the report; images.csv has all
SHOWN_TWINS = 20
UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True, eq=False)
class Exposed:
    """One of the most exposed members: image float [3,H,W] in 0..1, the loss kept of it [h,w], and
    the references' mean loss [h,w], or None where there is no reference."""

    id: str
    image: Tensor
    loss: NDArray
    references: NDArray | None


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure of the report with the words for whoever does not see it, and below it."""

    name: str
    figure: Figure
    alt: str
    caption: str

    @cached_property
    def png(self) -> bytes:
        return saved(self.figure, "png")

    @cached_property
    def svg(self) -> bytes:
        return saved(self.figure, "svg")


def write(
    found: Findings,
    scores: Mapping[str, NDArray],
    member: NDArray,
    out: Path,
    exposed: Sequence[Exposed] = (),
) -> Path:
    """Write all of the report into `out`; the path of `report.html`.

    scores: of each attack in `found`, float [N]; member: bool [N]. Each file is there whole or not
    at all; those of an earlier audit are replaced. ValueError where a package of the extra `audit`
    is missing.
    """
    pictures = drawn(found, scores, member, exposed)
    for picture in pictures:
        write_whole(out / "figures" / f"{picture.name}.png", picture.png)
        write_whole(out / "figures" / f"{picture.name}.svg", picture.svg)
    write_whole(out / "audit.json", found.model_dump_json(indent=1) + "\n")
    write_whole(out / "images.csv", as_csv(Image, found.images))
    write_whole(out / "groups.csv", as_csv(Group, found.groups))
    write_whole(out / "report.html", page(found, pictures))
    return out / "report.html"


def as_csv(kind: type[BaseModel], rows: Sequence[BaseModel]) -> str:
    """The rows as CSV, with a header also where there are none.

    A name that a spreadsheet would take for a formula is quoted by an apostrophe.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, [*kind.model_fields], lineterminator="\n")
    table.writeheader()
    for row in rows:
        cells = row.model_dump()
        for key, value in cells.items():
            if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
                cells[key] = f"'{value}"
        table.writerow(cells)
    return text.getvalue()


def saved(figure: Figure, kind: str) -> bytes:
    """The figure as PNG or SVG, the same bytes for the same picture."""
    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "segleak", "svg.fonttype": "path"}):
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(content, format=kind, metadata=metadata)
    figure.set_layout_engine("none")  # found by now, and half of the time of each drawing
    return content.getvalue()


# ---------------------------------------------------------------------------------- pictures


def drawn(
    found: Findings, scores: Mapping[str, NDArray], member: NDArray, exposed: Sequence[Exposed]
) -> list[Picture]:
    """The figures that these findings allow, in the order of the report."""
    areas = {of.name: interval(of.auc) for of in found.attacks}
    named = {name: scores[name] for name in areas}
    best = found.headline
    pictures = [
        Picture(
            "aucs",
            figures.render_intervals(_with_blind(found, areas), "AUC (dashed: guessing)"),
            "Area under the ROC of each attack with its interval: "
            + "; ".join(f"{name} {area}" for name, area in _with_blind(found, areas).items()),
            "How well each attack tells members from non-members. Bars are intervals; an interval "
            "that holds .5 does not exclude guessing.",
        ),
        Picture(
            "roc",
            figures.render_roc(named, member, areas),
            f"ROC curves of {len(named)} attacks, linear and logarithmic; "
            f"{best} has an AUC of {areas[best]}",
            "The same attacks at every threshold. On the right, both axes are logarithmic: few "
            "non-members accused, down to one of them, below which no curve is drawn.",
        ),
    ]
    members = [image for image in found.images if image.member]
    values = np.array([image.p_value for image in members])
    flagged = np.array([image.flagged for image in members])
    pictures.append(
        Picture(
            "p_values",
            figures.render_p_values(values, flagged),
            f"Histogram of {len(values)} members' p-values; {int(flagged.sum())} are flagged, and "
            f"{int((values < 0.05).sum())} are below .05, by chance {0.05 * len(values):.0f} would",
            "Image by image: how many members score higher than nearly all non-members.",
        )
    )
    told = [of for of in found.groups if of.exposure is not None]
    if told:
        told = sorted(told, key=lambda of: -of.exposure)[:SHOWN_GROUPS]
        exposure = {of.group: of.exposure for of in told}
        pictures.append(
            Picture(
                "groups",
                figures.render_owners(exposure, {of.group: of.n_members for of in told}),
                "Mean exposure of each owner: "
                + "; ".join(f"{name} {value:.2f}" for name, value in [*exposure.items()][:5]),
                f"Owner by owner, the most exposed first ({len(told)} of "
                f"{len([of for of in found.groups if of.exposure is not None])}).",
            )
        )
    if exposed:
        rows = [(of.id, of.image, of.loss, of.references) for of in exposed]
        pictures.append(
            Picture(
                "exposed",
                figures.render_exposed(rows),
                f"The most exposed members: {', '.join(of.id for of in exposed)}; image, the "
                "model's loss, and where references do worse",
                f"The members with the highest scores of {best}, and where in them the loss is.",
            )
        )
    helped = [
        (of.release, of.attacker, of.miou_nonmembers, interval(of.auc))
        for of in found.releases
        if of.miou_nonmembers is not None
    ]
    if helped:
        pictures.append(
            Picture(
                "releases",
                figures.render_releases(helped),
                "AUC against mean IoU of each release: "
                + "; ".join(f"{name}, {who}: {area}" for name, who, _, area in helped),
                "What would help: less of an answer released, what is left of the leak (left) and "
                "of the use (right). Judge by the attacker who knows the defence.",
            )
        )
    return pictures


def interval(number: Number) -> Interval:
    """The number as the figures take it."""
    return Interval(
        number.value, number.low, number.high, number.n_members, number.n_nonmembers, number.level
    )


def _with_blind(found: Findings, areas: Mapping[str, Interval]) -> dict[str, Interval]:
    if found.blind is None:
        return dict(areas)
    return {"blind baseline": interval(found.blind.auc), **areas}


# -------------------------------------------------------------------------------------- page


def page(found: Findings, pictures: Sequence[Picture]) -> str:
    """`report.html`: everything inside, nothing fetched."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise ValueError(
            'the report needs jinja2: pip install "segleak[audit]", or write audit.json alone'
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": as_text, "short": short}
    template = environment.from_string(
        resources.files("segleak_utils.audit").joinpath("report.html").read_text("utf-8")
    )
    ranked = sorted((image for image in found.images if image.member), key=lambda of: of.rank)
    shown = {
        picture.name: {
            "src": f"data:image/{mime};base64," + base64.b64encode(getattr(picture, kind)).decode(),
            "alt": picture.alt,
            "caption": picture.caption,
        }
        for picture in pictures
        # photographs as pixels, curves as lines
        for kind, mime in [("png", "png") if picture.name == "exposed" else ("svg", "svg+xml")]
    }
    return template.render(
        found=found,
        pictures=shown,
        exposed=ranked[:SHOWN_IMAGES],
        n_members=len(ranked),
        groups=sorted(found.groups, key=lambda of: -(of.exposure or 0))[:SHOWN_GROUPS],
        twins=found.twins[:SHOWN_TWINS],
        priors=[f"{prior:g}" for prior in PRIORS],
        headings={"leak": "Evidence of a leak", "no evidence": "No evidence of a leak",
                  "invalid": "This audit says nothing"},
    )  # fmt: skip


def as_text(number: Number | None) -> str:
    """An estimate with its interval, ".63 [.60, .66]"."""
    return UNKNOWN if number is None else str(interval(number))


def short(value: float | None) -> str:
    """Two decimals, a third below .1; a dash for what is not known."""
    if value is None:
        return UNKNOWN
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3f}"
