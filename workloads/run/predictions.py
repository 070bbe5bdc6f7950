"""The part of a run's report that its predictions on the test split fill: from ``evaluation.json``, which has no sample."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heliostat.workloads.config import BETTER
from heliostat.workloads.run.figures import ACCENT, GREY, INK, label, new_figure, svg

SIDE = 4.2
"""Inches of a figure of which both axes are shares."""
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
    lines = [f"95 %: {interval[0]:.4f} to {interval[1]:.4f}"] if interval else []
    return lines + ([f"baseline {baseline:.4f}"] if baseline is not None else [])


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


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def figures(evaluation: Evaluation) -> list[dict[str, str]]:
    """The figures of classes: ROC, precision and recall, calibration; or of numbers: predicted against true, residuals."""
    if evaluation.get("curves"):
        return [_roc(evaluation["curves"]), _recall(evaluation["curves"]), _calibration(evaluation)]
    if "predicted" in evaluation:
        return [_predicted(evaluation["predicted"]), _residuals(evaluation["residuals"])]
    return []


def _unit_figure(title: str, across: str, up: str, diagonal: bool) -> tuple[Any, Any]:
    figure, axes = new_figure(SIDE, SIDE, title)
    if diagonal:
        axes.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=(0, (3, 3)))
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(across, color=GREY)
    axes.set_ylabel(up, color=GREY)
    return figure, axes


def _lines(axes: Any, curves: Sequence[Evaluation], key: str) -> None:
    for curve in curves:
        colour = {"color": INK} if len(curves) == 1 else {}
        axes.plot(*zip(*curve[key], strict=True), label=label(curve["name"]), linewidth=1.4, **colour)
    axes.legend(frameon=False, fontsize=8)


def _roc(curves: Sequence[Evaluation]) -> dict[str, str]:
    figure, axes = _unit_figure("ROC", "false positive rate", "true positive rate", diagonal=True)
    _lines(axes, curves, "roc")
    return {"title": "ROC", "svg": svg(figure)}


def _recall(curves: Sequence[Evaluation]) -> dict[str, str]:
    figure, axes = _unit_figure("precision and recall", "recall", "precision", diagonal=False)
    _lines(axes, curves, "recall")
    if len(curves) == 1:
        axes.axhline(curves[0]["share"], color=GREY, linewidth=0.8, linestyle=(0, (3, 3)))
    return {"title": "precision and recall", "svg": svg(figure)}


def _calibration(evaluation: Evaluation) -> dict[str, str]:
    one = evaluation.get("positive") is not None
    across = f"probability of {label(evaluation['curves'][0]['name'])}" if one else "probability of the predicted class"
    figure, axes = _unit_figure("calibration", across, "share that is so", diagonal=True)
    bins = np.array(evaluation["calibration"])
    axes.plot(bins[:, 0], bins[:, 1], color=INK, linewidth=1.2)
    axes.scatter(bins[:, 0], bins[:, 1], s=8 + 120 * bins[:, 2] / bins[:, 2].max(), color=INK, alpha=0.6)
    return {"title": "calibration", "svg": svg(figure)}


def _predicted(histogram: Evaluation) -> dict[str, str]:
    figure, axes = new_figure(SIDE, SIDE, "predicted against true")
    counts, ends = np.array(histogram["counts"], float), histogram["ends"]
    edges = np.linspace(*ends, len(counts) + 1)
    true, guess = (counts > 0).nonzero()
    middle = (edges[1:] + edges[:-1]) / 2
    size = counts[true, guess]
    axes.scatter(middle[true], middle[guess], s=10 + 70 * size / size.max(), color=INK, alpha=0.55, linewidth=0)
    axes.plot(ends, ends, color=ACCENT, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.set_xlabel("true", color=GREY)
    axes.set_ylabel("predicted", color=GREY)
    return {"title": "predicted against true", "svg": svg(figure)}


def _residuals(histogram: Evaluation) -> dict[str, str]:
    figure, axes = new_figure(SIDE, SIDE, "residuals")
    axes.stairs(histogram["counts"], histogram["edges"], fill=True, color=INK, alpha=0.75)
    axes.axvline(0, color=ACCENT, linewidth=0.9, linestyle=(0, (3, 3)))
    axes.set_xlabel("predicted minus true", color=GREY)
    axes.set_ylabel("samples", color=GREY)
    return {"title": "residuals", "svg": svg(figure)}
