"""heliostat down: deletes a cluster; its runs stay in storage."""

import argparse

from heliostat.commands.live import add_profile, confirm, line, target_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask, even if jobs are running")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until all pods are deleted")


def run(args: argparse.Namespace) -> int:
    from heliostat.console import out

    target = target_of(args)
    if not args.yes and (running := [job.id for job in target.state().jobs if not job.done]):
        confirm(f"{target.name} still runs {len(running)} jobs: {', '.join(running)}", args.yes)
    with line() as shown:
        shown.say(f"deleting {target.name}")
        deleted = target.down(0 if args.no_wait else 120)
    out.print(f"deleted {', '.join(deleted)}" if deleted else f"cluster {target.name} does not exist", highlight=False)
    return 0
