"""The one command: its environment, its options, and what it makes of notebooks good and bad."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from segleak_utils import run
from segleak_utils.run import commands, environment, options

# --- the environment ---------------------------------------------------------------------------


def test_starts_on_the_standard_library_alone():
    command = [sys.executable, "-S", "-m", "segleak_utils.run", "--help"]
    shown = subprocess.run(
        command, cwd=environment.ROOT, capture_output=True, text=True, check=True
    )
    for word in ("test", "lab", "weights", "camvid", "--only"):
        assert word in shown.stdout


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 14, 1), (3, 15, 0)])
def test_unfit_python_is_named(version):
    with pytest.raises(SystemExit, match=".".join(map(str, version))):
        environment.check_python(version)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 14, 0), (3, 14, 2)])
def test_fit_python_passes(version):
    environment.check_python(version)


def test_unmet_names_the_missing_and_the_out_of_bounds():
    found = environment.unmet(["pytest>=1,<99", "no-such-package>=1", "numpy>=0.1,<1.0"])
    assert found[0] == "no-such-package is not installed"
    assert found[1].startswith("numpy ")
    assert found[1].endswith(" is outside numpy>=0.1,<1.0")
    assert len(found) == 2


def test_a_checkout_without_pyproject_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"pyproject\.toml is missing"):
        environment.requirements(tmp_path)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with an empty .venv, where pip is a stand-in that keeps the commands it is given.

    ``checkout.code`` is the exit code of the stand-in.
    """
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("a==1\n")

    class Checkout:
        root, folder, code, commands, compiled = tmp_path, tmp_path / ".venv", 0, [], []

        def make(self):
            return environment.make_venv(self.folder, self.root)

    found = Checkout()

    def create(self, folder):
        python = environment.venv_python(Path(folder))
        python.parent.mkdir(parents=True, exist_ok=True)
        if not python.exists():
            python.symlink_to(sys.executable)

    def pip(command, env=None):
        words = [str(part) for part in command]
        (found.compiled if "compileall" in words else found.commands).append(words)
        return found.code

    monkeypatch.setattr(environment.venv.EnvBuilder, "create", create)
    monkeypatch.setattr("segleak_utils.run.environment.relay", pip)
    return found


def test_venv_is_installed_once_and_again_when_the_lists_change(checkout):
    python = checkout.make()
    (command,) = checkout.commands
    assert command[:4] == [str(python), "-m", "pip", "install"]
    assert command[-4:-2] == ["--constraint", str(checkout.root / "constraints.txt")]
    assert command[-2:] == ["--editable", f"{checkout.root}[all]"]
    checkout.make()
    assert len(checkout.commands) == len(checkout.compiled) == 1
    (checkout.root / "constraints.txt").write_text("a==2\n")
    checkout.make()
    assert len(checkout.commands) == 2


def test_a_disk_that_is_nearly_full_is_told_before_pip_fails_on_it(checkout, monkeypatch, capsys):
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(environment.sys, "platform", "linux")
    space = shutil.disk_usage(checkout.root)
    for free, told in ((10**15, False), (int(4.5e9), True)):
        usage = space._replace(free=free)
        monkeypatch.setattr(environment.shutil, "disk_usage", lambda _, usage=usage: usage)
        shutil.rmtree(checkout.folder, ignore_errors=True)
        checkout.make()
        warned = f"has {free / 1e9:.1f} GB free; up to" in capsys.readouterr().out
        assert warned == told


def test_failed_or_interrupted_installation_is_done_again(checkout):
    checkout.code = 1
    with pytest.raises(SystemExit, match=r"pip could not install .*exit code 1"):
        checkout.make()
    checkout.code = environment.INTERRUPTED
    with pytest.raises(KeyboardInterrupt):
        checkout.make()
    assert not (checkout.folder / environment.STAMP).exists()
    checkout.code = 0
    checkout.make()
    assert len(checkout.commands) == 3
    assert (checkout.folder / environment.STAMP).exists()


def test_what_was_installed_is_compiled_even_where_python_may_not_write_bytecode(checkout):
    checkout.make()
    (command,) = checkout.compiled
    places = [checkout.folder / "lib", checkout.root / "segleak_utils"]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / "a.py").write_text("x = 1\n")
    bare = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, env=bare, check=True)
    for place in places:
        assert len(list((place / "__pycache__").glob("a.*.pyc"))) == 1


def test_missing_ensurepip_names_the_package_to_install(checkout, monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="python3-venv"):
        checkout.make()


def test_bootstrap_stays_here_if_all_is_met(monkeypatch):
    monkeypatch.setattr("segleak_utils.run.environment.requirements", lambda: ["pytest>=1,<99"])
    monkeypatch.setattr("segleak_utils.run.environment.torch_pair_broken", lambda: "")
    assert environment.bootstrap([]) is None


@pytest.mark.parametrize("broken", ["", "operator torchvision::nms does not exist"])
def test_bootstrap_runs_the_same_command_in_venv(monkeypatch, broken):
    calls = []
    monkeypatch.setattr("segleak_utils.run.environment.VENV", Path("elsewhere"))
    monkeypatch.setattr(
        "segleak_utils.run.environment.requirements",
        lambda: ["pytest" if broken else "no-such-package"],
    )
    monkeypatch.setattr("segleak_utils.run.environment.torch_pair_broken", lambda: broken)
    monkeypatch.setattr("segleak_utils.run.environment.make_venv", lambda: Path("there/python"))
    monkeypatch.setattr(
        "segleak_utils.run.environment.relay",
        lambda command, env: calls.append((command, env)) or 7,
    )
    assert environment.bootstrap(["test", "-k", "x"]) == 7
    ((command, env),) = calls
    assert command == [Path("there/python"), "-m", "segleak_utils.run", "test", "-k", "x"]
    assert env["PYTHONPATH"].split(os.pathsep)[0] == str(environment.ROOT)
    monkeypatch.setenv(environment.RELAUNCHED, env[environment.RELAUNCHED])
    with pytest.raises(SystemExit, match="yet packages are missing"):
        environment.bootstrap([])


def test_relay_passes_the_exit_code_on():
    assert environment.relay([sys.executable, "-c", "raise SystemExit(7)"]) == 7


@pytest.mark.skipif(os.name == "nt", reason="signals between processes are POSIX's")
def test_relay_reports_a_killed_command_as_shells_do():
    assert environment.relay([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals between processes are POSIX's")
def test_signals_that_reach_the_relay_alone_end_the_command(tmp_path):
    """SIGTERM at once; SIGINT after a grace, since a terminal sends it to both."""
    for number, code in (
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGINT, environment.INTERRUPTED),
    ):
        marker = tmp_path / number.name
        sleeper = f"import pathlib, time; pathlib.Path({str(marker)!r}).touch(); time.sleep(60)"
        command = [sys.executable, "-c", sleeper]
        outer = f"from segleak_utils.run.environment import relay; print(relay({command}))"
        process = subprocess.Popen(
            [sys.executable, "-c", outer],
            cwd=environment.ROOT,
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
    parsed = options.parser().parse_args(
        ["-p", "seed=3", "-p", "setting=independent", "-p", "live=false", "-p", "x=[1, 2]"]
    )
    assert dict(parsed.overrides) == {
        "seed": 3,
        "setting": "independent",
        "live": False,
        "x": [1, 2],
    }
    with pytest.raises(SystemExit):
        options.parser().parse_args(["-p", "seed"])


@pytest.mark.parametrize(
    "line",
    [
        ["camvid", "--root", "x", "--preset", "quick"],
        ["--preset", "quick", "camvid", "--root", "x"],
    ],
)
def test_preset_may_stand_before_or_after_the_command(line):
    assert options.parser().parse_args(line).preset == "quick"


def test_camvid_needs_a_folder():
    with pytest.raises(SystemExit):
        options.parser().parse_args(["camvid"])


@pytest.mark.parametrize(
    "line, called",
    [
        ("beyond", ("beyond.beyond", {})),
        ("beyond --choices", ("beyond.choices", {})),
        ("beyond --strongest", ("strongest.choices", {})),
        ("beyond --confirm", ("strongest.confirm", {})),
        ("beyond --imitate", ("imitation.imitation", {})),
        ("beyond --teach", ("taught.teaching", {})),
        ("beyond --online", ("online.online", {})),
        ("beyond --camvid DIR", ("camvid.camvid_beyond", {"preset": "full"})),
        ("epsilon", ("epsilon.audit", {"canaries": False})),
        ("epsilon --canaries", ("epsilon.audit", {"canaries": True})),
        ("epsilon --tight", ("tightness.measure", {})),
        ("epsilon --faults", ("caught.measure", {})),
        ("growth", ("growth.growth", {"jobs": None, "cluster": None})),
        ("growth --jobs 3", ("growth.growth", {"jobs": 3, "cluster": None})),
        ("growth --cluster tcp://a:1", ("growth.growth", {"jobs": None, "cluster": "tcp://a:1"})),
        ("risk", ("risk.risk", {"recipe": "default", "jobs": None, "cluster": None})),
        (
            "risk --recipe none --networks 8 --jobs 3",
            ("risk.risk", {"recipe": "none", "jobs": 3, "cluster": None}),
        ),
        ("risk --owners", ("owners.measure", {})),
    ],
)
def test_the_commands_behind_notebook_06_call_one_function_each(line, called, monkeypatch):
    seen = []
    for name in (
        "beyond.beyond",
        "beyond.choices",
        "strongest.choices",
        "strongest.confirm",
        "imitation.imitation",
        "taught.teaching",
        "online.online",
        "camvid.camvid_beyond",
        "epsilon.audit",
        "tightness.measure",
        "caught.measure",
        "growth.growth",
        "owners.measure",
        "risk.risk",
    ):

        def note(*_, name=name, **options):
            seen.append((name, options))

        monkeypatch.setattr(f"segleak_utils.studies.{name}", note)
    assert run.main(["--no-install", *line.split()]) == 0
    assert seen == [called]


@pytest.mark.parametrize(
    "line",
    [
        "audit.yml --members a b --nonmembers c --data.grid 8192 --fail-above auc=0.60",
        "--help", "init x", "audit.yml --quiet --train-references 2 --from a b -- c",
    ],
)  # fmt: skip
def test_an_audit_gets_all_that_was_typed(line, monkeypatch):
    seen = []

    def main(arguments):
        seen.append(arguments)
        return 4

    monkeypatch.setattr("segleak_utils.audit.command.main", main)
    assert run.main(["--no-install", "audit", *line.split()]) == 4
    assert seen == [line.split()]


@pytest.mark.parametrize(
    "line", ["defenses --camvid DIR --only argmax", "beyond --choices --online"]
)
def test_what_excludes_each_other_is_not_taken_in_silence(line, capsys):
    with pytest.raises(SystemExit):
        run.main(["--no-install", *line.split()])
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_a_message_not_a_traceback(monkeypatch, capsys):
    def unreachable(*_, **__):
        raise ConnectionError("no Dask scheduler answers at tcp://a:1")

    monkeypatch.setattr("segleak_utils.studies.growth.growth", unreachable)
    assert run.main(["--no-install", "growth", "--cluster", "tcp://a:1"]) == 1
    assert capsys.readouterr().err.startswith("segleak: no Dask scheduler")
    with pytest.raises(SystemExit):
        run.main(["--no-install", "growth", "--jobs", "0"])


@pytest.mark.parametrize("below", ["file", "file/build"])
def test_a_build_folder_that_cannot_be_written_is_one_sentence(tmp_path, capsys, below):
    (tmp_path / "file").write_text("no folder")
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "00_a.ipynb")
    line = ["--no-install", f"--notebooks={tmp_path}", f"--build={tmp_path / below}"]
    assert run.main(line) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"segleak: {tmp_path / 'file'}") and "cannot be written: " in shown
    assert shown.count("\n") == 1
    assert run.main([*line, "lab"]) == 1
    assert "cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "called"),
    [
        ("weights", "weights.train_weights"),
        ("camvid --root DIR", "camvid.camvid_experiment"),
        ("defenses --only argmax", "frontier.measure"),
        ("beyond", "beyond.beyond"),
        ("paper CONFIG train --root a=b", "paper.run_of"),
    ],
)
@pytest.mark.parametrize("number", ["EACCES", "EROFS", "ENOSPC"])
def test_a_folder_that_may_not_be_written_is_one_sentence(
    line, called, number, monkeypatch, capsys
):
    def refused(*_, **__):
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code), "/data/weights/.manifest.json.lock")

    monkeypatch.setattr(f"segleak_utils.studies.{called}", refused)
    assert run.main(["--no-install", *line.split()]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("segleak: /data/weights/.manifest.json.lock cannot be written: ")
    assert shown.count("\n") == 1


def test_a_complaint_names_what_cannot_be_read_and_passes_others_on(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("")
    monkeypatch.setattr(os, "access", lambda path, how: False)
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "a"))
    assert run.complaint(denied).startswith(f"{tmp_path / 'a'} cannot be read: Permission denied")
    assert run.complaint(OSError("is the disk full?")) == "is the disk full?"
    missing = FileNotFoundError(errno.ENOENT, "No such file", "b")
    assert run.complaint(missing) == str(missing)


def test_test_command_returns_the_worst_code_and_runs_pytest_last(monkeypatch):
    called, codes = [], iter([0, 1, 0])
    monkeypatch.setattr(
        "segleak_utils.run.commands.relay",
        lambda command, env: called.append(command[2]) or next(codes),
    )
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    assert run.main(["--no-install", "test", "-x"]) == 1
    assert called == ["ruff", "ruff", "pytest"]


@pytest.mark.parametrize("words", [["-m", "not slow"], ["tests/test_run.py::test_x", "-k", "a"]])
def test_two_processes_share_out_the_tests_unless_files_are_named(monkeypatch, words):
    called = []
    monkeypatch.setattr(
        "segleak_utils.run.commands.relay", lambda command, env: called.append(command) or 0
    )
    monkeypatch.chdir(environment.ROOT)
    assert run.main(["--no-install", "test", *words]) == 0
    assert called[-1][2:] == [
        "pytest",
        *(commands.SIDE_BY_SIDE if words[0] == "-m" else []),
        *words,
    ]
