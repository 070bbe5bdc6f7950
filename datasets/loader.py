"""Reads batches of torch tensors from memory-mapped shards in the global order."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from heliostat.datasets.format import Dataset
from heliostat.datasets.order import Ids, Order

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """One worker's part of a global batch."""

    epoch: int
    consumed: int
    """Samples that the whole run has consumed after this batch."""
    global_size: int
    """Samples in the global batch, over all workers."""
    ids: Ids
    tensors: Tensors
    """Column -> (samples of this worker, *shape), in the dataset's own types."""


def batches(dataset: Dataset, order: Order, consumed: int, rank: int, workers: int) -> Iterator[Batch]:
    """An endless iterator over one worker's part of the global batches of the train split, from ``consumed`` on."""
    while True:
        epoch, step = order.locate(consumed)
        ids = order.batch(epoch, step, rank, workers)
        size = order.batch_size(step)
        consumed += size
        yield Batch(epoch, consumed, size, ids, tensors(dataset, "train", ids))


def tensors(dataset: Dataset, split: str, ids: Ids) -> Tensors:
    """The samples with these numbers as tensors."""
    return {name: torch.from_numpy(values) for name, values in dataset.take(split, ids).items()}
