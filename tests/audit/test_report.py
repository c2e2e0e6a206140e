"""The report: one file that asks nobody, tables for spreadsheets, words for every figure."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from toy_findings import MEMBER, N, exposed, made_up

from segleak_utils.audit import findings, report


class Seen(HTMLParser):
    """What a browser would fetch, what a reader without eyes would hear, and the tags' balance."""

    VOID = ("meta", "img", "br", "link", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked, self.images, self.ids, self.links, self.open = [], [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.asked += [found[k] for k in ("src", "srcset", "data", "action") if k in found]
        self.asked += [found["href"]] if tag == "link" else []
        self.links += [found["href"]] if tag == "a" else []
        self.images += [found] if tag == "img" else []
        self.ids |= {found["id"]} if "id" in found else set()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    found, scores = made_up()
    out = tmp_path_factory.mktemp("audit")
    report.write(found, scores, MEMBER, out, exposed())
    return found, out


def test_the_page_fetches_nothing_and_every_figure_has_words(written):
    _, out = written
    text = (out / "report.html").read_text(encoding="utf-8")
    page = Seen(text)
    assert page.open == [] and all(asked.startswith("data:") for asked in page.asked)
    assert "@import" not in text and "url(" not in text and "<script" not in text
    assert len(page.images) == 6 and all(len(image["alt"]) > 20 for image in page.images)
    assert {link.removeprefix("#") for link in page.links} <= page.ids


def test_the_verdict_comes_first_and_names_are_text(written):
    _, out = written
    text = (out / "report.html").read_text(encoding="utf-8")
    places = [text.index(part) for part in ("It was found.", "That is sure.", "does not say.")]
    assert places == sorted(places) and places[-1] < text.index("What was tried")
    assert "net &lt;b&gt;" in text and "net <b>" not in text
    assert "It needs a shadow." in text and "Seven owners are few." in text


def test_files_for_machines_hold_all_that_was_found(written):
    found, out = written
    assert findings.Findings.model_validate_json((out / "audit.json").read_text()) == found
    rows = list(csv.DictReader((out / "images.csv").open(encoding="utf-8")))
    assert [row["id"] for row in rows] == [image.id for image in found.images]
    assert float(rows[0]["score"]) == found.images[0].score
    assert len(list(csv.DictReader((out / "groups.csv").open(encoding="utf-8")))) == 7
    names = {path.name for path in (out / "figures").iterdir()}
    assert len(names) == 12 and {name.split(".")[1] for name in names} == {"png", "svg"}


def test_a_name_is_no_formula():
    image = made_up()[0].images[0].model_copy(update={"id": "=HYPERLINK(1)"})
    assert "\n'=HYPERLINK(1)," in report.as_csv(findings.Image, [image])


def test_two_reports_of_the_same_findings_are_the_same_file(written, tmp_path):
    found, out = written
    _, scores = made_up()
    report.write(found, scores, MEMBER, tmp_path, exposed())
    for name in ("report.html", "audit.json", "figures/roc.svg", "figures/exposed.png"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["leak", "no evidence", "invalid"])
def test_little_can_be_known_and_the_page_is_whole(kind, tmp_path):
    """Only scores were brought: no blind baseline, owner, release, twin, gate, picture."""
    found, scores = made_up(
        kind, blind=None, twins=(), releases=(), gate=None, groups=(), not_run=()
    )
    bare = tuple(image.model_copy(update={"group": None, "loss": None}) for image in found.images)
    attacks = tuple(of.model_copy(update={"at_fpr": ()}) for of in found.attacks)
    told = {"n_groups": None, "n_classes": None, "sha256": None, "miou_members": None}
    audited = found.audited.model_copy(update=told | {"miou_nonmembers": None})
    found = found.model_copy(update={"images": bare, "attacks": attacks, "audited": audited})
    path = report.write(found, scores, MEMBER, tmp_path)
    page = Seen(path.read_text(encoding="utf-8"))
    assert page.open == [] and len(page.images) == 3
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    assert "None" not in path.read_text(encoding="utf-8")


def test_a_long_audit_shows_the_most_exposed_and_says_that_there_are_more(written):
    _, out = written
    text = (out / "report.html").read_text(encoding="utf-8")
    assert f"{report.SHOWN_IMAGES} of {N}; images.csv has all" in text
    assert "scene 0" in text and f"scene {N + 5}<" not in text


def test_json_is_what_the_schema_says(written):
    jsonschema = pytest.importorskip("jsonschema")
    _, out = written
    content = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, findings.Findings.model_json_schema())
    assert content["version"] == findings.VERSION


def test_numbers_of_a_page_are_short():
    assert [report.short(x) for x in (None, 0.0, 0.5, 0.0123)] == [
        report.UNKNOWN,
        "0.00",
        "0.50",
        "0.012",
    ]
    assert np.isfinite(made_up()[1]["RMIA"]).all()
