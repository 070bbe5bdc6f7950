"""heliostat runs: lists the runs and sweeps in a storage folder, here or on a cluster's storage."""

import argparse
import fnmatch
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from heliostat.commands import KINDS, storage_at
from heliostat.wording import counted

if TYPE_CHECKING:
    from heliostat.folder import Folder

Row = dict[str, Any]
STATES = ("finished", "running", "stopped", "interrupted", "failed", "diverged", "lost", "unreadable")
KEYS = ("name", "state", "created", "time", "cost", "goodput", "step")
"""What the list can be sorted by besides metrics."""
PATIENCE = 60.0
"""Seconds for which the list waits for a storage."""
SUMMARIES = ("*.yaml", "*.json", "metrics*.jsonl", "events*.jsonl", "attempts*.jsonl", "journal", "driver/*.json")
"""The files of a run or a sweep that its line in the list needs."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "heliostat runs [list] [--on PROFILE] [options]\n"
        "       heliostat runs show NAME [--on PROFILE] [--json]\n"
        "       heliostat runs compare NAME NAME ... [--storage DIR] [--json]\n"
        "       heliostat runs open [STORAGE | RUN] [--on PROFILE]\n"
        "       heliostat runs pull RUN --on PROFILE\n"
        "       heliostat runs track RUN [--to TRACKER]"
    )
    parser.add_argument("--on", metavar="PROFILE", help="list those on the storage of a profile's cluster, such as gpu")
    parser.add_argument("--storage", metavar="DIR", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--name", metavar="PATTERN", help='only those with such a name, such as "digits*"')
    parser.add_argument("--kind", choices=tuple(KINDS.values()), help="only those of a kind (script: of heliostat torchrun)")
    parser.add_argument("--state", metavar="STATE", help=f"only those in a state, or several with commas: {', '.join(STATES)}")
    parser.add_argument(
        "--sort", metavar="KEY", default="created",
        help=f"a metric, or {', '.join(KEYS)} (default: created); the smallest first, and last what has none",
    )  # fmt: skip
    parser.add_argument("--reverse", action="store_true", help="the largest first")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = "example: heliostat runs --state finished --sort accuracy --reverse"


def run(args: argparse.Namespace) -> int:
    from heliostat.console import err, print_json

    rows = listed(args)
    if args.json:
        print_json(rows)
    elif rows:
        _print(rows)
    else:
        place = f"{args.storage}{f' on the storage of {args.on}' if args.on else ''}"
        err.print(
            f"no such runs in {place}" if args.name or args.kind or args.state else f"no runs in {place}", highlight=False
        )
    return 0


def listed(args: argparse.Namespace) -> list[Row]:
    """The runs and sweeps that the options choose, in their order."""
    from heliostat.folder import Folder

    storage = storage_at(args.storage)
    rows = _rows_on(args) if args.on else _rows(Folder.at(storage, PATIENCE))
    return ordered(chosen(rows, args.name, args.state, args.kind), args.sort, args.reverse)


def _rows_on(args: argparse.Namespace) -> list[Row]:
    """The runs on a cluster's storage, with their places there."""
    from heliostat.folder import join

    with summaries(args) as (copies, place):
        return [{**row, "run": join(place, row["name"])} for row in _rows(copies)]


@contextmanager
def summaries(args: argparse.Namespace) -> Iterator[tuple["Folder", str]]:
    """Copies of the summaries of the runs on a cluster's storage while the block runs, and the place of the originals."""
    import tempfile
    from pathlib import Path

    from heliostat.cluster.profile import find
    from heliostat.cluster.targets.storage import opened, root_of
    from heliostat.commands.runs.pull import on_storage
    from heliostat.commands.terminal.live import line
    from heliostat.folder import Folder, join

    profile = find(args.on)
    place = on_storage(profile, args.storage)
    with tempfile.TemporaryDirectory(prefix="heliostat-") as copy:
        with line() as shown, opened(profile, shown.say) as storage:
            storage.fetch([f"{place}/*/{name}" for name in SUMMARIES], Path(copy))
        yield Folder.at(f"{copy}/{place}"), join(root_of(profile), place)


def chosen(rows: list[Row], name: str | None, state: str | None, kind: str | None = None) -> list[Row]:
    """The rows that the filters leave.

    Raises:
        UserError: there is no such state or kind.
    """
    from heliostat.config import nearest
    from heliostat.errors import UserError

    states = state.split(",") if state else []
    if wrong := [word for word in states if word not in STATES]:
        raise UserError(f"--state is {state}, but {wrong[0]!r} is not a state", nearest(wrong[0], STATES))
    if kind is not None and kind not in KINDS.values():
        raise UserError(
            f"the kind is {kind!r}, but there are {', '.join(KINDS.values())}", nearest(kind, tuple(KINDS.values()))
        )
    return [
        row for row in rows
        if fnmatch.fnmatch(row["name"], name or "*") and (not states or row["state"] in states) and kind in (None, row["kind"])
    ]  # fmt: skip


def ordered(rows: list[Row], key: str, reverse: bool) -> list[Row]:
    """The rows in the order of a key, and last those that have none.

    Raises:
        UserError: no row has the key.
    """
    from heliostat.config import nearest
    from heliostat.errors import UserError

    metrics = {name for row in rows for name in row["metrics"]}
    if rows and key not in (*KEYS, *metrics):
        raise UserError(f"--sort is {key}, but no run here has that metric", nearest(key, [*KEYS, *sorted(metrics)]))
    values = [(_value(row, key), row) for row in rows]
    ranked = sorted([pair for pair in values if pair[0] is not None], key=lambda pair: pair[0], reverse=reverse)
    return [row for _, row in ranked] + [row for value, row in values if value is None]


def _value(row: Row, key: str) -> Any:
    value = row[key] if key in KEYS else row["metrics"].get(key)
    return None if value == "?" else value


def _print(rows: list[Row]) -> None:
    """The list, the most important columns first; a column without any value is left out."""
    from heliostat.console import print_table

    zone = time.strftime("%Z")
    cells = [cells_of(row, zone) for row in rows]
    names = [name for name in cells[0] if any(row[name] for row in cells)]
    print_table(names, [[row[name] for name in names] for row in cells], fit=True)


def cells_of(row: Row, zone: str) -> dict[str, str]:
    """The texts of a row by column, empty where nothing is known."""
    from heliostat.console import duration, money, numbers

    first, *others = row["metrics"].items() or [("", None)]
    return {
        "name": row["name"],
        "state": row["state"],
        "progress": row["progress"],
        "result": f"{row['split']} {numbers(dict([first]))}" if first[0] else "",
        "time": duration(row["time"]) if row["time"] else "",
        "cost": "" if row["cost"] is None else money(row["cost"]),
        f"created ({zone})": row["created"],
        "goodput": f"{row['goodput']:.0%}" if row["goodput"] else "",
        "task": row["task"],
        "other metrics": numbers(dict(others)),
    }


def _rows(storage: Any) -> list[Row]:
    return [row for name in storage.names() if (row := row_of(storage / name))]


def row_of(folder: Any) -> Row | None:
    """The row of a run, a sweep or a script; None if the folder is none of them."""
    from heliostat.errors import UserError

    kind = next((kind for file, kind in KINDS.items() if folder.exists(file)), None)
    if kind is None:
        return None
    make = {"run": _run_row, "sweep": _sweep_row, "script": _script_row}[kind]
    empty = {
        "name": folder.name, "kind": kind, "run": str(folder), "task": "?",
        "state": "unreadable", "step": 0, "progress": "", "time": 0.0, "goodput": 0.0, "cost": None,
        "split": "", "metrics": {}, "test": {}, "created": "?",
    }  # fmt: skip
    try:
        return {**empty, **make(folder)}
    except UserError as error:
        return {**empty, "error": error.what}


def _run_row(folder: Any) -> Row:
    from heliostat.console import minute
    from heliostat.workloads.run.record import read_head
    from heliostat.workloads.run.so_far import result_of

    (task, steps, created), result = read_head(folder), result_of(folder)
    split = "test" if "test" in result.metrics else "validation"
    return {
        "task": task,
        "state": result.state,
        "step": result.step,
        "progress": f"{result.step}/{steps}" if steps and result.step < steps else str(result.step),
        **_measured(result, split),
        "created": minute(created),
    }


def _measured(result: Any, split: str) -> Row:
    """What a run and a script have in common; the metrics are those of ``split``."""
    from heliostat.workloads.run.goodput import share_of

    return {
        "time": result.seconds.get("total", 0.0),
        "goodput": round(share_of(result.goodput), 3),
        "cost": result.cost,
        "split": split,
        "metrics": result.metrics.get(split, {}),
        "test": result.metrics.get("test", {}),
    }


def _script_row(folder: Any) -> Row:
    from heliostat.console import minute
    from heliostat.workloads.torchrun.record import read_script, script_result, shown_split, title

    record, result = read_script(folder), script_result(folder)
    split = shown_split(result)
    return {
        "task": title(record),
        "state": result.state,
        "step": result.step,
        "progress": str(result.step),
        **_measured(result, split),
        "created": minute(record.created) if record.created else "?",
    }


def _sweep_row(folder: Any) -> Row:
    from heliostat.console import minute
    from heliostat.tuning.journal import read_journal
    from heliostat.tuning.record import read_sweep
    from heliostat.tuning.results.table import SweepResult
    from heliostat.tuning.trials import Trials, best
    from heliostat.workloads.run.lease import Observer

    record, result, trials = read_sweep(folder), SweepResult.read(folder), Trials(read_journal(folder))
    assert record is not None, "the caller has found its file"
    done, wanted = sum(trial.done for trial in trials.all), record.config.trials
    top = best(trials.all, *next(iter(record.objectives.items())))
    over = result is not None and done == len(trials.all)
    now = trials.sessions[-1][1] if trials.sessions else 0.0
    return {
        "task": str(record.config.train.get("task", "sweep")),
        "state": "running" if Observer(folder).is_driven() else "finished" if over else "interrupted",
        "step": done,
        "progress": f"{done}/{counted(wanted, 'trial')}" if wanted else counted(done, "trial"),
        "time": trials.seconds(now),
        "cost": trials.cost(now),
        "split": "best",
        "metrics": top.values if top else {},
        "created": minute(record.created),
    }
