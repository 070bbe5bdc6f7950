"""Narrows numbers to 32 bits without a loss that training would notice.

A column is an iterable of chunks that can be read again, so that memory does not grow with its length.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.sources.distinct import count_distinct

Numbers = npt.NDArray[Any]
Chunks = Iterable[Numbers]
TOLERANCE = 1e-3
"""The rounding error that is no loss, as a share of the typical distance of the values from their median."""
NEAR = 1e-6
"""Values that differ by less than this share of their median are stored as differences, even whole numbers that 32 bits hold:
what is computed with them would be rounded."""
BITS = 40
"""Bits of a floating-point number that are no rounding error of a computation."""
ENOUGH = 2**24
"""So many different numbers in 32 bits are a feature, however many there were."""
LARGEST, SMALLEST = float(np.finfo(np.float32).max), 1e-30
"""The largest number in 32 bits, and a standard deviation far above the smallest one."""
AT_ONCE = 1 << 20
"""Values that are sorted at once."""
DIGIT = 16
"""Bits by which the search for a median narrows the values down in a pass."""


@dataclass
class Summary:
    """What one pass over a column finds."""

    count: int = 0
    first: Any = None
    least: Any = None
    most: Any = None
    whole: bool = True
    """Whether all are whole numbers, of any type."""
    too_large: int = 0
    """How many 32 bits do not hold: NaN, infinite, or above `LARGEST`."""
    exact: bool = True
    """Whether 32 bits hold all of them without rounding."""
    error: float = 0.0
    """The sum of the rounding errors."""
    negative: int = 0
    marked: dict[int, int] = field(default_factory=dict)
    """How often some numbers occur that stand for a missing one."""
    squares: tuple[float, float] = (0.0, 0.0)
    """The sums of the differences from the first value, and of their squares."""

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        total, squares = (value / self.count for value in self.squares)
        return math.sqrt(max(squares - total**2, 0))


@np.errstate(all="ignore")  # NaN and what 32 bits cannot hold are counted
def summarize(column: Chunks, marks: Iterable[int] = ()) -> Summary:
    """Read a column once."""
    found = Summary()
    for values in column:
        if not len(values):
            continue
        wide, plain = values.astype(np.float64), values.astype(np.float32)
        least, most = values.min().item(), values.max().item()
        if not found.count:
            found.first, found.least, found.most = values[0].item(), least, most
        found.count += len(values)
        found.least, found.most = min(found.least, least), max(found.most, most)
        found.whole = found.whole and is_whole(values)
        found.too_large += int((~(np.abs(wide) <= LARGEST)).sum())
        found.exact = found.exact and bool((plain == wide).all())
        found.error += float(np.abs(plain - wide).sum())
        if least < 0:
            found.negative += int((wide < 0).sum())
            for mark in marks:
                found.marked[mark] = found.marked.get(mark, 0) + int((wide == mark).sum())
        away = wide - float(found.first)
        found.squares = (found.squares[0] + float(away.sum()), found.squares[1] + float(away @ away))
    return found


def is_whole(values: Numbers) -> bool:
    """Whether all are whole numbers, of any type."""
    return values.dtype.kind in "iu" or bool((np.isfinite(values) & (values == np.floor(values))).all())


@dataclass(frozen=True)
class Narrowing:
    """How a column becomes float32: less an offset, which is subtracted before anything is rounded."""

    offset: int | float = 0
    whole: bool = False
    """Whether differences are those of whole numbers, without rounding."""

    @np.errstate(over="ignore")  # `trouble` reports what 32 bits cannot hold
    def apply(self, values: Numbers) -> npt.NDArray[np.float32]:
        return self.distance(values).astype(np.float32) if self.offset else values.astype(np.float32)

    def distance(self, values: Numbers) -> Numbers:
        """Values less the offset; of whole numbers without rounding, as far as 64 bits hold the difference."""
        if self.whole:
            middle = np.asarray(self.offset, values.dtype)
            return np.asarray(np.subtract(values, middle, dtype=np.int64, casting="unsafe"))
        return np.asarray(values.astype(np.float64) - float(self.offset))


PLAIN = Narrowing()


def narrowing(column: Chunks, found: Summary) -> Narrowing:
    """The offset of a column, which has no value that 32 bits do not hold at all.

    It is 0 unless rounding would lose what the values differ by, as for timestamps; then it is their median.
    """
    middle = kth(lambda: iter(column), found.count, found.count // 2)
    whole = middle.dtype.kind in "iu" and found.most - found.least < 2**63
    by_median = Narrowing(middle.item(), whole)
    typical = _median(lambda: (np.abs(by_median.distance(values)) for values in column), found.count) or found.deviation
    enough = found.error / found.count <= TOLERANCE * typical and typical >= NEAR * abs(float(middle))
    return PLAIN if typical == 0 or enough else by_median


def trouble(column: Chunks, found: Summary) -> tuple[str, str] | None:
    """Why numbers cannot be narrowed, and what to do about it; None if they can."""
    if found.too_large:
        return f"has {found.too_large} values that are NaN, infinite or above 3.4e38", "replace them or drop their rows"
    if 0 < found.deviation < SMALLEST:
        return f"has values that differ by {found.deviation:.1e} only", "write them in a smaller unit"
    return None


def loss(column: Chunks, found: Summary, way: Narrowing) -> tuple[str, str] | None:
    """What 32 bits lose of a column that is narrowed in that way, and what to do about it; None if it is little."""
    if found.exact:
        return None
    left = count_distinct(map(way.apply, column), ENOUGH // 2)
    there = count_distinct(column if found.whole else map(_rounded, column), 2 * left + 1)
    if 2 * left < min(there, ENOUGH):
        there = count_distinct(column if found.whole else map(_rounded, column), found.count)
        return f"has {there} different numbers, of which 32 bits hold {left}", "drop it, or split it into columns"
    return None


def kth(chunks: Callable[[], Iterator[Numbers]], count: int, place: int) -> Any:
    """The value at a place of the sorted values, of which there are ``count``.

    Radix selection: passes narrow its bits down until so few values have them that these can be sorted.
    """
    bits, shift = 0, 64
    while count > AT_ONCE and shift:
        histogram = np.zeros(1 << DIGIT, np.int64)
        for values in chunks():
            keys = _keys(values)
            inside = keys if shift == 64 else keys[keys >> np.uint64(shift) == bits]
            digits = (inside >> np.uint64(shift - DIGIT)) & np.uint64((1 << DIGIT) - 1)
            histogram += np.bincount(digits.astype(np.int64), minlength=1 << DIGIT)
        ends = np.cumsum(histogram)
        digit = int(np.searchsorted(ends, place, side="right"))
        place -= int(ends[digit] - histogram[digit])
        bits, shift, count = bits << DIGIT | digit, shift - DIGIT, int(histogram[digit])
    if not shift:
        return next(found[0] for values in chunks() if len(found := values[_keys(values) == bits]))
    parts = [values if shift == 64 else values[_keys(values) >> np.uint64(shift) == bits] for values in chunks()]
    return np.partition(np.concatenate(parts), place)[place]


def _median(chunks: Callable[[], Iterator[Numbers]], count: int) -> float:
    middle = kth(chunks, count, count // 2)
    return float(middle if count % 2 else np.mean([kth(chunks, count, count // 2 - 1), middle]))


def _keys(values: Numbers) -> npt.NDArray[np.uint64]:
    """Whole numbers without a sign, in the order of the values."""
    sign = np.uint64(1 << 63)
    if values.dtype.kind == "u":
        return values.astype(np.uint64)
    if values.dtype.kind == "i":
        return values.astype(np.int64).view(np.uint64) ^ sign
    bits = values.astype(np.float64).view(np.uint64)
    return np.where(bits & sign, ~bits, bits | sign)


def _rounded(values: Numbers) -> Numbers:
    """Values that only rounding errors tell apart, such as 0.1 + 0.2 and 0.3, become one."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.asarray(np.ldexp(np.rint(mantissa * 2.0**BITS), exponent - BITS))
