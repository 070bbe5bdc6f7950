"""heliostat why: says why something waits, has ended, is idle or is slow, and what to change."""

import argparse
import dataclasses
import time
from typing import TYPE_CHECKING, Any

from heliostat.commands import KINDS, find_folder

if TYPE_CHECKING:
    from heliostat.cluster.targets.observation import Observation, Why
    from heliostat.folder import Folder

OUTPUT_LINES = 500
"""Lines of a job's output in which a slow worker is looked for."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", nargs="?",
        help="a job, a run, a sweep or a worker group (default, with --on: the whole cluster)",
    )  # fmt: skip
    parser.add_argument("--on", metavar="PROFILE", help="look at the cluster of a profile, such as gpu, and at its storage")
    parser.add_argument("--storage", metavar="DIR", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.epilog = (
        "example: heliostat why digits --on gpu (the first cause decides first; without --on, from the run's folder)"
    )


def run(args: argparse.Namespace) -> int:
    from heliostat.console import print_json
    from heliostat.errors import UserError

    if args.on is None and args.name is None:
        raise UserError("neither a name nor a cluster is given", "heliostat why RUN, or heliostat why --on PROFILE")
    answer = _on_cluster(args) if args.on else of_folder(find_folder(args.name, args.storage))
    if args.json:
        print_json(dataclasses.asdict(answer))
    else:
        show(answer)
    return 0


def _on_cluster(args: argparse.Namespace) -> "Why":
    from heliostat.cluster.profile import find
    from heliostat.cluster.targets.budget import causes
    from heliostat.cluster.targets.observation import of_cluster, of_group, of_job
    from heliostat.cluster.targets.run import open_target

    profile = find(args.on)
    target = open_target(profile)
    seen = target.observe()
    if args.name is None:
        answer = of_cluster(seen)
        return dataclasses.replace(answer, causes=[*causes(target), *answer.causes])
    if args.name == "head" or any(group.name == args.name for group in seen.profile.groups):
        return of_group(seen, args.name)
    if job := seen.job(args.name):
        return _with_record(of_job(seen, job), args, target, job)
    return target.why_own_cluster(args.name) or _kept(args, target, seen)


def _with_record(answer: "Why", args: argparse.Namespace, target: Any, job: Any) -> "Why":
    """The causes of a job with those of its run: from its record where that can be read from here, else from its output."""
    from heliostat.cluster.targets.storage import root_of, unreadable
    from heliostat.commands.runs.pull import on_storage
    from heliostat.folder import Folder
    from heliostat.workloads.run.causes import slow_in

    run, profile = job.metadata.get("run"), target.profile
    if run and not unreadable(profile):
        folder = Folder.at(root_of(profile)) / on_storage(profile, args.storage) / run
        if any(map(folder.exists, KINDS)):
            return dataclasses.replace(answer, causes=[*answer.causes, *of_folder(folder).causes])
    elif not job.done:
        lines = target.dashboard().last_lines(job, OUTPUT_LINES)
        return dataclasses.replace(answer, causes=[*answer.causes, *slow_in(lines)])
    return answer


def _kept(args: argparse.Namespace, target: Any, seen: "Observation") -> "Why":
    """What is kept of a job or a run that the cluster does not know any more, or why it is not started.

    Raises:
        UserError: nothing is kept of it.
    """
    import tempfile
    from pathlib import Path

    from heliostat.cluster.targets.budget import causes as of_budgets
    from heliostat.cluster.targets.kept import RECORDS, chosen, kept_jobs
    from heliostat.cluster.targets.observation import Why
    from heliostat.cluster.targets.storage import opened
    from heliostat.commands.runs import SUMMARIES
    from heliostat.commands.runs.pull import on_storage
    from heliostat.commands.terminal.live import line
    from heliostat.config import nearest
    from heliostat.errors import UserError
    from heliostat.folder import Folder

    profile = target.profile
    place = on_storage(profile, args.storage)
    with tempfile.TemporaryDirectory(prefix="heliostat-") as copy:
        with line() as shown, opened(profile, shown.say) as storage:
            storage.fetch([RECORDS, *(f"{place}/*/{name}" for name in SUMMARIES)], Path(copy))
        jobs = kept_jobs(Path(copy))
        job = chosen(jobs, profile.name, args.name)
        runs = Folder.at(f"{copy}/{place}")
        name = job.run if job and job.run else args.name
        of_run = of_folder(runs / name) if any(map((runs / name).exists, KINDS)) else None
        names = runs.names()
    if job is None and of_run is None:
        if refused := [cause for cause in of_budgets(target) if cause.known]:
            return Why(args.name, "not started", refused)
        known = [*(group.name for group in seen.profile.groups), *names, *(each.id for each in jobs)]
        raise UserError(f"{profile.name} has no job, run, sweep or group {args.name}", nearest(args.name, known))
    causes = [*([_end_of(job, profile)] if job else []), *(of_run.causes if of_run else [])]
    return Why(of_run.subject if of_run else f"job {args.name}", of_run.state if of_run else "ended", causes)


def _end_of(job: Any, profile: Any) -> Any:
    from heliostat.cause import Cause

    logs = f"heliostat logs {profile.name} {job.id}"
    if job.ended is None:
        what = f"job {job.id} is not on the cluster any more, and has no end: it was lost with its head or its node"
        return Cause(what, f"the same command resumes its run; {logs}", job.started, job=job.id)
    what = f"job {job.id} ended with exit code {job.exit_code}"
    return Cause(what, logs if job.exit_code else "", job.ended, job=job.id)


def of_folder(folder: "Folder") -> "Why":
    """Why a run, a sweep or a script is where it is, from its folder alone."""
    from heliostat.cluster.targets.observation import Why
    from heliostat.commands.runs import row_of
    from heliostat.commands.runs.show import result_in
    from heliostat.errors import UserError
    from heliostat.workloads.run.causes import causes_of

    row = row_of(folder)
    assert row is not None, "the caller has found its file"
    if "error" in row:
        raise UserError(row["error"], "heliostat runs pull brings a run from a cluster; else train another one")
    if row["kind"] == "sweep":
        from heliostat.tuning import causes
        from heliostat.tuning.journal import read_journal
        from heliostat.tuning.record import read_sweep
        from heliostat.tuning.trials import Trials

        record = read_sweep(folder)
        assert record is not None, "the caller has found its file"
        found = causes.causes_of(Trials(read_journal(folder)), row["state"], record.config.trials)
    else:
        found = causes_of(folder, result_in(folder))
    return Why(f"{row['kind']} {row['name']}", row["state"], found)


def show(answer: "Why") -> None:
    """Print an answer: the causes with their number, since when, what happens next, and the fix."""
    from heliostat.console import clock, duration, out, printable

    out.print(f"{answer.subject}  {answer.state}", style="bold", soft_wrap=True)
    if not answer.causes:
        out.print("  nothing is in its way", soft_wrap=True)
    for number, cause in enumerate(answer.causes, 1):
        mark = f"{number}." if cause.known else "?"
        out.print(f"  {mark:<3}{printable(cause.what, keep=chr(10))}".replace("\n", "\n     "), soft_wrap=True)
        passed = f"{clock(cause.since)}, {duration(max(0.0, time.time() - cause.since))} ago" if cause.since else ""
        for title, text in (("since", passed), ("next", cause.then), ("fix", cause.fix)):
            if text:
                out.print(f"     {title + ':':<7}{printable(text)}", soft_wrap=True)
