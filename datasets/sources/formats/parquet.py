"""Parquet files."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.datasets.sources.files import File
from heliostat.datasets.sources.formats.refusal import Refusal

CHUNK, ROWS = 16 << 20, 1 << 16
"""Bytes and rows that are read at once, at most."""


class ParquetFile:
    """A Parquet file.

    Raises:
        Refusal: it is broken.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        try:
            with file.filesystem.open_input_file(file.path) as source:
                self.schema: pa.Schema = pq.ParquetFile(source).schema_arrow
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise self._broken(error) from None

    def batches(self, columns: list[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Chunks of some columns, whose names may have blanks around them, and the bytes read so far.

        Raises:
            Refusal: the file is broken.
        """
        try:
            with self.file.filesystem.open_input_file(self.file.path) as source:
                opened = pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20)
                rows, names = max(1, opened.metadata.num_rows), opened.schema_arrow.names
                groups = (opened.metadata.row_group(number) for number in range(opened.num_row_groups))
                of_a_row = max(1, sum(group.total_byte_size for group in groups) // rows)
                wanted = [name for name in names if name.strip() in columns]
                # A name with a dot may be that of a column in a column.
                selected = None if any("." in name for name in names) else wanted
                seen = 0
                for batch in opened.iter_batches(min(ROWS, max(1, CHUNK // of_a_row)), columns=selected):
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
