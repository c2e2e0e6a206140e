"""The learner's own copies of the notebooks, which JupyterLab may save into as it likes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from segleak_utils.whole import write_whole

DATA = 'data_root = "../data"'


def copy_notebooks(folder: Path, into: Path, *, reset: bool = False) -> list[str]:
    """Copy the notebooks of a folder into another one; what there is to say of it, in sentences.

    A copy that was edited is left alone; one that was only run makes way for a newer notebook. With
    `reset` all are written anew, and the edited ones kept as ``NAME.mine.ipynb``. `data_root` leads
    where it led. FileNotFoundError where there is no notebook.
    """
    sources = sorted(folder.glob("*.ipynb"))
    if not sources:
        raise FileNotFoundError(f"no notebook in {folder}")
    said = []
    for source in sources:
        notebook, path = nbformat.read(source, as_version=4), into / source.name
        digest = _digest(notebook)
        copied, edited = _state(path)
        if edited and reset:
            kept = _free(path)
            os.replace(path, kept)
            said.append(f"{path.name} is new again; yours is {kept.name}")
        elif edited and copied != digest:
            said.append(
                f"{path.name} is yours, of an older version; `lab --reset` starts it anew and "
                "keeps yours beside it"
            )
            continue
        elif copied == digest and not reset:
            continue
        here = os.path.relpath(folder.parent / "data", into).replace(os.sep, "/")
        for cell in notebook.cells:
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = cell.source.replace(DATA, f'data_root = "{here}"')
        notebook.metadata["segleak"] = {
            **notebook.metadata.get("segleak", {}), "copied": digest, "written": _digest(notebook),
        }  # fmt: skip
        write_whole(path, nbformat.writes(notebook))
    return said


def _digest(notebook: NotebookNode) -> str:
    """Of what is written in the cells: to run a notebook is not to edit it."""
    content = "\0".join(f"{cell.cell_type} {cell.source}" for cell in notebook.cells)
    return hashlib.sha256(content.encode()).hexdigest()


def _state(path: Path) -> tuple[str | None, bool]:
    """The digest of what a copy was made of, and whether it was edited since."""
    if not path.exists():
        return None, False
    try:
        notebook = nbformat.read(path, as_version=4)
        told = notebook.metadata["segleak"]
        return told["copied"], told["written"] != _digest(notebook)
    except (ValueError, KeyError, AttributeError, nbformat.ValidationError):
        return None, True  # whatever it is, it is not ours to write over


def _free(path: Path) -> Path:
    names = (f"{path.stem}.mine{'' if k == 1 else f'-{k}'}.ipynb" for k in range(1, 1000))
    return next(kept for name in names if not (kept := path.with_name(name)).exists())


def without_news(folder: Path) -> dict[str, str]:
    """Variables under which JupyterLab does not ask, over the first cell, whether to fetch news.

    Writes a folder of configuration, which Jupyter reads beside the user's own.
    """
    off = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    write_whole(folder / "labconfig" / "page_config.json", json.dumps(off))
    known = [str(folder.resolve()), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    return {"JUPYTER_CONFIG_PATH": os.pathsep.join(path for path in known if path)}
