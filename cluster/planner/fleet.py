"""What jobs run on: groups of equal nodes that start and stop; and what came of it."""

from dataclasses import dataclass

import numpy as np

from heliostat.cluster.field_types import size
from heliostat.cluster.planner.jobs import Floats, Ints
from heliostat.cluster.prices import SPOT
from heliostat.cluster.profile import Profile, WorkerGroup, ray_resources

SCALING = 0.9
"""Twice the GPUs give 1.87 times the speed."""


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes, as the worker group of a profile describes them."""

    name: str
    gpus: int
    least: int = 0
    """Nodes that are always up."""
    most: int = 10_000
    start_seconds: float = 240
    """From the request of a node until it takes jobs; it is paid for."""
    idle_seconds: float = 120
    end_seconds: float = 0.0
    """From the idle time-out until it is gone, as the autoscaler looks now and then; it is paid for."""
    price: float = 0.0
    """Of a node for an hour."""
    cpus: float = 0.0
    """0: not limited."""
    memory: float = 0.0
    """Bytes; 0: not limited."""
    interruptions: float = 0.0
    """Of a node in an hour, on average; for spot nodes."""
    priority: int = 0
    """The highest is filled first."""
    on_demand: float = 0.0
    """The price of the same node where it cannot be interrupted."""
    hours: tuple[int, ...] = ()
    """Nodes that are always up in each hour of the week, if more than ``least``; of 168 hours, the first begins at time 0."""

    @property
    def seconds_after(self) -> float:
        """From its last job until it is gone."""
        return self.idle_seconds + self.end_seconds

    @property
    def units(self) -> int:
        """Into how many parts a node can be divided: its GPUs, or without any, its CPUs."""
        return self.gpus or max(1, int(self.cpus))


@dataclass(frozen=True)
class Fleet:
    """All groups, and what they share."""

    groups: tuple[NodeGroup, ...]
    head_price: float = 0.0
    """For an hour, all the time."""
    checkpoint_seconds: float = 600.0
    """Work since the last multiple of it is repeated after an interruption."""
    seed: int = 0
    """Of the moments of interruptions."""
    scaling: float = SCALING
    """The speed of an elastic job is its GPUs to the power of it."""
    resize_seconds: float = 10.0
    """In which a job that gets further GPUs computes nothing, as its workers start anew."""
    first_fit: bool = False
    """A job for which there is room starts before an earlier one that is not like it and waits."""


@dataclass(frozen=True)
class GroupOutcome:
    """What one group of a fleet did; all times are node seconds."""

    name: str
    price: float
    gpus: int
    """Of a node."""
    starting: float
    busy: float
    """With at least one job, or held for one that waits for further nodes."""
    idle: float
    gpu_seconds: float
    """What the jobs have used of the GPUs, repeated work included."""
    starts: int
    peak: int
    """The most nodes at once."""
    interruptions: int = 0

    @property
    def node_seconds(self) -> float:
        """All that is paid for."""
        return self.starting + self.busy + self.idle

    @property
    def cost(self) -> float:
        """At the group's price."""
        return self.node_seconds / 3600 * self.price


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a simulation."""

    groups: tuple[GroupOutcome, ...]
    waits: Floats
    """Seconds that each job has waited for nodes, after interruptions too; NaN for one that can never fit."""
    times: Floats
    """Seconds from each job's submission until its end; NaN likewise."""
    never: Ints
    """The rows of jobs that fit into no group even when it is empty."""
    seconds: float
    """From the first submission until the last job's end."""
    head_cost: float
    recomputed: float
    """GPU seconds that were lost with interrupted nodes and repeated."""

    @property
    def cost(self) -> float:
        """Of all nodes, head included."""
        return self.head_cost + sum(group.cost for group in self.groups)

    @property
    def node_seconds(self) -> float:
        """Of all groups."""
        return sum(group.node_seconds for group in self.groups)

    def wait(self, percentile: float = 95) -> float:
        """The wait that so many percent of the jobs did not exceed, in seconds; 0 without jobs."""
        return percentile_of(self.waits, percentile)

    @property
    def mean_wait(self) -> float:
        """Seconds; 0 without jobs."""
        return mean_of(self.waits)

    @property
    def utilisation(self) -> float:
        """What the jobs have used of the GPUs that are paid for, as a share; 0 without GPUs."""
        paid = sum(group.node_seconds * group.gpus for group in self.groups)
        return sum(group.gpu_seconds for group in self.groups) / paid if paid else 0.0


def percentile_of(values: Floats, percentile: float = 95) -> float:
    """The value that so many percent of those that are known do not exceed; 0 without any."""
    known = values[~np.isnan(values)]
    return float(np.percentile(known, percentile, method="inverted_cdf")) if len(known) else 0.0


def mean_of(values: Floats) -> float:
    """The mean of the values that are known; 0 without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def fleet_of(
    profile: Profile, interruptions: float = 0.0, checkpoint_seconds: float = 600.0, scaling: float = SCALING
) -> Fleet:
    """The fleet that a profile describes.

    Args:
        profile: its groups, with their start and idle times and prices.
        interruptions: of a spot node in an hour, on average.
        checkpoint_seconds: between the checkpoints of a job.
        scaling: the exponent of the speed of elastic jobs.
    """
    groups = tuple(_group(group, interruptions) for group in profile.groups)
    return Fleet(groups, profile.head.price, checkpoint_seconds, scaling=scaling)


def _group(group: WorkerGroup, interruptions: float) -> NodeGroup:
    spot = group.market == "spot"
    priority = group.priority if group.priority is not None else int(spot)
    resources = ray_resources(group)
    on_demand = group.price / SPOT if spot else group.price
    return NodeGroup(
        group.name, group.gpu, group.min, group.max, group.start_seconds, group.idle_seconds, price=group.price,
        cpus=resources["CPU"], memory=size(group.memory), interruptions=interruptions if spot else 0.0, priority=priority,
        on_demand=on_demand,
    )  # fmt: skip
