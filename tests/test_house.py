"""The house: floors and arrows, the public surface, and the core on its own."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import segleak_utils

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "segleak_utils"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = ("data", "victims", "representations", "attacks", "defenses", "metrics")
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


# ---- floors and arrows ---------------------------------------------------------------------------


def lint(root: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", LINT, "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)


def test_all_arrows_point_downwards():
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("file", "arrow", "broken"),
    [
        (
            "attacks/references.py",
            "from segleak_utils.studies import plan",
            "Arrows point downwards",
        ),
        ("data/scenes.py", "from segleak_utils.synthstreets import draw", "The core knows no city"),
        ("metrics/intervals.py", "from segleak_utils.running import results", "The core knows"),
        ("figures/curves.py", "from segleak_utils.studies import frontier", "Figures draw"),
        ("studies/growth.py", "from segleak_utils import run", "Arrows point downwards"),
        ("data/splits.py", "from segleak_utils import metrics", "Scenes know no network"),
        ("audit/asking.py", "from segleak_utils.studies import plan", "An audit knows no data set"),
    ],
)
def test_an_arrow_drawn_the_wrong_way_is_found(tmp_path, file, arrow, broken):
    shutil.copytree(PACKAGE, tmp_path / "segleak_utils")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "segleak_utils" / file
    path.write_text(path.read_text(encoding="utf-8") + f"\n{arrow}  # noqa\n", encoding="utf-8")
    found = lint(tmp_path)
    assert found.returncode == 1 and re.search(rf"{broken}.* BROKEN", found.stdout), found.stdout


def test_a_room_is_a_folder_with_a_word_about_it_or_a_file():
    rooms = [p for p in PACKAGE.iterdir() if p.name not in ("__init__.py", "__pycache__")]
    for room in rooms:
        source = room / "__init__.py" if room.is_dir() else room
        assert importlib.util.find_spec(f"segleak_utils.{room.stem}"), room
        assert source.read_text(encoding="utf-8").startswith('"""'), f"{source}: what is it for?"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `segleak_utils/(\w+)(?:/|\.py)`", readme, re.MULTILINE)
    assert sorted(listed) == sorted(room.stem for room in rooms)


def test_tests_lie_in_the_rooms_they_test():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= rooms


# ---- the public surface --------------------------------------------------------------------------


def public_of(room: str) -> list[tuple[str, object]]:
    """The public functions of a room, with the names under which it hands them on."""
    module = importlib.import_module(f"segleak_utils.{room}")
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    found = []
    for name in names:
        thing = getattr(module, name)
        parts = vars(thing).items() if inspect.ismodule(thing) else [(name, thing)]
        for part, value in parts:
            own = (getattr(value, "__module__", None) or "").startswith(f"segleak_utils.{room}")
            if inspect.isfunction(value) and own and not part.startswith("_"):
                found.append((part, value))
    return found


@pytest.mark.parametrize("room", [*CORE, "synthstreets", "running", "studies", "figures", "audit"])
def test_a_room_hands_on_what_it_says(room):
    module = importlib.import_module(f"segleak_utils.{room}")
    names = getattr(module, "__all__", [])
    assert all(hasattr(module, name) for name in names) and len(set(names)) == len(names)
    for name, function in public_of(room):
        assert function.__doc__, f"{room}: {name} has no docstring"


def test_a_dozen_names_are_enough_to_begin_with():
    names = segleak_utils.__all__
    assert 12 <= len(names) <= 16 and set(names) <= set(dir(segleak_utils))
    for name in names:
        assert getattr(segleak_utils, name).__name__ == name
    assert not hasattr(segleak_utils, "outputs")


@pytest.mark.parametrize("room", CORE)
def test_every_public_function_of_the_core_has_an_example(room):
    """A doctest that can be checked by hand, or a test of its room that calls it by its name."""
    folder = ROOT / "tests" / room
    files = [*folder.glob("*.py"), *(ROOT / "tests").glob(f"test_{room}.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    without = [
        name
        for name, function in public_of(room)
        if ">>>" not in function.__doc__ and not re.search(rf"\b{name}\b[(,\]]", text)
    ]
    assert without == []


# ---- what is imported, and what is installed -----------------------------------------------------

HEAVY = ("torchvision", "segmentation_models_pytorch", "timm", "opacus", "IPython", "matplotlib")


@pytest.mark.parametrize("room", ["metrics", "representations"])
def test_statistics_and_loss_maps_start_without_networks_and_notebooks(room):
    code = f"""
import sys
from segleak_utils import {room}
[getattr({room}, name) for name in dir({room})]
print([name for name in {HEAVY} if name in sys.modules])
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def closure(wanted: list[str]) -> set[str]:
    """Names of these requirements' distributions and of all that they require themselves."""
    found: set[str] = set()
    todo = [(Requirement(text), "") for text in wanted]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for of in ("", *requirement.extras):
            if f"{name}[{of}]" not in found:
                found.add(f"{name}[{of}]")
                todo += [(Requirement(t), of) for t in metadata.requires(name) or []]
    return {name.partition("[")[0] for name in found}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows needs a privilege for links")
def test_the_core_alone_runs_the_example(tmp_path):
    """A fresh environment with the distributions of the core and nothing else, linked, not copied.

    (.github/workflows/ci.yml installs them by pip.)
    """
    venv.EnvBuilder(with_pip=False).create(tmp_path / "env")
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    names = closure(PROJECT["dependencies"])
    assert not {"torchvision", "timm", "opacus", "matplotlib", "pandas", "ipython"} & names
    for name in names:
        for file in metadata.files(name) or []:
            top = file.parts[0]
            if top != ".." and not (site / top).exists():
                (site / top).symlink_to(Path(file.locate()).parents[len(file.parts) - 1] / top)
            elif top in ("nvidia", "cuda") and (site / top).is_symlink():
                continue
    code = """
import doctest, sys, segleak_utils
from segleak_utils import attacks, data, defenses, metrics, representations
[getattr(room, n) for room in (attacks, metrics) for n in room.__all__]
found = doctest.testmod(segleak_utils)
print(found.attempted, found.failed)
"""
    python = tmp_path / "env" / "bin" / "python"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    attempted, failed = map(int, done.stdout.split()) if done.stdout else (0, -1)
    assert (attempted >= 8, failed) == (True, 0), done.stdout + done.stderr
    missing = subprocess.run(
        [python, "-c", "import torchvision"], capture_output=True, text=True, env=environment
    )
    assert "No module named 'torchvision'" in missing.stderr
