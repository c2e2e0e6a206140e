"""An executed notebook as a page: formulas, links, pictures with words, sliders that move."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from reader import reader

from segleak_utils.figures import frames, styled, sums, widgets
from segleak_utils.figures.frames import WANTED
from segleak_utils.metrics import Interval
from segleak_utils.running import pages
from segleak_utils.running.mathematics import mathml

TEXT = r"""# A page

The loss is $\ell = -\log \max(p_y,\ 10^{-30})$, and

$$\Phi\big((\mu_1 - \mu_0) / \sqrt{\sigma_1^2 + \sigma_0^2}\big)$$

in [another notebook](05_other.ipynb#words), [the results](../docs/results.md) and
[elsewhere](https://example.org/).

```python
links = [k](05_other.ipynb)  # no link
```
"""
TABLE = "| | $p_y$ |\n|---|---|\n| member | .5 |\n"


@styled
def line(slope: float = 1, length: float = 1):
    figure, axes = plt.subplots(figsize=(9, 2))
    axes.plot([0, length], [0, slope * length], label="slope")
    axes.set(xlim=(0, 4), ylim=(0, 9))
    return figure


def explored() -> ipywidgets.Box:
    controls = {
        "slope": ipywidgets.IntSlider(1, 0, 3, description="how steep"),
        "length": ipywidgets.SelectionSlider(options=[("short", 1), ("long", 2)]),
    }
    asked = [("Where is it 4 high?", lambda slope, length: "Here <!" if slope * length > 3 else "")]
    return widgets.explorer(
        line, controls, says=lambda slope, length: f"to {slope}", questions=asked
    )


@pytest.fixture(scope="module")
def notebook():
    box, shown = explored(), line()
    png = widgets.png(shown)
    figure = {"image/png": base64.b64encode(png).decode(), "text/plain": "<Figure>"}
    slider = {
        **figure,
        frames.MIME: frames.frames(box),
        "application/vnd.jupyter.widget-view+json": {},
    }
    alt = {"image/png": {"alt": png.alt}}
    outputs = [
        [new_output("execute_result", figure, metadata=alt)],
        [new_output("display_data", slider, metadata=alt)],
        [new_output("execute_result", {"text/markdown": TABLE, "text/plain": ""})],
        [new_output("stream", name="stdout", text="a long line " * 40)],
    ]
    cells = [
        new_code_cell("x = 1  # " + "long " * 40, outputs=o, execution_count=1) for o in outputs
    ]
    cells[0].metadata["jupyter"] = {"source_hidden": True}
    return new_notebook(
        cells=[new_markdown_cell(TEXT), *cells], metadata={"widgets": {"state": {}}}
    )


@pytest.fixture(scope="module")
def page(notebook, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for name in ("notebooks/05_other.ipynb", "docs/results.md", "build/html/05_other.html"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("<h1>words</h1>")
    path = folder / "build" / "html" / "03_page.html"
    links = pages.beside(folder / "notebooks", path.parent)
    path.write_text(pages.page(notebook, "03_page", links), encoding="utf-8")
    return path


def test_a_page_has_its_formulas_and_asks_no_other_host(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<math ") == 3 and 'display="block"' in text
    assert "$" not in re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//(?!example\.org)""", text)
    assert "mathjax" not in text.lower() and "require" not in text.lower().split("<style")[0]


def test_the_links_of_a_page_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r'href="([^"#][^"]*)"', text)
    assert {"05_other.html#words", "../../docs/results.md"} <= set(targets)
    for target in targets:
        if not target.startswith("https:"):
            assert (page.parent / target.partition("#")[0]).is_file(), target
    assert "[k](05_other.ipynb)" in re.sub("<[^>]*>", "", text)


def test_every_picture_of_a_page_has_words(page):
    images = re.findall("<img[^>]*>", page.read_text(encoding="utf-8"))
    assert len(images) == 2 and all("Line slope: (0, 0), (1, 1)." in image for image in images)


def test_a_picture_without_words_is_seen_by_the_reader(notebook, tmp_path):
    cell = new_code_cell("x", outputs=[notebook.cells[1].outputs[0].copy()])
    cell.outputs[0]["metadata"] = {}
    shown = pages.prepared(new_notebook(cells=[cell]), "03", lambda name, content: name)
    assert 'src="03-00-1.png" width="810" height="180"></div>' in str(
        shown.cells[0].outputs[0].data
    )


@pytest.mark.slow
def test_a_page_works_without_kernel_network_or_mouse(page):
    with reader() as read:
        shown = read.open(page)
        assert read.move_sliders() == 2
        slope = shown.locator("input").first
        assert slope.get_attribute("aria-valuetext") == "1"
        assert shown.get_by_role("slider", name="how steep").get_attribute(
            "id"
        ) == slope.get_attribute("id")
        assert "Here" not in shown.locator(".segleak-questions").inner_text()
        slope.focus()
        shown.keyboard.press("End")
        shown.keyboard.press("Tab")
        shown.keyboard.press("ArrowRight")
        assert "Here <!" in shown.locator(".segleak-questions").inner_text()
        assert shown.locator(".segleak-says").inner_text() == "to 3"
        shown.keyboard.press("ArrowLeft")
        assert "Here <!" in shown.locator(".segleak-questions").inner_text()  # once shown it stays
        assert "(1, 3)" in shown.locator(".segleak-frames img").get_attribute("alt")
        assert (read.troubles, read.barriers()) == ([], [])


RATES = {"RMIA": (0.35, 0.2, 0.5), "global loss": (0.011, 0.0, 0.04)}


def told_sums() -> list[dict]:
    fprs = [1 / 900, 0.01, 0.5]
    found = {
        name: [Interval(*(min(1, x * k) for x in ends), 100, 900) for k in (0.5, 1, 1.9)]
        for name, ends in RATES.items()
    }
    return [sums.worth(fprs, found, 0.02), sums.promise(2.0, 1e-5)]


def shown_sums(monkeypatch, wanted: bool) -> list:
    """What two cells would show, with and without pages to come."""
    bundles = []
    monkeypatch.setattr(sums, "display", lambda bundle, raw: bundles.append(bundle))
    if wanted:
        monkeypatch.setenv(WANTED, "1")
    else:
        monkeypatch.delenv(WANTED, raising=False)
    for told in told_sums():
        sums.show(told)
    return bundles


def test_a_sum_is_a_sentence_and_on_its_way_to_a_page_has_its_numbers(monkeypatch):
    assert sums.MIME == pages.SUMS
    plain, sent = (shown_sums(monkeypatch, wanted) for wanted in (False, True))
    assert all(bundle.keys() == {"text/plain", "text/markdown"} for bundle in plain)
    assert [b["text/markdown"] for b in plain] == [b[sums.MIME]["says"] for b in sent]
    assert plain[0]["text/plain"].startswith("RMIA at 1.0 % FPR: TPR .350 [.200, .500].")
    with pytest.raises(ValueError, match="RMIA has 1 TPRs; expected 2"):
        sums.worth([0.01, 0.1], {"RMIA": [Interval(0.3, 0.2, 0.5, 100, 900)]}, 0.1)
    assert sums.promise(1e6, 1e-30)["start"][:2] == [1.3, -7]  # where the handles end


@pytest.mark.slow
def test_a_page_sums_as_the_library_does(monkeypatch, tmp_path):
    cells = [
        new_code_cell("x", outputs=[new_output("display_data", bundle)])
        for bundle in shown_sums(monkeypatch, wanted=True)
    ]
    path = tmp_path / "sums.html"
    heading = new_markdown_cell("# Sums")
    path.write_text(pages.page(new_notebook(cells=[heading, *cells]), "sums"), encoding="utf-8")
    rng, told = np.random.default_rng(0), told_sums()[0]
    with reader() as read:
        shown = read.open(path)
        worth, promise = (shown.locator(".segleak-sums").nth(k) for k in (0, 1))
        shown.set_viewport_size({"width": 1280, "height": 900})
        assert worth.locator("svg").bounding_box()["width"] == 24 * 16  # Jupyter's own: all of it

        def put(box, k: int, value: object) -> None:
            box.locator("input").nth(k).fill(str(value))

        for _ in range(12):
            attack, k, prior = rng.integers(2), rng.integers(3), round(rng.uniform(-3, -0.3), 2)
            worth.locator("select").select_option(str(attack))
            put(worth, 0, k)
            put(worth, 1, prior)
            expected = sums.worth_says(told, attack, k, 10.0**prior)
            assert worth.locator(".segleak-says").inner_text() == expected
            places = [round(rng.uniform(*ends), 2) for ends in sums.LOGS.values()]
            for j, place in enumerate(places):
                put(promise, j, place)
            expected = sums.promise_says(*(10.0**place for place in places))
            assert promise.locator(".segleak-says").inner_text() == expected
            drawn = promise.locator("svg")
            assert drawn.get_attribute("aria-label") == f"TPR against FPR. {expected}"
        handle = promise.locator("input").first
        before = handle.get_attribute("aria-valuetext"), drawn.inner_html()
        handle.focus()
        shown.keyboard.press("ArrowLeft")
        assert handle.get_attribute("aria-valuetext") != before[0]
        assert drawn.inner_html() != before[1]
        assert (read.troubles, read.barriers()) == ([], [])
    for width, dark in ((400, False), (1280, True)):
        with reader(width=width, dark=dark) as read:
            read.open(path)
            assert (read.sideways(), read.barriers()) == (0, [])


@pytest.mark.slow
def test_a_narrow_page_is_not_wider_than_its_window(page):
    with reader(width=400) as read:
        read.open(page)
        assert (read.sideways(), read.barriers()) == (0, [])


def test_a_formula_that_is_not_understood_is_an_error():
    with pytest.raises(ValueError, match=r"a doubled backslash at 0 in the formula '.*ell'"):
        mathml(r"\\ell")
    with pytest.raises(ValueError, match=r"unknown command \\loss in"):
        mathml(r"\loss")
    assert "<mtr>" in mathml(r"\begin{cases} a & b \\c & d \end{cases}", block=True)
