"""Stops the jobs of a cluster when a budget is spent, that of its profile or of its team, where it says so (``budget.stop``).

What is spent is read from the record, as `heliostat cost` does: that of all clusters of the profile or the namespace, and of
earlier ones.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .priced import Span
from .ray_usage import FINISHED, NOT_KNOWN, Node

CHECK_SECONDS = 15.0
BUSY = 20
"""The time between two looks is at least so many times that which the last one took: the record of a team may be long."""
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


@dataclass(frozen=True)
class Holding:
    """A budget, and what is spent of it."""

    called: str
    """What a message calls it, such as ``the budget of the namespace vision``."""
    limits: Callable[[], Node]
    """Returns the ``budget`` a day, that ``budget_per_month``, and whether they ``stop`` what runs; empty without one."""
    nodes: Callable[[str], Iterable[Span]]
    """Returns the nodes of a month, such as ``2026-03``, that it is for."""


class Enforcement:
    """Compares what is spent with the budgets, and stops what runs.

    Args:
        budgets: those that hold for the jobs.
        jobs: returns the jobs by id, as `ray_usage.jobs` does.
        stop: stops a job.
        note: gets the id of a stopped job, and why.
        clock: the time.
    """

    def __init__(
        self,
        budgets: Sequence[Holding],
        jobs: Callable[[], Mapping[str, Node]],
        stop: Callable[[str], None],
        note: Callable[[str, str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._budgets, self._jobs, self._stop, self._note, self._clock = budgets, jobs, stop, note, clock
        self._stopped = set[str]()

    def step(self) -> None:
        """Look once. Services, sessions and what was started with ``--over-budget`` go on."""
        budgets = [*self._stopping()]
        jobs = {id: job for id, job in self._jobs().items() if _stoppable(id, job)} if budgets else {}
        if not jobs or not (why := next((why for each in budgets for why in self._known(each)), "")):
            return
        for id in jobs:
            self._stop(id)
            if id not in self._stopped:  # one may take a while to write its checkpoint
                self._stopped.add(id)
                self._note(id, why)

    def watch(self, ended: threading.Event) -> None:
        """Look until the event, every 15 s; runs in a thread, so that a slow storage does not delay the record."""
        wait = CHECK_SECONDS
        while not ended.wait(wait):
            began = time.monotonic()
            try:
                self.step()
            except NOT_KNOWN as error:
                print(f"cannot compare what is spent with the budget: {error!r}", flush=True)
            wait = max(CHECK_SECONDS, BUSY * (time.monotonic() - began))

    def _stopping(self) -> Iterator[tuple[Holding, Node]]:
        """The budgets that stop what runs; one that cannot be read keeps none of the others from that."""
        for budget in self._budgets:
            try:
                limits = budget.limits()
            except NOT_KNOWN as error:
                print(f"cannot read {budget.called}: {error!r}", flush=True)
                continue
            if limits.get("stop"):  # earlier versions have no such key
                yield budget, limits

    def _known(self, stopping: tuple[Holding, Node]) -> Iterator[str]:
        """The limits that are reached, as far as the record can be read."""
        try:
            yield from self._spent(*stopping)
        except NOT_KNOWN as error:
            print(f"cannot compare what is spent with {stopping[0].called}: {error!r}", flush=True)

    def _spent(self, budget: Holding, limits: Node) -> Iterator[str]:
        """The limits that are reached, with the figures."""
        now = self._clock()
        limited = {period: limits[key] for period, key in KEYS.items() if limits.get(key) is not None}
        nodes = [*budget.nodes(f"{datetime.fromtimestamp(now, UTC):%Y-%m}")] if limited else []
        for period, limit in limited.items():
            begin, _ = period_of(period, now)
            spent = sum(node.cost(begin, now) for node in nodes)
            if spent >= limit:
                yield f"{budget.called} is spent: ${spent:.2f} of ${limit:.2f} {CALLED[period]}"


def _stoppable(id: str, job: Node) -> bool:
    """Whether a job runs or waits, is one that was submitted, and did not start over the budget."""
    return job["status"] not in FINISHED and id != job["driver"] and not job.get("over_budget")
