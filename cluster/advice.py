"""What to change in a profile, from replaying the record of its nodes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from heliostat.cluster.in_pod.record import Interval, Record
from heliostat.cluster.profile import Profile, WorkerGroup
from heliostat.console import dollars
from heliostat.wording import counted

CANDIDATES = (5, 10, 15, 30, 60, 120, 300)
"""Seconds of idleness that are tried."""
WORTH = 0.01
"""The smallest saving that is named, as a share of the whole cost."""


@dataclass(frozen=True)
class Advice:
    """A change of a group's ``idle_seconds``, and what it would have done."""

    group: str
    now: int
    instead: int
    saved: float
    share: float
    """Of the cost of the whole cluster."""
    idle_nodes: int
    """How often a node was idle for longer."""
    starts: int
    """How often a node would have had to start again, for which work would have waited."""
    start_seconds: float
    """The mean time that a node of the group took to start."""

    @property
    def text(self) -> str:
        """The advice in a sentence."""
        times = "once" if self.idle_nodes == 1 else f"{self.idle_nodes} times"
        waits = f", with {counted(self.starts, 'more start')} of about {self.start_seconds:.0f} s" if self.starts else ""
        return (
            f"group {self.group} was idle for more than {self.instead} s {times}: idle_seconds: {self.instead} "
            f"instead of {self.now} would have saved {dollars(self.saved)} ({self.share:.0%}){waits}"
        )


def advice(record: Record, profile: Profile) -> list[Advice]:
    """The best ``idle_seconds`` of each group, where it would have saved something; groups with a minimum are left alone."""
    whole = sum(each.seconds / 3600 * (each.price or 0.0) for each in record.intervals)
    found = []
    for group in profile.groups:
        mine = [each for each in record.intervals if each.group == group.name]
        tried = [_replayed(mine, group, seconds, whole) for seconds in CANDIDATES if seconds < group.idle_seconds]
        best = max(tried, key=lambda each: each.saved, default=None)
        if best and not group.min and best.share >= WORTH:
            found.append(best)
    return found


def _replayed(intervals: Sequence[Interval], group: WorkerGroup, seconds: int, whole: float) -> Advice:
    """What the group would have cost if its nodes had ended after so many idle seconds."""
    starts = [each.seconds for each in intervals if each.state == "starting"]
    start = sum(starts) / len(starts) if starts else 0.0
    saved, idle, again = 0.0, 0, 0
    for each, followed in _idle(intervals):
        if each.seconds > seconds:
            idle += 1
            again += followed
            saved += (each.seconds - seconds - start * followed) / 3600 * (each.price or 0.0)
    return Advice(group.name, group.idle_seconds, seconds, saved, saved / whole if whole else 0.0, idle, again, start)


def _idle(intervals: Sequence[Interval]) -> Iterator[tuple[Interval, bool]]:
    """Each idle interval, and whether the node worked again after it."""
    by_node: dict[str, list[Interval]] = {}
    for each in sorted(intervals, key=lambda each: each.begin):
        by_node.setdefault(each.node, []).append(each)
    for states in by_node.values():
        for number, each in enumerate(states):
            if each.state == "idle":
                yield each, number + 1 < len(states)
