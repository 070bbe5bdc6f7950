"""What `heliostat status` tells about a cluster, wherever it runs."""

from dataclasses import dataclass, field

from heliostat.cluster.jobs.dashboard import Job


@dataclass(frozen=True)
class Node:
    """A pod on Kubernetes, a Ray process on a laptop."""

    name: str
    group: str
    """The worker group; ``head`` for the head."""
    host: str
    state: str
    """starting, ready, or what is in the way, in a word or two."""
    gpus: int = 0
    gpus_used: float = 0.0
    cpus: float = 0.0
    cpus_used: float = 0.0
    idle_seconds: float | None = None
    """How long nothing has run on it; None while something does, or while that is not known."""
    price: float = 0.0
    """What it costs an hour."""


@dataclass(frozen=True)
class Group:
    """A worker group: how many nodes there may be, should be, and are."""

    name: str
    min: int
    max: int
    desired: int
    ready: int
    idle: int
    price: float


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

    @property
    def gpus_used(self) -> float:
        """GPUs that some work holds."""
        return sum(node.gpus_used for node in self.nodes)

    @property
    def gpus_paid(self) -> int:
        """GPUs of all nodes that run or start."""
        return sum(node.gpus for node in self.nodes)

    @property
    def price(self) -> float:
        """What all nodes together cost an hour."""
        return sum(node.price for node in self.nodes)
