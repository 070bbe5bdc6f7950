"""The column by which a table is split, as the numbers that `Chunk.by` has."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.datasets.encoding import Values, encode_column, exact_numbers
from heliostat.datasets.index import SPLITS
from heliostat.datasets.signature import Column
from heliostat.datasets.sources.cells import SHOWN, Doubt
from heliostat.datasets.sources.kinds import MAKERS, ColumnOptions
from heliostat.datasets.sources.reader import PART
from heliostat.datasets.sources.survey import Survey
from heliostat.datasets.splits import Split
from heliostat.errors import some
from heliostat.wording import counted

LEFT_OUT = "is what the table is split by"


@dataclass(frozen=True)
class Divided:
    """How the values of the column become numbers."""

    column: Column
    split: Split

    def numbers(self, values: pa.Array) -> tuple[npt.NDArray[Any], Values]:
        """(rows,): the places of splits, hashes of groups, or times as numbers, dates as datetime64 (microseconds)."""
        found = encode_column(self.column, values)
        if self.split.by == "column":
            places = [SPLITS.index(self.split.words[text.lower()]) for text in self.column.categories]
            return np.array(places, np.int64)[found.array], found
        if self.split.by == "files":
            return found.array.astype(np.int64), found
        if self.split.by == "group":
            return found.exact, found
        if self.column.kind == "number":
            return exact_numbers(self.column, values), found
        seconds = found.exact.view(np.float64)
        return np.rint(seconds * 1e6).astype(np.int64), found

    @property
    def dtype(self) -> str | None:
        """As what the numbers are to be seen, if it is another type than theirs."""
        return "datetime64[us]" if self.column.kind == "date" else None


def by_files(split: Split) -> Divided:
    """How a table is split by its files."""
    return Divided(Column(name=PART, kind="category", type="string", categories=SPLITS), split)


def divided(name: str, split: Split, survey: Survey, options: ColumnOptions) -> Divided:
    """How a table is split by a column.

    Raises:
        Doubt: some values are missing, no splits, or no times.
    """
    if survey.missing:
        raise Doubt(
            f"has {counted(survey.missing, 'empty value')}, but the table is split by it", "fill them, or drop their rows"
        )
    column = _time(name, survey, options) if split.by == "time" else MAKERS["category"](name, survey, "category")
    if split.by == "column":
        texts = column.categories or tuple(pc.cast(survey.values, pa.string()).to_pylist())
        if odd := [text for text in texts if text.lower() not in split.words]:
            raise Doubt(
                f"has values that are no split: {some(map(repr, odd), SHOWN)}",
                "write train, validation (or val, valid, dev, eval) or test, "
                f"or map them with dataset.options.split.values: {{{odd[0]}: train}}",
            )
    return Divided(column.model_copy(update={"markers": options.markers}), split)


def _time(name: str, survey: Survey, options: ColumnOptions) -> Column:
    if options.type in (None, "number") and survey.is_number:
        return Column(name=name, kind="number", type=survey.number_type)
    try:
        return MAKERS["date"](name, survey, options.type)
    except Doubt as error:
        raise Doubt(f"{error.what}, and the table is split by its time", error.fix) from None
