"""The notebooks: as files, and executed with the shipped weights."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import pytest
import sweep

from segleak_utils.attacks import contests, patchnets, references
from segleak_utils.running import execution, results
from segleak_utils.studies import beyond

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob(execution.PATTERN))
PATHS = NOTEBOOKS or [
    pytest.param(None, marks=pytest.mark.skip(reason="no notebooks/NN_*.ipynb yet"))
]
# notebooks with sliders, and how many
SLIDERS = {"04_defenses": 4, "07_who_is_at_risk": 2, "08_what_dp_promises": 3}
ALONE = {"08_what_dp_promises"}  # their sliders need the set-up and nothing else
# A measured number in the prose goes stale with the next weights: it belongs into an output.
TYPED_RESULT = re.compile(r"\b(AUC|mIoU|TPR)\b[^.\n]{0,40}\b0?\.\d{2,}")


def cells(path: Path, kind: str) -> list[str]:
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


# ---- as files (parameters, outputs and lengths of cells: tests/running/test_parameters.py) -------


@pytest.mark.parametrize("path", PATHS, ids=lambda p: getattr(p, "stem", "-"))
def test_a_notebook_opens_with_a_title_and_closes_with_references(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert last.cell_type == "markdown" and re.search(r"(?im)^#+ .*references", last.source)
    titles = [line for text in cells(path, "markdown") for line in re.findall("^# .*", text, re.M)]
    assert len(titles) == 1
    assert all(text.strip() for text in cells(path, "markdown") + cells(path, "code"))


@pytest.mark.parametrize("path", PATHS, ids=lambda p: getattr(p, "stem", "-"))
def test_no_result_is_typed_into_the_prose(path):
    for text in cells(path, "markdown"):
        assert not TYPED_RESULT.search(text), TYPED_RESULT.search(text)[0]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: getattr(p, "stem", "-"))
def test_the_parameters_are_checked_right_after_their_cell(path):
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    tagged = [k for k, c in enumerate(code) if "parameters" in c.metadata.get("tags", [])]
    assert f'parameters.check(\n    "{path.stem}"' in (after := code[tagged[0] + 1].source) or (
        f'parameters.check("{path.stem}"' in after
    )


@pytest.mark.parametrize("path", PATHS, ids=lambda p: getattr(p, "stem", "-"))
def test_formulas_have_no_doubled_backslash(path):
    """In a Markdown cell ``$\\\\ell$`` renders as plain letters."""
    for text in cells(path, "markdown"):
        assert not re.search(r"\$[^$\n]*\\\\[a-zA-Z]", text), text


def bound_names(tree: ast.AST) -> list[str]:
    """Names that a cell binds for the cells after it: not those inside functions."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif not isinstance(node, ast.Lambda | ast.ListComp | ast.DictComp | ast.SetComp):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.append(node.id)
            found += bound_names(node)
    return found


@pytest.mark.parametrize("path", PATHS, ids=lambda p: getattr(p, "stem", "-"))
def test_what_an_exercise_uses_means_one_thing_throughout(path):
    """At the end of the notebook a name has its last value, not the one that was explained."""
    bound: dict[str, set[int]] = {}
    for k, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code":
            for name in bound_names(ast.parse(cell.source)):
                bound.setdefault(name, set()).add(k)
    for text in cells(path, "markdown"):
        for solution in re.findall(r"<details>.*?```python\n(.*?)```", text, re.DOTALL):
            tree = ast.parse(solution)
            read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
            twice = {
                n: bound[n] for n in read - set(bound_names(tree)) if len(bound.get(n, ())) > 1
            }
            assert not twice, f"bound in several cells: {twice}\n{solution}"


def test_the_typed_result_is_recognised():
    assert TYPED_RESULT.search("an AUC of 0.64") and TYPED_RESULT.search("mIoU: 0.512")
    assert not TYPED_RESULT.search("the AUC is in the table. At .05") and not TYPED_RESULT.search(
        "AUC .5"
    )


# ---- executed ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_notebooks_run_and_hide_no_errors(build):
    for path in NOTEBOOKS:
        executed = nbformat.read(build / "notebooks" / path.name, as_version=4)
        assert execution.hidden_errors(executed) == []
        assert (build / "html" / f"{path.stem}.html").stat().st_size > 10_000
    assert not list((build / "notebooks").glob("*.failed.ipynb"))


@pytest.mark.slow
def test_every_figure_is_a_picture(build):
    found = sorted((build / "figures").glob("*.png"))
    assert {path.name[:2] for path in found} == {path.name[:2] for path in NOTEBOOKS}
    for path in found:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) > 1000, path.name


@pytest.mark.slow
def test_the_table_has_every_attack_on_two_victims(build):
    table = results.read(build)
    learned = {contests.patch_attack(r) for r in patchnets.REPRESENTATIONS}
    wanted = {contests.BLIND, contests.GLOBAL, contests.LOGISTIC} | learned
    for victim in ("victim-0", "victim-1"):
        rows = [row for row in table if row.victim == victim]
        assert wanted <= {row.attack for row in rows}, victim
        for row in rows:
            assert row.n_nonmembers >= 2000 and row.tpr_at_1pct is not None
            if row.attack == contests.BLIND:
                assert row.auc_low <= 0.5 <= row.auc_high, row
            elif row.attack in learned:
                assert row.auc_low > 0.5, row


@pytest.mark.slow
def test_the_shipped_contest_is_what_the_notebook_finds_again(build):
    """The table that took hours, and what 06 has just computed of it."""
    shipped = {
        line.attack: line
        for line in beyond.read()
        if (line.victim, line.setting) == ("victim-0", "dependent") and line.networks in (0, 2)
    }
    found = [row for row in results.read(build) if row.notebook == "06_beyond_the_paper"]
    assert {references.CALIBRATED, references.RMIA} <= {row.attack for row in found}
    for row in found:
        line = shipped[row.attack]
        assert row.auc == pytest.approx(line.auc, abs=0.005), row.attack  # other hardware, bf16
        assert row.tpr_at_1pct == pytest.approx(line.tpr_1, abs=0.04), row.attack


@pytest.mark.slow
@pytest.mark.parametrize("name", SLIDERS)
def test_every_slider_can_be_moved_to_every_stop(name, build, tmp_path):
    (tmp_path / "data").symlink_to(ROOT / "data")  # as the notebook's folder sees it
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(FOLDER / path.name, as_version=4)
    nbformat.write(sweep.swept(sweep.alone(notebook) if name in ALONE else notebook), path)
    out = tmp_path / "out"
    # the caches of the first run, another place for what is written
    with execution._environ(execution.kernel_environment(build)):
        execution.run_notebook(path, out, {}, cell_timeout=600)
    executed = nbformat.read(out / "notebooks" / path.name, as_version=4)
    assert execution.hidden_errors(executed) == [] and sweep.moved(executed) >= SLIDERS[name]


@pytest.mark.slow
def test_a_stop_that_breaks_the_slider_of_promises_is_found(tmp_path):
    """Nothing is shown of it at first: only who moves the control there sees it."""
    notebook = sweep.alone(nbformat.read(FOLDER / "08_what_dp_promises.ipynb", as_version=4))
    broken = next(c for c in notebook.cells if "def simulated(" in c.source)
    first, rest = broken.source.split("\n", 1)
    doc, rest = rest.split("\n", 1)
    broken.source = f"{first}\n{doc}\n    assert canaries < COUNTS[-1], 'no stop'\n{rest}"
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "08_what_dp_promises.ipynb"
    nbformat.write(sweep.swept(notebook), path)
    with pytest.raises(execution.NotebookError, match="no stop"):
        execution.run_notebook(path, tmp_path / "out", {}, cell_timeout=600)


def test_a_notebook_with_sliders_is_swept():
    live = {path.stem for path in NOTEBOOKS if "ipywidgets" in "".join(cells(path, "code"))}
    assert live == set(SLIDERS)
