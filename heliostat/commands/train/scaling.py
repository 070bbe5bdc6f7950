"""heliostat train --scaling: how a config scales over several numbers of workers, and what its result would cost on each."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

from heliostat.wording import counted

SECONDS = 3.0
"""For which each number of workers trains, at least."""
EXCLUDED = {
    "in_process": "does not use", "dry_run": "does not start", "cron": "starts later", "dashboard": "does not show",
    "if_new": "does not measure", "if_drift": "does not measure",
}  # fmt: skip
"""Options that exclude it, and why."""
STOPPED = "no run is left of what it measured"
"""What a message says after its job was stopped."""


def add_scaling(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--scaling", metavar="N,N,...",
        help="train for some seconds on each of these numbers of workers, and print their speed, efficiency and cost",
    )  # fmt: skip


def sizes_of(args: argparse.Namespace) -> list[int]:
    """The numbers of workers, ascending.

    Raises:
        UserError: they are no such list, or another option excludes them.
    """
    from heliostat.errors import UserError, combined

    words = [word.strip() for word in args.scaling.split(",")]
    problems = [
        UserError(f"--scaling has {word!r}, which is no number of workers", "give numbers with commas between them: 1,2,4")
        for word in words
        if not word.isdecimal() or int(word) < 1
    ]
    problems += [
        UserError(f"--scaling measures speeds on Ray, now, which --{name.replace('_', '-')} {why}", "leave one out")
        for name, why in EXCLUDED.items()
        if getattr(args, name)
    ]
    if problems:
        raise combined(problems, "the command")
    return sorted({int(word) for word in words})


def configs_of(config: Any, sizes: list[int]) -> list[Any]:
    """The config with each number of workers.

    Raises:
        UserError: it cannot have one of them, or its steps are rounds.
    """
    from heliostat.config import validate
    from heliostat.errors import UserError, collected, combined

    if config.by_rounds:
        raise UserError(
            f"--scaling measures steps, and task {config.task} trains in rounds", "train it with each number of workers"
        )
    problems: list[UserError] = []
    found = []
    for size in sizes:
        with collected(problems):
            found.append(validate({**config.model_dump(), "workers": size}, type(config)))
    if problems:
        raise combined(problems, "the config")
    return found


def run_scaling(configs: list[Any], args: argparse.Namespace) -> None:
    """Measure each config on the Ray that runs, or on one of this command, and print the table.

    What ends it early, such as Ctrl-C or a node that is lost, leaves the rows that were measured before.
    """
    from heliostat.cluster import in_process
    from heliostat.commands.terminal.live import nodes_of
    from heliostat.workloads.plan import prepare

    address = os.environ.get("RAY_ADDRESS")
    nodes = nodes_of(address)
    plans = [prepare(each, nodes) for each in configs]
    speeds: list[Any] = []
    try:
        # What Ray and the user's task print must not mix with the result.
        with redirect_stdout(sys.stderr), in_process.connection(address) if address else in_process.session(args.verbose):
            speeds.extend(_measured(plans, args.json))
    finally:
        if speeds:
            _show(configs[0].name, speeds, args.json)


def _measured(plans: list[Any], quiet: bool) -> Iterator[Any]:
    from heliostat.commands.dataset.building import building
    from heliostat.commands.terminal.phases import phase
    from heliostat.workloads.ray_train.scaling import measured
    from heliostat.workloads.training.start import preview

    with building(plans[0].source, "trying the task on a few samples", quiet):
        preview(plans[0])
    for plan in plans:
        workers = plan.config.most_workers
        with phase(f"measuring {counted(workers, 'worker')}", quiet):
            yield measured(plan, SECONDS)


def _show(name: str, speeds: list[Any], as_json: bool) -> None:
    from heliostat.console import duration, money, out, print_json, print_table

    first = speeds[0]
    rows = []
    for speed in speeds:
        gain = speed.samples_per_second / first.samples_per_second
        rows.append({**dataclasses.asdict(speed), "efficiency": gain * first.workers / speed.workers, "cost": speed.cost})
    if as_json:
        print_json({"name": name, "sizes": rows})
        return
    print_table(
        ("workers", "samples/s", "lowest to highest", "efficiency", "waits for data", "for each other", "all steps", "cost"),
        [
            (
                row["workers"], f"{row['samples_per_second']:,.0f}", f"{row['lowest']:,.0f} to {row['highest']:,.0f}",
                f"{row['efficiency']:.0%}", f"{row['data_wait']:.1%}",
                "-" if row["communication"] is None else f"{row['communication']:.1%}",
                duration(row["seconds"]), "-" if row["cost"] is None else money(row["cost"]),
            )
            for row in rows
        ],
    )  # fmt: skip
    out.print(
        f"efficiency: a worker's samples per second, as a share of those with {first.workers}; for each other: the share of a "
        "step's time that workers spend on communication which no computation hides, and on waiting for the slowest; "
        "all steps: without start, evaluations and checkpoints",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
