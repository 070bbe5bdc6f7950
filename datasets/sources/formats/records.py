"""JSON files: a record a line, or one array of records. Their columns have types: a value keeps the one it has in JSON.

Python's parser reads them: Arrow's takes the types from the first block, texts that look like dates for dates, and the last of
two values with one name.
"""

import codecs
import json
import math
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa

from heliostat.datasets.sources.files import File
from heliostat.datasets.sources.formats import encoding as encodings
from heliostat.datasets.sources.formats.refusal import Refusal
from heliostat.datasets.sources.formats.sections import sections_of_rows
from heliostat.datasets.sources.formats.streams import Bytes, Section

PIECE = 1 << 20
LARGEST = 1 << 26
"""Characters of a record."""
ROWS = 1 << 13
CHUNK = 8 << 20
"""Rows and about the characters of a batch, at most."""
LISTED = 10_000
BLANK = " \t\r\n"
Record = dict[str, Any]
Problem = tuple[str, str]
"""What is wrong with a record, and the fix."""
KINDS = {bool: "truth values", int: "whole numbers", float: "numbers", str: "texts", list: "lists", dict: "objects"}


class Column:
    """What the values of a column are, by kind the line of the first."""

    def __init__(self) -> None:
        self.first: dict[type, int] = {}
        self._least = self._most = 0
        self._inside: set[type] = set()

    def add(self, value: Any, line: int) -> None:
        kind = type(value)
        if kind not in self.first:
            self.first[kind] = line
        if kind is int:
            self._least, self._most = min(self._least, value), max(self._most, value)
        elif kind is list:
            self._inside |= set(map(type, value))

    @property
    def type(self) -> pa.DataType | None:
        """The type of the column; None if it has none."""
        kinds = set(self.first) - {type(None)}
        if kinds == {list}:
            inside = self._inside - {type(None)}
            return pa.list_(pa.float64()) if inside <= {int, float} else pa.list_(pa.string()) if inside == {str} else None
        if kinds == {int, float}:
            return pa.float64()
        if len(kinds) > 1 or kinds == {dict}:
            return None
        if kinds == {int}:
            if self._least >= -(2**63) and self._most < 2**63:
                return pa.int64()
            return pa.uint64() if self._least >= 0 and self._most < 2**64 else pa.string()  # an identifier
        return pa.bool_() if kinds == {bool} else pa.float64() if kinds == {float} else pa.string()

    @property
    def problem(self) -> tuple[str, str]:
        """Why it has no type, and what to do."""
        lines = {KINDS[kind]: line for kind, line in self.first.items() if kind in KINDS}
        if len(lines) == 1:
            what = "objects" if "objects" in lines else "lists of other things than numbers or texts"
            line = next(iter(lines.values()))
            fix = "write each part as a column of its own, or drop it"
            pandas = "; a DataFrame is written as records by to_json(path, orient='records', lines=True)" * (what == "objects")
            return f"has {what}, such as in line {line}", fix + pandas
        shown = " and ".join(f"{kind} (line {line})" for kind, line in lines.items())
        return f"has {shown}", "write its values in one way, or drop it"


JsonColumns = dict[str, Column]
"""The columns of all files of a table."""


class JsonFile:
    """A JSON file, whose records may lack columns.

    Args:
        file: the file.
        columns: those of the files before; they are completed.

    Raises:
        Refusal: it is broken; with the lines.
    """

    def __init__(self, file: File, columns: JsonColumns) -> None:
        self.file, self.columns = file, columns
        problems, line = [], 0
        for line, record, _, _ in _records(file):
            if isinstance(record, dict):
                for name, value in record.items():
                    if name not in columns:
                        columns[name] = Column()
                    columns[name].add(value, line)
            else:
                problems.append(record)
                if len(problems) > LISTED:
                    break
        if not line:
            problems.append(("has no rows", "give a table with a row per sample"))
        if problems:
            raise Refusal(*problems)

    @property
    def schema(self) -> pa.Schema:
        """The columns; those without a type as texts."""
        return pa.schema([(name, column.type or pa.string()) for name, column in self.columns.items()])

    def sections(self, size: int) -> list[Section | None]:
        """Sections of lines of about so many bytes; None is all of a file of one record, or with an array of records."""
        with closing(Bytes(self.file)) as stream:
            start = stream.read(1 << 16)
            if stream.is_compressed or start.lstrip().startswith(b"[") or encodings.find(start, False) not in (None, "utf-8"):
                return [None]
        return sections_of_rows(self.file, PIECE, PIECE, size, None)

    def batches(self, columns: list[str], section: Section | None = None) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Chunks of some columns, whose names may have blanks around them, and the bytes read so far.

        Raises:
            Refusal: values of these are of several kinds, or nested.
        """
        schema = pa.schema([field for field in self.schema if field.name.strip() in columns])
        wrong = {name: self.columns[name].problem for name in schema.names if self.columns[name].type is None}
        if wrong:
            raise Refusal(*((f"column {name!r} {what}", fix) for name, (what, fix) in wrong.items()))
        rows: list[Record] = []
        start = 0
        for _, record, read, done in _records(self.file, section):
            if not isinstance(record, dict):
                raise Refusal(record)
            rows.append(record)
            if len(rows) == ROWS or read - start > CHUNK:
                yield _batch(rows, schema), done
                rows, start = [], read
        if rows:
            yield _batch(rows, schema), section.stop if section else self.file.size

    def check(self) -> None:
        """All has been found when it was opened."""


def _batch(rows: list[Record], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [_array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        values = [value if value is None else str(value) for value in values]
    elif pa.types.is_floating(kind):
        values = [value if value is None else float(value) for value in values]
    elif pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        values = [value if value is None else [each if each is None else float(each) for each in value] for value in values]
    return pa.array(values, kind)


def _records(file: File, section: Section | None = None) -> Iterator[tuple[int, Record | Problem, int, int]]:
    """By record its line, what it holds or what is wrong with it, and the characters and bytes read so far."""
    with closing(Bytes(file, section)) as stream:
        start = stream.read(1 << 16)
        encoding = encodings.find(start, False) or "utf-8"
        decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if encoding.startswith("utf-8") else "strict")

        def pieces() -> Iterator[str]:
            data = start
            while data:
                yield decoder.decode(data)
                data = stream.read(PIECE)
            yield decoder.decode(b"", True)

        text = _Text(pieces())
        found = _of_array(text) if text.peek() == "[" else _of_lines(text)
        try:
            for line, record in found:
                yield line, record, text.count, stream.position
        except UnicodeDecodeError as error:
            yield text.line, (f"line {text.line} is not {encoding}: {error.reason}", "save it as UTF-8"), 0, 0


class _Text:
    """A text in pieces, of which what has been read is forgotten."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self.buffer, self.at, self.line, self.count = "", 0, 1, 0

    def more(self) -> bool:
        """Append the next piece; False at the end."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        if self.at:
            self.buffer, self.at = self.buffer[self.at :], 0
        self.buffer += piece
        return True

    def skip(self, end: int) -> None:
        """Go on to a place in the buffer."""
        self.line += self.buffer.count("\n", self.at, end)
        self.count += end - self.at
        self.at = end

    def grow(self) -> bool:
        """Append about as much as is left; False at the end."""
        wanted = 2 * (len(self.buffer) - self.at)
        grown = self.more()
        while len(self.buffer) - self.at < wanted and self.more():
            pass
        return grown

    def peek(self) -> str:
        """The next character but blanks; none at the end."""
        while True:
            at = self.at
            while at < len(self.buffer) and self.buffer[at] in BLANK:
                at += 1
            self.skip(at)
            if at < len(self.buffer):
                return self.buffer[at]
            if not self.more():
                return ""


def _of_lines(text: _Text) -> Iterator[tuple[int, Record | Problem]]:
    more = True
    while more:
        *lines, rest = text.buffer[text.at :].split("\n")
        for line in lines:
            if line.strip(BLANK):
                yield text.line, _parsed(line, text.line)
            text.skip(text.at + len(line) + 1)
        if len(rest) > LARGEST:
            yield text.line, (f"line {text.line} has more than {LARGEST >> 20} MB", "write a record per line")
            return
        more = text.grow()
    if rest.strip(BLANK):
        yield text.line, _parsed(rest, text.line)


def _parsed(line: str, number: int) -> Record | Problem:
    try:
        record = DECODER.decode(line)
    except (json.JSONDecodeError, RecursionError, _TwiceError) as error:
        reason = f"{error.msg} in column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        return f"line {number} is not a JSON record: {reason}", "write a record per line, or one array of records"
    return _checked(record, line, number)


def _of_array(text: _Text) -> Iterator[tuple[int, Record | Problem]]:
    text.skip(text.at + 1)
    is_first = True
    while text.peek() != "]":
        if not is_first:
            if text.peek() != ",":
                yield (
                    text.line,
                    (f"line {text.line} has no comma or ] after a record", "correct it, or write a record per line"),
                )
                return
            text.skip(text.at + 1)
            text.peek()
        is_first = False
        try:
            record, end = _next_value(text)
        except json.JSONDecodeError as error:
            line = text.line + text.buffer.count("\n", text.at, error.pos)
            yield line, (f"line {line} is not JSON: {error.msg}", "correct it, or copy the file again if it is cut off")
            return
        except (RecursionError, _TwiceError) as error:
            yield text.line, (f"line {text.line} is not a JSON record: {error}", "correct it")
            return
        yield text.line, _checked(record, text.buffer[text.at : end], text.line)
        text.skip(end)
    text.skip(text.at + 1)
    if text.peek():
        yield text.line, (f"line {text.line} has text after the array of records", "remove it")


def _next_value(text: _Text) -> tuple[Any, int]:
    """The value that begins here, and its end; as much as it needs is read."""
    while True:
        try:
            return DECODER.raw_decode(text.buffer, text.at)
        except json.JSONDecodeError:
            if len(text.buffer) - text.at > LARGEST or not text.grow():
                raise


def _checked(record: Any, text: str, line: int) -> Record | Problem:
    if not isinstance(record, dict):
        kind = KINDS.get(type(record), "nothing")
        return f"line {line} has {kind} in place of a record", 'write records such as {"x": 1, "y": "a"}'
    if not text.isascii() or "\\u" in text:
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return f"line {line} has text that is not UTF-8", "save it as UTF-8"
    return record


class _TwiceError(ValueError):
    """A record has two values of one name."""


def _record(pairs: list[tuple[str, Any]]) -> Record:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(f"it has two values of {next(name for name in names if names.count(name) > 1)!r}")
    return record


def _constant(name: str) -> float | None:
    return None if name == "NaN" else math.inf if name == "Infinity" else -math.inf


DECODER = json.JSONDecoder(object_pairs_hook=_record, parse_constant=_constant)
