"""``attempts.jsonl``: what Ray Train's controller did with the workers, and when; the driver prints it, `goodput` counts it."""

from contextlib import suppress
from typing import Any

from heliostat.folder import Folder
from heliostat.retry import TIMEOUT, UNAVAILABLE
from heliostat.workloads.run.journal import Journal

ATTEMPTS = "attempts.jsonl"
WAIT = 1.0
"""Seconds for which Ray Train's controller waits until an object store has an event."""
LAST = 10.0
"""The same for the last event, after which its process may exit at any moment."""


class Attempts:
    """Writes the events ``launched``, ``waiting``, ``starting``, ``running``, ``left``, ``failed`` and ``ended``."""

    def __init__(self, folder: Folder) -> None:
        self._journal = Journal(folder, ATTEMPTS, wait=WAIT)
        self._last = ""
        self.not_before = 0.0
        """The `time.monotonic` before which the next attempt must not start, after a back-off."""

    def record(self, event: str, **details: Any) -> None:
        """Adds an event; a state that is reported again is recorded once."""
        if event != self._last or event in ("left", "failed"):
            self._journal.append(event=event, **details)
        if event == "ended":
            with suppress(*UNAVAILABLE):
                self._journal.flush(LAST)
        self._last = event

    @property
    def records(self) -> list[dict[str, Any]]:
        """All events."""
        return self._journal.records

    def close(self) -> None:
        """Stops writing."""
        self._journal.close(0)


_open: dict[str, Attempts] = {}


def of(uri: str) -> Attempts:
    """The only writer in this process for the run folder at ``uri``, until `forget`."""
    if uri not in _open:
        _open[uri] = Attempts(Folder.at(uri).for_work(TIMEOUT))
    return _open[uri]


def forget(uri: str) -> None:
    """Closes that writer, before and after each training: another process may resume the run between two of this one."""
    if found := _open.pop(uri, None):
        found.close()
