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

MISTAKES = 24


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
        for _, batch, samples in _parts(dataset, split, ranks, size, most):
            measurement.add(apply(task.metrics, batch), max(samples, 1), samples)
    return measurement.compute()


@torch.no_grad()
def confusion(task: Task, apply: Apply, dataset: Dataset, split: str, ranks: Ranks, size: int) -> dict[str, Any] | None:
    """For classifiers, the confusion matrix (rows are the truth) and the most confident mistakes; None for others."""
    if "label" not in dataset.index.fields or not (classes := dataset.index.classes):
        return None
    matrix = np.zeros((len(classes), len(classes)))
    mistakes: list[dict[str, Any]] = []
    with eval_mode(apply):
        # All workers must decide the same, also one whose part is empty: they all predict the same sample.
        if "probabilities" not in apply(task.predict, _first_sample(dataset, split, ranks)):
            return None
        for ids, batch, samples in _parts(dataset, split, ranks, size):
            probabilities = apply(task.predict, batch)["probabilities"]
            guess = task.decide(probabilities)
            confidence = probabilities.gather(1, guess[:, None]).squeeze(1)
            if not samples:
                continue
            truth = batch["label"]
            np.add.at(matrix, (truth.cpu().numpy(), guess.cpu().numpy()), 1)
            for at in (guess != truth).nonzero().flatten().tolist():
                mistakes.append(
                    {"id": int(ids[at]), "label": int(truth[at]), "guess": int(guess[at]), "confidence": float(confidence[at])}
                )
            mistakes = sorted(mistakes, key=lambda m: -m["confidence"])[:MISTAKES]
    total = ranks.all_gather(matrix.flatten().tolist()).sum(0).view(len(classes), len(classes))
    everyone = sorted((m for part in ranks.all_gather_object(mistakes) for m in part), key=lambda m: -m["confidence"])
    return {"confusion": total.long().tolist(), "mistakes": everyone[:MISTAKES]}


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


def _parts(dataset: Dataset, split: str, ranks: Ranks, size: int, most: int | None = None) -> Any:
    """This worker's part of a split: (ids, batch on the device, samples).

    All workers get the same number of batches, because a sharded model is computed together; a worker whose part is exhausted
    gets a sample with count 0.
    """
    rows = dataset.index.rows(split)
    total = min(rows, most or rows)
    first, last = ranks.share(total)
    for start in range(first, first + -(-total // ranks.world), size):
        ids = np.arange(start, min(start + size, last)) * rows // total
        yield ids, batch_of(dataset, split, ids, ranks) if len(ids) else _first_sample(dataset, split, ranks), len(ids)


def _first_sample(dataset: Dataset, split: str, ranks: Ranks) -> Batch:
    return batch_of(dataset, split, np.zeros(1, np.int64), ranks)


def batch_of(dataset: Dataset, split: str, ids: Ids, ranks: Ranks) -> Batch:
    """The samples with these numbers, on this worker's device."""
    return {name: value.to(ranks.device) for name, value in tensors(dataset, split, ids).items()}
