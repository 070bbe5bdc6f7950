"""Writes the metrics, the events and the goodput of a run while it trains."""

import time
from contextlib import suppress
from functools import partial
from typing import Any

from heliostat.folder import Folder
from heliostat.retry import UNAVAILABLE
from heliostat.wording import counted
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.goodput import Running, account
from heliostat.workloads.run.journal import Journal, read_journal
from heliostat.workloads.run.record import EVENTS, METRICS

LINGER = 10.0
"""Seconds for which a checkpoint, or a worker that exits, waits for storage that does not respond."""


class RunWriter:
    """Writes the journals of a run folder on rank 0; does nothing on other ranks.

    Args:
        folder: the run folder.
        timeout: how many seconds an object store may take to respond at the end.
        first: whether this is rank 0.
    """

    def __init__(self, folder: Folder, timeout: float, first: bool) -> None:
        self._folder, self._timeout, self._step = folder, timeout, 0
        self._journals = [Journal(folder, name, self._delayed) for name in (METRICS, EVENTS)] if first else []
        self._account: Running | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of records of each journal."""
        return tuple(map(len, self._journals))

    def rewind(self, step: int, lengths: tuple[int, ...]) -> None:
        """Deletes the metrics after a step, and records an event if records are missing.

        Args:
            step: from which training resumes.
            lengths: `lengths` at that step.
        """
        if not self._journals:
            return
        self._journals[0].rewind(step)
        for journal, there in zip(self._journals, lengths, strict=True):
            if (lost := max(there - len(journal), journal.damaged)) > 0:
                message = f"{self._folder}/{journal.name} is damaged: it has lost {counted(lost, 'record')}"
                self.event("journal_damaged", step, told=message)

    def metrics(self, kind: str, step: int, **values: Any) -> None:
        """Adds a record to the metrics; to those of an evaluation, also the goodput so far."""
        now = round(time.time(), 3)
        goodput = {"goodput": self._account.worker_seconds(now)} if self._account and kind == "eval" else {}
        self._append(0, lazily=True, time=now, kind=kind, step=step, **values, **goodput)

    def event(self, event: str, step: int, /, **details: Any) -> None:
        """Adds a record to the events."""
        if event == "checkpoint":
            self.spent("checkpointing", details["seconds"])
        self._append(1, event=event, step=step, **details)

    def _append(self, journal: int, **record: Any) -> None:
        if self._journals:
            self._step = record["step"]
            self._journals[journal].append(**record)

    def _delayed(self, error: str) -> None:
        self.event(
            "storage_delayed", self._step, error=error, told=f"{error}; training continues, and its records wait in memory"
        )

    def account(self, world: int) -> None:
        """Starts to count the goodput, from that of earlier attempts."""
        if self._journals:
            attempts = read_journal(self._folder, ATTEMPTS)
            metrics, events = (journal.records for journal in self._journals)
            self._account = Running(account(attempts, events, metrics), world)

    def spent(self, kind: str, seconds: float) -> None:
        """Counts seconds that were not spent on training steps."""
        if self._account:
            self._account.add(kind, seconds)

    def persist(self) -> None:
        """Writes the records that wait in memory, if storage is available: those of the steps before a checkpoint."""
        for journal in self._journals:
            with suppress(*UNAVAILABLE):
                journal.flush(LINGER)

    def flush(self) -> None:
        """Writes the records that wait in memory."""
        for journal in self._journals:
            self._folder.retried(partial(journal.flush, self._timeout))

    def close(self, lost: bool = False) -> None:
        """Writes the records that wait in memory if storage is available, and stops; nothing if another driver has the run."""
        for journal in self._journals:
            journal.close(0.0 if lost else LINGER)
