"""The cost of a cluster: the lifetime of each node at the profile's prices.

The lifetimes come from Ray's head (``/api/v0/nodes``, Ray 2.60) on Kubernetes and locally; it keeps when each node joined and
left. A head that restarted, after a suspension or a crash, has lost the nodes from before, and only the last thousand dead
nodes are kept. The time of a machine before Ray starts and after it stops is not included.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heliostat.cluster.jobs.dashboard import Dashboard
from heliostat.cluster.profile import Profile
from heliostat.errors import UserError

DEAD_NODES_KEPT = 1000
"""Ray's ``maximum_gcs_dead_node_cached_count``."""


@dataclass(frozen=True)
class NodeLifetime:
    """A node from when it joined until it left, in seconds since the epoch; ``end`` is None while it is alive."""

    node: str
    group: str
    """The worker group; ``head`` for the head."""
    begin: float
    end: float | None = None

    def seconds(self, since: float, until: float) -> float:
        """Seconds that it was alive in that interval."""
        return max(0.0, min(until, self.end or until) - max(since, self.begin))


@dataclass(frozen=True)
class GroupCost:
    """The cost of one group."""

    name: str
    nodes: int
    """The number of different nodes."""
    node_seconds: float
    gpu_seconds: float
    price: float
    """Per node and hour."""
    cost: float
    static: float
    """The cost with ``max`` nodes all the time."""


@dataclass(frozen=True)
class CostReport:
    """The cost of a cluster from ``since`` to ``until``, in seconds since the epoch, and its nodes."""

    since: float
    until: float
    groups: list[GroupCost]
    nodes: list[NodeLifetime]

    @property
    def cost(self) -> float:
        """The sum over all groups."""
        return sum(group.cost for group in self.groups)

    @property
    def static(self) -> float:
        """The cost of the same groups at their maximum all the time."""
        return sum(group.static for group in self.groups)


def node_lifetimes(dashboard: Dashboard) -> list[NodeLifetime]:
    """The lifetimes of all nodes that the head has kept, in the order in which they joined."""
    answer = dashboard.get("/api/v0/nodes?detail=1&limit=10000")["data"]["result"]["result"]
    found = [
        NodeLifetime(
            node=node["node_id"],
            group="head" if node["is_head_node"] else node["labels"].get("ray.io/node-group", "?"),
            begin=node["start_time_ms"] / 1000,
            end=node["end_time_ms"] / 1000 if node["state"] == "DEAD" else None,
        )
        for node in answer
    ]
    return sorted(found, key=lambda life: life.begin)


def cost_report(
    profile: Profile, nodes: Sequence[NodeLifetime], now: float, since: float | None = None, until: float | None = None
) -> CostReport:
    """The cost of these nodes; all times are in seconds since the epoch.

    Args:
        profile: the prices.
        nodes: all that the head has kept.
        now: the time at which the head was asked.
        since: the start; by default as far back as the head has kept nodes.
        until: the end; by default now.

    Raises:
        UserError: the head has not kept that time, or had nodes of a group that is not in the profile.
    """
    remembered = _remembered(profile, nodes)
    since, until = remembered if since is None else since, until or now
    if since < remembered - 1 or until <= since:
        raise UserError(
            f"the record of {profile.name}'s nodes starts {now - remembered:.0f} s ago, after the start of the period "
            f"({now - since:.0f} to {now - until:.0f} s ago)",
            f"leave --since out, or use --since {int(now - remembered)}s",
        )
    alive = [life for life in nodes if life.seconds(since, until) > 0]
    if unknown := {life.group for life in alive} - {"head", *(group.name for group in profile.groups)}:
        raise UserError(
            f"{profile.name} had nodes of group {', '.join(sorted(unknown))}, which has no price in its profile",
            "use the profile that it was started with, or a --since after the last node of that group",
        )
    kinds = [("head", profile.head.price, 0, 1), *((g.name, g.price, g.gpu, g.max) for g in profile.groups)]
    return CostReport(since, until, [_group_cost(*kind, alive, since, until) for kind in kinds], alive)


def _group_cost(
    name: str, price: float, gpus: int, most: int, nodes: Iterable[NodeLifetime], since: float, until: float
) -> GroupCost:
    times = [life.seconds(since, until) for life in nodes if life.group == name]
    hours = (until - since) / 3600
    return GroupCost(name, len(times), sum(times), sum(times) * gpus, price, sum(times) / 3600 * price, hours * most * price)


def _remembered(profile: Profile, nodes: Sequence[NodeLifetime]) -> float:
    """The start of the time of which the head has all nodes."""
    heads = [life.begin for life in nodes if life.group == "head"]
    if not heads:
        raise UserError(f"the head of {profile.name} has no record of its nodes yet", "try again in a few seconds")
    ended = [life.end for life in nodes if life.end is not None]
    return max(*heads, min(ended)) if len(ended) >= DEAD_NODES_KEPT else max(heads)
