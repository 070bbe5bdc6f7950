"""The task and the callback of `tests.benchmarks.step`."""

import time
from typing import Any

from torch import Tensor, nn
from torchmetrics.classification import MulticlassAUROC, MulticlassCalibrationError, MulticlassF1Score

from heliostat import Batch, Callback
from heliostat.workloads.callback import RunContext
from heliostat.workloads.tasks.image_classification import ImageClassification

TIMES: list[float] = []
"""The CPU time of the process at each loss of the last run, in seconds."""


class Timed(ImageClassification):
    """Images, with the CPU time at each step."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if model.training:
            TIMES.append(time.process_time())
        return super().loss(model, batch)


class Exact(Timed):
    """The same with metrics that are no means of batches: two from all samples, one from counts."""

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        logits, labels = model(batch["image"]), batch["label"]
        found = {"loss": nn.functional.cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}
        return {**found, **dict.fromkeys(self.accumulators(), (logits, labels))}

    def accumulators(self) -> dict[str, Any]:
        classes = len(self.index.classes)
        return {
            "auc": MulticlassAUROC(classes),
            "calibration": MulticlassCalibrationError(classes),
            "f1": MulticlassF1Score(classes),
        }


class Watch(Callback):
    """Adds the losses up, and logs their mean with each record: all hooks of a step are called."""

    def __init__(self, options: Callback.Options) -> None:
        self.total: Tensor | float = 0.0

    def on_step(self, run: RunContext, loss: Tensor) -> None:
        self.total = self.total + loss
        if run.step % run.config.log_every == 0:
            run.log("mean_loss", self.total / run.config.log_every)
            self.total = 0.0

    def on_evaluation(self, run: RunContext, metrics: Any) -> None:
        run.log("seen", len(metrics))
