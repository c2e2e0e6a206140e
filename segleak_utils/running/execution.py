"""Run the notebooks without a screen and keep what they show: notebooks, HTML, figures, table.

A notebook can look fine although something in it failed: an exception inside a widget's callback
does not stop the run. ``hidden_errors`` finds those in the executed notebook.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

import nbformat
import papermill
import psutil
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from segleak_utils.running import engine, pages, parameters, results
from segleak_utils.whole import alone, sweep, write_whole

ROOT = Path(__file__).resolve().parents[2]
PATTERN = "[0-9][0-9]_*.ipynb"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
THREADS = "OMP_NUM_THREADS"
FRAMES = "SEGLEAK_FRAMES"  # set: sliders bring the pictures of their stops (figures.frames)
TRACEBACK = "Traceback (most recent call last)"


class NotebookError(RuntimeError):
    """A notebook that failed, visibly or not; the message names it, the cell and the error."""


class StoppedError(NotebookError):
    """A notebook that was ended because another one failed, or the user wished it."""


def choose(folder: Path, only: Iterable[str] = (), pattern: str = PATTERN) -> list[Path]:
    """Return the notebooks of a folder in order; `only` are beginnings of names, e.g. ``"02"``."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no notebook {pattern} in {folder}")
    for start in only:
        if not any(path.name.startswith(start) for path in found):
            names = ", ".join(path.stem for path in found)
            raise ValueError(f"no notebook begins with {start!r}; there are: {names}")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


def declared(path: Path) -> dict[str, object]:
    """Return the names assigned in the cell tagged ``parameters``, with their default values."""
    notebook = nbformat.read(path, as_version=4)
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) > 1:
        raise ValueError(f"{path.name}: {len(tagged)} cells are tagged 'parameters', expected one")
    values: dict[str, object] = {}
    for line in ast.parse(tagged[0].source).body if tagged else []:
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        try:
            values.update({target.id: ast.literal_eval(line.value) for target in targets})
        except (AttributeError, ValueError) as error:
            raise ValueError(
                f"{path.name}: the parameters cell must hold only lines NAME = LITERAL, "
                f"found: {ast.unparse(line)}"
            ) from error
    return values


def plan(paths: Iterable[Path], overrides: Mapping[str, object]) -> dict[Path, dict[str, object]]:
    """Give each notebook those overrides that it declares, validated, before anything runs.

    Raises ValueError for a name that no notebook declares and for a value out of range.
    """
    defaults = {path: declared(path) for path in paths}
    for name in overrides:
        if not any(name in values for values in defaults.values()):
            known = sorted({known for values in defaults.values() for known in values})
            hint = parameters.suggestion(name, known)
            lines = [f"  {p.stem}: {', '.join(v) or 'none'}" for p, v in defaults.items()]
            raise ValueError("\n".join([f"unknown parameter {name}{hint}; known are", *lines]))
    chosen = {}
    for path, values in defaults.items():
        chosen[path] = {name: value for name, value in overrides.items() if name in values}
        if path.stem in parameters.MODELS:
            parameters.check(path.stem, **{**values, **chosen[path]})
    return chosen


def kernel_environment(build: Path, jobs: int = 1) -> dict[str, str]:
    """Return the variables under which kernel ``python3`` is this interpreter and finds segleak.

    A kernel of that name which the user installed from elsewhere would win otherwise. With several
    `jobs` side by side each has its share of the cores, unless the user has said how many.
    """
    folder = build.resolve() / "jupyter"
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command.append("--log-level=CRITICAL")  # or it complains on the terminal, about TCP and Ctrl-C
    kernel = {"argv": command, "display_name": "Python 3 (segleak)", "language": "python"}
    write_whole(folder / "kernels" / "python3" / "kernel.json", json.dumps(kernel))
    joined = {
        "JUPYTER_PATH": [str(folder), os.environ.get("JUPYTER_PATH", "")],
        "PYTHONPATH": [str(ROOT), os.environ.get("PYTHONPATH", "")],
    }
    variables = {k: os.pathsep.join(part for part in v if part) for k, v in joined.items()}
    # an MPLBACKEND of the user's shell would leave the notebooks without figures
    inline = "module://matplotlib_inline.backend_inline"
    if jobs > 1 and THREADS not in os.environ:
        variables[THREADS] = str(max(1, (os.cpu_count() or 1) // jobs))
    return variables | {"MPLBACKEND": inline, "SEGLEAK_BUILD": str(build.resolve())}


@contextlib.contextmanager
def _environ(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _cells(notebook: nbformat.NotebookNode) -> Iterator[tuple[int, nbformat.NotebookNode]]:
    """Yield the cells with their positions in the source notebook, where papermill's are not."""
    position = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if "papermill-error-cell-tag" in tags:
            continue
        yield position, cell
        position += "injected-parameters" not in tags


def _complaints(outputs: Iterable[Mapping]) -> Iterator[str]:
    for output in outputs:
        if output["output_type"] == "error":
            yield f"{output['ename']}: {output['evalue']}"
        elif output.get("name") == "stderr" and TRACEBACK in (text := "".join(output["text"])):
            yield f"a traceback on stderr, ending in {text.rstrip().splitlines()[-1]}"


def hidden_errors(notebook: nbformat.NotebookNode) -> list[str]:
    """Return what went wrong in an executed notebook without stopping it.

    Looks at the outputs of the cells, at the outputs held by ``Output`` widgets (where
    ``interact`` and ``with Output()`` put exceptions), and for code cells that never ran.
    """
    found = []
    for index, cell in _cells(notebook):
        if cell.cell_type == "code":
            found += [f"cell {index}: {text}" for text in _complaints(cell.outputs)]
            if cell.source.strip() and cell.execution_count is None:
                found.append(f"cell {index} was not run")
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for model in state.values():
        if model.get("model_name") == "OutputModel":
            texts = _complaints(model.get("state", {}).get("outputs") or [])
            found += [f"in a widget's callback: {text}" for text in texts]
    return found


def figures(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    """Return every PNG shown by a notebook, named ``CELL-K``: K counts from 1 within the cell.

    CELL counts from 0 in the source notebook.
    """
    pictures = {}
    for position, cell in _cells(notebook):
        shown = [o["data"]["image/png"] for o in cell.get("outputs", []) if _has_png(o)]
        for k, png in enumerate(shown, start=1):
            pictures[f"{position:02d}-{k}"] = base64.b64decode("".join(png))
    return pictures


def _has_png(output: Mapping) -> bool:
    return "image/png" in output.get("data", {})


def _failure(name: str, notebook: Path, error: Exception) -> str:
    """Word the failure of a notebook: its name, the cell, and the last line of the exception."""
    cells = list(_cells(nbformat.read(notebook, as_version=4))) if notebook.is_file() else []
    if isinstance(error, papermill.PapermillExecutionError):
        lines = f"{error.ename}: {error.evalue}".strip().splitlines()
        return f"{name} failed in cell {cells[error.cell_index][0]}: {lines[-1]}"
    begun = [i for i, c in cells if c.metadata.get("papermill", {}).get("start_time")]
    where = f"in cell {begun[-1]}" if begun else "before its first cell"
    if isinstance(error, CellTimeoutError):
        return f"{name} stopped {where}, which took longer than the cell timeout"
    if isinstance(error, DeadKernelError):
        return f"{name} stopped {where}: its kernel died (out of memory?)"
    return f"{name} failed {where}: {type(error).__name__}: {error}"


def run_notebook(
    path: Path,
    build: Path,
    values: Mapping[str, object],
    *,
    cell_timeout: int,
    label: str = "",
    stopped: Event | None = None,
) -> None:
    """Execute one notebook in its own folder; write notebook, HTML and figures below `build`.

    What an older run left is replaced when this one has ended well, and not before. Raises
    NotebookError if a cell fails, takes longer than `cell_timeout` seconds, or if
    ``hidden_errors`` finds something; the notebook as far as it came is ``NAME.failed.ipynb``. If
    its kernel was ended because all were `stopped`, StoppedError, and nothing is left of it.
    """
    name = path.stem
    partial = build / "notebooks" / f".{name}.{os.getpid()}.part.ipynb"
    final, failed = (build / "notebooks" / f"{name}{end}.ipynb" for end in ("", ".failed"))
    page = build / "html" / f"{name}.html"
    partial.parent.mkdir(parents=True, exist_ok=True)
    sweep(partial.parent, rf"\.{re.escape(name)}\.(\d+)\.part\.ipynb")
    failed.unlink(missing_ok=True)
    bar = {"desc": label or name, "leave": False} if sys.stderr.isatty() else False
    try:
        executed = papermill.execute_notebook(
            path,
            partial,
            parameters=dict(values),
            engine_name=engine.NAME,
            kernel_name="python3",
            language="python",
            # its own folder: papermill's `cwd` would move all notebooks that run beside it
            resources={"metadata": {"path": str(path.parent.resolve())}},
            progress_bar=bar,
            start_timeout=120,
            execution_timeout=cell_timeout,
        )
        if problems := hidden_errors(executed):
            raise NotebookError(f"{name} hides errors: " + "; ".join(problems))
    except NotebookError:
        os.replace(partial, failed)
        raise
    except Exception as error:
        if stopped is not None and stopped.is_set():
            raise StoppedError(f"{name} was stopped") from error
        message = _failure(name, partial, error)
        if partial.is_file():
            os.replace(partial, failed)
            message += f"\n  as far as it came: {failed}"
        raise NotebookError(message) from error
    finally:
        partial.unlink(missing_ok=True)
    # names, not the paths of this machine
    executed.metadata.papermill.update(input_path=path.name, output_path=final.name)
    shown = {f"{name}-{number}": png for number, png in figures(executed).items()}
    for stem, png in shown.items():
        write_whole(build / "figures" / f"{stem}.png", png)
    for old in (build / "figures").glob("*.png"):  # of an older run, that this one did not draw
        if re.fullmatch(rf"{re.escape(name)}-\d+-\d+", old.stem) and old.stem not in shown:
            old.unlink(missing_ok=True)
    write_whole(page, pages.page(executed, name, pages.beside(path.parent, page.parent)))
    write_whole(final, nbformat.writes(executed))


def after(path: Path) -> set[str]:
    """The notebooks whose kept answers this one would ask for again, were it run beside them.

    Its metadata name them, ``{"segleak": {"after": ["00_start_here"]}}``.
    """
    return set(_metadata(path).get("after", []))


def seconds(path: Path) -> float:
    """About how long a notebook takes on two cores, of its metadata; the longest begin first."""
    return _metadata(path).get("seconds", 0)


def _metadata(path: Path) -> Mapping:
    return nbformat.read(path, as_version=4).metadata.get("segleak", {})


def _jobs() -> int:
    """Two notebooks at a time where two kernels of 3.5 GB find cores and memory, else one."""
    enough = (os.cpu_count() or 1) > 1 and psutil.virtual_memory().available > 8e9
    return 2 if enough else 1


def _side_by_side(
    paths: Iterable[Path], run: Callable[[Path], None], jobs: int, stopped: Event
) -> Iterator[Path]:
    """Run notebooks, `jobs` at a time, each after those it names; yield each when it has ended.

    Side by side the longest begin first, so that none runs alone at the end. What one of them
    raises ends the kernels of the others, and `stopped` is set.
    """
    ordered = sorted(paths, key=seconds, reverse=True) if jobs > 1 else paths
    waiting = {path: after(path) for path in ordered}
    running: dict[Future, Path] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                to_come = {path.stem for path in (*waiting, *running.values())}
                free = [path for path in waiting if not waiting[path] & to_come]
                if not (free or running):
                    free = list(waiting)[:1]  # they wait for each other
                for path in free[: jobs - len(running)]:
                    running[pool.submit(run, path)] = path
                    del waiting[path]
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    yield running.pop(future)
        except BaseException:
            stopped.set()
            _end_kernels()
            while wait(running, timeout=1).not_done:  # a kernel may have been about to start
                _end_kernels()
            raise


def _end_kernels() -> None:
    """End this process's kernels: whoever waits for one of their cells is told that they died."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "ipykernel_launcher" in child.cmdline():
                child.kill()


def _note_times(build: Path, new: Mapping[str, float], only: Iterable[str] | None = None) -> None:
    """Put durations into ``timings.json``; of the old ones keep those of these notebooks (all)."""
    path = build / "timings.json"
    with alone(path):  # another run may be about to do the same
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            names = known.keys() if only is None else known.keys() & set(only)
            kept = {name: known[name] for name in names}
        except (FileNotFoundError, ValueError, AttributeError):  # none yet, or a damaged one
            kept = {}
        write_whole(path, json.dumps(dict(sorted({**kept, **new}.items())), indent=1) + "\n")


def _show_paths(chosen: Mapping[Path, Mapping[str, object]]) -> None:
    """Print where the parameters that are paths lead to, seen from the notebooks' folder."""
    found: dict[str, set[Path]] = {}
    for path, given in chosen.items():
        values = {**declared(path), **given}
        for name in parameters.PATHS:
            if values.get(name):
                found.setdefault(name, set()).add((path.parent / str(values[name])).resolve())
    for name, places in found.items():
        print(f"{name}: {', '.join(map(str, sorted(places)))}", flush=True)


def run_notebooks(
    folder: Path = ROOT / "notebooks",
    build: Path = ROOT / "build",
    *,
    only: Iterable[str] = (),
    overrides: Mapping[str, object] | None = None,
    cell_timeout: int = 3600,
    pattern: str = PATTERN,
    jobs: int | None = None,
) -> None:
    """Run the notebooks in order, stop at the first failure, print the table of their rows.

    `jobs` of them run side by side (two where there is room for them), each `after` those it names.
    A notebook's rows, figures and duration (``timings.json``) replace those of an older run when it
    has ended well; a full run drops those of notebooks that are there no longer. Raises ValueError
    for parameters (before anything runs), FileNotFoundError for an empty folder, NotebookError for
    a failure.
    """
    only, build = tuple(only), build.resolve()
    chosen = plan(choose(folder, only, pattern), overrides or {})
    _show_paths(chosen)
    if not only:
        names = [path.stem for path in chosen]
        results.keep_only(names, build)
        _note_times(build, {}, names)
    jobs = min(jobs or _jobs(), len(chosen))
    numbers = {path: k for k, path in enumerate(chosen, start=1)}
    stopped = Event()

    def run(path: Path) -> None:
        label = f"[{numbers[path]}/{len(chosen)}] {path.stem}"
        began, outcome = time.perf_counter(), "failed"
        before = results.forget([path.stem], build)
        try:
            how = {"cell_timeout": cell_timeout, "label": label, "stopped": stopped}
            run_notebook(path, build, chosen[path], **how)
            seconds = round(time.perf_counter() - began, 1)
            _note_times(build, {path.stem: seconds})
            outcome = f"{seconds:.0f} s"
        except BaseException as error:
            outcome = "stopped" if isinstance(error, StoppedError) else outcome
            results.forget([path.stem], build)
            results.record(before, build)
            raise
        finally:
            print(f"{label} … {outcome}", flush=True)

    if jobs > 1:
        print(f"{len(chosen)} notebooks, {jobs} at a time", flush=True)
    with _environ(kernel_environment(build, jobs) | {FRAMES: "1"}):
        for _ in _side_by_side(chosen, run, jobs, stopped):
            pass  # each says itself how it went
    ran = {path.stem for path in chosen}
    rows = [row for row in results.read(build) if row.notebook in ran]
    print(f"\n{results.table(rows) if rows else 'No notebook recorded a result.'}")
    print(f"\nIn {build}: notebooks/, html/, figures/, results.json, results.csv, timings.json")
