"""The price of a worker, and what a run has spent on its workers."""

from collections.abc import Mapping, Sequence
from typing import Any

from heliostat.folder import Folder
from heliostat.workloads.nodes import Nodes, group_here
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, METRICS

ENDINGS = ("left", "failed", "ended", "launched")
"""Events that end an attempt; with ``launched`` its driver was killed."""


def price_of(nodes: Nodes | None, group: str, cpu: float, gpu: float) -> float | None:
    """The price of one worker an hour: its share of a node of that group; None where no price is known.

    The share is the larger of its CPUs' and its GPUs', because no other worker can use the rest of a node whose GPU is taken.
    """
    for node in nodes or ():
        if node.get("price") is not None and (node.get("group") in (group, None)):
            share = max(cpu / node["CPU"] if node.get("CPU") else 0.0, gpu / node["GPU"] if node.get("GPU") else 0.0)
            return float(node["price"]) * min(share, 1.0)
    return None


def price_here(nodes: Nodes | None, cpu: float, gpu: float) -> float | None:
    """The price of this worker an hour, see `price_of`."""
    return price_of(nodes, group_here(), cpu, gpu)


def cost(run: Folder) -> float | None:
    """What a run has cost so far; None where the price of a worker is not known."""
    return cost_of(*(read_journal(run, name) for name in (ATTEMPTS, EVENTS, METRICS)))


def cost_of(
    attempts: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]]
) -> float | None:
    """Like `cost`, from the records of ``attempts.jsonl``, ``events.jsonl`` and ``metrics.jsonl``.

    A worker costs from its request, or from the start of its process if that was later (it waited for its node), to the end of
    its attempt; if that has not ended, or its driver was killed, to its last record. Workers that failed before they opened the
    run are not counted: no record names them.
    """
    spent: list[float | None] = []
    for start in (event for event in events if event["event"] == "start"):
        requested = max((a["time"] for a in attempts if a["event"] == "starting" and a["time"] <= start["time"]), default=0.0)
        ended: dict[str, Any] = next(
            (a for a in attempts if a["event"] in ENDINGS and a["time"] > start["time"]), {"event": "launched"}
        )
        end = ended.get("time", float("inf"))
        if ended["event"] == "launched":
            end = max(record["time"] for record in [*events, *metrics] if start["time"] <= record["time"] < end)
        for worker in start["workers"]:
            spent.append(None if worker.get("price") is None else worker_cost(worker, requested, end))
    return total(spent)


def total(costs: Sequence[float | None]) -> float | None:
    """The sum of costs; None if there are none, or one is not known: a part of it would pass for the whole."""
    known = [each for each in costs if each is not None]
    return sum(known) if known and len(known) == len(costs) else None


def worker_cost(worker: Mapping[str, Any], requested: float, ended: float) -> float:
    """The cost of a worker, with ``born`` and ``price`` an hour, in an attempt; all times are in seconds since the epoch."""
    seconds = max(0.0, ended - max(requested, float(worker["born"])))  # the clocks of two machines may differ
    return seconds * float(worker["price"]) / 3600
