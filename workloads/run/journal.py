"""Files of JSON records, one a line, each with its checksum (``crc``), with a single writer and any number of readers."""

import json
import math
import os
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

from heliostat.folder import Folder
from heliostat.workloads.run.retry import UNAVAILABLE, reason

Record = dict[str, Any]
REMOTE_POLL = 5.0
"""Seconds between two looks at a journal in an object store, where each look reads all of it."""


class Journal:
    """The writer's side, for any number of threads.

    Appends where the filesystem can; object stores cannot, so there the whole file is written anew. While storage is away,
    records wait in memory, and each new one tries again.

    Args:
        folder: where it is.
        name: the file's.
        delayed: called with the error when storage goes away.
    """

    def __init__(self, folder: Folder, name: str, delayed: Callable[[str], None] = lambda error: None) -> None:
        self.folder, self.name, self._delayed = folder, name, delayed
        self._lock = threading.RLock()
        self._behind = False
        data = folder.read(name) if folder.exists(name) else b""
        self._lines = [_sealed(record) for record in _records(data)]
        self.damaged = data.count(b"\n") - len(self._lines)
        """The lines that were no records, and are gone."""
        self._rewrite()  # without a last line that a kill has cut off

    def __len__(self) -> int:
        return len(self._lines)

    def append(self, **record: Any) -> None:
        """Add a record; the time is added to it."""
        line = _sealed(finite({"time": round(time.time(), 3), **record}))
        with self._lock:
            self._lines.append(line)
            try:
                self._write(line)
            except UNAVAILABLE as error:
                told, self._behind = self._behind, True
                if not told:
                    self._delayed(reason(error))

    def flush(self) -> None:
        """Write what has waited.

        Raises:
            OSError, NotWritable: storage is still away.
        """
        with self._lock:
            if self._behind:
                self._rewrite()

    def rewind(self, step: int) -> None:
        """Forget what was recorded after a step."""
        with self._lock:
            self._lines = [line for line in self._lines if json.loads(line).get("step", 0) <= step]
            self._rewrite()

    def _write(self, line: str) -> None:
        if self._behind or not self.folder.is_local:
            self._rewrite()  # what failed may have left a part of a line
            return
        with self.folder.write_errors(), open(f"{self.folder.path}/{self.name}", "a") as file:
            file.write(line + "\n")

    def _rewrite(self) -> None:
        self.folder.write(self.name, "".join(line + "\n" for line in self._lines).encode())
        self._behind = False


class Tail:
    """A reader's side: the records that were written since it was made."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        self._since = time.time()
        self._looked = 0.0
        self._inode, self._offset = 0, 0

    def new(self) -> list[Record]:
        """The records that have come since the last call."""
        records = [r for r in (self._local() if self.folder.is_local else self._remote()) if r["time"] > self._since]
        self._since = max([self._since, *(r["time"] for r in records)])
        return records

    def _local(self) -> list[Record]:
        try:
            with open(f"{self.folder.path}/{self.name}", "rb") as file:
                # A journal that was rewritten is another file: its old offsets mean nothing.
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole + newline)
        return _records(whole + newline)

    def _remote(self) -> list[Record]:
        if time.monotonic() - self._looked < REMOTE_POLL:
            return []
        self._looked = time.monotonic()
        return read_journal(self.folder, self.name)


def read_journal(folder: Folder, name: str) -> list[Record]:
    """The records of a journal, without lines that are none: a last one that a kill cut off, or damaged ones."""
    return _records(folder.read(name)) if folder.exists(name) else []


def _records(data: bytes) -> list[Record]:
    lines = data.decode(errors="replace").splitlines(keepends=True)
    return [record for line in lines if line.endswith("\n") and (record := _record(line)) is not None]


def _sealed(record: Record) -> str:
    return json.dumps({**record, "crc": zlib.crc32(json.dumps(record).encode())})


def _record(line: str) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    crc = record.pop("crc", None)
    return record if crc is None or crc == zlib.crc32(json.dumps(record).encode()) else None


def finite(record: Record) -> Record:
    """JSON has no NaN: it becomes None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
