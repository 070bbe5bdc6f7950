"""Training metrics that each worker counts, and their reduction over all workers."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.stragglers import Slow, Stragglers


@dataclass(frozen=True)
class SyncResult:
    """What all workers know after a sync."""

    request: int
    """The largest that a worker passed."""
    bad_loss: int | None
    """The first step whose loss was NaN or infinite."""
    bad_gradient: int | None
    """The first step whose gradient was NaN or infinite."""
    save: bool
    """Whether a worker passed that a checkpoint is due."""
    step_seconds: float
    """The mean time of a step since the last sync, in seconds; 0 if there was no step."""
    slow: list[Slow | None]
    """Of each window that ended (at most one): the worker that the others wait for, None if there is none."""


class Meter:
    """Counts loss, samples and time without waiting for the device, except in `sync`.

    Args:
        ranks: this worker's.
        logged: the totals of a run that is resumed.
        own: returns the seconds that this worker computed by itself since the last call, 0 if that is not known.
    """

    def __init__(
        self, ranks: Ranks, logged: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0), own: Callable[[], float] = lambda: 0.0
    ) -> None:
        self.ranks, self._own, self._stragglers = ranks, own, Stragglers(ranks.world)
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=ranks.device)
        self._bad_loss = self._bad_gradient = torch.full((), -1, device=ranks.device)
        self._samples = self._steps = 0
        self._waited = 0.0
        self._since = time.perf_counter()
        self.logged = logged
        """Since the last `log`: loss sum and samples of all workers; seconds, and those without data, of the mean worker."""

    def add(self, loss: Tensor, samples: int, step: int) -> None:
        """Counts a micro-batch of ``samples`` with that mean loss."""
        loss = loss.detach()
        self._loss_sum += loss.double() * samples
        self._samples += samples
        self._bad_loss = _first(self._bad_loss, loss, step)

    def step(self, norm: Tensor, step: int) -> None:
        """Counts a step, whose gradients had that norm."""
        self._steps += 1
        self._bad_gradient = _first(self._bad_gradient, norm, step)

    def waited(self, seconds: float) -> None:
        """Counts time spent waiting for data."""
        self._waited += seconds

    def restart(self) -> None:
        """Excludes the time since the last sync, which was not spent on training."""
        self._since = time.perf_counter()

    def sync(self, request: int = 0, save: bool = False) -> SyncResult:
        """Reduces the counts over all workers, which must call it at the same step."""
        seconds = time.perf_counter() - self._since
        counted: list[float] = torch.stack([self._loss_sum, self._bad_loss.double(), self._bad_gradient.double()]).tolist()
        table = self.ranks.all_gather(
            [*counted, float(self._samples), float(request), seconds, self._waited, float(save), self._own()]
        )
        loss_sum, samples, seconds, waited = (float(table[:, column].sum()) for column in (0, 3, 5, 6))
        seconds, waited = seconds / self.ranks.world, waited / self.ranks.world
        bad_loss, bad_gradient = (min((int(n) for n in table[:, c].tolist() if n >= 0), default=None) for c in (1, 2))
        step_seconds = seconds / self._steps if self._steps else 0.0
        slow = [*self._stragglers.add(table[:, 8], table[:, 6], self._steps, seconds)]
        self.logged = tuple(map(sum, zip(self.logged, (loss_sum, samples, seconds, waited), strict=True)))
        self._loss_sum.zero_()
        self._samples = self._steps = 0
        self._waited = 0.0
        self.restart()
        return SyncResult(int(table[:, 4].max()), bad_loss, bad_gradient, bool(table[:, 7].any()), step_seconds, slow)

    def log(self) -> dict[str, float]:
        """The mean loss, the throughput and the share of time without data since the last log; empty if there was no step."""
        (loss, samples, seconds, waited), self.logged = self.logged, (0.0, 0.0, 0.0, 0.0)
        if not samples:
            return {}
        return {
            "loss": loss / samples, "samples_per_second": round(samples / seconds, 1), "data_wait": round(waited / seconds, 4),
        }  # fmt: skip


def _first(bad: Tensor, value: Tensor, step: int) -> Tensor:
    """The first step with a value that was NaN or infinite, -1 before there is one."""
    return torch.where((bad < 0) & ~torch.isfinite(value), step, bad)
