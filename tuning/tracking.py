"""A sweep and its trials as trackers show them, from the sweep's journal."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from heliostat.config import digest
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.tuning.journal import read_journal
from heliostat.tuning.record import SWEEP, SweepRecord, read_sweep
from heliostat.tuning.trials import Trial, Trials, best
from heliostat.workloads.run.record import REPORT, RESULT
from heliostat.workloads.tracking.runs import flat, named, tags_of
from heliostat.workloads.tracking.tracker import RUNNING, Point, Tracked
from heliostat.workloads.tracking_config import Item

FILES = (SWEEP, "best.yaml", RESULT, REPORT, "trials.parquet")


def tracking_of(folder: Folder) -> Sequence[Item]:
    """The trackers of a sweep."""
    return _record(folder).config.tracking or []


class SweepReader:
    """Reads a sweep and its trials, all of it each time: a sweep has few records."""

    def __init__(self, folder: Folder) -> None:
        self._folder, self._record = folder, _record(folder)

    def __call__(self, state: str) -> Sequence[Tracked]:
        """The sweep in the state that its driver has said, before its trials."""
        trials = Trials(read_journal(self._folder))
        config, now = self._record.config, trials.sessions[-1][1] if trials.sessions else self._record.created
        searched = {name: f"{parameter.kind}" for name, parameter in config.space.items()}
        about = config.model_dump(mode="json", include={"algorithm", "scheduler", "trials", "seconds", "budget", "seed"})
        sweep = Tracked(
            id=digest([config.name, self._record.created]), name=config.name, folder=self._folder,
            created=self._record.created, params=flat({**about, "space": searched, "objectives": self._record.objectives}),
            tags=self._tags(trials, state, now), points=self._progress(trials.all), state=state, ended=now, sweep=True,
            files=FILES,
        )  # fmt: skip
        return [sweep, *(_trial(sweep, trial, state, now) for trial in trials.all if trial.spans or trial.started)]

    def _tags(self, trials: Trials, state: str, now: float) -> dict[str, str]:
        top = best(trials.all, *next(iter(self._record.objectives.items())))
        found: dict[str, Any] = {"folder": str(self._folder), "state": state, **tags_of(trials.cost(now), None)}
        return found | ({"best": top.name} if top else {})

    def _progress(self, trials: Sequence[Trial]) -> list[Point]:
        """The best value of the first objective, by the number of trials that have ended."""
        metric, mode = next(iter(self._record.objectives.items()))
        over = sorted((trial for trial in trials if trial.done and trial.spans), key=lambda trial: trial.spans[-1][1])
        tops = [(best(over[:count], metric, mode), over[count - 1].spans[-1][1]) for count in range(1, len(over) + 1)]
        return [Point(step, time, {f"best/{metric}": top.values[metric]}) for step, (top, time) in enumerate(tops, 1) if top]


def _trial(sweep: Tracked, trial: Trial, state: str, now: float) -> Tracked:
    began = trial.spans[0][0] if trial.spans else trial.started or now
    ended = trial.spans[-1][1] if trial.spans else now
    points = [Point(each.step, each.time, named("validation", each.metrics)) for each in trial.reports]
    if values := named("test", trial.metrics.get("test", {})):
        points.append(Point(trial.step, ended, values))
    over = trial.state if trial.done else RUNNING if state == RUNNING else "interrupted"
    return replace(
        sweep, id=digest([sweep.id, trial.name]), created=began, params=flat(trial.params), points=points, state=over,
        tags={"state": over, **tags_of(trial.cost(now), None)}, ended=ended, trial=trial.name, parent=sweep.id, files=(),
    )  # fmt: skip


def _record(folder: Folder) -> SweepRecord:
    record = read_sweep(folder)
    if record is None:
        raise UserError(f"{folder} is neither a run nor a sweep", "heliostat runs lists them")
    return record
