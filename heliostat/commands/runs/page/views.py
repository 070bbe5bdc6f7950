"""What the page shows of a run, of a sweep and of several runs side by side, as JSON documents."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from heliostat.commands import SCRIPT
from heliostat.commands.runs.compare import described, differing, side_by_side
from heliostat.commands.runs.page.records import Records, end_of
from heliostat.console import at_least, cell, duration, money, numbers, printable
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.wording import agreeing, counted
from heliostat.workloads.run.charts import Figure, Points, curves, line, thinned

MOST_COMPARED = 12
"""Runs side by side."""
LINES = 500
"""Lines of a log."""
OTHERS = 3
"""Metrics in a row of the list beside the first."""
ROWS = 200
"""Trials in the table of a sweep, the best first."""
NAME = re.compile(r"(?!\.)[^/\\\0]+(/trials/(?!\.)[^/\\\0]+)?")
"""A run, a sweep or a script of the storage, or a trial of a sweep."""
IDENTITY = ("config.yaml", "sweep.yaml", SCRIPT)
OUTPUT = re.compile(r"output-(\d+)(\.\d{6})?\.jsonl")
Document = dict[str, Any]


def found(storage: Folder, name: str) -> Folder:
    """The folder of a run, a sweep or a script.

    Raises:
        UserError: there is none of that name.
    """
    if NAME.fullmatch(name):
        folder = storage / name
        if any(map(folder.exists, IDENTITY)):
            return folder
    raise UserError(f"there is no run {printable(name)!r} in this storage", "it may have been deleted; choose another one")


def view(folder: Folder, records: Records) -> Document:
    """What the page shows of a run, a sweep or a script."""
    kinds = ((IDENTITY[0], _run_view), (IDENTITY[1], _sweep_view), (SCRIPT, _script_view))
    make = next((make for file, make in kinds if folder.exists(file)), None)
    if make is None:
        raise FileNotFoundError(str(folder))
    return {**make(folder, records), "report": folder.exists("report.html"), "logs": bool(_logs(folder))}


def _run_view(folder: Folder, records: Records) -> Document:
    from heliostat.config import dump
    from heliostat.workloads.run.record import METRICS, read_record
    from heliostat.workloads.run.report import curves_of
    from heliostat.workloads.run.so_far import result_of

    record, result = read_record(folder), result_of(folder, read=records.read)
    facts = [("task", record.config.task), ("dataset", record.dataset.uri), ("git revision", record.git or "none")]
    return {
        "kind": "run",
        **_of_result(folder, result, records, record.created, record.config.steps),
        "figures": [*curves_of(records.read(folder, METRICS), result.best_step), *_band(folder, records)],
        "facts": [*facts, ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items()))],
        "config": dump(record.config),
    }


def _script_view(folder: Folder, records: Records) -> Document:
    from heliostat.workloads.torchrun.record import read_script, script_result

    script, result = read_script(folder), script_result(folder)
    figures = [_overlay(name, [("", *points)]) for name, points in _lines(folder, records).items()]
    return {
        "kind": "script",
        **_of_result(folder, result, records, script.created),
        "figures": [*figures, *_band(folder, records)],
        "facts": [("script", script.script), ("workers", script.workers or "?")],
        "config": script.command,
    }


def _of_result(folder: Folder, result: Any, records: Records, recorded: float, steps: int | None = None) -> Document:
    """The tiles and the attempts, which runs and scripts have in common."""
    from heliostat.workloads.run.goodput import share_of
    from heliostat.workloads.run.record import EVENTS
    from heliostat.workloads.run.report import attempts_of, creation

    tiles = [("step", f"{result.step} of {steps}" if steps and result.step < steps else str(result.step))]
    for split in ("test", "validation", "train"):
        if measured := result.metrics.get(split):
            tiles += [(f"{split} {name}", "NaN" if value is None else f"{value:.4f}") for name, value in measured.items()]
            break
    tiles += [("time", duration(result.seconds["total"]))] if result.seconds.get("total") else []
    tiles += [("goodput", f"{share_of(result.goodput):.0%}")] if result.goodput else []
    tiles += [] if result.cost is None else [("cost", money(result.cost))]
    attempts = attempts_of(records.read(folder, EVENTS), result.state == "running")
    created = creation(recorded, attempts)  # 0 of old scripts, which did not record it
    return {"state": result.state, "tiles": tiles, "attempts": attempts, "message": result.message, "created": created or None}


def _band(folder: Folder, records: Records) -> list[Figure]:
    from heliostat.workloads.run.attempts import ATTEMPTS
    from heliostat.workloads.run.charts import band
    from heliostat.workloads.run.goodput import account
    from heliostat.workloads.run.record import EVENTS, METRICS

    found = account(*(records.read(folder, name) for name in (ATTEMPTS, EVENTS, METRICS)))
    return [band(found)] if found.spans else []


def _sweep_view(folder: Folder, records: Records) -> Document:
    from heliostat.commands.sweep.trials import headline
    from heliostat.config import dump
    from heliostat.tuning.journal import read_journal
    from heliostat.tuning.record import TRIALS, read_sweep
    from heliostat.tuning.results.report import figures_of
    from heliostat.tuning.results.table import SweepResult
    from heliostat.tuning.trials import Trials
    from heliostat.workloads.run.lease import Observer

    record, trials, driven = read_sweep(folder), Trials(read_journal(folder)), Observer(folder).is_driven()
    assert record is not None, "the caller has found its file"
    if not driven:
        trials.interrupted()
    now = trials.sessions[-1][1] if trials.sessions else 0.0
    done, wanted = sum(trial.done for trial in trials.all), record.config.trials
    tiles = [("trials", f"{done} of {wanted}" if wanted else str(done)), ("time", duration(trials.seconds(now)))]
    cost, kept = at_least(trials.cost(now), trials.known_cost(now)), set((folder / TRIALS).names())
    return {
        "kind": "sweep",
        "state": "running" if driven else "finished" if SweepResult.read(folder) else "interrupted",
        "headline": headline(trials, record.objectives, wanted, driven=driven),
        "tiles": tiles + ([("cost", cost)] if cost else []),
        "figures": figures_of(trials, record.config.space, record.objectives),
        "facts": [("algorithm", record.config.algorithm), ("scheduler", record.config.scheduler.kind)],
        "created": record.created,
        "config": dump(record.config),
        "trials": _trials(trials, record.objectives, kept),
    }


def _trials(trials: Any, objectives: Mapping[str, str], kept: set[str]) -> Document:
    """The table of the trials, the best first; one whose folder was kept is a run of its own."""
    metric, mode = next(iter(objectives.items()))
    sign = 1 if mode == "max" else -1
    ranked = sorted(trials.all, key=lambda t: (-sign * t.values[metric] if metric in t.values else float("inf"), t.number))
    params = list(dict.fromkeys(key for trial in trials.all for key in trial.params))
    rows = [
        {
            "run": trial.name if trial.name in kept else None,
            "cells": [
                str(trial.number), f"as {trial.duplicate_of}" if trial.duplicate_of is not None else trial.state,
                *(cell(trial.values.get(name)) for name in objectives), str(trial.step), duration(trial.seconds),
                cell(trial.cost()), *(cell(trial.params.get(key)) for key in params),
            ],
        }
        for trial in ranked[:ROWS]
    ]  # fmt: skip
    return {"names": ["trial", "state", *objectives, "step", "time", "cost", *params], "rows": rows, "all": len(trials.all)}


def compared(folders: Sequence[Folder], names: Sequence[str], records: Records) -> Document:
    """The settings and results of runs side by side, and their curves in the same figures.

    Raises:
        UserError: there are too few or too many, or one is a sweep.
    """
    if not 2 <= len(folders) <= MOST_COMPARED:
        raise UserError(
            f"{counted(len(folders), 'run')} {agreeing(len(folders), 'are chosen')}", f"choose 2 to {MOST_COMPARED}"
        )
    for folder in folders:
        if folder.exists(IDENTITY[1]):
            raise UserError(f"{folder.name} is a sweep, which has no settings of its own", "choose trials of it, or runs")
    outcomes = [described(folder, records.read) for folder in folders]
    settings = [settings for settings, _ in outcomes]
    differ = differing(settings)
    lines = [_lines(folder, records) for folder in folders]
    metrics = dict.fromkeys(name for found in lines for name in found)
    return {
        "names": list(names),
        "settings": [[key, key in differ, [cell(value) for value in values]] for key, values in side_by_side(settings).items()],
        "results": [[key, [cell(value) for value in values]] for key, values in side_by_side([r for _, r in outcomes]).items()],
        "figures": [
            _overlay(metric, [(name, *found[metric]) for name, found in zip(names, lines, strict=True) if metric in found])
            for metric in metrics
        ],
    }


def _lines(folder: Folder, records: Records) -> dict[str, tuple[Points, Points]]:
    """By metric the points of training and of the evaluations of a run or a script."""
    from heliostat.workloads.run.record import METRICS
    from heliostat.workloads.run.report import panels

    metrics = records.read(folder, METRICS)
    if folder.exists(SCRIPT):
        from heliostat.workloads.torchrun.report import points_of

        return {name: (by.get("train", ()), by.get("validation", ())) for name, by in points_of(metrics).items()}
    return {name: (train, validation) for name, train, validation, _ in panels(metrics)}


def _overlay(metric: str, runs: Sequence[tuple[str, Points, Points]]) -> Figure:
    """One metric of several runs; the lines of training are thin, those of evaluations dashed where there are both."""
    series = []
    for at, (name, train, validation) in enumerate(runs):
        colour = f"sequence{at}"
        if train:
            series.append(line(f"{name} train".strip(), thinned(train), colour, lineStyle={"width": 1, "color": colour}))
        if validation:
            style = {"width": 1.8, "color": colour, **({"type": "dashed"} if train else {})}
            series.append(line(f"{name} validation".strip(), thinned(validation), colour, lineStyle=style))
    return curves(metric, series, log=metric == "loss")


def log(folder: Folder) -> Document:
    """The last lines that the workers of a run printed, in the order of time, and of the output of its jobs."""
    import json

    names = _logs(folder)
    printed = []
    for name in [name for name in names if OUTPUT.fullmatch(name)]:
        for text in end_of(folder, name):
            try:
                record = json.loads(text)
                printed.append((record["time"], record["rank"], str(record["printed"])))
            except (ValueError, KeyError, TypeError):  # an incomplete last line, or a damaged one
                continue
    several = len({rank for _, rank, _ in printed}) > 1
    lines = [f"[rank {rank}] {text}" if several else text for _, rank, text in sorted(printed)]
    jobs = [name for name in names if not OUTPUT.fullmatch(name)]
    for name in jobs:
        lines += [f"--- {name}", *(text.decode(errors="replace") for text in end_of(folder, name))]
    return {"lines": [printable(text, keep="\t") for text in lines[-LINES:]], "cut": len(lines) > LINES}


def _logs(folder: Folder) -> list[str]:
    """The files with output: the last one of each rank, and those of jobs, which `heliostat runs pull` brings."""
    last: dict[str, str] = {}
    for name in folder.names():
        if match := OUTPUT.fullmatch(name):
            last[match[1]] = max(last.get(match[1], ""), name, key=lambda file: (len(file), file))
    return [*last.values(), *(f"logs/{name}" for name in (folder / "logs").names() if name.endswith(".log"))]


def summary(rows: Sequence[Mapping[str, Any]]) -> Document:
    """What the list has over its rows."""
    costs = [row["cost"] for row in rows if row["cost"] is not None]
    known = sum(costs)
    cost = at_least(known if costs and len(costs) == len(rows) else None, known)
    return {"total": len(rows), "cost": cost or None}


def listed(row: Mapping[str, Any]) -> Document:
    """A row of the list as the page shows it."""
    first, *others = row["metrics"].items() or [("", None)]
    more = f"  and {len(others) - OTHERS} more" if len(others) > OTHERS else ""
    return {
        "name": row["name"], "kind": row["kind"], "state": row["state"], "task": row["task"].rpartition(":")[2],
        "progress": row["progress"], "result": f"{row['split']} {numbers(dict([first]))}" if first[0] else "",
        "others": numbers(dict(others[:OTHERS])) + more, "time": duration(row["time"]) if row["time"] else "",
        "cost": "" if row["cost"] is None else money(row["cost"]),
        "goodput": f"{row['goodput']:.0%}" if row["goodput"] else "", "created": row["created"], "error": row.get("error", ""),
    }  # fmt: skip
