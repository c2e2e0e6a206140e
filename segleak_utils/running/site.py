"""The site: executed notebooks, docs and docstrings as pages that work from a folder, offline.

Sphinx with MyST-NB and Furo builds it (``docs/conf.py``); what it reads is put together here, in a
folder laid out as the repository. Nothing is executed.
"""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from types import ModuleType

import nbformat

from segleak_utils.running import execution, pages
from segleak_utils.whole import write_whole

ROOT = execution.ROOT
DOCS = {  # in the order of the site's pages
    "Your own model": ["audit.md", "bad_input.md"],
    "Results": ["results.md", "reproduce.md"],
    "For teachers": ["teach.md"],
    "Words": ["glossary.md"],
}
# in the order of the house, upper floors first
NAMED = ("studies", "running")  # whose modules are named and not shown: few will call them
ROOMS = (
    "run", "studies", "audit", "figures", "attacks", "defenses", "victims", "synthstreets",
    "representations", "data", "metrics", "running", "checks", "whole",
)  # fmt: skip


def build_site(build: Path = ROOT / "build") -> tuple[Path, list[str]]:
    """Make ``build/site`` anew from ``build/notebooks``; where it begins, and Sphinx's warnings.

    What was there is replaced when the new one is whole. FileNotFoundError where a notebook was not
    executed yet.
    """
    executed = executed_notebooks(build)
    with tempfile.TemporaryDirectory(prefix=".site-", dir=build) as folder:
        source, out = Path(folder, "source"), Path(folder, "site")
        for path, notebook in executed.items():
            _notebook(path, notebook, source, out)
        _documents(source, list(executed))
        _rooms(source)
        warnings = _sphinx(source, out, Path(folder, "doctrees"))
        site, old = build / "site", Path(folder, "old")
        if site.exists():
            os.replace(site, old)
        os.replace(out, site)
    return site / "index.html", warnings


def executed_notebooks(build: Path) -> dict[Path, nbformat.NotebookNode]:
    """The notebooks of the repository as a run has left them, in order."""
    sources = execution.choose(ROOT / "notebooks")
    missing = [p.stem for p in sources if not (build / "notebooks" / p.name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"not executed yet: {', '.join(missing)} (looked in {build / 'notebooks'}); "
            "`python3 -m segleak_utils.run` runs all notebooks, then the site can be made"
        )
    return {path: nbformat.read(build / "notebooks" / path.name, as_version=4) for path in sources}


# ---- what Sphinx reads ---------------------------------------------------------------------------


def _notebook(path: Path, notebook: nbformat.NotebookNode, source: Path, out: Path) -> None:
    def keep(name: str, content: bytes) -> str:
        write_whole(out / "notebooks" / "pictures" / name, content)
        return f"pictures/{name}"

    links = _links(path.parent, "notebooks")
    shown = pages.prepared(notebook, path.stem, keep, links)
    write_whole(source / "notebooks" / path.name, nbformat.writes(shown))


def _documents(source: Path, notebooks: Iterable[Path]) -> None:
    """The docs, what CONTRIBUTING and CHANGELOG say, and the first page with the order of all."""
    for name in [name for names in DOCS.values() for name in names]:
        _document(ROOT / "docs" / name, source / "docs" / name, "docs")
    _document(ROOT / "CONTRIBUTING.md", source / "CONTRIBUTING.md", "")
    _document(ROOT / "CHANGELOG.md", source / "CHANGELOG.md", "")
    _document(ROOT / "docs" / "index.md", source / "index.md", "")
    parts = {"Notebooks": [f"notebooks/{path.stem}" for path in notebooks]}
    parts |= {k: [f"docs/{Path(name).stem}" for name in names] for k, names in DOCS.items()}
    parts["Library"] = ["api/index", "CONTRIBUTING", "CHANGELOG"]
    with (source / "index.md").open("a", encoding="utf-8") as index:
        for caption, names in parts.items():
            lines = ["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```"]
            index.write("\n".join(lines) + "\n")


def _document(path: Path, into: Path, place: str) -> None:
    text = path.read_text(encoding="utf-8")
    write_whole(into, pages.relinked(text, _links(path.parent, place)))


def _links(here: Path, place: str) -> Callable[[str], str]:
    """Links as they stand in a file of the folder `here`, for a page in the site's folder `place`.

    A file of the repository that is no page has none; one of a room leads to that room's page.
    """

    def link(to: str) -> str:
        target, hash_, anchor = to.partition("#")
        found = (here / target).resolve()
        if not found.exists() or not found.is_relative_to(ROOT):
            return to
        page = _page_of(PurePosixPath(found.relative_to(ROOT).as_posix()))
        return page and os.path.relpath(page, place or ".").replace(os.sep, "/") + hash_ + anchor

    return link


def _page_of(file: PurePosixPath) -> str:
    if file.parts[0] == "segleak_utils" and len(file.parts) > 1:
        return f"api/{PurePosixPath(file.parts[1]).stem}.rst"
    if str(file) in ("README.md", "docs/index.md"):
        return "index.md"
    named = {f"docs/{name}" for names in DOCS.values() for name in names}
    known = named | {"CONTRIBUTING.md", "CHANGELOG.md"}
    return str(file) if str(file) in known or file.parts[0] == "notebooks" else ""


def _rooms(source: Path) -> None:
    """A page for each room, from its docstrings."""
    lines = ["The library, room by room", "=========================", "", ".. toctree::", ""]
    lines += [f"   {room}" for room in ROOMS]
    write_whole(source / "api" / "index.rst", "\n".join(lines) + "\n")
    for room in ROOMS:
        module = importlib.import_module(f"segleak_utils.{room}")
        lines = [room, "=" * len(room), "", f".. automodule:: segleak_utils.{room}"]
        lines += ["   :imported-members:", ""] if hasattr(module, "__path__") else [""]
        for name in _modules(module):
            whole = f"{room}.{name}"
            if room in NAMED:
                lines += [f"``{whole}``", f"   {_first_line(f'segleak_utils.{whole}')}", ""]
            else:
                lines += [whole, "-" * len(whole), "", f".. automodule:: segleak_utils.{whole}", ""]
        write_whole(source / "api" / f"{room}.rst", "\n".join(lines) + "\n")


def _first_line(module: str) -> str:
    return (importlib.import_module(module).__doc__ or "").strip().partition("\n")[0]


def _modules(room: ModuleType) -> list[str]:
    """The modules of a room that are handed on by their own name."""
    if not hasattr(room, "__path__"):
        return []
    found = [name for _, name, _ in pkgutil.iter_modules(room.__path__)]
    said = getattr(room, "__all__", found)
    # a function may have its module's name: then it is the function that is handed on
    return [n for n in found if n in said and isinstance(getattr(room, n, None), ModuleType)]


# ---- Sphinx --------------------------------------------------------------------------------------


def _sphinx(source: Path, out: Path, doctrees: Path) -> list[str]:
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    said = io.StringIO()
    with docutils_namespace():
        app = Sphinx(
            source, ROOT / "docs", out, doctrees, "html", status=None, warning=said, freshenv=True
        )
        app.build(force_all=True)
    for page in out.rglob("*.html"):
        page.write_text(_mended(page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(out / "_sources", ignore_errors=True)  # of the pages, with paths of no use here
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue())
    return [line.replace(f"{source}{os.sep}", "") for line in plain.splitlines() if line.strip()]


def _mended(html: str) -> str:
    """What Furo leaves out for screen readers: names of its two drawers, levels, a heading."""
    for old, new in {
        '<aside class="sidebar-drawer"': '<aside aria-label="All pages" class="sidebar-drawer"',
        '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
        'class="caption" role="heading"': 'class="caption" role="heading" aria-level="2"',
        '<div id="search-results">': '<h1>Search</h1>\n<div id="search-results">',
    }.items():
        html = html.replace(old, new)
    return pages.mended(html)


def main(build: Path) -> int:
    """The command `site`; its exit code."""
    try:
        index, warnings = build_site(build)
    except FileNotFoundError as error:
        print(f"segleak: {error}", file=sys.stderr)
        return 1
    for line in warnings:
        print(f"segleak: {line}", file=sys.stderr)
    print(f"segleak: open {index}")
    return 0
