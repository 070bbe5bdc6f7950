"""A table that has been encoded: its arrays in a temporary file, as the chunks of a source."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from heliostat.datasets.index import Field
from heliostat.datasets.signature import FEATURES, Signature
from heliostat.datasets.sources import Chunk
from heliostat.datasets.sources.dividing import Divided
from heliostat.datasets.sources.spool import Spool, Spooled

EXACT, BY = "exact", "by"
"""The arrays of `Values.exact` of the columns that are not known by their features, and of the column that says the split."""


@dataclass(frozen=True)
class Encoded:
    """A table as arrays, in a temporary file."""

    spool: Spool
    signature: Signature
    arrays: dict[str, Spooled]
    keyed: list[int]
    """The features that are, as they are, what a row is known by; of all others ``exact`` has it."""
    divided: Divided | None = None
    """How the table is split by a column, if it is."""

    @property
    def rows(self) -> int:
        return self.arrays[EXACT].rows

    @property
    def fields(self) -> dict[str, Field]:
        return {
            name: Field(dtype=str(np.dtype(array.dtype)), shape=array.shape)
            for name, array in self.arrays.items()
            if name not in (EXACT, BY)
        }

    @property
    def meta(self) -> dict[str, Any]:
        columns, classes = self.signature.numeric, self.signature.target.classes
        offsets = {column.name: column.offset for column in columns if column.offset and column.kind == "number"}
        return {
            **({"classes": list(classes)} if classes else {}),
            "feature_names": self.signature.feature_names,
            **({"offsets": offsets} if offsets else {}),
        }

    def chunks(self) -> Iterator[Chunk]:
        for number in range(len(self.arrays[EXACT].places)):
            columns = {name: array.chunk(number) for name, array in self.arrays.items()}
            exact, by = columns.pop(EXACT), columns.pop(BY, None)
            if by is not None and self.divided and self.divided.dtype:
                by = by.view(self.divided.dtype)
            # By values that are the same when rows are added: a sample must stay in its split.
            parts = [columns[FEATURES][:, self.keyed]] if self.keyed else []
            keys = np.concatenate([_bytes(part) for part in (*parts, exact)], axis=1)
            data, size = keys.tobytes(), keys.shape[1]
            yield Chunk([data[start : start + size] for start in range(0, len(data), size)], columns, by=by)


def _bytes(values: Any) -> Any:
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
