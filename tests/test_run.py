"""The one command: its environment, its options, and what it makes of notebooks good and bad."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from segleak_utils import execution, parameters, results, run

ROW = dict(
    notebook="01_good",
    victim="v0",
    setting="dependent",
    attack="global loss",
    representation="loss",
    n_members=300,
    n_nonmembers=2000,
    auc=0.625,
    auc_low=0.6,
    auc_high=0.65,
    tpr_at_1pct=0.03,
    tpr_low=0.01,
    tpr_high=0.05,
)
GOOD = """
import sys, os, json, segleak_utils
from segleak_utils import results
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


# --- the environment ---------------------------------------------------------------------------


def test_starts_on_the_standard_library_alone():
    command = [sys.executable, "-S", "-m", "segleak_utils.run", "--help"]
    shown = subprocess.run(command, cwd=run.ROOT, capture_output=True, text=True, check=True)
    for word in ("test", "lab", "weights", "camvid", "--only"):
        assert word in shown.stdout


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 1), (3, 15, 0)])
def test_unfit_python_is_named(version):
    with pytest.raises(SystemExit, match=".".join(map(str, version))):
        run.check_python(version)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 0), (3, 14, 2)])
def test_fit_python_passes(version):
    run.check_python(version)


def test_unmet_names_the_missing_and_the_out_of_bounds():
    found = run.unmet(["pytest>=1,<99", "no-such-package>=1", "numpy>=0.1,<1.0"])
    assert found[0] == "no-such-package is not installed"
    assert found[1].startswith("numpy ")
    assert found[1].endswith(" is outside numpy>=0.1,<1.0")
    assert len(found) == 2


def test_a_checkout_without_pyproject_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"pyproject\.toml is missing"):
        run.requirements(tmp_path)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with an empty .venv, where pip is a stand-in that keeps the commands it is given.

    ``checkout.code`` is the exit code of the stand-in.
    """
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("a==1\n")

    class Checkout:
        root, folder, code, commands = tmp_path, tmp_path / ".venv", 0, []

        def make(self):
            return run.make_venv(self.folder, self.root)

    found = Checkout()

    def create(self, folder):
        python = run.venv_python(Path(folder))
        python.parent.mkdir(parents=True, exist_ok=True)
        if not python.exists():
            python.symlink_to(sys.executable)

    def pip(command, env=None):
        found.commands.append([str(part) for part in command])
        return found.code

    monkeypatch.setattr(run.venv.EnvBuilder, "create", create)
    monkeypatch.setattr(run, "relay", pip)
    return found


def test_venv_is_installed_once_and_again_when_the_lists_change(checkout):
    python = checkout.make()
    (command,) = checkout.commands
    assert command[:4] == [str(python), "-m", "pip", "install"]
    assert command[-4:-2] == ["--constraint", str(checkout.root / "constraints.txt")]
    assert command[-2:] == ["--editable", str(checkout.root)]
    checkout.make()
    assert len(checkout.commands) == 1
    (checkout.root / "constraints.txt").write_text("a==2\n")
    checkout.make()
    assert len(checkout.commands) == 2


def test_failed_or_interrupted_installation_is_done_again(checkout):
    checkout.code = 1
    with pytest.raises(SystemExit, match=r"pip could not install .*exit code 1"):
        checkout.make()
    checkout.code = run.INTERRUPTED
    with pytest.raises(KeyboardInterrupt):
        checkout.make()
    assert not (checkout.folder / run.STAMP).exists()
    checkout.code = 0
    checkout.make()
    assert len(checkout.commands) == 3
    assert (checkout.folder / run.STAMP).exists()


def test_missing_ensurepip_names_the_package_to_install(checkout, monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="python3-venv"):
        checkout.make()


def test_bootstrap_stays_here_if_all_is_met(monkeypatch):
    monkeypatch.setattr(run, "requirements", lambda: ["pytest>=1,<99"])
    monkeypatch.setattr(run, "torch_pair_broken", lambda: "")
    assert run.bootstrap([]) is None


@pytest.mark.parametrize("broken", ["", "operator torchvision::nms does not exist"])
def test_bootstrap_runs_the_same_command_in_venv(monkeypatch, broken):
    calls = []
    monkeypatch.setattr(run, "VENV", Path("elsewhere"))
    monkeypatch.setattr(run, "requirements", lambda: ["pytest" if broken else "no-such-package"])
    monkeypatch.setattr(run, "torch_pair_broken", lambda: broken)
    monkeypatch.setattr(run, "make_venv", lambda: Path("there/python"))
    monkeypatch.setattr(run, "relay", lambda command, env: calls.append((command, env)) or 7)
    assert run.bootstrap(["test", "-k", "x"]) == 7
    ((command, env),) = calls
    assert command == [Path("there/python"), "-m", "segleak_utils.run", "test", "-k", "x"]
    assert env["PYTHONPATH"].split(os.pathsep)[0] == str(run.ROOT)
    monkeypatch.setenv(run.RELAUNCHED, env[run.RELAUNCHED])
    with pytest.raises(SystemExit, match="yet packages are missing"):
        run.bootstrap([])


def test_relay_passes_the_exit_code_on():
    assert run.relay([sys.executable, "-c", "raise SystemExit(7)"]) == 7


@pytest.mark.skipif(os.name == "nt", reason="signals between processes are POSIX's")
def test_relay_reports_a_killed_command_as_shells_do():
    assert run.relay([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


@pytest.mark.skipif(os.name == "nt", reason="signals between processes are POSIX's")
def test_signals_that_reach_the_relay_alone_end_the_command(tmp_path):
    """SIGTERM at once; SIGINT after a grace, since a terminal sends it to both."""
    for number, code in ((signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, run.INTERRUPTED)):
        marker = tmp_path / number.name
        sleeper = f"import pathlib, time; pathlib.Path({str(marker)!r}).touch(); time.sleep(60)"
        command = [sys.executable, "-c", sleeper]
        outer = f"from segleak_utils.run import relay; print(relay({command}))"
        process = subprocess.Popen(
            [sys.executable, "-c", outer],
            cwd=run.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # a shell's background job ignores SIGINT; the test must not inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while not marker.exists():
            time.sleep(0.05)
        process.send_signal(number)
        assert process.communicate(timeout=20)[0].strip() == str(code)


# --- the command line --------------------------------------------------------------------------


def test_overrides_are_literals_or_text():
    parsed = run.parser().parse_args(
        ["-p", "seed=3", "-p", "setting=independent", "-p", "live=false", "-p", "x=[1, 2]"]
    )
    assert dict(parsed.overrides) == {
        "seed": 3,
        "setting": "independent",
        "live": False,
        "x": [1, 2],
    }
    with pytest.raises(SystemExit):
        run.parser().parse_args(["-p", "seed"])


@pytest.mark.parametrize(
    "line",
    [
        ["camvid", "--root", "x", "--preset", "quick"],
        ["--preset", "quick", "camvid", "--root", "x"],
    ],
)
def test_preset_may_stand_before_or_after_the_command(line):
    assert run.parser().parse_args(line).preset == "quick"


def test_camvid_needs_a_folder():
    with pytest.raises(SystemExit):
        run.parser().parse_args(["camvid"])


@pytest.mark.parametrize(
    "line, called",
    [
        ("beyond", ("beyond.beyond", {})),
        ("beyond --choices", ("beyond.choices", {})),
        ("beyond --online", ("online.online", {})),
        ("beyond --camvid DIR", ("camvid.camvid_beyond", {"preset": "full"})),
        ("audit", ("dpaudit.audit", {"canaries": False})),
        ("audit --canaries", ("dpaudit.audit", {"canaries": True})),
        ("growth", ("growth.growth", {"jobs": None, "cluster": None})),
        ("growth --jobs 3", ("growth.growth", {"jobs": 3, "cluster": None})),
        ("growth --cluster tcp://a:1", ("growth.growth", {"jobs": None, "cluster": "tcp://a:1"})),
    ],
)
def test_the_commands_behind_notebook_06_call_one_function_each(line, called, monkeypatch):
    seen = []
    for name in (
        "beyond.beyond",
        "beyond.choices",
        "online.online",
        "camvid.camvid_beyond",
        "dpaudit.audit",
        "growth.growth",
    ):

        def note(*_, name=name, **options):
            seen.append((name, options))

        monkeypatch.setattr(f"segleak_utils.{name}", note)
    assert run.main(["--no-install", *line.split()]) == 0
    assert seen == [called]


def test_a_cluster_that_does_not_answer_is_a_message_not_a_traceback(monkeypatch, capsys):
    def unreachable(*_, **__):
        raise ConnectionError("no Dask scheduler answers at tcp://a:1")

    monkeypatch.setattr("segleak_utils.growth.growth", unreachable)
    assert run.main(["--no-install", "growth", "--cluster", "tcp://a:1"]) == 1
    assert capsys.readouterr().err.startswith("segleak: no Dask scheduler")
    with pytest.raises(SystemExit):
        run.main(["--no-install", "growth", "--jobs", "0"])


def test_test_command_returns_the_worst_code_and_runs_pytest_last(monkeypatch):
    called, codes = [], iter([0, 1, 0])
    monkeypatch.setattr(run, "relay", lambda command, env: called.append(command[2]) or next(codes))
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    assert run.main(["--no-install", "test", "-x"]) == 1
    assert called == ["ruff", "ruff", "pytest"]


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
        results.write_whole(build / "figures" / stale, b"old")
    results.record([results.ResultRow(**{**ROW, "notebook": "09_gone"})], build)
    command = [sys.executable, "-m", "segleak_utils.run", "--no-install", "-p", "size=5"]
    command += ["--notebooks", str(folder), "--build", str(build)]
    shell = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(run.ROOT)}
    shown = subprocess.run(command, cwd=folder, env=shell, capture_output=True, encoding="utf-8")
    assert shown.returncode == 0, shown.stderr
    return folder, build, shown.stdout


def test_kernel_is_this_interpreter_in_the_notebook_folder(good):
    folder, build, _ = good
    cells = nbformat.read(build / "notebooks" / "01_good.ipynb", as_version=4).cells
    assert cells[2].outputs[0].text.split() == [sys.executable, str(folder.resolve()), "5"]


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
        "results.json",
        "results.csv",
        "timings.json",
    }
    assert (build / "figures" / "01_good-02-1.png").read_bytes().startswith(b"\x89PNG")
    assert set(json.loads((build / "timings.json").read_text())) == {"01_good", "02_small"}
    assert str(build) not in (build / "notebooks" / "01_good.ipynb").read_text(encoding="utf-8")


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
        ["--no-install", "-p", "size=2", "--notebooks", str(tmp_path), "--build", str(build)]
    )
    assert code == 1
    shown = capsys.readouterr()
    assert "01_fails failed in cell 2: last line" in shown.err
    assert "02_never" not in shown.out
    assert [p.name for p in (build / "notebooks").iterdir()] == ["01_fails.failed.ipynb"]
    assert not (build / "html").exists()


def test_slow_cell_is_stopped(tmp_path):
    notebook(tmp_path, "01_slow", "1", "import time; time.sleep(60)")
    with pytest.raises(execution.NotebookError, match=r"01_slow stopped in cell 1, .*timeout"):
        execution.run_notebooks(tmp_path, tmp_path / "build", cell_timeout=1)


@pytest.mark.skipif(os.name == "nt", reason="signals between processes are POSIX's")
def test_ctrl_c_leaves_neither_kernel_nor_half_a_file(tmp_path):
    marker = tmp_path / "kernel.pid"
    cell = f"import os, time\nopen({str(marker)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    notebook(tmp_path, "01_long", cell)
    command = [sys.executable, "-m", "segleak_utils.run", "--no-install"]
    command += ["--notebooks", str(tmp_path), "--build", str(tmp_path / "build")]
    process = subprocess.Popen(
        command,
        cwd=run.ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (marker.is_file() and marker.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == run.INTERRUPTED
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


# --- the table ----------------------------------------------------------------------------------


def test_recorded_row_replaces_its_older_self_and_only_that(tmp_path):
    first, second = results.ResultRow(**ROW), results.ResultRow(**{**ROW, "attack": "blind"})
    results.record([first, second], tmp_path)
    newer = first.model_copy(update={"auc": 0.63})
    results.record([newer], tmp_path)
    assert results.read(tmp_path) == [newer, second]
    results.forget(["02_other"], tmp_path)
    assert len(results.read(tmp_path)) == 2
    results.forget(["01_good"], tmp_path)
    assert results.read(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"auc": 0.7}, "lies outside"),
        ({"auc": float("nan")}, "finite"),
        ({"tpr_low": None}, "low <= value <= high"),
        ({"n_nonmembers": 99}, "no TPR at 1 % FPR with 99"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_implausible_row_is_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        results.ResultRow(**{**ROW, **change})


def test_row_without_tpr_shows_a_dash():
    no_tpr = dict.fromkeys(["tpr_at_1pct", "tpr_low", "tpr_high"])
    row = results.ResultRow(**{**ROW, **no_tpr, "n_nonmembers": 99, "auc_high": 1.0})
    line = results.table([row]).splitlines()[2]
    assert ".625 [.600, 1.000]  -  " in line


def test_damaged_table_is_named(tmp_path):
    (tmp_path / "results.json").write_text('[{"auc": ')
    with pytest.raises(ValueError, match=r"results\.json is not a list of result rows; delete it"):
        results.read(tmp_path)
