"""How many trials fit on the nodes, and what they cost."""

from collections.abc import Mapping
from typing import Any

from heliostat.workloads.nodes import Nodes, capacity
from heliostat.workloads.run.cost import price_of


def trial_capacity(nodes: Nodes, cpu: float, gpu: float, workers: int) -> int:
    """How many trials of ``workers`` workers the nodes hold, each worker with so many CPUs and GPUs."""
    return capacity(nodes, {"CPU": cpu, "GPU": gpu}) // workers


def most_expensive(nodes: Nodes | None, cpu: float, gpu: float) -> float | None:
    """The price of one worker per hour on the most expensive node that it fits on, for estimates before a trial runs."""
    prices = [
        price
        for node in nodes or ()
        if _fits(node, cpu, gpu) and (price := price_of([node], str(node.get("group", "")), cpu, gpu)) is not None
    ]
    return max(prices, default=None)


def _fits(node: Mapping[str, Any], cpu: float, gpu: float) -> bool:
    return bool(node.get("CPU", 0) >= cpu and node.get("GPU", 0) >= gpu)
