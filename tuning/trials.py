"""The trials of a sweep as its journal tells of them: applying its records in order gives the state, at any moment."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from heliostat.tuning.space import Params

OVER = ("finished", "stopped", "failed", "diverged")
"""States from which a trial does not come back."""


class Decision(StrEnum):
    """What becomes of a trial that has made a report."""

    CONTINUE = "continue"
    STOP = "stop"
    """The trial is over."""
    PAUSE = "pause"
    """It saves a checkpoint, from which it is resumed later."""


class Report(NamedTuple):
    """What a trial measured on the validation split at a step."""

    step: int
    progress: float
    """The step as a share of the whole run."""
    metrics: dict[str, float | None]
    time: float

    def value(self, metric: str) -> float:
        """One metric; NaN if it was not finite."""
        value = self.metrics.get(metric)
        return math.nan if value is None else value


@dataclass(slots=True)
class Trial:
    """One point of the search space and what came of it."""

    number: int
    params: Params
    state: str = "waiting"
    """waiting, running, or one of `OVER`."""
    key: str = ""
    """Equal for trials that do the same."""
    duplicate_of: int | None = None
    """The first trial with the same key, whose outcome this one gets without being run."""
    reports: list[Report] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    """The objectives, once it is over and if it has them."""
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """All metrics by split, once it is over."""
    step: int = 0
    seconds: float = 0.0
    """The time that its workers were taken."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """When they were taken, from and to, in seconds since the epoch."""
    failures: int = 0
    losses: int = 0
    """Times that a node went away under it."""
    message: str = ""
    where: str = ""
    workers: int = 1
    gpus: int = 0
    """Of all its workers."""
    price: float | None = None
    """Of its workers, an hour."""
    paid: float | None = None
    """What it has cost, where that is known better than by its price."""
    generation: int = 0
    """Exchanges of Population Based Training that it has been through."""
    donor: int | None = None
    """The trial whose weights it took last."""
    started: float | None = None
    """Since when it is running."""

    @property
    def name(self) -> str:
        return f"{self.number:04d}"

    @property
    def over(self) -> bool:
        return self.state in OVER

    def curve(self, metric: str) -> Iterator[tuple[int, float]]:
        """The steps and values of a metric, where it was finite."""
        return ((r.step, v) for r in self.reports if math.isfinite(v := r.value(metric)))

    def taken(self, now: float) -> float:
        """Seconds that its workers have been taken until now."""
        return self.seconds + (now - self.started if self.started else 0.0)

    def cost(self, now: float = 0.0) -> float | None:
        """Money spent on it, or None where nobody knows the price."""
        if self.paid is not None:
            return self.paid
        return None if self.price is None else self.taken(now or (self.started or 0.0)) * self.price / 3600


class Trials:
    """All trials by number, and how long the sweep has been worked on."""

    def __init__(self, records: Iterable[dict[str, Any]] = ()) -> None:
        self.all: list[Trial] = []
        self.sessions: list[list[float]] = []
        """From and to of each time that somebody drove the sweep."""
        self.slots = 1
        """Trials at once, in the last session."""
        self.exchanges: list[dict[str, Any]] = []
        self.generations = 0
        for record in records:
            self.apply(record)

    def apply(self, record: dict[str, Any]) -> None:
        """Take in one record of the journal."""
        kind, time = record["event"], record["time"]
        if kind == "session":
            self._interrupted()
            self.sessions.append([time, time])
            self.slots = record["slots"]
        elif self.sessions:
            self.sessions[-1][1] = time
        if kind == "trial":
            self.all.append(Trial(record["trial"], record["params"], key=record["key"], duplicate_of=record["twin"]))
        elif kind == "exchanged":
            self.generations = record["generation"]
        elif "trial" in record:
            getattr(self, f"_{kind}")(self.all[record["trial"]], record)

    def _start(self, trial: Trial, record: dict[str, Any]) -> None:
        trial.state, trial.started = "running", record["time"]
        trial.where, trial.price = record["where"], record["price"]
        trial.workers, trial.gpus = record["workers"], record["gpus"]

    def _report(self, trial: Trial, record: dict[str, Any]) -> None:
        # A trial that goes on from a checkpoint makes some reports again.
        while trial.reports and trial.reports[-1].step >= record["step"]:
            trial.reports.pop()
        trial.reports.append(Report(record["step"], record["progress"], record["metrics"], record["time"]))
        trial.step = record["step"]

    def _pause(self, trial: Trial, record: dict[str, Any]) -> None:
        self._leaves(trial, "waiting", record["time"])
        trial.generation = record.get("generation", trial.generation)

    def _fail(self, trial: Trial, record: dict[str, Any]) -> None:
        self._leaves(trial, "waiting", record["time"])
        trial.message = record["message"] or trial.message
        trial.losses += record["lost"]
        trial.failures += not record["lost"]

    def _end(self, trial: Trial, record: dict[str, Any]) -> None:
        self._leaves(trial, record["state"], record["time"])
        trial.values, trial.metrics, trial.step = record["values"], record["metrics"], record["step"]
        trial.message = record["message"] or trial.message
        trial.paid = record.get("cost")

    def _exchange(self, trial: Trial, record: dict[str, Any]) -> None:
        trial.params, trial.donor = record["params"], record["donor"]
        self.exchanges.append(record)

    def _leaves(self, trial: Trial, state: str, time: float) -> None:
        trial.state = state
        if trial.started is not None:
            trial.spans.append((trial.started, time))
            trial.seconds += time - trial.started
            trial.started = None

    def _interrupted(self) -> None:
        """A driver was killed: what ran then ran until the last that was heard of it."""
        for trial in self.all:
            if trial.state == "running" and trial.started is not None:
                heard = trial.reports[-1].time if trial.reports else trial.started
                self._leaves(trial, "waiting", max(heard, trial.started))

    def seconds(self, now: float) -> float:
        """How long the sweep has been worked on, all sessions together; the last one lasts until now."""
        ended = sum(until - since for since, until in self.sessions[:-1])
        return ended + (now - self.sessions[-1][0] if self.sessions else 0.0)

    def cost(self, now: float = 0.0) -> float | None:
        """Money spent on all trials, or None where nobody knows the price."""
        costs = [cost for trial in self.all if (cost := trial.cost(now)) is not None]
        return sum(costs) if costs else None

    def left(self, wanted: int | None, now: float) -> float | None:
        """An estimate of the seconds until all wanted trials are over; None if nobody can tell."""
        over = [trial.seconds for trial in self.all if trial.over and trial.duplicate_of is None]
        if wanted is None or not over:
            return None
        open_seconds = (wanted - sum(trial.over for trial in self.all)) * sum(over) / len(over)
        done = sum(trial.taken(now) for trial in self.all if not trial.over)
        return max(0.0, open_seconds - done) / self.slots

    def states(self) -> dict[str, int]:
        """How many trials are in which state."""
        counts: dict[str, int] = {}
        for trial in self.all:
            counts[trial.state] = counts.get(trial.state, 0) + 1
        return counts


def best(trials: Iterable[Trial], metric: str, mode: str) -> Trial | None:
    """The finished trial with the best value, the first of equals; if none finished, the best of those that were stopped."""
    found = [trial for trial in trials if math.isfinite(trial.values.get(metric, math.nan)) and trial.duplicate_of is None]
    finished = [trial for trial in found if trial.state == "finished"] or found
    sign = 1 if mode == "max" else -1
    return max(finished, key=lambda trial: (sign * trial.values[metric], -trial.number), default=None)


def front(trials: Iterable[Trial], objectives: Mapping[str, str]) -> list[Trial]:
    """The Pareto front: finished trials than which no other is at least as good in all objectives and better in one."""
    signs = {metric: 1 if mode == "max" else -1 for metric, mode in objectives.items()}
    points = [
        (tuple(signs[m] * t.values[m] for m in signs), t)
        for t in trials
        if t.state == "finished" and t.duplicate_of is None and all(math.isfinite(t.values.get(m, math.nan)) for m in signs)
    ]
    points.sort(key=lambda point: (tuple(-value for value in point[0]), point[1].number))
    kept: list[tuple[tuple[float, ...], Trial]] = []
    for values, trial in points:
        if not any(all(a >= b for a, b in zip(other, values, strict=True)) for other, _ in kept):
            kept.append((values, trial))
    return [trial for _, trial in kept]
