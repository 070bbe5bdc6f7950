"""What a cluster has cost: how long each of its nodes was there, at the profile's prices.

The timeline is that of Ray's head (``/api/v0/nodes``, Ray 2.60), the same on Kubernetes and on a laptop: it keeps when a node
joined and when it was gone, also of those that are gone. It is the head's memory: a head that was started anew, after a
suspension or a crash, knows nothing of before; and it keeps the last thousand nodes that are gone. What a machine costs before
Ray runs on it and after is not in it.
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
    """A node from when it joined to when it was gone, in seconds since the epoch; ``end`` is None while it is there."""

    node: str
    group: str
    """The worker group; ``head`` for the head."""
    begin: float
    end: float | None = None

    def seconds(self, since: float, until: float) -> float:
        """How long it was there in that time."""
        return max(0.0, min(until, self.end or until) - max(since, self.begin))


@dataclass(frozen=True)
class GroupCost:
    """What one group has cost."""

    name: str
    nodes: int
    """How many different ones there were."""
    node_seconds: float
    gpu_seconds: float
    price: float
    """Of a node, an hour."""
    cost: float
    static: float
    """What it would have cost with all its ``max`` nodes there all the time."""


@dataclass(frozen=True)
class CostReport:
    """What a cluster has cost from ``since`` to ``until``, in seconds since the epoch, and the nodes that were there."""

    since: float
    until: float
    groups: list[GroupCost]
    nodes: list[NodeLifetime]

    @property
    def cost(self) -> float:
        """Of all groups."""
        return sum(group.cost for group in self.groups)

    @property
    def static(self) -> float:
        """What the same groups would have cost at their maximum all the time."""
        return sum(group.static for group in self.groups)


def node_lifetimes(dashboard: Dashboard) -> list[NodeLifetime]:
    """All nodes that the head remembers, in the order in which they joined."""
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
    """What these nodes have cost; all times are in seconds since the epoch.

    Args:
        profile: has the prices.
        nodes: all that the head remembers.
        now: the time of the head's answer.
        since: the beginning; by default as far back as the head remembers.
        until: the end; by default now.

    Raises:
        UserError: the head does not remember that time, or had nodes of a group that the profile does not have.
    """
    remembered = _remembered(profile, nodes)
    since, until = remembered if since is None else since, until or now
    if since < remembered - 1 or until <= since:
        raise UserError(
            f"the head of {profile.name} remembers its nodes since {now - remembered:.0f} s ago, and not all of the time from "
            f"{now - since:.0f} to {now - until:.0f} s ago",
            f"leave --since out, or say --since {int(now - remembered)}s",
        )
    there = [life for life in nodes if life.seconds(since, until) > 0]
    if unknown := {life.group for life in there} - {"head", *(group.name for group in profile.groups)}:
        raise UserError(
            f"{profile.name} had nodes of group {', '.join(sorted(unknown))}, which has no price in its profile",
            "use the profile that it was brought up with, or ask for the time after that group with --since",
        )
    kinds = [("head", profile.head.price, 0, 1), *((g.name, g.price, g.gpu, g.max) for g in profile.groups)]
    return CostReport(since, until, [_group_cost(*kind, there, since, until) for kind in kinds], there)


def _group_cost(
    name: str, price: float, gpus: int, most: int, there: Iterable[NodeLifetime], since: float, until: float
) -> GroupCost:
    times = [life.seconds(since, until) for life in there if life.group == name]
    hours = (until - since) / 3600
    return GroupCost(name, len(times), sum(times), sum(times) * gpus, price, sum(times) / 3600 * price, hours * most * price)


def _remembered(profile: Profile, nodes: Sequence[NodeLifetime]) -> float:
    """The beginning of the time of which the head knows all nodes."""
    heads = [life.begin for life in nodes if life.group == "head"]
    if not heads:
        raise UserError(f"the head of {profile.name} has only just started", "try again in a few seconds")
    gone = [life.end for life in nodes if life.end is not None]
    return max(*heads, min(gone)) if len(gone) >= DEAD_NODES_KEPT else max(heads)
