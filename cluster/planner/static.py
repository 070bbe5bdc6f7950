"""Fleets that do not change, to compare with: as large as the peak, and the cheapest that keeps a wait."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from heliostat.cluster.planner.fleet import Fleet, GroupOutcome, NodeGroup, Outcome
from heliostat.cluster.planner.jobs import Jobs
from heliostat.cluster.planner.model import simulate
from heliostat.cluster.planner.shapes import shapes_of


def static(fleet: Fleet, nodes: Sequence[int]) -> Fleet:
    """So many on-demand nodes of each kind of the fleet, see `kinds`, all the time."""
    groups = (replace(kind, least=n, most=n) for kind, n in zip(kinds(fleet), nodes, strict=True) if n)
    return replace(fleet, groups=tuple(groups))


def kinds(fleet: Fleet) -> list[NodeGroup]:
    """The groups whose nodes differ, at the price of the same node on demand and without limits."""
    found: dict[tuple[float, ...], NodeGroup] = {}
    for group in fleet.groups:
        kind = replace(group, price=group.on_demand, most=1_000_000, least=0, interruptions=0.0)
        best = found.setdefault((group.gpus, group.cpus, group.memory), kind)
        if kind.price < best.price:
            found[group.gpus, group.cpus, group.memory] = kind
    return list(found.values())


def one_at_a_time(jobs: Jobs, fleet: Fleet) -> Outcome:
    """The jobs one after the other, in the order of their submission, on the fewest nodes that hold each of them, always up."""
    all_kinds = kinds(fleet)
    nodes, units = [0] * len(all_kinds), np.zeros(len(all_kinds))
    for gpus, seconds, shapes in zip(
        jobs.gpus.tolist(), jobs.seconds.tolist(), shapes_of(jobs, replace(fleet, groups=tuple(all_kinds))), strict=True
    ):
        number, size = shapes[0].group, all_kinds[shapes[0].group].units
        nodes[number] = max(nodes[number], sum(-(-count // (size // part)) for count, part in shapes[0].parts))
        units[number] += gpus * seconds
    # Each job ends its own time after it came, or after the last of those before it: the latest of all sums up to it.
    total = jobs.seconds.cumsum()
    ends = np.maximum.accumulate(jobs.submitted - (total - jobs.seconds)) + total
    seconds = float(ends[-1] - jobs.submitted[0])
    groups = tuple(
        GroupOutcome(kind.name, kind.price, kind.gpus, 0.0, count * seconds, 0.0, float(used), 0, count)
        for kind, count, used in zip(all_kinds, nodes, units, strict=True)
    )
    times = ends - jobs.submitted
    head = seconds / 3600 * fleet.head_price
    return Outcome(groups, times - jobs.seconds, times, np.array([], np.int64), seconds, head, 0.0)


def peak(jobs: Jobs, fleet: Fleet) -> list[int]:
    """The fewest nodes of each kind with which no job waits, as nodes that start and go at once would be used."""
    at_once = tuple(replace(kind, start_seconds=0.0, idle_seconds=0.0, end_seconds=0.0) for kind in kinds(fleet))
    return [group.peak for group in simulate(jobs, replace(fleet, groups=at_once)).groups]


def cheapest(jobs: Jobs, fleet: Fleet, wait: float, most: Sequence[int], percentile: float = 95) -> tuple[list[int], Outcome]:
    """The fewest nodes with which so many percent of the jobs wait no longer than ``wait`` seconds.

    By bisection, the dearest kind first, with the other kinds as they are. More nodes may, rarely, make a wait longer, as the
    order of the jobs on the nodes changes; the result keeps the wait, but a smaller fleet that keeps it too may be missed.

    Args:
        jobs: all of which fit.
        fleet: its kinds of nodes.
        wait: the target.
        most: of each kind; with so many the wait is kept, see `peak`.
        percentile: of the jobs.
    """
    nodes = list(most)
    best = simulate(jobs, static(fleet, nodes))
    prices = [kind.price for kind in kinds(fleet)]
    for at in sorted(range(len(nodes)), key=lambda at: -prices[at] * nodes[at]):
        low, high = 0, nodes[at]
        while low < high:
            middle = (low + high) // 2
            tried = [*nodes[:at], middle, *nodes[at + 1 :]]
            outcome = simulate(jobs, static(fleet, tried)) if any(tried) else None
            if outcome and not len(outcome.never) and outcome.wait(percentile) <= wait:
                high, best = middle, outcome
            else:
                low = middle + 1
        nodes[at] = high
    return nodes, best
