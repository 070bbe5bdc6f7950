"""How far a run is, and how it has ended."""

import math
from dataclasses import dataclass, field
from typing import Any

from heliostat.config import Config
from heliostat.workloads.config import callback_of
from heliostat.workloads.run.record import Measured
from heliostat.workloads.training.callbacks import Stop


class Outcome(Config):
    """The result of the loop, the same on all workers."""

    state: str
    step: int
    epoch: int
    best_step: int | None = None
    metrics: Measured = {}
    intervals: dict[str, list[float]] = {}
    baseline: dict[str, float | None] = {}
    message: str = ""


@dataclass
class Progress:
    """The state that a resumed run needs besides the model and the optimizer."""

    step: int = 0
    consumed: int = 0
    best: float | None = None
    waited: int = 0
    """Evaluations since the best one."""
    logged: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """The totals of the `Meter` since the last record of the loss."""
    records: tuple[int, ...] = (0, 0)
    """The lengths of the journals, as rank 0 counts them."""
    stop: Stop | None = None
    """The request of a callback to stop."""
    callbacks: dict[str, Any] = field(default_factory=dict)
    """Their states, on rank 0."""

    def evaluated(self, value: float, better: str | None, margin: float) -> None:
        """Note an evaluation of the metric that decides: the best so far must be exceeded by more than ``margin``."""
        sign = 1 if better == "higher" else -1
        if math.isfinite(value) and (self.best is None or sign * (value - self.best) > margin):
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    def ended_by(self, total_steps: int) -> str:
        """The callback that has ended the run, and why, in words; empty if none has."""
        if not self.stop or self.step >= total_steps:
            return ""
        return f"callback {callback_of(self.stop['by'])[0]}: {self.stop['reason']}"
