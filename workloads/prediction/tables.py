"""Files of raw rows as chunks of a table."""

import glob
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from heliostat.config import validate
from heliostat.datasets import Index
from heliostat.datasets.sources.formats.options import KEY, Read
from heliostat.datasets.sources.reader import Place, Reader
from heliostat.datasets.values.missing import trimmed
from heliostat.datasets.values.numbers import matches
from heliostat.errors import UserError
from heliostat.workloads.prediction.rows import check_columns, lacking_in


@dataclass(frozen=True)
class Tables:
    """Files of raw rows, opened; it can be pickled."""

    reader: Reader
    left_out: list[str]
    """The columns that JSON records leave out, all of whose values are missing."""
    pointed: list[str]
    """The columns whose numbers are said to have a decimal point, while those of the dataset have a comma."""

    def read(self, place: Place | None = None) -> Iterator[pa.Table]:
        """The rows of one place, or of all files, in chunks, with all of their columns."""
        with _named_for_predict():
            for batch in self.reader.batches(self.reader.names, places=None if place is None else [place]):
                rows = len(next(iter(batch.values())))
                batch |= {name: _with_commas(batch[name]) for name in self.pointed}
                yield pa.table({**batch, **{name: pa.nulls(rows, pa.string()) for name in self.left_out}})


def open_tables(place: str, index: Index, given: Mapping[str, Any] | None = None) -> Tables:
    """Open files of raw rows.

    Args:
        place: csv, Parquet or JSON records: a file, a folder, a pattern or a URI.
        index: of the dataset that the run was trained on.
        given: how the files are written, see `check_read`.

    Raises:
        UserError: there are no files, or they are no tables, or lack columns of the signature.
    """
    if "://" not in place and not glob.has_magic(place) and not os.path.exists(os.path.expanduser(place)):
        raise UserError(f"input {place!r} is neither a JSON row nor a file", "give a JSON object, or the path of a table")
    with _named_for_predict():
        if index.signature is None:  # the task knows its columns
            return Tables(Reader(place, check_read(given or {})), [], [])
        return _opened(place, index, given or {})


def check_read(given: Mapping[str, Any]) -> Read:
    """How files to predict are written, where that is not to be found out: the keys of the option ``read`` of tables.

    Raises:
        UserError: a key or a value is wrong; the message lists all.
    """
    return validate(given, Read, "read")


@contextmanager
def _named_for_predict() -> Iterator[None]:
    """Name the keys of a dataset's options in errors as ``heliostat predict`` takes them."""
    try:
        yield
    except UserError as error:
        if KEY not in f"{error.what}{error.fix}":
            raise
        what, fix = (text.replace(KEY, "read") for text in (error.what, error.fix))
        raise UserError(what, f"{fix}; keys of read are given as --set read.KEY=VALUE") from None


def _opened(place: str, index: Index, given: Mapping[str, Any]) -> Tables:
    """The opened files. A csv file is read as those of the dataset, with their options, else as it is found out.

    What is given goes before both.
    """
    missing = {key: value for key, value in index.read.items() if key == "missing"}
    # Between the same signs, 1.234 is what it was there.
    like = {"decimal": ".", **index.read} if "separator" in index.read else index.read
    unlike = None
    for read in dict.fromkeys(check_read({**known, **given}) for known in (index.read, like, missing)):
        try:
            return _checked(Reader(place, read), place, index, read, given.get("decimal"))
        except UserError as error:
            unlike = error
    assert unlike
    raise unlike


def _with_commas(texts: pa.Array) -> pa.Array:
    """Numbers with point and comma exchanged; what is none, such as n.a. for a missing one, as it is."""
    swapped = pc.replace_substring(pc.replace_substring(pc.replace_substring(texts, ".", ";"), ",", "."), ";", ",")
    return pc.if_else(pc.fill_null(matches(trimmed(texts), ".", units=True), False), swapped, texts)


def _checked(reader: Reader, place: str, index: Index, read: Read, decimal: str | None) -> Tables:
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
        signs = f"decimal {read.decimal}" if read.decimal else f"thousands {read.thousands}"
        raise UserError(
            f"{place} has numbers that are not written with {signs}",
            f"set {KEY}.decimal and {KEY}.thousands to those of the file, or write its numbers like the dataset's files",
        )
    # As in the dataset, whatever the values of these files look like; those of other columns are carried along as they are.
    reader.numbers = {name: name in by_name and by_name[name].is_written_plainly for name in reader.names}
    commas = [name for name in numbers if not by_name[name].is_written_plainly]
    return Tables(reader, left_out, commas if decimal == "." and reader.kind == "csv" else [])
