"""One command for everything: it makes its own environment if need be, then runs, tests or opens.

    python3 -m segleak_utils.run            run all notebooks, print the table
    python3 -m segleak_utils.run test       ruff and the tests
    python3 -m segleak_utils.run lab        open JupyterLab
    python3 -m segleak_utils.run site       executed notebooks, docs and docstrings as pages
    python3 -m segleak_utils.run weights    retrain what is shipped in weights/
    python3 -m segleak_utils.run camvid --root DIR
    python3 -m segleak_utils.run defenses [--only NAME] [--camvid DIR]
    python3 -m segleak_utils.run beyond [--camvid DIR] | epsilon | growth | risk
    python3 -m segleak_utils.run audit audit.yml    your own model, see docs/audit.md
    python3 -m segleak_utils.run paper CONFIG STEP --root NAME=DIR    see docs/reproduce.md

Only the standard library is imported at module level, and the syntax is kept old, so that a bare
Python can start this file and an outdated one still says what is wrong.
"""

from __future__ import annotations

import argparse
import ast
import errno
import hashlib
import importlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = "segleak.stamp"
EXTRA = "all"  # what is installed beside the core
SIDE_BY_SIDE = ["-n", "auto", "--dist", "loadgroup", "--no-loadscope-reorder"]
INTERRUPTED = 130  # the shell's exit code for Ctrl-C
RELAUNCHED = "SEGLEAK_RELAUNCHED"
REFUSED = ("EACCES", "EPERM", "EROFS", "ENOSPC", "ENOTDIR", "EISDIR", "EEXIST")  # writing was


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
        f"segleak: making {folder} and installing the packages, once: about 6 GB on Linux x86_64 "
        "(less elsewhere), a few minutes.",
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


def parse_override(text: str) -> tuple[str, object]:
    """Split ``NAME=VALUE``; a VALUE that is a Python (or JSON) literal becomes that literal."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    words = {"true": True, "false": False, "null": None}
    if value.lower() in words:
        return name, words[value.lower()]
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(
        prog="python3 -m segleak_utils.run",
        description="Without a command: run all notebooks, results in build/, and print the table.",
    )
    top.add_argument("--no-install", action="store_true", help="use this Python as it is")
    top.add_argument("--preset", choices=["quick", "full"], help="size of the notebooks' run")
    top.add_argument("--only", metavar="02,03", help="run only the notebooks with these numbers")
    top.add_argument(
        "-p",
        dest="overrides",
        metavar="NAME=VALUE",
        action="append",
        type=parse_override,
        default=[],
        help="a parameter, for every notebook that has it; repeatable",
    )
    top.add_argument(
        "--jobs", type=_at_least(1), metavar="N", help="notebooks side by side (2, on two cores)"
    )
    top.add_argument("--cell-timeout", type=int, default=3600, metavar="SECONDS")
    top.add_argument("--notebooks", type=Path, default=ROOT / "notebooks", help=argparse.SUPPRESS)
    top.add_argument("--build", type=Path, default=ROOT / "build", help=argparse.SUPPRESS)
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("test", help="ruff and the tests; further arguments go to pytest")
    lab = commands.add_parser(
        "lab", help="copies of the notebooks (build/lab) in JupyterLab; further arguments go to it"
    )
    lab.add_argument("--reset", action="store_true", help="all copies anew; yours are kept beside")
    commands.add_parser("site", help="the executed notebooks and the docs as pages (build/site)")
    weights = commands.add_parser("weights", help="train what is missing in weights/")
    weights.add_argument("names", nargs="*", metavar="NAME", help="to be trained again")
    weights.add_argument("--force", action="store_true", help="everything again")
    defenses = commands.add_parser("defenses", help="every defence, both attackers, and its price")
    defenses.add_argument("--nonmembers", type=int, default=1000, metavar="N", help="(1000)")
    which = defenses.add_mutually_exclusive_group()
    which.add_argument("--camvid", type=Path, metavar="DIR", help="on CamVid instead")
    which.add_argument(
        "--only",
        dest="services",
        action="append",
        metavar="NAME",
        help='one beside no defence, by the quick attacks, e.g. "top 3"; repeatable',
    )
    beyond = commands.add_parser("beyond", help="the contest of all attacks on all victims")
    which = beyond.add_mutually_exclusive_group()
    which.add_argument("--camvid", type=Path, metavar="DIR", help="on CamVid instead")
    which.add_argument("--choices", action="store_true", help="what was chosen on shadows instead")
    which.add_argument("--strongest", action="store_true", help="its forms, on shadows, instead")
    which.add_argument("--confirm", action="store_true", help="on a fresh victim instead; trains")
    which.add_argument("--imitate", action="store_true", help="imitative references; trains")
    which.add_argument("--teach", action="store_true", help="and taught the images; trains")
    which.add_argument("--online", action="store_true", help="online LiRA instead; trains")
    commands.add_parser(
        "audit", add_help=False, allow_abbrev=False, help="your own model: audit --help has more"
    )
    epsilon = commands.add_parser("epsilon", help="what DP-SGD promised, and what attacks can show")
    epsilon.add_argument(
        "--canaries",
        nargs="?",
        const=True,
        default=False,
        type=_at_least(64),
        metavar="N",
        help="trains with canaries, too; with N (10000): audits a training by its noisy sums alone",
    )
    which = epsilon.add_mutually_exclusive_group()
    which.add_argument(
        "--step", metavar="FILE.py:NAME", help="with --canaries N: your own training, see docs"
    )
    which.add_argument("--faults", action="store_true", help="the audit that goes red, instead")
    which.add_argument("--tight", action="store_true", help="how tight it is, instead; trains")
    growth = commands.add_parser(
        "growth", help="leakage against members, epochs, augmentation, size"
    )
    growth.add_argument("--jobs", type=_at_least(1), metavar="N", help="processes (one a core)")
    growth.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler's, instead")
    risk = commands.add_parser("risk", help="each scene's own risk: networks trained on halves")
    risk.add_argument("--networks", type=_at_least(4), default=32, metavar="N", help="(32)")
    which = risk.add_mutually_exclusive_group()
    which.add_argument("--recipe", metavar="NAME", help='of another recipe: "half as long", ...')
    which.add_argument("--owners", action="store_true", help="streets seen several times; trains")
    risk.add_argument("--jobs", type=_at_least(1), metavar="N", help="processes (one a core)")
    risk.add_argument("--cluster", metavar="ADDRESS", help="a Dask scheduler's, instead")
    camvid = commands.add_parser("camvid", help="run the same chain on a CamVid folder")
    camvid.add_argument("--root", type=Path, required=True, metavar="DIR")
    # SUPPRESS: do not overwrite a --preset given before
    camvid.add_argument("--preset", choices=["quick", "full"], default=argparse.SUPPRESS)
    _add_paper(commands)
    return top


def _at_least(low: int) -> Callable[[str], int]:
    """A whole number of an option, `low` or more."""

    def number(text: str) -> int:
        if int(text) < low:
            raise argparse.ArgumentTypeError(f"{text}: expected {low} or more")
        return int(text)

    return number


def _add_paper(commands: argparse._SubParsersAction) -> None:
    """The commands of docs/reproduce.md."""
    labels = commands.add_parser("labels", help="Mapillary's labels as Cityscapes train ids")
    labels.add_argument("--mapillary", type=Path, required=True, metavar="DIR")
    encoder = commands.add_parser("encoder", help="fetch ImageNet weights (needs a network)")
    encoder.add_argument("name", metavar="NAME", help="e.g. resnet50")
    examples = commands.add_parser("examples", help="the authors' example posteriors and attackers")
    examples.add_argument("--root", type=Path, required=True, metavar="DIR")
    examples.add_argument("--attackers", type=Path, required=True, metavar="DIR")
    examples.add_argument("--patches", type=int, default=6, metavar="N", help="an image (6)")
    examples.add_argument("--argmax", action="store_true", help="attack what argmax leaves")
    examples.add_argument("--gauss", type=float, default=0.0, metavar="STD", help="add noise first")
    examples.add_argument("--dpsgd", action="store_true", help="the victim trained by DP-SGD")
    examples.add_argument("--dilated", action="store_true", help="the attackers are dilated")
    examples.add_argument("--seed", type=int, default=0, metavar="N", help="of patches and noise")
    paper = commands.add_parser("paper", help="the paper's settings on its data sets")
    paper.add_argument("config", type=Path, metavar="CONFIG", help="e.g. configs/dependent.yml")
    paper.add_argument("step", choices=["train", "posteriors", "attack"])
    paper.add_argument(
        "--root",
        dest="roots",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="folder of cityscapes, bdd100k or mapillary; repeatable",
    )
    paper.add_argument("--lists", type=Path, metavar="DIR", help="the published split lists")
    paper.add_argument("--out", type=Path, metavar="DIR", help="(build/paper/NAME)")
    paper.add_argument("--network", metavar="NAME", help="train only this one")
    paper.add_argument("--processes", type=_at_least(1), metavar="N", help="to train (one a GPU)")
    paper.add_argument("--workers", type=_at_least(0), default=0, metavar="N", help="readers (0)")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line; ``rest`` is what `test` and `lab` pass on."""
    top = parser()
    options, options.rest = top.parse_known_args(arguments)
    if options.rest and options.command not in ("test", "lab", "audit"):
        top.error(f"unrecognized arguments: {' '.join(options.rest)}")
    return options


def run_tests(rest: list[str]) -> int:
    """Run ruff and pytest; return the worst exit code. pytest's last line is printed last.

    Where no files are named, two processes share out the tests (`tests/conftest.py`).
    """
    os.chdir(ROOT)
    named = any(Path(word.partition("::")[0]).exists() for word in rest)
    tests = ["pytest", *([] if named else SIDE_BY_SIDE), *rest]
    commands = [["ruff", "check", "."], ["ruff", "format", "--check", "."], tests]
    codes = []
    for command in commands:
        print("segleak:", *command, flush=True)
        codes.append(relay([sys.executable, "-m", *command], env=child_environment()))
        if codes[-1] == INTERRUPTED:
            break
        if codes[-1] and command[0] == "ruff":
            print("segleak: ruff complains, this run will fail.", flush=True)
    return max(codes)


def notebooks(options: argparse.Namespace) -> int:
    """Run the notebooks headlessly and print the table."""
    from segleak_utils.running import execution

    overrides = dict(options.overrides)
    if options.preset:
        overrides["preset"] = options.preset
    only = tuple(part.strip() for part in (options.only or "").split(",") if part.strip())
    try:
        execution.run_notebooks(
            options.notebooks,
            options.build,
            only=only,
            overrides=overrides,
            cell_timeout=options.cell_timeout,
            jobs=options.jobs,
        )
    except (execution.NotebookError, ValueError, FileNotFoundError) as error:
        print(f"segleak: {error}", file=sys.stderr)
        return 1
    return 0


def dispatch(options: argparse.Namespace) -> int:
    """Run the chosen command in this interpreter, which has all packages; return its exit code."""
    if options.command == "test":
        return run_tests(options.rest)
    if options.command == "lab":
        from segleak_utils.running import copies, execution

        own = options.build / "lab"
        for line in copies.copy_notebooks(options.notebooks, own, reset=options.reset):
            print(f"segleak: {line}", flush=True)
        command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={own}"]
        kernels = execution.kernel_environment(options.build)
        return relay([*command, *options.rest], env={**child_environment(), **kernels})
    if options.command == "site":
        from segleak_utils.running import site

        return site.main(options.build)
    if options.command == "audit":
        from segleak_utils.audit import command

        return command.main(options.rest)
    if options.command in ("beyond", "epsilon", "growth", "risk"):
        return beyond_the_paper(options)
    if options.command in ("weights", "camvid", "defenses"):
        from segleak_utils import studies
        from segleak_utils.studies import camvid, frontier, weights

        try:
            if options.command == "weights":
                weights.train_weights(options.names, force=options.force)
            elif options.command == "camvid":
                camvid.camvid_experiment(options.root, preset=options.preset or "full")
            elif options.camvid:
                camvid.camvid_defenses(options.camvid, preset=options.preset or "full")
            else:
                plan = studies.Plan(studies.Sizes(n_nonmembers=options.nonmembers))
                chosen, wanted = frontier.services(), None
                if options.services:
                    chosen, wanted = frontier.named(options.services), {}
                found = frontier.measure(frontier.synthstreets(plan), chosen, wanted=wanted)
                print(frontier.table(found))
        except (ValueError, FileNotFoundError) as error:
            print(f"segleak: {error}", file=sys.stderr)
            return 1
        return 0
    if options.command in ("labels", "encoder", "examples", "paper"):
        return reproduce(options)
    return notebooks(options)


def beyond_the_paper(options: argparse.Namespace) -> int:
    """Run one of the commands behind notebook 06; return its exit code."""
    from segleak_utils.studies import (
        beyond,
        camvid,
        experiment,
        growth,
        imitation,
        online,
        owners,
        risk,
        strongest,
        taught,
    )

    try:
        plan = experiment.plan_of(options.preset or "quick")
        if options.command == "epsilon":
            return promises(options, plan)
        elif options.command == "growth":
            growth.growth(plan, jobs=options.jobs, cluster=options.cluster)
        elif options.command == "risk" and options.owners:
            owners.measure(plan)
        elif options.command == "risk":
            risk.risk(
                plan,
                options.networks,
                recipe=options.recipe or risk.DEFAULT,
                jobs=options.jobs,
                cluster=options.cluster,
            )
        elif options.camvid:
            camvid.camvid_beyond(options.camvid, preset=options.preset or "full")
        elif options.choices:
            beyond.choices(plan)
        elif options.strongest:
            strongest.choices(plan)
        elif options.confirm:
            strongest.confirm(plan)
        elif options.imitate:
            imitation.imitation(plan)
        elif options.teach:
            taught.teaching(plan)
        elif options.online:
            online.online(plan)
        else:
            beyond.beyond(plan)
    except ValueError as error:
        print(f"segleak: {error}", file=sys.stderr)
        return 1
    return 0


def promises(options: argparse.Namespace, plan: object) -> int:
    """Run one of the audits of DP-SGD; return its exit code, 3 for a promise that is refuted."""
    from segleak_utils.studies import canary_audit, caught, epsilon, tightness

    counted = options.canaries not in (True, False)
    if options.step and not counted:
        raise ValueError("--step FILE.py:NAME needs --canaries N, the number of canaries")
    if options.faults:
        caught.measure(plan)
    elif options.tight:
        tightness.measure(plan)
    elif counted:
        return canary_audit.command(plan, options.canaries, options.step)
    else:
        epsilon.audit(plan, canaries=options.canaries)
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """Run one of the commands of docs/reproduce.md; return its exit code."""
    from segleak_utils import data
    from segleak_utils.studies import paper, published
    from segleak_utils.victims import encoders

    try:
        if options.command == "labels":
            converted, kept = data.convert_mapillary(options.mapillary)
            print(f"segleak: {converted} labels converted, {kept} were there already")
        elif options.command == "encoder":
            path = ROOT / "build" / "encoders" / f"{options.name}.safetensors"
            print(f"segleak: {path}, SHA-256 {encoders.fetch_encoder(options.name, path)}")
        elif options.command == "examples":
            told = {"kind": "dpsgd" if options.dpsgd else "sgd", "argmax": options.argmax}
            told |= {"gaussian_std": options.gauss, "n_patches": options.patches}
            told |= {"dilated": options.dilated, "seed": options.seed, "progress": True}
            print(published.table(options.root, options.attackers, **told))
        else:
            run = paper.run_of(options.config, options.roots, options.lists, options.out)
            if options.step == "train":
                only, processes = options.network, options.processes
                paper.train(run, options.config, only=only, processes=processes)
            elif options.step == "posteriors":
                paper.posteriors(run, workers=options.workers)
            else:
                paper.attack(run)
    except ValueError as error:
        print(f"segleak: {error}", file=sys.stderr)
        return 1
    return 0


def complaint(error: OSError) -> str:
    """What the system refused, in one sentence: which file or folder, and why."""
    if error.filename is None or errno.errorcode.get(error.errno) not in REFUSED:
        return str(error)
    path = Path(os.fsdecode(error.filename))
    unread = path.is_file() and not os.access(path, os.R_OK)
    deed = "read" if unread else "written"
    return f"{path} cannot be {deed}: {error.strerror}. Mend that, or name another folder"


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, see to the packages, run the command; return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a Windows console may know no "…"
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    check_python(tuple(sys.version_info[:3]))
    options = parse(arguments)
    try:
        code = None if options.no_install else bootstrap(arguments)
        return dispatch(options) if code is None else code
    except KeyboardInterrupt:
        print("\nsegleak: stopped. The same line starts again.", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:  # a ConnectionError, too
        print(f"segleak: {complaint(error)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
