"""The lists that must agree: pyproject, environment.yml, constraints, README, .ci/run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import threadpoolctl
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from segleak_utils.run import environment

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PARTS = {"core": PYPROJECT["project"]["dependencies"]} | {
    extra: wanted
    for extra, wanted in PYPROJECT["project"]["optional-dependencies"].items()
    if extra not in ("all", "compare")
}
PARTS = {part: [Requirement(text) for text in wanted] for part, wanted in PARTS.items()}
DEPENDENCIES = [requirement for wanted in PARTS.values() for requirement in wanted]


def pins():
    """The lines of constraints.txt that count on this interpreter, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    wanted = [pin for pin in wanted if pin.marker is None or pin.marker.evaluate()]
    names = [canonicalize_name(pin.name) for pin in wanted]
    assert len(names) == len(set(names)), "a name is pinned twice"
    return dict(zip(names, wanted, strict=True))


@pytest.mark.parametrize("dependency", DEPENDENCIES, ids=lambda d: d.name)
def test_dependency_is_bounded_and_pinned_within_its_bounds(dependency):
    operators = {part.operator for part in dependency.specifier}
    assert operators == {">=", "<"}
    pin = pins()[canonicalize_name(dependency.name)]
    (version,) = pin.specifier
    assert version.operator == "=="
    assert dependency.specifier.contains(version.version)


def test_what_the_readme_installs_is_the_core_and_every_extra_but_compare():
    extras = {Requirement(text) for text in PYPROJECT["project"]["optional-dependencies"]["all"]}
    ((name, wanted),) = {(r.name, tuple(sorted(r.extras))) for r in extras}
    assert (name, set(wanted) | {"core"}) == ("segleak", PARTS.keys())
    assert [Requirement(text) for text in environment.requirements()] == DEPENDENCIES


def test_environment_yml_installs_the_same():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [part["pip"] for part in listed["dependencies"] if isinstance(part, dict)]
    assert pip == ["-c constraints.txt", f"-e .[{environment.EXTRA}]"]
    assert f"python{PYPROJECT['project']['requires-python']}" in listed["dependencies"]


def test_constraints_hold_names_and_public_versions_only():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line.startswith("#"):
            assert re.fullmatch(
                r"[a-z0-9-]+==[0-9.]+((post|b)[0-9]+)?( ; python_full_version [<>=]+ \"[\d.]+\")?",
                line,
            )
    assert not re.search(r"^(nvidia|cuda|triton)", text, re.MULTILINE)


def test_torch_and_torchvision_are_released_for_each_other():
    from importlib import metadata

    needed = {
        Requirement(text).name: Requirement(text) for text in metadata.requires("torchvision")
    }
    assert needed["torch"].specifier.contains(Version(metadata.version("torch")).public)


# What each room may import, beside the core: an extra that is not installed is missed there alone.
EXTRAS = {
    "data": {"train"},
    "victims": {"train", "dp", "cluster"},
    "attacks": {"train"},
    "audit": {"train", "notebooks", "audit", "cluster"},
    "figures": {"notebooks"},
    "running": {"notebooks", "site"},
    "studies": {"train", "dp", "cluster"},
    "run": {"test"},
}


def test_a_room_imports_no_more_than_its_extras_bring():
    """A package that is merely dragged in may vanish."""
    modules = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}
    modules |= {"segmentation_models_pytorch": "segmentation-models-pytorch", "zmq": "pyzmq"}
    for path in (ROOT / "segleak_utils").rglob("*.py"):
        room = path.relative_to(ROOT / "segleak_utils").parts[0].removesuffix(".py")
        parts = {"core"} | EXTRAS.get(room, set())
        listed = {canonicalize_name(r.name) for part in parts for r in PARTS[part]}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for top in {name.split(".")[0] for name in names}:
                if top not in sys.stdlib_module_names and top != "segleak_utils":
                    assert canonicalize_name(modules.get(top, top)) in listed, f"{path}: {top}"


def block(heading):
    """The one fenced block of a README section."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", readme, re.DOTALL | re.MULTILINE)
    (found,) = re.findall(r"^```\w*\n(.*?)^```$", section[1], re.DOTALL | re.MULTILINE)
    return found.strip()


def test_readme_blocks_are_one_line_and_ci_runs_the_test_line():
    assert block("Run it") == "python3 -m segleak_utils.run"
    assert block("Open it") == "python3 -m segleak_utils.run lab"
    assert block("Read it as a site") == "python3 -m segleak_utils.run site"
    line = block("Test it")
    assert "\n" not in line
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [part for part in script if "segleak_utils" in part] == [line]
    assert "set -euo pipefail" in script


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
def test_ci_script_is_executable_and_parses():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)


def test_readme_names_the_notebooks_that_have_parameters():
    from segleak_utils.running.parameters import MODELS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\d\d_\w+)` \|", readme, re.MULTILINE) == list(MODELS)


def test_no_test_process_has_more_threads_for_algebra_than_its_share():
    share = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert share < max(2, os.cpu_count()), "conftest.py gives each process its share"
    assert all(pool["num_threads"] <= share for pool in threadpoolctl.threadpool_info())
