"""The record of a cluster's nodes, which `heliostat.cluster.in_pod.recorder` writes: from its files to intervals and gaps.

What is not recorded is never filled in. A node that was there before and after a gap existed meanwhile, but its use is unknown;
one that was not there after it is counted until it was last seen. The clusters that jobs had to themselves have recorders of
their own in the same folder: each of these records is read by itself, and they are joined at the end.
"""

import json
import re
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import inf
from typing import Any

from .ray_usage import SERVING

ALLOWED = 90.0
"""Seconds between two lines of a recorder without a gap: it writes one each minute, and a look may take a while."""
SHORT = 5.0
"""Seconds; how long a node may take to end after the recorder without a gap."""
ANSWER = 10.0
"""Seconds that Ray may not answer without a gap, if a node did the same before and after; a look takes as long at most."""
DELETED = 180.0
"""Seconds until a cluster that a job had to itself is deleted after its end, and that of a service after the next one answers:
a minute, and the end of its pods."""
OWN = re.compile(r"(?P<owner>(?P<service>serve-)?.+)-[a-z0-9]{5}")
"""The name of the cluster of a job or a service: the operator adds five characters to that of its object."""
UNFINISHED = ("PENDING", "RUNNING")
STATES = ("starting", "idle", "busy", "unknown")
NAME = re.compile(r"(?:.*/)?(?P<begin>\d{4}-\d{2}/\d{2}T\d{6})-(?P<recorder>[0-9a-f]+)-(?P<number>\d+)\.jsonl")

Line = dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """A node in one state; times are in seconds since the epoch."""

    node: str
    """Unique in time."""
    name: str
    """The pod."""
    group: str
    market: str
    price: float | None
    """Per hour; None if it was not known when the node was recorded."""
    gpus: int
    state: str
    """starting, idle, busy or unknown."""
    begin: float
    end: float
    work: Mapping[str, float] = field(default_factory=dict)
    """The share of the node that each job held; "" is a job that is not known."""

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def most_at_once(intervals: Sequence[Interval]) -> int:
    """The most of these at the same time; one that ends when another begins is not beside it."""
    edges = sorted([(each.begin, 1) for each in intervals] + [(each.end, -1) for each in intervals])
    return max(accumulate(change for _, change in edges))


def mean_price(intervals: Sequence[Interval]) -> float:
    """The price an hour, by the time of each; 0 where none is known."""
    seconds = sum(each.seconds for each in intervals)
    return sum(each.seconds * (each.price or 0.0) for each in intervals) / seconds if seconds else 0.0


@dataclass(frozen=True)
class Gap:
    """A time that is not recorded, in seconds since the epoch."""

    begin: float
    end: float
    cluster: str = ""
    """The cluster that a job or a service had to itself; empty for the one that `heliostat up` makes."""


@dataclass(frozen=True)
class RecordedJob:
    """A job as it was last recorded, with the status LOST if it ended with its head; times are in seconds since the epoch."""

    id: str
    run: str
    command: str
    status: str
    labels: Mapping[str, str]
    begin: float | None
    """When it was submitted; a job with a cluster to itself, when its head was asked for."""
    end: float | None
    cluster: str = ""
    """The one that it had to itself."""
    cron: str = ""
    """The scheduled runs of which it is one."""


@dataclass(frozen=True)
class Drain:
    """A node that was taken away before its end: drained, preempted, or lost with its machine."""

    at: float
    """In seconds since the epoch."""
    name: str
    """The pod."""
    group: str
    why: str
    """The reason that Kubernetes gives, such as EvictionByEvictionAPI."""


@dataclass(frozen=True)
class Record:
    """What is known of the nodes of a profile's clusters from ``begin`` to ``end``, in seconds since the epoch."""

    begin: float
    end: float
    intervals: Sequence[Interval]
    gaps: Sequence[Gap]
    jobs: Mapping[str, RecordedJob]
    open: Sequence[Gap] = ()
    """Times after the record of a cluster that was neither suspended nor deleted at its end."""
    damaged: int = 0
    """Files with a damaged line; what follows it in the file is a gap."""
    drains: Sequence[Drain] = ()

    def during(self, since: float, until: float) -> "Record":
        """The part of it between two times; a time after it in which the cluster may have had nodes is a gap."""
        intervals = [
            replace(each, begin=max(each.begin, since), end=min(each.end, until))
            for each in self.intervals
            if each.begin < until and each.end > since
        ]
        gaps = [*self.gaps, *(gap for gap in self.open if until - gap.begin > ALLOWED)]
        kept = [
            replace(gap, begin=max(gap.begin, since), end=min(gap.end, until))
            for gap in gaps
            if gap.begin < until and gap.end > since
        ]
        return replace(self, begin=since, end=until, intervals=intervals, gaps=kept)


@dataclass
class _Session:
    """Lines of one recorder without a missing file or a damaged line in between."""

    lines: list[Line]

    @property
    def begin(self) -> float:
        return float(self.lines[0]["t"])

    @property
    def end(self) -> float:
        return float(self.lines[-1]["t"])

    @property
    def off(self) -> bool:
        return bool(self.lines[-1]["e"] == "off")

    @property
    def cluster(self) -> str:
        return str(self.lines[0].get("cluster", ""))

    def covered(self) -> Iterator[tuple[float, float]]:
        """The times in which it looked."""
        begin = last = self.begin
        for line in self.lines:
            if line["t"] - last > ALLOWED:
                yield begin, last
                begin = line["t"]
            last = max(last, line["t"])
        yield begin, last


def read(files: Mapping[str, bytes]) -> Record | None:
    """The record in files, by name and in any order; None if they have no line.

    A file is read up to its first damaged line: the next file begins with everything again.
    """
    sessions, damaged = _sessions(files)
    clusters: dict[str, list[_Session]] = {}
    for session in sessions:
        clusters.setdefault(session.cluster, []).append(session)
    if not clusters:
        return None
    parts = [_record(cluster, of) for cluster, of in clusters.items()]
    return Record(
        begin=min(part.begin for part in parts),
        end=max(part.end for part in parts),
        intervals=sorted((each for part in parts for each in part.intervals), key=lambda each: (each.begin, each.node)),
        gaps=sorted((gap for part in parts for gap in part.gaps), key=lambda gap: gap.begin),
        jobs={id: job for part in parts for id, job in part.jobs.items()},
        open=[replace(gap, end=min(gap.end, _replaced(gap, clusters))) for part in parts for gap in part.open],
        damaged=damaged,
        drains=[drain for part in parts for drain in part.drains],
    )


def _record(cluster: str, sessions: Sequence[_Session]) -> Record:
    """The record of one cluster, from what its recorders wrote one after the other."""
    covered = _union(span for session in sessions for span in session.covered())
    last = max(sessions, key=lambda session: session.end)
    offs = [session.end for session in sessions if session.off]
    off_until = [_next(covered, end) for end in offs]
    gaps = [
        Gap(end, begin) for (_, end), (begin, _) in pairwise(covered) if (end, begin) not in zip(offs, off_until, strict=True)
    ]
    gaps += _left_behind(sessions, covered)
    intervals = [each for node, lines in _by_node(sessions).items() for each in _intervals(node, lines, sessions, covered)]
    jobs = _jobs(sessions)
    if cluster:
        asked = min((line["asked"] for s in sessions for line in s.lines if line["e"] == "node"), default=None)
        jobs = {id: replace(job, cluster=cluster, begin=asked or job.begin) for id, job in jobs.items()}
    return Record(
        begin=min([covered[0][0], *(each.begin for each in intervals)]),
        end=last.end,
        intervals=intervals,
        gaps=[replace(gap, cluster=cluster) for gap in gaps],
        jobs=jobs,
        open=[] if last.off else [Gap(last.end, _deleted(last, jobs), cluster)],
        drains=[drain for lines in _by_node(sessions).values() for drain in _drained(lines)],
    )


def _drained(lines: Sequence[Line]) -> Iterator[Drain]:
    """That a node was taken away, which all of its lines say from then on."""
    if found := next((line for line in lines if "drained" in line), None):
        yield Drain(found["drained"]["t"], found["name"], found["group"], found["drained"]["why"])


def _deleted(last: _Session, jobs: Mapping[str, RecordedJob]) -> float:
    """By when a cluster is deleted whose recorder did not see that: never, unless a job has it to itself."""
    until = float(last.lines[0].get("until", inf))
    ended = jobs and all(job.status not in UNFINISHED for job in jobs.values())
    return min(until, last.end + DELETED) if ended and until < inf else until


def _replaced(gap: Gap, clusters: Mapping[str, Sequence[_Session]]) -> float:
    """By when the operator has deleted a cluster whose recorder did not see that, as a later one of its job or service shows.

    Another cluster of a job, as after a preemption in a queue, begins when the one before is deleted. That of a service whose
    head was lost is deleted after another one answers; if the service was ended in between, that was earlier.
    """
    if not (own := OWN.fullmatch(gap.cluster)):
        return inf
    begin = clusters[gap.cluster][0].begin
    later = [
        sessions
        for name, sessions in clusters.items()
        if (other := OWN.fullmatch(name)) and other["owner"] == own["owner"] and sessions[0].begin > begin
    ]
    if not own["service"]:
        return max(gap.begin, min((sessions[0].begin for sessions in later), default=inf))
    answered = [
        next((line["t"] for session in sessions for line in session.lines if line.get("status") == SERVING), inf)
        for sessions in later
    ]
    return max(gap.begin, min(answered, default=inf)) + DELETED


def parse(data: bytes) -> tuple[list[Line], bool]:
    """The lines of a file up to the first damaged one, and whether there is one; an incomplete last line is none."""
    lines: list[Line] = []
    *whole, _ = data.split(b"\n")
    for raw in whole:
        text, _, crc = raw.rpartition(b" ")
        if f"{zlib.crc32(text):08x}".encode() != crc:
            return lines, True
        line = json.loads(text)
        if len(lines) > 1 and lines[-1]["e"] == line["e"] == "beat" and line["t"] - lines[-2]["t"] <= ALLOWED:
            lines.pop()  # without it the time is recorded, too, and a month of them takes the memory of a container
        lines.append(line)
    return lines, False


def _sessions(files: Mapping[str, bytes]) -> tuple[list[_Session], int]:
    parsed = {name: parse(data) for name, data in files.items() if NAME.fullmatch(name)}
    whole = {name: not broken and files[name].endswith(b"\n") for name, (_, broken) in parsed.items()}
    sessions = [_Session([line for name in names for line in parsed[name][0]]) for names in unbroken(whole)]
    damaged = sum(broken for _, broken in parsed.values())
    return sorted((s for s in sessions if s.lines), key=lambda session: session.begin), damaged


def unbroken(whole: Mapping[str, bool]) -> list[list[str]]:
    """The names of the files of each recorder, in order, without a file in between that is missing, damaged or cut off.

    Args:
        whole: whether all lines of a file are there, so that the next one of its recorder continues it, by name.
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    for name in whole:
        if match := NAME.fullmatch(name):
            numbered.setdefault(match["recorder"], []).append((int(match["number"]), name))
    found: list[list[str]] = []
    for files in numbered.values():
        following = None
        for number, name in sorted(files):
            if number != following:
                found.append([])
            found[-1].append(name)
            following = number + 1 if whole[name] else None
    return found


def _union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _next(covered: Sequence[tuple[float, float]], end: float) -> float | None:
    return next((begin for begin, _ in covered if begin > end), None)


def _by_node(sessions: Iterable[_Session]) -> dict[str, list[Line]]:
    """The lines of each node, in order."""
    found: dict[str, list[Line]] = {}
    for line in sorted(
        (line for s in sessions for line in s.lines if "id" in line and line["e"] != "job"), key=lambda x: x["t"]
    ):
        found.setdefault(line["id"], []).append(line)
    return found


def _intervals(
    node: str, lines: Sequence[Line], sessions: Sequence[_Session], covered: Sequence[tuple[float, float]]
) -> Iterator[Interval]:
    """The intervals of one node."""
    seen = list(_answered([line for line in lines if line["e"] == "node" and line["begin"] is not None]))
    if not seen:
        return
    gone = [line["end"] for line in lines if line["e"] == "gone"]
    begin = min(line["begin"] for line in seen)
    end = min(gone) if gone else max(s.end for s in sessions if any(line.get("id") == node for line in s.lines))
    first = seen[0]
    started = first["state"] == "starting" or begin >= _covered_since(covered, first["t"])
    states = [(begin, "starting" if started else "unknown", {}), *((x["t"], x["state"], x["work"]) for x in seen)]
    price = next((line["price"] for line in seen if line["price"] is not None), None)
    about = {"node": node, "name": first["name"], "group": first["group"], "market": first["market"], "gpus": first["gpus"]}
    last: Interval | None = None
    for at, until, state, work in _pieces(states, begin, end, covered):
        if last and (last.state, last.work) == (state, work):
            last = replace(last, end=until)
            continue
        if last:
            yield last
        last = Interval(**about, price=price, state=state, begin=at, end=until, work=work)
    if last:
        yield last


def _answered(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines of a node without those for which Ray did not answer for a moment."""
    for number, line in enumerate(lines):
        if line["state"] == "unknown" and 0 < number < len(lines) - 1:
            before, after = lines[number - 1], lines[number + 1]
            same = (before["state"], before["work"]) == (after["state"], after["work"])
            if same and after["t"] - line["t"] <= ANSWER:
                continue
        yield line


def _pieces(
    states: Sequence[tuple[float, str, Mapping[str, float]]], begin: float, end: float, covered: Sequence[tuple[float, float]]
) -> Iterator[tuple[float, float, str, Mapping[str, float]]]:
    """The states from ``begin`` to ``end``; outside of what is covered they are unknown, except that it starts."""
    times = [at for at, _, _ in states]
    first = covered[0][0]
    edges = sorted({begin, end, *times, *(edge for span in covered for edge in span)})
    for at, until in pairwise(edges):
        if at < begin or until > end:
            continue
        _, state, work = states[max(0, bisect_right(times, at) - 1)]
        inside = any(left <= at and until <= right for left, right in covered)
        before = until <= max(first, times[1] if len(times) > 1 else first)  # its first state is of what came before
        if inside or (before and state == "starting"):
            yield at, until, state if state in STATES else "unknown", work
        else:
            yield at, until, "unknown", {}


def _covered_since(covered: Sequence[tuple[float, float]], at: float) -> float:
    return next((begin for begin, end in covered if begin <= at <= end), at)


def _left_behind(sessions: Sequence[_Session], covered: Sequence[tuple[float, float]]) -> Iterator[Gap]:
    """The time after a cluster has ended in which its last nodes may still have been there."""
    for session in sessions:
        if session.off:
            there: dict[str, Line] = {}
            for line in session.lines:
                if line["e"] == "node":
                    there[line["id"]] = line
                elif line["e"] == "gone":
                    there.pop(line["id"], None)
            until = max((_latest(line, session.end) for line in there.values() if line["group"] != "head"), default=0.0)
            until = min(until, _next(covered, session.end) or until)
            if until - session.end > SHORT:
                yield Gap(session.end, until)


def _latest(line: Line, off: float) -> float:
    """When a node ended at the latest; if its deletion was not seen, one that is busy may drain from when its cluster went."""
    return float(line["until"] or off + (line.get("grace", 0.0) if line["state"] == "busy" else 0.0))


def _jobs(sessions: Sequence[_Session]) -> dict[str, RecordedJob]:
    found = {}
    for line in sorted((line for s in sessions for line in s.lines if line["e"] == "job"), key=lambda x: x["t"]):
        found[line["id"]] = RecordedJob(
            line["id"], line["run"], line["command"], line["status"], line["labels"], line["begin"], line["end"],
            cron=line.get("cron", ""),
        )  # fmt: skip
    last = max(sessions, key=lambda session: session.end)
    there = set() if last.off else {line["id"] for line in last.lines if line["e"] == "job"}
    return {
        id: replace(job, status="LOST") if job.status in UNFINISHED and id not in there else job for id, job in found.items()
    }
