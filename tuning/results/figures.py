"""The figures of a sweep as data, see `heliostat.workloads.run.charts`; None where there is nothing to show."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heliostat.tuning.space import Parameter, Space
from heliostat.tuning.trials import Trial, Trials, pareto_front
from heliostat.workloads.run.charts import Figure, figure, label, line, thinned

MOST_LINES = 300
"""The most trials in a figure with a line for each: the best, and an even sample of the others."""
MOST_POINTS = 60
"""Of the learning curve of one trial."""
CROSS = {
    "symbol": "path://M-1,-1L1,1M1,-1L-1,1", "symbolSize": 6,
    "itemStyle": {"color": "transparent", "borderColor": "accent", "borderWidth": 1.5},
}  # fmt: skip
COLOURS = {"finished": "ink", "stopped": "accent", "failed": "red", "diverged": "purple", "running": "grey", "waiting": "grey"}


def chosen(trials: list[Trial], metric: str, mode: str) -> list[Trial]:
    """At most `MOST_LINES` trials: a tenth of them the best, the others an even sample of the rest."""
    ranked = sorted(trials, key=lambda trial: trial.values[metric], reverse=mode == "max")
    best, others = ranked[: MOST_LINES // 10], ranked[MOST_LINES // 10 :]
    return best + others[:: -(-len(others) // (MOST_LINES - len(best)))]


def _points(name: str, found: Sequence[Sequence[Any]], colour: str, **more: Any) -> dict[str, Any]:
    style = {"color": colour, "opacity": 0.7}
    return {"type": "scatter", "name": label(name), "data": found, "symbolSize": 6, "itemStyle": style, **more}


def best_so_far(trials: list[Trial], all_trials: Trials, metric: str, mode: str, over: str) -> Figure | None:
    """The best value of finished trials over time, or over cost, or without prices over workers' time."""
    ended = sorted((trial for trial in trials if trial.spans), key=lambda trial: trial.spans[-1][1])
    if not any(trial.state == "finished" for trial in ended):
        return None
    priced = all(trial.cost() is not None for trial in ended)
    if over == "time":
        x = [_worked(all_trials, trial.spans[-1][1]) for trial in ended]
    else:
        x = list(itertools.accumulate((trial.cost() or 0.0) if priced else trial.seconds for trial in ended))
    pick = max if mode == "max" else min
    best: list[tuple[float, float]] = []
    each = [[at, trial.values[metric], trial.number] for at, trial in zip(x, ended, strict=True) if trial.state == "finished"]
    for at, value, _ in each:
        best.append((at, pick(value, best[-1][1]) if best else value))
    best.append((x[-1], best[-1][1]))
    unit = "seconds" if over == "time" else "cost" if priced else "workers' seconds"
    dots = _points("trials", each, "grey", quiet=True)
    series = [dots, line("best", best, "ink", step="end", quiet=True)]
    window = _window([value for _, value, _ in each], mode)
    made = figure(f"Best {metric} over {over}", series, unit, label(metric), yAxis={"scale": True, **window})
    return {**made, "points": True, "third": "trial"}


def learning_curves(trials: list[Trial], metric: str, mode: str) -> Figure | None:
    """The metric of each trial over its run; the best one in front."""
    lines = learning_lines(trials, metric, mode)
    if not lines:
        return None
    series = []
    for trial, points in lines:
        top = trial is lines[-1][0]
        colour = "ink" if top else COLOURS[trial.state]
        style = {"width": 2.5 if top else 1, "opacity": 1 if top else 0.4, "color": colour}
        shown = thinned(points, MOST_POINTS)
        at_end = [{**CROSS, "coord": shown[-1]}] if trial.state == "stopped" else []
        marked = {"markPoint": {"data": at_end, "silent": True, "animation": False}} if at_end else {}
        name = f"trial {trial.number}"
        series.append(line(name, shown, colour, lineStyle=style, quiet=True, showSymbol=top or len(shown) == 1, **marked))
    window = _window([value for _, points in lines for _, value in points], mode)
    axis = {"scale": True, **window}
    made = figure("Learning curves", series, "share of the run (cross: stopped there)", label(metric), yAxis=axis)
    return {**made, "points": True}


def learning_lines(trials: list[Trial], metric: str, mode: str) -> list[tuple[Trial, list[tuple[Any, float]]]]:
    """The trials with a value, the best last, each with its share of the run and the metric there."""
    lines = [(trial, [(r.progress, v) for r in trial.reports if math.isfinite(v := r.value(metric))]) for trial in trials]
    lines = [(trial, points) for trial, points in lines if points]
    sign = 1 if mode == "max" else -1
    lines.sort(key=lambda found: sign * found[0].values.get(metric, -sign * math.inf))
    return lines


def importance_bars(shares: Mapping[str, float]) -> Figure | None:
    """The importance of each parameter as a bar."""
    if not shares:
        return None
    names = list(reversed(list(shares)[:12]))
    bars = {"type": "bar", "data": [shares[name] for name in names], "barMaxWidth": 18, "itemStyle": {"color": "ink"}}
    axis = {"type": "category", "data": [label(name) for name in names]}
    return figure("Which parameters matter", [bars], "importance", yAxis=axis, xAxis={"min": 0, "max": 1, "grid": True})


def in_use(trials: list[Trial], gpus: bool) -> Figure | None:
    """The GPUs, or without GPUs the workers, that trials held over time."""
    steps: list[tuple[float, int]] = []
    for trial in trials:
        held = trial.gpus if gpus else trial.workers
        for since, until in trial.spans:
            steps += [(since, held), (until, -held)]
    if not steps:
        return None
    steps.sort()
    start = steps[0][0]
    total = itertools.accumulate(change for _, change in steps)
    points = [(0.0, 0), *((at - start, held) for (at, _), held in zip(steps, total, strict=True))]
    title = "GPUs in use" if gpus else "Workers in use"
    return figure(
        title, [line(title, thinned(points), "ink", step="end")], "seconds since the first trial", yAxis={"minInterval": 1}
    )


def end_times(trials: list[Trial]) -> Figure | None:
    """When each trial ended, and at which share of its run."""
    ended = [trial for trial in trials if trial.done and trial.spans]
    if not ended:
        return None
    start = min(trial.spans[0][0] for trial in ended)
    series = []
    for state in dict.fromkeys(trial.state for trial in ended):
        mine = [trial for trial in ended if trial.state == state]
        found = [
            [trial.spans[-1][1] - start, trial.reports[-1].progress if trial.reports else 0.0, trial.number] for trial in mine
        ]
        series.append(_points(state, found, COLOURS[state]))
    axis = {"min": 0, "max": 1}
    made = figure("When trials ended", series, "seconds since the first trial", "share of the run", yAxis=axis)
    return {**made, "points": True, "third": "trial"}


def pareto(trials: list[Trial], objectives: Mapping[str, str]) -> Figure | None:
    """The first two objectives of all trials, and the Pareto front."""
    (a, _), (b, _) = list(objectives.items())[:2]
    shown = [trial for trial in trials if a in trial.values and b in trial.values]
    best = sorted(pareto_front(shown, objectives), key=lambda trial: trial.values[a])
    if not best:
        return None

    def at(found: list[Trial]) -> list[list[Any]]:
        return [[trial.values[a], trial.values[b], trial.number] for trial in found]

    series = [_points("trials", at(shown), "grey"), line("Pareto front", at(best), "ink", showSymbol=True, symbolSize=7)]
    axes = {"xAxis": {"scale": True}, "yAxis": {"scale": True}}
    made = figure("Pareto front", series, f"{label(a)} ({objectives[a]})", f"{label(b)} ({objectives[b]})", **axes)
    return {**made, "points": True, "third": "trial"}


def parallel(trials: list[Trial], space: Space, metric: str, mode: str) -> Figure | None:
    """Parallel coordinates: a line for each trial through its parameters to its value; better ones are darker."""
    if not trials or not space:
        return None
    values = np.array([trial.values[metric] for trial in trials])
    rank = np.argsort(np.argsort(values if mode == "max" else -values)) / max(1, len(values) - 1)
    axes = [_axis(name, parameter) for name, parameter in space.items()]
    low, high = float(values.min()), float(values.max())
    axes.append({"name": label(metric), "min": low, "max": high if high > low else low + 1, "ticks": [low, high]})
    lines = [
        {
            "name": str(trials[n].number), "rank": float(rank[n]),
            "value": [*(_value(each, trials[n].params.get(name)) for name, each in space.items()), float(values[n])],
        }
        for n in np.argsort(rank).tolist()
    ]  # fmt: skip
    option = {"parallel": axes, "series": [{"type": "parallel", "name": "trials", "data": lines}]}
    return {"title": "Parallel coordinates", "wide": True, "option": option}


def _axis(name: str, parameter: Parameter) -> dict[str, Any]:
    if parameter.choice is not None:
        return {"name": label(name), "categories": [_category(value) for value in parameter.choice]}
    low, high = parameter.range[:2]
    return {"name": label(name), "min": low, "max": high, "log": parameter.logarithmic, "ticks": [low, high]}


def _value(parameter: Parameter, value: Any) -> Any:
    """A value on its axis, of a choice its place; ECharts leaves out ``-``, which an inactive parameter has."""
    if value is None:
        return "-"
    return parameter.choice.index(value) if parameter.choice is not None else value


def _category(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else label(value)


def _worked(trials: Trials, at: float) -> float:
    """Seconds of the sweep's sessions until a moment; the time between sessions does not count."""
    return sum(min(until, at) - since for since, until in trials.sessions if since < at)


def _window(values: Sequence[float], mode: str) -> dict[str, Any]:
    """Crops the worst tenth of the values, which would compress the rest."""
    if len(values) < 10:
        return {}
    low, high = np.percentile(values, [10, 100] if mode == "max" else [0, 90])
    margin = 0.08 * (high - low) or 0.01
    # The ends are no round numbers, so they have no labels.
    ends = {"showMinLabel": False, "showMaxLabel": False}
    return {"min": float(f"{low - margin:.4g}"), "max": float(f"{high + margin:.4g}"), "axisLabel": ends}
