"""The project's habits: CONTRIBUTING's first change is made, the files for others are valid."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", CONTRIBUTING, re.DOTALL | re.MULTILINE)


def apply(diff: str, root: Path) -> Path:
    """Make a change as a reader would: find the lines that are there, put the new ones in."""
    path = root / re.search(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)[1]
    text = path.read_text(encoding="utf-8")
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(old) == 1, f"{path.name}: found {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """A checkout in which the steps of "add a release" have been done."""
    if '"mixing"' in (ROOT / "segleak_utils" / "defenses.py").read_text(encoding="utf-8"):
        pytest.skip("this checkout has the release of the example already")
    root = tmp_path_factory.mktemp("checkout")
    for name in ("segleak_utils", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    files = [apply(diff, root) for diff in blocks("diff")]
    assert len(files) == len(set(files)) == 2  # two files are opened
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_first_change_is_tested_as_contributing_says(changed):
    """Its test line finds the new release by itself, and the example in its docstring."""
    (line,) = re.findall(
        r"^python3 -m segleak_utils\.run test (segleak_utils/.*)$", CONTRIBUTING, re.M
    )
    files, _, words = line.partition(" -k ")
    found = run(changed, "-m", "pytest", "-v", *files.split(), "-k", words.strip('"'))
    assert found.returncode == 0, found.stdout + found.stderr
    assert "segleak_utils.defenses.mixing PASSED" in found.stdout
    assert "test_what_a_service_releases_is_a_distribution[mixed by half] PASSED" in found.stdout


@pytest.mark.slow
def test_the_first_change_is_formatted_and_keeps_the_arrows(changed):
    for check in (["check"], ["format", "--check"]):
        found = run(changed, "-m", "ruff", *check, "segleak_utils")
        assert found.returncode == 0, found.stdout
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    assert run(changed, "-c", lint, "--no-cache").returncode == 0


@pytest.mark.slow
def test_the_first_change_can_be_seen_by_the_command_that_contributing_names(changed):
    (name,) = re.findall(
        r'^python3 -m segleak_utils\.run defenses --only "(.+)"$', CONTRIBUTING, re.M
    )
    code = f"""
from segleak_utils.studies import offers
first, second = offers.named([{name!r}])
print(first.name, second.release.kind, second in offers.RELEASES, second.family)
"""
    found = run(changed, "-c", code)
    assert found.stdout.strip() == "no defence mixing True cheap releases", found.stderr


@pytest.mark.slow
def test_a_release_that_breaks_the_law_is_found(changed, tmp_path):
    """What a newcomer may get wrong: the mixture does not sum to one."""
    root = tmp_path / "checkout"
    shutil.copytree(changed, root)
    path = root / "segleak_utils" / "defenses.py"
    text = path.read_text(encoding="utf-8")
    assert text.count("return (1 - share) * posterior +") == 1
    path.write_text(text.replace("(1 - share) * posterior +", "posterior +"), encoding="utf-8")
    found = run(root, "-m", "pytest", "-q", "tests/studies/test_frontier.py", "-k", "mixed")
    assert found.returncode == 1 and "does not sum to one" in found.stdout, found.stdout


# ---- the files for others ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_a_file_keeps_its_schema(schema, file):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, ROOT / file]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_workflow_runs_what_the_readme_says_on_three_systems():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    test, core = workflow["jobs"]["test"], workflow["jobs"]["core"]
    matrix = test["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    oldest = re.match(r">=([\d.]+)", PYPROJECT["project"]["requires-python"])[1]
    newest = re.search(r"<3\.(\d+)", PYPROJECT["project"]["requires-python"])[1]
    assert matrix["python"] == [oldest, f"3.{int(newest) - 1}"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^```\npython3 (-m segleak_utils\.run(?: test)?)\n```$", readme, re.M)
    steps = [step["run"] for step in test["steps"] if "run" in step]
    assert len(lines) == 2 and set(steps) == {f"python {line}" for line in lines}
    (artefact,) = [s["with"] for s in test["steps"] if "upload-artifact" in s.get("uses", "")]
    assert "build/notebooks" in artefact["path"].split()
    (example,) = [step["run"] for step in core["steps"] if "doctest" in step.get("run", "")]
    code = re.fullmatch(r'python -c "(.*)"', example.strip())[1]
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_before_each_commit_style_and_notebooks_are_checked():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    names = [hook["id"] for repo in hooks["repos"] for hook in repo["hooks"]]
    assert {"ruff-check", "ruff-format", "nbstripout"} <= set(names)
    (rev,) = [repo["rev"] for repo in hooks["repos"] if "ruff" in repo["repo"]]
    assert f"ruff=={rev.removeprefix('v')}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_version_and_dates_agree():
    version = PYPROJECT["project"]["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == version and cited["license"] == PYPROJECT["project"]["license"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changes, re.MULTILINE)
    assert heads[0] == ("Unreleased", "") and (version, cited["date-released"]) in heads
    kinds = set(re.findall(r"^### (\w+)$", changes, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    json.dumps(cited)  # dates as text: a date without quotes is none of CFF's strings
