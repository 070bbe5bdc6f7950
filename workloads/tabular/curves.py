"""The points of the curves of a report."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from heliostat.workloads.tabular.formulas import calibration

POINTS = 200
"""Of a curve."""
CLASSES = 8
"""Curves of one class against the rest: those of the classes with the most samples."""
CELLS = 40
"""Of a side of a histogram."""


def of_classes(probabilities: Tensor, labels: Tensor, classes: list[str], positive: int | None) -> dict[str, Any]:
    """The ROC and precision-recall curves, of the class ``positive`` or of each against the rest, and the calibration curve."""
    frequent = torch.bincount(labels, minlength=len(classes)).argsort(descending=True, stable=True).tolist()
    chosen = frequent[:CLASSES] if positive is None else [positive]
    curves = [
        {"name": classes[cls], **_of_class(probabilities[:, cls].numpy(), (labels == cls).numpy())}
        for cls in chosen
        if 0 < int((labels == cls).sum()) < len(labels)
    ]
    weights = torch.ones(1, len(labels), dtype=torch.float64)
    count, confidence, true = calibration(probabilities, labels, weights, positive)[0]
    used = count > 0
    bins = torch.stack([confidence[used] / count[used], true[used] / count[used], count[used]], 1)
    return {"curves": curves, "calibration": bins.tolist()}


def _of_class(scores: Any, hits: Any) -> dict[str, Any]:
    """The points (false positive rate, true positive rate) and (recall, precision) at the thresholds, the highest first."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found, above = np.cumsum(hits[order])[last], last + 1
    total, others = int(hits.sum()), int((~hits).sum())
    roc = np.stack([np.append(0, (above - found) / others), np.append(0, found / total)], 1)
    recall = np.stack([found / total, found / above], 1)
    return {"roc": _thinned(roc), "recall": _thinned(recall), "share": total / len(hits)}


def _thinned(points: Any) -> list[list[float]]:
    at = np.unique(np.linspace(0, len(points) - 1, POINTS).round().astype(int))
    kept: list[list[float]] = points[at].round(6).tolist()
    return kept


def of_numbers(prediction: Tensor, target: Tensor) -> dict[str, Any]:
    """Histograms of the predictions over the targets, and of the residuals; no value of a sample is in them."""
    guess, truth = prediction.double().numpy(), target.double().numpy()
    ends = [float(min(guess.min(), truth.min())), float(max(guess.max(), truth.max()))]
    if ends[0] == ends[1]:
        ends = [ends[0] - 1, ends[1] + 1]
    counts, _, _ = np.histogram2d(truth, guess, CELLS, [ends, ends])
    residuals, edges = np.histogram(guess - truth, CELLS)
    return {
        "predicted": {"ends": ends, "counts": counts.astype(int).tolist()},
        "residuals": {"edges": edges.tolist(), "counts": residuals.tolist()},
    }
