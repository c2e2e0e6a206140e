"""The sliders under a reader's hands: JupyterLab in a real browser, moved by keyboard and mouse.

Needs Chromium and Playwright; without them the tests are skipped (SEGLEAK_BROWSER=required makes
that a failure).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
import sweep
import toy_pages

from segleak_utils.running import execution

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FIXTURES = Path(__file__).with_name("fixtures")
DEFENSES = execution.ROOT / "notebooks" / "04_defenses.ipynb"
PROMISES = execution.ROOT / "notebooks" / "08_what_dp_promises.ipynb"
RISK = execution.ROOT / "notebooks" / "07_who_is_at_risk.ipynb"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FIRST_SLIDERS = {
    "00_start_here": ["mean_loss"],
    "01_victim_inference": ["t"],
    "02_structured_loss_map": ["clip", "of_class", "of_ring"],
    "03_attack_training": ["side", "number"],
    "05_roc_analysis": ["fpr", "prior", "attack"],
    "06_beyond_the_paper": ["number", "attack"],
}
PICTURE = "img.segleak-picture"
SECONDS = 240  # for one step in the page: only a failure takes that long, or a very busy machine

# Keeps what the kernel says: errors, and which messages it has not finished with. A widget's
# callback runs in no cell, so no cell's state shows that it ended, nor that it failed.
WATCH = """
() => {
  const seen = window.segleak = {errors: [], open: new Set(), began: null, took: null};
  const panel = jupyterapp.shell.currentWidget;
  panel.sessionContext.session.kernel.anyMessage.connect((_, {msg, direction}) => {
    const type = msg.header.msg_type;
    if (direction === 'send') {
      if (msg.channel === 'shell') seen.open.add(msg.header.msg_id);
    } else if (type === 'error') {
      seen.errors.push(`${msg.content.ename}: ${msg.content.evalue}`);
    } else if (type === 'stream' && msg.content.text.includes('Traceback (most recent')) {
      seen.errors.push(msg.content.text);
    } else if (type === 'status' && msg.content.execution_state === 'idle') {
      seen.open.delete(msg.parent_header.msg_id);
    }
  });
  // from the last key or button to the new picture
  for (const type of ['keydown', 'pointerup', 'mouseup'])
    document.addEventListener(type, () => { seen.began = performance.now(); }, true);
  new MutationObserver(changes => {
    if (changes.some(change => change.target.matches('PICTURE')))
      seen.took = performance.now() - seen.began;
  }).observe(document.body, {subtree: true, attributes: true, attributeFilter: ['src']});
}
""".replace("PICTURE", PICTURE)
# What a widget leaves in its place when the page cannot draw it.
BROKEN_VIEW = ".jupyter-widgets-error-widget"
SHOWN_ERRORS = """
() => ['error', 'stderr']
  .flatMap(kind => [...document.querySelectorAll(`[data-mime-type$="vnd.jupyter.${kind}"]`)])
  .map(shown => shown.innerText).filter(text => text.includes('Error'))
  .concat([...document.querySelectorAll('VIEW')].map(() => 'Error: a widget cannot be drawn'))
""".replace("VIEW", BROKEN_VIEW)


def browser(
    find: Callable[[str], str | None] = shutil.which, environ: Mapping[str, str] = os.environ
) -> str:
    """The path of a Chromium; where it or Playwright is missing, skip, or fail if required."""
    found = next(filter(None, map(find, BROWSERS)), None)
    if found and importlib.util.find_spec("playwright"):
        return found
    missing = "Playwright (pip install playwright)" if found else "Chromium"
    message = f"no {missing}; Debian's package of the browser: apt-get install chromium"
    if environ.get("SEGLEAK_BROWSER") == "required":
        pytest.fail(message)
    pytest.skip(message)


# ---- the server and the page ---------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A JupyterLab: where it listens, how to get in, and the folder that it shows."""

    url: str
    token: str
    root: Path


@contextlib.contextmanager
def lab(build: Path, home: Path) -> Iterator[Server]:
    """A JupyterLab that keeps all its files in `home`, none among the user's."""
    browser()  # no server where nobody can look at it
    root, token = home / "notebooks", secrets.token_hex(16)
    root.mkdir()
    for name in ("config", "jupyter", "runtime", "settings", "workspaces", "ipython"):
        (home / name).mkdir(parents=True)
    write_settings(home / "settings")
    variables = {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_TOKEN": token,
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        f"--ServerApp.root_dir={root}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",  # a free one
        "--LabApp.expose_app_in_browser=True",  # the page's `jupyterapp`
        "--LabApp.extension_manager=readonly",  # asks no package index
    ]
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            env={**os.environ, **execution.kernel_environment(build), **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Server(address(server, home / "runtime", log), token, root)
    finally:
        server.terminate()  # it ends its kernels first
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def write_settings(folder: Path) -> None:
    """No questions about news, and every cell in the page, not only those in sight."""
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, values in settings.items():
        path = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))


def address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    """Wait until the server listens; where, is in a file that it writes then."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(json.JSONDecodeError):  # not written to its end yet
                return json.loads(path.read_text())["url"]
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-3000:]}")


@contextlib.contextmanager
def opened(notebook: Path, server: Server) -> Iterator[Page]:
    """A copy of the notebook in JupyterLab, all its cells run; yields the page."""
    executable = browser()
    from playwright.sync_api import sync_playwright

    shutil.copy(notebook, server.root)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable,
            # root cannot use the sandbox, and the page is our own; nothing else is looked up
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"),
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
            ],
        )
        page = chromium.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(SECONDS * 1000)
        try:
            page.goto(f"{server.url}lab/tree/{notebook.name}?reset&token={server.token}")
            run_all(page)
            yield page
        except Exception as error:
            page.screenshot(path=(seen := server.root / f"{notebook.stem}.png"))
            error.add_note(f"the page then: {seen}")
            raise
        finally:
            chromium.close()


def run_all(page: Page) -> None:
    """Run all cells, as the menu does, and wait until the kernel is at rest."""
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.context?.isReady")
    page.evaluate(
        """async () => {
          await jupyterapp.restored;
          const {context, sessionContext} = jupyterapp.shell.currentWidget;
          await context.ready; await sessionContext.ready;
          await sessionContext.session.kernel.info;
        }"""
    )
    page.evaluate(WATCH)
    # not waited for here: a notebook may take longer than one step in the page
    page.evaluate(
        """() => {
          jupyterapp.commands.execute('notebook:run-all-cells').then(
            () => { segleak.ran = true; }, error => { segleak.errors.push(`${error}`); });
        }"""
    )
    page.wait_for_function("() => segleak.ran || segleak.errors.length", timeout=600_000)
    at_rest(page)
    page.wait_for_selector(f"{PICTURE}, {BROKEN_VIEW}, [data-mime-type$='vnd.jupyter.error']")
    complain(page)


def at_rest(page: Page) -> None:
    """Wait until the kernel has finished with everything it was sent."""
    page.wait_for_function("() => segleak.open.size === 0")


def complain(page: Page) -> None:
    """Raise AssertionError for what the kernel or the page showed as an error."""
    errors = page.evaluate("() => segleak.errors") + page.evaluate(SHOWN_ERRORS)
    assert not errors, f"an error in the notebook: {' | '.join(errors)}"


# ---- the sliders ---------------------------------------------------------------------------------


def by_keyboard(page: Page, slider: Locator, forwards: bool) -> None:
    """One step."""
    slider.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight" if forwards else "ArrowLeft")


def by_mouse(page: Page, slider: Locator, forwards: bool) -> None:
    """Drag the handle to an end, in steps, as a hand does."""
    handle, track = (slider.locator(f".noUi-{part}") for part in ("handle", "base"))
    at, along = handle.bounding_box(), track.bounding_box()
    y = at["y"] + at["height"] / 2
    page.mouse.move(at["x"] + at["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(along["x"] + (along["width"] - 1 if forwards else 0), y, steps=10)
    page.mouse.up()


def check_slider(page: Page, name: str) -> dict[str, float]:
    """Move a slider by keyboard and by mouse: its label and the picture must change, without error.

    The slider must begin at its end, or at least two stops before it. Returns the seconds from each
    move to the new picture. Raises AssertionError.
    """
    slider = page.locator(f".segleak-control.segleak-{name}")
    slider.scroll_into_view_if_needed()
    label, picture = slider.locator(".widget-readout"), page.locator(PICTURE)
    handle, took = slider.locator(".noUi-handle"), {}
    forwards = handle.get_attribute("aria-valuenow") != handle.get_attribute("aria-valuemax")
    for move in (by_keyboard, by_mouse):
        before = [label.inner_text(), picture.get_attribute("src")]
        page.evaluate("() => { segleak.took = null; }")
        move(page, slider, forwards)
        with contextlib.suppress(page_timeout()):  # the assertions below say what is amiss
            page.wait_for_function("() => segleak.took !== null || segleak.errors.length")
        at_rest(page)
        complain(page)
        after = [label.inner_text(), picture.get_attribute("src")]
        how = f"{name} moved {move.__name__.replace('_', ' ')}"
        assert after[0] != before[0], f"{how}: its label still says {before[0]}"
        assert after[1] != before[1], f"{how}: the picture is the old one"
        assert picture.evaluate("img => img.decode().then(() => img.naturalWidth)") > 1, how
        page.wait_for_function("() => !document.querySelector('.segleak-busy')")
        took[move.__name__] = page.evaluate("() => segleak.took") / 1000
        cut = "label => [label.scrollWidth > label.clientWidth, label.offsetHeight > 40]"
        assert label.evaluate(cut) == [False, False], f"{how}: {after[0]!r} is cut off"
    told = [handle.get_attribute(f"aria-{of}") for of in ("label", "valuetext")]
    assert told == [slider.locator(".widget-label").inner_text(), label.inner_text()], told
    for width in (900, 1366, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        hidden = label.evaluate(
            """label => {
              const right = element => element.getBoundingClientRect().right;
              return right(label) - right(label.closest('.segleak-control').parentElement);
            }"""
        )
        assert hidden <= 0, f"{name}: {hidden:.0f} px of its number are cut off at {width}"
        wide = slider.locator(".noUi-base").bounding_box()["width"]
        assert wide >= 60, f"{name}: a track of {wide:.0f} px at {width}"
    page.set_viewport_size({"width": 1200, "height": 900})
    return took


def page_timeout() -> type[Exception]:
    """Playwright's, imported late: without Playwright the tests are skipped, not broken."""
    from playwright.sync_api import TimeoutError

    return TimeoutError


# ---- the tests -----------------------------------------------------------------------------------


def test_a_missing_browser_is_a_skip_or_where_required_a_failure():
    def nowhere(name):
        return None

    with pytest.raises(pytest.skip.Exception, match="apt-get install chromium"):
        browser(nowhere, {})
    with pytest.raises(pytest.fail.Exception, match="apt-get install chromium"):
        browser(nowhere, {"SEGLEAK_BROWSER": "required"})


def test_a_missing_playwright_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="pip install playwright"):
        browser(lambda name: f"/usr/bin/{name}", {})


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("lab")
    with lab(home / "build", home) as started:
        yield started


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_good_sliders_move_by_keyboard_and_mouse(server):
    with opened(FIXTURES / "good_slider.ipynb", server) as page:
        picture = page.locator(PICTURE)
        below = """img => img.closest('.widget-box').getBoundingClientRect().top
          - img.getBoundingClientRect().top"""
        place = picture.evaluate(below)
        for name in ("slope", "length"):
            print(name, check_slider(page, name))
        assert page.locator(".segleak-questions b").inner_text() == "12"
        assert picture.evaluate(below) == place, "an answer has moved the picture"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", FIRST_SLIDERS)
def test_the_first_sliders_move_by_keyboard_and_mouse(name, server, tmp_path):
    """Their notebooks' own cells, over a made-up experiment."""
    nbformat.write(toy_pages.slider_of(name), path := tmp_path / f"{name}.ipynb")
    with opened(path, server) as page:
        for control in FIRST_SLIDERS[name]:
            print(control, check_slider(page, control))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_broken_slider_is_reported(server):
    with (
        opened(FIXTURES / "broken_slider.ipynb", server) as page,
        pytest.raises(AssertionError, match="ValueError: no line is that steep"),
    ):
        check_slider(page, "slope")


@pytest.mark.slow
def test_the_sliders_of_noise_and_of_risk_move_by_keyboard_and_mouse(build, tmp_path, capsys):
    (tmp_path / "data").symlink_to(execution.ROOT / "data")  # the scenes that are there
    with lab(build, tmp_path) as server:
        for notebook, names in ((DEFENSES, ["std"]), (RISK, ["networks", "a"])):
            path = tmp_path / notebook.name
            nbformat.write(sweep.alone(nbformat.read(notebook, as_version=4)), path)
            with opened(path, server) as page:
                took = {name: check_slider(page, name) for name in names}
            with capsys.disabled():
                print(f"\n{notebook.stem}, seconds from a move to the new picture: {took}")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_sliders_of_promises_move_by_keyboard_and_mouse(server, tmp_path):
    path = tmp_path / PROMISES.name
    nbformat.write(sweep.alone(nbformat.read(PROMISES, as_version=4)), path)
    if not (data := server.root.parent / "data").exists():
        data.symlink_to(execution.ROOT / "data")  # the scenes that are there
    with opened(path, server) as page:
        for name in ("noise", "canaries"):
            print(name, check_slider(page, name))
