"""heliostat logs: shows the output of a job."""

import argparse

from heliostat.commands.live import add_profile, line, target_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument("job", nargs="?", help="a job's id (default: the latest job)")
    parser.add_argument("-f", "--follow", action="store_true", help="follow until the job ends, and exit with its result")
    parser.epilog = "example: heliostat logs gpu -f"


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.jobs.follow import check, follow, to_stream
    from heliostat.cluster.targets.run import latest, unless_busy

    target = target_of(args)
    dashboard = target.dashboard()
    job = latest(dashboard, args.job, args.profile)
    write = to_stream()
    if not args.follow:
        write(dashboard.logs(job.id))
        return 0
    with line() as shown:
        again = f"heliostat logs {args.profile} {job.id} -f"
        check(follow(dashboard, job.id, write, shown.say, unless_busy(dashboard, target.look()), again), job.id)
    return 0
