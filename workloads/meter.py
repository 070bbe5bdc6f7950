"""What a worker counts between two talks with the others, and what they make of it together."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from workloads.ranks import Ranks

SLOW_STEP = 0.1
"""Seconds from which on a step is so long that talking after each one costs nothing."""


@dataclass(frozen=True)
class Agreement:
    """What all workers know after a talk."""

    stop: bool
    bad_step: int | None
    """The first step whose loss was NaN or infinite."""
    slow: bool


class Meter:
    """Counts loss, samples and time without waiting for the device; `agree` is the one place where it waits."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=ranks.device)
        self._bad_step = torch.full((), -1, device=ranks.device)
        self._samples = self._steps = 0
        self._since = time.perf_counter()
        self.logged = (0.0, 0.0, 0.0)
        """Loss sum, samples and seconds of all workers since `log` was called."""

    def add(self, loss: Tensor, samples: int, step: int) -> None:
        """Count a micro-batch of ``samples`` with that mean loss."""
        loss = loss.detach()
        self._loss_sum += loss.double() * samples
        self._samples += samples
        self._bad_step = torch.where((self._bad_step < 0) & ~torch.isfinite(loss), step, self._bad_step)

    def step(self) -> None:
        """Count a step."""
        self._steps += 1

    def restart(self) -> None:
        """Leave out the time since the last talk, which went into something else than training."""
        self._since = time.perf_counter()

    def agree(self, stop: bool) -> Agreement:
        """Talk with the other workers: all must call it at the same step."""
        row = [float(self._loss_sum), self._samples, float(self._bad_step), stop, time.perf_counter() - self._since]
        table = self.ranks.table([float(value) for value in row])
        loss_sum, samples, stopping, seconds = (float(table[:, column].sum()) for column in (0, 1, 3, 4))
        seconds /= self.ranks.world
        slow = bool(self._steps) and seconds / self._steps > SLOW_STEP
        bad_steps = [int(step) for step in table[:, 2].tolist() if step >= 0]
        loss, counted, time_spent = self.logged
        self.logged = (loss + loss_sum, counted + samples, time_spent + seconds)
        self._loss_sum.zero_()
        self._samples = self._steps = 0
        self.restart()
        return Agreement(stop=bool(stopping), bad_step=min(bad_steps, default=None), slow=slow)

    def log(self) -> dict[str, float]:
        """The mean loss and the speed since the last log; empty if there was no step."""
        (loss, samples, seconds), self.logged = self.logged, (0.0, 0.0, 0.0)
        return {"loss": loss / samples, "samples_per_second": round(samples / seconds, 1)} if samples else {}
