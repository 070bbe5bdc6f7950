"""heliostat logs: shows the output of a job."""

import argparse
import sys
from typing import Any

from heliostat.commands.terminal.live import add_profile, line, target_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument("job", nargs="?", help="a job's id, or the name of a run (default: the latest job)")
    parser.add_argument("-f", "--follow", action="store_true", help="follow until the job ends, and exit with its result")
    parser.epilog = """example: heliostat logs gpu -f (output is kept on the storage, where that of jobs of
        earlier clusters and of scheduled runs is read)"""


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.jobs.follow import check, follow, to_stream
    from heliostat.cluster.targets.run import latest, look_for, unless_busy

    target = target_of(args)
    dashboard, known = _live(target)
    if not (known if args.job is None else args.job in known):
        return _show_kept(target.profile, args, known)
    job = latest(dashboard, args.job, args.profile)
    write = to_stream()
    if not args.follow:
        write(dashboard.logs(job.id))
        return 0
    with line() as shown:
        again = f"heliostat logs {args.profile} {job.id} -f"
        look = unless_busy(dashboard, look_for(target, dashboard, job.id))
        check(follow(dashboard, job.id, write, shown.say, look, again), job.id)
    return 0


def _live(target: Any) -> tuple[Any, list[str]]:
    """The dashboard and the ids of its jobs; none without a running cluster."""
    from heliostat.cluster.errors import NotFound, Unreachable

    try:
        dashboard = target.dashboard()
        return dashboard, [job.id for job in dashboard.submissions()]
    except (NotFound, Unreachable):
        return None, []


def _show_kept(profile: Any, args: argparse.Namespace, known: list[str]) -> int:
    """Print the kept output of a job; returns 0, or with ``--follow`` the exit code of the job, 75 if that is not known.

    Raises:
        UserError: there is none.
    """
    import tempfile
    from pathlib import Path

    from heliostat.cluster.targets.kept import RECORDS, chosen, kept_jobs
    from heliostat.cluster.targets.storage import opened
    from heliostat.config import nearest
    from heliostat.console import err, minute
    from heliostat.errors import ContactLost, UserError

    with tempfile.TemporaryDirectory(prefix="heliostat-") as scratch, line() as shown:
        with opened(profile, shown.say) as storage:
            storage.fetch([RECORDS], Path(scratch))
            jobs = kept_jobs(Path(scratch))
            job = chosen(jobs, profile.name, args.job)
            if job is None:
                what = f"{args.profile} has no job {args.job}" if args.job else f"no job of {args.profile} has been kept"
                names = [*known, *(job.id for job in jobs), *(job.run for job in jobs if job.run)]
                start = f"heliostat train CONFIG --on {args.profile}"
                raise UserError(what, nearest(args.job, names) if args.job and names else start)
            storage.fetch([job.pattern], Path(scratch))
        shown.clear()
        output = job.output(Path(scratch))
    began = minute(job.started)
    ended = f"ended with exit code {job.exit_code}" if job.ended else "has no end: it runs, or was lost with its node"
    err.print(f"heliostat: kept output of {job.id}, which began at {began}, and {ended}", highlight=False, soft_wrap=True)
    sys.stdout.write(output.decode(errors="replace"))
    sys.stdout.flush()
    if not args.follow:
        return 0
    return ContactLost.exit_code if job.exit_code is None else job.exit_code
