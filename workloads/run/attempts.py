"""``attempts.jsonl``: what Ray Train's controller did with the workers, and when; the driver shows it, `goodput` counts it."""

from contextlib import suppress
from functools import lru_cache
from typing import Any

from heliostat.folder import Folder
from heliostat.workloads.run.journal import Journal
from heliostat.workloads.run.retry import UNAVAILABLE

ATTEMPTS = "attempts.jsonl"
WAIT = 1.0
"""Seconds that Ray Train's controller waits for an object store to have an event."""
LAST = 10.0
"""The same of the last event, after which its process may end at any moment."""


class Attempts:
    """The writer's side; events: ``launched``, ``waiting``, ``starting``, ``running``, ``left``, ``failed``, ``ended``."""

    def __init__(self, folder: Folder) -> None:
        self._journal = Journal(folder, ATTEMPTS, wait=WAIT)
        self._last = ""
        self.not_before = 0.0
        """When the next attempt may start after a back-off, by `time.monotonic`."""

    def record(self, event: str, **details: Any) -> None:
        """Add an event; a state that lasts is recorded once."""
        if event != self._last or event in ("left", "failed"):
            self._journal.append(event=event, **details)
        if event == "ended":
            with suppress(*UNAVAILABLE):
                self._journal.flush(LAST)
        self._last = event


@lru_cache
def of(uri: str) -> Attempts:
    """The one writer in this process for the run folder at ``uri``."""
    return Attempts(Folder.at(uri))
