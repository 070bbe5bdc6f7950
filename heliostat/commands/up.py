"""heliostat up: creates or updates the cluster of a profile, and waits until it is ready."""

import argparse
from collections.abc import Iterable
from typing import Any

from heliostat.commands.terminal.live import add_profile, confirm, note, possible_jobs, show, target_of
from heliostat.wording import counted


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument("--yes", action="store_true", help="replace pods without asking, where a change requires it")
    parser.add_argument("--force", action="store_true", help="take over fields that another manager has set")
    parser.add_argument(
        "--adopt", action="store_true", help="take over a cluster of this name that no profile has, see profile import"
    )
    parser.epilog = "example: heliostat up gpu --set groups.gpu.max=4"


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.documents.ownership import owner_of
    from heliostat.console import out

    target = target_of(args)
    if target.profile.platform == "local":
        _show_up(target, target.up(replace=args.yes))
    else:
        steps = target.plan(args.adopt)
        for step in steps:
            for change in step.shown if step.live else []:
                out.print(f"{step.title}: {change}", highlight=False, markup=False, soft_wrap=True)
        if adopted := [f"{step.title} ({owner_of(step.live)})" for step in steps if step.adopts]:
            confirm(f"{' and '.join(adopted)} will be of this profile, with the changes above", args.yes)
        if old := target.outdated(steps):
            jobs = possible_jobs(target.state())
            stops = f", which stops its jobs: {jobs}" if jobs else ""
            names = ", ".join(pod["metadata"]["name"] for pod in old)
            confirm(f"this change replaces {counted(len(old), 'pod')} ({names}){stops}", args.yes)
        _show_up(target, target.up(steps, old, args.force))
    out.print(f"{target.name} is ready", highlight=False)
    for command in ("heliostat train CONFIG --on", "heliostat status"):
        out.print(f"  {command} {args.profile}", highlight=False, soft_wrap=True)
    return 0


def _show_up(target: Any, lines: Iterable[str]) -> None:
    """Show the start; it is in the history also if the cluster was changed, but does not get ready."""
    from heliostat.errors import NotComing

    try:
        show(lines)
    except (NotComing, KeyboardInterrupt):
        note(target, "up")
        raise
    note(target, "up")
