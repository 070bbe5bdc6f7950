"""A sweep's journal: every trial, start, report and end, a JSON record each; applied in order, they are the sweep's state.

Damage is refused and not skipped, because finished trials would be run again.
"""

from collections.abc import Callable, Mapping

from heliostat.folder import Folder
from heliostat.workloads.run import journal
from heliostat.workloads.run.chunks import Record
from heliostat.workloads.run.journal import Journal, finite

JOURNAL = "journal"
WAIT = 1.0
"""Seconds that a sweep waits for an object store to have a record before it acts on it."""


def open_journal(folder: Folder, delayed: Callable[[str], None] = lambda error: None) -> Journal:
    """The writer's side of the journal of the sweep in ``folder``; there is one writer, which the lease ensures.

    Raises:
        UserError: it is damaged.
    """
    return Journal(folder / JOURNAL, "", delayed, strict=True, wait=WAIT)


def read_journal(folder: Folder) -> list[Record]:
    """All records, in order, without a last one that an interrupted write has left incomplete.

    Raises:
        UserError: the journal is damaged.
    """
    return journal.read_journal(folder / JOURNAL, "", strict=True)


def plain(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Metrics as JSON can hold them: None is what is not finite."""
    return finite({name: None if value is None else float(value) for name, value in metrics.items()})
