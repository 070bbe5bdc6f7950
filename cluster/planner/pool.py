"""The nodes of one group in the fast model: which have room, and what their time was spent on."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from heliostat.cluster.planner.fleet import GroupOutcome, NodeGroup

HOURS = 168
"""Of a week."""
RUNNING, STARTING, NEW = 0, 1, 2
"""How far a claim may go: nodes that are up, also those that start, also those that must be requested first."""


def hour_of(seconds: float) -> int:
    """The hour of the week."""
    return int(seconds // 3600) % HOURS


class Node:
    """A node from its request until it goes."""

    __slots__ = ("free", "gone", "jobs", "pool", "since", "up")

    def __init__(self, pool: "Pool", now: float) -> None:
        self.pool, self.free, self.since = pool, pool.size, now
        self.up = self.gone = False
        self.jobs: dict[Any, None] = {}
        """The jobs that run on it or claim it, in the order in which they came."""


Claim = list[tuple[Node, int]]
"""Nodes, and the units of each."""


class Bins:
    """Nodes by their free units; finds the one with the least that is enough, of several the last that was added."""

    def __init__(self, size: int) -> None:
        # Not a plain dict: the first or last key of one from which many were deleted takes a search.
        self._at: list[OrderedDict[Node, None]] = [OrderedDict() for _ in range(size + 1)]
        self._filled = 0
        """Bit n is set if there is a node with n free units."""

    def add(self, node: Node) -> None:
        self._at[node.free][node] = None
        self._filled |= 1 << node.free

    def remove(self, node: Node) -> None:
        nodes = self._at[node.free]
        del nodes[node]
        if not nodes:
            self._filled &= ~(1 << node.free)

    def find(self, units: int) -> Node | None:
        enough = self._filled >> units
        if not enough:
            return None
        return next(reversed(self._at[units + (enough & -enough).bit_length() - 1]))

    @property
    def empty(self) -> OrderedDict[Node, None]:
        """The nodes without any job, that which has been so for longest first."""
        return self._at[-1]


class Pool:
    """The nodes of one group."""

    def __init__(self, group: NodeGroup, now: float) -> None:
        self.group, self.size = group, group.units
        self.running, self.starting = Bins(self.size), Bins(self.size)
        self.least = group.least
        """Nodes that are kept now."""
        if group.hours:
            self.least = max(group.least, group.hours[hour_of(now)])
        self.count = self.peak = self.least
        self.starts = self.interruptions = 0
        self.seconds = {"starting": 0.0, "busy": 0.0, "idle": 0.0}
        self.gpu_seconds = 0.0
        self.requested: list[Node] = []
        """Nodes that were requested since the simulation last looked."""
        for _ in range(self.least):
            node = Node(self, now)
            node.up = True
            self.running.add(node)

    def claim(self, parts: Sequence[tuple[int, int]], reach: int, now: float) -> Claim | None:
        """Room for all parts of a job, or None, and then nothing has changed."""
        claim: Claim = []
        for count, units in parts:
            if units == self.size and count > self._empty(reach):
                break
            for _ in range(count):
                node = self._find(units, reach, now)
                if node is None:
                    break
                self._take(node, units, now)
                claim.append((node, units))
            else:
                continue
            break
        else:
            return claim
        for node, units in claim:
            self.give(node, units, now)
        return None

    def _empty(self, reach: int) -> int:
        """How many whole nodes could be claimed."""
        found = len(self.running.empty)
        if reach >= STARTING:
            found += len(self.starting.empty)
        return found + self.group.most - self.count if reach >= NEW else found

    def _find(self, units: int, reach: int, now: float) -> Node | None:
        node = self.running.find(units)
        if node is None and reach >= STARTING:
            node = self.starting.find(units)
        if node is None and reach >= NEW and self.count < self.group.most:
            node = self.request(now)
        return node

    @property
    def full(self) -> bool:
        """Whether no job can claim anything."""
        return self.count >= self.group.most and self.running.find(1) is None and self.starting.find(1) is None

    def request(self, now: float) -> Node:
        """A new node, which starts."""
        node = Node(self, now)
        self.requested.append(node)
        self.starting.add(node)
        self.starts += 1
        self.count += 1
        self.peak = max(self.peak, self.count)
        return node

    def _take(self, node: Node, units: int, now: float) -> None:
        bins = self.running if node.up else self.starting
        bins.remove(node)
        if node.up and node.free == self.size:
            self._spend("idle", node, now)
        node.free -= units
        bins.add(node)

    def give(self, node: Node, units: int, now: float) -> None:
        """Free what a job has had of a node."""
        bins = self.running if node.up else self.starting
        bins.remove(node)
        node.free += units
        if node.up and node.free == self.size:
            self._spend("busy", node, now)
        bins.add(node)

    def arrive(self, node: Node, now: float) -> None:
        """A node is up."""
        self.starting.remove(node)
        self._spend("starting", node, now)
        node.up = True
        self.running.add(node)

    def remove(self, node: Node, now: float) -> None:
        """A node goes."""
        self.running.remove(node)
        self._spend("idle" if node.free == self.size else "busy", node, now)
        node.gone = True
        self.count -= 1

    def release(self, until: float, now: float) -> None:
        """Remove the nodes whose idle time-out ends before ``until``; not before ``now``, until which they were held."""
        idle = self.running.empty
        while idle and self.count > self.least:
            node = next(iter(idle))
            end = max(now, node.since + self.group.seconds_after)
            if end >= until:
                break
            self.remove(node, end)

    def close(self, now: float) -> None:
        """Account for the nodes that are left after the last job: the fewest go with it, others after their time-out."""
        kept = self.least
        nodes = [*self.running.empty, *self.starting.empty]
        for number, node in enumerate(nodes):
            if number >= len(nodes) - kept:
                self._spend("idle" if node.up else "starting", node, now)
            elif node.up:
                self._spend("idle", node, node.since + self.group.seconds_after)
            else:
                self.seconds["starting"] += self.group.start_seconds
                self.seconds["idle"] += self.group.seconds_after

    def _spend(self, state: str, node: Node, now: float) -> None:
        self.seconds[state] += now - node.since
        node.since = now

    @property
    def outcome(self) -> GroupOutcome:
        """What its nodes have done."""
        return GroupOutcome(
            self.group.name, self.group.price, self.group.gpus, self.seconds["starting"], self.seconds["busy"],
            self.seconds["idle"], self.gpu_seconds, starts=self.starts, peak=self.peak, interruptions=self.interruptions,
        )  # fmt: skip
