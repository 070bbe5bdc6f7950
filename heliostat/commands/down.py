"""heliostat down: deletes a cluster; its runs stay in storage."""

import argparse

from heliostat.commands.terminal.live import add_profile, confirm, line, note, possible_jobs, target_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask, even if jobs are running, or may be")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until all pods are deleted")
    parser.epilog = "example: heliostat down gpu --yes"


def run(args: argparse.Namespace) -> int:
    from heliostat.console import out

    target = target_of(args)
    # What the question is about: an object that has the same name afterwards is not deleted.
    objects = () if target.profile.platform == "local" else (target.deletable(),)
    if not args.yes and (jobs := possible_jobs(target.state())):
        confirm(f"deleting {target.name} stops its jobs: {jobs}", args.yes)
    with line() as shown:
        note(target, "down", last=True)
        shown.say(f"deleting {target.name}")
        deleted = target.down(0 if args.no_wait else 120, *objects)
    out.print(f"deleted {', '.join(deleted)}" if deleted else f"cluster {target.name} does not exist", highlight=False)
    return 0
