"""The figures of reports and of ``heliostat runs open`` as data, which ``web/figures.js`` draws with Apache ECharts.

A figure is a title and an option of ECharts (https://echarts.apache.org/en/option.html) without what all figures have in
common: layout, fonts, tooltip and zoom. A colour is one of the names in ``figures.js``, which differ between light and dark.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heliostat.console import printable
from heliostat.workloads.run.goodput import KINDS, Goodput, Span

Figure = dict[str, Any]
Series = dict[str, Any]
Points = Sequence[tuple[int, float]]
"""Steps and values."""
MOST = 1000
"""Points of a line; of more, the least and the most in each of half as many intervals are drawn."""
BINS = 240
LONGEST = 32
"""Characters of a label: a longer one would take the place of the figure."""
NAMES = {"productive": "green", "evaluating": "mint", "checkpointing": "yellow", "data": "violet", "starting": "steel",
         "recomputed": "accent", "nodes": "silver", "idle": "pale"}  # fmt: skip
"""The colour of each kind of goodput."""


def label(text: object) -> str:
    """A text of the user's for a figure, in one line and not too long."""
    shown = printable(text)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def figure(title: str, series: Sequence[Series], across: str = "", up: str = "", **option: Any) -> Figure:
    """A figure with one pair of axes, named ``across`` and ``up``; ``option`` has more of ECharts'."""
    axes = {"xAxis": {"type": "value", "name": printable(across)}, "yAxis": {"type": "value", "name": printable(up)}}
    for axis, given in axes.items():
        given.update(option.pop(axis, {}))
    return {"title": printable(title), "option": {**axes, "series": list(series), **option}}


def line(name: str, points: Sequence[Sequence[float | None]], colour: str | None = None, **more: Any) -> Series:
    """A series of points that are connected."""
    style = {"width": 1.5, **({"color": colour} if colour else {})}
    item = {"itemStyle": {"color": colour}} if colour else {}
    shown = {"type": "line", "name": printable(name), "data": points, "showSymbol": False, "lineStyle": style, **item}
    return {**shown, **more}


def thinned(points: Sequence[tuple[float, float]], most: int = MOST) -> list[list[float]]:
    """At most about ``most`` of the points: of each interval of steps the least and the most. NaN and infinity are left out."""
    found = np.asarray(points, float).reshape(-1, 2)
    found = found[np.isfinite(found).all(1)]
    if len(found) <= most:
        return _plain(found)
    kept = {0, len(found) - 1}
    for part in np.array_split(np.arange(len(found)), most // 2):
        values = found[part, 1]
        kept |= {int(part[values.argmin()]), int(part[values.argmax()])}
    return _plain(found[sorted(kept)])


def _plain(points: np.ndarray[Any, Any]) -> list[list[float]]:
    return [[int(at) if at.is_integer() else at, value] for at, value in points.tolist()]


def curve(
    title: str, train: Points, validation: Points = (), best_step: int | None = None, log: bool = False, zero: bool = False
) -> Figure:
    """A metric over the steps, of training and of the evaluations; ``log`` and ``zero`` set the y axis."""
    series = []
    if train:
        series.append(line("train", thinned(train), "ink"))
    if validation:
        at_best = [[step, value] for step, value in validation if step == best_step][-1:]
        mark = {"data": [{"coord": at, "value": "best"} for at in at_best]}
        few = len(validation) <= 60
        series.append(line("validation", thinned(validation), "accent", showSymbol=few, symbolSize=5, best=mark))
    return curves(title, series, log, zero)


def curves(title: str, series: Sequence[Series], log: bool = False, zero: bool = False) -> Figure:
    """Several lines over the steps."""
    axis = _logarithmic(series) if log else {}
    return figure(title, series, "step", yAxis=axis or {"scale": not zero})


def _logarithmic(series: Sequence[Series]) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2 and 5 times powers of ten; nothing where a value is not above 0."""
    values = np.array([value for each in series for _, value in each["data"]])
    if not len(values) or values.min() <= 0:
        return {}
    low, high = float(values.min()) * 0.95, float(values.max()) * 1.05
    factors = (1, 2, 5) if high < 1000 * low else (1,)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [tick for power in powers for factor in factors if low <= (tick := float(f"{factor}e{power}")) <= high]
    if len(ticks) < 3:
        return {}
    return {"type": "log", "min": low, "max": high, "ticks": ticks}


def stack(
    title: str, unit: str, edges: Sequence[float], heights: Mapping[str, Sequence[float]], colours: Mapping[str, str]
) -> Figure:
    """Heights in intervals of time, stacked; ``edges`` are the ends of the intervals, one more than there are heights."""
    series = [
        line(
            name, [[round(at, 4), round(value, 4)] for at, value in zip(edges, [*found, found[-1]], strict=True)],
            colours[name], step="end", stack="all", areaStyle={"color": colours[name], "opacity": 1},
            lineStyle={"width": 0, "color": colours[name]},
        )
        for name, found in heights.items()
    ]  # fmt: skip
    ends = {"max": round(edges[-1], 4), "axisLabel": {"showMaxLabel": False}}
    return {**figure(title, series, unit, xAxis=ends), "wide": True}


def band(account: Goodput) -> Figure:
    """The workers over time, stacked by what their time was spent on, with numbered marks of failures and resizes."""
    spans = account.spans
    begin, end = spans[0].begin, spans[-1].end
    unit, seconds = unit_of(end - begin)
    edges = np.linspace(begin, end, BINS + 1)
    kinds = [kind for kind in KINDS if kind != "idle" and any(span.kind == kind and span.workers for span in spans)]
    heights = {kind: _mean_workers([span for span in spans if span.kind == kind], edges).tolist() for kind in kinds}
    most = max(1, *(span.workers for span in spans))
    made = stack("workers by what their time was spent on", unit, ((edges - begin) / seconds).tolist(), heights, NAMES)
    marks = [
        {"xAxis": (when - begin) / seconds, "label": {"formatter": str(number)}}
        for number, (when, _) in enumerate(account.marks, 1)
    ]
    made["option"]["yAxis"] |= {"max": most, "minInterval": 1}
    made["option"]["series"].append({"type": "line", "data": [], "markLine": {"data": marks}})
    return made


def unit_of(seconds: float) -> tuple[str, float]:
    """The unit of a time axis of that length, and its seconds."""
    units = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0))
    return next(((unit, length) for unit, length in units if seconds > 2 * length), ("seconds", 1.0))


def _mean_workers(spans: Sequence[Span], edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The mean number of workers in each bin of time."""
    total = np.zeros(len(edges) - 1)
    for span in spans:
        overlap = np.minimum(edges[1:], span.end) - np.maximum(edges[:-1], span.begin)
        total += np.clip(overlap, 0, None) * span.workers
    mean: np.ndarray[Any, Any] = total / np.diff(edges)
    return mean
