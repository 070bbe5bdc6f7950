"""The dialect of a csv file, found from its start, and its records by Python's csv module.

Python's `csv.Sniffer` guesses from frequencies of characters. Here, each separator is tried, and must give every line the same
number of cells; what more than one does, or none, is refused.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from heliostat.datasets.sources.formats.numbers import decimals
from heliostat.datasets.sources.formats.options import KEY, Read
from heliostat.datasets.sources.formats.refusal import Refusal
from heliostat.wording import counted

SEPARATORS = (",", ";", "\t", "|")
EXCEL = re.compile(r'"?sep=(.)"?\s*')
"""A first line that tells Excel the separator."""
YEAR = re.compile(r"(19|20)\d{2}")
NUMBER = re.compile(r"[-+]?[$€£]?(\d[\d.,' ]*|[.,]\d+)([eE][-+]?\d+)?\s?[%€]?")
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
BLANKS_AT_END = re.compile(r"[ \t]+(?=[\r\n]*$)")
LARGEST = 1 << 26
"""Characters of a cell; more of them mean that a quote is missing."""


class Record(NamedTuple):
    """A line of cells, or several if a cell has line breaks."""

    line: int
    """The first, counted from 1."""
    cells: list[str]
    wrong: str
    """What is wrong with it; then there are no cells."""
    text: str
    """As it is written."""


@dataclass(frozen=True)
class Dialect:
    """How a csv file is written."""

    separator: str = ","
    """A blank stands for any number of blanks and tabs."""
    quote: str | None = '"'
    encoding: str = "utf-8"
    blanks: bool = False
    """Whether quotes may come after blanks."""
    comment: str | None = None
    decimal: str = "."
    thousands: str | None = None
    names: tuple[str, ...] = ()
    above: int = 0
    """Lines before the first row."""
    skipped: int = 0
    """The bytes of these, in UTF-8."""
    header: tuple[str, ...] = ()
    """The cells of the line of the names."""
    header_line: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether Arrow reads it."""
        return not self.blanks and self.comment is None

    def described(self) -> dict[str, Any]:
        """What is not usual about it."""
        encoding = self.encoding.removesuffix("-sig")
        shown: dict[str, Any] = {"separator": self.separator, "quote": self.quote or "none", "encoding": encoding}
        shown |= {"decimal": self.decimal, "thousands": self.thousands}
        usual = {"separator": ",", "quote": '"', "encoding": "utf-8", "decimal": ".", "thousands": None}
        return {name: value for name, value in shown.items() if value != usual[name]}


class _Lines:
    """Lines, counted, without those that are comments; a line within a cell is none.

    Where blanks separate cells, tabs are blanks, and those at the end of a line separate nothing.
    """

    def __init__(self, lines: Iterable[str], dialect: "Dialect") -> None:
        self._lines, self._comment, self._blanks = iter(lines), dialect.comment, dialect.separator == " "
        self.begins = True
        self.first = self.count = 0
        self.taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        while True:
            line = next(self._lines)
            self.count += 1
            if self.begins and self._comment is not None and line.startswith(self._comment):
                continue
            if self.begins:
                self.begins, self.first, self.taken = False, self.count, []
            self.taken.append(line)
            return BLANKS_AT_END.sub("", line).replace("\t", " ") if self._blanks else line


def records(lines: Iterable[str], dialect: Dialect) -> Iterator[Record]:
    """The records of a csv file but for empty lines."""
    csv.field_size_limit(LARGEST)
    counted = _Lines(lines, dialect)
    reader = csv.reader(
        counted,
        delimiter=dialect.separator,
        quotechar=dialect.quote or '"',
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        skipinitialspace=dialect.blanks,
        strict=True,
    )
    while True:
        counted.begins = True
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(counted.first, [], str(error), "".join(counted.taken))
            continue
        if cells:
            yield Record(counted.first, cells, "", "".join(counted.taken))


def find(text: str, is_all: bool, read: Read, encoding: str) -> Dialect:
    """The dialect of a csv file that begins with ``text``, which is all of it or ends somewhere.

    Raises:
        Refusal: it is not clear from that.
    """
    lines = LINE.findall(text)
    if not is_all and len(lines) > 1:
        lines.pop()
    dialect = Dialect(encoding=encoding, comment=read.comment)
    given = EXCEL.fullmatch(lines[0]) if lines else None
    above = 1 if given else 0
    while above < len(lines) and (not lines[above].strip() or lines[above].startswith("#")) and not read.header:
        above += 1
    start = max(0, read.header - 1) if read.header else above
    if start >= len(lines):
        raise Refusal(("has no rows", "give a table with a row per sample"))
    separators = (read.separator or (given[1] if given else None),)
    dialect = _separated(lines[start:], is_all, dialect, read, separators if separators[0] else SEPARATORS)
    if not read.header and start and lines[start - 1].startswith("#") and read.comment is None:
        # The names may follow the sign of a comment.
        width = _width(_sampled(lines[start:], is_all, dialect))
        is_wide = width > 1 and len(next(records([lines[start - 1]], dialect)).cells) == width
        if is_wide and not _are_names([each.cells for each in records(lines[start:], dialect)]):
            start -= 1
    found = [(line + start, cells) for line, cells, wrong, _ in _sampled(lines[start:], is_all, dialect) if not wrong]
    if not found:
        raise Refusal((f"line {start + 1} cannot be read as names of columns", f"correct the line, or set {KEY}.header"))
    dialect = _named(dialect, found, read, lines, start)
    dialect = replace(dialect, skipped=len("".join(lines[: dialect.above]).encode()))
    if found[0][0] <= dialect.above:
        line = "".join(lines[found[0][0] - 1 : dialect.above]).strip("\r\n")
        dialect = replace(dialect, header=tuple(found[0][1]), header_line=line)
    return _with_decimal(dialect, [row for row in found if row[0] > dialect.above], read)


def _sampled(lines: list[str], is_all: bool, dialect: Dialect) -> list[Record]:
    found = list(records(lines, dialect))
    return found if is_all or len(found) < 2 or not found[-1].wrong else found[:-1]


def _width(found: list[Record]) -> int:
    """The most frequent number of cells."""
    return Counter(len(each.cells) for each in found).most_common(1)[0][0]


def _separated(lines: list[str], is_all: bool, dialect: Dialect, read: Read, separators: tuple[str | None, ...]) -> Dialect:
    """The dialect with the separator and the quote that give each line the same number of cells."""
    text = "".join(lines)
    quotes = (None if read.quote == "none" else read.quote,) if read.quote else ('"', "'") if '"' not in text else ('"',)
    shares: dict[Dialect, float] = {}
    for quote in quotes:
        tried = [
            replace(dialect, separator=sep, quote=quote, blanks=_has_blanks(text, sep, quote)) for sep in separators if sep
        ]
        found = {each: _sampled(lines, is_all, each) for each in tried}
        if len(tried) == 1 and len(quotes) == 1:
            return tried[0]
        even = [each for each, sample in found.items() if _is_even(sample)]
        if len(even) == 1 or (len(tried) == 1 and even):
            return even[0]
        if len(even) > 1:
            shown = " or ".join(repr(each.separator) for each in even)
            raise Refusal((f"may have {shown} between its columns", f"set {KEY}.separator"))
        if quote != "'":
            shares |= {each: _share(sample) for each, sample in found.items()}
    best = max(shares.values())
    if best == 0:  # a single column
        return next(iter(shares))
    mostly = [each for each, share in shares.items() if share == best]
    if best < 0.5 or len(mostly) > 1:
        what = "has lines with different numbers of cells, whatever is between them"
        raise Refusal((what, f"set {KEY}.separator (it may be blanks), or {KEY}.header to the line of the names"))
    return mostly[0]


def _has_blanks(text: str, separator: str, quote: str | None) -> bool:
    return separator == " " or (quote is not None and re.search(rf"{re.escape(separator)} +{quote}", text) is not None)


def _is_even(found: list[Record]) -> bool:
    """Whether all lines have the same number of cells, more than one."""
    return not any(each.wrong for each in found) and len(found[0].cells) > 1 and len({len(each.cells) for each in found}) == 1


def _share(found: list[Record]) -> float:
    """The share of the lines with the most frequent number of cells, if that is more than one."""
    counts = Counter(len(each.cells) for each in found)
    width, times = counts.most_common(1)[0]
    if width > 1:
        return times / len(found)
    return 0.0 if len(counts) == 1 else 1e-9


def _named(dialect: Dialect, found: list[tuple[int, list[str]]], read: Read, lines: list[str], start: int) -> Dialect:
    """The dialect with the names of the columns, and the lines before the first row."""
    first, cells = found[0]
    header = read.header if read.header is not None else 0 if read.names else None
    if header is None and max(len(each) for _, each in found) == 1 and _may_be_columns(cells[0]):
        what = f"has a single column, or blanks between its columns: {cells[0][:80]!r}"
        raise Refusal((what, f"set {KEY}.separator: blanks, or {KEY}.header: {first} if this is the name of a single one"))
    if header is None and (numbers := _looks_like_data([cells for _, cells in found])):
        raise Refusal((
            f"has no names of columns in line {first}, but numbers, such as {numbers}",
            f"set {KEY}.header: 0, which names them c1, c2, ..., or {KEY}.names; {KEY}.header: {first} if these are names"
            + f"; or {KEY}.separator: blanks" * any(map(_may_be_columns, cells)),
        ))  # fmt: skip
    width = max(Counter(len(cells) for _, cells in found[1:] or found).most_common(1)[0][0], 1)
    if header == 0:
        names, above = read.names or tuple(f"c{number}" for number in range(1, width + 1)), start
    else:
        after = next((each.line for each in list(records(lines[start:], dialect))[1:]), None)
        above = (after + start - 1) if after is not None else len(lines)
        names = read.names or tuple(cell.strip() for cell in cells)
    if len(names) != width and (read.names or len(found) > 1):
        raise Refusal(_uneven(names, width, first, found, read))
    return replace(dialect, names=names, above=above)


def _may_be_columns(cell: str) -> bool:
    """Whether a cell begins with a number that a blank follows, or has several blanks, or a tab, between words."""
    return re.search(r"^\s*[-+.\d]\S*\s+\S|\S(?:\s{2,}|\t)\S", cell) is not None


def _uneven(names: tuple[str, ...], width: int, first: int, found: list[tuple[int, list[str]]], read: Read) -> tuple[str, str]:
    if read.names:
        return (
            f"has {counted(width, 'column')}, but {KEY}.names has {len(names)}",
            f"set {KEY}.names to {counted(width, 'name')}",
        )
    line = next(line for line, each in found if len(each) == width)
    fix = f"correct it, or set {KEY}.header to the line of the names"
    if 1 < len(names) == width - 1 and not any(each[-1] for _, each in found[1:] if len(each) == width):
        fix = "remove the separator at the end of the lines, or write one at the end of the names, too"
    elif 1 < len(names) == width - 1:
        fix = f"write a name for the first column, or set {KEY}: {{header: {first}, names: [...]}} with {width} names"
    return (
        f"has {counted(len(names), 'cell')} in line {first}, that of the names, but {width} in line {line} and most others",
        fix,
    )


def _numeric(rows: list[list[str]]) -> list[str]:
    """The cells of the first row that have only numbers below them."""
    first, *others = [[cell.strip() for cell in row] for row in rows]
    below = [[row[at] for row in others if at < len(row) and row[at]] for at in range(len(first))]
    return [cell for cell, cells in zip(first, below, strict=True) if cells and all(map(NUMBER.fullmatch, cells))]


def _are_names(rows: list[list[str]]) -> bool:
    """Whether the first row is sure to have names: one that is no number is above numbers."""
    return any(not NUMBER.fullmatch(cell) for cell in _numeric(rows))


def _looks_like_data(rows: list[list[str]]) -> str:
    """Some of the cells of the first row that are numbers as those below; none if they may be names."""
    if _are_names(rows):
        return ""
    found = _numeric(rows)
    years = [int(cell) for cell in found if YEAR.fullmatch(cell)]
    if len(years) == len(found) > 1 and all(after == before + 1 for before, after in pairwise(years)):
        return ""
    return ", ".join(found[:3])


def _with_decimal(dialect: Dialect, rows: list[tuple[int, list[str]]], read: Read) -> Dialect:
    """The dialect with the decimal sign and the separator of thousands.

    In a file with commas between cells, 1,234 in quotes has a thousands separator.
    """
    if read.decimal is not None:
        return replace(dialect, decimal=read.decimal, thousands=read.thousands)
    if read.thousands is not None:
        return replace(dialect, decimal="," if read.thousands == "." else ".", thousands=read.thousands)
    columns = {name: decimals(cells[at] for _, cells in rows if at < len(cells)) for at, name in enumerate(dialect.names)}
    shown = [sign for sign in ",." if any(sign in found for found in columns.values())]
    for number, sign in (("1,234", ","), ("1.234", ".")):
        unclear = [name for name, found in columns.items() if number in found and not found & {",", "."}]
        if unclear and len(shown) != 1 and dialect.separator != ",":
            what = f"has numbers such as {number} in column {unclear[0]!r}, which may be 1234 or 1.234"
            raise Refusal((what, f"set {KEY}.thousands or {KEY}.decimal to {sign!r}"))
    # With both, each column has its own sign.
    return replace(dialect, decimal="," if shown == [","] else ".")
