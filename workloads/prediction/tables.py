"""Files of raw rows as chunks of a table."""

import glob
import os
from collections.abc import Iterator

import pyarrow as pa

from heliostat.datasets import Index
from heliostat.datasets.sources.formats.options import Read
from heliostat.datasets.sources.reader import Reader
from heliostat.errors import UserError
from heliostat.workloads.prediction.rows import check_columns, lacking_in


def read_tables(place: str, index: Index, number: int | None = None) -> Iterator[pa.Table]:
    """The rows of files in chunks, with all of their columns.

    Args:
        place: csv, Parquet or JSON records: a file, a folder, a pattern or a URI.
        index: of the dataset that the run was trained on.
        number: of the only file that is read; None for all.

    Raises:
        UserError: there are no files, or they are no tables, or lack columns of the signature.
    """
    if "://" not in place and not glob.has_magic(place) and not os.path.exists(os.path.expanduser(place)):
        raise UserError(f"input {place!r} is neither a JSON row nor a file", "give a JSON object, or the path of a table")
    reader, left_out = _opened(place, index)
    if number is not None:
        reader.files = [reader.files[number]]
    for batch in reader.batches(reader.names):
        rows = len(next(iter(batch.values())))
        yield pa.table({**batch, **{name: pa.nulls(rows, pa.string()) for name in left_out}})


def _opened(place: str, index: Index) -> tuple[Reader, list[str]]:
    """The reader of files, and the columns that JSON records leave out, all of whose values are missing.

    A csv file is read as those of the dataset, with their options, else as it is found out.
    """
    known = Read.model_validate(index.read, strict=False)
    unlike = None
    for read in dict.fromkeys((known, Read(missing=known.missing))):
        try:
            return _checked(Reader(place, read), place, index, read)
        except UserError as error:
            unlike = error
    assert unlike
    raise unlike


def _checked(reader: Reader, place: str, index: Index, read: Read) -> tuple[Reader, list[str]]:
    signature = index.signature
    assert signature
    left_out = lacking_in(reader.names, signature) if reader.kind == "json" else []
    known = {signature.target.name, *signature.left_out, *(column.name_in(reader.names) for column in signature.columns)}
    if left_out and any(name not in known for name in reader.names):
        left_out = []  # one of the others may be misspelt
    check_columns([*reader.names, *left_out], signature, place)
    by_name = {name: column for column in signature.columns if (name := column.name_in(reader.names))}
    reader.markers = {name: column.markers for name, column in by_name.items()}
    numbers = [name for name, column in by_name.items() if column.kind == "number"]
    # 94.647 beside 8.53 is a file with decimal points, whatever those of the dataset had.
    if reader.kind == "csv" and (read.decimal == "," or read.thousands) and not reader.are_numbers(numbers):
        raise UserError(f"{place} has another decimal sign than the dataset's files", "write its numbers like theirs")
    # As in the dataset, whatever the values of these files look like.
    reader.numbers = {name: column.is_written_plainly for name, column in by_name.items()}
    return reader, left_out
