"""The state of a sweep's trials: the records of its journal, applied in order."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from heliostat.tuning.space import Params

DONE = ("finished", "stopped", "failed", "diverged")
"""Final states."""


class Decision(StrEnum):
    """The answer to a report of a trial."""

    CONTINUE = "continue"
    STOP = "stop"
    """The trial ends."""
    PAUSE = "pause"
    """It saves a checkpoint, from which it is resumed later."""


class Report(NamedTuple):
    """Metrics of a trial on the validation split at a step."""

    step: int
    progress: float
    """The share of the whole run, from 0 to 1."""
    metrics: dict[str, float | None]
    time: float

    def value(self, metric: str) -> float:
        """One metric; NaN if it was not finite."""
        value = self.metrics.get(metric)
        return math.nan if value is None else value


def trial_name(number: int) -> str:
    """The name of a trial, and of its folder among those of the trials."""
    return f"{number:04d}"


@dataclass(slots=True)
class Trial:
    """One point of the search space and its outcome."""

    number: int
    params: Params
    state: str = "waiting"
    """waiting, running, or one of `DONE`."""
    key: str = ""
    """Equal for trials with the same config."""
    duplicate_of: int | None = None
    """The first trial with the same key, whose outcome this one gets without being run."""
    reports: list[Report] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    """The objectives of a trial that is done, if it has them."""
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """All metrics by split of a trial that is done."""
    step: int = 0
    seconds: float = 0.0
    """The time that it held its workers."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """When it held them, from and to, in seconds since the epoch."""
    failures: int = 0
    losses: int = 0
    """Nodes that it lost while it ran."""
    message: str = ""
    node: str = ""
    """The node that it ran on last; empty for several workers."""
    workers: int = 1
    gpus: int = 0
    """GPUs of all its workers."""
    price: float | None = None
    """Of all its workers, per hour."""
    spent: float = 0.0
    """What the workers cost that it has released, each at the price of its node, as far as that was known."""
    unpriced: bool = False
    """Whether it has held workers whose price was not known."""
    actual_cost: float | None = None
    """The cost from the timeline of its nodes, which takes precedence over the price."""
    generation: int = 0
    """Exchanges of Population Based Training that it has taken part in."""
    donor: int | None = None
    """The trial whose weights it copied last."""
    started: float | None = None
    """When it was started; None if it is not running."""
    dropped: bool = False
    """Whether its checkpoints were deleted, because it is not among the best."""

    @property
    def name(self) -> str:
        return trial_name(self.number)

    @property
    def done(self) -> bool:
        return self.state in DONE

    def curve(self, metric: str) -> Iterator[tuple[int, float]]:
        """The steps and the finite values of a metric."""
        return ((r.step, v) for r in self.reports if math.isfinite(v := r.value(metric)))

    def best(self, metric: str, mode: str) -> float:
        """The best value of a metric that it has reported; NaN if there is none."""
        pick = max if mode == "max" else min
        return pick((value for _, value in self.curve(metric)), default=math.nan)

    def elapsed(self, now: float) -> float:
        """Seconds that it has held its workers until now."""
        return self.seconds + (now - self.started if self.started else 0.0)

    def cost(self, now: float = 0.0) -> float | None:
        """Its cost so far, or None where prices are not known."""
        if self.actual_cost is not None:
            return self.actual_cost
        return None if self.unpriced or self.price is None else self.known_cost(now)

    def known_cost(self, now: float = 0.0) -> float:
        """What is known of its cost so far, see `cost`."""
        if self.actual_cost is not None:
            return self.actual_cost
        if self.started is None or self.price is None:
            return self.spent
        return self.spent + ((now or self.started) - self.started) * self.price / 3600


class Trials:
    """All trials by number, and the sessions of the sweep."""

    def __init__(self, records: Iterable[dict[str, Any]] = ()) -> None:
        self.all: list[Trial] = []
        self.sessions: list[list[float]] = []
        """Start and end of each session, in seconds since the epoch."""
        self.slots = 1
        """Concurrent trials in the last session."""
        self.exchanges: list[dict[str, Any]] = []
        self.generations = 0
        for record in records:
            self.apply(record)

    def apply(self, record: dict[str, Any]) -> None:
        """Apply one record of the journal."""
        kind, time = record["event"], record["time"]
        if kind == "session":
            self.interrupted()
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
        trial.node, trial.price = record["where"], record["price"]
        trial.workers, trial.gpus = record["workers"], record["gpus"]

    def _report(self, trial: Trial, record: dict[str, Any]) -> None:
        # A trial that is resumed from a checkpoint makes some reports again.
        while trial.reports and trial.reports[-1].step >= record["step"]:
            trial.reports.pop()
        trial.reports.append(Report(record["step"], record["progress"], record["metrics"], record["time"]))
        trial.step = record["step"]

    def _pause(self, trial: Trial, record: dict[str, Any]) -> None:
        self._release(trial, "waiting", record["time"])
        trial.generation = record.get("generation", trial.generation)

    def _fail(self, trial: Trial, record: dict[str, Any]) -> None:
        self._release(trial, "waiting", record["time"])
        trial.message = record["message"] or trial.message
        trial.losses += record["lost"]
        trial.failures += not record["lost"]

    def _end(self, trial: Trial, record: dict[str, Any]) -> None:
        self._release(trial, record["state"], record["time"])
        trial.values, trial.metrics, trial.step = record["values"], record["metrics"], record["step"]
        trial.message = record["message"] or trial.message
        trial.actual_cost = record.get("cost")

    def _exchange(self, trial: Trial, record: dict[str, Any]) -> None:
        trial.params, trial.donor = record["params"], record["donor"]
        # An exchange that was interrupted is repeated, with the same outcome.
        again = (record["generation"], record["trial"])
        self.exchanges = [each for each in self.exchanges if (each["generation"], each["trial"]) != again]
        self.exchanges.append(record)

    def _dropped(self, trial: Trial, record: dict[str, Any]) -> None:
        trial.dropped = True

    def _release(self, trial: Trial, state: str, time: float) -> None:
        trial.state = state
        if trial.started is not None:
            trial.spent, trial.unpriced = trial.known_cost(time), trial.unpriced or trial.price is None
            trial.spans.append((trial.started, time))
            trial.seconds += time - trial.started
            trial.started = None

    def interrupted(self) -> None:
        """The last driver was killed: trials that ran then wait, and count as running until their last report."""
        for trial in self.all:
            if trial.state == "running" and trial.started is not None:
                last = trial.reports[-1].time if trial.reports else trial.started
                self._release(trial, "waiting", max(last, trial.started))

    def seconds(self, now: float) -> float:
        """The total time of all sessions, the last one until now."""
        ended = sum(until - since for since, until in self.sessions[:-1])
        return ended + (now - self.sessions[-1][0] if self.sessions else 0.0)

    def cost(self, now: float = 0.0) -> float | None:
        """The cost of all trials so far, or None if that of any that has held workers is not known."""
        costs = [trial.cost(now) for trial in self.all if trial.elapsed(now)]
        return self.known_cost(now) if costs and None not in costs else None

    def known_cost(self, now: float) -> float:
        """What is known of the cost so far; it is `cost` if all prices are known."""
        return sum(trial.known_cost(now) for trial in self.all)

    def remaining_seconds(self, wanted: int | None, now: float) -> float | None:
        """An estimate of the seconds until all wanted trials are done; None if there is no basis for one."""
        done = [trial.seconds for trial in self.all if trial.done and trial.duplicate_of is None]
        if wanted is None or not done:
            return None
        open_seconds = (wanted - sum(trial.done for trial in self.all)) * sum(done) / len(done)
        spent = sum(trial.elapsed(now) for trial in self.all if not trial.done)
        return max(0.0, open_seconds - spent) / max(1, min(self.slots, wanted - sum(trial.done for trial in self.all)))

    def states(self) -> dict[str, int]:
        """The number of trials in each state."""
        counts: dict[str, int] = {}
        for trial in self.all:
            counts[trial.state] = counts.get(trial.state, 0) + 1
        return counts


def best(trials: Iterable[Trial], metric: str, mode: str) -> Trial | None:
    """The finished trial with the best value, the first of equals; if none finished, the best of the stopped ones."""
    found = [trial for trial in trials if math.isfinite(trial.values.get(metric, math.nan)) and trial.duplicate_of is None]
    finished = [trial for trial in found if trial.state == "finished"] or found
    sign = 1 if mode == "max" else -1
    return max(finished, key=lambda trial: (sign * trial.values[metric], -trial.number), default=None)


def leader(trials: Iterable[Trial], metric: str, mode: str) -> Trial | None:
    """The trial with the best report so far, for a sweep of which no trial has finished."""
    reported = [
        trial
        for trial in trials
        if trial.duplicate_of is None and trial.state not in ("failed", "diverged") and math.isfinite(trial.best(metric, mode))
    ]
    sign = 1 if mode == "max" else -1
    return max(reported, key=lambda trial: (sign * trial.best(metric, mode), -trial.number), default=None)


def pareto_front(trials: Iterable[Trial], objectives: Mapping[str, str]) -> list[Trial]:
    """The finished trials that no other one dominates, being at least as good in all objectives and better in one."""
    signs = {metric: 1 if mode == "max" else -1 for metric, mode in objectives.items()}
    points = [
        (tuple(signs[m] * t.values[m] for m in signs), t)
        for t in trials
        if t.state == "finished" and t.duplicate_of is None and all(math.isfinite(t.values.get(m, math.nan)) for m in signs)
    ]
    points.sort(key=lambda point: (tuple(-value for value in point[0]), point[1].number))
    front: list[tuple[tuple[float, ...], Trial]] = []
    for values, trial in points:
        if not any(all(a >= b for a, b in zip(other, values, strict=True)) for other, _ in front):
            front.append((values, trial))
    return [trial for _, trial in front]
