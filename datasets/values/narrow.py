"""Narrows numbers to 32 bits without a loss that training would notice."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.wording import agreeing, counted

Numbers = npt.NDArray[Any]
TOLERANCE = 1e-3
"""The rounding error that is no loss, as a share of the typical distance of the values from their median."""
NEAR = 1e-6
"""Values that differ by less than this share of their median are stored as differences, even whole numbers that 32 bits hold:
what is computed with them would be rounded."""
BITS = 40
"""Bits of a floating-point number that are no rounding error of a computation."""
LARGEST, SMALLEST = float(np.finfo(np.float32).max), 1e-30
"""The largest number in 32 bits, and a standard deviation far above the smallest one."""
MISSING_NUMBERS = (-999, -9999, -99999)
"""What stands for a missing value among numbers that are all far above."""
FAR = 5


@dataclass
class Summary:
    """What the numbers of a column are, from one pass over chunks of them."""

    count: int = 0
    first: Any = None
    least: Any = None
    most: Any = None
    whole: bool = True
    """Whether all are whole numbers, of any type."""
    too_large: int = 0
    """How many 32 bits do not hold: infinite, or above `LARGEST`."""
    error: float = 0.0
    """The sum of the rounding errors."""
    lowest: float = math.inf
    """The least but for `MISSING_NUMBERS`."""
    marked: dict[int, int] = field(default_factory=dict)
    """How often `MISSING_NUMBERS` occur."""
    squares: tuple[float, float] = (0.0, 0.0)
    """The sums of the differences from the first value, and of their squares."""

    @np.errstate(all="ignore")  # what 32 bits cannot hold is counted
    def add(self, values: Numbers) -> None:
        """Look at the next values, of which none is missing."""
        if not len(values):
            return
        wide = values.astype(np.float64)
        least, most = values.min().item(), values.max().item()
        if not self.count:
            self.first, self.least, self.most = values[0].item(), least, most
        self.count += len(values)
        self.least, self.most = min(self.least, least), max(self.most, most)
        self.whole = self.whole and is_whole(values)
        self.too_large += int((~(np.abs(wide) <= LARGEST)).sum())
        self.error += float(np.abs(values.astype(np.float32) - wide).sum())
        away = wide - float(self.first)
        self.squares = (self.squares[0] + float(away.sum()), self.squares[1] + float(away @ away))
        if least < 0:
            for mark in MISSING_NUMBERS:
                self.marked[mark] = self.marked.get(mark, 0) + int((wide == mark).sum())
            wide = wide[~np.isin(wide, MISSING_NUMBERS)]
        self.lowest = min(self.lowest, float(wide.min(initial=math.inf)))

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        total, squares = (value / self.count for value in self.squares)
        return math.sqrt(max(squares - total**2, 0))


def is_whole(values: Numbers) -> bool:
    """Whether all are whole numbers, of any type."""
    return values.dtype.kind in "iu" or bool((np.isfinite(values) & (values == np.floor(values))).all())


def distance(values: Numbers, offset: float) -> Numbers:
    """Numbers less an offset that is subtracted before anything is rounded; of whole numbers exactly, if 64 bits hold it."""
    if values.dtype.kind in "iu" and offset.is_integer() and -(2**63) <= offset < 2**64:
        # Modulo 2**64, so that unsigned numbers above 2**63 have the right difference.
        return values.astype(np.int64) - np.array(int(offset) % 2**64, np.uint64).astype(np.int64)
    return np.asarray(values.astype(np.float64) - offset)


@np.errstate(over="ignore")  # what 32 bits cannot hold is refused
def narrowed(values: Numbers, offset: float) -> npt.NDArray[np.float32]:
    """Numbers less an offset, in 32 bits."""
    return np.asarray(distance(values, offset) if offset else values, np.float32)


def offset_of(sample: Numbers, found: Summary) -> float:
    """The offset of a column, from a sample of its values.

    It is 0 unless rounding would lose what the values differ by, as for timestamps; then it is their median.
    """
    middle = float(_upper_median(sample))
    typical = float(np.median(np.abs(distance(sample, middle)))) or found.deviation
    enough = found.error / found.count <= TOLERANCE * typical and typical >= NEAR * abs(middle)
    return 0.0 if typical == 0 or enough else middle


def trouble(found: Summary) -> tuple[str, str] | None:
    """Why numbers cannot be narrowed, and what to do about it; None if they can."""
    if found.too_large:
        return (
            f"has {counted(found.too_large, 'value')} that {agreeing(found.too_large, 'are')} infinite or above 3.4e38",
            "replace them or drop their rows",
        )
    if 0 < found.deviation < SMALLEST:
        return f"has values that differ by {found.deviation:.1e} only", "write them in a smaller unit"
    return None


def marks(found: Summary) -> dict[int, int]:
    """Which numbers stand for missing values, as all others are far above, and how often."""
    return {mark: count for mark, count in found.marked.items() if count > 1 and found.lowest > mark / FAR}


def loss(sample: Numbers, offset: float) -> tuple[str, str] | None:
    """What 32 bits lose of a column, by a sample of its values, and what to do about it; None if it is little."""
    there = len(np.unique(sample if is_whole(sample) else _rounded(sample)))
    left = len(np.unique(narrowed(sample, offset)))
    if 2 * left < there:
        return f"has {counted(there, 'different number')}, of which 32 bits hold {left:,}", "drop it, or split it into columns"
    return None


def _upper_median(values: Numbers) -> Any:
    return np.partition(values, len(values) // 2)[len(values) // 2]


def _rounded(values: Numbers) -> Numbers:
    """Values that only rounding errors tell apart, such as 0.1 + 0.2 and 0.3, become one."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.asarray(np.ldexp(np.rint(mantissa * 2.0**BITS), exponent - BITS))
