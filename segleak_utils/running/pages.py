"""An executed notebook as a page that needs nothing but itself: no kernel, no other host.

Formulas are MathML, pictures carry their words, and a slider that brought the pictures of its stops
(`figures.frames`) moves. `site` puts such notebooks together.
"""

from __future__ import annotations

import base64
import copy
import json
import logging
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from segleak_utils.running.mathematics import mathml

FRAMES = "application/vnd.segleak.frames+json"  # as in figures.frames
SUMS = "application/vnd.segleak.sums+json"  # as in figures.sums
STATIC = Path(__file__).with_name("static")
LINK = re.compile(  # or code, which is none
    r"^```.*?^```|(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<to>[^()\s]+)\)|`[^`\n]*`",
    re.MULTILINE | re.DOTALL,
)
Keep = Callable[[str, bytes], str]  # from a picture's name and content to where a page finds it

# nbconvert's page, less what it would fetch from other hosts
TEMPLATE = """
{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_css -%}
<style>{{ resources.css }}</style>
<style>@media (prefers-color-scheme: dark) { {{ resources.dark }} }</style>
{%- endblock -%}
{%- block input -%}
{%- if cell.metadata.get('jupyter', {}).get('source_hidden') -%}
<details><summary>code</summary>{{ super() }}</details>
{%- else -%}{{ super() }}{%- endif -%}
{%- endblock -%}
{%- block footer_js -%}<script>{{ resources.script }}</script>{%- endblock -%}
"""


def page(notebook: NotebookNode, name: str, links: Callable[[str], str] = str) -> str:
    """Render an executed notebook, NAME.ipynb, as one file of HTML.

    `links` changes the targets of its links. Raises ValueError for a formula that cannot be read.
    """
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body: str) -> str:
            return mathml(body)

        def block_math(self, body: str) -> str:
            return mathml(body, block=True)

    def markdown(source: str) -> str:
        return MarkdownWithMath(renderer=Renderer(escape=False)).render(source)

    logging.getLogger("traitlets").setLevel(logging.ERROR)
    exporter = HTMLExporter(raw_template=TEMPLATE, filters={"markdown2html": markdown})
    theme = exporter.environment.loader.get_source(exporter.environment, "static/theme-dark.css")
    resources = {
        "metadata": {"name": name},
        "dark": theme[0] + (STATIC / "dark.css").read_text(encoding="utf-8"),
        "css": (STATIC / "notebook.css").read_text(encoding="utf-8") + styles(),
        "script": script(),
    }
    shown = prepared(notebook, name, _inline, links)
    return mended(exporter.from_notebook_node(shown, resources)[0])


def mended(html: str) -> str:
    """A page's tables as a screen reader needs them: no head without words.

    >>> mended('<th class="head"><p></p></th><th><math alttext="p_y"><mi>p</mi></math></th>')
    '<td></td><th><math role="math" aria-label="p_y" alttext="p_y"><mi>p</mi></math></th>'
    """
    html = re.sub(r"<th(?: [^>]*)?>\s*(?:<p>\s*</p>\s*)?</th>", "<td></td>", html)
    formula = r'(<th(?: [^>]*)?>\s*(?:<p>)?<math )(?=alttext="([^"]*)")'
    return re.sub(formula, r'\1role="math" aria-label="\2" ', html)


def script() -> str:
    """What moves the sliders of a page."""
    return (STATIC / "segleak.js").read_text(encoding="utf-8")


def styles() -> str:
    """How pictures and sliders look on any page."""
    return (STATIC / "segleak.css").read_text(encoding="utf-8")


def _inline(name: str, content: bytes) -> str:
    kind = name.rpartition(".")[2]
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def prepared(
    notebook: NotebookNode, name: str, keep: Keep, links: Callable[[str], str] = str
) -> NotebookNode:
    """A copy of an executed notebook whose pictures and sliders are HTML that needs no kernel.

    A picture is given to `keep`, which says where it is found from the page.
    """
    notebook = copy.deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            cell.source = relinked(cell.source, links)
        if cell.get("metadata", {}).get("jupyter", {}).get("source_hidden"):
            cell.metadata.setdefault("tags", []).append("hide-input")  # MyST-NB's word for it
        for k, output in enumerate(cell.get("outputs", []), start=1):
            data = output.get("data", {})
            stem = f"{name}-{number:02d}-{k}"
            if FRAMES in data:
                output.data = nbformat.from_dict({"text/html": slider(data[FRAMES], stem, keep)})
            elif SUMS in data:
                output.data = nbformat.from_dict({"text/html": sums(data[SUMS], stem)})
            elif "image/png" in data:
                content = base64.b64decode("".join(data["image/png"]))
                words = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                shown = picture(keep(f"{stem}.png", content), words, *_size(content))
                output.data = nbformat.from_dict({"text/html": shown})
            elif "text/markdown" in data:
                data["text/markdown"] = relinked("".join(data["text/markdown"]), links)
    return notebook


def relinked(markdown: str, links: Callable[[str], str]) -> str:
    """Markdown with the targets of its links changed; code is left alone.

    >>> relinked("[a](b.ipynb) and `x[0](y)`", lambda to: to.replace(".ipynb", ".html"))
    '[a](b.html) and `x[0](y)`'
    """
    return LINK.sub(lambda found: _link(found, links), markdown)


def _link(found: re.Match, links: Callable[[str], str]) -> str:
    to = found["to"]
    if to is None or re.match(r"[a-z]+:|#", to):
        return found[0]
    return f"[{found['text']}]({to})" if (to := links(to)) else found["text"]


# ---- pictures and sliders ------------------------------------------------------------------------


def _size(png: bytes) -> tuple[int, int]:
    return struct.unpack(">II", png[16:24])  # of the header, which comes first


def picture(where: str, words: str, width: int, height: int) -> str:
    """A picture that shrinks with the page and, where it would get too small, moves sideways."""
    alt = f' alt="{escape(words)}"' if words else ""
    size = f'width="{width}" height="{height}"'
    return f'<div class="segleak-picture"><img src="{where}" {size}{alt}></div>'


def slider(told: Mapping, stem: str, keep: Keep) -> str:
    """The controls, the first picture, and all others in a list that `segleak.js` reads."""
    places = [
        keep(f"{stem}-{k:02d}.webp", base64.b64decode(shown["webp"]))
        for k, shown in enumerate(told["pictures"])
    ]
    starts = [control["start"] for control in told["controls"]]
    begin = next(frame for frame in told["frames"] if frame["stops"] == starts)
    first = told["pictures"][begin["picture"]]
    width, height = told["size"]
    sent = {
        "stops": [control["stops"] for control in told["controls"]],
        "names": [control["name"] for control in told["controls"]],
        "pictures": [
            {"src": src, "alt": shown["alt"]}
            for src, shown in zip(places, told["pictures"], strict=True)
        ],
        "frames": {",".join(map(str, f["stops"])): _sent(f) for f in told["frames"]},
    }
    parts = [
        f'<div class="segleak-frames" role="group" aria-label="{escape(_heading(told))}">',
        '<div class="segleak-controls">',
        *_controls(told["controls"], stem, begin["off"]),
        "</div>",
        picture(places[begin["picture"]], first["alt"], width, height),
        f'<p class="segleak-says" aria-live="polite">{begin["says"]}</p>',
        *_questions(told["questions"], begin["answers"]),
        f'<script type="application/json">{_json(sent)}</script>',
        "</div>",
    ]
    return "\n".join(parts)


def _heading(told: Mapping) -> str:
    return "A figure with sliders: " + ", ".join(c["label"] for c in told["controls"])


def _sent(frame: Mapping) -> dict:
    return {name: frame[name] for name in ("picture", "says", "answers", "off")}


def _controls(controls: list[Mapping], stem: str, off: list[str]) -> Iterator[str]:
    for control in controls:
        at, last = control["start"], len(control["stops"]) - 1
        name, word = f"{stem}-{control['name']}", escape(control["stops"][at])
        disabled = " disabled" if control["name"] in off else ""
        yield (
            f'<label for="{name}">{escape(control["label"])}</label>'
            f'<input type="range" id="{name}" min="0" max="{last}" step="1" value="{at}" '
            f'aria-valuetext="{word}"{disabled}><output for="{name}">{word}</output>'
        )


def _questions(questions: list[str], answers: list[str]) -> Iterator[str]:
    if questions:
        yield '<ol class="segleak-questions">'
        for text, answer in zip(questions, answers, strict=True):
            yield f'<li>{escape(text)} <b aria-live="polite">{escape(answer) or "…"}</b></li>'
        yield "</ol>"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")


def sums(told: Mapping, stem: str) -> str:
    """The controls, a sentence and a drawing of what `segleak.js` computes at any of their places.

    Handles move in hundredths of a power of ten, but for that of the FPRs that were measured.
    """
    fields, starts = [], list(told["start"])
    if told["kind"] == "worth":
        attack, fpr = f"{stem}-attack", f"{stem}-fpr"
        names = enumerate(of["name"] for of in told["attacks"])
        options = "".join(f'<option value="{k}">{escape(name)}</option>' for k, name in names)
        fields += [f'<label for="{attack}">attack</label><select id="{attack}">{options}</select>']
        fields += ["<span></span>", _handle(fpr, "FPR", 0, len(told["fpr"]) - 1, 1, starts[1])]
        del starts[:2]
    fields += [
        _handle(f"{stem}-{k}", name, *ends, 0.01, at)
        for k, ((name, ends), at) in enumerate(zip(told["logs"].items(), starts, strict=True))
    ]
    says = escape(told["says"])
    return "\n".join(
        [
            '<div class="segleak-sums" role="group" aria-label="A sum with handles">',
            '<div class="segleak-controls">',
            *fields,
            "</div>",
            f'<p class="segleak-says" aria-live="polite">{says}</p>',
            _AXES.format(says=says),
            f'<script type="application/json">{_json(told)}</script>',
            "</div>",
        ]
    )


def _handle(name: str, label: str, low: float, high: float, step: float, at: float) -> str:
    return (
        f'<label for="{name}">{escape(label)}</label><input type="range" id="{name}" min="{low}" '
        f'max="{high}" step="{step}" value="{at}"><output for="{name}"></output>'
    )


_AXES = (
    '<svg class="segleak-drawing" viewBox="0 0 340 250" role="img" aria-label="{says}">'
    '<path d="M40,10V210H320" /><polygon class="segleak-band" />'
    '<polyline class="segleak-curve" /><polyline class="segleak-bar" />'
    '<circle class="segleak-mark" r="5" />'
    + "".join(f'<text x="{40 + 70 * k}" y="226">{t}</text>' for k, t in
              enumerate(("0.01 %", "0.1 %", "1 %", "10 %", "100 %")))
    + "".join(f'<text class="segleak-left" x="34" y="{214 - 200 * t}">{t:g}</text>' for t in
              (0, 0.5, 1))
    + '<text x="180" y="244">FPR</text><text class="segleak-left" x="34" y="90">TPR</text></svg>'
)  # fmt: skip


# ---- links ---------------------------------------------------------------------------------------


def beside(notebooks: Path, page: Path) -> Callable[[str], str]:
    """Links of a notebook as links of its page: to other pages, or to the repository's files."""

    def link(to: str) -> str:
        target, hash_, anchor = to.partition("#")
        found = (notebooks / target).resolve()
        if found.parent == notebooks.resolve() and found.suffix == ".ipynb":
            return f"{found.stem}.html{hash_}{anchor}"
        if not found.exists():
            return to
        return os.path.relpath(found, page.resolve()).replace(os.sep, "/") + hash_ + anchor

    return link
