"""Sums that a reader does without a kernel: what an accusation is worth, what (ε, δ) promises.

The numbers travel in the notebook's output under a MIME type of their own; on a page
(`running.pages`) a small script does the same arithmetic as here, at any place of the handles.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from IPython.display import display

from segleak_utils.checks import numbers
from segleak_utils.figures.frames import WANTED
from segleak_utils.metrics import Interval, approximate_curve, precision_at, precision_of

MIME = "application/vnd.segleak.sums+json"  # as in running.pages
ASKED = 10_000  # images
# Between which powers of ten a handle moves, in hundredths.
LOGS = {"ε": (-2, 1.3), "δ": (-7, -2), "FPR": (-4, -0.3), "prior": (-3, -0.3)}
PARTS = ("value", "low", "high")


def worth(fprs: Sequence[float], found: Mapping[str, Sequence[Interval]], start: float) -> dict:
    """What is known of some attacks: their TPR, with its interval, at each of these FPRs.

    start: where the handle of the FPR begins. ValueError for an attack with other numbers of TPRs.

    >>> told = worth([0.01], {"RMIA": [Interval(0.35, 0.2, 0.5, 100, 900)]}, 0.01)
    >>> print(*worth_says(told, 0, 0, 0.01).split(". "), sep="; ")
    RMIA at 1.0 % FPR: TPR .350 [.200, .500]; Of 10,000 images 100 are members (1.0 %): 35 [20, \
50] are found, 65 [50, 80] are missed; Of the other 9,900, 99 are accused; Precision .26 [.17, .34].
    """
    fprs = [numbers.real(fpr, "an FPR", 0, 1, ends="(]") for fpr in fprs]
    for name, rates in found.items():
        if len(rates) != len(fprs):
            raise ValueError(f"{name} has {len(rates)} TPRs; expected {len(fprs)}, as many as FPRs")
    attacks = [
        {"name": name, **{part: [getattr(r, part) for r in rates] for part in PARTS}}
        for name, rates in found.items()
    ]
    first = next(iter(found.values()))[0]
    nearest = min(range(len(fprs)), key=lambda k: abs(fprs[k] - start))
    return {
        "kind": "worth",
        "fpr": fprs,
        "attacks": attacks,
        "n": [first.n_members, first.n_nonmembers],
        "logs": {"prior": LOGS["prior"]},
        "start": [0, nearest, -2],
    }


def worth_says(told: Mapping, attack: int, k: int, prior: float) -> str:
    """The page's sentence for one attack, at its k-th FPR and a prior."""
    of, fpr = told["attacks"][attack], told["fpr"][k]
    rate = Interval(*(of[part][k] for part in PARTS), *told["n"])
    members, others = ASKED * prior, ASKED * (1 - prior)
    hits = f"{members * rate.value:.0f} [{members * rate.low:.0f}, {members * rate.high:.0f}]"
    missed = [members * (1 - x) for x in (rate.value, rate.high, rate.low)]
    return (
        f"{of['name']} at {percent(fpr)} FPR: TPR {rate:.3}. Of {ASKED:,} images {members:.0f} are "
        f"members ({percent(prior)}): {hits} are found, {missed[0]:.0f} [{missed[1]:.0f}, "
        f"{missed[2]:.0f}] are missed. Of the other {others:,.0f}, {others * fpr:.0f} are accused. "
        f"Precision {precision_of(rate, fpr, prior)}."
    )


def promise(epsilon: float, delta: float) -> dict:
    """What (epsilon, delta) promises, the handles beginning there.

    >>> print(promise_says(2.0, 1e-5, 0.01, 0.01).partition("; ")[0])
    (ε, δ) = (2.00, 1.0e-5): at 1.0 % FPR no attack finds more than 7.4 % of the members on \
average, whatever it knows
    """
    start = [_place(epsilon, *LOGS["ε"]), _place(delta, *LOGS["δ"]), -2, -2]
    return {"kind": "promise", "logs": LOGS, "start": start}


def promise_says(epsilon: float, delta: float, fpr: float, prior: float) -> str:
    """The page's sentence: the highest TPR and precision that (epsilon, delta) leaves an attack.

    Of one image that is added or removed, to an attacker who may know all others.
    """
    most = float(approximate_curve(epsilon, delta)(fpr))
    right = precision_at(most, fpr, prior)
    return (
        f"(ε, δ) = ({epsilon:.2f}, {_small(delta)}): at {percent(fpr)} FPR no attack finds more "
        f"than {percent(most)} of the members on average, whatever it knows; who guesses finds "
        f"{percent(fpr)}. Where {percent(prior)} are members, at most {percent(right)} of its "
        "accusations are right."
    )


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.35), percent(0.035), percent(0.0035)
    ('35 %', '3.5 %', '0.35 %')
    """
    return f"{100 * share:.{0 if share >= 0.0995 else 1 if share >= 0.00995 else 2}f} %"


def show(told: Mapping) -> None:
    """Say what holds where the handles begin; where pages are made, with the numbers beside it."""
    start = told["start"]
    if told["kind"] == "worth":
        says = worth_says(told, start[0], start[1], 10.0 ** start[2])
    else:
        says = promise_says(*(10.0**x for x in start))
    bundle = {"text/plain": says, "text/markdown": says}
    if os.environ.get(WANTED):
        bundle[MIME] = {**told, "says": says, "asked": ASKED}
    display(bundle, raw=True)


def _small(x: float) -> str:
    """As JavaScript writes it: 1.0e-5."""
    mantissa, power = f"{x:.1e}".split("e")
    return f"{mantissa}e{int(power)}"


def _place(x: float, low: float, high: float) -> float:
    return min(max(round(math.log10(x), 2), low), high)
