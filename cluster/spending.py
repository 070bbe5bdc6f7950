"""What of a budget is spent, from the records of nodes, and who spent it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from heliostat.cluster.budget import Budget
from heliostat.cluster.cost import NONE, Row, charges, keys, rows
from heliostat.cluster.in_pod.budget import CALLED, period_of
from heliostat.cluster.in_pod.record import Record
from heliostat.console import dollars, duration
from heliostat.errors import some
from heliostat.wording import agreeing, counted

WARN = 0.8
"""The share of a budget from which on it is mentioned with each new work."""
NOBODY = "no submitter"
"""Who spent what no job held, such as idle nodes and the time in which they start."""
NAMED = 5
"""Submitters that a message names."""


@dataclass(frozen=True)
class Spent:
    """What of a budget is spent in its current period."""

    owner: str
    """Whose budget it is: ``gpu``, or ``the namespace vision``."""
    period: str
    """day or month."""
    limit: float
    """The budget."""
    money: float
    ends: float
    """When the period ends, in seconds since the epoch."""
    by: Mapping[str, float]
    """The money by submitter, the most first."""
    recorded: bool = True
    """Whether there is a record of the period."""
    left_out: Sequence[str] = ()
    """What is not in ``money``, in a phrase each."""

    @property
    def refuses(self) -> bool:
        """Whether no new work may start."""
        return self.money >= self.limit

    @property
    def warns(self) -> bool:
        """Whether most of it is spent."""
        return self.money >= WARN * self.limit

    @property
    def text(self) -> str:
        """The figures, who spent the money, and what is not in it."""
        this = CALLED[self.period]
        figures = f"budget of {self.owner}: {dollars(self.money)} of {dollars(self.limit)} spent {this}, until {self.until}"
        who = some((f"{who} {dollars(part)}" for who, part in self.by.items()), NAMED)
        unrecorded = [] if self.recorded else ["nothing is recorded yet"]
        return "; ".join([figures, *([who] if who else []), *self.left_out, *unrecorded])

    @property
    def until(self) -> str:
        """When the period ends."""
        return f"{datetime.fromtimestamp(self.ends, UTC):%Y-%m-%d %H:%M} UTC"


def spent(owner: str, budget: Budget, records: Iterable[Record], now: float) -> list[Spent]:
    """What is spent of each limit of a budget.

    Args:
        owner: whose it is.
        budget: with at least one limit.
        records: of the clusters that it is for, with the prices that are known; none is a cluster that has cost nothing.
        now: in seconds since the epoch.
    """
    records = list(records)
    return [_of_period(owner, period, limit, records, now) for period, limit in budget.limits.items()]


def _of_period(owner: str, period: str, limit: float, records: Sequence[Record], now: float) -> Spent:
    begin, end = period_of(period, now)
    parts = [record.during(begin, now) for record in records]
    by: dict[str, float] = {}
    for part in parts:
        for row in _by_submitter(part):
            who = NOBODY if row.key == NONE else row.key
            by[who] = by.get(who, 0.0) + row.total
    ordered = dict(sorted(((who, part) for who, part in by.items() if part), key=lambda item: (-item[1], item[0])))
    return Spent(owner, period, limit, sum(by.values()), end, ordered, bool(parts), list(_left_out(parts)))


def _by_submitter(record: Record) -> list[Row]:
    known = replace(record, intervals=[each for each in record.intervals if each.price is not None])
    return rows(charges(known, {}), keys("submitter", known))


def _left_out(parts: Sequence[Record]) -> Iterator[str]:
    if gaps := sum(gap.end - gap.begin for part in parts for gap in part.gaps):
        yield f"{duration(gaps)} are not recorded"
    if unpriced := sum(each.seconds for part in parts for each in part.intervals if each.price is None):
        yield f"without {duration(unpriced)} of nodes whose price is not known"
    if damaged := sum(part.damaged for part in parts):
        yield f"{counted(damaged, 'file')} of the record {agreeing(damaged, 'are')} damaged"
