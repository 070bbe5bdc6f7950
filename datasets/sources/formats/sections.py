"""Sections of a file, each of which can be read by itself: row groups of Parquet, rows of csv, lines of JSON."""

from collections.abc import Iterator
from contextlib import closing

from heliostat.datasets.sources.files import File
from heliostat.datasets.sources.formats.streams import Bytes, Section


def sections_of_rows(file: File, first: int, block: int, size: int, quote: str | None) -> list[Section | None]:
    """Sections of about ``size`` bytes of a text, each of which begins with a row; one None if there is only one.

    The file is read once, to know which ends of lines are in quotes.

    Args:
        file: not compressed, in UTF-8.
        first: where the second block of a reader begins.
        block: the bytes of a block; each section but the first begins with the first row that ends in such a block.
        size: the bytes of a section, at least.
        quote: what is around cells that may have ends of lines.
    """
    if file.size < 2 * size:
        return [None]
    starts = [0, *_starts(file, first, block, max(1, size // block), quote.encode() if quote else None)]
    stops = [*starts[1:], file.size]
    return [Section(start, stop) for start, stop in zip(starts, stops, strict=True)] if len(starts) > 1 else [None]


def _starts(file: File, first: int, block: int, blocks: int, quote: bytes | None) -> Iterator[int]:
    """Where rows begin before each of the cuts, ``blocks`` apart."""
    with closing(Bytes(file)) as stream:
        at, quotes, number = 0, 0, 0
        while at < file.size - block:
            data = stream.read(block if at else first)
            if number and number % blocks == 0 and (end := _last_end(data, quotes, quote)) is not None:
                yield at + end
            quotes += data.count(quote) if quote else 0
            at, number = at + len(data), number + 1


def _last_end(data: bytes, quotes: int, quote: bytes | None) -> int | None:
    """The place after the last end of a line that is in no quotes; ``quotes`` are those before."""
    end = data.rfind(b"\n")
    while end >= 0 and quote and (quotes + data.count(quote, 0, end)) % 2:
        end = data.rfind(b"\n", 0, end)
    return end + 1 if end >= 0 else None
