"""What work costs: the price of a worker, and the money that a run has spent on its workers."""

from collections.abc import Mapping, Sequence
from typing import Any

from heliostat.folder import Folder
from heliostat.workloads.nodes import Nodes
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import EVENTS, METRICS

OVER = ("left", "failed", "ended", "launched")
"""What comes after an attempt; ``launched`` alone means that its driver was killed."""


def price_of(nodes: Nodes | None, group: str, cpu: float, gpu: float) -> float | None:
    """The price of one worker an hour: its share of a node of that group; None where nobody knows prices.

    A share is the larger one of CPUs and GPUs, because what is left of a node whose GPU is taken is of no use for others.
    """
    for node in nodes or ():
        if node.get("price") is not None and (node.get("group") in (group, None)):
            share = max(cpu / node["CPU"] if node.get("CPU") else 0.0, gpu / node["GPU"] if node.get("GPU") else 0.0)
            return float(node["price"]) * min(share, 1.0)
    return None


def cost(run: Folder) -> float | None:
    """What a run has spent so far, or None where nobody knows prices."""
    return cost_of(*(read_journal(run, name) for name in (ATTEMPTS, EVENTS, METRICS)))


def cost_of(
    attempts: Sequence[dict[str, Any]], events: Sequence[dict[str, Any]], metrics: Sequence[dict[str, Any]]
) -> float | None:
    """The same from the records of ``attempts.jsonl``, ``events.jsonl`` and ``metrics.jsonl``.

    A worker is paid for from when it was asked for, or was born if that was later (then it waited for its node), until its
    attempt was over; of an attempt that goes on or whose driver was killed, until its last sign of life. Workers that never
    came so far as to open the run are not counted: nobody has written down which they were.
    """
    spent = None
    for start in (event for event in events if event["event"] == "start"):
        asked = max((a["time"] for a in attempts if a["event"] == "starting" and a["time"] <= start["time"]), default=0.0)
        over: dict[str, Any] = next(
            (a for a in attempts if a["event"] in OVER and a["time"] > start["time"]), {"event": "launched"}
        )
        end = over.get("time", float("inf"))
        if over["event"] == "launched":
            end = max(record["time"] for record in [*events, *metrics] if start["time"] <= record["time"] < end)
        for worker in start["workers"]:
            if worker.get("price") is not None:
                spent = (spent or 0.0) + paid(worker, asked, end)
    return spent


def paid(worker: Mapping[str, Any], asked: float, over: float) -> float:
    """What a worker with ``born`` and a ``price`` an hour cost in an attempt; all times are in seconds since the epoch."""
    seconds = max(0.0, over - max(asked, float(worker["born"])))  # the clocks of two machines may differ
    return seconds * float(worker["price"]) / 3600
