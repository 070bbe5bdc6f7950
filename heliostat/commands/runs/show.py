"""heliostat runs show: prints what is known of one run or script, or the trials of a sweep, while they go on and afterwards."""

import argparse
import time
from typing import TYPE_CHECKING, Any

from heliostat.commands import KINDS, RUN_HELP, find_folder

if TYPE_CHECKING:
    from heliostat.folder import Folder
    from heliostat.workloads.run.record import Result


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=f"{RUN_HELP}, or those of a sweep")
    parser.add_argument("--on", metavar="PROFILE", help="show one on the storage of a profile's cluster, such as gpu")
    parser.add_argument("--storage", metavar="DIR", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = "example: heliostat runs show digits"


def run(args: argparse.Namespace) -> int:
    if not args.on:
        folder = find_folder(args.name, args.storage)
        _show(folder, str(folder), args.json, live=True)
        return 0
    from heliostat.commands.runs import summaries
    from heliostat.config import nearest
    from heliostat.errors import UserError
    from heliostat.folder import join

    with summaries(args) as (copies, place):
        if not any(map((copies / args.name).exists, KINDS)):
            known = copies.names()
            fix = nearest(args.name, known) if known else "train one, or give --storage"
            raise UserError(f"run or sweep {args.name!r} does not exist in {place}", fix)
        _show(copies / args.name, join(place, args.name), args.json, live=False)
    return 0


def _show(folder: "Folder", place: str, as_json: bool, live: bool) -> None:
    """Print a run or a sweep, whose original is at ``place``; the trials of a sweep ``live`` while it runs."""
    from heliostat.commands.runs import row_of
    from heliostat.console import print_json
    from heliostat.errors import UserError
    from heliostat.tuning.record import SWEEP

    if folder.exists(SWEEP):
        from heliostat.commands.sweep.show import show

        show(folder, place, as_json, live)
        return
    row = row_of(folder)
    assert row is not None, "the caller has found its file"
    if "error" in row:
        raise UserError(row["error"], "heliostat runs pull brings a run from a cluster; else train another one")
    result = result_in(folder)
    if as_json:
        known = {key: row[key] for key in ("kind", "task", "created")}
        print_json({**known, **result.model_dump(exclude={"already"}), "run": place})
        return
    _print(row, result, place, folder.exists("report.html"))


def result_in(folder: "Folder") -> "Result":
    """The result of a run or a script so far."""
    from heliostat.commands import SCRIPT
    from heliostat.workloads.run.so_far import result_of
    from heliostat.workloads.torchrun.record import script_result

    return script_result(folder) if folder.exists(SCRIPT) else result_of(folder)


def _print(row: dict[str, Any], result: "Result", place: str, reported: bool) -> None:
    """The facts, a line each; a metric has a line of its own, so that 60 columns are enough."""
    from heliostat.commands.runs import cells_of
    from heliostat.console import numbers, out, printable

    cells = cells_of(row, "")
    facts = [
        ("state", row["state"]),
        ("step", row["progress"] + (f", the best {result.best_step}" if result.best_step else "")),
        *((split, numbers({name: value})) for split, metrics in result.metrics.items() for name, value in metrics.items()),
        ("task", row["task"]),
        ("created", f"{row['created']} {time.strftime('%Z')}" if row["created"] != "?" else ""),
        *((title, cells[title]) for title in ("time", "goodput", "cost")),
        ("folder", place),
        ("report", f"{place}/report.html" if reported else ""),
    ]
    out.print(row["name"], style="bold", soft_wrap=True)
    before = ""
    for title, text in facts:
        if text:
            out.print(f"  {'' if title == before else title:<11}{printable(text)}", soft_wrap=True)
            before = title
    if result.message:
        out.print(f"  message    {printable(result.message, keep=chr(10))}".replace("\n", "\n    "), soft_wrap=True)
