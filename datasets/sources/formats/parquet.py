"""Parquet files."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.datasets.sources.files import File
from heliostat.datasets.sources.formats.refusal import Refusal
from heliostat.datasets.sources.formats.streams import Section

CHUNK, ROWS = 16 << 20, 1 << 16
"""Bytes and rows that are read at once, at most."""
SECTION = 32 << 20
"""Bytes of row groups that share chunks."""


class ParquetFile:
    """A Parquet file.

    Raises:
        Refusal: it is broken.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        try:
            with file.filesystem.open_input_file(file.path) as source:
                opened = pq.ParquetFile(source)
                self.schema: pa.Schema = opened.schema_arrow
                groups = (opened.metadata.row_group(number) for number in range(opened.num_row_groups))
                self._groups = [group.total_byte_size for group in groups]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise self._broken(error) from None

    def sections(self, size: int) -> list[Section | None]:
        """Row groups of about so many bytes together; None is all of a file that has one such section."""
        starts, bytes_ = [0], 0
        for number, group in enumerate(self._groups):
            if bytes_ >= size:
                starts, bytes_ = [*starts, number], 0
            bytes_ += group
        stops = [*starts[1:], len(self._groups)]
        return [Section(start, stop) for start, stop in zip(starts, stops, strict=True)] if len(starts) > 1 else [None]

    def batches(self, columns: list[str], section: Section | None = None) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Chunks of some columns, whose names may have blanks around them, and the bytes read so far.

        Raises:
            Refusal: the file is broken.
        """
        try:
            with self.file.filesystem.open_input_file(self.file.path) as source:
                opened = pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
                rows, names = max(1, opened.metadata.num_rows), opened.schema_arrow.names
                of_a_row = max(1, sum(self._groups) // rows)
                wanted = [name for name in names if name.strip() in columns]
                # A name with a dot may be that of a column in a column.
                selected = None if any("." in name for name in names) else wanted
                at_once, seen = min(ROWS, max(1, CHUNK // of_a_row)), 0
                # The chunks of the whole are those of its sections, so that a table is the same however it is read.
                for each in [section] if section else self.sections(SECTION):
                    groups = list(range(each.start, each.stop)) if each else None
                    for batch in opened.iter_batches(at_once, row_groups=groups, columns=selected):
                        seen += batch.num_rows
                        yield batch, self.file.size * seen // rows
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise self._broken(error) from None

    def check(self) -> None:
        """What opening it has not found is found when it is read."""

    def _broken(self, error: Exception) -> Refusal:
        if isinstance(error, FileNotFoundError):
            return Refusal((f"was removed while it was read: {error}", "run the same command again"))
        return Refusal((f"cannot be read as Parquet: {error}", "write or copy it again"))
