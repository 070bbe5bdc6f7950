"""heliostat status: shows a cluster's groups, nodes, jobs and price, and who did what with it."""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from heliostat.commands.cost.nodes_record import add_since, copied, period
from heliostat.commands.terminal.live import add_profile, line, target_of
from heliostat.wording import counted

EVERY = 2.0
WIDE = 1000
"""Columns of a line where there is no terminal."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_profile(parser)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--watch", action="store_true", help="show one live screen, refreshed every two seconds, until Ctrl-C")
    shape.add_argument("--history", action="store_true", help="show who did what and when, from the cluster's own record")
    add_since(parser, "30d; only with --history")
    parser.add_argument("--json", action="store_true", help="print one JSON document; with --watch a line for each look")
    parser.epilog = "examples: heliostat status gpu --watch; heliostat status gpu --history --since 7d"


def run(args: argparse.Namespace) -> int:
    from heliostat.cluster.targets.budget import seen
    from heliostat.console import out, print_json
    from heliostat.errors import UserError

    if args.since and not args.history:
        raise UserError("--since is only for the history", "add --history, or leave --since out")
    target = target_of(args)
    if args.history:
        _history(args, target)
    elif args.watch:
        _watch(target, args.json)
    elif args.json:
        budgets, unknown = seen(target)
        spent = {"budgets": [dataclasses.asdict(each) for each in budgets], "budgets_unknown": unknown}
        print_json({**_document(target.state()), **spent})
    else:
        out.print(_page(target.state()))
        budgets, unknown = seen(target)
        for text in [*(each.text for each in budgets), *filter(None, [unknown])]:
            out.print(text, highlight=False, markup=False, soft_wrap=True)
    return 0


def _history(args: argparse.Namespace, target: Any) -> None:
    from heliostat.cluster.in_pod.record import read
    from heliostat.cluster.targets import history
    from heliostat.console import err, print_json, print_table

    of = period(args)
    waiting = history.waiting_at(target)  # before the storage is read: the recorder takes them from here to there
    with line() as shown, copied(target.profile, of, shown.say) as (_, folder, _):
        files = {str(path): path.read_bytes() for path in folder.glob("*/*.*")}
    actions, damaged = history.stored({name: data for name, data in files.items() if name.endswith(".action")})
    record = read(files)
    found = history.events([*({**dict(waiting), **actions}).values()], record)
    found = [event for event in found if event.at >= of.begin]
    if args.json:
        print_json({"events": [dataclasses.asdict(event) for event in found], "damaged": damaged})
    elif found:
        columns = ("when", "who", "what", "which", "from", "command")
        print_table(columns, [(_when(each.at), *dataclasses.astuple(each)[1:]) for each in found])
    else:
        err.print(f"the record of {target.name} has nothing in that time", highlight=False)
    if damaged or (record and record.damaged):
        damaged_files = record.damaged if record else 0
        what = f"{counted(damaged, 'damaged action')} and {counted(damaged_files, 'damaged file')} of the record"
        err.print(f"not in it: {what}", highlight=False)


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _document(state: Any) -> dict[str, Any]:
    return {**dataclasses.asdict(state), "gpus_used": state.gpus_used, "gpus_paid": state.gpus_paid, "price": state.price}


def _watch(target: Any, as_json: bool) -> None:
    """Show the screen until Ctrl-C: live on a terminal, else one block of lines after the other; or lines of JSON."""
    from heliostat.cluster.errors import Unreachable
    from heliostat.commands.terminal.screen import screen
    from heliostat.console import out

    state, at, outdated = target.state(), time.time(), ""
    live = out.is_terminal and not out.is_dumb_terminal
    try:
        with _shown(live and not as_json) as show:
            while True:
                if as_json:
                    print(json.dumps({**_document(state), "at": at, "outdated": outdated}, default=str), flush=True)
                else:
                    # One line less than the terminal has: the cursor is below the last one.
                    width, height = (out.width, out.height - 1) if live else (WIDE, None)
                    show(screen(state, at, width, height, outdated))
                time.sleep(EVERY)
                try:
                    state, at, outdated = target.state(), time.time(), ""
                except Unreachable as error:  # it may answer again
                    outdated = error.what
    except KeyboardInterrupt:
        return


@contextmanager
def _shown(live: bool) -> Iterator[Callable[[list[str]], None]]:
    """A function that shows lines, on a terminal instead of those before."""
    from rich.live import Live
    from rich.text import Text

    from heliostat.console import out

    def text(lines: list[str]) -> Text:
        return Text("\n").join(Text(line, "bold" if n == 0 else "", no_wrap=True) for n, line in enumerate(lines))

    if not live:
        yield lambda lines: out.print("\n".join([*lines, ""]), soft_wrap=True)
        return
    # Refreshed only with new data: on a slow connection the terminal would flicker.
    with Live(console=out, auto_refresh=False) as screen:
        yield lambda lines: screen.update(text(lines), refresh=True)


def _page(state: Any) -> Any:
    from rich.console import Group
    from rich.text import Text

    title = f"{state.name}  {state.state}" + (f"  Ray {state.ray_version}" if state.ray_version else "")
    parts: list[Any] = [Text(title, style="bold")]
    if state.detail:
        parts.append(Text(f"  {state.detail}"))
    if state.dashboard:
        parts.append(Text(f"  dashboard {state.dashboard}"))
    if state.state == "absent":
        return Group(*parts, Text(f"  create it: heliostat up {state.name}"))
    rows = [(g.name, g.desired, g.ready, g.idle, f"{g.min} to {g.max}", f"{g.price:.2f}", g.why) for g in state.groups]
    parts.append(_table(("group", "desired", "ready", "idle", "limits", "$/h a node", "waits for"), rows))
    if state.nodes:
        parts.append(
            _table(("node", "group", "host", "state", "GPUs used", "CPUs used"), [_node(node) for node in state.nodes])
        )
    if state.jobs_unknown:
        parts.append(Text(f"its jobs are not known: {state.jobs_unknown}"))
    jobs = sorted(state.jobs, key=lambda job: -(job.started or 0))[:8]
    if jobs:
        rows = [(*_job(job), state.waits.get(job.id, "").removeprefix("waits for ")) for job in jobs]
        parts.append(_table(("job", "status", "for", "what", "waits for"), rows))
        parts += [Text(f"{job.id}: {job.said}") for job in jobs if job.said]
    parts.append(Text(f"GPUs {state.gpus_used:g} used of {state.gpus_paid} paid for; now ${state.price:.2f} an hour"))
    return Group(*parts)


def _node(node: Any) -> tuple[str, ...]:
    idle = f", idle {node.idle_seconds:.0f} s" if node.idle_seconds else ""
    gpus = f"{node.gpus_used:g} of {node.gpus}" if node.gpus else ""
    cpus = f"{node.cpus_used:g} of {node.cpus:g}" if node.cpus else ""
    return node.name, node.group, node.host, f"{node.state}{idle}", gpus, cpus


def _job(job: Any) -> tuple[str, ...]:
    from heliostat.commands.terminal.screen import work_of
    from heliostat.console import duration

    seconds = (job.ended or time.time()) - job.started if job.started else 0
    kind = work_of(job)
    return job.id, job.status, duration(seconds), kind if len(kind) < 70 else f"{kind[:67]}..."


def _table(columns: tuple[str, ...], rows: list[Any]) -> Any:
    """A table; the last column is left out if nothing is in it."""
    from rich.table import Table
    from rich.text import Text

    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    return table
