"""The bytes of a file: decompressed, as UTF-8, and searched for what Arrow would read otherwise than it is meant."""

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from heliostat.datasets.sources.files import File
from heliostat.datasets.sources.formats.dialect import Dialect
from heliostat.datasets.sources.formats.refusal import Refusal

CODECS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
"""How compressed files begin, whatever they are called."""
CHARACTERS = bytes(byte for byte in range(256) if byte >= 32 or byte in b"\t\n\r")


@dataclass(frozen=True)
class Section:
    """A part of a file that can be read by itself: row groups of Parquet, or bytes of rows of text."""

    start: int
    stop: int


class Bytes:
    """A file, decompressed, or a section of one that is not compressed.

    Raises:
        Refusal: while it is read, that it is damaged.
    """

    def __init__(self, file: File, section: Section | None = None) -> None:
        start = file.start(4)
        self._raw = file.filesystem.open_input_file(file.path)  # a stream has no position
        codec = next((name for magic, name in CODECS.items() if start.startswith(magic)), None)
        self._stream = pa.CompressedInputStream(self._raw, codec) if codec else self._raw
        self.is_compressed = codec is not None
        self._stop = section.stop if section else None
        if section:
            self._raw.seek(section.start)

    def read(self, size: int) -> bytes:
        if self._stop is not None:
            size = min(size, self._stop - self.position)
        try:
            return bytes(self._stream.read(size))
        except OSError as error:
            if not self.is_compressed:
                raise
            raise Refusal((f"is cut off or damaged: {error}", "copy it again")) from None

    @property
    def position(self) -> int:
        """The bytes of the file that have been read."""
        return int(self._raw.tell())

    def close(self) -> None:
        self._raw.close()


class Text:
    """A csv file from its first row on, in UTF-8, for Arrow's reader.

    Args:
        check: is called when there is a doubt, and raises a Refusal if it is justified.
        skipped: the bytes before the first row, in UTF-8.
        first: the bytes that are read first.
    """

    closed = False

    def __init__(
        self,
        file: Bytes,
        dialect: Dialect,
        doubts: "Doubts | None",
        check: Callable[[], Any],
        skipped: int,
        first: int,
    ) -> None:
        self._file, self._doubts, self._check, self._first = file, doubts, check, first
        self._decoder = None if dialect.encoding == "utf-8" else codecs.getincrementaldecoder(dialect.encoding)()
        self._next: bytes | None = None
        self.position = 0
        left = skipped
        while left and (piece := self._decoded(left)):
            self._next, left = piece[left:] or None, max(0, left - len(piece))

    def peek(self) -> bytes:
        """The bytes that come next; none at the end."""
        self._next = self._next or self._decoded(self._first)
        return self._next

    def read(self, size: int) -> bytes:
        data = self._next or self._decoded(size)
        data, self._next = data[:size], data[size:] or None
        self.position = self._file.position
        if self._doubts and self._doubts.see(data):
            self._check()
            self._doubts = None
        return data

    def close(self) -> None:
        self._file.close()
        self.closed = True

    def _decoded(self, size: int) -> bytes:
        while True:
            data = self._file.read(size)
            if self._decoder is None:
                return data
            try:
                text = self._decoder.decode(data, final=not data).encode()
            except UnicodeDecodeError:
                self._check()
                raise
            if text or not data:
                return text


class Doubts:
    """Whether bytes of a csv file may mean something else than what Arrow reads."""

    def __init__(self, dialect: Dialect) -> None:
        self._quote = ord(dialect.quote) if dialect.quote else None
        self._around = np.frombuffer(f"{dialect.separator}\n\r{dialect.quote}".encode(), np.uint8)
        self._names = dialect.header_line.encode() if len(dialect.header) > 1 else b""
        self._before = b"\n"
        self._is_quoted = False

    def see(self, data: bytes) -> bool:
        """Look at the next bytes; none at the end."""
        if not data:
            return self._is_quoted
        seen = self._before + data
        odd = bool(data.translate(None, CHARACTERS)) or self._repeats(seen) or self._are_quotes_odd(data, self._before[-1:])
        self._before = seen[-len(self._names) - 3 :]
        return odd

    def _repeats(self, seen: bytes) -> bool:
        """Whether a line may be that of the names."""
        line = b"\n" + self._names
        return bool(self._names) and line in seen and re.search(re.escape(line) + rb"(\r|\n|$)", seen) is not None

    def _are_quotes_odd(self, data: bytes, before: bytes) -> bool:
        """Whether a quote is not at the beginning or the end of a cell, and is not doubled."""
        if self._quote is None or not (self._is_quoted or self._quote in data or before[0] == self._quote):
            return False
        bytes_ = np.frombuffer(before + data + b"\n", np.uint8)
        at = np.flatnonzero(bytes_ == self._quote)
        if len(at) and at[0] == 0:  # it was counted with the bytes before; what follows it was not seen then
            if not self._is_quoted and bytes_[1] not in self._around:
                return True
            at = at[1:]
        opening = at[int(self._is_quoted) :: 2]
        closing = at[1 - int(self._is_quoted) :: 2]
        self._is_quoted ^= len(at) % 2 == 1
        return not (np.isin(bytes_[opening - 1], self._around).all() and np.isin(bytes_[closing + 1], self._around).all())
