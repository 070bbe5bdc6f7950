"""A table that has been encoded: its arrays in a temporary file, as the chunks of a source."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.index import Field
from heliostat.datasets.signature import Signature
from heliostat.datasets.sources import Chunk, hashes_of
from heliostat.datasets.sources.dividing import Divided
from heliostat.datasets.sources.spool import Spool, Spooled

HASH, BY = "hash", "by"
"""The arrays of `hashes_of` the rows, and of the column that says the split."""


@dataclass(frozen=True)
class Encoded:
    """A table as arrays, in a temporary file."""

    spool: Spool
    signature: Signature
    arrays: dict[str, Spooled]
    divided: Divided | None = None
    """How the table is split by a column, if it is."""

    @property
    def rows(self) -> int:
        return self.arrays[HASH].rows

    @property
    def fields(self) -> dict[str, Field]:
        return {
            name: Field(dtype=str(np.dtype(array.dtype)), shape=array.shape)
            for name, array in self.arrays.items()
            if name not in (HASH, BY)
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
        for number in range(len(self.arrays[HASH].places)):
            columns = {name: array.chunk(number) for name, array in self.arrays.items()}
            hashes, by = columns.pop(HASH), columns.pop(BY, None)
            if by is not None and self.divided and self.divided.dtype:
                by = by.view(self.divided.dtype)
            yield Chunk(hashes, columns, by=by)


def hashed_rows(*parts: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """The hash (rows,) of what is in each row of some arrays (rows, any)."""
    keys = np.concatenate([np.ascontiguousarray(part).view(np.uint8).reshape(len(part), -1) for part in parts], axis=1)
    return hashes_of(key for (key,) in struct.iter_unpack(f"{keys.shape[1]}s", keys.tobytes()))
