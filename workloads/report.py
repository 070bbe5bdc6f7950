"""``report.html``: one self-contained page about a run, made from the files of its folder and its dataset."""

import base64
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from datasets import Dataset
from heliostat.config import dump
from heliostat.console import duration
from heliostat.folder import Folder
from workloads.journal import Record, read_journal
from workloads.run import EVALUATION, EVENTS, METRICS, REPORT, Result, RunRecord, open_dataset

INK, ACCENT, GREY = "#2563a8", "#c2570c", "#66707d"


def write_report(folder: Folder, record: RunRecord, result: Result) -> None:
    """Write the report of a run that is over."""
    metrics, events = read_journal(folder, METRICS), read_journal(folder, EVENTS)
    evaluation = json.loads(folder.read(EVALUATION)) if folder.exists(EVALUATION) else {}
    dataset = open_dataset(folder, record)
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    ).get_template("report.html.j2")
    html = page.render(
        result=result,
        record=record,
        data_name=record.config.dataset.source or record.dataset.uri,
        finished=_clock(time.time()),
        tiles=_tiles(result, metrics, dataset),
        curves=_curves(metrics, result.best_step),
        classes=dataset.index.classes,
        confusion=_confusion(evaluation.get("confusion"), dataset.index.classes),
        mistakes=_mistakes(evaluation.get("mistakes"), dataset),
        sample=evaluation.get("sample"),
        attempts=_attempts(events),
        facts=_facts(record, dataset),
        config=dump(record.config),
    )
    folder.write(REPORT, html.encode())


def _tiles(result: Result, metrics: list[Record], dataset: Dataset) -> list[dict[str, str]]:
    tiles = [
        {"name": f"test {name}", "value": _value(name, value)} for name, value in sorted(result.metrics.get("test", {}).items())
    ]
    if "unigram_entropy" in dataset.index.meta:
        tiles.append({"name": "unigram entropy", "value": f"{dataset.index.meta['unigram_entropy']:.4f}"})
    speeds = [r["samples_per_second"] for r in metrics if r["kind"] == "train"]
    if speeds:
        tiles.append({"name": "samples a second", "value": f"{np.median(speeds):,.0f}"})
    tiles.append({"name": "best step", "value": str(result.best_step)})
    return tiles


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "NaN"
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4f}"


def _curves(metrics: list[Record], best_step: int | None) -> list[dict[str, str]]:
    """One picture for each: loss, the other metrics, throughput, learning rate."""
    train = [r for r in metrics if r["kind"] == "train"]
    evaluations = [{"step": r["step"], **r["metrics"]} for r in metrics if r["kind"] == "eval"]
    others = sorted({name for r in evaluations for name in r} - {"step", "loss"})
    curves = [_curve("loss", train, "loss", evaluations, best_step, log=True)]
    curves += [_curve(name, [], name, evaluations, best_step) for name in others]
    curves.append(_curve("samples a second", train, "samples_per_second", [], None, zero=True))
    curves.append(_curve("learning rate", train, "lr", [], None, zero=True))
    return curves


def _curve(
    title: str, train: list[Record], key: str, evaluations: list[Record], best_step: int | None, log: bool = False,
    zero: bool = False,
) -> dict[str, str]:  # fmt: skip
    # Not pyplot: it keeps global state and looks for a display.
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": title}):
        figure = Figure(figsize=(5.4, 2.7), layout="constrained")
        axes = figure.subplots()
        for records, label, colour, marker in ((train, "train", INK, ""), (evaluations, "validation", ACCENT, "o")):
            points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, color=colour, marker=marker, markersize=4, linewidth=1.3)
        at_best = [r[key] for r in evaluations if r["step"] == best_step and r.get(key) is not None]
        if at_best:
            axes.annotate(
                "best", (best_step or 0, at_best[-1]), textcoords="offset points", xytext=(0, 8), ha="center", color=ACCENT
            )
            axes.margins(y=0.2)
        if log:
            axes.set_yscale("log")
            shown = [y for line in axes.get_lines() for y in np.asarray(line.get_ydata(), float)]
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            narrow = bool(shown) and max(shown) < 10 * min(shown)
            axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if narrow else NullFormatter())
        if zero:
            axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("step", color=GREY)
        axes.grid(color="#e3e7ec", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        if train and evaluations:
            axes.legend(frameon=False)
        picture = io.StringIO()
        figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})
    svg = picture.getvalue()
    return {"title": title, "svg": svg[svg.index("<svg") :]}


def _confusion(matrix: list[list[int]] | None, classes: Sequence[str]) -> list[Record] | None:
    if not matrix:
        return None
    rows = []
    for truth, (name, counts) in enumerate(zip(classes, matrix, strict=True)):
        total = sum(counts)
        cells = [
            {"count": count, "colour": f"rgba({'37,99,168' if guess == truth else '194,87,12'},{_strength(count, total):.2f})"}
            for guess, count in enumerate(counts)
        ]
        rows.append({"name": name, "cells": cells, "right": f"{counts[truth] / total:.1%}" if total else "-"})
    return rows


def _strength(count: int, total: int) -> float:
    return 0.15 + 0.5 * count / total if count else 0.0


def _mistakes(mistakes: list[Record] | None, dataset: Dataset) -> list[Record] | None:
    if mistakes is None:
        return None
    classes = dataset.index.classes
    ids = np.array([m["id"] for m in mistakes], np.int64)
    images = dataset.take("test", ids).get("image") if len(ids) else None
    return [
        {
            "id": m["id"],
            "label": classes[m["label"]],
            "guess": classes[m["guess"]],
            "confidence": f"{m['confidence']:.0%}",
            "image": _picture(images[n], dataset.index.meta.get("white", 255)) if images is not None else None,
        }
        for n, m in enumerate(mistakes)
    ]


def _picture(pixels: npt.NDArray[Any], white: int) -> str:
    """An image (channels, height, width) with values up to ``white`` as a data URI."""
    from PIL import Image

    scaled = (np.clip(pixels.astype(np.float32) / white, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(scaled[0] if len(scaled) == 1 else scaled.transpose(1, 2, 0))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _attempts(events: list[Record]) -> list[Record]:
    """One row for each time that workers were started, from the events that rank 0 recorded."""
    groups: list[list[Record]] = []
    for event in events:
        if event["event"] == "start":
            groups.append([])
        if groups:
            groups[-1].append(event)
    return [_attempt(group) for group in groups]


def _attempt(group: list[Record]) -> Record:
    start, at = group[0], {event["event"]: event for event in group}
    first, last = at.get("first_step", start), group[-1]
    trained = at.get("trained", last)
    hosts = [f"{worker['host']} ({worker['device']})" for worker in start["workers"]]
    return {
        "started": _clock(start["launched"]),
        "from_step": start["step"],
        "to_step": last["step"],
        "workers": len(hosts),
        "where": ", ".join(f"{hosts.count(host)} on {host}" for host in dict.fromkeys(hosts)),
        "starting": duration(first["time"] - start["launched"]),
        "training": duration(trained["time"] - first["time"]),
        "checkpoints": duration(sum(e["seconds"] for e in group if e["event"] == "checkpoint")),
        "evaluating": duration(last["time"] - trained["time"]),
        "ended": {"evaluated": "finished", "stopped": "stopped", "diverged": "diverged"}.get(last["event"], "interrupted"),
    }


def _facts(record: RunRecord, dataset: Dataset) -> list[tuple[str, str]]:
    index = dataset.index
    rows = ", ".join(f"{index.rows(split):,} {split}" for split in index.splits)
    return [
        ("config hash", record.hash),
        ("git revision", record.git or "not in a repository"),
        ("dataset", f"{record.dataset.uri}, fingerprint {record.dataset.fingerprint}, {rows}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("created", _clock(record.created)),
    ]


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
