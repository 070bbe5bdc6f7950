"""Reads the files of a table in chunks, as one table: csv in its dialects, Parquet, JSON records."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.datasets.sources import Problems
from heliostat.datasets.sources.files import SHOWN, File, table_files
from heliostat.datasets.sources.formats import kinds
from heliostat.datasets.sources.formats.delimited import CsvFile
from heliostat.datasets.sources.formats.dialect import Dialect
from heliostat.datasets.sources.formats.numbers import Plain
from heliostat.datasets.sources.formats.options import KEY, Read
from heliostat.datasets.sources.formats.parquet import ParquetFile
from heliostat.datasets.sources.formats.records import JsonColumns, JsonFile
from heliostat.datasets.sources.formats.refusal import Refusal
from heliostat.datasets.sources.formats.streams import Section
from heliostat.datasets.values.missing import missing, trimmed
from heliostat.errors import UserError, some

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
KINDS = {"csv": "csv files", "json": "JSON files", "parquet": "Parquet files"}
PART = "\0part"
"""The name under which `File.part` is read as a column; no column has it."""
Batch = dict[str, pa.Array]
DETECTED = Read()
Place = tuple[int, Section | None]
"""The number of a file, and what of it; None is all."""


class Reader:
    """The columns of some files that have the same ones.

    Args:
        place: a file, a folder or a pattern, see `table_files`.
        read: what is known of how they are written.
        key: what the place is called in messages.
        files: those to read, if they are not all of the place, or more.

    Raises:
        UserError: there are no files, or they cannot be read, or have different columns; the message lists all of these.
    """

    def __init__(
        self, place: str, read: Read = DETECTED, key: str = "dataset.options.path", files: list[File] | None = None
    ) -> None:
        self.place, self._read = place, read
        self.files = table_files(place, key) if files is None else files
        self._opened: dict[File, CsvFile | JsonFile | ParquetFile] = {}
        with self.reading():
            self.kind = self._kind()
            self._partitions = _Partitions([file.name for file in self.files])
            schemas = self._open()
        first = schemas[0]
        self.names: list[str] = [*(name.strip() for name in first.names), *self._partitions.names(first.names)]
        self.index = [name for name in (first.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
        """The columns that pandas has as the index of the rows."""
        plain = [
            pa.schema([(name.strip(), _decoded(kind)) for name, kind in zip(s.names, s.types, strict=True)]) for s in schemas
        ]
        twice = len({*first.names}) < len(first.names)
        with self.reading():
            self._types = plain[0] if twice else self._unified(plain)
        self.markers: dict[str, tuple[str, ...]] = {}
        """By column what also stands for a missing value."""
        self.numbers: dict[str, bool] = {}
        """Of columns with another decimal sign than a point, whether all their values are numbers, as far as that is known."""

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def dialect(self) -> dict[str, Any]:
        """What is not usual about how the first of some csv files is written, as keys of the option ``read``."""
        dialect = self._dialect(self.files[0])
        return dialect.described() if dialect else {}

    def sections(self, size: int) -> list[Place]:
        """Places in the files of about ``size`` bytes each, in order, which `batches` can read by themselves.

        Large files are divided: Parquet into row groups, csv and JSON lines in UTF-8 that are not compressed into rows.
        """
        with self.reading():
            return [(number, each) for number, file in enumerate(self.files) for each in self._opened[file].sections(size)]

    def batches(
        self, columns: list[str], progress: Callable[[int], Any] = lambda done: None, places: Sequence[Place] | None = None
    ) -> Iterator[Batch]:
        """Chunks of some columns, decoded, of all files or some places; ``progress`` gets the bytes that were read so far.

        Texts of csv files are as they are written, but for the numbers in a column of numbers: these have a decimal point,
        and no separated thousands if the file has a decimal comma or the option ``read.thousands`` is set.

        Raises:
            UserError: a file cannot be read.
        """
        if any(self._plain(file) for file in self.files):
            self._find_numbers(columns)
        done = 0
        for number, section in [(number, None) for number in range(len(self.files))] if places is None else places:
            file = self.files[number]
            for batch, read in self._batches(file, columns, section):
                progress(done + read)
                if batch.num_rows:
                    yield self._named(batch, file, columns)
            done += file.size

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
            raise UserError(f"{self.place} cannot be read as a table: {error}", "give csv, Parquet or JSON files") from None

    # --- the files --------------------------------------------------------------------------------------------

    def _kind(self) -> str:
        """What the files are.

        Raises:
            UserError: some are no tables, or they are of several kinds.
        """
        found: dict[str, list[str]] = {}
        problems = self._problems()
        for file in self.files:
            if len(self.files) > 1 and not kinds.is_table(file.name) and not file.start(4).startswith(b"PAR1"):
                problems.add(
                    f"{file.name} is no table by its name", f"move it away, or give a pattern such as {self._pattern()}"
                )
                continue
            try:
                found.setdefault(kinds.kind(file), []).append(file.name)
            except Refusal as refusal:
                self._add(problems, file, refusal)
        problems.refuse()
        if len(found) > 1:
            shown = " and ".join(f"{KINDS[kind]}, such as {names[0]}" for kind, names in found.items())
            raise UserError(f"{self.place} has {shown}", f"give a pattern such as {self._pattern()}")
        return next(iter(found))

    def _pattern(self) -> str:
        return os.path.join(self.place, "*.parquet")

    def _open(self) -> list[pa.Schema]:
        """Open all files; their schemas."""
        if self.kind != "csv" and self._read.of_csv:
            raise UserError(
                f"{KEY} has {', '.join(self._read.of_csv)}, but {self.place} has {KINDS[self.kind]}",
                "remove these keys: they are for csv files",
            )
        problems, columns = self._problems(), JsonColumns()
        for file in self.files:
            try:
                self._opened[file] = (
                    CsvFile(file, self._read) if self.kind == "csv"
                    else JsonFile(file, columns) if self.kind == "json"
                    else ParquetFile(file)
                )  # fmt: skip
            except Refusal as refusal:
                self._add(problems, file, refusal)
        problems.refuse()
        schemas = [self._opened[file].schema for file in self.files]
        self._check_columns([schema.names for schema in schemas])
        return schemas

    def _problems(self) -> Problems:
        return Problems(self.place, most=SHOWN)

    def _add(self, problems: Problems, file: File, refusal: Refusal) -> None:
        for what, fix in refusal.problems:
            problems.add(f"{file.name}: {what}" if len(self.files) > 1 else what, fix)

    def _check_columns(self, columns: list[list[str]]) -> None:
        """Raise a UserError if not all files have the columns of the first one."""
        problems = self._problems()
        for file, names in zip(self.files, columns, strict=True):
            differ = Counter(name.strip() for name in names), Counter(name.strip() for name in columns[0])
            for what, odd in (("also has", differ[0] - differ[1]), ("lacks", differ[1] - differ[0])):
                if odd:
                    problems.add(
                        f"{file.name} {what} the columns {some(map(repr, odd), SHOWN)}", f"write it like {self.files[0].name}"
                    )
        problems.refuse()

    def _unified(self, schemas: list[pa.Schema]) -> pa.Schema:
        """The types that hold the values of all files.

        Raises:
            UserError: there are none for some columns.
        """
        problems, fields = self._problems(), []
        for name in schemas[0].names:
            each = [schema.field(name) for schema in schemas]
            try:
                fields += pa.unify_schemas([pa.schema([field]) for field in each], promote_options="permissive")
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                files = {str(field.type): file.name for field, file in zip(reversed(each), reversed(self.files), strict=True)}
                shown = " and ".join(f"{kind} in {name}" for kind, name in reversed(files.items()))
                problems.add(f"column {name!r} is {shown}", "write it with one type")
        problems.refuse()
        return pa.schema(fields)

    # --- chunks -----------------------------------------------------------------------------------------------

    def _batches(self, file: File, columns: list[str], section: Section | None = None) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Chunks of a file as they are written. If it is broken, the others are looked at too."""
        with self.reading():
            try:
                yield from self._opened[file].batches(columns, section)
            except Refusal as refusal:
                raise self._refused(file, refusal) from None

    def _refused(self, file: File, refusal: Refusal) -> UserError:
        problems = self._problems()
        self._add(problems, file, refusal)
        for other in self.files[self.files.index(file) + 1 :]:
            try:
                self._opened[other].check()
            except Refusal as another:
                self._add(problems, other, another)
        try:
            problems.refuse()
        except UserError as error:
            return error
        raise AssertionError(refusal)

    def _named(self, batch: pa.RecordBatch, file: File, columns: list[str]) -> Batch:
        there = dict(zip(map(str.strip, batch.schema.names), batch.columns, strict=True))
        there[PART] = pa.repeat(pa.scalar(file.part, pa.string()), batch.num_rows)
        there |= {
            name: pa.repeat(value, batch.num_rows) for name, value in self._partitions.values(file.name) if name not in there
        }
        plain = self._plain(file)
        found = {name: self._without_missing(self._decode(name, there[name])) for name in columns}
        return {
            name: plain.write(trimmed(column)) if plain and self.numbers.get(name) else column for name, column in found.items()
        }

    def _decode(self, name: str, column: pa.Array) -> pa.Array:
        """The values, as one array of the type that the column has in all files."""
        kind = _decoded(column.type)
        if pa.types.is_decimal(column.type):
            column = pc.cast(column, pa.string())  # pyarrow 26.0.1 casts decimal 4.27 to 4.2700000000000005
        column = column if column.type == kind else pc.cast(column, kind)
        wanted = self._types.field(name).type if name in self._types.names else kind
        return column if column.type == wanted else pc.cast(column, wanted)

    def _without_missing(self, column: pa.Array) -> pa.Array:
        """The values, of which those of the option ``read.missing`` are null."""
        if not self._read.missing:
            return column
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            marked = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(self._read.missing, column.type))
        elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            numbers = [float(text) for text in self._read.missing if re.fullmatch(r"[-+]?\d+(\.\d+)?", text.strip())]
            marked = pc.is_in(pc.cast(column, pa.float64(), safe=False), value_set=pa.array(numbers, pa.float64()))
        else:
            return column
        return pc.if_else(marked, pa.scalar(None, column.type), column)

    def are_numbers(self, columns: list[str]) -> bool:
        """Whether some columns of csv files have only numbers with the decimal sign that they are read with."""
        self._find_numbers(columns)
        return all(self.numbers[name] for name in columns)

    # --- numbers with a decimal comma -------------------------------------------------------------------------

    def _dialect(self, file: File) -> Dialect | None:
        opened = self._opened[file]
        return opened.dialect if isinstance(opened, CsvFile) else None

    def _plain(self, file: File) -> Plain | None:
        """Writes the numbers of a file in the plain way, if they are not."""
        dialect = self._dialect(file)
        return Plain(dialect.decimal, dialect.thousands) if dialect and (dialect.decimal == "," or dialect.thousands) else None

    def _find_numbers(self, columns: list[str]) -> None:
        """Find out which columns have numbers only, in all files: in others, what looks like a number is a text."""
        left = [name for name in columns if name not in self.numbers]
        for file in self.files if left else []:
            plain = self._plain(file) or Plain(".", None)
            for batch, _ in self._batches(file, left):
                for name, column in zip(map(str.strip, batch.schema.names), batch.columns, strict=True):
                    if self.numbers.setdefault(name, True):
                        texts = trimmed(self._without_missing(column))
                        self.numbers[name] = plain.fits(texts.filter(pc.invert(missing(texts, self.markers.get(name, ())))))


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


def _decoded(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a type of Arrow."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.float64() if pa.types.is_decimal(kind) else kind
