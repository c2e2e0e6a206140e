"""Notebook parameters: what is refused and how, and that the notebooks declare what is checked."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from pydantic import ValidationError

from segleak_utils.running import execution, parameters

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob(execution.PATTERN))
NONE_YET = pytest.param(None, marks=pytest.mark.skip(reason="no notebooks/NN_*.ipynb yet"))


def test_good_values_give_a_frozen_object():
    p = parameters.check("01_victim_inference", preset="full", victim_seed=1, data_root="elsewhere")
    assert (p.preset, p.victim_seed, p.data_root) == ("full", 1, Path("elsewhere").resolve())
    with pytest.raises(ValidationError):
        p.seed = 3


def test_unknown_name_is_named_with_a_suggestion_and_the_known_ones():
    with pytest.raises(ValueError, match="unknown parameter n_image ") as caught:
        parameters.check("01_victim_inference", n_image=100)
    assert "did you mean n_images?" in str(caught.value)
    assert "Known parameters: preset, seed, data_root, victim_seed" in str(caught.value)


@pytest.mark.parametrize(
    ("notebook", "name", "value", "expected"),
    [
        ("00_start_here", "preset", "fast", "'quick' or 'full'"),
        ("00_start_here", "seed", -1, "greater than or equal to 0"),
        ("01_victim_inference", "victim_seed", 2, "less than or equal to 1"),
        ("01_victim_inference", "victim_seed", True, "a valid integer"),
        ("01_victim_inference", "n_images", 19, "greater than or equal to 20"),
        ("02_structured_loss_map", "example", "500", "a valid integer"),
        ("03_attack_training", "patch", 129, "less than or equal to 128"),
        ("03_attack_training", "epochs", 2.5, "a valid integer"),
        ("05_roc_analysis", "setting", "other", "'dependent' or 'independent'"),
    ],
)
def test_bad_value_names_parameter_found_and_expected(notebook, name, value, expected):
    with pytest.raises(ValueError) as caught:
        parameters.check(notebook, **{name: value})
    assert f"{notebook}: parameter {name} is {value!r}, expected {expected}" in str(caught.value)


@pytest.mark.parametrize("name", parameters.PATHS)
@pytest.mark.parametrize("value", ["../../etc", "/etc/../etc", "a/./b", "file", "~"])
def test_a_path_is_resolved_wherever_it_leads(name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    notebook = next(n for n, model in parameters.MODELS.items() if name in model.model_fields)
    found = getattr(parameters.check(notebook, **{name: value}), name)
    assert found == (tmp_path / value).resolve() and found.is_absolute() and ".." not in found.parts


def test_a_path_that_cannot_be_one_is_named(tmp_path):
    assert parameters.check("02_structured_loss_map", examples="").examples is None
    with pytest.raises(ValueError, match="parameter data_root is 3, expected"):
        parameters.check("00_start_here", data_root=3)
    with pytest.raises(ValueError, match=r"parameter data_root is .*null"):
        parameters.check("00_start_here", data_root="a\0b")


def test_the_parameters_that_are_paths_are_all_listed():
    found = {
        name
        for model in parameters.MODELS.values()
        for name, field in model.model_fields.items()
        if "Path" in str(field.annotation)
    }
    assert found == set(parameters.PATHS)


def test_unknown_notebook_is_named():
    with pytest.raises(ValueError, match=r"unknown notebook '03_attack' \(did you mean 03_attack_"):
        parameters.check("03_attack")


def test_every_notebook_has_a_model():
    assert {path.stem for path in NOTEBOOKS} <= set(parameters.MODELS)


@pytest.mark.parametrize("path", NOTEBOOKS or [NONE_YET], ids=lambda p: getattr(p, "stem", "-"))
def test_notebook_declares_its_parameters_and_is_stripped(path):
    cells = nbformat.read(path, as_version=4).cells
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    model = parameters.MODELS[path.stem]
    declared = execution.declared(path)
    assert list(declared) == list(model.model_fields)
    assert parameters.check(path.stem, **declared) == model()
    for index, cell in enumerate(cells):
        if cell.cell_type == "code":
            assert not cell.outputs, f"cell {index} has outputs"
            assert cell.execution_count is None, f"cell {index} has an execution count"
            assert len(cell.source.splitlines()) <= 20, f"cell {index} is too long"


@pytest.mark.parametrize("name", ["a.png", "images/b.JPG"])
def test_a_folder_of_pictures_is_no_place_for_scenes(tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=f"{Path(name).name} is a picture.*command `audit`"):
        parameters.check("00_start_here", data_root=str(tmp_path))
