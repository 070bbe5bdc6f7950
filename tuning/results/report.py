"""Writes ``report.html``: one self-contained page about a sweep."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from heliostat.config import to_yaml
from heliostat.console import at_least, cell, duration
from heliostat.folder import Folder
from heliostat.tuning.config import Mode
from heliostat.tuning.plan import SweepPlan
from heliostat.tuning.results import figures
from heliostat.tuning.results.importance import importance
from heliostat.tuning.results.table import REPORT, SweepResult
from heliostat.tuning.space import Space
from heliostat.tuning.trials import Trial, Trials
from heliostat.workloads.run.charts import Figure
from heliostat.workloads.run.page import render

TEMPLATE = Path(__file__).with_name("report.html.j2")
ROWS = 100
"""The most trials in the page's table; ``trials.parquet`` has all of them."""


def write_report(folder: Folder, plan: SweepPlan, trials: Trials, result: SweepResult) -> None:
    """Write ``report.html`` into the sweep's folder."""
    own = [trial for trial in trials.all if trial.duplicate_of is None]
    html = render(
        TEMPLATE,
        result=result,
        config=to_yaml(plan.config.model_dump(mode="json", exclude_none=True)),
        searched=f"{plan.config.algorithm}, scheduler {plan.config.scheduler.kind}, on {plan.train.config.task}"
        + (f", {result.ended}" if result.ended != "done" else ""),
        written=time.time(),
        tiles=_tiles(plan, trials, result),
        figures=figures_of(trials, plan.config.space, plan.objectives),
        columns=list(dict.fromkeys(key for trial in own for key in trial.params)),
        metrics=list(plan.objectives),
        priced=result.cost is not None,
        rows=_rows(trials.all, plan),
        hidden=max(0, len(trials.all) - ROWS),
        failures=_failures(own),
        exchanges=trials.exchanges,
        shown=cell,
    )
    folder.write(REPORT, html.encode())


def _tiles(plan: SweepPlan, trials: Trials, result: SweepResult) -> list[tuple[str, str]]:
    tiles = [(f"best {name}", f"{value:.4f}") for name, value in result.values.items()]
    tiles += [("trials", str(len(trials.all))), ("stopped early", str(result.states.get("stopped", 0)))]
    tiles += [("failed", str(count)) for state in ("failed", "diverged") if (count := result.states.get(state))]
    duplicates = sum(trial.duplicate_of is not None for trial in trials.all)
    tiles += [("duplicates", str(duplicates))] * bool(duplicates)
    tiles += [("time", duration(result.seconds)), ("workers' time", duration(result.worker_seconds))]
    tiles += [("GPUs' time", duration(result.gpu_seconds))] * bool(result.gpu_seconds)
    tiles += [("cost", cost)] if (cost := at_least(result.cost, result.known_cost or 0.0)) else []
    if saved := _saved(trials.all):
        tiles.append(("saved by stopping", f"{saved:.0%}"))
    return tiles


def _saved(trials: Sequence[Trial]) -> float:
    """The share of workers' time that stopping saved: what the stopped trials would have taken to their ends at their speed."""
    spent = sum(trial.seconds for trial in trials)
    whole = [trial.reports[-1].progress for trial in trials if trial.state == "finished" and trial.reports]
    length = sum(whole) / len(whole) if whole else 1.0  # early stopping inside a run may end it before its last step
    spared = sum(
        trial.seconds * max(0.0, length / trial.reports[-1].progress - 1)
        for trial in trials
        if trial.state == "stopped" and trial.reports and trial.duplicate_of is None
    )
    return spared / (spent + spared) if spared else 0.0


def figures_of(trials: Trials, space: Space, objectives: Mapping[str, Mode]) -> list[Figure]:
    """All figures of a sweep."""
    metric, mode = next(iter(objectives.items()))
    own = [trial for trial in trials.all if trial.duplicate_of is None]
    valued = [trial for trial in own if metric in trial.values]
    kept = valued if len(valued) <= figures.MOST_LINES else figures.chosen(valued, metric, mode)
    learning = [*kept, *(trial for trial in own if not trial.done and trial.reports)]
    found = [
        figures.parallel(kept, space, metric, mode),
        figures.pareto(valued, objectives) if len(objectives) > 1 else None,
        figures.best_so_far(valued, trials, metric, mode, "time"),
        figures.best_so_far(valued, trials, metric, mode, "cost"),
        figures.importance_bars(importance(valued, space, metric, mode)),
        figures.learning_curves(learning, metric, mode),
        figures.in_use(own, any(trial.gpus for trial in own)),
        figures.end_times(own),
    ]
    return [each for each in found if each]


def _rows(trials: Sequence[Trial], plan: SweepPlan) -> list[Trial]:
    sign = 1 if plan.mode == "max" else -1
    ranked = sorted(
        trials, key=lambda t: (-sign * t.values[plan.metric] if plan.metric in t.values else float("inf"), t.number)
    )
    return ranked[:ROWS]


def _failures(own: Sequence[Trial]) -> list[tuple[int, str]]:
    return [(trial.number, trial.message) for trial in own if trial.state == "failed"][:10]
