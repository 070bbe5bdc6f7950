"""What a tracker gets, and what it does with it: the interface for trackers of the user's own, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from heliostat.config import Config
from heliostat.folder import Folder

RUNNING = "running"


@dataclass(frozen=True)
class Point:
    """What was measured at a step."""

    step: int
    time: float
    """In seconds since the epoch."""
    values: Mapping[str, float]
    """By a name such as ``train/loss`` or ``validation/accuracy``."""


@dataclass(frozen=True)
class Tracked:
    """A run, a sweep, or a trial of a sweep, as its record has it now."""

    id: str
    """16 hexadecimal digits: the same after every restart, and in a copy of the run folder."""
    name: str
    """Of the run or the sweep."""
    folder: Folder
    """Of the run or the sweep."""
    created: float
    """In seconds since the epoch."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """What it was started with, by dotted names; of a trial the values that are searched."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """``state``, ``cost``, ``goodput``, ``git``, as far as they are known."""
    points: Sequence[Point] = ()
    """What was measured, in the order of the steps; some of it may have been given before."""
    state: str = RUNNING
    """``running``, or how it ended: ``finished``, ``stopped``, ``failed``, ``diverged``, ``interrupted``."""
    ended: float = 0.0
    trial: str = ""
    """The number of a trial, such as ``0003``."""
    parent: str | None = None
    """Of a trial, the sweep's `id`."""
    sweep: bool = False
    """Whether it is a sweep, or a trial of one."""
    files: Sequence[str] = ()
    """Files of the folder that are kept with it at its end, as far as they exist."""

    @property
    def title(self) -> str:
        """The name, of a trial also its number."""
        return f"{self.name}/{self.trial}" if self.trial else self.name


class Tracker:
    """Copies one run to one place; created again, with its options, for each run and after each failure.

    Any exception means that the place is not available: what failed is repeated later, with growing waits.
    """

    class Options(Config):
        """Its options in a config."""

    package = ""
    """The module of the package that it needs."""
    extra = ""
    """What installs it."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self.where = ""
        """Where people find the run, once it is open."""

    @classmethod
    def resolved(cls, options: Any, base: Any) -> Any:
        """The options with their paths absolute, relative to ``base``, and with those of the environment checked.

        Raises:
            UserError: something that it needs is not given.
        """
        return options

    @staticmethod
    def named(name: str) -> str:
        """The name that a metric has there."""
        return name

    def open(self, run: Tracked) -> Mapping[str, int]:
        """Finds the run by its ID, or creates it; returns for each metric, by its name there, the highest step that is there.

        A tracker that writes everything again from the beginning returns nothing.
        """
        raise NotImplementedError

    def log(self, points: Sequence[Point]) -> None:
        """Adds points that are not there yet; returns when they are there."""
        raise NotImplementedError

    def close(self, run: Tracked) -> None:
        """Notes how the run has ended; it may be opened again later."""
