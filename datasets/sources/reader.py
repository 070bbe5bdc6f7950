"""Reads CSV and Parquet files in chunks, as one table."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from heliostat.datasets.sources import Problems
from heliostat.datasets.sources.files import SHOWN, File, table_files
from heliostat.errors import UserError

PARQUET = (".parquet", ".pq", ".parq")
CSV = (".csv", ".tsv", ".txt")
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
BLOCK, MOST = 4 << 20, 64 << 20
"""Bytes of a CSV file that are read at once: more of it for many columns, because each costs time in each block."""
BLOCK_OF_A_COLUMN = 4096
CHUNK, ROWS = 16 << 20, 1 << 16
"""Bytes and rows of a Parquet file that are read at once, at most."""
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
Batch = dict[str, pa.Array]


class Reader:
    """The columns of some files that have the same ones.

    Args:
        place: a file, a folder or a pattern, see `table_files`.

    Raises:
        UserError: there are no files, or they cannot be read, or have different columns.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.files = table_files(place)
        self.is_parquet = self._is_parquet()
        self._partitions = _Partitions([file.name for file in self.files])
        with self.reading():
            self._open()

    def _open(self) -> None:
        schemas = [self._schema(file) for file in self.files]
        first = schemas[0]
        self._check_columns([schema.names for schema in schemas])
        self.names: list[str] = [*(name.strip() for name in first.names), *self._partitions.names(first.names)]
        self.index = [name for name in (first.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
        """The columns that pandas has as the index of the rows."""
        plain = [
            pa.schema([(name.strip(), _decoded(kind)) for name, kind in zip(s.names, s.types, strict=True)]) for s in schemas
        ]
        twice = len({*first.names}) < len(first.names)
        self._types = plain[0] if twice else pa.unify_schemas(plain, promote_options="permissive")

    def batches(self, columns: list[str], progress: Callable[[int], Any] = lambda done: None) -> Iterator[Batch]:
        """Chunks of some columns, decoded; ``progress`` gets the bytes that were read so far.

        Raises:
            UserError: a file cannot be read.
        """
        done = 0
        for file in self.files:
            with self.reading():
                for batch, read in self._parquet(file, columns) if self.is_parquet else self._csv(file, columns):
                    progress(done + read)
                    if batch.num_rows:
                        yield self._named(batch, file, columns)
            done += file.size

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise a UserError for the errors of Arrow that mean that a file is no table."""
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(
                f"{self.place}: a file was removed while it was read: {error}", "run the same command again"
            ) from None
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OSError) as error:
            fix = "save it as UTF-8" if "invalid UTF8" in str(error) else "give a CSV or Parquet file"
            raise UserError(f"{self.place} cannot be read as a table: {error}", fix) from None

    # --- the files --------------------------------------------------------------------------------------------

    def _is_parquet(self) -> bool:
        """Whether they are Parquet files, by their names or their first bytes.

        Raises:
            UserError: some are, or are no tables.
        """
        parquet = [file.name for file in self.files if _is_parquet(file)]
        others = [file.name for file in self.files if file.name not in parquet]
        foreign = [name for name in others if not _is_csv(name)] if len(self.files) > 1 else []
        if foreign:
            raise UserError(
                f"{self.place} has files that are no tables: {_some(foreign)}",
                f"move them away, or give a pattern such as {os.path.join(self.place, '*.parquet')}",
            )
        if parquet and others:
            raise UserError(
                f"{self.place} has Parquet files, such as {parquet[0]}, and CSV files, such as {others[0]}",
                f"give a pattern such as {os.path.join(self.place, '*.parquet')}",
            )
        return bool(parquet)

    def _schema(self, file: File) -> pa.Schema:
        if self.is_parquet:
            with file.filesystem.open_input_file(file.path) as source:
                return pq.ParquetFile(source).schema_arrow
        with pyarrow.csv.open_csv(_Csv(file).stream) as reader:
            names = reader.schema.names
        with self._open_csv(_Csv(file), names, names) as reader:  # which finds out if the first rows are UTF-8
            return pa.schema([(name, pa.string()) for name in names])

    def _check_columns(self, columns: list[list[str]]) -> None:
        """Raise a UserError if not all files have the columns of the first one."""
        problems = Problems(self.place, most=SHOWN)
        for file, names in zip(self.files, columns, strict=True):
            differ = Counter(name.strip() for name in names), Counter(name.strip() for name in columns[0])
            for what, odd in (("also has", differ[0] - differ[1]), ("lacks", differ[1] - differ[0])):
                if odd:
                    problems.add(
                        f"{file.name} {what} the columns {_some([*map(repr, odd)])}", f"write it like {self.files[0].name}"
                    )
        problems.refuse()

    # --- chunks -----------------------------------------------------------------------------------------------

    def _named(self, batch: pa.RecordBatch, file: File, columns: list[str]) -> Batch:
        there = dict(zip(map(str.strip, batch.schema.names), batch.columns, strict=True))
        there |= {
            name: pa.repeat(value, batch.num_rows) for name, value in self._partitions.values(file.name) if name not in there
        }
        return {name: self._decode(name, there[name]) for name in columns}

    def _decode(self, name: str, column: pa.Array) -> pa.Array:
        """The values, as one array of the type that the column has in all files."""
        kind = _decoded(column.type)
        column = column if column.type == kind else pc.cast(column, kind)
        wanted = self._types.field(name).type if name in self._types.names else kind
        return column if column.type == wanted else pc.cast(column, wanted)

    def _parquet(self, file: File, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
        with file.filesystem.open_input_file(file.path) as source:
            opened = pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
            rows, names = max(1, opened.metadata.num_rows), opened.schema_arrow.names
            groups = (opened.metadata.row_group(number) for number in range(opened.num_row_groups))
            of_a_row = max(1, sum(group.total_byte_size for group in groups) // rows)
            wanted = [name for name in names if name.strip() in columns]
            # A name with a dot may be that of a column in a column.
            selected = None if any("." in name for name in names) else wanted
            seen = 0
            for batch in opened.iter_batches(min(ROWS, max(1, CHUNK // of_a_row)), columns=selected):
                seen += batch.num_rows
                yield batch, file.size * seen // rows

    def _csv(self, file: File, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
        with pyarrow.csv.open_csv(_Csv(file).stream) as reader:
            names = reader.schema.names
        opened = _Csv(file)
        with self._open_csv(opened, names, [name for name in names if name.strip() in columns]) as reader:
            for batch in reader:
                yield batch, opened.raw.tell()

    def _open_csv(self, opened: "_Csv", names: list[str], columns: list[str]) -> Any:
        """All columns as texts: what Arrow would infer has lost leading zeros, and which values were missing."""
        block = min(MOST, max(BLOCK, BLOCK_OF_A_COLUMN * len(names)))
        return pyarrow.csv.open_csv(
            opened.stream,
            read_options=pyarrow.csv.ReadOptions(block_size=block),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=columns),
        )


class _Csv:
    """An opened CSV file, which may be compressed; ``raw`` is at the position in the file."""

    def __init__(self, file: File) -> None:
        self.raw = file.filesystem.open_input_file(file.path)  # a stream has no position
        codec = CODECS.get(os.path.splitext(file.path)[1])
        self.stream = pa.CompressedInputStream(self.raw, codec) if codec else self.raw


class _Partitions:
    """The columns that the folders of files name, as Hive has them, such as year in ``year=2024/part.parquet``."""

    def __init__(self, names: list[str]) -> None:
        self._of = {name: dict(_pairs(name)) for name in names}
        keys = dict.fromkeys(key for pairs in self._of.values() for key in pairs)
        self._types = {key: self._type(key) for key in keys}

    def names(self, others: list[str]) -> list[str]:
        """The names of the columns, but for those that the files have themselves."""
        return [name for name in self._types if name not in others]

    def values(self, name: str) -> list[tuple[str, pa.Scalar]]:
        """The values of the columns in a file."""
        found = self._of[name]
        return [(key, pc.cast(pa.scalar(found.get(key), pa.string()), kind)) for key, kind in self._types.items()]

    def _type(self, key: str) -> pa.DataType:
        texts = [text for pairs in self._of.values() if (text := pairs.get(key)) is not None]
        if not all(re.fullmatch(r"-?\d{1,18}", text) for text in texts):
            return pa.string()
        return pa.int32() if all(-(2**31) <= int(text) < 2**31 for text in texts) else pa.int64()


def _pairs(name: str) -> Iterator[tuple[str, str | None]]:
    for folder in name.split("/")[:-1]:
        key, equals, value = folder.partition("=")
        if equals and key:
            yield unquote(key), None if value == HIVE_NULL else unquote(value)


def _is_parquet(file: File) -> bool:
    return file.name.lower().endswith(PARQUET) or file.start(4) == b"PAR1"


def _is_csv(name: str) -> bool:
    stem, suffix = os.path.splitext(name.lower())
    return (stem if suffix in CODECS else name.lower()).endswith(CSV)


def _decoded(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a type of Arrow."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.float64() if pa.types.is_decimal(kind) else kind


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
