"""The result of a sweep and the table of its trials, for ``result.json`` and ``trials.parquet``."""

import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.config import Config
from heliostat.folder import Folder, join
from heliostat.tuning.config import Mode, SweepConfig
from heliostat.tuning.trials import Trial, Trials, best, leader, pareto_front

RESULT, TABLE, BEST, REPORT = "result.json", "trials.parquet", "best.yaml", "report.html"


class SweepResult(Config):
    """``result.json``: the result of a sweep."""

    name: str
    sweep: str
    """Its folder, a path or a URI."""
    objectives: dict[str, str]
    """Metric -> max or min."""
    states: dict[str, int]
    """The number of trials in each state."""
    best: int | None
    """The number of the best trial by the first objective."""
    values: dict[str, float]
    """The best trial's objectives."""
    params: dict[str, Any]
    """The best trial's values of the searched keys."""
    front: list[int]
    """With several objectives, the trials of the Pareto front."""
    seconds: float
    """The total time of all sessions."""
    worker_seconds: float
    """The time that trials held their workers, summed over the trials."""
    gpu_seconds: float
    cost: float | None
    """The cost of all trials, or None where prices are not known."""
    known_cost: float | None = None
    """What is known of it, at least; None in a result of an earlier version."""
    ended: str
    """Why it ended: done, time or budget; running or interrupted in a report that was drawn before the end."""
    limits: dict[str, Any]
    already: bool = False
    """Whether the sweep was finished before this call."""

    @property
    def report(self) -> str:
        """The path or URI of the report."""
        return join(self.sweep, REPORT)

    @property
    def best_config(self) -> str | None:
        """The path or URI of the best trial's config, for ``heliostat train``."""
        return None if self.best is None else join(self.sweep, BEST)

    @classmethod
    def read(cls, folder: Folder) -> "SweepResult | None":
        """The result in a sweep's folder; None if the sweep is not finished."""
        return cls.model_validate_json(folder.read(RESULT)) if folder.exists(RESULT) else None


def result_of(config: SweepConfig, uri: str, objectives: Mapping[str, Mode], trials: Trials, ended: str) -> SweepResult:
    """The result of the trials so far of the sweep at ``uri``."""
    metric, mode = next(iter(objectives.items()))
    top = best(trials.all, metric, mode)
    if top is None or top.state != "finished":
        top = leader(trials.all, metric, mode)
    now = max((until for _, until in trials.sessions), default=0.0)
    return SweepResult(
        name=config.name,
        sweep=uri,
        objectives=dict(objectives),
        states=trials.states(),
        best=top.number if top else None,
        values=(top.values or {metric: top.best(metric, mode)}) if top else {},
        params=top.params if top else {},
        front=[trial.number for trial in pareto_front(trials.all, objectives)] if len(objectives) > 1 else [],
        seconds=round(trials.seconds(now), 3),
        worker_seconds=round(sum(trial.seconds for trial in trials.all), 3),
        gpu_seconds=round(sum(trial.seconds * trial.gpus for trial in trials.all), 3),
        cost=trials.cost(now),
        known_cost=trials.known_cost(now),
        ended=ended or "done",
        limits=config.limits,
    )


def table(trials: Iterable[Trial], objectives: Mapping[str, str]) -> bytes:
    """All trials as Parquet, with columns such as ``param.KEY``, ``SPLIT.METRIC``, ``seconds`` and ``cost``."""
    rows = [row(trial, objectives) for trial in trials]
    names = list(dict.fromkeys(name for found in rows for name in found))
    columns = {name: _column([found.get(name) for found in rows]) for name in names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def row(trial: Trial, objectives: Mapping[str, str]) -> dict[str, Any]:
    """One trial as a flat record."""
    return {
        "trial": trial.number,
        "state": trial.state,
        **{name: trial.values.get(name) for name in objectives},
        **{f"param.{name}": value for name, value in trial.params.items()},
        "step": trial.step,
        "began": trial.spans[0][0] if trial.spans else trial.started,
        "ended": trial.spans[-1][1] if trial.done and trial.spans else None,
        "seconds": round(trial.seconds, 3),
        "gpu_seconds": round(trial.seconds * trial.gpus, 3),
        "cost": trial.cost(),
        "same_as": trial.duplicate_of,
        "failures": trial.failures,
        "losses": trial.losses,
        "message": trial.message,
        "node": trial.node,
        **{f"{split}.{name}": value for split, found in trial.metrics.items() for name, value in found.items()},
    }


def failed_because(trials: Iterable[Trial]) -> str:
    """Why no trial succeeded: the most frequent message, with its count."""
    messages = Counter(_last_line(trial.message) or trial.state for trial in trials)
    cause, count = messages.most_common(1)[0]
    whole = next((trial.message for trial in trials if _last_line(trial.message) == cause), cause)
    return f"no trial succeeded; {count} of {sum(messages.values())} failed with:\n  " + whole.replace("\n", "\n  ")


def _last_line(message: str) -> str:
    lines = [line for line in message.splitlines() if not line.startswith("  fix:")]
    return lines[-1].strip() if lines else ""


def _column(values: list[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        return pa.array([None if value is None or not math.isfinite(value) else value for value in values],
                        pa.int64() if kinds == {int} else pa.float64())  # fmt: skip
    if len(kinds) > 1 or kinds & {list, dict}:
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
    return pa.array(values)
