"""The status of a cluster, local or on Kubernetes, as `heliostat status` shows it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from heliostat.cluster.diagnosis.problem import Problem
from heliostat.cluster.diagnosis.wait import one_line
from heliostat.cluster.jobs.dashboard import Job


@dataclass(frozen=True)
class Node:
    """A pod on Kubernetes, or the processes of a node of a local cluster."""

    name: str
    group: str
    """The worker group; ``head`` for the head."""
    host: str
    state: str
    """starting, ready, or a problem in a word or two."""
    gpus: int = 0
    gpus_used: float = 0.0
    cpus: float = 0.0
    cpus_used: float = 0.0
    idle_seconds: float | None = None
    """None while something runs on it, or while that is unknown."""
    price: float = 0.0
    """Per hour."""


@dataclass(frozen=True)
class Group:
    """A worker group: limits, desired and actual number of nodes."""

    name: str
    min: int
    max: int
    desired: int
    ready: int
    idle: int
    price: float
    why: str = ""
    """What it waits for, in a line; empty if for nothing."""


def waits_of(found: Iterable[Problem]) -> dict[str, str]:
    """What each job waits for, in a line."""
    jobs: dict[str, list[Problem]] = {}
    for problem in found:
        if problem.job:
            jobs.setdefault(problem.job, []).append(problem)
    return {job: one_line(problems).removeprefix(f"job {job} ") for job, problems in jobs.items()}


@dataclass(frozen=True)
class State:
    """A cluster at one moment."""

    name: str
    platform: str
    state: str
    """absent, starting, ready, suspended, or failed."""
    detail: str = ""
    """Why it is not ready."""
    ray_version: str = ""
    dashboard: str = ""
    """A URL that a browser can open at once; empty if ``heliostat session`` is needed for that."""
    groups: list[Group] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    jobs_unknown: str = ""
    """Why ``jobs`` is not known, such as a dashboard that does not respond; empty if it is."""
    waits: Mapping[str, str] = field(default_factory=dict)
    """What each job waits for, in a line, by its id."""

    @property
    def gpus_used(self) -> float:
        """GPUs in use."""
        return sum(node.gpus_used for node in self.nodes)

    @property
    def gpus_paid(self) -> int:
        """GPUs of all running and starting nodes."""
        return sum(node.gpus for node in self.nodes)

    @property
    def price(self) -> float:
        """The price of all nodes per hour."""
        return sum(node.price for node in self.nodes)
