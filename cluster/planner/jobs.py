"""The jobs of a trace, as columns: a row is a job, in the order of submission."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Jobs:
    """Columns of equal length, sorted by ``submitted``."""

    submitted: Floats
    """Seconds since the epoch, or since any other moment that all share."""
    seconds: Floats
    """The run time with ``gpus`` GPUs, at least 0."""
    gpus: Ints
    """0 for a job that uses CPUs only."""
    cpus: Floats | None = None
    """CPUs of the whole job; None: not known."""
    memory: Floats | None = None
    """Bytes of the whole job; None: not known."""
    workers: Ints | None = None
    """Equal parts that may be on different nodes; 0 or None: as few nodes as possible."""
    least: Ints | None = None
    """The fewest GPUs with which an elastic job runs, at most ``gpus``; None: no job is elastic."""
    most: Ints | None = None
    """The most GPUs that it uses, at least ``gpus``; None exactly where ``least`` is."""
    ids: Any = None
    """Names of the jobs, as an Arrow array; None: their row numbers."""

    def __len__(self) -> int:
        return len(self.submitted)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> "Jobs":
        """Some rows, such as ``jobs[:1000]``."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        ids = columns.pop("ids")
        if ids is not None:
            ids = ids[rows] if isinstance(rows, slice) else ids.take(np.arange(len(self))[rows])
        chosen: dict[str, Any] = {name: None if values is None else values[rows] for name, values in columns.items()}
        return Jobs(**chosen, ids=ids)

    @property
    def elastic(self) -> bool:
        """Whether any job has a range of GPUs."""
        return self.least is not None and self.most is not None and bool((self.least < self.most).any())

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of their ranges that make a difference, see `ranged`."""
        if self.least is None or self.most is None:
            return ("none",)
        below, above = bool((self.least < self.gpus).any()), bool((self.most > self.gpus).any())
        return ("none", *(["below"] if below else []), *(["above"] if above else []), *(["both"] if below and above else []))

    def ranged(self, part: str) -> "Jobs":
        """The same jobs with a part of their ranges: none, below ``gpus``, above it, or both."""
        if self.least is None or self.most is None or part == "both":
            return self
        if part == "none":
            return replace(self, least=None, most=None)
        below = part == "below"
        return replace(self, least=self.least if below else self.gpus, most=self.gpus if below else self.most)

    def growing(self, gpus: int) -> "Jobs":
        """The same jobs, of which those with fewer GPUs may grow to so many."""
        least = self.gpus if self.least is None else self.least
        most = self.gpus if self.most is None else self.most
        return replace(self, least=least, most=np.where(self.gpus > 0, np.maximum(most, gpus), most))

    @property
    def gpu_seconds(self) -> float:
        """What the jobs themselves use: a lower bound of any fleet."""
        return float(self.gpus @ self.seconds)

    def name(self, row: int) -> str:
        """The id of a job, for messages."""
        return str(row if self.ids is None else self.ids[row])
