"""heliostat plan: what a profile would cost for the jobs of a trace, how long these would wait, and the cheapest profile."""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.commands.cost.nodes_record import Period, add_period, period, recorded
from heliostat.commands.terminal.live import add_profile
from heliostat.wording import counted

if TYPE_CHECKING:
    from heliostat.cluster.planner.fleet import Fleet
    from heliostat.cluster.planner.plan import Recorded
    from heliostat.cluster.planner.study import Study
    from heliostat.cluster.planner.trace import Trace
    from heliostat.cluster.profile import Profile
    from heliostat.commands.terminal.live import Line

UNITS = {"s": 1, "m": 60, "h": 3600}


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    jobs = parser.add_mutually_exclusive_group(required=True)
    jobs.add_argument(
        "--trace", nargs="+", default=[], metavar="FILE",
        help="jobs: a CSV file with job_id, submission_time, duration and num_gpu, the output of sacct --parsable2, or "
        "Philly's log; also .gz. Of several, each is planned by itself",
    )  # fmt: skip
    jobs.add_argument(
        "--from-record", nargs="*", metavar="PROFILE",
        help="jobs: those of the record of the profile's cluster, or of the clusters of these profiles, each by itself",
    )  # fmt: skip
    add_period(parser)
    parser.add_argument("--time-zone", metavar="ZONE", help="the zone of the trace's times, if they have none: Europe/Berlin")
    parser.add_argument(
        "--wait-p95", metavar="TIME", help="find the cheapest profile with which 95 %% of the jobs wait no longer, such as 10m"
    )
    parser.add_argument("--trials", type=int, default=40, metavar="N", help="profiles that the search tries (default: 40)")
    parser.add_argument(
        "--fit", type=float, default=0.5, metavar="SHARE",
        help="the first part of the trace's time, with which is searched; the rest is reported (default: 0.5)",
    )  # fmt: skip
    parser.add_argument(
        "--interruptions", type=float, default=0.05, metavar="RATE", help="of a spot node in an hour (default: 0.05)"
    )
    parser.add_argument("--checkpoints", default="10m", metavar="TIME", help="between the checkpoints of a job (default: 10m)")
    parser.add_argument(
        "--elastic", type=int, metavar="GPUS",
        help="let jobs of fewer GPUs grow to so many, as with workers: [least, most]; for traces without min_gpu and max_gpu",
    )  # fmt: skip
    parser.add_argument(
        "--scaling", default="0.9", metavar="EXPONENT",
        help="the speed of elastic jobs is their GPUs to the power of it; or the speeds that train --scaling printed, such as "
        "1:810,2:1540,4:2900 (default: 0.9)",
    )  # fmt: skip
    parser.add_argument(
        "--first-fit", action="store_true",
        help="jobs for which there is room overtake others, as on a Ray cluster and in Kueue's BestEffortFIFO queues "
        "(default: first in, first out)",
    )  # fmt: skip
    parser.add_argument(
        "--reserved",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="the price of a reserved node, of that on demand (default: 0.5)",
    )
    parser.add_argument("--write", metavar="FILE", help="with --wait-p95: write the profile that was found")
    parser.add_argument("--report", metavar="FILE", help="write a page with a plot of cost against waiting")
    parser.add_argument(
        "--replay",
        type=int,
        metavar="JOBS",
        help="compare with Ray's own autoscaler on the first so many jobs (about 15 ms each)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = (
        "examples: heliostat plan gpu --trace jobs.csv --wait-p95 10m --write planned.yaml; "
        "heliostat plan gpu --from-record --since 7d"
    )


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.planner.fleet import fleet_of
    from heliostat.cluster.profile import find
    from heliostat.commands.plan.show import show
    from heliostat.commands.terminal.live import line
    from heliostat.console import err, out, print_json
    from heliostat.errors import UserError

    wait = _check(args)
    profile = find(args.profile, args.set)
    if args.replay and profile.platform != "kubernetes":
        raise UserError(f"--replay needs the autoscaler of a Kubernetes cluster, and {profile.name} is local", "leave it out")
    fleet = fleet_of(profile, args.interruptions, seconds("--checkpoints", args.checkpoints), scaling(args.scaling))
    fleet = replace(fleet, first_fit=args.first_fit)
    with line() as shown:
        studies = [
            _study(name, _elastic(trace, args.elastic, name), own, wait, args, shown, real)
            for name, trace, own, real in _traces(args, profile, fleet, shown)
        ]
    replays = [_replay(profile, study, args.replay) for study in studies] if args.replay else []
    if args.json:
        print_json({"profile": profile.name, "traces": [study.document() for study in studies], "replays": replays})
    else:
        show(studies, profile.name)
        for each in replays:
            out.print(each["text"], soft_wrap=True)
    if args.report:
        from heliostat.commands.plan.report import write_report

        write_report(args.report, profile.name, studies)
        err.print(f"wrote {args.report}", soft_wrap=True)
    if args.write:
        _write(profile, studies[0], args.write)
        err.print(f"wrote {args.write}; compare it: heliostat diff {args.write}", soft_wrap=True)
    return 0


def _traces(
    args: argparse.Namespace, profile: "Profile", fleet: "Fleet", shown: "Line"
) -> "Iterator[tuple[str, Trace, Fleet, Recorded | None]]":
    """The traces with their names, one at a time, and the fleet for each; of a record, also what its jobs did in reality."""
    from heliostat.cluster.planner.trace import read_trace
    from heliostat.cluster.profile import find

    for path in args.trace:
        name = Path(path).name
        yield name, read_trace(path, args.time_zone, partial(_read_rows, shown, name)), fleet, None
    if args.from_record is not None:
        of = period(args)
        others = [(given, find(given)) for given in args.from_record]
        for given, each in others or [(args.profile, profile)]:
            # Another cluster's times need not be those of this profile.
            yield f"the record of {each.name}", *_recorded(each, given, of, shown, fleet, each.name == profile.name)


def _elastic(trace: "Trace", gpus: int | None, name: str) -> "Trace":
    """The trace, with jobs that grow to so many GPUs."""
    from heliostat.errors import UserError

    if gpus is None:
        return trace
    if trace.jobs.elastic:
        raise UserError(f"{name} has ranges of its own, in min_gpu and max_gpu", "leave out --elastic, or these columns")
    return replace(trace, jobs=trace.jobs.growing(gpus))


def _read_rows(shown: "Line", name: str, rows: int) -> None:
    shown.say(f"{name}: {counted(rows, 'row')} read")


def _recorded(
    profile: "Profile", given: str, of: Period, shown: "Line", fleet: "Fleet", own: bool
) -> "tuple[Trace, Fleet, Recorded]":
    from heliostat.cluster.cost import priced
    from heliostat.cluster.history import as_recorded, history
    from heliostat.cluster.measured import describe_times, measured, with_times
    from heliostat.cluster.planner.fleet import fleet_of
    from heliostat.cluster.profile import find
    from heliostat.errors import UserError

    with recorded(profile, given, of, shown.say) as (record, _):
        found = history(record, profile, of.begin, of.until)
    trace = found.trace
    if not len(trace.jobs):
        others = ", ".join(f"{what} ({count:,})" for what, count in trace.left_out.items()) or "no job"
        raise UserError(
            f"the record of {profile.name} has no job of that time that can be planned, but {others}",
            "give an earlier --since, or a --trace",
        )
    if own:  # with the time-outs under which the nodes ran, whatever --set asks for now
        before = fleet_of(find(given))
        trace = replace(trace, notes=(*trace.notes, *describe_times(before, record)))
        fleet = with_times(fleet, measured(before, record))
    return trace, fleet, partial(as_recorded, priced(record, profile), found)


def _study(
    name: str, trace: "Trace", fleet: "Fleet", wait: float | None, args: argparse.Namespace, shown: "Line",
    real: "Recorded | None",
) -> "Study":  # fmt: skip
    from heliostat.cluster.planner.study import study

    def say(text: str) -> None:
        shown.say(f"{name}: {text}")

    return study(name, trace, fleet, wait, args.trials, args.fit, args.reserved, say, real)


def seconds(flag: str, text: str) -> float:
    """A duration such as 10m, in seconds; 0 without a unit.

    Raises:
        UserError: it is none.
    """
    import re

    from heliostat.errors import UserError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text) or re.fullmatch(r"(0)()", text)
    if not match:
        raise UserError(f"{flag} is {text}, which is not a duration", "write 30s, 10m, 1h, or 0")
    return float(match[1]) * UNITS.get(match[2], 1)


def scaling(text: str) -> float:
    """The exponent of the speed over the GPUs, as it is or fitted to speeds.

    Raises:
        UserError: it is none.
    """
    import re

    import numpy as np

    from heliostat.errors import UserError

    pairs = re.findall(r"(\d+):(\d+(?:\.\d+)?)", text)
    if re.fullmatch(r"\d+:[\d.]+(,\d+:[\d.]+)+", text) and len({int(gpus) for gpus, _ in pairs}) > 1:
        counts, speeds = np.array(pairs, float).T
        found = float(np.polyfit(np.log(counts), np.log(speeds), 1)[0]) if (counts * speeds > 0).all() else 0.0
    else:
        found = float(text) if re.fullmatch(r"\d*\.?\d+", text) else 0.0
    if not 0 < found <= 1:
        raise UserError(
            f"--scaling is {text}, which gives no exponent above 0 and up to 1",
            "give one, such as 0.9, or GPUS:SPEED of at least two sizes, such as 1:810,2:1540",
        )
    return found


def _check(args: argparse.Namespace) -> float | None:
    """The wait that is searched for; raises `UserError` with all wrong options."""
    from heliostat.errors import UserError, collected, combined

    errors: list[UserError] = []
    wait = None
    with collected(errors):
        wait = None if args.wait_p95 is None else seconds("--wait-p95", args.wait_p95)
    with collected(errors):
        if seconds("--checkpoints", args.checkpoints) <= 0:
            raise UserError(
                f"--checkpoints is {args.checkpoints}, but must be above 0", "give the time between two, such as 10m"
            )
    with collected(errors):
        scaling(args.scaling)
    limits = (
        ("--elastic", args.elastic, args.elastic is None or args.elastic >= 2, "at least 2"),
        ("--trials", args.trials, args.trials >= 1, "at least 1"),
        ("--fit", args.fit, 0 < args.fit < 1, "between 0 and 1"),
        ("--interruptions", args.interruptions, 0 <= args.interruptions <= 60, "from 0 to 60"),
        ("--replay", args.replay, args.replay is None or args.replay >= 1, "at least 1"),
        ("--reserved", args.reserved, 0 < args.reserved <= 1, "above 0, at most 1"),
    )
    for flag, value, fine, rule in limits:
        if not fine:
            errors.append(UserError(f"{flag} is {value}, but must be {rule}", "correct it"))
    if args.write and (args.wait_p95 is None or len(args.from_record or args.trace) > 1):
        errors.append(UserError("--write needs a search on one trace", "add --wait-p95 10m, and give one --trace"))
    if args.from_record is None and (args.since or args.until):
        errors.append(UserError("--since and --until choose a part of a record", "add --from-record, or leave them out"))
    if args.from_record is not None and args.time_zone:
        errors.append(UserError("--time-zone is of a trace's times, and those of a record have one", "leave it out"))
    for flag, path in (("--write", args.write), ("--report", args.report)):
        if path and not Path(path).parent.is_dir():
            errors.append(
                UserError(f"{flag} is {path}, but {Path(path).parent} is not a folder", "create it, or give another path")
            )
    if args.write and Path(args.write).exists():
        errors.append(UserError(f"--write is {args.write}, which exists; it was not changed", "choose another name"))
    if errors:
        raise combined(errors, "the command")
    return wait


def _write(profile: "Profile", study: "Study", path: str) -> None:
    from heliostat.cluster.planner.written import written
    from heliostat.errors import UserError

    if study.found is None:
        raise UserError(f"no profile keeps {study.wait:.0f} s, so {path} was not written", "allow a longer wait, or raise max")
    text = written(profile, study.found.fleet)
    with open(path, "x") as file:
        file.write(text)


def _replay(profile: "Profile", study: "Study", count: int) -> dict[str, Any]:
    """The first jobs that are reported, by both models: the profile that was found, or the given one."""
    from heliostat.cluster.planner.fleet import fleet_of
    from heliostat.cluster.planner.model import simulate
    from heliostat.cluster.planner.replay import replay
    from heliostat.cluster.planner.written import applied
    from heliostat.commands.terminal.live import line

    jobs = study.jobs.ranged("none")[:count]
    planned = applied(profile, study.found.fleet if study.found else study.fleet)
    with line() as shown:
        ray = replay(
            jobs,
            planned,
            study.fleet.first_fit,
            lambda done: shown.say(f"{study.name}: {done:,} of {counted(len(jobs), 'job')} replayed"),
        )
    # With the times of the profile, as Ray has them.
    fast = simulate(jobs, replace(fleet_of(planned), first_fit=study.fleet.first_fit))
    hours, own = ray.node_seconds / 3600, fast.node_seconds / 3600
    text = (
        f"{study.name}: Ray's autoscaler on the first {counted(len(jobs), 'job')}: {hours:,.1f} node-hours, mean wait "
        f"{ray.mean_wait:.0f} s; the model: {own:,.1f} ({own / hours - 1:+.2%}), {fast.mean_wait:.0f} s"
    )
    return {
        "trace": study.name, "jobs": len(jobs), "node_hours": hours, "model_node_hours": own, "mean_wait": ray.mean_wait,
        "model_mean_wait": fast.mean_wait, "text": text,
    }  # fmt: skip
