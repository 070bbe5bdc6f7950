"""Gives gauges to Ray, whose agent on this node has them for Prometheus, with the prefix ``ray_``."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from ray.util.metrics import Gauge

from heliostat.folder import Folder
from heliostat.retry import UNAVAILABLE
from heliostat.workloads.ray_train.records import Record
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.goodput import account
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.monitored import RUN, RunState, Sample
from heliostat.workloads.run.record import EVENTS, METRICS

SECONDS = 5.0
"""Between two readings. Ray (2.60) exports a gauge every ten seconds, if it was set since, and forgets it after twenty."""

Metrics = Mapping[str, tuple[tuple[str, ...], str]]
"""The labels and the meaning of gauges by name."""


@contextmanager
def exported(metrics: Metrics, read: Callable[[], Iterable[Sample]]) -> Iterator[None]:
    """Sets gauges again and again while the block runs, in a thread, so that nothing waits for it.

    Args:
        metrics: all that ``read`` may return.
        read: returns what is known now; what it leaves out Prometheus does not see any more.
    """
    gauges = {name: Gauge(name, text, labels) for name, (labels, text) in metrics.items()}
    ended = threading.Event()

    def export() -> None:
        while not ended.is_set():
            found = list(read())
            # Reading may have waited for storage; meanwhile the block may have ended, and then the connection to Ray.
            for name, labels, value in found if not ended.is_set() else ():
                gauges[name].set(value, labels)
            ended.wait(SECONDS)

    thread = threading.Thread(target=export, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def monitored(folder: Folder) -> Iterator[Callable[[Iterable[Record]], None]]:
    """Exports the metrics of a run while the block drives it; yields what must be called with its new records."""
    new: deque[Record] = deque()
    with exported(RUN, _Reader(folder.once, new, time.time()).read):
        yield new.extend


class _Reader:
    """Reads the state of a run, from its records on storage before a time, and the new ones."""

    def __init__(self, folder: Folder, new: deque[Record], since: float) -> None:
        self._folder, self._new, self._since = folder, new, since
        self._state: RunState | None = None

    def read(self) -> Iterable[Sample]:
        if self._state is None or self._state.recount:
            with suppress(*UNAVAILABLE):  # counted at the next reading
                self._count()
        if self._state is None:
            return []
        self._state.add(self._new.popleft() for _ in range(len(self._new)))
        return self._state.samples(time.time())

    def _count(self) -> None:
        journals = [read_journal(self._folder, name) for name in (ATTEMPTS, EVENTS, METRICS)]
        if self._state is None:
            earlier = (record for records in journals for record in records if record["time"] < self._since)
            self._state = RunState(self._folder.name)
            self._state.add(sorted(earlier, key=lambda record: record["time"]))
        self._state.count(account(*journals))
