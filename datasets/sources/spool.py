"""Arrays in a temporary file, which are read again in chunks: all that is kept of a table while it is encoded."""

import errno
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.errors import UserError


@contextmanager
def temporary_space() -> Iterator[None]:
    """Raise a UserError if the disk of the temporary files is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the folder for temporary files, {tempfile.gettempdir()}, is full",
            "free space, or set the environment variable TMPDIR to a folder with space for a copy of the data as numbers",
        ) from None


class Spooled:
    """An array (rows, *shape) of which chunks of rows are kept."""

    def __init__(self, spool: "Spool") -> None:
        self._spool = spool
        self.dtype: Any = None
        self.shape: tuple[int, ...] = ()
        """Of a row."""
        self.places: list[tuple[int, int]] = []
        """The offset in the file and the count of rows of each chunk."""

    @property
    def rows(self) -> int:
        return sum(count for _, count in self.places)

    def chunk(self, number: int) -> npt.NDArray[Any]:
        offset, rows = self.places[number]
        return self._spool.read(offset, rows * math.prod(self.shape), self.dtype).reshape(rows, *self.shape)


class Spool:
    """A temporary file, which ends with the object."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._end = 0

    def add(self, array: Spooled, values: npt.NDArray[Any]) -> None:
        """Append a chunk to an array; all of them must have the same type and shape.

        Raises:
            UserError: the disk is full.
        """
        array.dtype, array.shape = values.dtype, values.shape[1:]
        with temporary_space():
            self._file.seek(self._end)
            self._file.write(np.ascontiguousarray(values).data)
            self._file.flush()
        array.places.append((self._end, len(values)))
        self._end += values.nbytes

    def read(self, offset: int, count: int, dtype: Any) -> npt.NDArray[Any]:
        self._file.seek(offset)
        return np.frombuffer(self._file.read(count * np.dtype(dtype).itemsize), dtype)

    def close(self) -> None:
        self._file.close()
