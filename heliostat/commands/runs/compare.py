"""heliostat runs compare: the settings and the metrics of runs, side by side."""

import argparse
from collections.abc import Mapping
from typing import Any

from heliostat.commands import RUN_HELP, SCRIPT, run_folder

ABSENT = "-"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help=f"two or more of: {RUN_HELP}")
    parser.add_argument("--storage", metavar="DIR", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = "example: heliostat runs compare digits digits-2 runs/digits-sweep/trials/0003"


def run(args: argparse.Namespace) -> int:
    from heliostat.console import cell, print_json, print_table
    from heliostat.errors import UserError

    if len(args.names) < 2:
        raise UserError(f"{args.names[0]} alone is given, but a comparison needs two runs", "name another one, too")
    found = [described(run_folder(name, args.storage, ("config.yaml", SCRIPT))) for name in args.names]
    settings = differing([settings for settings, _ in found])
    measured = side_by_side([measured for _, measured in found])
    if args.json:
        print_json({"runs": args.names, "settings": settings, "results": measured})
        return 0
    rows = [(key, *(cell(value, ABSENT, digits=6) for value in values)) for key, values in (settings | measured).items()]
    print_table(("", *args.names), rows)
    return 0


def described(folder: Any, read: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run was trained with, and its result, each by a dotted name; ``read`` reads its journals."""
    from heliostat.workloads.run.journal import read_journal
    from heliostat.workloads.run.record import read_record
    from heliostat.workloads.run.so_far import result_of

    if folder.exists(SCRIPT):
        from heliostat.workloads.torchrun.record import read_script, script_result

        script, result = read_script(folder), script_result(folder)
        return {"script": script.script, "arguments": script.arguments, "workers": script.workers}, _outcome(result)
    record, result = read_record(folder), result_of(folder, read=read or read_journal)
    config = record.config.model_dump(mode="json", exclude={"name", "storage"})
    settings = {**_flat(config), "data": record.dataset.fingerprint, "git": record.git, **_flat({"version": record.versions})}
    return settings, _outcome(result)


def _outcome(result: Any) -> dict[str, Any]:
    from heliostat.workloads.run.goodput import share_of

    outcome = {
        "state": result.state, "step": result.step, "best step": result.best_step, "cost": result.cost,
        "seconds": result.seconds.get("total"), "goodput": round(share_of(result.goodput), 3) if result.goodput else None,
    }  # fmt: skip
    metrics = {f"{split} {name}": value for split, found in result.metrics.items() for name, value in found.items()}
    return {**outcome, **metrics}


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def side_by_side(found: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """For each name the value of each run; names that no run has a value for are left out."""
    keys = dict.fromkeys(key for values in found for key in values)
    table = {key: [values.get(key, ABSENT) for values in found] for key in keys}
    return {key: values for key, values in table.items() if any(value not in (None, ABSENT) for value in values)}


def differing(found: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: values for key, values in side_by_side(found).items() if any(value != values[0] for value in values)}
