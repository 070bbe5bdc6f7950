"""heliostat sweep show: prints the trials of a sweep, live while it runs."""

import argparse
import time
from collections.abc import Callable
from typing import Any

WHOLE = 10_000
"""Columns of a table that is not cut."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a sweep's name, or its folder or URI")
    parser.add_argument("--storage", metavar="DIR", default="runs", help="where the sweeps are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = (
        "example: heliostat sweep show digits-sweep (to run a config file with the name show: heliostat sweep ./show)"
    )


def run(args: argparse.Namespace) -> int:
    folder = _folder(args.name, args.storage)
    show(folder, str(folder), args.json)
    return 0


def show(folder: Any, place: str, as_json: bool, live: bool = True) -> None:
    """Print the trials of a sweep.

    Args:
        folder: of the sweep, or a copy of its summaries.
        place: of the original.
        as_json: whether as one JSON document.
        live: whether a terminal shows them until the sweep has ended.
    """
    from heliostat.console import out
    from heliostat.workloads.run.lease import Observer

    if as_json:
        _print_json(folder, place)
        return
    driver = Observer(folder)
    if live and out.is_terminal and driver.is_driven():
        _follow(folder, driver.is_driven)
    else:
        # In a pipe no cell is cut.
        width = None if out.is_terminal else WHOLE
        out.print(_rendered(folder, most=50, driven=driver.is_driven()), soft_wrap=True, width=width)
    _print_failure(folder)


def _print_json(folder: Any, place: str) -> None:
    from heliostat.console import print_json
    from heliostat.tuning.results.table import SweepResult, row
    from heliostat.workloads.run.lease import Observer

    trials, record = _read(folder)
    if not Observer(folder).is_driven():
        trials.interrupted()
    result = SweepResult.read(folder)
    rows = [row(trial, dict(record.objectives)) for trial in trials.all]
    print_json({"sweep": place, "result": result.model_dump() if result else None, "trials": rows})


def _follow(folder: Any, is_driven: Callable[[], bool]) -> None:
    from rich.live import Live

    from heliostat.console import out

    with Live(console=out, auto_refresh=False) as live:
        driven = True
        while driven:
            driven = is_driven()  # before the trials are read, so that the last ones are shown
            live.update(_rendered(folder, driven=driven), refresh=True)
            time.sleep(1.0 if driven else 0.0)


def _print_failure(folder: Any) -> None:
    from heliostat.console import out

    failed = next((trial for trial in _read(folder)[0].all if trial.state == "failed"), None)
    if failed:
        message = failed.message.replace("\n", "\n  ")
        out.print(f"\ntrial {failed.number} failed:\n  {message}", highlight=False, markup=False)


def _rendered(folder: Any, most: int | None = None, driven: bool = True) -> Any:
    from heliostat.commands.sweep.trials import SHOWN, rendered

    trials, record = _read(folder)
    if not driven:
        trials.interrupted()
    return rendered(trials, record.objectives, record.config.trials, most or SHOWN, driven)


def _read(folder: Any) -> tuple[Any, Any]:
    """The trials of a sweep, and its record."""
    from heliostat.tuning.journal import read_journal
    from heliostat.tuning.record import read_sweep
    from heliostat.tuning.trials import Trials

    return Trials(read_journal(folder)), read_sweep(folder)


def _folder(name: str, storage: str) -> Any:
    from heliostat.config import nearest
    from heliostat.errors import UserError
    from heliostat.folder import Folder, absolute, default_base
    from heliostat.tuning.record import SWEEP

    sweeps = Folder.at(absolute(storage, default_base()))
    folder = Folder.at(name) if "/" in name else sweeps / name
    if not folder.exists(SWEEP):
        known = [other for other in sweeps.names() if (sweeps / other).exists(SWEEP)]
        fix = nearest(name, known) if known else "run one (heliostat sweep CONFIG), or give --storage"
        raise UserError(f"sweep {name!r} does not exist in {sweeps}", fix)
    return folder
