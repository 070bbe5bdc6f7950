"""The speed of a config's training steps on some workers, and what their time goes to."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from heliostat.datasets import Dataset
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.run.length import order_of, steps_of
from heliostat.workloads.task import create
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.step import Step

WARM_UP_STEPS = 3
WINDOW_SECONDS = 0.3
LEAST_WINDOWS = 5
"""Windows of each kind at least, however long they take."""


@dataclass(frozen=True)
class _Window:
    """Some steps in a row; the times are those of the slowest worker, a step's."""

    step_seconds: float
    samples_per_second: float
    waited: float
    """The share of the time in which a worker waited for data, as a mean over the workers."""


def measure_speed(config: TrainConfig, dataset: Dataset, ranks: Ranks, seconds: float) -> dict[str, Any]:
    """Trains for some seconds, and forgets the model; all workers of a group call it.

    Windows of steps that average the gradients over the workers alternate with windows of steps that do not, on the same
    machine at the same time; the difference is what a step pays for the others: communication that no computation hides, and
    waiting for slower workers.

    Args:
        config: of a run with steps, not rounds.
        dataset: its dataset.
        ranks: this worker's.
        seconds: how long both kinds of windows last together, at least.

    Returns:
        ``samples_per_second``, as median, lowest and highest of the windows, ``data_wait``, a share of the time, and
        ``communication``, a share as well, None where the steps cannot do without it (one worker, a sharded model).
    """
    measured = _Measured(config, dataset, ranks)
    measured.window(WARM_UP_STEPS)
    steps = ranks.broadcast(max(1, round(WINDOW_SECONDS / measured.window(1).step_seconds)))
    began, pairs = time.perf_counter(), list[tuple[_Window, _Window]]()
    while ranks.broadcast(len(pairs) < LEAST_WINDOWS or time.perf_counter() - began < seconds):
        pairs.append(measured.pair(steps, alone_first=len(pairs) % 2 == 1))
    rates = [together.samples_per_second for together, _ in pairs]
    shares = [1 - alone.step_seconds / together.step_seconds for together, alone in pairs]
    return {
        "samples_per_second": [float(np.median(rates)), min(rates), max(rates)],
        "data_wait": float(np.median([together.waited for together, _ in pairs])),
        "communication": max(0.0, float(np.median(shares))) if measured.replicated else None,
    }


class _Measured:
    def __init__(self, config: TrainConfig, dataset: Dataset, ranks: Ranks) -> None:
        order = order_of(config, dataset)
        task = create(config.task, config.model, dataset.index, metric=config.metric)
        torch.manual_seed(config.seed)
        self._ranks, self._number = ranks, 0
        part, total = order.largest_part(ranks.world), steps_of(config, order)
        self._step, self._total = Step(config, dataset, task, task.model(), ranks, part, total), total
        self._batches = self._step.batches(order, 0)
        self.replicated = any(isinstance(each.model, DistributedDataParallel) for each in self._step.parts)

    def pair(self, steps: int, alone_first: bool) -> tuple[_Window, _Window]:
        """A window with and one without communication, in alternating order; without it only if the steps can do so."""
        if not self.replicated:
            return (window := self.window(steps)), window
        first, second = self.window(steps, alone=alone_first), self.window(steps, alone=not alone_first)
        return (second, first) if alone_first else (first, second)

    def window(self, steps: int, alone: bool = False) -> _Window:
        self._step.averages = not alone
        samples, waited = 0, 0.0
        self._meet(0.0)
        began = time.perf_counter()
        for _ in range(steps):
            since = time.perf_counter()
            batch = next(self._batches)
            waited += time.perf_counter() - since
            self._step(batch, self._number, lambda loss, samples: None)
            self._number = min(self._number + 1, self._total - 1)  # a schedule has no learning rate after the last step
            samples += batch.global_size
        waited = self._meet(waited)
        seconds = time.perf_counter() - began
        return _Window(seconds / steps, samples / seconds, waited / seconds)

    def _meet(self, value: float) -> float:
        """The mean of a value over the workers, when all have finished what they have begun."""
        if self._ranks.device.type == "cuda":
            torch.cuda.synchronize()
        return float(self._ranks.all_gather([value]).mean())
