"""heliostat report: draws the report of a run or a sweep from its records."""

import argparse
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a run's or a sweep's name, or its folder or URI")
    parser.add_argument("--storage", metavar="DIR", default="runs", help="where the runs are (default: runs)")
    parser.epilog = "example: heliostat report digits (of a sweep also its table and best.yaml, as far as it has come)"


def run(args: argparse.Namespace) -> int:
    from heliostat.commands import SCRIPT, find_folder
    from heliostat.console import out
    from heliostat.folder import join
    from heliostat.tuning.record import SWEEP
    from heliostat.workloads.run.record import REPORT

    folder = find_folder(args.name, args.storage)
    if folder.exists(SWEEP):
        _draw_sweep(folder)
    elif folder.exists(SCRIPT):
        from heliostat.workloads.torchrun.report import write_report

        write_report(folder)
    else:
        _draw_run(folder)
    out.print(join(str(folder), REPORT), soft_wrap=True)
    return 0


def _draw_run(folder: Any) -> None:
    from heliostat.workloads.run.record import read_record
    from heliostat.workloads.run.report import write_report
    from heliostat.workloads.run.so_far import result_of

    write_report(folder, read_record(folder), result_of(folder))


def _draw_sweep(folder: Any) -> None:
    """Draw from the journal; a sweep that is not driven any more was interrupted, unless it has a result.

    Raises:
        UserError: the task of the trials is not found from the working directory.
    """
    from heliostat.folder import split
    from heliostat.tuning.plan import plan_sweep
    from heliostat.tuning.record import read_sweep
    from heliostat.tuning.results.table import SweepResult
    from heliostat.tuning.results.write import write_so_far
    from heliostat.workloads.run.lease import Observer

    record = read_sweep(folder)
    assert record is not None
    plan = plan_sweep(record.config.model_copy(update={"storage": split(str(folder))[0]}), tries=False)
    result = SweepResult.read(folder)
    driven = Observer(folder).is_driven()
    write_so_far(plan, "running" if driven else result.ended if result else "interrupted")
