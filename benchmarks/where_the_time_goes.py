"""Where the seconds of a run went, from what py-spy saw: a line for each kind of work.

    py-spy record --nonblocking --rate 20 --subprocesses --format raw --output seen.txt -- \\
        python -m segleak_utils.run --no-install
    python benchmarks/where_the_time_goes.py seen.txt --rate 20

A sample is what one Python thread of one process was doing; those that wait are left out. So the
seconds are those of all processes together, of which as many go on at a time as there are cores.
A thread that waits for the other threads of its own convolution is at work.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

# Looked for from the innermost frame outwards; the first that is found says what the work is.
KINDS = (
    ("drawing scenes", ("synthstreets/canvas", "synthstreets/scene", "synthstreets/things")),
    ("imports", ("importlib._bootstrap",)),
    ("patch networks", ("attacks/patches", "attacks/patchnets", "attacks/windows")),
    ("training", ("victims/training", "victims/dpsgd", "attacks/peers", "opacus/")),
    ("checks of input", ("segleak_utils/checks", "data/twins")),
    ("forward passes of networks", ("victims/networks", "encoders/", "timm/models", "_answer (")),
    ("releases of posteriors", ("segleak_utils/defenses",)),
    ("checksums", ("hashlib.py", "checksum (", "fingerprint (")),
    (
        "softmax, loss maps, features",
        ("representations", "attacks/re", "attacks/evidence", "victims/asking", "victims/iou"),
    ),
    ("regressions", ("sklearn/", "scipy/optimize")),
    ("statistics", ("segleak_utils/metrics",)),
    ("figures", ("segleak_utils/figures", "matplotlib/", "seaborn/")),
    ("reading scenes and the cache", ("data/scenes", "studies/cache", "segleak_utils/whole")),
    ("notebooks: running, pages", ("nbconvert/", "nbformat/", "papermill/", "nbclient/")),
)
WAITING = (
    "wait (", "select (", "poll (", "_recv (", "_try_wait (", "sleep (", "run (tqdm/_monitor",
    "device (zmq", "GarbageCollectorThread", "_shutdown (", "accept (", "readline (",
    "communicate (",
    "_worker (concurrent/futures/thread", "run_forever", "_poll_", "get (queue", "recv_bytes (",
    "_watch_pipe_fd (", "ParentPoller", "resource_tracker",
)  # fmt: skip


def kind_of(frames: list[str]) -> str | None:
    """What a stack, outermost frame first, was doing; None if it waited."""
    if any(word in frames[-1] for word in WAITING):
        return None
    for frame in reversed(frames):
        for kind, words in KINDS:
            if any(word in frame for word in words):
                return kind
    return "other"


def seconds(path: Path, rate: float) -> Counter:
    """Seconds of work by kind, from py-spy's raw format: ``frame;frame;… count``."""
    found: Counter = Counter()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        stack, _, count = line.rpartition(" ")
        if not count.isdigit() or ";" not in stack:
            continue  # py-spy was cut off here, or it is a line of a script on a command line
        kind = kind_of(stack.split(";"))
        if kind:
            found[kind] += int(count) / rate
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seen", type=Path, nargs="+", help="py-spy's raw output")
    parser.add_argument("--rate", type=float, default=20, help="samples a second (20)")
    options = parser.parse_args()
    found = sum((seconds(path, options.rate) for path in options.seen), Counter())
    total = sum(found.values())
    print("| what is done | seconds | share |\n|---|---|---|")
    for kind, value in found.most_common():
        print(f"| {kind} | {value:.0f} | {value / total:.0%} |")
    print(f"| all | {total:.0f} | |")


if __name__ == "__main__":
    main()
