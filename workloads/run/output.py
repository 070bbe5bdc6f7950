"""What the workers of a run print: kept in its folder, a journal for each rank, from which the driver reads it."""

import io
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO

from heliostat.folder import Folder
from heliostat.retry import UNAVAILABLE
from heliostat.workloads.run.chunks import SUFFIX, Record
from heliostat.workloads.run.journal import REMOTE_POLL, Journal, Tail

STEM = "output-"
LINGER = 10.0
"""Seconds for which the last lines wait for storage that does not respond."""
HERE_POLL = 0.5
"""Seconds between two looks for new files on a filesystem."""


@contextmanager
def recorded_output(folder: Folder, rank: int, heard: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Write each line that this process prints to standard output into the run folder, too, and call ``heard`` with it."""
    printed = Printed(sys.stdout, folder, rank, heard)
    try:
        with redirect_stdout(printed):
            yield
    finally:
        printed.finish()


class Printed(io.TextIOBase):
    """A standard output that also keeps its lines; while storage is unavailable, they wait in memory."""

    def __init__(self, original: TextIO, folder: Folder, rank: int, heard: Callable[[str], None]) -> None:
        self._original, self._folder, self._rank, self._heard = original, folder.once, rank, heard
        self._lock = threading.RLock()
        self._rest = ""
        self._waiting: list[str] = []
        self._journal: Journal | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._original.encoding

    def fileno(self) -> int:
        return self._original.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._original.flush()

    def write(self, text: str) -> int:
        self._original.write(text)
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            self._keep([line.rpartition("\r")[2] for line in lines])
        return len(text)

    def finish(self) -> None:
        """Keep an incomplete last line, and wait for what is not on storage yet."""
        with self._lock:
            self._keep([self._rest] if self._rest else [])
            self._rest = ""
            if self._journal:
                self._journal.close(LINGER)

    def _keep(self, lines: list[str]) -> None:
        self._waiting += lines
        for line in lines:
            self._heard(line)
        if not self._waiting:
            return
        with suppress(*UNAVAILABLE):  # tried again with the next line
            self._journal = self._journal or Journal(self._folder, f"{STEM}{self._rank}{SUFFIX}")
            for line in self._waiting:
                self._journal.append(lazily=True, rank=self._rank, printed=line)
            self._waiting = []


class OutputTail:
    """Reads what the workers of a run print from now on."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._since, self._next = folder.once, time.time(), 0.0
        self._tails: dict[str, Tail] = {}
        self._read: list[Record] = []

    def new(self, at_once: bool = False) -> list[Record]:
        """The lines since the last call, as ``rank`` and ``printed``, in the order of their times; see `Tail.new`.

        Raises:
            OSError: storage is unavailable; the next call has the lines.
        """
        if at_once or time.monotonic() >= self._next:
            self._next = time.monotonic() + (HERE_POLL if self._folder.is_local else REMOTE_POLL)
            for name in self._folder.names():
                if re.fullmatch(rf"{STEM}\d+{re.escape(SUFFIX)}", name) and name not in self._tails:
                    self._tails[name] = Tail(self._folder, name, self._since)
        for tail in self._tails.values():
            self._read += tail.new(at_once)
        records, self._read = self._read, []
        return sorted(records, key=lambda record: record["time"])
