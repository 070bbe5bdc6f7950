"""heliostat cost: what the nodes of a cluster have cost, what that was spent on, and what a static fleet would have cost."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.commands.cost.nodes_record import Period, about_jobs_not_in, add_period, not_in, period, recorded
from heliostat.wording import counted

BY = ("run", "sweep", "group", "submitter", "label", "day")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a profile, such as gpu, or with --on a run or a sweep")
    parser.add_argument("--on", metavar="PROFILE", help="the cluster on which that run or sweep was")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the profile")
    add_period(parser)
    parser.add_argument("--by", choices=BY, default="group", help="what a row is (default: group)")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print one JSON document, with each interval of each node")
    shape.add_argument("--csv", action="store_true", help="print the table as CSV")
    shape.add_argument(
        "--report", metavar="FILE", help="write a page with the timeline, the money over time, and what to change"
    )
    parser.epilog = "examples: heliostat cost gpu --since 7d --by submitter; heliostat cost digits --on gpu"


@dataclass(frozen=True)
class Found:
    """What a cluster has cost, for printing."""

    name: str
    record: Any
    charges: Sequence[Any]
    exact: Sequence[Any]
    """The rows of the table."""
    rows: Sequence[Any]
    """The same in whole cents."""
    static: Any
    """A fleet of the peak size."""
    cheapest: Any
    """The cheapest static fleet with the same wait, or None."""
    left_out: Sequence[str]
    """What is not in that one."""
    advice: Sequence[Any]
    of_run: bool
    """Whether only the charges of one run are in it."""
    apart: Sequence[str]
    """Runs, and other jobs by their ids, that the record lacks."""

    @property
    def money(self) -> float:
        """The sum, which is not rounded."""
        return float(sum(row.total for row in self.exact))

    @property
    def free(self) -> bool:
        """Whether no node has a price; then the table divides node-hours."""
        return not self.money


def run(args: argparse.Namespace) -> int:
    from heliostat.commands.cost.report import write_page

    found = collect(args)
    if args.json:
        _print_json(found, args.by)
    elif args.csv:
        _print_csv(found, args.by)
    elif args.report:
        write_page(found, remarks(found), Path(args.report))
    else:
        _show(found, args.by)
    return 0


def collect(args: argparse.Namespace) -> Found:
    """Read the record and the runs from the storage of the cluster, and compute what it cost.

    Raises:
        UserError: there is no such profile, run or record.
    """
    from heliostat.cluster import cost
    from heliostat.cluster.advice import advice
    from heliostat.cluster.history import history
    from heliostat.cluster.planner.trace import remarks_of
    from heliostat.cluster.static_fleets import cheapest_fleet, peak_fleet

    of = period(args)
    profile = _profile(args)
    whole, goodput, apart = _read(profile, args.on or args.name, of)
    record = cost.priced(whole.during(max(of.since or 0.0, whole.begin), of.until), profile)
    jobs = history(whole, profile, record.begin, record.end)
    charges = cost.charges(record, goodput)
    if args.on:
        charges = _of_run(args.name, record, charges, apart)
    rows = cost.rows(charges, cost.keys(args.by, record))
    name = f"{args.name} on {profile.name}" if args.on else profile.name
    return Found(
        name,
        record,
        charges,
        rows,
        cost.in_cents(rows),
        peak_fleet(record, profile),
        cheapest_fleet(record, profile, jobs),
        remarks_of(jobs.trace),
        advice(record, profile),
        bool(args.on),
        apart,
    )


def _profile(args: argparse.Namespace) -> Any:
    from heliostat.cluster.profile import find
    from heliostat.errors import UserError

    try:
        return find(args.on or args.name, args.set)
    except UserError as error:
        if args.on or not error.what.startswith("there is no profile"):
            raise
        raise UserError(error.what, f"{error.fix}. Or is it a run or a sweep? Then add --on PROFILE") from None


def _read(profile: Any, given: str, of: Period) -> tuple[Any, dict[str, Any], list[str]]:
    """The record of a cluster, the goodput of the runs in it, and the jobs that it lacks."""
    from heliostat.commands.terminal.live import line

    with line() as shown, recorded(profile, given, of, shown.say) as (record, fetch):
        names = {job.run for job in record.jobs.values() if job.run}
        folders = {name: [name] for name in sorted(names)}
        for job in record.jobs.values():
            if job.run and (job.cluster or "--if-new" in job.command):
                folders[job.run] = [job.run, *_named_after(job.run)]
        files = ("attempts*.jsonl", "events*.jsonl", "metrics*.jsonl", "journal/*.jsonl")
        scratch = fetch([f"runs/{folder}/{file}" for each in folders.values() for folder in each for file in files])
        spans = {name: _spans_of(name, each, scratch / "runs", names, of.now) for name, each in folders.items()}
        return record, spans, not_in(record, profile, of, scratch)


def _named_after(name: str) -> tuple[str, str]:
    """Patterns of the names of runs whose jobs have their name without the end: the time of a scheduled one, or its data."""
    return f"{name}-{8 * '[0-9]'}-{4 * '[0-9]'}", f"{name[:91]}-{8 * '[0-9a-f]'}"


def _spans_of(name: str, folders: Sequence[str], runs: Path, names: set[str], now: float) -> list[Any]:
    """The spans of a run or a sweep, and of those that match ``folders`` and are no other jobs' in ``names``.

    Of all these a job has those in its own time.
    """
    found = {path for folder in folders for path in runs.glob(folder) if path.name == name or path.name not in names}
    return [span for path in sorted(found) for span in _spans(path, now)]


@dataclass(frozen=True)
class TrialSpan:
    """When a trial of a sweep held its workers, in seconds since the epoch."""

    kind: str
    begin: float
    end: float
    workers: int


def _spans(folder: Path, now: float) -> list[Any]:
    """The spans of the goodput of a run, or those of the trials of a sweep; none without its records."""
    from heliostat.folder import Folder
    from heliostat.tuning.journal import JOURNAL, read_journal
    from heliostat.tuning.trials import Trial, Trials
    from heliostat.workloads.run.goodput import goodput

    def of_trial(trial: Trial) -> list[TrialSpan]:
        held = [*trial.spans, *([(trial.started, now)] if trial.started else [])]
        kind = "lost" if trial.state == "failed" else "productive"
        return [TrialSpan(kind, begin, end, trial.workers) for begin, end in held]

    if (folder / JOURNAL).exists():
        return [span for trial in Trials(read_journal(Folder.at(folder))).all for span in of_trial(trial)]
    return goodput(Folder.at(folder)).spans if any(folder.glob("attempts*.jsonl")) else []


def _of_run(name: str, record: Any, charges: Sequence[Any], apart: Sequence[str]) -> list[Any]:
    from heliostat.config import nearest
    from heliostat.errors import UserError

    jobs = {job.id for job in record.jobs.values() if name in (job.run, job.id)}
    if not jobs:
        known = {job.run or job.id for job in record.jobs.values()}
        if name in apart:
            raise UserError("; ".join(about_jobs_not_in([name])), "heliostat runs --on PROFILE")
        raise UserError(f"no job of {name} is in the record", nearest(name, known) if known else "give an earlier --since")
    return [charge for charge in charges if charge.job in jobs]


def _table(found: Found, by: str) -> tuple[list[str], list[list[Any]]]:
    from heliostat.cluster.cost import KINDS

    parts = [row.hours if found.free else row.money for row in found.rows]
    kinds = [kind for kind in KINDS if any(part[kind] for part in parts)]
    rows = [
        [row.key, row.node_hours, row.gpu_hours, row.total, *(part[kind] for kind in kinds)]
        for row, part in zip(found.rows, parts, strict=True)
    ]
    sums = [sum(row[column] for row in rows) for column in range(1, 4 + len(kinds))]
    return [by, "node-hours", "GPU-hours", "cost $", *kinds], [*rows, ["all", *sums]]


def _show(found: Found, by: str) -> None:
    from heliostat.console import clock, duration, out, print_table

    record = found.record
    took = duration(record.end - record.begin)
    out.print(f"{found.name}, {clock(record.begin)} to {clock(record.end)} ({took})", highlight=False, markup=False)
    columns, rows = _table(found, by)
    cells = [[row[0], *(f"{v:,.2f}".rjust(len(name)) for v, name in zip(row[1:], columns[1:], strict=True))] for row in rows]
    widths = [max(len(row[n]) for row in cells) for n in range(len(columns))]
    print_table(columns, [[row[0], *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))] for row in cells])
    for text in remarks(found):
        out.print(text, highlight=False, markup=False, soft_wrap=True)


def remarks(found: Found) -> list[str]:
    """What is to be known beside the table, in sentences."""
    from heliostat.console import clock, duration

    record, texts = found.record, []
    if found.free:
        texts.append("No node has a price, so the columns after cost $ are node-hours; price_per_hour in the profile sets one.")
    if not found.of_run and found.static.money:
        texts.append(f"A static fleet of the peak size {_compared(found.static, found.money)}.")
    if not found.of_run and found.cheapest and found.cheapest.money:
        waited = f"95 % of {counted(found.cheapest.jobs, 'job')} waited at most {duration(found.cheapest.wait)}"
        texts.append(f"The cheapest static fleet with the same wait ({waited}) {_compared(found.cheapest, found.money)}.")
        if found.left_out:
            texts.append(f"For that fleet the planner replays the jobs of the record; {'; '.join(found.left_out)}.")
    for gap in record.gaps:
        of = f" of {gap.cluster}" * bool(gap.cluster)
        texts.append(f"Not recorded{of}: {clock(gap.begin)} to {clock(gap.end)} ({duration(gap.end - gap.begin)}).")
    if record.damaged:
        texts.append(f"{counted(record.damaged, 'damaged file')} of the record; what is missing for it is not in any figure.")
    if not found.of_run:
        texts += [f"{text[0].upper()}{text[1:]}." for text in about_jobs_not_in(found.apart)]
    return [*texts, *([] if found.of_run else [each.text[0].upper() + each.text[1:] + "." for each in found.advice])]


def _compared(static: Any, cost: float) -> str:
    from heliostat.console import dollars

    nodes = ", ".join(f"{count} {group}" for group, count in static.nodes.items())
    change = 1 - cost / static.money
    return (
        f"in the same time, at the same prices: {nodes}, {dollars(static.money)}; "
        f"this is {abs(change):.0%} {'less' if change > -0.005 else 'more'}"
    )


def _print_csv(found: Found, by: str) -> None:
    import csv
    import sys

    columns, rows = _table(found, by)
    fleets = {"static fleet of the peak size": found.static, "cheapest static fleet with the same wait": found.cheapest}
    if not found.of_run:
        rows += [[name, each.node_hours, each.gpu_hours, each.money] for name, each in fleets.items() if each]
    csv.writer(sys.stdout, lineterminator="\n").writerows([columns, *([r[0], *(round(v, 4) for v in r[1:])] for r in rows)])


def _print_json(found: Found, by: str) -> None:
    from heliostat.console import print_json

    record = found.record
    print_json({
        "name": found.name, "since": record.begin, "until": record.end, "by": by,
        "cost": found.money,
        "rows": [{**dataclasses.asdict(row), "total": row.total} for row in found.exact],
        "static": dataclasses.asdict(found.static),
        "cheapest_static": found.cheapest and dataclasses.asdict(found.cheapest),
        "gaps": [dataclasses.asdict(gap) for gap in record.gaps],
        "not_recorded": found.apart,
        "advice": [{**dataclasses.asdict(each), "text": each.text} for each in found.advice],
        "intervals": [{**dataclasses.asdict(each), "work": dict(each.work)} for each in record.intervals],
    })  # fmt: skip
