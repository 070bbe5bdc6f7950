"""Journals of JSON records, one per line, each with its checksum (``crc``), with one writer and any number of readers.

`chunks` describes their files. Runs and sweeps use the same journal, and differ in how they handle a damaged line: a run drops
the record and reports it, a sweep is refused, because finished trials would run again.
"""

import json
import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import takewhile
from typing import Any

from heliostat.folder import Folder
from heliostat.retry import UNAVAILABLE, reason
from heliostat.workloads.run.background import Background
from heliostat.workloads.run.chunks import Chunk, Record, file_of, numbers_in, parse, read_chunks, refuse_damage, sealed

CHUNK = 200
"""Records per file in an object store. Only the last file is rewritten, so this bounds the cost of each record."""
LAZY = 5.0
"""Seconds before lazy records are written to an object store."""
REMOTE_POLL = 5.0
"""Seconds between two polls of a journal in an object store."""


class Journal:
    """Writes a journal, from any number of threads.

    On a local filesystem a record is appended before `append` returns. To an object store a thread writes, so that a slow one
    does not delay training. While storage is unavailable, records wait in memory, in order.

    Args:
        folder: its folder.
        name: of its first file; without one, all its files are numbered.
        delayed: called with the error when storage becomes unavailable.
        strict: whether damage is refused; otherwise damaged lines are counted and removed.
        wait: how many seconds `append` waits until an object store has a record that is not lazy.

    Raises:
        UserError: it is strict and damaged.
        StorageUnavailable, NotWritable: storage is unavailable for as long as its folder waits.
    """

    def __init__(
        self,
        folder: Folder,
        name: str,
        delayed: Callable[[str], None] = lambda error: None,
        *,
        strict: bool = False,
        wait: float = 0.0,
    ) -> None:
        self.folder, self.name, self._delayed, self._wait = folder, name, delayed, wait
        self._once = folder.once
        self._lock = threading.RLock()
        self._behind = False
        self._background = None if folder.is_local else Background(self._catch_up, delayed, LAZY)
        self._chunks = _open(folder, name, strict)
        self.damaged = sum(len(chunk.damaged) for chunk in self._chunks)
        """How many damaged lines were removed."""
        self._repair()

    def __len__(self) -> int:
        return sum(len(chunk.lines) for chunk in self._chunks)

    @property
    def records(self) -> list[Record]:
        """All records, also those that are not yet on storage."""
        with self._lock:
            return _records(self._chunks)

    def append(self, lazily: bool = False, **record: Any) -> Record:
        """Adds a record, with the time; returns it as it will be read.

        Args:
            lazily: whether it may wait for others before it is written to an object store.
            record: its keys and values.
        """
        line = sealed(finite({"time": round(time.time(), 3), **record}))
        with self._lock:
            self._last.lines.append(line)
        if self._background:
            self._background.request(urgent=not lazily)
            if self._wait and not lazily:
                self._background.settle(self._wait)
        else:
            self._append_here()
        return _record(line)

    def flush(self, seconds: float | None = None) -> None:
        """Writes the records that wait in memory.

        Raises:
            OSError, NotWritable: storage is still unavailable, or an object store did not respond within ``seconds``.
        """
        if self._background:
            self._background.finish(seconds)
        else:
            self._catch_up()

    def rewind(self, step: int) -> None:
        """Deletes the records after a step, before any other thread appends again."""
        self.folder.retried(self.flush)
        with self._lock:
            # The last file first, so that an interruption leaves a prefix of the journal.
            for chunk in reversed(self._chunks):
                kept = [line for line in chunk.lines if _record(line).get("step", 0) <= step]
                if len(kept) == len(chunk.lines):
                    continue
                if kept or chunk.number == 0 or chunk is not self._chunks[-1]:
                    self._replace(chunk, kept)
                else:
                    self.folder.delete(file_of(self.name, chunk.number))
                    self._chunks.pop()

    def close(self, seconds: float) -> None:
        """Writes the records that wait in memory, for up to ``seconds``, and stops writing."""
        with suppress(*UNAVAILABLE):
            if seconds:
                self.flush(seconds)
        if self._background:
            self._background.close()

    @property
    def _last(self) -> Chunk:
        """The chunk that takes the next record."""
        last = self._chunks[-1]
        if not self.folder.is_local and len(last.lines) >= CHUNK:
            self._chunks.append(Chunk(last.number + 1))
        return self._chunks[-1]

    def _append_here(self) -> None:
        with self._lock:
            try:
                self._catch_up()
                return
            except UNAVAILABLE as error:
                known, self._behind, why = self._behind, True, reason(error)
        if not known:
            self._delayed(why)

    def _catch_up(self) -> None:
        """Writes the lines that are not yet on storage."""
        if self.folder.is_local:
            with self._lock:
                self._write_here(self._chunks[-1])
            return
        with self._lock:
            waiting = [*takewhile(lambda chunk: chunk.written < len(chunk.lines), reversed(self._chunks))][::-1]
            contents = [list(chunk.lines) for chunk in waiting]
        for chunk, lines in zip(waiting, contents, strict=True):
            self._once.write(file_of(self.name, chunk.number), b"".join(lines))
            chunk.written = len(lines)

    def _write_here(self, chunk: Chunk) -> None:
        if chunk.written == len(chunk.lines):
            return
        if self._behind:
            self._cut(chunk)
        with self.folder.write_errors(), open(self._path(chunk), "ab") as file:
            file.write(b"".join(chunk.lines[chunk.written :]))
        chunk.written, self._behind = len(chunk.lines), False

    def _cut(self, chunk: Chunk) -> None:
        """Truncates the local file to the end of the last complete write."""
        name = file_of(self.name, chunk.number)
        written = b"".join(chunk.lines[: chunk.written])
        size = self._once.size(name)
        if size > len(written):
            with self.folder.write_errors():
                os.truncate(self._path(chunk), len(written))
        elif size < len(written) or not self._once.exists(name):
            self._once.write(name, written)

    def _repair(self) -> None:
        """Removes damaged and incomplete lines from the files, so that the next record is not appended to one."""
        for chunk in self._chunks:
            if chunk.damaged or (chunk.torn and not self.folder.is_local):
                self._replace(chunk, chunk.lines)
        if self.folder.is_local:
            self.folder.retried(lambda: self._cut(self._chunks[-1]))

    def _replace(self, chunk: Chunk, lines: list[bytes]) -> None:
        self.folder.write(file_of(self.name, chunk.number), b"".join(lines))
        chunk.lines, chunk.written = lines, len(lines)

    def _path(self, chunk: Chunk) -> str:
        return f"{self.folder.path}/{file_of(self.name, chunk.number)}"


class Tail:
    """Reads the records that were written since it was created, or since an earlier time, in seconds since the epoch.

    Each reading is one attempt. With ``repeats``, all records of a file that was rewritten are read again, for those who
    recognize them: those of a worker whose clock is behind are not missed.
    """

    def __init__(self, folder: Folder, name: str, since: float | None = None, repeats: bool = False) -> None:
        self.folder, self.name, self._repeats = folder.once, name, repeats
        # Below the time of a record that is written now: times are rounded to milliseconds.
        self._since = round(time.time(), 3) - 0.0005 if since is None else since
        self._polled = 0.0
        self._file: str | None = None
        # No file has the inode -1: the first one that is found counts as rewritten, and is read from that time on.
        self._inode, self._offset = 0 if since is None else -1, 0
        self._seen: dict[str, tuple[int, int]] = {}
        if folder.is_local and since is None:
            folder.retried(self._local)

    def new(self, at_once: bool = False) -> list[Record]:
        """The records since the last call; those in an object store every `REMOTE_POLL` seconds, or ``at_once``.

        Raises:
            OSError: storage is unavailable; the next call has the records.
        """
        self._polled = 0.0 if at_once else self._polled
        records = self._local() if self.folder.is_local else self._later(self._remote())
        self._since = max([self._since, *(r["time"] for r in records)])
        return records

    def _later(self, records: list[Record]) -> list[Record]:
        """The records that are newer than the last one, of files that were read from their start again."""
        return [record for record in records if self._repeats or record["time"] > self._since]

    def _local(self) -> list[Record]:
        rewritten = False
        if self._file is None:
            # Only the last file grows; there are others if the journal was copied from an object store.
            numbers = numbers_in(self.folder.names(), self.name)
            self._file = f"{self.folder.path}/{file_of(self.name, numbers[-1])}" if numbers else None
        try:
            with open(self._file or "", "rb") as file:
                # A rewritten journal is another file: the old offset is invalid.
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._inode:
                    rewritten = self._inode != 0
                    self._inode, self._offset = inode, 0
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            self._file = None
            return []
        self._offset += len(whole + newline)
        records = _records([parse(whole + newline)])
        return self._later(records) if rewritten else records

    def _remote(self) -> list[Record]:
        """The records of the changed files."""
        if self._polled and time.monotonic() - self._polled < REMOTE_POLL:
            return []
        self._polled = time.monotonic()
        stamps = self.folder.stamps()
        changed = [n for n in numbers_in(stamps, self.name) if self._seen.get(f := file_of(self.name, n)) != stamps[f]]
        records = _records(read_chunks(self.folder, self.name, changed))
        self._seen = stamps
        return records


def read_journal(folder: Folder, name: str, strict: bool = False) -> list[Record]:
    """Reads the records of a journal, without an incomplete last line of an interrupted write.

    Args:
        folder: its folder.
        name: see `Journal`.
        strict: whether damage is refused; otherwise damaged lines are skipped.

    Raises:
        UserError: it is strict and damaged.
    """
    return _records(_open(folder, name, strict))


def finite(record: Record) -> Record:
    """Replaces NaN and infinity, which JSON lacks, by None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _open(folder: Folder, name: str, strict: bool) -> list[Chunk]:
    chunks = read_chunks(folder, name, numbers_in(folder.names(), name))
    if strict:
        refuse_damage(folder, name, chunks)
    return chunks or [Chunk(0)]


def _records(chunks: list[Chunk]) -> list[Record]:
    return [_record(line) for chunk in chunks for line in chunk.lines]


def _record(line: bytes) -> Record:
    record: Record = json.loads(line)
    record.pop("crc", None)
    return record
