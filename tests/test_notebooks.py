"""The notebooks: as files, and executed with the shipped weights."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import continued
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
SLIDERS = {  # notebooks with sliders, and how many
    "00_start_here": 1,
    "01_victim_inference": 1,
    "02_structured_loss_map": 3,
    "03_attack_training": 2,
    "04_defenses": 4,
    "05_roc_analysis": 3,
    "06_beyond_the_paper": 2,
    "07_who_is_at_risk": 2,
    "08_what_dp_promises": 3,
}
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


COMPREHENSIONS = ast.Lambda | ast.ListComp | ast.DictComp | ast.SetComp | ast.GeneratorExp
# what changes the object that a name stands for
CHANGING = {"append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "update"}
CHANGING |= {"add", "discard", "setdefault", "popitem"}
DRAWN = {"Generator", "default_rng", "manual_seed", "RandomState"}  # its next numbers are others


def bound_names(tree: ast.AST) -> list[str]:
    """Names that a cell binds for the cells after it: not those inside functions."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif not isinstance(node, COMPREHENSIONS):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.append(node.id)
            found += bound_names(node)
    return found


def changed_names(tree: ast.AST) -> set[str]:
    """Names whose object a cell changes: a method of `CHANGING`, or an item that is set."""
    found = set()
    for node in ast.walk(tree):
        held = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            held = node.func.value if node.func.attr in CHANGING else None
        elif isinstance(node, ast.Subscript | ast.Attribute) and not isinstance(node.ctx, ast.Load):
            held = node.value
        if isinstance(held, ast.Name):
            found.add(held.id)
    return found


def not_repeatable(sources: list[str]) -> list[str]:
    """Why cells cannot be run again, one by one or from the middle, and mean the same."""
    trees = [ast.parse(source) for source in sources]
    owners: dict[str, set[int]] = {}
    drawing: set[str] = set()
    for k, tree in enumerate(trees):
        for name in bound_names(tree):
            owners.setdefault(name, set()).add(k)
        for node in tree.body:
            made = node.value.func if isinstance(getattr(node, "value", 0), ast.Call) else None
            if isinstance(node, ast.Assign) and getattr(made, "attr", "") in DRAWN:
                drawing |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    found = [
        f"{name} is bound in cells {sorted(cells)}"
        for name, cells in owners.items()
        if len(cells) > 1 and name != "_"
    ]
    for k, tree in enumerate(trees):
        # names of its functions' own, too
        own = {
            n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        found += [f"cell {k} changes {name}" for name in changed_names(tree) & owners.keys() - own]
        found += [f"cell {k} draws from {name}" for name in read & drawing - own]
        for node in tree.body:  # x = f(x): another x the second time
            if isinstance(node, ast.Assign | ast.AugAssign):
                before = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
                new = set(bound_names(node))
                earlier = {x for of in tree.body[: tree.body.index(node)] for x in bound_names(of)}
                if isinstance(node, ast.AugAssign):
                    before |= new
                found += [f"cell {k} makes {x} of itself" for x in before & new - earlier]
    return found


@pytest.mark.parametrize("path", PATHS, ids=lambda p: getattr(p, "stem", "-"))
def test_every_cell_can_be_run_twice(path):
    """Else an exercise meets another value of a name than the one that was explained."""
    assert not_repeatable(cells(path, "code")) == []


@pytest.mark.parametrize(
    ("sources", "why"),
    [
        (["own = f()", "own = g()"], "own is bound in cells"),
        (["x = [1]", "for x in range(3):\n    print(x)"], "x is bound in cells"),
        (["x = [1]", "x.append(2)"], "cell 1 changes x"),
        (["x = {}", "x['a'] = 2"], "cell 1 changes x"),
        (["x = 1", "x += 1"], "x is bound in cells"),
        (["from m import x\nx = x + 1"], "cell 0 makes x of itself"),
        (["rng = np.random.default_rng(0)", "y = rng.normal()"], "cell 1 draws from rng"),
    ],
)
def test_a_cell_that_cannot_be_run_twice_is_found(sources, why):
    assert any(why in reason for reason in not_repeatable(sources))
    fine = ["x = []\nfor k in range(3):\n    x.append(k)\nx += [4]", "y = [k for k in x]\n_ = 1"]
    assert not_repeatable([*fine, "def f():\n    x = 1\n    return x\n_ = f()"]) == []


@pytest.mark.parametrize("path", PATHS, ids=lambda p: getattr(p, "stem", "-"))
def test_what_is_folded_stands_apart_from_a_list(path):
    """Directly beneath one, a page's Markdown folds the summary alone: the hint is open."""
    for text in cells(path, "markdown"):
        assert not re.search(r"^(?:[-*] |\d+\. | +)\S.*\n<details>", text, re.MULTILINE), text


MINUTES = {
    "quarter of an hour": 15, "twenty minutes": 20, "twenty-five minutes": 25, "half an hour": 30,
}  # fmt: skip


def minutes_to_read(notebook: nbformat.NotebookNode) -> float:
    """220 words a minute, two seconds for a line of code that is not folded, 20 for a figure."""
    words = lines = pictures = 0
    for cell in notebook.cells:
        text = re.sub("<details>.*?</details>", "", cell.source, flags=re.DOTALL)
        if cell.cell_type == "markdown":
            words += len(text.partition("## References")[0].split())
            continue
        pictures += text.count("figures.render")
        texts = [n.value for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            words += sum(len(of.split()) for of in texts if isinstance(of, str))
        else:
            lines += sum(bool(line.strip()) for line in text.splitlines())
    return words / 220 + lines / 30 + pictures / 3


@pytest.mark.parametrize("path", PATHS, ids=lambda p: getattr(p, "stem", "-"))
def test_a_notebook_is_read_in_the_time_that_it_promises_and_in_half_an_hour(path):
    notebook = nbformat.read(path, as_version=4)
    (how_long,) = re.findall(r"\*\*How long\.\*\*([^.]*)", notebook.cells[0].source)
    told = [minutes for words, minutes in MINUTES.items() if words in how_long.lower()]
    assert len(told) == 1, f"{how_long}: expected one of {', '.join(MINUTES)}"
    assert minutes_to_read(notebook) <= told[0] <= 30


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
@pytest.mark.parametrize("name", SLIDERS)
def test_no_question_is_answered_before_a_slider_moves(name, build):
    executed = nbformat.read(build / "notebooks" / f"{name}.ipynb", as_version=4)
    models = executed.metadata.widgets[execution.WIDGET_STATE]["state"].values()
    boxes = [
        model["state"]["value"]
        for model in models
        if "segleak-questions" in model["state"].get("_dom_classes", [])
    ]
    assert boxes and all("<li>" in text and "<b>" not in text for text in boxes), boxes


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
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_control_reaches_every_stop_and_every_solution_runs(path, build):
    tried = build / "continued" / path.name
    if not tried.is_file():
        pytest.skip(f"{build} was not made by the tests: nothing was tried in its kernels")
    notebook = nbformat.read(tried, as_version=4)
    assert execution.hidden_errors(notebook) == []
    assert sweep.moved(notebook) >= SLIDERS.get(path.stem, 0)
    folds = sum(text.count("```python\n") for text in cells(path, "markdown"))
    assert len(notebook.cells) == folds + (path.stem in SLIDERS)


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
    nbformat.write(notebook, path)
    with continued.kernels(tmp_path):
        execution.run_notebook(path, tmp_path / "out", {}, cell_timeout=600)
    assert "no stop" in execution.hidden_errors(nbformat.read(tmp_path / path.name, 4))[0]


def test_a_notebook_with_sliders_is_swept():
    live = {path.stem for path in NOTEBOOKS if "ipywidgets" in "".join(cells(path, "code"))}
    assert live == set(SLIDERS)
