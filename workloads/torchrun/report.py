"""``report.html`` of a script: curves of what it has logged, its attempts and goodput, on the page of a training run."""

import time
from typing import Any

from heliostat.console import money
from heliostat.folder import Folder
from heliostat.wording import counted
from heliostat.workloads.run.charts import Points, curve
from heliostat.workloads.run.chunks import Record
from heliostat.workloads.run.goodput import goodput
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.page import render
from heliostat.workloads.run.record import EVENTS, METRICS, REPORT, Result
from heliostat.workloads.run.report import TEMPLATE, attempts_of, creation, goodput_of
from heliostat.workloads.torchrun.record import read_script, script_result, title, values_of

OF_TASKS = ("predictions", "by", "class_rows", "confusion", "worst", "mistakes", "importance", "sample", "classes", "most")
"""Parts of the page that only the evaluation of a task has."""


def write_report(folder: Folder) -> None:
    """Writes the report of a script, whether it runs or has ended."""
    record, result, metrics = read_script(folder), script_result(folder), read_journal(folder, METRICS)
    attempts = attempts_of(read_journal(folder, EVENTS), result.state == "running")
    workers = counted(record.workers, "worker") if record.workers else "workers"
    html = render(
        TEMPLATE,
        result=result,
        record={"config": {"task": title(record)}},
        data_name=workers,
        written=time.time(),
        remarks=[],
        tiles=_tiles(result),
        curves=[
            curve(name, points.get("train", []), points.get("validation", [])) for name, points in points_of(metrics).items()
        ],
        attempts=attempts,
        goodput=goodput_of(goodput(folder)),
        **dict.fromkeys(OF_TASKS),
        facts=[("created", creation(record.created, attempts))],
        config=record.command,
    )
    folder.write(REPORT, html.encode())


def _tiles(result: Result) -> list[dict[str, Any]]:
    """The last value of each metric, and the cost."""
    tiles = [
        {"name": f"{split} {name}", "value": "NaN" if value is None else f"{value:.4g}"}
        for split, values in result.metrics.items()
        for name, value in values.items()
    ]
    return tiles + ([] if result.cost is None else [{"name": "cost", "value": money(result.cost)}])


def points_of(metrics: list[Record]) -> dict[str, dict[str, Points]]:
    """For each metric its points by split."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in metrics:
        for split, name, value in values_of(record):
            if value is not None:
                found.setdefault(name, {}).setdefault(split, []).append((record["step"], value))
    return {name: {**points} for name, points in found.items()}
