"""Notebooks that run without a screen, and what they leave."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from threading import Event
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from toy_rows import ROW

from segleak_utils import run
from segleak_utils.run import environment
from segleak_utils.running import execution, parameters, results
from segleak_utils.whole import write_whole

GOOD = """
import sys, os, json, segleak_utils
from segleak_utils.running import results
row = json.loads(ROW)
results.record([results.ResultRow(**row, note=str(size))])
print(sys.executable, os.getcwd(), size)
"""
FIGURE = """
import matplotlib.pyplot as plt
for k in range(2):
    plt.plot([0, k])
    plt.show()
"""
BROKEN_CALLBACK = """
from ipywidgets import IntSlider, interact
@interact(x=IntSlider(value=1, min=0, max=3))
def show(x):
    print(10 // (3 - x))
slider = show.widget.children[0]
slider.value = 3
"""


def notebook(folder, name, *cells, parameters=None):
    """Write a small notebook, its first cell tagged ``parameters`` if there are any."""
    parts = [new_code_cell(cell.strip()) for cell in cells]
    if parameters:
        parts.insert(0, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=parts), path)
    return path


# --- which notebooks, which parameters ----------------------------------------------------------


def test_only_chooses_by_number_and_names_what_is_there(tmp_path):
    for name in ("01_a", "02_b", "draft"):
        notebook(tmp_path, name, "1")
    assert [path.stem for path in execution.choose(tmp_path)] == ["01_a", "02_b"]
    assert [path.stem for path in execution.choose(tmp_path, ["02"])] == ["02_b"]
    with pytest.raises(ValueError, match="no notebook begins with '03'; there are: 01_a, 02_b"):
        execution.choose(tmp_path, ["03"])
    with pytest.raises(FileNotFoundError, match="no notebook"):
        execution.choose(tmp_path / "nowhere")


def test_unknown_parameter_is_an_error_that_lists_the_known(tmp_path):
    paths = [
        notebook(tmp_path, "01_a", "1", parameters="size = 3\nseed: int = 0"),
        notebook(tmp_path, "02_b", "1"),
    ]
    assert execution.plan(paths, {"size": 4}) == {paths[0]: {"size": 4}, paths[1]: {}}
    with pytest.raises(ValueError, match=r"unknown parameter sise \(did you mean size") as caught:
        execution.plan(paths, {"sise": 4})
    assert "01_a: size, seed" in str(caught.value)
    assert "02_b: none" in str(caught.value)


def test_parameters_are_checked_before_anything_runs(tmp_path):
    cell = "\n".join(
        f"{name} = {str(field.default)!r}" if name == "data_root" else f"{name} = {field.default!r}"
        for name, field in parameters.RocAnalysis.model_fields.items()
    )
    path = notebook(tmp_path, "05_roc_analysis", "1", parameters=cell)
    assert execution.plan([path], {"n_boot": 300}) == {path: {"n_boot": 300}}
    with pytest.raises(ValueError, match="n_boot is 3, expected greater than or equal to 200"):
        execution.run_notebooks(tmp_path, tmp_path / "build", overrides={"n_boot": 3})
    assert not (tmp_path / "build").exists()


def test_parameters_cell_holds_literals_only(tmp_path):
    path = notebook(tmp_path, "01_a", parameters="root = print('x')")
    with pytest.raises(ValueError, match=r"NAME = LITERAL, found: root = print"):
        execution.declared(path)


# --- running notebooks --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two good notebooks, run: the build folder and what was printed."""
    folder = tmp_path_factory.mktemp("good")
    cells = [GOOD.replace("ROW", repr(json.dumps(ROW))), FIGURE]
    notebook(folder, "01_good", *cells, parameters="size = 3")
    notebook(folder, "02_small", "1 + 1")
    build = folder / "build"
    for stale in ("01_good-09-1.png", "other-01-1.png"):
        write_whole(build / "figures" / stale, b"old")
    results.record([results.ResultRow(**{**ROW, "notebook": "09_gone"})], build)
    command = [sys.executable, "-m", "segleak_utils.run", "--no-install", "-p", "size=5"]
    command += ["--notebooks", str(folder), "--build", str(build)]
    shell = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(environment.ROOT)}
    shown = subprocess.run(command, cwd=folder, env=shell, capture_output=True, encoding="utf-8")
    assert shown.returncode == 0, shown.stderr
    return folder, build, shown.stdout


@pytest.mark.slow
def test_kernel_is_this_interpreter_in_the_notebook_folder(good):
    folder, build, _ = good
    cells = nbformat.read(build / "notebooks" / "01_good.ipynb", as_version=4).cells
    assert cells[2].outputs[0].text.split() == [sys.executable, str(folder.resolve()), "5"]


@pytest.mark.slow
def test_run_leaves_notebooks_pages_figures_and_timings(good):
    _, build, _ = good
    names = {str(path.relative_to(build).as_posix()) for path in build.rglob("*.*")}
    assert names == {
        "notebooks/01_good.ipynb",
        "notebooks/02_small.ipynb",
        "html/01_good.html",
        "html/02_small.html",
        "figures/01_good-02-1.png",
        "figures/01_good-02-2.png",
        "figures/other-01-1.png",
        "jupyter/kernels/python3/kernel.json",
        ".results.json.lock",
        ".timings.json.lock",
        "results.json",
        "results.csv",
        "timings.json",
    }
    assert (build / "figures" / "01_good-02-1.png").read_bytes().startswith(b"\x89PNG")
    assert set(json.loads((build / "timings.json").read_text())) == {"01_good", "02_small"}
    assert str(build) not in (build / "notebooks" / "01_good.ipynb").read_text(encoding="utf-8")


@pytest.mark.slow
def test_run_prints_progress_and_the_table_of_this_run_alone(good):
    _, build, shown = good
    assert "[1/2] 01_good … " in shown
    assert ".625 [.600, .650]" in shown
    assert ".030 [.010, .050]" in shown
    assert "09_gone" not in shown
    (row,) = results.read(build)
    assert row == results.ResultRow(**ROW, note="5")
    (line,) = csv.DictReader((build / "results.csv").read_text(encoding="utf-8").splitlines())
    assert (line["auc"], line["n_nonmembers"]) == ("0.625", "2000")


@pytest.mark.slow
def test_two_runs_of_a_notebook_at_once_both_succeed(tmp_path):
    begun = tmp_path / "begun"
    begun.mkdir()
    # each waits until the other has begun, too
    waits = f"""
import os, time
open(os.path.join({str(begun)!r}, str(os.getpid())), "w").close()
while len(os.listdir({str(begun)!r})) < 2: time.sleep(0.1)
"""
    notebook(tmp_path, "00_both", waits, GOOD.replace("ROW", repr(json.dumps(ROW))), FIGURE,
             parameters="size = 3")  # fmt: skip
    build = tmp_path / "build"
    command = [sys.executable, "-m", "segleak_utils.run", "--no-install", "--only", "00"]
    command += ["--notebooks", str(tmp_path), "--build", str(build)]
    shell = {**os.environ, "PYTHONPATH": str(environment.ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen(command, env=shell, **pipes) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in runs]
    assert [process.returncode for process in runs] == [0, 0], told
    left = [path.name for path in (build / "notebooks").iterdir()]
    assert left == ["00_both.ipynb"]
    assert (build / "html" / "00_both.html").is_file()
    assert len(list((build / "figures").glob("00_both-*.png"))) == 2
    assert len(results.read(build)) == 1
    assert json.loads((build / "timings.json").read_text()).keys() == {"00_both"}


def test_a_run_of_one_notebook_keeps_the_others_times_and_a_full_run_does_not(tmp_path, capsys):
    for name in ("00_a", "01_b"):
        notebook(tmp_path, name, "1")
    build = tmp_path / "build"
    write_whole(build / "timings.json", '{"00_a": 999, "01_b": 888, "09_gone": 777}')
    execution.run_notebooks(tmp_path, build, only=["00"])
    times = json.loads((build / "timings.json").read_text())
    assert times.pop("00_a") < 100 and times == {"01_b": 888, "09_gone": 777}
    execution.run_notebooks(tmp_path, build, jobs=1)
    times = json.loads((build / "timings.json").read_text())
    assert list(times) == ["00_a", "01_b"] and max(times.values()) < 100


@pytest.mark.parametrize("text", ["{", "[1]", "null"])
def test_damaged_times_start_anew(tmp_path, text):
    (tmp_path / "timings.json").write_text(text)
    execution._note_times(tmp_path, {"00_a": 1.5}, ["00_a", "01_b"])
    assert json.loads((tmp_path / "timings.json").read_text()) == {"00_a": 1.5}


def test_what_a_killed_run_left_of_a_notebook_is_swept_and_only_that(tmp_path):
    (tmp_path / "notebooks").mkdir()
    notebook(tmp_path / "notebooks", "00_a", "1")
    kept = tmp_path / "build" / "notebooks"
    kept.mkdir(parents=True)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = [f".00_a.{dead.pid}.part.ipynb", f".00_a.{os.getppid()}.part.ipynb"]
    names += [f".01_b.{dead.pid}.part.ipynb"]
    for name in names:
        (kept / name).write_text("{}")
    execution.run_notebooks(tmp_path / "notebooks", tmp_path / "build")
    assert {path.name for path in kept.iterdir()} == {*names[1:], "00_a.ipynb"}


def test_a_run_says_once_where_its_paths_lead(tmp_path, capsys):
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    for name in ("00_a", "01_b"):
        cell = 'data_root = "../data"\nexamples = ""'
        paths = notebook(notebooks, name, "1", parameters=cell)
    chosen = execution.choose(notebooks)
    execution._show_paths(execution.plan(chosen, {}))
    assert capsys.readouterr().out == f"data_root: {tmp_path.resolve() / 'data'}\n"
    execution._show_paths(
        execution.plan(chosen, {"data_root": "../../../../../../../../../../etc"})
    )
    assert capsys.readouterr().out.startswith("data_root: /")
    execution._show_paths(execution.plan([paths], {"examples": str(tmp_path / "x" / "..")}))
    assert f"examples: {tmp_path.resolve()}\n" in capsys.readouterr().out


def test_broken_widget_callback_fails_the_run(tmp_path, capsys):
    notebook(tmp_path, "01_slider", BROKEN_CALLBACK)
    with pytest.raises(execution.NotebookError, match="01_slider hides errors") as caught:
        execution.run_notebooks(tmp_path, tmp_path / "build")
    assert "in a widget's callback: ZeroDivisionError: " in str(caught.value)
    assert [p.name for p in (tmp_path / "build/notebooks").iterdir()] == ["01_slider.failed.ipynb"]


def test_failing_cell_is_named_and_the_rest_is_not_run(tmp_path, capsys):
    failing = ["1", "raise RuntimeError('first line\\nlast line')"]
    notebook(tmp_path, "01_fails", *failing, parameters="size = 1")
    notebook(tmp_path, "02_never", "1")
    build = tmp_path / "build"
    code = run.main(
        ["--no-install", "--jobs=1", "-psize=2", f"--notebooks={tmp_path}", f"--build={build}"]
    )
    assert code == 1
    shown = capsys.readouterr()
    assert "01_fails failed in cell 2: last line" in shown.err
    assert "02_never" not in shown.out
    assert [p.name for p in (build / "notebooks").iterdir()] == ["01_fails.failed.ipynb"]
    assert not (build / "html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("begun", [True, False])
def test_a_failure_ends_the_kernel_beside_it(begun, tmp_path, capsys):
    """One that has begun with its notebook, and one that may be just about to start."""
    marker = tmp_path / "kernel.pid"
    long = f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(200)"
    fails = f"import os, time\nwhile not os.path.exists({str(marker)!r}): time.sleep(0.1)\n1 / 0"
    fails = fails if begun else "1 / 0"
    notebook(tmp_path, "01_long", long)
    notebook(tmp_path, "02_fails", fails)
    began = time.monotonic()
    with pytest.raises(execution.NotebookError, match="02_fails failed in cell 0"):
        execution.run_notebooks(tmp_path, tmp_path / "build", jobs=2)
    assert time.monotonic() - began < 100
    if begun:
        with pytest.raises(ProcessLookupError):
            os.kill(int(marker.read_text()), 0)
    kernels = execution.psutil.Process().children()
    assert not any("ipykernel_launcher" in kernel.cmdline() for kernel in kernels)
    left = [path.name for path in (tmp_path / "build" / "notebooks").iterdir()]
    assert left == ["02_fails.failed.ipynb"]
    shown = capsys.readouterr().out
    assert "[1/2] 01_long … stopped" in shown and "[2/2] 02_fails … failed" in shown


def test_notebooks_run_side_by_side_each_after_those_it_names(tmp_path):
    paths = {}
    for name, names in (("01_a", ["02_b"]), ("02_b", []), ("03_c", ["03_c"]), ("04_d", ["01_a"])):
        paths[name] = tmp_path / f"{name}.ipynb"
        made = new_notebook(metadata={"segleak": {"after": names}})
        nbformat.write(made, paths[name])
    order, together, now = [], [], set()

    def run(path):
        order.append(path.stem)
        now.add(path.stem)
        together.append(len(now))
        time.sleep(0.2)
        now.remove(path.stem)

    ended = [path.stem for path in execution._side_by_side(paths.values(), run, 2, Event())]
    assert sorted(order) == sorted(ended) == list(paths)
    assert order.index("02_b") < order.index("01_a") < order.index("04_d")
    assert order[-1] == "03_c" and max(together) <= 2  # it waits for itself, and is not forgotten
    together.clear()
    alone = [tmp_path / f"0{k}_x.ipynb" for k in range(4)]
    for path in alone:
        nbformat.write(new_notebook(), path)
    assert set(execution._side_by_side(alone, run, 2, Event())) == set(alone)
    assert max(together) == 2


def test_the_longest_begin_first_and_one_by_one_they_keep_their_order(tmp_path):
    paths = [tmp_path / f"0{k}_x.ipynb" for k in range(3)]
    for path, seconds in zip(paths, (5, 60, None), strict=True):
        told = {} if seconds is None else {"segleak": {"seconds": seconds}}
        nbformat.write(new_notebook(metadata=told), path)
    for jobs, expected in ((2, ["01_x", "00_x", "02_x"]), (1, ["00_x", "01_x", "02_x"])):
        order = []

        def run(path, order=order):
            order.append(path.stem)
            time.sleep(0.1 * len(order))

        list(execution._side_by_side(paths, run, jobs, Event()))
        assert order == expected


def test_kernels_side_by_side_share_the_cores_unless_somebody_said_how(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv(execution.THREADS, raising=False)
    assert execution.kernel_environment(tmp_path, 2)[execution.THREADS] == "4"
    assert execution.THREADS not in execution.kernel_environment(tmp_path)
    monkeypatch.setenv(execution.THREADS, "3")
    assert execution.THREADS not in execution.kernel_environment(tmp_path, 2)


def test_slow_cell_is_stopped(tmp_path):
    notebook(tmp_path, "01_slow", "1", "import time; time.sleep(60)")
    with pytest.raises(execution.NotebookError, match=r"01_slow stopped in cell 1, .*timeout"):
        execution.run_notebooks(tmp_path, tmp_path / "build", cell_timeout=1)


@pytest.mark.slow
def test_what_the_last_good_run_left_is_replaced_by_a_good_one_alone(tmp_path, capsys):
    good = GOOD.replace("ROW", repr(json.dumps(ROW)))
    notebook(tmp_path, "01_good", good, FIGURE, parameters="size = 3")
    build = tmp_path / "build"
    execution.run_notebooks(tmp_path, build)

    def left() -> dict[str, bytes]:
        paths = (p for p in build.rglob("*") if p.is_file() and ".failed" not in p.name)
        return {str(p): p.read_bytes() for p in paths}

    before = left()
    broken = good + "\nif size > 3: raise ValueError('too big')"
    notebook(tmp_path, "01_good", broken, FIGURE.replace("2", "1"), parameters="size = 3")
    with pytest.raises(execution.NotebookError, match="too big"):
        execution.run_notebooks(tmp_path, build, overrides={"size": 5})
    assert left() == before and (build / "notebooks" / "01_good.failed.ipynb").exists()
    execution.run_notebooks(tmp_path, build, overrides={"size": 2})
    after = left()
    assert before.keys() - after.keys() == {str(build / "figures" / "01_good-02-2.png")}
    assert not (build / "notebooks" / "01_good.failed.ipynb").exists()
    assert [row.note for row in results.read(build)] == ["2"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals between processes are POSIX's")
def test_ctrl_c_leaves_neither_kernel_nor_half_a_file(tmp_path):
    marker = tmp_path / "kernel.pid"
    cell = f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    notebook(tmp_path, "01_long", cell)
    command = [sys.executable, "-m", "segleak_utils.run", "--no-install"]
    command += ["--notebooks", str(tmp_path), "--build", str(tmp_path / "build")]
    process = subprocess.Popen(
        command,
        cwd=environment.ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (marker.is_file() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == environment.INTERRUPTED
    assert "segleak: stopped" in shown
    assert "Traceback" not in shown
    assert list((tmp_path / "build" / "notebooks").iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({"output_type": "error", "ename": "KeyError", "evalue": "'x'"}, "KeyError: 'x'"),
        (
            {"output_type": "stream", "name": "stderr", "text": f"{execution.TRACEBACK}\nE: y\n"},
            "a traceback on stderr, ending in E: y",
        ),
    ],
)
def test_hidden_errors_looks_into_output_widgets(output, expected):
    model = {"model_name": "OutputModel", "state": {"outputs": [output]}}
    made = new_notebook(cells=[new_code_cell("1", execution_count=1), new_code_cell("2")])
    made.metadata["widgets"] = {execution.WIDGET_STATE: {"state": {"a": model}}}
    assert execution.hidden_errors(made) == [
        "cell 1 was not run",
        f"in a widget's callback: {expected}",
    ]


@pytest.mark.parametrize(("cores", "gigabytes", "jobs"), [(2, 16, 2), (1, 16, 1), (8, 4, 1)])
def test_two_notebooks_at_a_time_need_cores_and_memory(cores, gigabytes, jobs, monkeypatch):
    memory = SimpleNamespace(available=gigabytes * 1e9)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(execution.psutil, "virtual_memory", lambda: memory)
    assert execution._jobs() == jobs
