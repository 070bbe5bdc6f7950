"""heliostat runs: lists the runs in a storage folder, here or on a cluster's storage."""

import argparse
from typing import Any

SUMMARIES = ("*.yaml", "*.json", "*.jsonl")
"""The files of a run that its line in the list needs."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "heliostat runs [--on PROFILE] [--storage DIR] [--json]\n       heliostat runs pull RUN --on PROFILE"
    parser.add_argument("--on", metavar="PROFILE", help="list those on the storage of a profile's cluster, such as gpu")
    parser.add_argument("--storage", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    from heliostat.console import err, numbers, print_json, print_table
    from heliostat.folder import Folder, absolute, default_base

    rows = _rows_on(args) if args.on else _rows(Folder.at(absolute(args.storage, default_base())))
    if args.json:
        print_json(rows)
    elif not rows:
        err.print(f"no runs in {args.storage}{f' on the storage of {args.on}' if args.on else ''}", highlight=False)
    else:
        columns = ("name", "task", "state", "step", "goodput", "cost", "test", "created")
        print_table(
            columns,
            [
                (*(r[c] for c in columns[:4]), _share(r["goodput"]), _money(r["cost"]), numbers(r["test"]), r["created"])
                for r in rows
            ],
        )
    return 0


def _rows_on(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The runs on a cluster's storage, with their places there."""
    import tempfile
    from pathlib import Path

    from heliostat.cluster.profile import find
    from heliostat.cluster.targets.storage import opened, root_of
    from heliostat.commands.live import line
    from heliostat.commands.runs_pull import on_storage
    from heliostat.folder import Folder, join

    profile = find(args.on)
    place = on_storage(profile, args.storage)
    with tempfile.TemporaryDirectory(prefix="heliostat-") as copy:
        with line() as shown, opened(profile, shown.say) as storage:
            storage.fetch([f"{place}/*/{name}" for name in SUMMARIES], Path(copy))
        rows = _rows(Folder.at(f"{copy}/{place}"))
    return [{**row, "run": join(join(root_of(profile), place), row["name"])} for row in rows]


def _rows(storage: Any) -> list[dict[str, Any]]:
    from heliostat.workloads.run.record import runs

    return sorted((_row(folder) for folder in runs(storage)), key=lambda row: str(row["created"]))


def _row(folder: Any) -> dict[str, Any]:
    import time

    from heliostat.errors import UserError
    from heliostat.workloads.run.cost import cost
    from heliostat.workloads.run.goodput import goodput, share_of
    from heliostat.workloads.run.journal import read_journal
    from heliostat.workloads.run.record import EVENTS, METRICS, read_record, read_result

    row = {
        "name": folder.name, "run": str(folder), "task": "?", "state": "unreadable", "step": 0, "goodput": 0.0, "cost": None,
        "test": {}, "created": "?",
    }  # fmt: skip
    try:
        record, result = read_record(folder), read_result(folder)
    except UserError as error:
        return {**row, "error": error.what}
    steps = [r["step"] for r in read_journal(folder, METRICS)] if result is None else [result.step]
    last = (read_journal(folder, EVENTS) or [{"event": "none"}])[-1]["event"]
    return {
        **row,
        "task": record.config.task,
        "state": result.state if result else last if last in ("stopped", "diverged") else "unfinished",
        "step": max(steps, default=0),
        "goodput": round(share_of(result.goodput) if result and result.goodput else goodput(folder).share, 3),
        "cost": result.cost if result else cost(folder),
        "test": result.metrics.get("test", {}) if result else {},
        "created": time.strftime("%Y-%m-%d %H:%M", time.localtime(record.created)),
    }


def _money(cost: float | None) -> str:
    return "" if cost is None else f"{cost:.4g}"


def _share(goodput: float) -> str:
    return f"{goodput:.0%}" if goodput else ""
