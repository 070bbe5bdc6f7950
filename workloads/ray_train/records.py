"""What a run records while it is executed, for those who show it."""

from collections.abc import Callable
from typing import Any

from heliostat.folder import Folder
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.journal import Tail
from heliostat.workloads.run.output import OutputTail
from heliostat.workloads.run.record import EVENTS, METRICS

Record = dict[str, Any]
Watch = Callable[[list[Record]], None]
"""Called several times a second with what is new, if anything: the records of ``metrics.jsonl`` and ``attempts.jsonl``, those
of ``events.jsonl`` that are in `PHASES` or to be told, and the lines that workers print."""
PHASES = ("evaluating", "trained", "evaluated")
"""Events that begin a phase of a run."""


class NewRecords:
    """Reads what is new in a run folder since this was created.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Folder) -> None:
        # What was printed first, so that it stands before the records that follow it.
        self._tails: list[Tail | OutputTail] = [
            OutputTail(folder),
            *(Tail(folder, name) for name in (METRICS, ATTEMPTS, EVENTS)),
        ]

    def read(self, read: Callable[[Tail | OutputTail], list[Record]]) -> tuple[list[Record], list[Record], list[Record]]:
        """What is to be shown, those of ``attempts.jsonl``, and all records; each by time.

        Args:
            read: calls ``new`` of one of the files, and handles its errors.
        """
        printed, metrics, attempts, events = (read(tail) for tail in self._tails)
        shown = [event for event in events if "told" in event or event["event"] in PHASES]
        return _by_time([*printed, *metrics, *attempts, *shown]), attempts, _by_time([*metrics, *attempts, *events])


def _by_time(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record["time"])
