"""Counts different numbers in bounded memory."""

from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.permutation import mixed

Bits = npt.NDArray[np.uint64]
KEPT = 1 << 17
"""Different numbers that are kept: a count up to this is exact, and a larger one is estimated to 0.5 %."""


class Distinct:
    """How many different numbers there are, and whether some are equal.

    Adaptive sampling (Wegman; Flajolet 1990): of the hashes, those below a bound are kept, and the bound is halved whenever
    they are too many. The hash is a bijection of 64 bits, so that equal hashes mean equal numbers.
    """

    def __init__(self) -> None:
        self._hashes: Bits = np.empty(0, np.uint64)
        self._level = 0
        self.repeated = False
        """Whether one of the numbers that are kept came twice."""

    def add(self, values: npt.NDArray[Any]) -> None:
        hashes = self._below(mixed(_bits(values)))
        new = _unique(hashes)
        merged = _unique(np.concatenate([self._hashes, new]))
        self.repeated = self.repeated or len(new) < len(hashes) or len(merged) < len(self._hashes) + len(new)
        self._hashes = merged
        while len(self._hashes) > KEPT:
            self._level += 1
            self._hashes = self._below(self._hashes)

    @property
    def count(self) -> int:
        return len(self._hashes) << self._level

    def _below(self, hashes: Bits) -> Bits:
        return hashes[hashes >> np.uint64(64 - self._level) == 0] if self._level else hashes


def _unique(hashes: Bits) -> Bits:
    """By sorting: numpy.unique (2.4) fills a hash table, which takes ten times as long."""
    ordered = np.sort(hashes)
    return ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])] if len(ordered) else ordered


def _bits(values: npt.NDArray[Any]) -> Bits:
    if values.dtype.kind in "iu":
        wide = np.uint64 if values.dtype == np.uint64 else np.int64
        return values.astype(wide).view(np.uint64)
    return (values.astype(np.float64) + 0.0).view(np.uint64)  # -0.0 becomes 0.0
