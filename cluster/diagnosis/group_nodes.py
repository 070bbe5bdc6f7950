"""The nodes of the worker groups at one moment, on Kubernetes or on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class GroupNodes:
    """The nodes of a worker group."""

    most: int
    """Its limit as the cluster has it now."""
    ready: Sequence[str] = ()
    starting: Mapping[str, float | None] = field(default_factory=dict)
    """When each was asked for, in seconds since the epoch; None if it is not known."""
    asked: int = 0
    """How many the autoscaler wants."""

    @property
    def count(self) -> int:
        """How many there are, ready or not."""
        return len(self.ready) + len(self.starting)


Fleet = Mapping[str, GroupNodes]
"""The nodes by worker group."""
