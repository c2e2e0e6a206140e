"""An estimate with its interval and the numbers of images behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scipy.special import betaincinv

from segleak_utils.checks import numbers


@dataclass(frozen=True)
class Interval:
    """An estimate, the interval around it, and the numbers of images behind it.

    `str()` gives ".63 [.60, .66]"; a format spec sets the decimals (f"{x:.3}") and, with a plus,
    signs for differences (f"{x:+.3}" gives "+.041 [+.020, +.062]").

    >>> area = Interval(0.634, 0.601, 0.664, n_members=400, n_nonmembers=2000)
    >>> print(area, f"{area:.3}", area.excludes(0.5))
    .63 [.60, .66] .634 [.601, .664] True
    """

    value: float
    low: float
    high: float
    n_members: int
    n_nonmembers: int
    level: float = 0.95

    def __post_init__(self) -> None:
        """Raise ValueError unless finite low <= value <= high, and numbers of images and a level.

        Without the estimate inside, a percentile of something else was taken for its interval.
        """
        value, low, high = (numbers.real(getattr(self, n), n) for n in ("value", "low", "high"))
        if not low <= value <= high:
            raise ValueError(
                f"not an interval: {self.value} [{self.low}, {self.high}], expected finite low "
                "<= value <= high"
            )
        numbers.count(self.n_members, "n_members")
        numbers.count(self.n_nonmembers, "n_nonmembers")
        numbers.level(self.level)

    def contains(self, x: float) -> bool:
        return self.low <= x <= self.high

    def excludes(self, x: float) -> bool:
        return not self.contains(x)

    def __str__(self) -> str:
        return format(self, "")

    def __format__(self, spec: str) -> str:
        match = re.fullmatch(r"(\+?)(?:\.(\d+))?", spec)
        if match is None:
            raise ValueError(f"format {spec!r} of an interval: expected like '.3' or '+.3'")
        sign, decimals = match[1], int(match[2] or 2)

        def short(x: float) -> str:
            # "z": no minus sign before a zero that comes from rounding.
            return re.sub(r"^([+-]?)0\.", r"\1.", f"{x:{sign}z.{decimals}f}")

        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


def clopper_pearson(hits: int, n: int, level: float) -> tuple[float, float]:
    """Exact limits of a share of `hits` in `n`; ValueError for what cannot be counts or a level."""
    n = numbers.count(n, "n", 1)
    hits, level = numbers.count(hits, "hits", 0, n), numbers.level(level)
    # scipy's binomtest has the same limits, and a test on the way that takes milliseconds
    tail = (1 - level) / 2
    low = betaincinv(hits, n - hits + 1, tail) if hits else 0.0
    high = betaincinv(hits + 1, n - hits, 1 - tail) if hits < n else 1.0
    return float(low), float(high)
