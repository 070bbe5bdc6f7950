"""Evaluates a model on a split, with all workers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from heliostat.datasets import Dataset
from heliostat.datasets.loader import tensors
from heliostat.datasets.order import Ids
from heliostat.workloads.task import Batch, Task
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.measurement import Measurement
from heliostat.workloads.training.parallel import Apply


@torch.no_grad()
def measure(
    task: Task, apply: Apply, dataset: Dataset, split: str, ranks: Ranks, size: int, most: int | None = None
) -> dict[str, float]:
    """The task's metrics on a split, the same on all workers; each computes its part in batches of ``size``.

    With ``most``, on at most so many samples, spread evenly over the split.

    Raises:
        UserError: a metric cannot be used, see `Measurement`.
    """
    measurement = Measurement(task, ranks)
    with eval_mode(apply):
        for _, batch, samples in parts(dataset, split, ranks, size, most):
            measurement.add(apply(task.metrics, batch), max(samples, 1), samples)
    return measurement.compute()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in ``eval`` mode; afterwards each part is in the mode that it was in, such as one that the task has frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def parts(dataset: Dataset, split: str, ranks: Ranks, size: int, most: int | None = None) -> Any:
    """This worker's part of a split: (ids, batch on the device, samples).

    All workers get the same number of batches, because a sharded model is computed together; a worker whose part is exhausted
    gets a sample with count 0.
    """
    rows = dataset.index.rows(split)
    total = min(rows, most or rows)
    first, last = ranks.share(total)
    for start in range(first, first + -(-total // ranks.world), size):
        ids = np.arange(start, min(start + size, last)) * rows // total
        yield ids, batch_of(dataset, split, ids, ranks) if len(ids) else first_sample(dataset, split, ranks), len(ids)


def first_sample(dataset: Dataset, split: str, ranks: Ranks) -> Batch:
    """A batch of the first sample of a split."""
    return batch_of(dataset, split, np.zeros(1, np.int64), ranks)


def batch_of(dataset: Dataset, split: str, ids: Ids, ranks: Ranks) -> Batch:
    """The samples with these numbers, on this worker's device."""
    return {name: value.to(ranks.device) for name, value in tensors(dataset, split, ids).items()}
