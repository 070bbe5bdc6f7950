"""The live screen of a cluster: what matters first, in lines that fit the terminal, and what does not fit is counted."""

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat.console import duration, printable, shortened

if TYPE_CHECKING:
    from heliostat.cluster.jobs.dashboard import Job
    from heliostat.cluster.targets.status import State

GAP, INDENT = 2, 4
LEAST = 12
"""Columns of a cell that is shortened."""
SHOWN_JOBS = 8
HIGHER = "a higher terminal has them"


@dataclass(frozen=True)
class Section:
    """A title, and the lines of each item below it."""

    name: str
    """Of its items, in the plural."""
    title: str
    items: Sequence[Sequence[str]]

    @property
    def lines(self) -> list[str]:
        """Its lines; none without a title."""
        return [self.title, *(line for item in self.items for line in item)] if self.title else []


def screen(state: "State", now: float, width: int, height: int | None, outdated: str = "") -> list[str]:
    """The lines of the screen.

    Args:
        state: of the cluster.
        now: when it was so, in seconds since the epoch.
        width: the most columns of a line; longer texts are wrapped, and names and commands have an ellipsis in their middle.
        height: the most lines; of more, nodes are left out first, then jobs, then groups, and are counted. None: no limit.
        outdated: why there is nothing newer.
    """
    head = _head(state, now, width, outdated)
    sections = [_groups(state, width), _jobs(state, now, width), _nodes(state, width)]
    left = None if height is None else height - len(head)
    for last in (2, 1, 0):
        if left is not None and (over := sum(len(each.lines) for each in sections) - left) > 0:
            sections[last] = _cut(sections[last], over)
    lines = [*head, *(line for each in sections for line in each.lines)]
    return lines if height is None else lines[:height]


def work_of(job: "Job") -> str:
    """What a job is, in one line."""
    if job.kind == "DRIVER":
        return "Ray Client or another driver"
    return " ".join(job.metadata.get("command", job.entrypoint).split())


def _cut(section: Section, over: int) -> Section:
    """A section with fewer lines, the last of which counts the items that are left out."""
    if not section.title:
        return section
    items = list(section.items)
    most = len(section.lines) - over
    while items and 2 + sum(map(len, items)) > most:
        items.pop()
    more = len(section.items) - len(items)
    if not items:
        return Section(section.name, f"... and {more} {section.name}; {HIGHER}", [])
    return Section(section.name, section.title, [*items, [f"... and {more} more {section.name}; {HIGHER}"]])


def _head(state: "State", now: float, width: int, outdated: str) -> list[str]:
    version = f"Ray {state.ray_version}" if state.ray_version else ""
    parts = [state.name, state.state, version, f"at {time.strftime('%H:%M:%S', time.localtime(now))}", "Ctrl-C ends it"]
    lines = _wrapped("  ".join(filter(None, parts)), width, 0)
    texts = [f"outdated: {outdated}" if outdated else "", state.detail]
    texts += [f"its jobs are not known: {state.jobs_unknown}" if state.jobs_unknown else ""]
    if state.state == "absent":
        return [*lines, *_wrapped(f"create it: heliostat up {state.name}", width, 2)]
    unfinished = [job for job in state.jobs if not job.done]
    waiting = sum(job.id in state.waits for job in unfinished)
    jobs = "" if state.jobs_unknown else f"  jobs {len(unfinished)}, {waiting} waiting"
    lines += [line for text in texts if text for line in _wrapped(text, width, 2)]
    gpus = f"GPUs {state.gpus_used:g} used of {state.gpus_paid} paid for"
    return lines + _wrapped(f"{gpus}  nodes {len(state.nodes)}{jobs}  ${state.price:.2f} an hour", width, 0)


def _groups(state: "State", width: int) -> Section:
    rows, notes = [], []
    for group in state.groups:
        mine = [node for node in state.nodes if node.group == group.name]
        used, gpus = sum(node.gpus_used for node in mine), sum(node.gpus for node in mine)
        rows.append(
            (group.name, str(group.desired), str(group.ready), str(group.idle), f"{group.min} to {group.max}",
             f"{used:g} of {gpus}" if gpus else "", f"{sum(node.price for node in mine):.2f}")
        )  # fmt: skip
        notes.append([group.why])
    return _section("groups", ("group", "desired", "ready", "idle", "limits", "GPUs used", "$/h"), rows, notes, 0, width)


def _jobs(state: "State", now: float, width: int) -> Section:
    """The jobs, those that have not finished first, and of the others the latest."""
    found = sorted(state.jobs, key=lambda job: (job.done, -(job.started or 0)))
    unfinished = sum(not job.done for job in found)
    rows, notes = [], []
    for job in found[: max(unfinished, SHOWN_JOBS)]:
        seconds = (job.ended or now) - job.started if job.started else 0.0
        rows.append((job.id, job.status, duration(max(0.0, seconds)), work_of(job)))
        notes.append([state.waits.get(job.id, ""), job.said])
    return _section("jobs", ("job", "status", "for", "what"), rows, notes, 3, width)


def _nodes(state: "State", width: int) -> Section:
    rows = []
    for node in state.nodes:
        idle = f", idle {node.idle_seconds:.0f} s" if node.idle_seconds else ""
        gpus, cpus = (f"{used:g} of {all_:g}" if all_ else "" for used, all_ in
                      ((node.gpus_used, node.gpus), (node.cpus_used, node.cpus)))  # fmt: skip
        rows.append((node.name, node.group, f"{node.state}{idle}", gpus, cpus))
    return _section("nodes", ("node", "group", "state", "GPUs used", "CPUs used"), rows, [[] for _ in rows], 0, width)


def _section(
    name: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], notes: list[list[str]], flexible: int, width: int
) -> Section:
    """A table whose cells in one column are shortened where a row would not fit; each row with its notes, wrapped."""
    cells = [[printable(text) for text in row] for row in (columns, *rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(columns))]
    widths[flexible] = min(widths[flexible], max(LEAST, width - sum(widths) + widths[flexible] - GAP * (len(columns) - 1)))
    lines = []
    for row in cells:
        row[flexible] = shortened(row[flexible], widths[flexible])
        text = (" " * GAP).join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        lines.append([text] if len(text) <= width else _wrapped((" " * GAP).join(filter(None, row)), width, 0))
    items = [
        [*line, *(part for note in of if note for part in _wrapped(printable(note), width, INDENT))]
        for line, of in zip(lines[1:], notes, strict=True)
    ]
    title = (lines[0][0] if len(lines[0]) == 1 else name) if items else ""
    return Section(name, title, items)


def _wrapped(text: str, width: int, indent: int) -> list[str]:
    """A text in lines of at most so many columns."""
    space = " " * indent
    found = textwrap.wrap(
        text, width, initial_indent=space, subsequent_indent=" " * INDENT, break_on_hyphens=False, drop_whitespace=True
    )
    return found or [""]
