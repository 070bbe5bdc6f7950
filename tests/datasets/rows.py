"""The rows of files of a table, as the reader gives them."""

from collections.abc import Iterator

import pyarrow as pa

from heliostat.datasets.sources.formats.options import Read
from heliostat.datasets.sources.reader import DETECTED, Reader


def read_rows(place: str, read: Read = DETECTED) -> Iterator[pa.Table]:
    """Chunks of rows with all columns."""
    reader = Reader(place, read, "the path")
    for batch in reader.batches(reader.names):
        yield pa.table(batch)
