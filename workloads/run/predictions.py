"""The part of a run's report that its predictions on the test split fill: from ``evaluation.json``, which has no row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heliostat.datasets import Dataset
from heliostat.datasets.decoding import decode
from heliostat.workloads.config import BETTER
from heliostat.workloads.run.charts import Figure, Series, figure, label, line

SHOWN = 6
"""The most classes whose shares are listed."""
Evaluation = Mapping[str, Any]


def remarks(evaluation: Evaluation, classes: Sequence[str]) -> list[str]:
    """What a reader must know before the metrics: the shares of the classes, and a model that has learnt nothing."""
    found = []
    if matrix := evaluation.get("confusion"):
        counts = np.array(matrix)
        found.append(_shares(counts.sum(1), classes))
        predicted = np.flatnonzero(counts.sum(0))
        if len(predicted) == 1 and np.count_nonzero(counts.sum(1)) > 1:
            found.append(
                f"The model predicts {classes[predicted[0]]} for every test sample. Its accuracy is the share of that class; "
                "AUC and average precision show whether its probabilities tell the classes apart."
            )
    metrics, baseline = evaluation.get("metrics", {}), evaluation.get("baseline", {})
    if metric := next(iter(metrics), None):
        value, constant, better = metrics[metric], baseline.get(metric), BETTER.get(metric)
        if None not in (value, constant, better) and (value <= constant if better == "higher" else value >= constant):
            found.append(
                f"{metric} is not better than the baseline, which does not look at the sample: "
                f"{value:.4f}, and {constant:.4f} for the baseline."
            )
    return found


def _shares(counts: Any, classes: Sequence[str]) -> str:
    order = np.argsort(-counts, kind="stable").tolist()
    shares = [f"{classes[n]} {counts[n] / counts.sum():.1%}" for n in order]
    listed = ", ".join(shares) if len(order) <= SHOWN else f"{len(order)}, from {shares[-1]} to {shares[0]}"
    return f"Classes of the test split: {listed}."


def beside(evaluation: Evaluation, metric: str) -> list[str]:
    """The lines below a test metric: its interval and its baseline."""
    interval, baseline = evaluation.get("intervals", {}).get(metric), evaluation.get("baseline", {}).get(metric)
    lines = [f"95 %: {shown(metric, interval[0])} to {shown(metric, interval[1])}"] if interval else []
    return lines + ([f"baseline {shown(metric, baseline)}"] if baseline is not None else [])


def shown(metric: str, value: float | None) -> str:
    """A metric's value on a page: of large ones fewer decimals."""
    if value is None:
        return "NaN"
    if metric == "accuracy":
        return f"{value:.2%}"
    text = f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4f}"
    return text.removeprefix("-") if not text.strip("-0.") else text


def table_of_classes(evaluation: Evaluation, classes: Sequence[str]) -> list[list[str]]:
    """By class its name, test samples, predictions, precision, recall and F1."""
    if not (matrix := evaluation.get("confusion")):
        return []
    counts = np.array(matrix)
    rows = []
    for cls, name in enumerate(classes):
        right, true, guessed = counts[cls, cls], counts[cls].sum(), counts[:, cls].sum()
        scores = [_share(right, guessed), _share(right, true), _share(2 * right, true + guessed)]
        rows.append([name, f"{true:,}", f"{guessed:,}", *scores])
    return rows


def _share(part: Any, whole: Any) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def tables_by_value(evaluation: Evaluation) -> list[dict[str, Any]]:
    """By column of ``report.by`` a table with a row for each value: its samples and metrics."""
    tables = []
    for column, groups in evaluation.get("by", {}).items():
        names = list(groups[0]["metrics"]) if groups else []
        rows = [
            [group["value"], f"{group['samples']:,}", *(_number(group["metrics"][name]) for name in names)] for group in groups
        ]
        tables.append({"column": column, "names": names, "rows": rows})
    return tables


def worst_rows(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any] | None:
    """The rows with the largest errors, if the config wants them (``report.rows``): the names of columns, and the cells."""
    worst, signature = evaluation.get("worst"), dataset.index.signature
    if not worst or not signature:
        return None
    rows = decode(signature, dataset.take("test", np.array([each["id"] for each in worst], np.int64)))
    classes = dataset.index.classes
    error = "probability of the others" if classes else "error"
    cells = [
        [f"{each['error']:.4g}", *(classes[each[key]] if classes else f"{each[key]:.7g}" for key in ("prediction", "truth"))]
        for each in worst
    ]
    return {
        "names": [error, "prediction", signature.target.name, *(column.name for column in signature.columns)],
        "rows": [[*before, *row.values()] for before, row in zip(cells, rows, strict=True)],
    }


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def figures(evaluation: Evaluation) -> list[Figure]:
    """The figures of classes: ROC, precision and recall, calibration; or of numbers: predicted against true, residuals."""
    if evaluation.get("curves"):
        return [_roc(evaluation["curves"]), _recall(evaluation["curves"]), _calibration(evaluation)]
    if "predicted" in evaluation:
        return [_predicted(evaluation["predicted"]), _residuals(evaluation["residuals"])]
    return []


def _unit_figure(title: str, series: list[Series], across: str, up: str) -> Figure:
    """A figure of which both axes are shares."""
    return {
        **figure(title, series, across, up, xAxis={"min": 0, "max": 1, "grid": True}, yAxis={"min": 0, "max": 1}),
        "square": True,
    }


def _lines(curves: Sequence[Evaluation], key: str) -> list[Series]:
    one = len(curves) == 1
    return [line(label(curve["name"]), curve[key], "ink" if one else None) for curve in curves]


def _reference(*ends: Sequence[float], colour: str = "grey") -> Series:
    """A dashed line, which has no name in the legend."""
    return line("", ends, lineStyle={"type": "dashed", "width": 1, "color": colour}, silent=True, tooltip={"show": False})


DIAGONAL = _reference((0, 0), (1, 1))


def _roc(curves: Sequence[Evaluation]) -> Figure:
    return _unit_figure("ROC", [*_lines(curves, "roc"), DIAGONAL], "false positive rate", "true positive rate")


def _recall(curves: Sequence[Evaluation]) -> Figure:
    shares = [_reference((0, curves[0]["share"]), (1, curves[0]["share"]))] if len(curves) == 1 else []
    return _unit_figure("precision and recall", [*_lines(curves, "recall"), *shares], "recall", "precision")


def _calibration(evaluation: Evaluation) -> Figure:
    one = evaluation.get("positive") is not None
    across = f"probability of {label(evaluation['curves'][0]['name'])}" if one else "probability of the predicted class"
    bins = np.array(evaluation["calibration"])
    sizes = 5 + 12 * np.sqrt(bins[:, 2] / bins[:, 2].max())
    points = [
        {"value": [round(at, 5), round(share, 5), int(count)], "symbolSize": round(size, 1)}
        for (at, share, count), size in zip(bins.tolist(), sizes.tolist(), strict=True)
    ]
    dots = _dots("samples", points)
    series = [DIAGONAL, line("", bins[:, :2].tolist(), "ink", silent=True), dots]
    return {**_unit_figure("calibration", series, across, "share that is so"), "points": True, "third": "samples"}


def _dots(name: str, points: list[dict[str, Any]]) -> Series:
    return {"type": "scatter", "name": name, "quiet": True, "data": points, "itemStyle": {"color": "ink", "opacity": 0.6}}


def _predicted(histogram: Evaluation) -> Figure:
    counts, ends = np.array(histogram["counts"], float), histogram["ends"]
    edges = np.linspace(ends[0], ends[1], len(counts) + 1)
    true, guess = (counts > 0).nonzero()
    middle = (edges[1:] + edges[:-1]) / 2
    size = counts[true, guess]
    sizes = 4 + 6 * np.sqrt(size / size.max())
    found = zip(middle[true].tolist(), middle[guess].tolist(), size.tolist(), sizes.tolist(), strict=True)
    points = [{"value": [float(f"{a:.6g}"), float(f"{b:.6g}"), int(n)], "symbolSize": round(s, 1)} for a, b, n, s in found]
    series = [_dots("samples", points), _reference((ends[0], ends[0]), (ends[1], ends[1]), colour="accent")]
    axes = {"xAxis": {"scale": True, "grid": True}, "yAxis": {"scale": True}}
    made = figure("predicted against true", series, "true", "predicted", **axes)
    return {**made, "square": True, "points": True, "third": "samples"}


def _residuals(histogram: Evaluation) -> Figure:
    counts, edges = histogram["counts"], histogram["edges"]
    steps = [[float(f"{at:.6g}"), count] for at, count in zip(edges, [*counts, counts[-1]], strict=True)]
    area = {"color": "ink", "opacity": 0.75}
    bars = line("samples", steps, "ink", step="end", areaStyle=area, quiet=True, lineStyle={"width": 0})
    zero = {"type": "line", "data": [], "markLine": {"data": [{"xAxis": 0, "label": {"show": False}}]}}
    made = figure("residuals", [bars, zero], "predicted minus true", "samples", xAxis={"scale": True})
    return {**made, "square": True}
