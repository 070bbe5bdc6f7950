"""The sweep's journal: every trial, start, report and end, a JSON record each. It is the truth from which a sweep goes on.

On a filesystem that can append it is one file. Object stores cannot: there it is a row of files of `CHUNK` records, of which
only the last is written anew.
"""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.run.journal import finite

JOURNAL = "journal"
CHUNK = 500
LAZY = 2.0
"""Seconds that reports may wait for being written to an object store; everything else is written at once."""

Record = dict[str, Any]


class Journal:
    """The writer's side; there is one writer, which the lease sees to."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder / JOURNAL
        self.records = read_journal(folder)
        """What earlier sessions wrote."""
        self._chunk = len(self._folder.names())
        self._lines: list[str] = []
        self._written = 0.0
        self._file = f"{self._chunk:06d}.jsonl"
        self._folder.write(self._file, b"")  # a file of its own: a line that a kill has cut off stays where it is

    def append(self, lazily: bool = False, **record: Any) -> Record:
        """Add a record, with the time; the record as it can be read again."""
        line = json.dumps({"time": round(time.time(), 3), **record}) + "\n"
        if self._folder.is_local:
            with self._folder.write_errors(), open(f"{self._folder.path}/{self._file}", "a") as file:
                file.write(line)
        else:
            self._lines.append(line)
            if not lazily or time.monotonic() - self._written > LAZY:
                self.flush()
        found: Record = json.loads(line)
        return found

    def flush(self) -> None:
        """Write what has waited."""
        if not self._lines:
            return
        self._folder.write(self._file, "".join(self._lines).encode())
        self._written = time.monotonic()
        if len(self._lines) >= CHUNK:
            self._chunk += 1
            self._file, self._lines = f"{self._chunk:06d}.jsonl", []


def read_journal(folder: Folder) -> list[Record]:
    """All records, in order; a line that was cut off by a kill is left out.

    Raises:
        UserError: a record is damaged: nothing is guessed, because finished trials would be run again.
    """
    journal = folder / JOURNAL
    names = [name for name in journal.names() if name.endswith(".jsonl")]
    return [record for name in names for record in _parse(journal, name)]


def _parse(journal: Folder, name: str) -> Iterator[Record]:
    for number, line in enumerate(journal.read(name).decode(errors="replace").splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            continue
        try:
            yield json.loads(line)
        except ValueError:
            raise UserError(
                f"{journal}/{name} is damaged at line {number}",
                "restore the file, or delete that line to lose what it tells of",
            ) from None


def plain(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Metrics as JSON can hold them: None is what is not finite."""
    return finite({name: None if value is None else float(value) for name, value in metrics.items()})
