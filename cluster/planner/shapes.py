"""How a job is divided over the nodes of each group, and which group it prefers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from heliostat.cluster.planner.fleet import Fleet, NodeGroup
from heliostat.cluster.planner.jobs import Floats, Jobs

ROUNDING = 1e-9
"""Shares are quotients of floats: 8.000000001 of 8 units is all of them."""


@dataclass(frozen=True)
class Shape:
    """A job on the nodes of one group: parts, each of which is on one node."""

    group: int
    """The number of the group in the fleet."""
    parts: tuple[tuple[int, int], ...]
    """How many parts, and the units of each; larger ones first."""


def shares(jobs: Jobs, group: NodeGroup) -> Floats:
    """The units of a group's nodes that each job takes; infinite if it cannot run there.

    It is the largest of its shares of the node's GPUs, CPUs and memory, so that a job that needs half of the memory of a node
    of 8 GPUs takes 4 of them. A job of neither GPUs nor CPUs takes one CPU, as a task of Ray does.
    """
    taken = np.where(jobs.gpus > 0, jobs.gpus if group.gpus else np.inf, 0.0)
    cpus = np.where(jobs.gpus > 0, 0.0, 1.0) if jobs.cpus is None else jobs.cpus
    needs = ((cpus, group.cpus), (jobs.memory, group.memory))
    for need, available in needs:
        if need is not None and available:
            taken = np.maximum(taken, need / available * group.units)
    return np.asarray(taken, np.float64)


def shapes(units: Sequence[float], workers: int, gpus: int, groups: Sequence[NodeGroup]) -> tuple[Shape, ...]:
    """A job's shape on each group into which it fits when that is empty, the preferred group first.

    Preferred are, in this order: for a job without GPUs, groups without; the fewest nodes; the least that is left over of its
    last node; the highest priority; the lowest price of what it takes. (Ray's autoscaler has nearly the same order.)

    Args:
        units: its share on each group, see `shares`.
        workers: parts that may be on different nodes, 0 for as few nodes as possible.
        gpus: 0 if it needs none.
        groups: the groups of the fleet.
    """
    found = []
    for number, (share, group) in enumerate(zip(units, groups, strict=True)):
        parts = _parts(share, workers, group.units) if share < np.inf else ()
        nodes = sum(ceil(count / (group.units // size)) for count, size in parts)
        if parts and nodes <= group.most:
            left = (nodes * group.units - share) / group.units
            order = (not gpus and group.gpus > 0, nodes, left, -group.priority, group.price * share / group.units, number)
            found.append((order, Shape(number, parts)))
    return tuple(shape for _, shape in sorted(found, key=lambda pair: pair[0]))


@dataclass(frozen=True)
class Size:
    """A number of GPUs with which a job may run."""

    gpus: int
    speed: float
    """Against that with the GPUs of its trace."""
    shapes: tuple[Shape, ...]
    grow: tuple[tuple[tuple[int, int], ...], ...] = ()
    """By group, the parts that it needs beyond those of the next smaller size; empty where there are none."""


def shapes_of(jobs: Jobs, fleet: Fleet) -> Iterator[tuple[Shape, ...]]:
    """The shapes of each job with the GPUs of its trace; equal jobs share them."""
    return (sizes[0].shapes if sizes else () for sizes in sizes_of(jobs.ranged("none"), fleet))


def sizes_of(jobs: Jobs, fleet: Fleet) -> Iterator[tuple[Size, ...]]:
    """The sizes of each job that fit into an empty group, the largest first; equal jobs share them.

    An elastic job has the most GPUs of its range, and each half of it down to the fewest.
    """
    units = [shares(jobs, group).tolist() for group in fleet.groups]
    workers = [0] * len(jobs) if jobs.workers is None else jobs.workers.tolist()
    least = (jobs.gpus if jobs.least is None else jobs.least).tolist()
    most = (jobs.gpus if jobs.most is None else jobs.most).tolist()
    known: dict[tuple[float, ...], tuple[Size, ...]] = {}
    for gpus, parts, low, high, *share in zip(jobs.gpus.tolist(), workers, least, most, *units, strict=True):
        key = (gpus, parts, low, high, *share) if low < high else (gpus, parts, *share)
        if (found := known.get(key)) is None:
            found = known[key] = _sizes(share, parts, gpus, (low, high), fleet)
        yield found


def _sizes(share: Sequence[float], workers: int, gpus: int, between: tuple[int, int], fleet: Fleet) -> tuple[Size, ...]:
    low, high = between
    counts = [high]
    while counts[-1] > low:
        counts.append(max(low, ceil(counts[-1] / 2)))
    found = []
    for count, smaller in zip(counts, [*counts[1:], 0], strict=True):
        scale, more = (count / gpus, (count - smaller) / gpus) if gpus else (1.0, 0.0)
        fitting = shapes([of * scale for of in share], round(workers * scale), gpus, fleet.groups)
        grow = tuple(
            _parts(of * more, round(workers * more), group.units) if smaller and of < np.inf else ()
            for of, group in zip(share, fleet.groups, strict=True)
        )
        found.append(Size(count, scale**fleet.scaling if gpus else 1.0, fitting, grow))
    return tuple(size for size in found if size.shapes)


def _parts(share: float, workers: int, size: int) -> tuple[tuple[int, int], ...]:
    """Parts of a job on nodes of ``size`` units; none if a part is larger than a node."""
    if workers:
        each = max(1, ceil(share / workers - ROUNDING))
        return ((workers, each),) if each <= size else ()
    whole, rest = divmod(max(1, ceil(share - ROUNDING)), size)
    return tuple(part for part in ((whole, size), (int(rest > 0), rest)) if part[0])
