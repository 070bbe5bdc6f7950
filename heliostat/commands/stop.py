"""heliostat stop: stops a job after a checkpoint."""

import argparse

from heliostat.commands.terminal.live import add_profile, line, note, target_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument("job", nargs="?", help="a job's id (default: the latest job)")
    parser.epilog = "example: heliostat stop gpu"


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.jobs.follow import follow
    from heliostat.cluster.targets.run import latest
    from heliostat.console import out

    target = target_of(args)
    dashboard = target.dashboard()
    job = latest(dashboard, args.job, args.profile)
    if job.done or not dashboard.stop(job.id):
        out.print(f"{job.id} has already ended: {dashboard.job(job.id).status}", highlight=False)
        return 0
    note(target, "stop", job.id)
    with line() as shown:
        shown.say(f"waiting for {job.id} to write its checkpoint")
        ended = follow(dashboard, job.id, lambda text: None, shown.say)
    out.print(f"{job.id}: {ended.status}", highlight=False)
    return 0
