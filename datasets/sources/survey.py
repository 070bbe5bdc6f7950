"""What the values of a table's column are, found in one pass over chunks of it."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.datasets.sources import cells
from heliostat.datasets.sources.checks import is_text
from heliostat.datasets.sources.distinct import Distinct

LISTED = 10_000
"""Different values that are kept of a column, far above what categories and classes may have."""
LISTED_BYTES = 4 << 20


class Survey:
    """A column as it is read: its type, what is missing, and its different values.

    Args:
        from_csv: whether texts may be numbers and truth values.
        numbered: whether to find out if each row has another whole number.
    """

    def __init__(self, from_csv: bool, numbered: bool = False) -> None:
        self._from_csv = from_csv
        self._kinds = set(cells.NUMBERS)
        self._truths = True
        self._type: pa.DataType | None = None
        self.trimmed = False
        """Whether some texts are missing or have white space at their ends."""
        self.missing = 0
        self.markers: set[str] = set()
        """How missing values are written."""
        self.padded: str | None = None
        self.beyond: str | None = None
        """Examples, see `cells.padded` and `cells.beyond`."""
        self._values: pa.Array | None = None
        self.all_listed = True
        self._numbers = Distinct() if numbered else None

    def add(self, column: pa.Array) -> None:
        """Look at the next chunk, which is decoded."""
        self._type = column.type
        if is_text(column.type):
            column = self._add_texts(column)
        else:
            self.missing += column.null_count
            column = column.drop_null()
        if self._numbers and (whole := self._whole(column)) is not None:
            self._numbers.add(whole)
        if self.all_listed:
            self._list(column)

    @property
    def type(self) -> pa.DataType:
        """The type of the values once they are converted."""
        assert self._type is not None
        if not is_text(self._type) or not self._from_csv:
            return self._type
        if self._kinds:
            return pa.int64() if "int64" in self._kinds else pa.float64()
        return pa.bool_() if self._truths else self._type

    @property
    def values(self) -> pa.Array:
        """The different values, without missing ones, or some of them."""
        assert self._values is not None
        return self._values

    @property
    def from_texts(self) -> bool:
        return is_text(self._type)

    @property
    def numbers_rows(self) -> bool:
        """Whether each row has another whole number."""
        return self._numbers is not None and not self._numbers.repeated

    def _add_texts(self, column: pa.Array) -> pa.Array:
        # Most columns of a CSV file are numbers without a gap, and the check for gaps takes longer than to read them as such.
        kinds = cells.castable(column, self._kinds) if self._from_csv else set()
        if not kinds:
            self.trimmed = True
            column = cells.trimmed(column)
            missing = cells.missing(column)
            if count := pc.sum(missing).as_py():
                self.missing += count
                self.markers |= {value for value in pc.unique(column.filter(missing)).to_pylist() if value}
                column = column.filter(pc.invert(missing))
            kinds = cells.castable(column, self._kinds) if self._from_csv else set()
        self._kinds = kinds
        self._truths = self._truths and not kinds and cells.are_truths(column)
        if "int64" in kinds:
            self.padded = self.padded or cells.padded(column)
        if kinds:
            self.beyond = self.beyond or cells.beyond(column)
        return column

    def _whole(self, column: pa.Array) -> npt.NDArray[Any] | None:
        """The values of a chunk as whole numbers; None, also from then on, if they are none."""
        if is_text(column.type):
            column = cells.trimmed(column)
            column = pc.cast(column, pa.int64()) if "int64" in cells.castable(column) else column
        if not pa.types.is_integer(column.type) or self.missing:
            self._numbers = None
            return None
        return np.asarray(column)

    def _list(self, column: pa.Array) -> None:
        new = pc.unique(column) if pa.types.is_primitive(column.type) or is_text(column.type) else column[:0]
        self._values = new if self._values is None else pc.unique(pa.concat_arrays([self._values, new]))
        self.all_listed = len(self._values) <= LISTED and self._values.nbytes <= LISTED_BYTES
