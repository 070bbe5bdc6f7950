"""The nodes that work can have, and whether its workers fit on them.

What is private in Ray's view of its nodes (Ray 2.60) is here, and checked by tests/workloads/ray_train/test_nodes.py.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from heliostat.environment import NODES, NODES_FILE
from heliostat.errors import UserError
from heliostat.workloads.config import Resources

R = TypeVar("R", bound=Resources)
Nodes = Sequence[Mapping[str, Any]]
"""Each entry has the ``CPU`` and ``GPU`` of a node, the number of such ``nodes`` (1 by default), and where they are known its
``group`` and its ``price`` an hour."""

MANY = 1_000_000
"""Workers that need nothing, of which a node holds any number."""


def available() -> Nodes:
    """The nodes that the connected cluster can have; empty if it may scale up and its limits are not known."""
    import ray

    if NODES in os.environ:
        return _nodes(os.environ[NODES])
    if NODES_FILE in os.environ:
        return _nodes(Path(os.environ[NODES_FILE]).read_text())
    if "RAY_USAGE_STATS_KUBERAY_IN_USE" in os.environ:
        return ()
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def alive() -> set[str]:
    """The ids of the nodes that the connected cluster has now."""
    import ray

    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def group_here() -> str:
    """The worker group of this process's node; empty where nodes have none."""
    import ray

    labels: dict[str, str] = ray.get_runtime_context().get_node_labels() or {}
    return labels.get("ray.io/node-group", "")


def draining() -> dict[str, int]:
    """The IDs of the nodes that are being drained, with their deadlines in milliseconds since the epoch, 0 if unknown."""
    import ray._private.state

    nodes: dict[str, int] = ray._private.state.state.get_draining_nodes()
    return nodes


def free_resources() -> dict[str, dict[str, float]]:
    """What no task or actor holds now, by node ID and resource."""
    import ray._private.state

    free: dict[str, dict[str, float]] = ray._private.state.available_resources_per_node()
    return free


def resolve_resources(resources: R, workers: int, nodes: Nodes | None, shown: str = "", key: str = "resources.gpu") -> R:
    """Replaces ``auto`` by a number of GPUs, and checks that the workers fit.

    ``auto`` is one GPU where nodes have GPUs, also where they are too few: training on CPUs instead would take the user by
    surprise, and their money.

    Args:
        resources: of each worker.
        workers: the smallest number of workers.
        nodes: all nodes that the cluster can have, none if its limits are not known; None before the cluster is chosen, for
            which ``auto`` is 0.
        shown: ``workers`` as the user wrote it, if not as a number.
        key: the name of the user's setting of the GPUs.

    Raises:
        UserError: the workers can never fit; ``auto`` cannot be decided.
    """
    auto = resources.gpu == "auto"
    if auto:
        if nodes is not None and not nodes:
            raise UserError(
                f"{key} is auto, but how many GPUs this cluster can have is not known, as Heliostat did not make it",
                f"set {key} to 1, or to 0 to train on CPUs",
            )
        resources = resources.model_copy(update={"gpu": int(_total(nodes or (), "GPU") > 0)})
    if not nodes:
        return resources
    each = {"CPU": resources.cpu, "GPU": int(resources.gpu)}
    most = capacity(nodes, each)
    fix = f"set workers to {most}, or give each less" if most else "give each worker less than one node has"
    if auto and each["GPU"] and capacity(nodes, {**each, "GPU": 0}) >= workers:
        fix = f"set workers to {most}" if most else f"give each worker less than {resources.cpu} CPU"
        fix += f", or {key} to 0 to train on CPUs"
    for kind, per_worker in each.items():
        there = _total(nodes, kind)
        if workers * per_worker > there:
            raise UserError(
                f"workers is {shown or workers}, each with {per_worker} {kind}, but there {_counted(there, kind)}",
                fix if there else f"give each worker 0 {kind}, or use a larger machine",
            )
    if most < workers:
        raise UserError(
            f"workers is {shown or workers}, each with {each['CPU']} CPU and {each['GPU']} GPU on one node, "
            f"but the nodes have room for {most}",
            fix,
        )
    return resources


def _total(nodes: Nodes, kind: str) -> int:
    return sum(int(node.get(kind, 0) * node.get("nodes", 1)) for node in nodes)


def _counted(number: int, kind: str) -> str:
    return f"is 1 {kind}" if number == 1 else f"are {number} {kind}s"


def _nodes(text: str) -> Nodes:
    nodes: Nodes = json.loads(text)
    return nodes


def capacity(nodes: Nodes, each: Mapping[str, float]) -> int:
    """How many workers of this size the nodes hold when they run nothing else."""
    total = 0.0
    for node in nodes:
        # Not //, by which ten times 0.1 CPU do not fit into one.
        room = min((int(node.get(kind, 0) / amount + 1e-9) for kind, amount in each.items() if amount), default=MANY)
        total += room * node.get("nodes", 1)
    return int(total)
