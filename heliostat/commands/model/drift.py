"""heliostat model drift: whether what a service is asked has moved away from the training data; exit code 0, 1 or 2."""

import argparse
from collections.abc import Sequence
from typing import Any

from heliostat.commands.model.registry import registry_at, say
from heliostat.wording import counted

ROWS = 10_000


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="NAME", help="a model, served here with heliostat serve NAME@champion --sample 0.1")
    parser.add_argument("--threshold", type=float, default=0.25, metavar="PSI", help="from where it is drift (default: 0.25)")
    parser.add_argument("--ignore", action="append", default=[], metavar="COLUMN", help="leave a column out, such as a date")
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"the newest rows, at most (default: {ROWS})")
    parser.add_argument("--storage", default="runs", help="where the runs and the models are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = """example: heliostat model drift churn --ignore signed_up
        (exit code 0: no drift, 1: drift, 2: there is nothing to compare)"""


def run(args: argparse.Namespace) -> int:
    from heliostat.console import print_json, print_table

    found = found_in(args.run_name, args.storage, args.threshold, args.ignore, args.rows)
    code = int(found["drifted"]) if found["rows"] else 2
    if args.json:
        print_json(found)
        return code
    say(heading(found))
    if not found["rows"]:
        return code
    lines = [(each, kind) for kind in ("inputs", "predictions") for each in found[kind]]
    print_table(
        ("column", "of", "PSI", "by chance up to", "drifted"),
        [
            [each["column"], kind, f"{each['psi']:.3f}", f"{each['chance']:.3f}", "YES" if each["drifted"] else "no"]
            for each, kind in lines
        ],
    )
    return code


def found_in(name: str, storage: str, threshold: float, ignore: Sequence[str], most: int = ROWS) -> dict[str, Any]:
    """What the sample of the service of a model shows, see `heliostat.workloads.registry.drift.drift`.

    Raises:
        UserError: there is no such model, or its service has kept no rows; see `drift`.
    """
    from heliostat.errors import UserError
    from heliostat.workloads.registry.drift import drift
    from heliostat.workloads.serve.sample import folder_of, read

    if most < 1:
        raise UserError(f"--rows is {most}", "give a number of rows, at least 1")
    registry = registry_at(storage)
    version = registry.resolve(name)
    sampled = read(folder_of(version.name), version.folder.name, most)
    rows, predictions = [each.row for each in sampled], [each.prediction for each in sampled]
    return drift(registry, str(version), rows, predictions, threshold, ignore)


def heading(found: dict[str, Any]) -> str:
    """What was found, in one line."""
    if not found["rows"]:
        return f"{found['version']} has answered no row that was kept: nothing can be said yet"
    drifted = [each["column"] for kind in ("inputs", "predictions") for each in found[kind] if each["drifted"]]
    said = f"has drifted: {', '.join(drifted)}" if drifted else "has not drifted"
    return (
        f"{found['version']} {said} ({counted(found['rows'], 'row')}, PSI of {found['threshold']:g} or more, "
        "and more than chance)"
    )
