"""Files of raw rows to files of predictions: in chunks, so that memory does not depend on the rows, and atomically."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from heliostat.config import nearest
from heliostat.datasets.signature import Oddities
from heliostat.errors import UserError
from heliostat.folder import Folder, split
from heliostat.wording import counted
from heliostat.workloads.prediction.model import Predictor


@dataclass
class Summary:
    """What was predicted: the rows, and what was odd in them, by column."""

    rows: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    beyond: Counter[str] = field(default_factory=Counter)

    def add(self, rows: int, oddities: Oddities) -> None:
        self.rows += rows
        self.missing.update(oddities.missing)
        self.unknown.update(oddities.unknown)
        self.beyond.update(oddities.beyond)

    def merge(self, document: Mapping[str, Any]) -> None:
        """Adds another one's `document`."""
        self.rows += document["rows"]
        self.missing.update(document["missing"])
        self.unknown.update(document["unknown"])
        self.beyond.update(document["out_of_range"])

    def document(self) -> dict[str, Any]:
        """As plain values."""
        odd = {"missing": self.missing, "unknown": self.unknown, "out_of_range": self.beyond}
        return {"rows": self.rows, **{what: dict(+counts) for what, counts in odd.items()}}

    def __str__(self) -> str:
        odd = {"missing values": self.missing, "unknown categories": self.unknown, "values out of range": self.beyond}
        parts = [
            f"{what}: {', '.join(f'{name} {count:,}' for name, count in counts.most_common() if count)}"
            for what, counts in odd.items()
            if +counts
        ]
        return "; ".join([f"{counted(self.rows, 'row')}", *(parts or ["nothing missing, unknown or out of range"])])


def predict_tables(
    predictor: Predictor, tables: Iterator[pa.Table], summary: Summary, carried: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The predictions for chunks of rows, each beside columns of its rows.

    Args:
        predictor: the model.
        tables: the chunks, with the same columns.
        summary: gets the number of rows, and what is odd in them.
        carried: the names of the rows' columns that the results have, too; None for all.

    Raises:
        UserError: see `Predictor`; there is no such column, or predictions have that name.
    """
    for table in tables:
        kept = table.column_names if carried is None else list(carried)
        if unknown := [name for name in kept if name not in table.column_names]:
            raise UserError(f"the rows have no column {unknown[0]!r}", nearest(unknown[0], table.column_names))
        predictions, oddities = predictor(table)
        if clash := [name for name in kept if name in predictions.column_names]:
            others = [name for name in table.column_names if name not in predictions.column_names]
            raise UserError(
                f"the rows have a column {clash[0]!r}, as the predictions do",
                f"name the columns to carry along, such as --columns {others[0] if others else ''}".strip(),
            )
        summary.add(table.num_rows, oddities)
        yield pa.table([*table.select(kept).columns, *predictions.columns], [*kept, *predictions.column_names])


def write(out: str, tables: Iterator[pa.Table]) -> None:
    """Writes chunks as one file, which appears when it is complete: ``.csv``, ``.parquet`` or ``.jsonl``, a path or a URI.

    Raises:
        UserError: the name has another ending, or there are no rows; nothing has been written.
        NotWritable: the storage cannot be written.
    """
    check_name(out)
    place, name = split(out)
    folder = Folder.at(place or ".")
    try:
        with folder.writing(name) as file:
            write_to(file, name, tables)
    except BaseException:
        if not folder.is_local:  # whose stream was closed, so that there is what was written
            folder.delete(name)
        raise


def write_to(file: BinaryIO, name: str, tables: Iterator[pa.Table]) -> None:
    """Writes chunks in the format of a name's ending; the schema is that of the first one.

    Raises:
        UserError: there are no rows, or a chunk has other columns.
    """
    first = next(tables, None)
    if first is None:
        raise UserError("there are no rows to predict", "give a table with rows")
    with _writer(name)(file, first.schema) as writer:
        for table in chain([first], tables):
            try:
                writer.write_table(table if table.schema == first.schema else table.cast(first.schema))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
                raise UserError(
                    f"the rows change their columns or types in the file: {error}", "write the same columns in all rows"
                ) from None


def check_name(out: str) -> None:
    """Raises a UserError for a name whose ending is no format."""
    if not out.endswith(tuple(FORMATS)):
        raise UserError(f"--out is {out}, which is no format of predictions", f"end it with {', '.join(FORMATS)}")


class _Csv:
    """As Arrow's writer, which has no lists: they become JSON."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._schema = pa.schema([(f.name, pa.string() if pa.types.is_nested(f.type) else f.type) for f in schema])
        self._writer = pyarrow.csv.CSVWriter(file, self._schema)

    def write_table(self, table: pa.Table) -> None:
        columns = [
            pa.array([None if v is None else json.dumps(v) for v in column.to_pylist()], pa.string())
            if pa.types.is_nested(column.type) else column
            for column in table.columns
        ]  # fmt: skip
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()


class _JsonLines:
    """A JSON object a line."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self._file = file

    def write_table(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._file.write(f"{json.dumps(row, ensure_ascii=False, default=str)}\n".encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """The caller closes the file."""


FORMATS: dict[str, Callable[[BinaryIO, pa.Schema], Any]] = {".csv": _Csv, ".parquet": pq.ParquetWriter, ".jsonl": _JsonLines}
"""What writes the files whose names end so."""


def _writer(name: str) -> Callable[[BinaryIO, pa.Schema], Any]:
    return next(writer for ending, writer in FORMATS.items() if name.endswith(ending))
