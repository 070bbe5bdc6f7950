"""What is done with each chunk of a table, in a thread or in another process: it is read, and encoded as arrays."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.datasets.arrow import Columns
from heliostat.datasets.encoding import Values, decoded, encode_column
from heliostat.datasets.signature import FEATURES, Signature
from heliostat.datasets.sources.dividing import Divided
from heliostat.datasets.sources.encoded import BY, HASH, hashed_rows
from heliostat.datasets.sources.formats import parquet
from heliostat.datasets.sources.reader import Batch, Place, Reader
from heliostat.datasets.values.missing import gaps, is_text, trimmed


@dataclass
class Range:
    """What is found of a column while it is encoded."""

    missing: int = 0
    least: float | None = None
    most: float | None = None
    bad: int = 0
    examples: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Values) -> "Range":
        found = cls()
        found.add(values)
        return found

    def add(self, values: "Values | Range") -> None:
        self.missing += values.missing
        self.bad += values.bad
        self.examples = self.examples or values.examples
        if values.least is not None and values.most is not None:
            self.least = values.least if self.least is None else min(self.least, values.least)
            self.most = values.most if self.most is None else max(self.most, values.most)


@dataclass(frozen=True)
class Encode:
    """Encodes a chunk: its arrays, what was found in its columns, and in the one by which the table is split."""

    signature: Signature
    target: str
    divided: Divided | None

    def __call__(self, batch: Batch) -> tuple[Columns, dict[str, Range], dict[str, Range]]:
        signature = self.signature
        values = {column.name: encode_column(column, batch[column.name]) for column in signature.columns}
        columns = {**signature.gather(values), **signature.encode_target(batch[self.target])}
        # By values that are the same when rows are added: a sample must stay in its split.
        keyed = {column.name for column in signature.numeric if column.kind in ("number", "boolean") and not column.offset}
        of_features = [name in keyed for column in signature.numeric for name in [column.name] * column.width]
        exact = [each.exact[:, None] for name, each in values.items() if name not in keyed]
        columns[HASH] = hashed_rows(*([columns[FEATURES][:, of_features]] if keyed else []), *exact)
        ranges = {name: Range.of(each) for name, each in values.items()}
        if not self.divided:
            return columns, ranges, {}
        columns[BY], found = self.divided.numbers(batch[self.divided.column.name])
        return columns, ranges, {self.divided.column.name: Range.of(found)}


@dataclass(frozen=True)
class Work:
    """What is done with each chunk of a table; it can be pickled."""

    reader: Reader
    names: list[str]
    labelled: tuple[str, tuple[str, ...]] | None
    """The target and what else stands for a missing value of it, if rows without one are left out."""
    rows: int | None = None
    """Of a chunk, at most."""
    function: Callable[[Batch], Any] | None = None

    @property
    def places(self) -> list[Place]:
        """What can be read by itself, with the same chunks as all."""
        # JSON has been parsed to find its columns, and the chunks of its sections would be others.
        if self.reader.kind == "json":
            return [(number, None) for number in range(len(self.reader.files))]
        return self.reader.sections(parquet.SECTION)

    def __call__(self, place: Place) -> list[Any]:
        """What becomes of the chunks of a section."""
        return [self.function(batch) if self.function else batch for batch in self.batches([place])]

    def batches(self, places: list[Place] | None = None, progress: Callable[[int], Any] = lambda done: None) -> Iterator[Batch]:
        """The chunks of some places, or of all files; without the rows that have no label, if these are dropped."""
        for batch in self.reader.batches(self.names, progress, places):
            if self.labelled:
                gone = _gone(batch[self.labelled[0]], self.labelled[1])
                if pc.any(gone).as_py():
                    there = pc.invert(gone)
                    batch = {name: column.filter(there) for name, column in batch.items()}
            count = len(next(iter(batch.values())))
            for start in range(0, count, self.rows or max(1, count)):
                yield {name: column.slice(start, self.rows) for name, column in batch.items()}


def _gone(column: pa.Array, markers: tuple[str, ...]) -> pa.Array:
    column = decoded(column)
    return gaps(trimmed(column) if is_text(column.type) else column, markers)
