"""Files of JSON records, one a line, with a single writer and any number of readers."""

import json
import math
import os
import time
from typing import Any

from heliostat.folder import Folder

Record = dict[str, Any]
REMOTE_POLL = 5.0
"""Seconds between two looks at a journal in an object store, where each look reads all of it."""


class Journal:
    """The writer's side. Appends where the filesystem can; object stores cannot, so there the whole file is written anew."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        self._lines = [json.dumps(record) for record in read_journal(folder, name)]
        self._rewrite()  # without a last line that a kill has cut off

    def append(self, **record: Any) -> None:
        """Add a record; the time is added to it."""
        line = json.dumps(finite({"time": round(time.time(), 3), **record}))
        self._lines.append(line)
        if self.folder.is_local:
            with self.folder.told(), open(f"{self.folder.path}/{self.name}", "a") as file:
                file.write(line + "\n")
        else:
            self._rewrite()

    def rewind(self, step: int) -> None:
        """Forget what was recorded after a step."""
        self._lines = [line for line in self._lines if json.loads(line).get("step", 0) <= step]
        self._rewrite()

    def _rewrite(self) -> None:
        self.folder.write(self.name, "".join(line + "\n" for line in self._lines).encode())


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
        return [json.loads(line) for line in whole.splitlines()]

    def _remote(self) -> list[Record]:
        if time.monotonic() - self._looked < REMOTE_POLL:
            return []
        self._looked = time.monotonic()
        return read_journal(self.folder, self.name)


def read_journal(folder: Folder, name: str) -> list[Record]:
    """The records of a journal; a last line that was cut off by a kill is left out."""
    lines = folder.read(name).decode().splitlines(keepends=True) if folder.exists(name) else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def finite(record: Record) -> Record:
    """JSON has no NaN: it becomes None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
