"""How long each statistic takes, and how much memory, as the images grow: a table in Markdown.

    python benchmarks/statistics.py [--sizes 1000 10000 100000]

As many members as non-members; scores of two attacks on the same images. Memory is the largest
amount that NumPy held at once beyond its inputs.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from segleak_utils import metrics

DELTA = 1e-5


def statistics(n: int) -> dict[str, Callable[[], object]]:
    """Each statistic on n members and n non-members."""
    rng = np.random.default_rng(n)
    member = np.arange(2 * n) < n
    a = rng.normal(size=2 * n) + member
    b = a + rng.normal(size=2 * n)
    threshold = metrics.best_threshold(a, member)
    return {
        "`auc` (DeLong)": lambda: metrics.auc(a, member),
        "`paired_auc_difference` (2000 resamples)": lambda: metrics.paired_auc_difference(
            a, b, member, seed=0
        ),
        "`paired_tpr_difference`, 1 % (2000 draws)": lambda: metrics.paired_tpr_difference(
            a, b, member, 0.01, seed=0
        ),
        "`tpr_at_fpr`, 1 %": lambda: metrics.tpr_at_fpr(a, member, 0.01),
        "`roc`": lambda: metrics.roc(a, member),
        "`best_threshold`": lambda: metrics.best_threshold(a, member),
        "`balanced_accuracy_at`": lambda: metrics.balanced_accuracy_at(a, member, threshold),
        "`mean_difference`": lambda: metrics.mean_difference(a, member),
        "`audited` (bound on ε)": lambda: metrics.audited(a, member, DELTA, seed=0),
    }


def cost(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the second call, and MB at most during a third."""
    work()
    begun = time.perf_counter()
    work()
    taken = time.perf_counter() - begun
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken, peak / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    sizes = parser.parse_args().sizes
    found = [{name: cost(work) for name, work in statistics(n).items()} for n in sizes]
    print("| statistic | " + " | ".join(f"n = {n:,}" for n in sizes) + " |")
    print("|---" * (1 + len(sizes)) + "|")
    for name in found[0]:
        cells = (f"{1000 * of[name][0]:,.1f} ms, {of[name][1]:,.1f} MB" for of in found)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
