"""What the first worker writes down of a run while it trains: metrics, events, and where the time went."""

from contextlib import suppress
from functools import partial
from typing import Any

from heliostat.folder import Folder
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.goodput import Running, account
from heliostat.workloads.run.journal import Journal, read_journal
from heliostat.workloads.run.record import EVENTS, METRICS
from heliostat.workloads.run.retry import UNAVAILABLE, with_retry

LINGER = 10.0
"""Seconds that a checkpoint, or a worker that ends, gives to storage that does not answer."""


class RunWriter:
    """The journals of a run folder. Those of the other workers keep nothing.

    Args:
        folder: the run folder.
        timeout: the seconds that storage may be away at the beginning and the end; in between, records wait in memory.
        first: whether this is the first worker.
    """

    def __init__(self, folder: Folder, timeout: float, first: bool) -> None:
        self._folder, self._timeout, self._step = folder, timeout, 0
        self._journals = [Journal(folder, name, self._delayed) for name in (METRICS, EVENTS)] if first else []
        self._account: Running | None = None

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many records each journal has."""
        return tuple(map(len, self._journals))

    def rewind(self, step: int, lengths: tuple[int, ...]) -> None:
        """Forget the metrics after a step, and tell of records that are missing.

        Args:
            step: where the training goes on.
            lengths: what `lengths` was then.
        """
        if not self._journals:
            return
        self._journals[0].rewind(step)
        for journal, there in zip(self._journals, lengths, strict=True):
            if (lost := max(there - len(journal), journal.damaged)) > 0:
                told = f"{self._folder}/{journal.name} is damaged: {lost} of its records are lost"
                self.event("journal_damaged", step, told=told)

    def metrics(self, kind: str, step: int, **values: Any) -> None:
        """Add to the metrics, with how every worker's seconds were spent so far where that was measured."""
        goodput = {"goodput": self._account.worker_seconds()} if self._account and kind == "eval" else {}
        self._append(0, lazily=True, kind=kind, step=step, **values, **goodput)

    def event(self, event: str, step: int, /, **details: Any) -> None:
        """Add to the events."""
        if event == "checkpoint":
            self.spent("checkpointing", details["seconds"])
        self._append(1, event=event, step=step, **details)

    def _append(self, journal: int, **record: Any) -> None:
        if self._journals:
            self._step = record["step"]
            self._journals[journal].append(**record)

    def _delayed(self, error: str) -> None:
        self.event(
            "storage_delayed", self._step, error=error, told=f"{error}; training goes on, and what it says waits in memory"
        )

    def account(self, world: int) -> None:
        """Account for the time from here on, after what earlier attempts took."""
        if self._journals:
            # Storage that is away for a while delays it, as it does checkpoints.
            attempts = with_retry(partial(read_journal, self._folder, ATTEMPTS), lambda error: None, self._timeout)
            metrics, events = (journal.records for journal in self._journals)
            self._account = Running(account(attempts, events, metrics), world)

    def spent(self, kind: str, seconds: float) -> None:
        """Count seconds that were not training."""
        if self._account:
            self._account.add(kind, seconds)

    def persist(self) -> None:
        """Write what storage takes now: the steps up to a checkpoint are not computed and recorded again."""
        for journal in self._journals:
            with suppress(*UNAVAILABLE):
                journal.flush(LINGER)

    def flush(self) -> None:
        """Write what storage has not taken so far."""
        for journal in self._journals:
            with_retry(partial(journal.flush, self._timeout), lambda error: None, self._timeout)

    def close(self, lost: bool = False) -> None:
        """Write what storage takes now, and no more; nothing if the run is ``lost`` to another driver."""
        for journal in self._journals:
            journal.close(0.0 if lost else LINGER)
