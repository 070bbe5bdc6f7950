"""A fleet with the times that the record of a cluster shows, instead of those that its profile states."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from statistics import fmean

from heliostat.cluster.in_pod.record import Interval, Record
from heliostat.cluster.planner.fleet import Fleet, NodeGroup

LOOK, KEPT = 5.0, 30.0
"""Seconds by which a node's idle time may differ from its time-out: the recorder sees late that it is idle; and one that stays
for longer was not released, because a job waited for further nodes."""


def measured(fleet: Fleet, record: Record) -> Fleet:
    """The fleet with the mean start of each group's nodes, and the mean time from the idle time-out until they were gone.

    ``start_seconds`` of a profile is the longest start, and a node does not go at its time-out: the autoscaler looks every few
    seconds, and the node has to end. Of a group without such nodes in the record the times stay.
    """
    return replace(fleet, groups=tuple(_measured(group, record) for group in fleet.groups))


def with_times(fleet: Fleet, real: Fleet) -> Fleet:
    """A fleet with the times of the groups of the same names in another one."""
    times = {group.name: group for group in real.groups}
    return replace(
        fleet,
        groups=tuple(
            replace(group, start_seconds=times[group.name].start_seconds, end_seconds=times[group.name].end_seconds)
            for group in fleet.groups
        ),
    )


def describe_times(fleet: Fleet, record: Record) -> Iterator[str]:
    """A sentence for each group whose times `measured` changes."""
    for stated, real in zip(fleet.groups, measured(fleet, record).groups, strict=True):
        if stated != real:
            yield (
                f"group {real.name}, by the record: {real.start_seconds:.0f} s to start (start_seconds: "
                f"{stated.start_seconds:.0f}), gone {real.end_seconds:.0f} s after idle_seconds"
            )


def _measured(group: NodeGroup, record: Record) -> NodeGroup:
    lives = list(_lives(record, group.name))
    starts = [life[0].seconds for life in lives if len(life) > 1 and life[0].state == "starting" and life[1].state != "unknown"]
    last = [_idle_at_the_end(life) for life in lives if life[-1].end < record.end]
    # A node that went before its time-out was interrupted, drained, or ended with its cluster.
    late = [seconds - group.idle_seconds for seconds in last if -LOOK < seconds - group.idle_seconds < KEPT]
    return replace(
        group,
        start_seconds=fmean(starts) if starts else group.start_seconds,
        end_seconds=max(0.0, fmean(late)) if late else group.end_seconds,
    )


def _idle_at_the_end(life: Sequence[Interval]) -> float:
    """The seconds for which a node was idle before it went; what is unknown in between counts."""
    tail = list(takewhile(lambda each: each.state in ("idle", "unknown"), reversed(life)))
    return sum(each.seconds for each in tail) if any(each.state == "idle" for each in tail) else 0.0


def _lives(record: Record, group: str) -> Iterator[Sequence[Interval]]:
    """The intervals of each node of a group, in order."""
    by_node: dict[str, list[Interval]] = {}
    for each in sorted(record.intervals, key=lambda each: each.begin):
        if each.group == group:
            by_node.setdefault(each.node, []).append(each)
    yield from by_node.values()
