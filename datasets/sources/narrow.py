"""Narrows numbers to 32 bits without a loss that training would notice."""

from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
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


def is_whole(values: Numbers) -> bool:
    """Whether all are whole numbers, of any type."""
    return values.dtype.kind in "iu" or bool((np.isfinite(values) & (values == np.floor(values))).all())


def trouble(values: Numbers) -> tuple[str, str] | None:
    """Why numbers cannot be narrowed, and what to do about it; None if they can."""
    wide = values.astype(np.float64)
    if bad := int((~(np.abs(wide) <= LARGEST)).sum()):
        return f"has {bad} values that are NaN, infinite or above 3.4e38", "replace them or drop their rows"
    if 0 < wide.std() < SMALLEST:
        return f"has values that differ by {wide.std():.1e} only", "write them in a smaller unit"
    if not (values.astype(np.float32) == wide).all():
        there, left = _different(values), len(np.unique(narrowed(values)[0]))
        if 2 * left < min(there, ENOUGH):
            return f"has {there} different numbers, of which 32 bits hold {left}", "drop it, or split it into columns"
    return None


def _different(values: Numbers) -> int:
    """How many different numbers there are; those that only rounding errors tell apart, such as 0.1 + 0.2 and 0.3, are one."""
    if is_whole(values):
        return len(np.unique(values))
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return len(np.unique(np.ldexp(np.rint(mantissa * 2.0**BITS), exponent - BITS)))


@np.errstate(over="ignore")  # `trouble` reports what 32 bits cannot hold
def narrowed(values: Numbers) -> tuple[npt.NDArray[np.float32], int | float]:
    """The values, less an offset, as float32, and the offset.

    The offset is 0 unless rounding would lose what the values differ by, as for timestamps; then it is their median. It is
    subtracted before anything is rounded, from whole numbers exactly.
    """
    plain, wide = values.astype(np.float32), values.astype(np.float64)
    error = float(np.abs(plain - wide).mean())
    middle = np.partition(values, len(values) // 2)[len(values) // 2]
    distance = _less(values, middle)
    typical = float(np.median(np.abs(distance))) or float(distance.std())
    if typical == 0 or (error <= TOLERANCE * typical and typical >= NEAR * abs(float(middle))):
        return plain, 0
    return distance.astype(np.float32), middle.item()


def _less(values: Numbers, middle: Any) -> Numbers:
    """Values less one of them; of whole numbers without rounding, as far as 64 bits hold the difference."""
    if values.dtype.kind in "iu" and int(values.max()) - int(values.min()) < 2**63:
        return np.asarray(np.subtract(values, middle, dtype=np.int64, casting="unsafe"))
    return np.asarray(values.astype(np.float64) - float(middle))
