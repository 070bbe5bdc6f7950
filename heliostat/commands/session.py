"""heliostat session: forwards a cluster's dashboard and Ray Client to this machine until Ctrl-C."""

import argparse
import sys
import time
from typing import Any

from heliostat.commands.job.options import add_over_budget
from heliostat.commands.terminal.live import add_profile, line, note, target_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument("--port", type=int, default=0, help="the local port of the dashboard (default: any free one)")
    parser.add_argument("--client-port", type=int, default=0, help="the local port of Ray Client (default: any free one)")
    add_over_budget(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document, and keep the session open until Ctrl-C")
    parser.epilog = "example: heliostat session gpu --port 8265"


def run(args: argparse.Namespace) -> int:
    target = target_of(args)
    if target.profile.platform == "local":
        from heliostat.cluster.targets.budget import Guard
        from heliostat.cluster.targets.session import Session
        from heliostat.errors import UserError

        if args.port or args.client_port:
            raise UserError(
                "--port and --client-port are for Kubernetes: a cluster on this machine has ports of its own",
                f"leave them out; the dashboard is {target.dashboard().endpoint.url}",
            )
        with line() as shown:
            Guard(target, shown.say, args.over_budget, "session").check()
        note(target, "session")
        _show(Session(target.name, target.dashboard().endpoint.url, target.client_address, target.environment), args)
    else:
        _run(target, args)
    return 0


def _run(target: Any, args: argparse.Namespace) -> None:
    from heliostat.cluster.targets.budget import Guard
    from heliostat.cluster.targets.session import opened, watch
    from heliostat.console import err
    from heliostat.interrupts import interrupts

    def say(text: str) -> None:
        err.print(text, highlight=False, markup=False, soft_wrap=True)

    # Ctrl-C, or SIGTERM from a program, is the normal end of a session.
    with (
        interrupts() as received,
        line() as shown,
        opened(
            target,
            shown.say,
            args.port,
            args.client_port,
            lambda: Guard(target, shown.say, args.over_budget, "session").check(),
        ) as parts,
    ):
        session, forward, mismatches = parts
        note(target, "session")
        shown.say("")
        for mismatch in mismatches:
            say(f"warning: {mismatch}")
        _show(session, args)
        say("Ctrl-C ends the session; the cluster keeps running")
        for text in watch(target, forward, lambda: bool(received)):
            say(f"{time.strftime('%H:%M:%S')} {text}")


def _show(session: Any, args: argparse.Namespace) -> None:
    from heliostat.console import out, print_json

    if args.json:
        print_json(session.document)
    else:
        parts = [f"dashboard   {session.dashboard}"]
        if path := session.environment.get("RAY_AUTH_TOKEN_PATH"):
            parts.append(f"            its token is in {path}")
        parts += [f"Ray Client  {session.client}", f"\nin a shell:\n\n{session.shell}", f"\nin Python:\n\n{session.python}\n"]
        out.print("\n".join(parts), highlight=False, markup=False, soft_wrap=True)
    sys.stdout.flush()  # a reader of a pipe must not wait for the end of the session
