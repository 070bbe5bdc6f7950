"""Files of raw rows as chunks of a table."""

import glob
import os
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from heliostat.datasets import Index
from heliostat.datasets.signature import Signature
from heliostat.datasets.sources.reader import Reader
from heliostat.errors import UserError
from heliostat.workloads.prediction.rows import array_of, check_columns, parse_row

JSON_LINES = (".jsonl", ".ndjson")
LINES = 8192
"""Rows of JSON that are read at once."""


def read_tables(place: str, index: Index, number: int | None = None) -> Iterator[pa.Table]:
    """The rows of files in chunks, with all of their columns.

    Args:
        place: a file, a folder, a pattern or a URI.
        index: of the dataset that the run was trained on.
        number: of the only file that is read; None for all.

    Raises:
        UserError: there are no files, or they are no tables, or lack columns of the signature.
    """
    assert index.signature
    if "://" not in place and not glob.has_magic(place) and not os.path.exists(os.path.expanduser(place)):
        raise UserError(f"input {place!r} is neither a JSON row nor a file", "give a JSON object, or the path of a table")
    if place.endswith(JSON_LINES) and os.path.isfile(place):
        yield from _json_lines(place, index.signature)
        return
    reader = Reader(place)
    check_columns(reader.names, index.signature, place)
    if number is not None:
        reader.files = [reader.files[number]]
    for batch in reader.batches(reader.names):
        yield pa.table(batch)


def _json_lines(place: str, signature: Signature) -> Iterator[pa.Table]:
    """A JSON object a line; a column that a line leaves out is missing, and all others of the first rows are carried along."""
    names = list[str]()
    with open(place, encoding="utf-8") as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
        while chunk := list(islice(lines, LINES)):
            rows = []
            for number, line in chunk:
                try:
                    rows.append(parse_row(line, signature))
                except UserError as error:
                    raise UserError(f"{place}, line {number}: {error.what}", error.fix) from None
            if not names:
                names = list(dict.fromkeys(name for row in rows for name in row))
                check_columns(names, signature, place)
            yield pa.table({name: array_of([row.get(name) for row in rows]) for name in names})
