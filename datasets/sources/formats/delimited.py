"""CSV files. Arrow reads them; what it would accept and read otherwise than meant is checked on the bytes that pass by.

What is doubtful there, and what Arrow refuses, is read again by Python's csv module, which is slower and knows the lines.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from contextlib import closing

import pyarrow as pa
import pyarrow.csv

from heliostat.datasets.sources.files import File
from heliostat.datasets.sources.formats import encoding as encodings
from heliostat.datasets.sources.formats.dialect import LARGEST, LINE, Dialect, Record, find, records
from heliostat.datasets.sources.formats.options import KEY, Read
from heliostat.datasets.sources.formats.refusal import Refusal
from heliostat.datasets.sources.formats.sections import sections_of_rows
from heliostat.datasets.sources.formats.streams import Bytes, Doubts, Section, Text
from heliostat.wording import agreeing, counted

SAMPLE, LARGEST_SAMPLE = 1 << 18, 1 << 24
"""Bytes from which the dialect is found: more of them if the rows are long."""
PIECE = 1 << 20
BLOCK, MOST = 4 << 20, 64 << 20
"""Bytes that are read at once: more of them for many columns, because each costs time in each block."""
BLOCK_OF_A_COLUMN = 4096
FIRST = 1 << 16
"""Bytes that are read first, to find out whether there are rows."""
ROWS = 1 << 14
ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\udc80-\udcff]")
"""What is no text: signs of control, and bytes that could not be decoded."""
LISTED = 10_000
"""Problems of a file that are counted."""
WRONG = {
    "unexpected end of data": "has a quote that does not end",
    "expected after": "has text after a quote that ends a cell",
    "larger than field limit": f"has a cell of more than {LARGEST >> 20} MB, or a quote that does not end",
}
"""What the errors of Python's csv module mean."""


class CsvFile:
    """A csv file, whose dialect has been found.

    Raises:
        Refusal: it is no text, or its dialect is not clear.
    """

    def __init__(self, file: File, read: Read) -> None:
        self.file = file
        self._is_sound = False
        start, is_all = self._start()
        if not start.strip():
            raise Refusal(("is empty", "give a table with a row per sample"))
        encoding = read.encoding or encodings.find(start, is_all)
        if encoding is None:
            encoding = "cp1252"
            if not encodings.is_western(self._pieces()):
                raise Refusal(*self._not_unicode(start))
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(start, final=is_all)
        except UnicodeDecodeError as error:
            line = start[: error.start].count(b"\n") + 1
            what = f"line {line} is not {encoding}: {start[max(0, error.start - 8) : error.end + 8]!r}"
            raise Refusal((what, f"set {KEY}.encoding to the encoding of the file")) from None
        if odd := next((c for c in text if c < " " and c not in "\t\r\n"), None):
            line = text[: text.index(odd)].count("\n") + 1
            raise Refusal((f"line {line} has {odd!r}, which is not text", "remove it, or copy the file again"))
        self.dialect = find(text, is_all, read, encoding)

    @property
    def names(self) -> tuple[str, ...]:
        return self.dialect.names

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(name, pa.string()) for name in self.names])

    def sections(self, size: int) -> list[Section | None]:
        """Sections of about so many bytes, with the same chunks as the whole; None is all of a file that has none."""
        with closing(Bytes(self.file)) as stream:
            if stream.is_compressed or not self.dialect.is_plain or self.dialect.encoding != "utf-8":
                return [None]
        return sections_of_rows(self.file, self.dialect.skipped + FIRST, self._block, size, self.dialect.quote)

    def batches(self, columns: list[str], section: Section | None = None) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Chunks of some columns as texts, and the bytes read so far.

        Raises:
            Refusal: the file is broken; with all problems.
        """
        columns = [name for name in self.names if name in columns]
        if self.dialect.is_plain:
            yield from self._by_arrow(columns, section)
        else:
            self.check()
            yield from self._by_python(columns)
        self._is_sound = self._is_sound or section is None

    def check(self) -> None:
        """Read the file to find out what is wrong with it.

        Raises:
            Refusal: anything is.
        """
        if not self._is_sound and (problems := list(self._problems())):
            raise Refusal(*problems)
        self._is_sound = True

    # --- bytes ------------------------------------------------------------------------------------------------

    def _start(self) -> tuple[bytes, bool]:
        """The first bytes, and whether these are all."""
        start, size = b"", SAMPLE
        with closing(Bytes(self.file)) as stream:
            while len(start) < size:
                piece = stream.read(size - len(start))
                if not piece:
                    return start, True
                start += piece
                if len(start) >= size and start.count(b"\n") < 3:
                    size = min(8 * size, LARGEST_SAMPLE)
        return start, False

    def _pieces(self) -> Iterator[bytes]:
        with closing(Bytes(self.file)) as stream:
            while piece := stream.read(PIECE):
                yield piece

    def _not_unicode(self, start: bytes) -> Iterator[tuple[str, str]]:
        fix = f"save it as UTF-8, or set {KEY}.encoding to its encoding"
        for number, line in enumerate(start.splitlines(), 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                part = line[max(0, error.start - 8) : error.end + 8]
                shown = part.decode("cp1252", "replace")
                yield f"line {number} is not UTF-8: {part!r}", f"{fix}, such as cp1252, in which this is {shown!r}"
                return
        yield "is not UTF-8", fix

    def _text(self, section: Section | None = None) -> Text:
        doubts = None if self._is_sound else Doubts(self.dialect)
        skipped, first = self.dialect.skipped, FIRST
        if section and section.start:  # up to the end of the block in which a reader of the whole file has its first row
            skipped, first = 0, (self.dialect.skipped + FIRST - section.start) % self._block or self._block
        return Text(Bytes(self.file, section), self.dialect, doubts, self.check, skipped, first)

    @property
    def _block(self) -> int:
        return min(MOST, max(BLOCK, BLOCK_OF_A_COLUMN * len(self.names)))

    # --- Arrow ------------------------------------------------------------------------------------------------

    def _by_arrow(self, columns: list[str], section: Section | None) -> Iterator[tuple[pa.RecordBatch, int]]:
        dialect, stream = self.dialect, self._text(section)
        if not stream.peek():
            return
        try:
            with pyarrow.csv.open_csv(
                pa.PythonFile(stream, "r"),
                read_options=pyarrow.csv.ReadOptions(block_size=self._block, column_names=self.names),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=dialect.separator, quote_char=dialect.quote or False, newlines_in_values=dialect.quote is not None
                ),
                # All as texts: what Arrow would infer has lost leading zeros, and which values were missing.
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(self.names, pa.string()), include_columns=columns
                ),
            ) as reader:
                for batch in reader:
                    yield batch, stream.position
        except pa.ArrowInvalid as error:
            self._is_sound = False
            self.check()
            fix = "save it as UTF-8" if "invalid UTF8" in str(error) else "split its rows, or save it as Parquet"
            raise Refusal((f"cannot be read: {error}", fix)) from None

    def _by_python(self, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
        at = [self.names.index(name) for name in columns]
        rows: list[list[str]] = []
        stream = self._text()

        def batch() -> tuple[pa.RecordBatch, int]:
            arrays = [pa.array([row[number] for row in rows], pa.string()) for number in at]
            return pa.RecordBatch.from_arrays(arrays, names=columns), stream.position

        texts = codecs.iterdecode(iter(lambda: stream.read(PIECE), b""), "utf-8")
        for record in records(_lines(texts), self.dialect):
            rows.append(record.cells)
            if len(rows) == ROWS:
                yield batch()
                rows.clear()
        if rows:
            yield batch()

    # --- what is wrong ----------------------------------------------------------------------------------------

    def _problems(self) -> Iterator[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        quotes = Quotes(self.dialect)
        for record in records(self._checked(found), self.dialect):
            yield from found
            found.clear()
            quotes.see(record)
            if problem := self._problem(record):
                yield f"line {record.line + self.dialect.above} {problem[0]}", problem[1]
        yield from found
        yield from quotes.problems()

    def _problem(self, record: Record) -> tuple[str, str] | None:
        """What is wrong with a record, and the fix."""
        cells, width = record.cells, len(self.names)
        if record.wrong:
            what = next((text for part, text in WRONG.items() if part in record.wrong), f"cannot be read: {record.wrong}")
            return what, f"double quotes within cells, or set {KEY}.quote: none if they mean nothing"
        if len(cells) != width:
            also = f", or set {KEY}.comment" if cells[0].startswith(("#", "//", "%")) else ""
            return (
                f"has {counted(len(cells), 'cell')}, but there {agreeing(width, 'are')} {counted(width, 'column')}",
                f"correct or remove it{also}",
            )
        if width > 1 and tuple(cells) == self.dialect.header:
            return "repeats the names of the columns", "remove it"
        if sum(map(len, cells)) > BLOCK:
            return f"has more than {BLOCK >> 20} MB", "shorten it, or save the table as Parquet"
        return None

    def _checked(self, found: list[tuple[str, str]]) -> Iterator[str]:
        """The lines after the names; what of them is no text is added to ``found``."""
        name = self.dialect.encoding.removesuffix("-sig")
        decoder = codecs.getincrementaldecoder(self.dialect.encoding)(
            "strict" if name.startswith("utf-") and name != "utf-8" else "surrogateescape"
        )

        def texts() -> Iterator[str]:
            skipped = self.dialect.skipped
            for piece in self._pieces():
                text = decoder.decode(piece)
                if skipped:
                    data = text.encode(errors="surrogateescape")
                    text, skipped = data[skipped:].decode(errors="surrogateescape"), max(0, skipped - len(data))
                yield text
            yield decoder.decode(b"", True)

        number = above = self.dialect.above
        try:
            for number, line in enumerate(_lines(texts()), above + 1):
                if len(found) > LISTED:
                    return
                if ODD.search(line):
                    what, fix = _no_text(line, name)
                    found.append((f"line {number} {what}", fix))
                    line = line.encode(errors="replace").decode()
                yield line
        except UnicodeDecodeError as error:
            what = f"line {number + 1} is not {name}, or follows damage: {error.reason}"
            found.append((what, "copy the file again, or save it as UTF-8"))


class Quotes:
    """Quotes in cells that are not in quotes: they may be inches, or the other quote of the cell may be missing.

    They are letters in a file in which no cell is in quotes.
    """

    def __init__(self, dialect: Dialect) -> None:
        self._dialect, quote = dialect, dialect.quote or ""
        separator, blanks = re.escape(dialect.separator), " *" if dialect.blanks else ""
        quoted = rf"{blanks}{quote}[^{quote}]*+(?:{quote}{quote}[^{quote}]*+)*+{quote}"
        cell = rf"(?:{quoted}|[^{separator}{quote}\r\n]*+)"
        self._right = re.compile(rf"{cell}(?:{separator}{cell})*+[\r\n]*")
        self._quoted = re.compile(rf"(?:^|{separator}){blanks}{quote}")
        self._are_used = False
        self._odd: list[int] = []

    def see(self, record: Record) -> None:
        quote = self._dialect.quote
        if not quote or quote not in record.text or record.wrong:
            return
        self._are_used = self._are_used or self._quoted.search(record.text) is not None
        if len(self._odd) < LISTED and not self._right.fullmatch(record.text):
            self._odd.append(record.line + self._dialect.above)

    def problems(self) -> Iterator[tuple[str, str]]:
        fix = f"put the cell in quotes and double those in it, or set {KEY}.quote: none if they mean nothing"
        for line in self._odd if self._are_used else []:
            yield f"line {line} has a quote in a cell that is not in quotes", fix


def _no_text(line: str, encoding: str) -> tuple[str, str]:
    """What of a line is no text, as `ODD` has found, and the fix."""
    found = ODD.search(line)
    assert found
    if found[0] < " ":
        return f"has {found[0]!r}, which is not text", "remove it, or copy the file again"
    part = line[max(0, found.start() - 8) : found.start() + 8].rstrip().encode(errors="surrogateescape")
    return f"is not {encoding.upper()}: {part!r}", f"save it as UTF-8, or set {KEY}.encoding, such as cp1252"


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """The lines of a text in pieces, with their ends."""
    rest = ""
    for piece in texts:
        found = LINE.findall(rest + piece)
        rest = found.pop() if found and not found[-1].endswith("\n") and len(found[-1]) < LARGEST else ""
        yield from found
    yield from LINE.findall(rest)
