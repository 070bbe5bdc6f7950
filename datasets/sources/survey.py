"""What the values of a table's column are, found in one pass over chunks of it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.datasets.encoding import decoded
from heliostat.datasets.sources.distinct import Distinct
from heliostat.datasets.values import numbers
from heliostat.datasets.values.missing import gaps, is_text, missing, trimmed
from heliostat.datasets.values.narrow import Summary
from heliostat.datasets.values.words import hashes

LISTED = 10_000
"""Different values that are kept of a column, far above what categories and classes may have."""
LISTED_BYTES = 4 << 20
LARGE = 2**53
"""Whole numbers above are names of something, unless they are near each other."""
BEYOND = 10**15
"""Whole numbers from here on may be rounded by a floating-point number of 64 bits."""


class Survey:
    """A column as it is read: its type, what is missing, its different values, and a summary and a sample of its numbers.

    Args:
        kept: how many values a sample has, at least, if there are so many.
        markers: what also stands for a missing value.
        listed: whether a column of numbers is of interest as categories, for its name or as the target.
    """

    def __init__(self, kept: int, markers: tuple[str, ...] = (), listed: bool = False) -> None:
        self._markers, self._listed = markers, listed
        self.type: pa.DataType = pa.null()
        """As it is in the files."""
        self.rows = self.missing = 0
        self.numbers: Summary | None = Summary()
        """None if not all values are plain numbers."""
        self.floats = False
        """Whether some numbers are no whole ones by their type."""
        self.markers: set[str] = set()
        """How missing values are written."""
        self.padded: str | None = None
        """A whole number that is written with zeros before it, such as 01234."""
        self.beyond: str | None = None
        """A whole number that a floating-point number of 64 bits rounds: one of more than 15 digits."""
        self.sample = Sample(kept)
        self._values: pa.Array | None = None
        self.all_listed = True
        self._distinct = Distinct()

    def add(self, column: pa.Array) -> None:
        """Look at the next chunk."""
        column = decoded(column)
        self.type = column.type
        self.rows += len(column)
        column = self._texts(column) if is_text(column.type) else self._typed(column)
        self.sample.add(column)
        if self.all_listed:
            self._list(column)
        if not self._distinct.repeated and self._may_name(column):
            self._distinct.add(_bits(column))

    @property
    def values(self) -> pa.Array:
        """The different values, without missing ones, or some of them."""
        if self._values is None:
            return pa.array([], self.type)
        return self._values

    @property
    def present(self) -> int:
        return self.rows - self.missing

    @property
    def from_texts(self) -> bool:
        return is_text(self.type)

    @property
    def is_number(self) -> bool:
        return self.numbers is not None and self.numbers.count > 0

    @property
    def number_type(self) -> str:
        """Of numbers, the type that they have in the files, or as texts that of what they stand for."""
        return ("double" if self.floats else "int64") if self.from_texts and self.is_number else str(self.type)

    @property
    def all_different(self) -> bool:
        """Whether each row has another value; known of texts, and of numbers that are ``listed``."""
        return not self._distinct.repeated and self.present > 0

    def sample_of(self) -> pa.Array:
        """The different values that are known, and a sample of all of them."""
        return pc.unique(pa.concat_arrays([self.values, self.sample.values(self.type)]))

    def _typed(self, column: pa.Array) -> pa.Array:
        gone = gaps(column, self._markers)
        numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        self.missing += pc.sum(gone).as_py() or 0
        column = column.filter(pc.invert(gone))
        self._add_numbers(column if numeric else None)
        return column

    def _texts(self, column: pa.Array) -> pa.Array:
        # Most columns of a CSV file are numbers without a gap, and the check for gaps takes longer than to read them as such.
        found = numbers.plain(column, self._kinds()) if self.numbers and not self._markers and not column.null_count else None
        if found is None:
            column = self._without_gaps(column)
            found = numbers.plain(column, self._kinds()) if self.numbers else None
        if found is not None and pa.types.is_integer(found.type):
            self.padded = self.padded or _first(column, r"^0\d+$")
        self._add_numbers(found)
        if self.numbers and self.numbers.count and max(-self.numbers.least, self.numbers.most) >= BEYOND:
            self.beyond = self.beyond or _first(column, r"^[+-]?[1-9]\d{15,}$")
        return column

    def _without_gaps(self, column: pa.Array) -> pa.Array:
        """Trimmed texts without missing ones, which are counted."""
        coded = column.dictionary_encode(null_encoding="encode") if self.all_listed else None
        texts = trimmed(column if coded is None else coded.dictionary)
        gone = missing(texts, self._markers)
        if pc.any(gone).as_py():
            self.markers |= {text for text in pc.unique(texts.filter(gone)).to_pylist() if text}
        if coded is not None:
            texts, gone = texts.take(coded.indices), gone.take(coded.indices)
        self.missing += pc.sum(gone).as_py() or 0
        return texts.filter(pc.invert(gone))

    def _kinds(self) -> tuple[str, ...]:
        return ("double",) if self.floats else ("int64", "double")

    def _add_numbers(self, found: pa.Array | None) -> None:
        if found is None or self.numbers is None:
            if self.numbers and self.numbers.count and not self._listed:
                self._distinct.repeated = True  # it is not known of the first values
            self.numbers = None
            return
        self.floats = self.floats or (pa.types.is_floating(found.type) and len(found) > 0)
        self.numbers.add(np.asarray(found))

    def _may_name(self, column: pa.Array) -> bool:
        """Whether it is of interest if all values differ: of texts, and of numbers for their name or because they are large."""
        if self.numbers and self.numbers.count and max(-self.numbers.least, self.numbers.most) > LARGE:
            return True
        return (is_text(column.type) and (self.numbers is None or self._listed)) or (self._listed and self.is_number)

    def _list(self, column: pa.Array) -> None:
        new = pc.unique(column) if pa.types.is_primitive(column.type) or is_text(column.type) else column[:0]
        self._values = new if self._values is None else pc.unique(pa.concat_arrays([self._values, new]))
        self.all_listed = len(self._values) <= LISTED and self._values.nbytes <= LISTED_BYTES


class Sample:
    """Values at even distances from the beginning, at least ``kept`` and at most twice as many, the first one always.

    The distance is doubled whenever they are too many, so that they do not depend on the chunks.
    """

    def __init__(self, kept: int) -> None:
        self._kept, self._step, self._seen = kept, 1, 0
        self._parts: list[pa.Array] = []
        self._count = 0

    def add(self, column: pa.Array) -> None:
        first = -self._seen % self._step
        self._seen += len(column)
        places = np.arange(first, len(column), self._step)
        if len(places):
            self._parts.append(column.take(pa.array(places)))
            self._count += len(places)
        while self._count > 2 * self._kept:
            joined = pa.concat_arrays(self._parts)
            self._parts = [joined.take(pa.array(np.arange(0, len(joined), 2)))]
            self._count, self._step = len(self._parts[0]), self._step * 2

    def values(self, kind: pa.DataType) -> pa.Array:
        return pa.concat_arrays(self._parts) if self._parts else pa.array([], kind)


def _bits(column: pa.Array) -> npt.NDArray[Any]:
    return hashes(column).view(np.int64) if is_text(column.type) else np.asarray(column)


def _first(texts: pa.Array, pattern: str) -> str | None:
    found = texts.filter(pc.match_substring_regex(texts, pattern))
    return str(found[0]) if len(found) else None
