"""heliostat cost: the cost of a cluster's nodes, compared with the same groups always at their maximum."""

import argparse
import dataclasses
import re
import time
from typing import Any

from heliostat.commands.live import add_profile, target_of

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    parser.add_argument(
        "--since", metavar="TIME", help="the start, as an age such as 90m, 2h or 7d, or as a time (default: the head's start)"
    )
    parser.add_argument("--until", metavar="TIME", help="the end, given in the same way (default: now)")
    parser.add_argument("--json", action="store_true", help="print one JSON document, with each node")
    parser.epilog = "example: heliostat cost gpu --since 8h"


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.cost import cost_report, node_lifetimes
    from heliostat.console import print_json
    from heliostat.errors import UserError

    now = time.time()
    since, until = _moment("--since", args.since, now), _moment("--until", args.until, now)
    if (until or now) > now or (since is not None and since >= (until or now)):
        raise UserError("--since and --until are not a period in the past", "give --since before --until, and both in the past")
    target = target_of(args)
    if (state := target.state().state) in ("absent", "suspended"):
        raise UserError(
            f"{target.name} is {state}, and the record of its nodes was deleted with its head", f"heliostat up {target.name}"
        )
    found = cost_report(target.profile, node_lifetimes(target.dashboard()), now, since, until)
    if args.json:
        print_json({"name": target.name, **dataclasses.asdict(found), "cost": found.cost, "static": found.static})
    else:
        _show(target.name, found)
    return 0


def _show(name: str, found: Any) -> None:
    from heliostat.console import clock, duration, out, print_table

    since, until = clock(found.since), clock(found.until)
    out.print(f"{name}, {since} to {until} ({duration(found.until - found.since)})", highlight=False, markup=False)
    rows = [(g.name, g.nodes, g.node_seconds / 3600, g.gpu_seconds / 3600, g.price, g.cost, g.static) for g in found.groups]
    columns = ("group", "nodes", "node-hours", "GPU-hours", "$/h a node", "cost $", "always at max $")
    print_table(columns, [*rows, ("all", "", "", "", "", found.cost, found.static)])
    if found.static:
        less = 1 - found.cost / found.static
        out.print(f"{less:.0%} less than the same groups always at their maximum", highlight=False)


def _moment(flag: str, text: str | None, now: float) -> float | None:
    """A time, or an age such as 2h, in seconds since the epoch."""
    from datetime import datetime

    from heliostat.errors import UserError

    if text is None:
        return None
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text):
        return now - float(match[1]) * UNITS[match[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UserError(
            f"{flag} is {text}, which is not a time", "give an age such as 90m, 2h or 7d, or a time such as 2026-11-25T12:00"
        ) from None
