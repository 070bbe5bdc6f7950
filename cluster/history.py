"""The jobs of a record of nodes as a trace: when each was submitted, what it held of the worker nodes, and for how long.

The record has what a job held of each node: a job's GPUs are the mean over the time in which it held any, and its duration is
such that both together are its GPU-seconds. Nothing is invented: what the record does not have is left out and counted.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from heliostat.cluster.in_pod.ray_usage import SERVING
from heliostat.cluster.in_pod.record import UNFINISHED, Gap, Interval, Record, mean_price, most_at_once
from heliostat.cluster.planner.fleet import GroupOutcome, Outcome
from heliostat.cluster.planner.jobs import Floats, Jobs
from heliostat.cluster.planner.trace import Trace
from heliostat.cluster.profile import Profile, ray_resources
from heliostat.wording import counted

CHANGES = 0.05
"""The share of a job's GPU-seconds from which on its GPUs count as changing."""


@dataclass(frozen=True, eq=False)
class History:
    """Jobs that have ended, and what became of them; all times are in seconds."""

    trace: Trace
    waits: Floats
    """Of each job, from its submission until it held a worker node: the start of its driver included."""
    times: Floats
    """Of each job, from its submission until it last held one."""


@dataclass
class _Held:
    """What one job held."""

    begin: float
    end: float
    seconds: float = 0.0
    """In which it held anything."""
    gpu_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """On nodes without GPUs."""
    unknown: set[str] = field(default_factory=set)
    """Groups without GPUs whose CPUs are not known."""

    def add(self, interval: Interval, share: float, cpus: float | None) -> None:
        """A part of a node; intervals come in the order of their begin."""
        self.seconds += max(0.0, interval.end - max(self.end, interval.begin))
        self.end = max(self.end, interval.end)
        if interval.gpus:
            self.gpu_seconds += share * interval.gpus * interval.seconds
        elif cpus is None:
            self.unknown.add(interval.group)
        else:
            self.cpu_seconds += share * cpus * interval.seconds


def history(record: Record, profile: Profile, since: float = 0.0, until: float = np.inf) -> History:
    """The jobs that were submitted between two times, in seconds since the epoch.

    Args:
        record: all of it, also what is after ``until``.
        profile: its groups say how many CPUs their nodes have, which the record does not.
        since: the first submission.
        until: the last submission.
    """
    left_out: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    rows = []
    held = _holdings(record, profile)
    for job in record.jobs.values():
        mine = held.get(job.id)
        submitted = job.begin if job.begin is not None else mine.begin if mine else record.begin
        if not since <= submitted < until:
            continue
        if job.status == SERVING:
            left_out["services"] += 1
        elif job.status in UNFINISHED:
            left_out["unfinished jobs"] += 1
        elif mine is None:
            left_out["jobs that held no worker node"] += 1
        elif mine.unknown and not mine.gpu_seconds:
            left_out["jobs on groups that the profile does not have"] += 1
        else:
            gpus, seconds = _size(mine)
            rows.append((submitted, seconds, gpus, 0.0 if gpus else mine.cpu_seconds / mine.seconds, job.id, mine))
            notes.update(_notes(mine, gpus, [gap for gap in record.gaps if gap.cluster == job.cluster]))
    rows.sort(key=lambda row: row[0])
    begun, lengths, sizes, cpus = (np.array([row[n] for row in rows], float) for n in range(4))
    jobs = Jobs(begun, lengths, sizes.astype(np.int64), cpus=cpus, ids=pa.array([row[4] for row in rows], pa.string()))
    texts = [f"{counted(count, 'job')} {what}" for what, count in notes.items()]
    begins, ends = (np.array([getattr(row[5], name) for row in rows], float) for name in ("begin", "end"))
    trace = Trace(jobs, dict(left_out), (*texts, *_unknown(record, since, until)))
    return History(trace, np.maximum(begins - begun, 0.0), np.maximum(ends - begun, 0.0))


def as_recorded(record: Record, of: History, jobs: Jobs) -> Outcome:
    """What some jobs of a history cost and how long they took, from the first submission until the last end.

    Args:
        record: of all jobs, with prices.
        of: its history.
        jobs: some of those.
    """
    known = set(jobs.ids.to_pylist())
    rows = np.array([name in known for name in of.trace.jobs.ids.to_pylist()])
    ends = of.trace.jobs.submitted[rows] + of.times[rows]
    begin, end = float(jobs.submitted[0]), float(ends.max())
    intervals = record.during(begin, end).intervals
    groups = [_group([each for each in intervals if each.group == name]) for name in dict.fromkeys(i.group for i in intervals)]
    head = sum(group.cost for group in groups if group.name == "head")
    workers = tuple(group for group in groups if group.name != "head")
    return Outcome(workers, of.waits[rows], of.times[rows], np.array([], np.int64), end - begin, head, 0.0)


def _group(intervals: Sequence[Interval]) -> GroupOutcome:
    """What the nodes of a group did; time in gaps counts as busy."""
    seconds = {state: sum(each.seconds for each in intervals if each.state == state) for state in ("starting", "idle")}
    whole = sum(each.seconds for each in intervals)
    return GroupOutcome(
        intervals[0].group, mean_price(intervals), intervals[0].gpus, seconds["starting"], whole - sum(seconds.values()),
        seconds["idle"], sum(share * each.gpus * each.seconds for each in intervals for _, share in _shares(each)),
        starts=len({each.node for each in intervals}), peak=most_at_once(intervals),
    )  # fmt: skip


def _holdings(record: Record, profile: Profile) -> dict[str, _Held]:
    """What each job held of worker nodes."""
    cpus = {group.name: ray_resources(group)["CPU"] for group in profile.groups}
    found: dict[str, _Held] = {}
    for interval in sorted(record.intervals, key=lambda each: each.begin):
        for job, share in _shares(interval):
            mine = found.setdefault(job, _Held(interval.begin, interval.begin))
            mine.add(interval, share, cpus.get(interval.group))
    return found


def _shares(interval: Interval) -> Iterator[tuple[str, float]]:
    """The jobs that hold a worker node, and the share of each; together at most 1."""
    if interval.state == "busy" and interval.group != "head":
        scale = max(1.0, sum(interval.work.values()))
        yield from ((job, share / scale) for job, share in interval.work.items() if job and share)


def _size(mine: _Held) -> tuple[int, float]:
    """The GPUs of a job, and its seconds with them; of less than one GPU, one."""
    if not mine.gpu_seconds:
        return 0, mine.seconds
    mean = mine.gpu_seconds / mine.seconds
    gpus = max(1, round(mean))
    return gpus, mine.seconds if mean < 1 else mine.gpu_seconds / gpus


def _notes(mine: _Held, gpus: int, gaps: Sequence[Gap]) -> Iterator[str]:
    if gpus and mine.cpu_seconds:
        yield "also held nodes without GPUs, which are in no figure"
    mean = mine.gpu_seconds / mine.seconds
    if gpus and mean < 1 - CHANGES:
        yield "held a part of a GPU, counted as one"
    elif gpus and abs(gpus - mean) > CHANGES * mean:
        yield "held a changing number of GPUs, of which the mean counts"
    if any(gap.begin < mine.end and gap.end > mine.begin for gap in gaps):
        yield "ran while nothing was recorded; that time is in no duration"


def _unknown(record: Record, since: float, until: float) -> Sequence[str]:
    """A sentence about work whose job is not known."""
    hours = sum(
        each.work[""] * each.gpus * each.seconds / 3600
        for each in record.intervals
        if each.work.get("") and each.group != "head" and since <= each.begin < until
    )
    return [f"{hours:,.1f} GPU-hours of work whose job is not known are in no figure"] if hours >= 0.05 else []
