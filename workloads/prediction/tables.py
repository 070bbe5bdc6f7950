"""Files of raw rows as chunks of a table."""

import glob
import os
from collections.abc import Iterator

import pyarrow as pa

from heliostat.datasets import Index
from heliostat.datasets.sources.reader import Reader
from heliostat.errors import UserError
from heliostat.workloads.prediction.rows import check_columns


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
    reader = Reader(place)
    check_columns(reader.names, index.signature, place)
    if number is not None:
        reader.files = [reader.files[number]]
    for batch in reader.batches(reader.names):
        yield pa.table(batch)
