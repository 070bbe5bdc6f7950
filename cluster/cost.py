"""What a cluster has cost, from the record of its nodes, and what the time of its nodes was spent on.

Every second of every recorded node is charged once: to the jobs that held it, in proportion to their share, and what they did
not hold is idle. What a job spent its share on is taken from the goodput of its run. So the parts add up to the nodes' sum.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from math import floor, inf
from typing import Protocol

from heliostat.cluster.in_pod.record import Interval, Record, RecordedJob
from heliostat.cluster.profile import Profile
from heliostat.errors import UserError

KINDS = ("productive", "overhead", "starting", "idle", "recomputed", "lost", "unrecorded")
"""What money is spent on: steps that count; evaluations, checkpoints and waits for data or nodes; nodes and workers that start;
nodes that nothing uses; steps computed again after a loss; jobs that failed without a run that could resume; gaps."""
OF_GOODPUT = {
    "productive": "productive", "evaluating": "overhead", "checkpointing": "overhead", "data": "overhead", "nodes": "overhead",
    "starting": "starting", "recomputed": "recomputed", "idle": "idle", "lost": "lost",
}  # fmt: skip
"""The kind of each of `heliostat.workloads.run.goodput`; a trial of a sweep that failed is lost."""
OF_STATE = {"starting": "starting", "idle": "idle", "unknown": "unrecorded"}
NONE = "(none)"
"""The row of what belongs to no run, label or submitter."""
HOUR = 3600.0


class Span(Protocol):
    """An interval of a run's goodput; times are in seconds since the epoch."""

    @property
    def kind(self) -> str: ...
    @property
    def begin(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def workers(self) -> int: ...


@dataclass(frozen=True)
class Charge:
    """A share of a node for a time, in seconds since the epoch, and what it was spent on."""

    kind: str
    group: str
    job: str
    """The id of the job; empty if it belongs to none."""
    begin: float
    end: float
    share: float
    gpus: int
    price: float
    """Of the node per hour."""

    @property
    def node_hours(self) -> float:
        return (self.end - self.begin) / HOUR * self.share

    @property
    def gpu_hours(self) -> float:
        return self.node_hours * self.gpus

    @property
    def money(self) -> float:
        return self.node_hours * self.price


@dataclass(frozen=True)
class Row:
    """A row of a table: what one key cost, by kind."""

    key: str
    node_hours: float
    gpu_hours: float
    money: Mapping[str, float]
    hours: Mapping[str, float]
    """Node-hours."""

    @property
    def total(self) -> float:
        return sum(self.money.values())


def priced(record: Record, profile: Profile) -> Record:
    """The record with the profile's prices for nodes whose price was not known when they were recorded.

    Raises:
        UserError: a group has no price in the profile either.
    """
    prices = {name: about["price"] for name, about in profile.prices.items()}
    unknown = sorted({each.group for each in record.intervals if each.price is None and each.group not in prices})
    if unknown:
        raise UserError(
            f"{profile.name} had nodes of group {', '.join(unknown)}, whose price is neither in the record nor in its profile",
            "use the profile that it was started with, or a --since after the last node of that group",
        )
    found = [replace(each, price=prices[each.group]) if each.price is None else each for each in record.intervals]
    return replace(record, intervals=found)


def charges(record: Record, goodput: Mapping[str, Sequence[Span]]) -> list[Charge]:
    """Divide the time of all nodes.

    Args:
        record: with prices, see `priced`.
        goodput: the spans of each run by its name, those of all trials for a sweep. A job in whose time there are none is
            productive, unless it has failed, was stopped or ended with its head: then it is lost.
    """
    uses = {job.id: _use(job, goodput.get(job.run, ())) for job in record.jobs.values()}
    return [charge for interval in record.intervals for day in _days(interval) for charge in _charges(day, uses)]


def rows(charges: Iterable[Charge], key: Callable[[Charge], str]) -> list[Row]:
    """A row for each key, the most expensive first."""
    found: dict[str, list[Charge]] = {}
    for charge in charges:
        found.setdefault(key(charge), []).append(charge)
    table = [
        Row(
            name,
            sum(charge.node_hours for charge in group),
            sum(charge.gpu_hours for charge in group),
            {kind: sum(charge.money for charge in group if charge.kind == kind) for kind in KINDS},
            {kind: sum(charge.node_hours for charge in group if charge.kind == kind) for kind in KINDS},
        )
        for name, group in found.items()
    ]
    return sorted(table, key=lambda row: (-row.total, row.key))


def keys(by: str, record: Record) -> Callable[[Charge], str]:
    """The function with the key of a charge for ``--by``."""
    jobs = record.jobs

    def of_job(value: Callable[[RecordedJob], str]) -> Callable[[Charge], str]:
        return lambda charge: (value(jobs[charge.job]) if charge.job in jobs else "") or NONE

    return {
        "group": lambda charge: charge.group,
        "day": lambda charge: f"{datetime.fromtimestamp(charge.begin):%Y-%m-%d}",
        "run": of_job(lambda job: job.run or job.id),
        "sweep": of_job(lambda job: job.run if is_sweep(job) else ""),
        "submitter": of_job(lambda job: job.labels.get("submitter", "")),
        "label": of_job(lambda job: ", ".join(f"{k}={v}" for k, v in sorted(job.labels.items()) if k != "submitter")),
    }[by]


def is_sweep(job: RecordedJob) -> bool:
    """Whether a job is a sweep, by its command."""
    words = job.command.split()
    return any(first.endswith("heliostat") and second == "sweep" for first, second in pairwise(words))


def in_cents(table: Sequence[Row]) -> list[Row]:
    """The same rows with money in whole cents, so that rows and kinds add up to the total, which is rounded to the nearest one.

    Each part is rounded down or up: those with the largest remainders up.
    """
    cells = [(number, kind, row.money[kind] * 100) for number, row in enumerate(table) for kind in KINDS]
    missing = round(sum(value for _, _, value in cells)) - sum(floor(value) for _, _, value in cells)
    up = sorted(cells, key=lambda cell: floor(cell[2]) - cell[2])[:missing]
    raised = {(number, kind) for number, kind, _ in up}
    return [
        replace(row, money={kind: (floor(row.money[kind] * 100) + ((number, kind) in raised)) / 100 for kind in KINDS})
        for number, row in enumerate(table)
    ]


def _use(job: RecordedJob, spans: Sequence[Span]) -> Callable[[float, float], Mapping[str, float]]:
    """A function that returns the share of each kind in what a job held between two times."""
    # Other jobs of the same run have their own: what it resumed, or ran on a schedule.
    spans = [span for span in spans if span.end > (job.begin or -inf) and span.begin < (job.end or inf)]
    if not spans:
        kind = "lost" if job.status in ("FAILED", "STOPPED", "LOST") else "productive"
        return lambda begin, end: {kind: 1.0}
    edges = sorted({edge for span in spans for edge in (span.begin, span.end)})
    weights: list[dict[str, float]] = [{} for _ in edges]
    for span in spans:
        kind = OF_GOODPUT[span.kind]
        for at in range(bisect_left(edges, span.begin), bisect_left(edges, span.end)):
            weights[at][kind] = weights[at].get(kind, 0.0) + max(span.workers, 1e-9)  # idle has no workers

    def use(begin: float, end: float) -> Mapping[str, float]:
        found: dict[str, float] = {}
        inner = edges[bisect_right(edges, begin) : bisect_left(edges, end)]
        points = [begin, *inner, end]
        for left, right in pairwise(points):
            at = bisect_right(edges, left) - 1
            parts = weights[at] if 0 <= at < len(edges) - 1 else {}
            # Before its first record the job imports and builds, after its last one it writes its report.
            parts = parts or {"starting" if left < edges[0] else "overhead": 1.0}
            for kind, weight in parts.items():
                found[kind] = found.get(kind, 0.0) + (right - left) / (end - begin) * weight / sum(parts.values())
        return found

    return use


def _days(interval: Interval) -> Iterator[Interval]:
    """The interval, divided at each midnight of this machine's time zone."""
    begin = interval.begin
    while begin < interval.end:
        midnight = datetime.combine(datetime.fromtimestamp(begin).date() + timedelta(days=1), datetime.min.time()).timestamp()
        end = min(interval.end, midnight)
        yield replace(interval, begin=begin, end=end)
        begin = end


def _charges(interval: Interval, uses: Mapping[str, Callable[[float, float], Mapping[str, float]]]) -> Iterator[Charge]:
    def charge(kind: str, job: str, share: float) -> Charge:
        price = interval.price or 0.0
        return Charge(kind, interval.group, job, interval.begin, interval.end, share, interval.gpus, price)

    if interval.state != "busy":
        yield charge(OF_STATE[interval.state], "", 1.0)
        return
    held = sum(interval.work.values())
    scale = 1 / held if held > 1 else 1.0
    for job, share in interval.work.items():
        parts = uses[job](interval.begin, interval.end) if job in uses else {"productive": 1.0}
        for kind, part in parts.items():
            yield charge(kind, job, share * scale * part)
    if held < 1:
        yield charge("idle", "", 1 - held)
