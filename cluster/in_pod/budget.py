"""Stops the jobs of a cluster when the budget of its profile is spent, where that says so (``budget.stop``).

What is spent is read from the record, as `heliostat cost` does: that of all clusters of the profile, and of earlier ones.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from .ray_usage import FINISHED, NOT_KNOWN, Node
from .record import read

CHECK_SECONDS = 30.0
KEYS = {"day": "budget", "month": "budget_per_month"}
"""Of the limits, by their periods."""
CALLED = {"day": "today", "month": "this month"}
"""What a message calls the current period."""


def period_of(period: str, now: float) -> tuple[float, float]:
    """When the ``day`` or the ``month`` of a time began, and when it ends, in UTC; all in seconds since the epoch."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return day.timestamp(), (day + timedelta(days=1)).timestamp()
    month = day.replace(day=1)
    return month.timestamp(), (month + timedelta(days=32)).replace(day=1).timestamp()


class Enforcement:
    """Compares what is spent with the budget, and stops what runs.

    Args:
        limits: returns the ``budget`` a day, that ``budget_per_month``, and whether they ``stop`` what runs.
        files: returns the files of the record of a month, such as ``2026-03``.
        jobs: returns the jobs by id, as `ray_usage.jobs` does.
        stop: stops a job.
        note: gets the id of a stopped job, and why.
        clock: the time.
    """

    def __init__(
        self,
        limits: Callable[[], Node],
        files: Callable[[str], Mapping[str, bytes]],
        jobs: Callable[[], Mapping[str, Node]],
        stop: Callable[[str], None],
        note: Callable[[str, str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits, self._files, self._jobs, self._stop, self._note, self._clock = limits, files, jobs, stop, note, clock
        self._stopped = set[str]()

    def step(self) -> None:
        """Look once. Services, sessions and what was started with ``--over-budget`` go on."""
        if not self._limits().get("stop"):  # earlier versions did not write it
            return
        jobs = {id: job for id, job in self._jobs().items() if _stoppable(id, job)}
        if not jobs or not (why := next(self._spent(), "")):
            return
        for id in jobs:
            self._stop(id)
            if id not in self._stopped:  # one may take a while to write its checkpoint
                self._stopped.add(id)
                self._note(id, why)

    def watch(self, ended: threading.Event) -> None:
        """Look until the event, every half a minute; runs in a thread, so that a slow storage does not delay the record."""
        while not ended.wait(CHECK_SECONDS):
            try:
                self.step()
            except NOT_KNOWN as error:
                print(f"cannot compare what is spent with the budget: {error!r}", flush=True)

    def _spent(self) -> Iterator[str]:
        """The limits that are reached, with the figures."""
        now, limits = self._clock(), self._limits()
        record = read(self._files(f"{datetime.fromtimestamp(now, UTC):%Y-%m}"))
        for period, key in KEYS.items():
            limit = limits.get(key)
            if record is None or limit is None:
                continue
            intervals = record.during(period_of(period, now)[0], now).intervals
            money = sum(each.seconds * each.price / 3600 for each in intervals if each.price is not None)
            if money >= limit:
                yield f"the budget is spent: ${money:.2f} of ${limit:.2f} {CALLED[period]}"


def _stoppable(id: str, job: Node) -> bool:
    """Whether a job runs or waits, is one that was submitted, and did not start over the budget."""
    return job["status"] not in FINISHED and id != job["driver"] and not job.get("over_budget")
