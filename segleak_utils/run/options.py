"""The command line: its commands and their options."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable
from pathlib import Path

from segleak_utils.run.environment import ROOT


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
