"""Rows of a table from a source of the user's own, as Parquet files in a temporary folder, which are read as any table."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from heliostat.datasets.index import SplitName
from heliostat.datasets.sources.own.values import named, row
from heliostat.datasets.sources.spool import temporary_space
from heliostat.errors import UserError

ROWS = 1024
"""Rows of dictionaries that are held at once."""


def table_of(value: Any) -> pa.Table | None:
    """A table of Arrow or pandas, or a part of one, as one of Arrow; None if it is none."""
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    if isinstance(value, pa.Table):
        return value
    if type(value).__name__ == "DataFrame" and hasattr(value, "to_numpy"):
        if type(value).__module__.partition(".")[0] == "pandas":
            return pa.Table.from_pandas(value)
        return value.to_arrow()  # of polars
    return None


class Rows:
    """Rows that have the columns of a table; each split is a folder of files, of which each has other types.

    Args:
        place: the source, for messages.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._scratch = tempfile.TemporaryDirectory(prefix="heliostat-rows-")
        self._waiting: dict[SplitName | None, list[tuple[str, dict[str, Any]]]] = {}
        self._writers: dict[SplitName | None, _Writer] = {}
        self.bytes = 0
        """The bytes that are kept, in memory."""

    def add(self, place: str, value: Any, split: SplitName | None) -> int:
        """Take the next row or part of a table; returns a hash of it."""
        table = table_of(value)
        if table is None:
            values = self._row(place, value)
            waiting = self._waiting.setdefault(split, [])
            waiting.append((place, values))
            if len(waiting) >= ROWS:
                self._flush(split)
            return _hash(values)
        self._flush(split)
        self._write(split, table, place)
        return _hash(table)

    def hash(self, value: Any) -> int:
        """The hash that `add` has returned for this value."""
        table = table_of(value)
        return _hash(row(named(value)) if table is None else table)

    def finish(self) -> None:
        """All rows have been added: each file gets all columns, of the types that have room for all rows."""
        for split in list(self._waiting):
            self._flush(split)
        for writer in self._writers.values():
            writer.close()
        schemas = [pq.read_schema(file) for file in self._files()]
        whole = pa.unify_schemas(schemas, promote_options="permissive")
        for file, schema in zip(self._files(), schemas, strict=True):
            if not schema.equals(whole):
                with temporary_space():
                    _write_again(file, whole)

    def _files(self) -> list[Path]:
        return sorted(Path(self._scratch.name).glob("*/*.parquet"))

    def folder(self, split: SplitName | None) -> str:
        """The folder of the files of a split, or of all rows where the source says no splits."""
        return str(Path(self._scratch.name) / (split or "rows"))

    @property
    def names(self) -> list[str]:
        """The columns, once all rows have been added."""
        return [str(name) for name in pq.read_schema(self._files()[0]).names]

    @property
    def splits(self) -> list[SplitName | None]:
        """The splits that there are."""
        return list(self._writers)

    def close(self) -> None:
        self._scratch.cleanup()

    def _row(self, place: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping | tuple):
            raise UserError(f"{self._place}: {place} is a {type(value).__name__}, after rows of a table", "yield rows only")
        return row(named(value))

    def _flush(self, split: SplitName | None) -> None:
        waiting = self._waiting.pop(split, [])
        if not waiting:
            return
        names = dict.fromkeys(name for _, values in waiting for name in values)
        columns = {name: self._column(name, [(place, values.get(name)) for place, values in waiting]) for name in names}
        self._write(split, pa.table(columns), waiting[0][0])

    def _column(self, name: str, values: list[tuple[str, Any]]) -> pa.Array:
        try:
            return pa.array([value for _, value in values], from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
            what = f"column {name!r} has values that do not go together: {_kinds(values) or error}"
        raise UserError(f"{self._place}: {what}", "give all of them as numbers, or all as texts; None for a missing one")

    def _write(self, split: SplitName | None, table: pa.Table, place: str) -> None:
        if split not in self._writers:
            self._writers[split] = _Writer(self.folder(split))
        self.bytes += table.nbytes
        try:
            with temporary_space():
                self._writers[split].write(table)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            fix = "give the values of a column the same type; None for a missing one"
            raise UserError(
                f"{self._place}: the rows from {place} on do not go together with those before: {error}", fix
            ) from None


class _Writer:
    """Writes tables to the Parquet files of a folder: another one where a column has a wider type than before."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._folder.mkdir()
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None
        self._count = 0

    def write(self, table: pa.Table) -> None:
        schema = table.schema
        if self._schema is not None:
            schema = pa.unify_schemas([self._schema, schema], promote_options="permissive")
        if self._writer is None or schema != self._schema:
            self.close()
            self._writer = pq.ParquetWriter(self._folder / f"{self._count:05d}.parquet", schema)
            self._schema, self._count = schema, self._count + 1
        self._writer.write_table(_with_all(table, schema))

    def close(self) -> None:
        if self._writer:
            self._writer.close()


def _with_all(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table with all columns of a schema, of its types; those that it lacks are missing."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _write_again(file: Path, schema: pa.Schema) -> None:
    """Give a file the columns and types of a schema."""
    wider = file.with_suffix(".wider")
    with pq.ParquetFile(file) as source, pq.ParquetWriter(wider, schema) as writer:
        for batch in source.iter_batches(ROWS):
            writer.write_table(_with_all(pa.Table.from_batches([batch]), schema))
    wider.replace(file)


def _kinds(values: list[tuple[str, Any]]) -> str:
    """An example of each type of some values, such as ``41 (int, row 0) and 'x' (str, row 3)``."""
    examples: dict[str, str] = {}
    for place, value in values:
        if value is not None:
            kind = type(value).__name__
            examples.setdefault(kind, f"{value!r:.40} ({kind}, {place})")
    return " and ".join(examples.values()) if len(examples) > 1 else ""


def _hash(value: Any) -> int:
    if not isinstance(value, pa.Table):
        return xxhash.xxh3_64_intdigest(repr(value).encode())
    total = xxhash.xxh3_64()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, value.schema) as writer:
        writer.write_table(value.combine_chunks())
    total.update(sink.getvalue())
    return total.intdigest()
