"""The steps of a run whose model no gradient trains: each is a round of the task's trainer over the whole train split."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from heliostat.datasets import Dataset
from heliostat.datasets.loader import Batch
from heliostat.datasets.order import Order
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.task import Task, Trainer, by_rounds
from heliostat.workloads.training.buffers import Buffers
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.parallel import Apply
from heliostat.workloads.training.step import Count, Step

EVALUATED = 4096
"""Samples that are evaluated at once, over four."""


class Rounds:
    """A worker's part of the rounds; what the loop needs of a `Step`.

    Args:
        config: of the run.
        dataset: has the train split.
        task: has the trainer.
        model: of the task.
        ranks: this worker's.
    """

    update = None

    def __init__(self, config: TrainConfig, dataset: Dataset, task: Task, model: nn.Module, ranks: Ranks) -> None:
        self._dataset, self._task, self._ranks, self._seed = dataset, task, ranks, config.seed
        self.buffers = Buffers(model, ranks, synchronize=False)
        self.apply = Apply(model.to(ranks.device))
        self.micro_batch = EVALUATED
        self._trainer: Trainer | None = None

    def batches(self, order: Order, consumed: int) -> Iterator[Batch]:
        """A batch without tensors for each round, as the trainer has the samples; it is made first, of the model as it is."""
        self._trainer = self._task.trainer(self.apply.model, self._dataset, self._ranks, self._seed)
        while True:
            epoch = order.locate(consumed)[0]
            consumed += order.total
            yield Batch(epoch, consumed, order.total, np.empty(0, np.int64), {})

    def check_single_samples(self, order: Order) -> None:
        """No batch can be too small."""

    def own_seconds(self) -> float:
        """Not known."""
        return 0.0

    def rates(self, step: int) -> dict[str, float]:
        """For the records of a step its ``lr``."""
        return {"lr": self._trainer.rate if self._trainer else 0.0}

    def __call__(self, batch: Batch, step: int, count: Count) -> Tensor:
        """Trains round number ``step``, from 0; returns 0 for the norm of the gradients."""
        assert self._trainer is not None
        count(*self._trainer(step))
        return torch.zeros((), device=self._ranks.device)


def open_step(
    config: TrainConfig, dataset: Dataset, task: Task, model: nn.Module, ranks: Ranks, order: Order, total: int
) -> Step | Rounds:
    """What computes the steps of a run, ``total`` of them, on this worker."""
    if by_rounds(type(task)):
        return Rounds(config, dataset, task, model, ranks)
    return Step(config, dataset, task, model, ranks, order.largest_part(ranks.world), total)
