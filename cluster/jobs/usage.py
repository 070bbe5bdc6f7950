"""What each node of a Ray cluster does at this moment, by its dashboard alone, wherever that is.

What Ray 2.60 tells where, tried with autoscaler v2:

- ``/nodes?view=summary`` has it all, in some 10 ms: ``instanceId`` (on Kubernetes the pod's name), ``nodeTypeName`` (the worker
  group), the totals, and in ``nodeLogicalResources`` what is used, as text. Its ``stateSnapshot`` says ACTIVE and idle for 0 ms
  for ever, dead nodes stay in the list without a group, and without ``nocache=1`` it may be two seconds old.
- ``/api/component_activities`` tells when the last driver ended. How long a node has been idle stands nowhere, and an actor
  that asks for no resource keeps its node but shows nowhere.
- ``/api/v0/nodes?detail=1`` has neither the pod's name nor what is used, and ``/api/cluster_status`` is empty.
"""

import re
from dataclasses import dataclass
from typing import Any

from heliostat.cluster.jobs.dashboard import Dashboard

USED = re.compile(
    r"(?P<used>[\d.e+-]+)\w*/\S+ (?P<name>\S+)"
    r"(?: \((?P<inside>[\d.e+-]+)\w* used of (?P<reserved>[\d.e+-]+)\w* reserved in placement groups\))?"
)
"""A line such as ``1.0/4.0 GPU (1.0 used of 2.0 reserved in placement groups)``; memory has units."""


@dataclass(frozen=True)
class NodeUsage:
    """A node that is alive: its resources, and how much of them some work holds."""

    name: str
    """The pod on Kubernetes."""
    group: str
    """The worker group; of the head Ray's own word."""
    cpus: float
    gpus: float
    cpus_used: float
    gpus_used: float
    idle_seconds: float | None
    """Nothing has held it for at least so long; 0 while other nodes work, None while something does."""


def usage(dashboard: Dashboard) -> dict[str, NodeUsage]:
    """All nodes that are alive, by name."""
    data = dashboard.get("/nodes?view=summary&nocache=1")["data"]
    activity = dashboard.get("/api/component_activities")["driver"]
    alive = [node["raylet"] for node in data["summary"] if node["raylet"].get("state") == "ALIVE"]
    nodes = [_node(raylet, data["nodeLogicalResources"].get(raylet["nodeId"], ""), activity) for raylet in alive]
    return {node.name: node for node in nodes}


def held(text: str) -> dict[str, float]:
    """What some work holds of each resource, reservations of placement groups included.

    Ray's text counts as used only what a task holds inside of a placement group; but what is reserved is not free.
    """
    found = {}
    for line in USED.finditer(text):
        found[line["name"]] = float(line["used"]) - float(line["inside"] or 0) + float(line["reserved"] or 0)
    return found


def _node(raylet: dict[str, Any], text: str, activity: dict[str, Any]) -> NodeUsage:
    used, totals = held(text), raylet.get("resourcesTotal", {})
    idle_since = max(activity["last_activity_at"] or 0.0, float(raylet["startTimeMs"]) / 1000)
    quiet = max(0.0, activity["timestamp"] - idle_since) if activity["is_active"] == "INACTIVE" else 0.0
    return NodeUsage(
        name=raylet.get("instanceId") or raylet["nodeId"],
        group=raylet.get("nodeTypeName", ""),
        cpus=totals.get("CPU", 0.0),
        gpus=totals.get("GPU", 0.0),
        cpus_used=used.get("CPU", 0.0),
        gpus_used=used.get("GPU", 0.0),
        idle_seconds=quiet if used and not any(used.values()) else None,
    )
