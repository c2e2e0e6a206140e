"""The learner's copies: never written over where edited, always where a newer one is due."""

from __future__ import annotations

import os
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from segleak_utils.running.copies import copy_notebooks, without_news


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "notebooks", "1")
    return tmp_path / "notebooks"


def write(folder, source):
    folder.mkdir(exist_ok=True)
    told = new_code_cell('data_root = "../data"\nseed = 0', metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[told, new_code_cell(source)]), folder / "00_a.ipynb")


def change(path, source=None):
    """Edit the second cell, or only run it."""
    made = nbformat.read(path, as_version=4)
    made.cells[1].source = made.cells[1].source if source is None else source
    made.cells[1].outputs = [new_output("stream", text="ran")]
    made.cells[1].execution_count = 1
    nbformat.write(made, path)


def source(path):
    return nbformat.read(path, as_version=4).cells[1].source


def test_a_copy_leads_to_the_same_data_and_the_original_is_left_alone(folder, tmp_path):
    before = (folder / "00_a.ipynb").read_bytes()
    assert copy_notebooks(folder, tmp_path / "build" / "lab") == []
    cell = nbformat.read(tmp_path / "build" / "lab" / "00_a.ipynb", as_version=4).cells[0]
    assert cell.source == 'data_root = "../../data"\nseed = 0'
    assert (folder / "00_a.ipynb").read_bytes() == before


def test_a_copy_that_was_only_run_stays_until_there_is_a_newer_one(folder, tmp_path):
    copy_notebooks(folder, tmp_path / "lab")
    path = tmp_path / "lab" / "00_a.ipynb"
    change(path)
    run = path.read_bytes()
    copy_notebooks(folder, tmp_path / "lab")
    assert path.read_bytes() == run
    write(folder, "2")
    assert copy_notebooks(folder, tmp_path / "lab") == [] and source(path) == "2"


def test_an_edited_copy_is_never_written_over_and_a_reset_keeps_it(folder, tmp_path):
    copy_notebooks(folder, tmp_path / "lab")
    path = tmp_path / "lab" / "00_a.ipynb"
    change(path, "mine")
    assert copy_notebooks(folder, tmp_path / "lab") == []
    write(folder, "2")
    (said,) = copy_notebooks(folder, tmp_path / "lab")
    assert "is yours, of an older version; `lab --reset`" in said and source(path) == "mine"
    for k in ("", "-2"):
        (said,) = copy_notebooks(folder, tmp_path / "lab", reset=True)
        assert said == f"00_a.ipynb is new again; yours is 00_a.mine{k}.ipynb"
        assert source(path) == "2" and source(path.with_name(f"00_a.mine{k}.ipynb")) == "mine"
        change(path, "mine")
    path.write_text("{")
    copy_notebooks(folder, tmp_path / "lab")
    assert path.read_text() == "{"


def test_no_notebooks_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no notebook in"):
        copy_notebooks(tmp_path, tmp_path / "lab")


def test_jupyterlab_does_not_ask_for_news(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path / "theirs"))
    variables = without_news(tmp_path / "config")
    assert variables["JUPYTER_CONFIG_PATH"].split(os.pathsep)[1] == str(tmp_path / "theirs")
    script = (
        "from jupyterlab_server.config import get_page_config; "
        "from jupyter_core.paths import jupyter_config_path; "
        "print(get_page_config(jupyter_config_path())['disabledExtensions'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | variables, capture_output=True, text=True
    )
    assert "@jupyterlab/apputils-extension:announcements" in ran.stdout, ran.stderr
