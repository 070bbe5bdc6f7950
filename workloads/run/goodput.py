"""Goodput: what the time of every worker of a run was spent on, from the records of its attempts.

Time is counted in worker-seconds, from the command's start to the run's end. What an attempt computed after the checkpoint from
which the next one resumed is lost, and counts as ``recomputed``.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heliostat.folder import Folder
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, METRICS

KINDS = ("productive", "evaluating", "checkpointing", "data", "starting", "recomputed", "nodes", "idle")
"""What time is spent on: steps that count, evaluations, waits for checkpoints, for data, for workers to start, steps that were
lost, waits for nodes, and the time between two commands and after the run."""


SAVED = ("drain", "grow", "stopped")
"""Events that end an attempt without lost steps."""
PHASES = {"waiting": "nodes", "running": "running", "ended": "idle"}


@dataclass(frozen=True)
class Span:
    """An interval of time of ``workers`` workers, in seconds since the epoch."""

    kind: str
    begin: float
    end: float
    workers: int

    @property
    def worker_seconds(self) -> float:
        return (self.end - self.begin) * self.workers


@dataclass(frozen=True)
class Goodput:
    """A run's time in spans, in order and without gaps, and the events between them.

    Args:
        spans: within an attempt, as fine as its records.
        marks: (time, text) of failures, preemptions and resizes.
    """

    spans: list[Span]
    marks: list[tuple[float, str]]

    @property
    def worker_seconds(self) -> dict[str, float]:
        """Worker-seconds of each kind."""
        totals = dict.fromkeys(KINDS, 0.0)
        for span in self.spans:
            totals[span.kind] += span.worker_seconds
        return totals

    @property
    def share(self) -> float:
        """See `share_of`."""
        return share_of(self.worker_seconds)


def share_of(totals: Mapping[str, float]) -> float:
    """The productive share of all worker-seconds that were not idle; 0 if there were none."""
    paid = sum(seconds for kind, seconds in totals.items() if kind != "idle")
    return totals.get("productive", 0.0) / paid if paid else 0.0


def goodput(run: Folder) -> Goodput:
    """Computes the goodput of a run, finished or not."""
    return account(*(read_journal(run, name) for name in (ATTEMPTS, EVENTS, METRICS)))


def account(attempts: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]]) -> Goodput:
    """Computes the goodput from the records of ``attempts.jsonl``, ``events.jsonl`` and ``metrics.jsonl``."""
    spans: list[Span] = []
    marks = []
    last = max((r["time"] for r in [*attempts, *events, *metrics]), default=0.0)
    phase, since, workers, room = "idle", 0.0, 0, 0
    for record in [*attempts, {"event": "now", "time": last}]:
        event, at = record["event"], record.get("launched", record["time"])
        until = at
        if event == "launched" and phase != "idle":  # the previous driver was killed, and its workers with it
            until = max([since, *(r["time"] for r in [*events, *metrics] if since < r["time"] < at)])
            marks.append((until, "the driver was killed"))
        if phase == "running":
            spans += _attempt(since, until, workers, events, metrics)
        elif until > since and (spans or phase != "idle"):
            spans += _before(phase, since, until, workers, room, events)
        if at > until:
            spans.append(Span("idle", until, at, 0))
        if event in ("failed", "left"):
            marks.append((at, record["reason"]))
        workers = 0 if event == "ended" else record.get("workers", record.get("least", workers))
        room = record.get("room", workers)
        phase = PHASES.get(event, "starting")
        since = at
    return Goodput(spans, marks)


class Running:
    """Counts the goodput of a run while it trains, from that of its earlier attempts.

    Args:
        before: the goodput of the earlier attempts.
        workers: how many are running now.
    """

    def __init__(self, before: Goodput, workers: int) -> None:
        self._totals, self._workers = before.worker_seconds, workers
        self._since = before.spans[-1].end if before.spans else time.time()
        self._before = sum(self._totals.values())

    def add(self, kind: str, seconds: float) -> None:
        """Counts seconds that the workers spent on something else than steps."""
        self._totals[kind] += seconds * self._workers

    def worker_seconds(self, now: float) -> dict[str, float]:
        """Worker-seconds of each kind up to ``now``, in seconds since the epoch, without those that are 0."""
        other = sum(self._totals.values()) - self._before
        productive = self._totals["productive"] + (now - self._since) * self._workers - other
        return {kind: round(value, 2) for kind, value in {**self._totals, "productive": productive}.items() if value}


def _before(phase: str, begin: float, end: float, workers: int, room: int, events: Sequence[dict[str, Any]]) -> Iterator[Span]:
    """The spans before the workers run: waiting for nodes until the workers fit, then starting."""
    born = begin
    if phase == "starting" and room < workers:
        starts = [e["workers"] for e in events if e["event"] == "start" and e["time"] >= begin]
        born = min(end, max([begin, *(worker.get("born", begin) for worker in starts[0])])) if starts else end
    if born > begin:
        yield Span("nodes", begin, born, workers)
    if end > born:
        yield Span(phase, born, end, workers)


def _attempt(
    begin: float, end: float, workers: int, all_events: Sequence[dict[str, Any]], all_metrics: Sequence[dict[str, Any]]
) -> Iterator[Span]:
    """The spans of one running attempt."""
    events, metrics = _between(all_events, begin, end), _between(all_metrics, begin, end)
    first = next((e["time"] for e in events if e["event"] == "first_step"), end)
    yield Span("starting", begin, first, workers)
    resumed = next((e["step"] for e in all_events if e["event"] == "start" and e["time"] >= end), None)
    lost_from = end if resumed is None else max(first, _reached(resumed, first, end, [*events, *metrics]))
    stops = sorted(
        [("checkpointing", e["time"] - e["seconds"], e["time"]) for e in events if e["event"] == "checkpoint"]
        + [("evaluating", m["time"] - m["seconds"], m["time"]) for m in metrics if m["kind"] == "eval"],
        key=lambda stop: stop[1],
    )
    at = first
    for kind, start, stop in [*stops, ("", lost_from, lost_from)]:
        start, stop = max(at, min(start, lost_from)), max(at, min(stop, lost_from))
        yield from _steps(at, start, workers, metrics)
        if stop > start:
            yield Span(kind, start, stop, workers)
        at = stop
    if end > lost_from:
        left = any(e["event"] in SAVED for e in events)
        yield Span("starting" if left else "recomputed", lost_from, end, workers)


def _steps(begin: float, end: float, workers: int, metrics: list[dict[str, Any]]) -> Iterator[Span]:
    """Time of steps, divided into computing and waiting for data by the records' ratio."""
    if end <= begin:
        return
    waits = [m["data_wait"] for m in metrics if "data_wait" in m and begin <= m["time"] <= end]
    wait = sum(waits) / len(waits) if waits else 0.0
    middle = end - (end - begin) * wait
    yield Span("productive", begin, middle, workers)
    if end > middle:
        yield Span("data", middle, end, workers)


def _reached(step: int, begin: float, end: float, records: Sequence[dict[str, Any]]) -> float:
    """When an attempt had finished a step, as far as its records show."""
    return min(end, max((record["time"] for record in records if record["step"] <= step), default=begin))


def _between(records: Sequence[dict[str, Any]], begin: float, end: float) -> list[dict[str, Any]]:
    return [record for record in records if begin <= record["time"] < end]
