"""The current usage of each node of a Ray cluster, from its dashboard alone.

Where Ray 2.60 reports what, tested with autoscaler v2:

- ``/nodes?view=summary`` has everything, in about 10 ms: ``instanceId`` (on Kubernetes the pod's name), ``nodeTypeName`` (the
  worker group), the totals, and in ``nodeLogicalResources`` the used resources as text. Its ``stateSnapshot`` is always ACTIVE
  and idle for 0 ms, dead nodes stay in the list without a group, and without ``nocache=1`` it may be two seconds old.
- ``/api/component_activities`` has the end of the last driver. The idle time of a node is not reported anywhere, and an actor
  that requests no resource keeps its node alive but does not show.
- ``/api/v0/nodes?detail=1`` has neither the pod's name nor the used resources, and ``/api/cluster_status`` is empty.
"""

from dataclasses import dataclass
from typing import Any

from heliostat.cluster.in_pod.ray_usage import held
from heliostat.cluster.jobs.dashboard import Dashboard

NODES, ACTIVITY = "/nodes?view=summary&nocache=1", "/api/component_activities"


@dataclass(frozen=True)
class NodeUsage:
    """A live node: its resources, and how much of them is in use."""

    name: str
    """The pod on Kubernetes."""
    group: str
    """The worker group; Ray's own name for the head's."""
    cpus: float
    gpus: float
    cpus_used: float
    gpus_used: float
    idle_seconds: float | None
    """Lower bound of the idle time; 0 while other nodes are busy, None while this one is."""
    id: str = ""
    """Ray's own."""
    gpu_percent: float | None = None
    """How busy the busiest of its GPUs is; None where Ray sees no device."""


def usage(dashboard: Dashboard) -> dict[str, NodeUsage]:
    """Get all live nodes, by name."""
    return usage_of(dashboard.get(NODES), dashboard.get(ACTIVITY))


def usage_of(summary: Any, activities: Any) -> dict[str, NodeUsage]:
    """All live nodes, by name, from what the dashboard answers to `NODES` and `ACTIVITY`."""
    data, activity = summary["data"], activities["driver"]
    alive = [node for node in data["summary"] if node["raylet"].get("state") == "ALIVE"]
    texts = data["nodeLogicalResources"]
    nodes = [_node(node, texts.get(node["raylet"]["nodeId"], ""), activity) for node in alive]
    return {node.name: node for node in nodes}


def _node(node: dict[str, Any], text: str, activity: dict[str, Any]) -> NodeUsage:
    raylet = node["raylet"]
    used, totals = held(text), raylet.get("resourcesTotal", {})
    idle_since = max(activity["last_activity_at"] or 0.0, float(raylet["startTimeMs"]) / 1000)
    idle = max(0.0, activity["timestamp"] - idle_since) if activity["is_active"] == "INACTIVE" else 0.0
    return NodeUsage(
        name=raylet.get("instanceId") or raylet["nodeId"],
        group=raylet.get("nodeTypeName", ""),
        cpus=totals.get("CPU", 0.0),
        gpus=totals.get("GPU", 0.0),
        cpus_used=used.get("CPU", 0.0),
        gpus_used=used.get("GPU", 0.0),
        idle_seconds=idle if used and not any(used.values()) else None,
        id=raylet["nodeId"],
        gpu_percent=max((gpu.get("utilizationGpu") or 0.0 for gpu in node.get("gpus") or ()), default=None),
    )
