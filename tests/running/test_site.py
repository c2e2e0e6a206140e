"""The site: what it is made of, and a reader who walks through all of it from a folder, offline."""

from __future__ import annotations

import html
import json
import os
import re
import tomllib
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pytest
import yaml
from reader import reader

from segleak_utils import run
from segleak_utils.running import execution, site

ROOT = execution.ROOT
DARK = "runOnly: ['color-contrast', 'scrollable-region-focusable', 'link-in-text-block']"
FEW = "rules: {'color-contrast': {enabled: false}}"  # takes most of the time on a long page
# what is code, and not text; also the patterns in a signature
HIDDEN = re.compile(r"<(script|style|pre|code|title|dt)\b.*?</\1>", re.DOTALL)


# ---- without notebooks ---------------------------------------------------------------------------


def test_a_notebook_that_was_not_executed_is_named(tmp_path, capsys):
    options = run.parse(["--build", str(tmp_path), "site"])
    assert run.dispatch(options) == 1
    said = capsys.readouterr().err
    assert "segleak: not executed yet: 00_start_here, 01_victim_inference" in said
    assert "`python3 -m segleak_utils.run` runs all notebooks" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("here", "place", "to", "found"),
    [
        ("notebooks", "notebooks", "00_start_here.ipynb", "00_start_here.ipynb"),
        ("notebooks", "notebooks", "../docs/audit.md#files", "../docs/audit.md#files"),
        ("docs", "", "../notebooks/00_start_here.ipynb", "notebooks/00_start_here.ipynb"),
        ("docs", "docs", "../segleak_utils/whole.py", "../api/whole.rst"),
        ("docs", "docs", "../segleak_utils/checks", "../api/checks.rst"),
        (".", "", "README.md", "index.md"),
        ("docs", "docs", "../data/README.md", ""),  # no page: words without a link
        ("docs", "docs", "nowhere.md", "nowhere.md"),  # left for Sphinx to complain of
    ],
)
def test_links_lead_to_pages(here, place, to, found):
    assert site._links(ROOT / here, place)(to) == found


def test_every_room_has_a_page_and_every_page_of_the_docs_its_file():
    rooms = {p.stem for p in (ROOT / "segleak_utils").iterdir() if p.name[0] != "_"}
    assert set(site.ROOMS) == rooms
    named = {name for names in site.DOCS.values() for name in names} | {"index.md"}
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")}


def test_binder_and_the_dev_container_install_extras_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    binder = ROOT / ".binder" / "environment.yml"
    *_, pip = yaml.safe_load(binder.read_text(encoding="utf-8"))["dependencies"]
    constraint, package = (line.split(maxsplit=1)[1] for line in pip["pip"])
    assert (binder.parent / constraint).resolve() == ROOT / "constraints.txt"
    where, _, chosen = package.rstrip("]").partition("[")
    assert (binder.parent / where).resolve() == ROOT and set(chosen.split(",")) <= set(extras)
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert "--constraint constraints.txt" in container["postCreateCommand"]
    assert ".[all]" in container["postCreateCommand"] and "all" in extras
    pages = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text("utf-8"))
    steps = pages["jobs"]["build"]["steps"]
    assert [s["run"] for s in steps if "run" in s][-1] == "python -m segleak_utils.run site"
    assert steps[-1]["with"]["path"] == "build/site"


# ---- the whole site ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(build, tmp_path_factory) -> tuple[Path, list[str]]:
    """The site of the executed notebooks, and what Sphinx complained of."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "notebooks").symlink_to(build / "notebooks", target_is_directory=True)
    index, warnings = site.build_site(folder)
    return index.parent, warnings


def texts(folder: Path) -> dict[Path, str]:
    return {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.html"))}


@pytest.mark.slow
def test_the_site_is_whole(made, build):
    folder, warnings = made
    assert warnings == []
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".site-")] == []
    named = {path.relative_to(folder).as_posix() for path in folder.rglob("*.html")}
    notebooks = {f"notebooks/{p.stem}.html" for p in execution.choose(ROOT / "notebooks")}
    docs = {f"docs/{Path(name).stem}.html" for names in site.DOCS.values() for name in names}
    assert {"index.html", "search.html", *notebooks, *docs} <= named
    assert {f"api/{room}.html" for room in site.ROOMS} <= named
    second = (folder / "notebooks" / "01_victim_inference.html").read_text(encoding="utf-8")
    assert re.search(r'class="next-page" href="02_', second)
    assert re.search(r'class="prev-page" href="00_', second)
    assert "tpr_at_fpr" in (folder / "api" / "metrics.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_link_of_every_page_leads_somewhere(made, build):
    ids: dict[Path, set[str]] = {}
    for folder in (made[0], build / "html"):
        for path, text in texts(folder).items():
            for target in re.findall(r'\s(?:href|src)="([^"]+)"', text):
                if re.match(r"(https?|data|mailto):", target):
                    continue
                file, _, anchor = html.unescape(target).partition("#")
                file = unquote(file.partition("?")[0])
                found = (path.parent / file).resolve() if file else path.resolve()
                assert found.exists(), f"{path}: {target}"
                if anchor and found.suffix == ".html":
                    if found not in ids:
                        ids[found] = set(re.findall(r'\sid="([^"]+)"', found.read_text("utf-8")))
                    named = {anchor, unquote(anchor)} & ids[found]
                    assert named, f"{path}: {target}"


@pytest.mark.slow
def test_no_page_asks_another_host_or_shows_a_raw_formula(made, build):
    for folder in (made[0], build / "html"):
        for path, text in texts(folder).items():
            fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"([^\"]*)", text)
            assert not [to for to in fetched if to.startswith(("http:", "https:", "//"))], path
            plain = html.unescape(re.sub("<[^>]*>", "", HIDDEN.sub("", text)))
            raw = re.search(r"\$[^$\s][^$\n]*\$|\\[a-z]+\{|MathJax", plain)
            assert not raw, f"{path}: {raw[0]}"


@pytest.mark.slow
def test_every_picture_says_what_it_shows(made, build):
    n = 0
    for folder in (made[0] / "notebooks", build / "html"):
        for path, text in texts(folder).items():
            images = re.findall("<img[^>]*>", text)
            words = [re.search(r'\salt="([^"]*)"', image) for image in images]
            for image, said in zip(images, words, strict=True):
                assert said and len(said[1]) > 40, f"{path}: {image[:100]}"
                assert not said[1].startswith(("No description", "Image")), path
            n += len(images)
    assert n == 2 * len(list((build / "figures").glob("*.png"))) > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_reader_walks_through_every_page(made, build):
    """Nothing is fetched, no error, no barrier, no text sideways at 400 px.

    axe-core looks at every page; at colours, light and dark, on one of each kind: they are those of
    the others. SEGLEAK_BARRIERS=all looks at the colours of all pages, too.
    """
    wrong: dict[str, list[str]] = {}
    moved: dict[str, int] = {}
    kinds = set()
    with reader() as read:
        for path in [*texts(made[0]), *texts(build / "html")]:
            name = PurePosixPath(path.parent.name, path.name).as_posix()
            page = read.open(path)
            moved[name] = read.move_sliders()
            colours = path.parent not in kinds or os.environ.get("SEGLEAK_BARRIERS") == "all"
            found = read.troubles + read.barriers("" if colours else FEW)
            page.emulate_media(color_scheme="dark")
            page.set_viewport_size({"width": 400, "height": 900})
            if read.sideways():
                found.append(f"{read.sideways()} px wider than its window")
            if colours:
                kinds.add(path.parent)
                found += [f"dark: {barrier}" for barrier in read.barriers(DARK)]
            page.emulate_media(color_scheme="light")
            page.set_viewport_size({"width": 1280, "height": 900})
            if found:
                wrong[name] = found
    assert wrong == {}
    live = {p.stem for p in (build / "notebooks").glob("*.ipynb") if "frames+json" in p.read_text()}
    assert live and {f"notebooks/{stem}.html" for stem in live} <= {
        n for n, k in moved.items() if k
    }


@pytest.mark.slow
def test_the_search_finds_words_without_a_server(made):
    with reader() as read:
        page = read.open(made[0] / "search.html")
        page.goto(f"{page.url}?q=noise+multiplier")
        found = page.locator("#search-results li a", has_text="Glossary").first
        found.wait_for()
        assert "glossary.html" in found.get_attribute("href") and read.troubles == []
