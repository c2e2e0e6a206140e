"""The environment of the checkout: which packages it needs, and a `.venv` with them if need be."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
STAMP = "segleak.stamp"
EXTRA = "all"  # what is installed beside the core
# On Linux x86_64, where torch brings CUDA: in the environment, and archives beside it meanwhile.
INSTALLED_GB, ARCHIVES_GB = 7, 3.5
INTERRUPTED = 130  # the shell's exit code for Ctrl-C
RELAUNCHED = "SEGLEAK_RELAUNCHED"


def check_python(version: tuple[int, ...]) -> None:
    """Raise SystemExit for a Python that the packages do not support."""
    found = ".".join(str(part) for part in version[:3])
    if version < (3, 11):
        raise SystemExit(f"segleak needs Python 3.11 or newer; this is Python {found}.")
    if version >= (3, 15) or version[:3] == (3, 14, 1):
        raise SystemExit(
            f"This is Python {found}, for which some packages have no release that was tested: "
            "use Python 3.11, 3.12, 3.13 or 3.14 (not 3.14.1)."
        )


def requirements(root: Path = ROOT) -> list[str]:
    """Return what `EXTRA` of pyproject.toml comes to, e.g. ``["torch>=2.9,<2.16", …]``."""
    import tomllib

    path = root / "pyproject.toml"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: run segleak from a checkout of its repository.")
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    (everything,) = project["optional-dependencies"][EXTRA]  # segleak[train,dp,…]
    extras = everything.partition("[")[2].rstrip("]").split(",")
    parts = [project["dependencies"], *(project["optional-dependencies"][e] for e in extras)]
    return [text for part in parts for text in part]


def unmet(wanted: list[str]) -> list[str]:
    """Say which requirements the running interpreter does not meet; empty if it meets them all."""
    from importlib import metadata

    try:
        from packaging.requirements import Requirement
    except ImportError:  # then only presence is checked; packaging itself is on the list
        Requirement = None
    problems = []
    for text in wanted:
        name = re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed")
            continue
        if Requirement and not Requirement(text).specifier.contains(version, prereleases=True):
            problems.append(f"{name} {version} is outside {text}")
    return problems


def torch_pair_broken() -> str:
    """Return why torchvision does not import beside the installed torch, or an empty string.

    The metadata of a CPU-only torch and an ordinary torchvision agree, yet the import fails.
    """
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        return f"torchvision does not import beside the installed torch ({error})"
    return ""


def venv_python(folder: Path) -> Path:
    """Return the interpreter inside a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def relay(command: list[object], env: dict[str, str] | None = None) -> int:
    """Run a command that shares this terminal and return its exit code.

    Ctrl-C reaches the command by itself, so here it only means: wait for it to clean up. A command
    that then ends in failure counts as interrupted, whatever its own code (pip's is 1).
    """
    process = subprocess.Popen([str(part) for part in command], env=env)
    if os.name == "posix":
        previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    patience, interrupted = None, False
    try:
        while True:
            try:
                code = process.wait(patience)
                if code and interrupted:
                    return INTERRUPTED
                return code if code >= 0 else 128 - code  # died of signal N: 128 + N, as shells do
            except KeyboardInterrupt:
                interrupted = True
                # Without a terminal the signal may have come to this process alone: pass it on.
                patience = None if sys.stdin and sys.stdin.isatty() else 2.0
            except subprocess.TimeoutExpired:
                first = os.name == "posix" and patience == 2.0
                process.send_signal(signal.SIGINT if first else signal.SIGTERM)
                patience = 10.0 if first else None
    finally:
        if os.name == "posix":
            signal.signal(signal.SIGTERM, previous)


def child_environment(**extra: str) -> dict[str, str]:
    """Return os.environ with the checkout first on PYTHONPATH, UTF-8 output, and `extra`."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(part for part in paths if part)
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", **extra}


def _exits_well(python: Path, code: str) -> bool:
    return not subprocess.call([str(python), "-c", code], stderr=subprocess.DEVNULL)


def _too_little(folder: Path) -> str:
    """Warn of a disk that may not hold the packages, or their archives while they are unpacked.

    Only a warning: where an installation goes on, some of it is there already.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return ""
    places = [(folder.parent, INSTALLED_GB), (Path(tempfile.gettempdir()), ARCHIVES_GB)]
    if len({os.stat(place).st_dev for place, _ in places}) == 1:
        places = [(folder.parent, INSTALLED_GB + ARCHIVES_GB)]
    tight = [
        f" The disk of {place} has {free:.1f} GB free; up to {needed:g} GB are needed meanwhile."
        for place, needed in places
        if (free := shutil.disk_usage(place).free / 1e9) < needed
    ]
    return "".join(tight)


def make_venv(folder: Path = VENV, root: Path = ROOT) -> Path:
    """Make (or bring up to date) the virtual environment of the checkout; return its interpreter.

    A stamp, written last, holds the hash of what was installed: an interrupted or an outdated
    installation is done again, pip keeps what is already right.
    """
    python = venv_python(folder)
    sources = [root / "pyproject.toml", root / "constraints.txt"]
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = folder / STAMP
    runs, has_pip = (python.exists() and _exits_well(python, code) for code in ("", "import pip"))
    if has_pip and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    print(
        f"segleak: making {folder} and installing the packages, once: about {INSTALLED_GB} GB on "
        f"Linux x86_64 (less elsewhere), a few minutes.{_too_little(folder)}",
        flush=True,
    )
    if not has_pip:
        if importlib.util.find_spec("ensurepip") is None:
            raise SystemExit(
                "This Python cannot make virtual environments (its module ensurepip is missing). "
                "On Debian and Ubuntu: sudo apt install python3-venv, then run the same line again."
            )
        venv.EnvBuilder(with_pip=True, clear=not runs, symlinks=os.name != "nt").create(folder)
    stamp.unlink(missing_ok=True)
    what = ["--constraint", root / "constraints.txt", "--editable", f"{root}[{EXTRA}]"]
    code = relay(
        [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", *what],
        env={**os.environ, "PIP_USER": "0"},  # a --user default of the user's fails in .venv
    )
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise SystemExit(
            f"pip could not install the packages (exit code {code}, its reason is above). "
            "Mend that, then run the same line again: it goes on from there."
        )
    # By all cores, where pip takes one. Where PYTHONDONTWRITEBYTECODE is set, every start of a
    # process would compile what it imports anew: torch alone takes twice as long then.
    relay([python, "-m", "compileall", "-qq", "-j", "0", folder, root / "segleak_utils"])
    stamp.write_text(wanted, encoding="utf-8")
    return python


def bootstrap(arguments: list[str]) -> int | None:
    """Return None if this interpreter has all packages, else run the same command in .venv.

    In the second case the exit code of that run is returned.
    """
    relaunched = os.environ.pop(RELAUNCHED, None)
    problems = unmet(requirements())
    at_home = Path(sys.prefix).resolve() == VENV.resolve()
    if not problems and not at_home:
        problems = [problem for problem in [torch_pair_broken()] if problem]
    if not problems:
        return None
    if relaunched:
        raise SystemExit(
            f"{VENV} was installed, yet packages are missing: {'; '.join(problems)}. "
            "Delete that folder and run the same line again."
        )
    python = make_venv()
    command = [python, "-m", "segleak_utils.run", *arguments]
    return relay(command, env=child_environment(**{RELAUNCHED: "1"}))
