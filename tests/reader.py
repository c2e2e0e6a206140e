"""A reader of pages from a folder: Chromium without a network, who writes down what goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from test_browser import browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

# of all that is in order nothing is wanted: to say where it stands takes most of the time
RULES = """
async () => {
  // what follows a load (boxes that can be scrolled by key) has been laid out
  await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  const found = await axe.run(document, {
    preload: false, resultTypes: ['violations'], selectors: false, elementRef: false, MORE
  });
  return found.violations.flatMap(
    rule => rule.nodes.map(node => `${rule.id}: ${node.html.slice(0, 160)}`));
}
"""


class Reader:
    """Opens pages in one tab; `troubles` are the console's errors and requests to other hosts."""

    def __init__(self, page: Page) -> None:
        import axe_playwright_python

        self.page, self.troubles = page, []
        rules = Path(axe_playwright_python.__file__).with_name("axe.min.js")
        self._axe = rules.read_text(encoding="utf-8")
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("request", self._asked)

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"console: {message.text}")

    def _asked(self, request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.troubles.append(f"asks {request.url}")

    def open(self, path: Path) -> Page:
        self.troubles.clear()
        self.page.goto(path.resolve().as_uri(), wait_until="load")
        return self.page

    def barriers(self, more: str = "") -> list[str]:
        """What axe-core finds: each rule that is broken, with the element that breaks it.

        `more` are further options of ``axe.run``, e.g. ``runOnly``.
        """
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(self._axe)
        return self.page.evaluate(RULES.replace("MORE", more))

    def sideways(self) -> int:
        """By how many pixels the page itself is wider than the window."""
        root = "document.documentElement"
        return self.page.evaluate(f"() => {root}.scrollWidth - {root}.clientWidth")

    def move_sliders(self) -> int:
        """Move each slider by key: words and picture change; how many there were."""
        sliders = self.page.locator(".segleak-frames input[type=range]")
        for k in range(sliders.count()):
            self._move(sliders.nth(k))
        return sliders.count()

    def _move(self, slider) -> None:
        box = slider.locator("xpath=ancestor::*[contains(@class, 'segleak-frames')]")
        if slider.is_disabled():  # another control decides whether it counts
            return
        picture, name = box.locator("img"), slider.get_attribute("id")
        at_end = slider.evaluate("s => s.value === s.max")

        def state() -> list[str]:
            return [
                slider.get_attribute("aria-valuetext"),
                picture.get_attribute("src"),
                picture.get_attribute("alt"),
            ]

        before = state()
        slider.focus()
        self.page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
        for what, old, new in zip(("words", "picture", "alt"), before, state(), strict=True):
            assert new and new != old, f"{name}: its {what} stayed {old!r:.200}"
        assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") > 1, name
        self.page.keyboard.press("ArrowRight" if at_end else "ArrowLeft")
        assert state() == before, f"{name} does not come back"


@contextlib.contextmanager
def reader(*, dark: bool = False, width: int = 1280) -> Iterator[Reader]:
    """A new tab of a Chromium that reaches no host."""
    executable = browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable,
            args=["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"],
        )
        scheme = "dark" if dark else "light"
        page = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        page.set_default_timeout(120_000)
        try:
            yield Reader(page)
        finally:
            chromium.close()
