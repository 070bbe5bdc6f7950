"""The fast model: the jobs of a trace on a fleet, event by event.

The rules:

- **Queue**: first in, first out. Jobs claim room in the order of their submission; one that finds none holds back all after it,
  gangs included (no backfilling). A claimed job starts as soon as all of its nodes are up. With ``first_fit``, as on a Ray
  cluster without a queue, it holds back only those like it: others for which there is room overtake it.
- **Gangs**: a job gets all of its GPUs at once, from one group. Larger than a node, it takes whole nodes and a part of one
  more; with ``workers``, so many equal parts, each on any node with room. What does not run but is claimed counts as busy.
- **Nodes**: of those with room, the one with the least of it (best fit), then the one that was idle for the shortest time, so
  that others reach their time-out; else one that starts; else new ones, up to ``most``. A job that waits for a node that starts
  moves to one that becomes free before, first in, first out.
- **Groups**: see `heliostat.cluster.planner.shapes`.
- **Release**: a node that is idle for ``idle_seconds``, more than ``least`` being there, and no waiting job could use it.
- **Interruptions**: the life of a spot node is exponential. Its jobs lose what they did since their last checkpoint (at
  multiples of ``checkpoint_seconds`` of their run time), return to the front of the queue, and wait again.
- **Elastic jobs** have the most GPUs of their range, half of it, and so on down to the fewest. One starts at once with the
  largest of these for which there is room on nodes that are up, else with nodes for the largest that ``most`` allows. It
  grows, by claiming nodes as a job does, whenever no job waits; each time its workers start anew, for ``resize_seconds``. Its
  speed is its GPUs to the power of ``scaling``. It gives nothing back to others until it ends or is interrupted.
- **Time**: a node is paid for from its request to its release. The ``least`` are up at the first submission and until the last
  end; the others' last time-out is included.
"""

import heapq
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from heliostat.cluster.planner.fleet import Fleet, Outcome
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.pool import NEW, RUNNING, STARTING, Claim, Node, Pool, hour_of
from heliostat.cluster.planner.shapes import sizes_of
from heliostat.cluster.planner.waiting import Lines, Run

HOUR = 3600.0
CHUNK = 65_536
"""Jobs whose columns are Python numbers at a time: fast to read, and little memory."""


def simulate(jobs: Jobs, fleet: Fleet, progress: Callable[[int], None] = lambda done: None) -> Outcome:
    """Run the jobs of a trace on a fleet; the result depends on nothing else.

    About 10 microseconds a job and event, and 8 bytes a job beyond the trace.

    Args:
        jobs: sorted by submission.
        fleet: its groups.
        progress: is called with the number of submitted jobs every now and then.
    """
    return _Simulation(jobs, fleet).run(progress)


def never_fit(jobs: Jobs, fleet: Fleet) -> list[int]:
    """The rows of the jobs that fit into no group, even when it is empty."""
    rows = (
        row
        for first in range(0, len(jobs), CHUNK)
        for row, found in enumerate(sizes_of(jobs[first : first + CHUNK], fleet), first)
        if not found
    )
    return list(rows)


class _Simulation:
    def __init__(self, jobs: Jobs, fleet: Fleet) -> None:
        self.jobs, self.fleet = jobs, fleet
        self.begin = self.now = float(jobs.submitted[0]) if len(jobs) else 0.0
        self.random = random.Random(fleet.seed)
        self.queue = Lines(fleet.first_fit)
        self.claimed = Lines(fleet.first_fit)
        """Jobs that wait for nodes that start."""
        self.growing: OrderedDict[Run, None] = OrderedDict()
        """Jobs that run with fewer GPUs than they could use."""
        self.active = self.events_made = 0
        self.events: list[tuple[float, int, Callable[..., None], Any]] = []
        self.waits, self.ends = np.zeros(len(jobs)), np.full(len(jobs), np.nan)
        self.recomputed = 0.0
        self.pools = [Pool(group, self.begin) for group in fleet.groups]
        for pool in self.pools:
            for node in list(pool.running.empty):
                self._plan_interruption(node)
            self._plan_hour(pool)

    def run(self, progress: Callable[[int], None]) -> Outcome:
        for first in range(0, len(self.jobs), CHUNK):
            self._submit_all(first, self.jobs[first : first + CHUNK])
            progress(min(first + CHUNK, len(self.jobs)))
        self._advance(float("inf"))
        for pool in self.pools:
            pool.close(self.now)
        seconds = self.now - self.begin
        return Outcome(
            tuple(pool.outcome for pool in self.pools), self.waits, self.ends - self.jobs.submitted,
            np.flatnonzero(np.isnan(self.waits)), seconds, seconds / 3600 * self.fleet.head_price, self.recomputed,
        )  # fmt: skip

    def _submit_all(self, first: int, jobs: Jobs) -> None:
        columns = zip(jobs.submitted.tolist(), jobs.seconds.tolist(), sizes_of(jobs, self.fleet), strict=True)
        for row, (submitted, seconds, found) in enumerate(columns, first):
            if not found:
                self.waits[row] = np.nan
                continue
            self._advance(submitted)
            self._submit(Run(row, seconds, found, submitted))

    def _advance(self, until: float) -> None:
        """Everything that happens up to a moment; to infinity, until no job is left."""
        events = self.events
        while events and events[0][0] <= until and (self.active or until < float("inf")):
            when, _, handle, what = heapq.heappop(events)
            self._release(when)
            self.now = when
            handle(what)
        if until < float("inf"):
            self._release(until)
            self.now = until

    def _release(self, until: float) -> None:
        heads = self.queue.heads() if self.queue.lines else ()
        waiting = [shape.group for run in heads for size in run.sizes for shape in size.shapes]
        for number, pool in enumerate(self.pools):
            if number not in waiting:
                pool.release(until, self.now)

    def _at(self, when: float, handle: Callable[..., None], what: Any) -> None:
        self.events_made += 1
        heapq.heappush(self.events, (when, self.events_made, handle, what))

    def _submit(self, run: Run) -> None:
        self.active += 1
        if self.queue.behind_others(run) or not self._claim(run):
            self.queue.add(run)

    def _claim(self, run: Run) -> bool:
        for reach in (RUNNING, STARTING, NEW):
            for at, size in enumerate(run.sizes):
                for shape in size.shapes:
                    if claim := self._take(self.pools[shape.group], shape.parts, reach):
                        run.at, run.claim = at, claim
                        self._hold(run, claim)
                        return True
        return False

    def _take(self, pool: Pool, parts: Sequence[tuple[int, int]], reach: int) -> Claim | None:
        claim = pool.claim(parts, reach, self.now)
        self._request(pool)
        return claim

    def _request(self, pool: Pool) -> None:
        for node in pool.requested:
            self._at(self.now + pool.group.start_seconds, self._arrive, node)
        pool.requested.clear()

    def _hold(self, run: Run, claim: Claim) -> None:
        """Wait for the nodes of a claim, or go on."""
        for node, _ in claim:
            node.jobs[run] = None
        run.missing = len({node for node, _ in claim if not node.up})
        if not run.missing:
            self._go_on(run)
        elif not run.running and not run.claimed:
            run.claimed = True
            self.claimed.add(run)

    def _go_on(self, run: Run) -> None:
        """Start a job, or let it grow: all nodes are up."""
        if run.running:
            self._resize(run)
            return
        if run.claimed:
            run.claimed = False
            self.claimed.remove(run)
        run.running = True
        self.waits[run.row] += self.now - run.queued
        self._compute(run)

    def _compute(self, run: Run) -> None:
        """Plan the end of a job that has its size from now on."""
        run.since = self.now
        run.ends = self.now + run.pause + run.seconds / run.size.speed
        self._at(run.ends, self._end, run)
        if run.at:
            self.growing[run] = None
            self._grow(run)

    def _grow(self, run: Run) -> None:
        """If no job waits, claim what a running job could use beyond what it has: the largest size for which there is room."""
        pool = run.claim[0][0].pool
        if self.queue.lines or run.missing or run.over or pool.full:
            return
        number = self.pools.index(pool)
        for reach in (RUNNING, STARTING, NEW):
            for at in range(run.at):
                parts = [part for size in run.sizes[at : run.at] for part in size.grow[number]]
                if claim := self._take(pool, parts, reach):
                    run.extra, run.grows_to = claim, at
                    self._hold(run, claim)
                    return

    def _resize(self, run: Run) -> None:
        """A running job has all nodes with which it grows."""
        if self.now > run.since:
            run.seconds = max(0.0, run.seconds - self._account(run) * run.size.speed)
            run.pause = self.fleet.resize_seconds
        run.at = run.grows_to
        run.claim, run.extra = run.claim + run.extra, []
        self.growing.pop(run, None)
        self._compute(run)

    def _account(self, run: Run) -> float:
        """Count the GPU time of a size that ends; returns the seconds in which it computed."""
        held = self.now - run.since
        run.claim[0][0].pool.gpu_seconds += run.size.gpus * held
        return max(0.0, held - run.pause)

    def _give_back(self, run: Run, claim: Claim) -> None:
        for node, units in claim:
            node.jobs.pop(run, None)
            if not node.gone:
                node.pool.give(node, units, self.now)

    def _end(self, run: Run) -> None:
        if run.over or self.now < run.ends:  # it was interrupted, or has another size since that was planned
            return
        self.active -= 1
        self.ends[run.row] = self.now
        self._account(run)
        self._leave(run)
        self._serve()

    def _leave(self, run: Run) -> None:
        run.over = True
        self.growing.pop(run, None)
        self._give_back(run, run.claim + run.extra if run.extra else run.claim)

    def _arrive(self, node: Node) -> None:
        node.pool.arrive(node, self.now)
        self._plan_interruption(node)
        for run in list(node.jobs):
            run.missing -= 1
            if not run.missing:
                self._go_on(run)
        self._serve()

    def _serve(self) -> None:
        """Give free room to the jobs that wait, first in, first out, and then to those that grow."""
        while self.claimed.lines and any(map(self._move, self.claimed.heads())):
            pass
        while self.queue.lines and (run := next(filter(self._claim, self.queue.heads()), None)):
            self.queue.remove(run)
        for run in list(self.growing):
            self._grow(run)

    def _move(self, run: Run) -> bool:
        """Start a job that waits for nodes on others that are up, if there is room."""
        pool = run.claim[0][0].pool
        late = [(node, units) for node, units in run.claim if not node.up]
        found = pool.claim(_counted([units for _, units in late]), RUNNING, self.now)
        if found is None:
            return False
        kept = [(node, units) for node, units in run.claim if node.up]
        self._give_back(run, late)
        run.claim = [*kept, *found]
        self._hold(run, run.claim)
        return True

    def _plan_interruption(self, node: Node) -> None:
        if rate := node.pool.group.interruptions:
            self._at(self.now + self.random.expovariate(rate) * 3600, self._interrupt, node)

    def _interrupt(self, node: Node) -> None:
        if node.gone:
            return
        pool = node.pool
        pool.remove(node, self.now)
        pool.interruptions += 1
        for run in sorted(node.jobs, key=lambda run: -run.row):
            self._stop(run)
        if pool.count < pool.least:
            pool.request(self.now)
            self._request(pool)
        self._serve()

    def _stop(self, run: Run) -> None:
        """Interrupt a job: what it did since its last checkpoint is lost, and it waits again."""
        left, queued = run.seconds, run.queued
        if run.running:
            ran = self._account(run)
            kept = ran // self.fleet.checkpoint_seconds * self.fleet.checkpoint_seconds
            left, queued = run.seconds - kept * run.size.speed, self.now
            self.recomputed += run.size.gpus * (ran - kept)
        else:
            self.claimed.remove(run)
        self._leave(run)
        self.queue.add_in_front(Run(run.row, left, run.sizes, queued))

    def _plan_hour(self, pool: Pool) -> None:
        """Plan the next change of the nodes that are always up."""
        if len(set(pool.group.hours)) > 1:
            self._at((self.now // HOUR + 1) * HOUR, self._change_hour, pool)

    def _change_hour(self, pool: Pool) -> None:
        pool.least = max(pool.group.least, pool.group.hours[hour_of(self.now)])
        while pool.count < min(pool.least, pool.group.most):
            pool.request(self.now)
        self._request(pool)
        self._plan_hour(pool)
        self._serve()


def _counted(units: Sequence[int]) -> list[tuple[int, int]]:
    """The same units as parts, larger ones first."""
    return [(units.count(size), size) for size in sorted(set(units), reverse=True)]
