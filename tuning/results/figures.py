"""The figures of a sweep's report as SVG texts, empty where there is nothing to show."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heliostat.tuning.space import Parameter, Space
from heliostat.tuning.trials import Trial, Trials, pareto_front
from heliostat.workloads.run.figures import ACCENT, GREY, INK, label, new_figure, svg

MOST_LINES = 300
"""The most trials in a figure with a line for each: the best, and an even sample of the others."""
COLOURS = {"finished": INK, "stopped": ACCENT, "failed": "#b3261e", "diverged": "#7a3ea8", "running": GREY, "waiting": GREY}


def thinned(trials: list[Trial], metric: str, mode: str) -> list[Trial]:
    """At most `MOST_LINES` trials: a tenth of them the best, the others an even sample of the rest."""
    ranked = sorted(trials, key=lambda trial: trial.values[metric], reverse=mode == "max")
    best, others = ranked[: MOST_LINES // 10], ranked[MOST_LINES // 10 :]
    return best + others[:: -(-len(others) // (MOST_LINES - len(best)))]


def best_so_far(trials: list[Trial], all_trials: Trials, metric: str, mode: str, over: str) -> str:
    """The best value of finished trials over time, or over cost, or without prices over workers' time."""
    ended = sorted((trial for trial in trials if trial.spans), key=lambda trial: trial.spans[-1][1])
    finished = [trial for trial in ended if trial.state == "finished"]
    if not finished:
        return ""
    priced = all(trial.price is not None for trial in ended)
    if over == "time":
        x = [_worked(all_trials, trial.spans[-1][1]) for trial in ended]
    else:
        x = list(itertools.accumulate((trial.cost() or 0.0) if priced else trial.seconds for trial in ended))
    pick = max if mode == "max" else min
    best: list[tuple[float, float]] = []
    for at, trial in zip(x, ended, strict=True):
        if trial.state == "finished":
            value = trial.values[metric]
            best.append((at, pick(value, best[-1][1]) if best else value))
    best.append((x[-1], best[-1][1]))
    figure, axes = new_figure()
    axes.scatter([at for at, t in zip(x, ended, strict=True) if t.state == "finished"], [t.values[metric] for t in finished],
                 s=9, color=GREY, alpha=0.5, linewidths=0, rasterized=len(ended) > 2000)  # fmt: skip
    axes.step(*zip(*best, strict=True), where="post", color=INK, linewidth=1.6)
    _window(axes, [trial.values[metric] for trial in finished], mode)
    unit = "seconds" if over == "time" else "cost" if priced else "workers' seconds"
    axes.set_xlabel(unit, color=GREY)
    axes.set_ylabel(label(metric), color=GREY)
    return svg(figure)


def learning_curves(trials: list[Trial], metric: str, mode: str) -> str:
    """Learning curves: the metric of each trial over its run; the best one in front."""
    lines = [(trial, [(r.progress, v) for r in trial.reports if math.isfinite(v := r.value(metric))]) for trial in trials]
    lines = [(trial, points) for trial, points in lines if points]
    if not lines:
        return ""
    sign = 1 if mode == "max" else -1
    lines.sort(key=lambda line: sign * line[0].values.get(metric, -sign * math.inf))
    figure, axes = new_figure()
    for trial, points in lines:
        top = trial is lines[-1][0]
        colour = INK if top else COLOURS[trial.state]
        axes.plot(*zip(*points, strict=True), color=colour, alpha=1 if top else 0.35, linewidth=2 if top else 0.9,
                  marker="o" if top or len(points) == 1 else "", markersize=3)  # fmt: skip
        if trial.state == "stopped":
            axes.plot(*points[-1], marker="x", color=ACCENT, markersize=4, alpha=0.7)
    _window(axes, [value for _, points in lines for _, value in points], mode)
    axes.set_xlabel("share of the run (x: stopped there)", color=GREY)
    axes.set_ylabel(label(metric), color=GREY)
    return svg(figure)


def importance_bars(shares: Mapping[str, float]) -> str:
    """The importance of each parameter as a bar."""
    if not shares:
        return ""
    figure, axes = new_figure()
    names = list(reversed(list(shares)[:12]))
    axes.barh(range(len(names)), [shares[name] for name in names], color=INK, height=0.6)
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("importance", color=GREY)
    axes.grid(axis="y", visible=False)
    return svg(figure)


def in_use(trials: list[Trial], gpus: bool) -> str:
    """The GPUs, or without GPUs the workers, that trials held over time."""
    steps: list[tuple[float, int]] = []
    for trial in trials:
        held = trial.gpus if gpus else trial.workers
        for since, until in trial.spans:
            steps += [(since, held), (until, -held)]
    if not steps:
        return ""
    steps.sort()
    start = steps[0][0]
    total = itertools.accumulate(change for _, change in steps)
    figure, axes = new_figure()
    axes.step([0.0, *(at - start for at, _ in steps)], [0, *total], where="post", color=INK, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds since the first trial", color=GREY)
    return svg(figure)


def end_times(trials: list[Trial]) -> str:
    """When each trial ended, and at which share of its run."""
    ended = [trial for trial in trials if trial.done and trial.spans]
    if not ended:
        return ""
    start = min(trial.spans[0][0] for trial in ended)
    figure, axes = new_figure()
    for state in dict.fromkeys(trial.state for trial in ended):
        mine = [trial for trial in ended if trial.state == state]
        reached = [trial.reports[-1].progress if trial.reports else 0.0 for trial in mine]
        ends = [trial.spans[-1][1] - start for trial in mine]
        axes.scatter(ends, reached, s=12, color=COLOURS[state], label=state, alpha=0.7, linewidths=0)
    axes.set_ylim(-0.05, 1.08)
    axes.set_xlabel("seconds since the first trial", color=GREY)
    axes.set_ylabel("share of the run", color=GREY)
    axes.legend(frameon=False, loc="lower right", ncols=2)
    return svg(figure)


def pareto(trials: list[Trial], objectives: Mapping[str, str]) -> str:
    """The first two objectives of all trials, and the Pareto front."""
    (a, _), (b, _) = list(objectives.items())[:2]
    shown = [trial for trial in trials if a in trial.values and b in trial.values]
    best = sorted(pareto_front(shown, objectives), key=lambda trial: trial.values[a])
    if not best:
        return ""
    figure, axes = new_figure()
    axes.scatter([t.values[a] for t in shown], [t.values[b] for t in shown], s=12, color=GREY, alpha=0.5, linewidths=0)
    axes.plot([t.values[a] for t in best], [t.values[b] for t in best], color=INK, marker="o", markersize=4, linewidth=1.2)
    for trial in best[:12]:
        axes.annotate(
            str(trial.number), (trial.values[a], trial.values[b]), textcoords="offset points", xytext=(5, 4), fontsize=8
        )
    axes.set_xlabel(f"{label(a)} ({objectives[a]})", color=GREY)
    axes.set_ylabel(f"{label(b)} ({objectives[b]})", color=GREY)
    return svg(figure)


def parallel(trials: list[Trial], space: Space, metric: str, mode: str) -> str:
    """Parallel coordinates: a line for each trial through its parameters to its value; better ones are darker."""
    if not trials or not space:
        return ""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LinearSegmentedColormap

    names = list(space)
    values = np.array([trial.values[metric] for trial in trials])
    rank = np.argsort(np.argsort(values if mode == "max" else -values)) / max(1, len(values) - 1)
    low, high = float(values.min()), float(values.max())
    figure, axes = new_figure(width=11.2, height=3.6)
    rows = [
        [*(position(space[name], trial.params.get(name)) for name in names), (value - low) / (high - low or 1)]
        for trial, value in zip(trials, values, strict=True)
    ]
    order = np.argsort(rank)
    segments = [np.column_stack([np.arange(len(names) + 1), rows[n]]) for n in order]
    colours = LinearSegmentedColormap.from_list("rank", ["#dfe5ec", "#8fb0d3", INK])(rank[order])
    axes.add_collection(LineCollection(segments, colors=colours, linewidths=0.6 + 1.4 * rank[order] ** 4))
    axes.set_xlim(-0.15, len(names) + 0.15)
    axes.set_ylim(-0.3, 1.08)
    axes.set_yticks([])
    axes.set_xticks(range(len(names) + 1), [label(name) for name in (*names, metric)], rotation=12 if len(names) > 5 else 0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    for at, name in enumerate(names):
        for place, text in _marks(space[name]):
            axes.annotate(text, (at, place), textcoords="offset points", xytext=(4, -3), fontsize=8, color=GREY)
    for place, value in ((0.0, low), (1.0, high)):
        axes.annotate(f"{value:.4g}", (len(names), place), textcoords="offset points", xytext=(4, -3), fontsize=8, color=GREY)
    return svg(figure)


def position(parameter: Parameter, value: Any) -> float:
    """The position of a value in its range, from 0 to 1; -0.2 if the parameter was inactive."""
    if value is None:
        return -0.2
    if parameter.choice is not None:
        return parameter.choice.index(value) / max(1, len(parameter.choice) - 1)
    low, high = parameter.range[:2]
    if parameter.logarithmic:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def _marks(parameter: Parameter) -> list[tuple[float, str]]:
    values: Sequence[Any] = parameter.choice if parameter.choice is not None else parameter.range[:2]
    marks = [
        (position(parameter, value), f"{value:.4g}" if isinstance(value, float) else label(value)[:14]) for value in values
    ]
    return [*marks, (-0.2, "inactive")] if parameter.when else marks


def _worked(trials: Trials, at: float) -> float:
    """Seconds of the sweep's sessions until a moment; the time between sessions does not count."""
    return sum(min(until, at) - since for since, until in trials.sessions if since < at)


def _window(axes: Any, values: Sequence[float], mode: str) -> None:
    """Crop the worst tenth of the values, which would compress the rest."""
    if len(values) < 10:
        return
    low, high = np.percentile(values, [10, 100] if mode == "max" else [0, 90])
    margin = 0.08 * (high - low) or 0.01
    axes.set_ylim(low - margin, high + margin)
