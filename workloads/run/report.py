"""``report.html``: a self-contained page about a run, from the files of its folder and its dataset."""

import base64
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.config import dump
from heliostat.console import duration, money
from heliostat.datasets import Dataset
from heliostat.folder import Folder
from heliostat.workloads.run.charts import Figure, Points, band, curve
from heliostat.workloads.run.chunks import Record
from heliostat.workloads.run.goodput import KINDS, Goodput, goodput
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.page import render
from heliostat.workloads.run.predictions import beside, figures, remarks, shown, table_of_classes, tables_by_value, worst_rows
from heliostat.workloads.run.record import EVALUATION, EVENTS, METRICS, REPORT, Result, RunRecord, open_dataset
from heliostat.workloads.tabular.bootstrap import MOST

TEMPLATE = Path(__file__).with_name("report.html.j2")
ENDS = {
    "evaluated": "finished", "stopped": "stopped", "diverged": "diverged", "drain": "left draining nodes",
    "grow": "restarted with more workers",
}  # fmt: skip
COLUMNS = 20
"""The most columns whose importance is shown."""
MEANINGS = {
    "productive": "steps that count",
    "evaluating": "measuring on the validation split",
    "checkpointing": "waits for checkpoints",
    "data": "waits for data",
    "starting": "from the command, or a failure, to the first step",
    "recomputed": "steps that were lost and recomputed",
    "nodes": "waits for nodes",
}


def write_report(folder: Folder, record: RunRecord, result: Result) -> None:
    """Writes the report of a run, finished or not (see `heliostat.workloads.run.so_far`)."""
    metrics, events = read_journal(folder, METRICS), read_journal(folder, EVENTS)
    evaluation = json.loads(folder.read(EVALUATION)) if folder.exists(EVALUATION) else {}
    dataset, attempts = open_dataset(folder, record), attempts_of(events, result.state == "running")
    html = render(
        TEMPLATE,
        result=result,
        record=record,
        data_name=record.config.dataset.source or record.dataset.uri,
        written=time.time(),
        remarks=remarks(evaluation, dataset.index.classes),
        tiles=_tiles(result, metrics, dataset, evaluation),
        curves=curves_of(metrics, result.best_step),
        classes=dataset.index.classes,
        predictions=figures(evaluation),
        class_rows=table_of_classes(evaluation, dataset.index.classes),
        by=tables_by_value(evaluation),
        worst=worst_rows(evaluation, dataset) if record.config.report.rows else None,
        most=MOST,
        confusion=_confusion(evaluation.get("confusion"), dataset.index.classes),
        mistakes=_mistakes(evaluation.get("mistakes"), dataset),
        sample=evaluation.get("sample"),
        importance=_importance(evaluation.get("importance")),
        attempts=attempts,
        goodput=goodput_of(goodput(folder)),
        facts=_facts(record, dataset, attempts),
        config=dump(record.config),
    )
    folder.write(REPORT, html.encode())


def _tiles(result: Result, metrics: list[Record], dataset: Dataset, evaluation: Record) -> list[dict[str, Any]]:
    """The metrics, first that which decides, then what the run took."""
    split = "test" if "test" in result.metrics else "validation"
    tiles: list[dict[str, Any]] = [
        {"name": f"{split} {name}", "value": shown(name, value), "below": beside(evaluation, name) if split == "test" else []}
        for name, value in result.metrics.get(split, {}).items()
    ]
    if "unigram_entropy" in dataset.index.meta:
        tiles.append({"name": "unigram entropy", "value": f"{dataset.index.meta['unigram_entropy']:.4f}"})
    speeds = [r["samples_per_second"] for r in metrics if r["kind"] == "train"]
    if speeds:
        tiles.append({"name": "samples a second", "value": f"{np.median(speeds):,.0f}"})
    tiles += [] if result.best_step is None else [{"name": "best step", "value": str(result.best_step)}]
    tiles += [] if result.cost is None else [{"name": "cost", "value": money(result.cost)}]
    return tiles


def panels(metrics: list[Record]) -> list[tuple[str, Points, Points, bool]]:
    """The curves of the loss, of the other metrics and of what callbacks have logged.

    Of each its name, training, validation, and whether the axis is logarithmic.
    """
    evaluations, callbacks = ([r for r in metrics if r["kind"] == kind] for kind in ("eval", "logged"))

    def validated(name: str) -> Points:
        return [(r["step"], r["metrics"][name]) for r in evaluations if r["metrics"].get(name) is not None]

    def logged(name: str) -> Points:
        return [(r["step"], r["metrics"][name]) for r in callbacks if r["metrics"].get(name) is not None]

    others = dict.fromkeys(name for r in [*evaluations, *callbacks] for name in r["metrics"] if name != "loss")
    return [
        ("loss", _trained(metrics, "loss"), validated("loss"), True),
        *((name, logged(name), validated(name), False) for name in others),
    ]


def _trained(metrics: list[Record], key: str) -> Points:
    return [(r["step"], r[key]) for r in metrics if r["kind"] == "train" and r.get(key) is not None]


def curves_of(metrics: list[Record], best_step: int | None) -> list[Figure]:
    """A figure each of the loss, the other metrics, what callbacks have logged, the throughput and the learning rate."""
    curves = [curve(name, train, validation, best_step, log) for name, train, validation, log in panels(metrics)]
    curves.append(curve("samples a second", _trained(metrics, "samples_per_second"), zero=True))
    curves.append(curve("learning rate", _trained(metrics, "lr"), zero=True))
    return curves


def _confusion(matrix: list[list[int]] | None, classes: Sequence[str]) -> list[Record] | None:
    if not matrix:
        return None
    rows = []
    for truth, (name, counts) in enumerate(zip(classes, matrix, strict=True)):
        total = sum(counts)
        cells = [
            {"count": count, "kind": "right" if guess == truth else "wrong", "share": f"{_strength(count, total):.2f}"}
            for guess, count in enumerate(counts)
        ]
        rows.append({"name": name, "cells": cells, "right": f"{counts[truth] / total:.1%}" if total else "-"})
    return rows


def _strength(count: int, total: int) -> float:
    return 0.15 + 0.45 * count / total if count else 0.0


def _mistakes(mistakes: list[Record] | None, dataset: Dataset) -> list[Record] | None:
    if mistakes is None:
        return None
    classes = dataset.index.classes
    ids = np.array([m["id"] for m in mistakes], np.int64)
    images = dataset.take("test", ids).get("image") if len(ids) else None
    shown_as = pictures(images, dataset.index.meta.get("white")) if images is not None else None
    return [
        {
            "id": m["id"],
            "label": classes[m["label"]],
            "guess": classes[m["guess"]],
            "confidence": f"{m['confidence']:.0%}",
            "image": shown_as[n] if shown_as else None,
        }
        for n, m in enumerate(mistakes)
    ]


def pictures(images: npt.NDArray[Any], white: float | None) -> list[str]:
    """Images (samples, channels, height, width) as data URIs; of channels that are no colours the mean is shown.

    Args:
        images: bytes, or numbers of any size, such as spectrograms.
        white: the value that is shown white; None: 255 of bytes, of others the largest, and black is the least.
    """
    from PIL import Image

    if white is None and images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
    else:
        low, high = 0.0, white or 255.0
    if images.shape[1] not in ((1, 3, 4) if images.dtype == np.uint8 else (1, 3)):  # 4 of bytes: RGBA
        images = images.mean(1, keepdims=True)
    scaled = (np.clip((images.astype(np.float32) - low) / ((high - low) or 1.0), 0, 1) * 255).astype(np.uint8)
    found = []
    for pixels in scaled:
        buffer = io.BytesIO()
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
        found.append(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return found


def _importance(shares: dict[str, float] | None) -> list[tuple[str, str]]:
    """The columns that matter most, and their shares."""
    ranked = sorted((shares or {}).items(), key=lambda entry: -entry[1])[:COLUMNS]
    return [(name, f"{share:.1%}") for name, share in ranked]


def attempts_of(events: list[Record], running: bool) -> list[Record]:
    """A row for each attempt, from the events of rank 0; ``running`` is whether the last one runs."""
    groups: list[list[Record]] = []
    for event in events:
        if event["event"] == "start":
            groups.append([])
        if groups:
            groups[-1].append(event)
    befores = [group[-1]["time"] for group in groups]
    rows = [_attempt(group, before) for group, before in zip(groups, [0.0, *befores], strict=False)]
    if rows and running:
        rows[-1]["ended"] = "runs"
    return rows


def creation(recorded: float, attempts: Sequence[Record]) -> float:
    """When a run was created, in seconds since the epoch: its record is written after the start of its first command."""
    return min([recorded, *(float(attempt["started"]) for attempt in attempts)])


def _attempt(group: list[Record], before: float) -> Record:
    start, at = group[0], {event["event"]: event for event in group}
    first, last = at.get("first_step", start), group[-1]
    trained = at.get("trained", last)
    hosts = [f"{worker['host']} ({worker['device']})" for worker in start["workers"]]
    began = max(start["launched"] or start["time"], before)  # 0 for a script without `heliostat torchrun`
    return {
        "started": began,
        "from_step": start["step"],
        "to_step": last["step"],
        "workers": len(hosts),
        "where": ", ".join(f"{hosts.count(host)} on {host}" for host in dict.fromkeys(hosts)),
        "starting": duration(first["time"] - began),
        "training": duration(trained["time"] - first["time"]),
        "checkpoints": duration(sum(e["seconds"] for e in group if e["event"] == "checkpoint")),
        "evaluating": duration(last["time"] - trained["time"]),
        "ended": ENDS.get(last["event"], "interrupted"),
    }


def goodput_of(account: Goodput) -> Record | None:
    """The figure and the table of the goodput; None before the first attempt."""
    if not account.spans:
        return None
    totals = account.worker_seconds
    paid = sum(seconds for kind, seconds in totals.items() if kind != "idle")
    rows = [
        {"name": kind, "meaning": MEANINGS[kind], "time": duration(totals[kind]), "share": f"{totals[kind] / paid:.1%}"}
        for kind in KINDS
        if kind != "idle" and totals[kind] > 0
    ]
    begin = account.spans[0].begin
    marks = [
        f"{number}: {ENDS.get(text, text)}, after {duration(at - begin)}" for number, (at, text) in enumerate(account.marks, 1)
    ]
    return {"picture": band(account), "rows": rows, "marks": marks, "share": f"{account.share:.1%}"}


def _facts(record: RunRecord, dataset: Dataset, attempts: Sequence[Record]) -> list[tuple[str, str | float]]:
    index = dataset.index
    rows = ", ".join(f"{index.rows(split):,} {split}" for split in index.splits)
    return [
        ("config hash", record.hash),
        ("git revision", record.git or "not in a repository"),
        ("dataset", f"{record.dataset.uri}, fingerprint {record.dataset.fingerprint}, {rows}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("created", creation(record.created, attempts)),
    ]
