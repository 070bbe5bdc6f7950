"""The rows of a storage, kept current for a bounded share of the time."""

import time
from dataclasses import dataclass
from typing import Any

from heliostat.commands.runs import Row, row_of
from heliostat.folder import Folder

BUDGET, LONGEST = 0.4, 2.0
"""Seconds of CPU time for which one look reads, and seconds on the clock; what is left over is read by the next ones."""
OPEN, OVER, ANYWAY = 2.0, 30.0, 15.0
"""Seconds after which a run is looked at again: one that is not finished, and a finished one. A run that is not finished is
read after the last of them also if no file has changed: its driver may be gone."""
FINISHED = "finished"
Stamp = tuple[Any, ...]


@dataclass
class Known:
    """What was found in a folder: its row, None if it is no run, and when."""

    row: Row | None
    stamp: Stamp
    looked: float
    read: float


class Index:
    """The rows of the runs and sweeps in a storage.

    Args:
        sizes_only: whether the files are copies, which have new times each time.
    """

    def __init__(self, sizes_only: bool = False) -> None:
        self._known: dict[str, Known] = {}
        self._sizes_only = sizes_only
        self.pending = 0
        """Folders that have not been read yet."""

    def rows(self, storage: Folder) -> list[Row]:
        """All rows, as current as `BUDGET` allows: those that were never read come first, then the oldest."""
        began, spent = time.monotonic(), time.thread_time()
        names = [name for name in storage.names() if not name.startswith(".")]
        self._known = {name: self._known[name] for name in names if name in self._known}
        due = sorted((name for name in names if self._is_due(name, began)), key=self._order)
        for name in due:
            self._look(storage / name, time.monotonic())
            if time.thread_time() - spent > BUDGET or time.monotonic() - began > LONGEST:
                break
        self.pending = len(names) - len(self._known)
        return [known.row for name in names if (known := self._known.get(name)) and known.row]

    def _is_due(self, name: str, now: float) -> bool:
        known = self._known.get(name)
        return known is None or now - known.looked > (OVER if _is_over(known) else OPEN)

    def _order(self, name: str) -> tuple[bool, float]:
        known = self._known.get(name)
        return (False, 0.0) if known is None else (True, known.looked)

    def _look(self, folder: Folder, now: float) -> None:
        known, stamp = self._known.get(folder.name), stamp_of(folder, self._sizes_only)
        if known and known.stamp == stamp and (_is_over(known) or now - known.read < ANYWAY):
            known.looked = now
            return
        self._known[folder.name] = Known(row_of(folder), stamp, now, now)


def _is_over(known: Known) -> bool:
    return known.row is None or known.row["state"] == FINISHED


def stamp_of(folder: Folder, sizes_only: bool = False) -> Stamp:
    """What changes when a file of a run, or the journal of a sweep, changes."""
    found = [*folder.stamps().items(), *(folder / "journal").stamps().items()]
    return tuple(sorted((name, size, 0 if sizes_only else time) for name, (size, time) in found))
