"""Replays jobs with the autoscaler of Ray itself, to hold the fast model against it.

When nodes are requested and removed is Ray's decision, as it is made every five seconds. When jobs start is that of the fast
model's queue: first in, first out or first fit, all parts of a job at once, best fit. Jobs here claim nothing: any node with
room serves the first job that waits. Interruptions are left out.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from heliostat.cluster.planner.fleet import GroupOutcome, Outcome, fleet_of
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.ray_scheduler import NodeView, RayScheduler
from heliostat.cluster.planner.shapes import Shape, shapes_of
from heliostat.cluster.profile import Profile

INTERVAL = 5.0
"""Seconds between two decisions, Ray's ``AUTOSCALER_UPDATE_INTERVAL_S``."""


@dataclass(eq=False)
class _Node:
    id: str
    group: int
    free: int
    since: float
    up: bool = False


class _Spent:
    """What the nodes of a group have done."""

    def __init__(self) -> None:
        self.starting = self.busy = self.idle = self.gpu_seconds = 0.0
        self.starts = self.peak = self.count = 0


def replay(
    jobs: Jobs, profile: Profile, first_fit: bool = False, progress: Callable[[int], None] = lambda done: None
) -> Outcome:
    """The outcome with Ray's decisions, 2 to 20 ms each, of which a job needs about four.

    Args:
        jobs: all of which fit.
        profile: of a Kubernetes cluster.
        first_fit: as in a `heliostat.cluster.planner.fleet.Fleet`.
        progress: is called with the number of jobs that have ended.
    """
    return _Replay(jobs, profile, first_fit).run(progress)


class _Replay:
    def __init__(self, jobs: Jobs, profile: Profile, first_fit: bool) -> None:
        self.first_fit = first_fit
        self.jobs, self.fleet, self.ray = jobs, fleet_of(profile), RayScheduler(profile)
        self.shapes = list(shapes_of(jobs, self.fleet))
        self.now = self.begin = float(jobs.submitted[0])
        self.nodes: dict[str, _Node] = {}
        self.spent = [_Spent() for _ in self.fleet.groups]
        self.queue: list[int] = []
        self.waits, self.ends = np.full(len(jobs), np.nan), np.full(len(jobs), np.nan)
        self.ended = self.made = 0
        self.decision_at = math.inf
        self.changed = False
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        for number, group in enumerate(self.fleet.groups):
            for _ in range(group.least):
                self._up(self._new(number))

    def run(self, progress: Callable[[int], None]) -> Outcome:
        for row, when in enumerate(self.jobs.submitted.tolist()):
            self._at(when, partial(self._submit, row))
        while self.ended < len(self.jobs):
            self.now = self.events[0][0]
            self.changed = False
            while self.events and self.events[0][0] == self.now:
                heapq.heappop(self.events)[2]()
            self._start_jobs()
            if self.changed:
                self._plan_decision(self.now)
            if not self.ended % 100:
                progress(self.ended)
        return self._outcome()

    def _at(self, when: float, event: Callable[[], None]) -> None:
        self.made += 1
        heapq.heappush(self.events, (when, self.made, event))

    def _plan_decision(self, after: float) -> None:
        when = (math.floor(after / INTERVAL) + 1) * INTERVAL
        if when < self.decision_at:
            self.decision_at = when
            self._at(when, partial(self._decide, when))

    def _decide(self, planned: float) -> None:
        if planned != self.decision_at:
            return
        self.decision_at = math.inf
        decision = self.ray.decide(
            [self._view(node) for node in self.nodes.values()], [self._demand(row) for row in self.queue]
        )
        for name in decision.terminate:
            self._remove(self.nodes.pop(name))
        numbers = {group.name: number for number, group in enumerate(self.fleet.groups)}
        for name, count in decision.launch.items():
            for _ in range(count):
                node = self._new(numbers[name])
                self.spent[node.group].starts += 1
                self._at(self.now + self.fleet.groups[node.group].start_seconds, partial(self._up, node))
        idle = [node.since + self.fleet.groups[node.group].idle_seconds for node in self.nodes.values() if self._is_idle(node)]
        if later := [when for when in idle if when > self.now]:
            self._at(min(later), self._change)

    def _change(self) -> None:
        """What the next decision depends on is different."""
        self.changed = True

    def _submit(self, row: int) -> None:
        self.changed = True
        self.queue.append(row)

    def _view(self, node: _Node) -> NodeView:
        idle = self.now - node.since if self._is_idle(node) else None
        return NodeView(node.id, self.fleet.groups[node.group].name, node.up, node.free, idle)

    def _demand(self, row: int) -> tuple[str, list[float]]:
        shape = self.shapes[row][0]
        resource = "GPU" if self.fleet.groups[shape.group].gpus else "CPU"
        return resource, [float(units) for count, units in shape.parts for _ in range(count)]

    def _is_idle(self, node: _Node) -> bool:
        return node.up and node.free == self.fleet.groups[node.group].units

    def _new(self, group: int) -> _Node:
        self.made += 1
        node = _Node(f"n{self.made}", group, self.fleet.groups[group].units, self.now)
        self.nodes[node.id] = node
        spent = self.spent[group]
        spent.count += 1
        spent.peak = max(spent.peak, spent.count)
        return node

    def _up(self, node: _Node) -> None:
        self.changed = True
        self._account(node)
        node.up = True

    def _remove(self, node: _Node) -> None:
        self.spent[node.group].count -= 1
        self._account(node)

    def _account(self, node: _Node) -> None:
        """Add the time in its state, which ends."""
        spent, seconds = self.spent[node.group], self.now - node.since
        if not node.up:
            spent.starting += seconds
        elif self._is_idle(node):
            spent.idle += seconds
        else:
            spent.busy += seconds
        node.since = self.now

    def _start_jobs(self) -> None:
        left: list[int] = []
        for row in self.queue:
            claim = self._room(self.shapes[row]) if self.first_fit or not left else []
            if not claim:
                left.append(row)
                continue
            self.waits[row] = self.now - self.jobs.submitted[row]
            for node, units in claim:
                if self._is_idle(node):
                    self._account(node)
                node.free -= units
            self._at(self.now + float(self.jobs.seconds[row]), partial(self._end, row, claim))
        self.queue = left

    def _room(self, shapes: tuple[Shape, ...]) -> list[tuple[_Node, int]]:
        """Nodes for all parts of a job, the fullest that have room; empty if there is no room."""
        for shape in shapes:
            free = {node: node.free for node in self.nodes.values() if node.up and node.group == shape.group}
            claim: list[tuple[_Node, int]] = []
            for units in [units for count, units in shape.parts for _ in range(count)]:
                if not (fits := [node for node, left in free.items() if left >= units]):
                    break
                node = min(fits, key=lambda node: (free[node], -node.since))
                free[node] -= units
                claim.append((node, units))
            else:
                return claim
        return []

    def _end(self, row: int, claim: list[tuple[_Node, int]]) -> None:
        self.changed = True
        self.ended += 1
        self.ends[row] = self.now
        self.spent[claim[0][0].group].gpu_seconds += float(self.jobs.gpus[row] * self.jobs.seconds[row])
        for node, units in claim:
            if node.free + units == self.fleet.groups[node.group].units:
                self._account(node)
            node.free += units

    def _outcome(self) -> Outcome:
        for node in self.nodes.values():
            self._account(node)
        groups = tuple(
            GroupOutcome(
                group.name,
                group.price,
                group.gpus,
                spent.starting,
                spent.busy,
                spent.idle,
                spent.gpu_seconds,
                spent.starts,
                spent.peak,
            )
            for group, spent in zip(self.fleet.groups, self.spent, strict=True)
        )
        seconds = self.now - self.begin
        times, head = self.ends - self.jobs.submitted, seconds / 3600 * self.fleet.head_price
        return Outcome(groups, self.waits, times, np.array([], np.int64), seconds, head, 0.0)
