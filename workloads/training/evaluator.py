"""When and with which weights the loop evaluates its model."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from heliostat.datasets import Dataset
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.task import Task
from heliostat.workloads.training.assessment import assess
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import measure
from heliostat.workloads.training.preflight import try_metrics
from heliostat.workloads.training.rounds import Rounds
from heliostat.workloads.training.step import Step

Metrics = dict[str, float]


class Evaluator:
    """Evaluates the model of a run on its splits, with all workers.

    Args:
        config: of the run.
        task: the run's.
        dataset: that of the run.
        model: the task's, not parallelized.
        step: has the parallelized model, its buffers, and the average of its weights.
        ranks: this worker among the others.
    """

    def __init__(
        self, config: TrainConfig, task: Task, dataset: Dataset, model: nn.Module, step: Step | Rounds, ranks: Ranks
    ) -> None:
        self._config, self._task, self._dataset, self._model = config, task, dataset, model
        self._step, self._ranks = step, ranks
        self._average = step.update.average if step.update else None
        self._size = 4 * step.micro_batch
        """Samples in a batch without gradients."""

    def try_metrics(self) -> None:
        """Compute the metrics of a few samples, before the first step."""
        # Eager, because the model would be compiled for the size of this batch.
        with torch.compiler.set_stance("force_eager") if self._config.compile else nullcontext():
            try_metrics(self._task, self._step.apply, self._dataset, self._ranks)

    def validate(self) -> Metrics:
        """The metrics of the validation split, with the averaged weights if the run has some."""
        self._step.buffers.pool()
        with self._average.in_use() if self._average else nullcontext():
            return self._measure("validation")

    def last(self, best: Metrics | None) -> tuple[Metrics, Metrics, dict[str, Any]]:
        """The metrics of validation and test split with the weights that the run ends with, and what the report says of these.

        Args:
            best: the metrics of the best checkpoint, which is loaded; None if none was evaluated, as in a run that was resumed
                after its last step.
        """
        step = self._step
        step.buffers.pool()
        if best is None and self._average:
            self._average.put()
        validation = best if best is not None else self._measure("validation")
        test = self._measure("test")
        detail = assess(self._task, step.apply, self._dataset, "test", self._ranks, self._size, test, self._config.report)
        self._model.eval()
        # On all workers: a sharded model is computed together.
        return validation, test, {**detail, "sample": step.apply(lambda model, _: self._task.sample(model), None)}

    def _measure(self, split: str) -> Metrics:
        most = self._config.evaluate_samples if split == "validation" else None
        return measure(self._task, self._step.apply, self._dataset, split, self._ranks, self._size, most)
