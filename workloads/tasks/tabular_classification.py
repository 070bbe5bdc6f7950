"""Classification of the rows of a table."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.datasets import Index
from heliostat.datasets.signature import CATEGORIES, FEATURES, LABEL
from heliostat.errors import UserError
from heliostat.workloads.tabular import threshold
from heliostat.workloads.tabular.metrics import of_classes, rarer, update
from heliostat.workloads.tabular.models import ModelOptions, network
from heliostat.workloads.tabular.threshold import Threshold
from heliostat.workloads.tabular.weights import ClassWeights, balanced, checked
from heliostat.workloads.task import Accumulator, Batch, MetricValue, Task, spread


class TabularClassification(Task):
    """Needs the column label, and features or categories."""

    class Options(ModelOptions):
        class_weights: ClassWeights = None
        threshold: Threshold = None

    needs = {FEATURES: "float32/1", LABEL: "int64"}
    takes = (CATEGORIES, "missing")
    metric, better = "loss", "lower"

    def __init__(self, index: Index, options: Any) -> None:
        super().__init__(index, options)
        self._weights = _weights(options.class_weights, index)
        self._threshold = threshold.checked(options.threshold, index.classes)

    def model(self) -> nn.Module:
        classes = len(self.index.classes)
        return network(self.options, self.index, classes) if self.index.signature else older(self.options, self.index, classes)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._loss(self._logits(model, batch), batch[LABEL])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, MetricValue]:
        """``loss`` is that of training; the counts of right and wrong are those of `decide`."""
        logits, labels = self._logits(model, batch), batch[LABEL]
        probabilities, loss = _probabilities(logits), self._loss(logits, labels)
        if not self.index.signature:
            return {"loss": loss, "accuracy": (self.decide(probabilities) == labels).float().mean()}
        return {"loss": loss, **update(self._of_classes(), probabilities, labels)}

    def accumulators(self) -> dict[str, Accumulator]:
        return self._of_classes() if self.index.signature else {}

    def _of_classes(self) -> dict[str, Accumulator]:
        return of_classes(len(self.index.classes), rarer(self.index), self.decide)

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"probabilities": _probabilities(self._logits(model, batch))}

    def decide(self, probabilities: Tensor) -> Tensor:
        return threshold.decided(probabilities, self._threshold)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat_interleave(logits.shape[1]), reduction="none")
        losses = losses.view(logits.shape[:2]).mean(1)
        return (losses if self._weights is None else losses * self._weights.to(losses.device)[labels]).mean()

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """(samples, members, classes)."""
        logits: Tensor = model(batch) if self.index.signature else model(batch[FEATURES])[:, None]
        return logits


def _probabilities(logits: Tensor) -> Tensor:
    """(samples, members, classes) -> (samples, classes)."""
    return logits.float().softmax(2).mean(1)


def _weights(given: ClassWeights, index: Index) -> Tensor | None:
    """The weight of each class in the loss.

    Raises:
        UserError: see `checked`; the dataset has no counts of its classes.
    """
    found = checked(given, index.classes)
    if found == "balanced":
        if not index.train:
            raise UserError("model.class_weights is balanced, but the dataset is older and does not count its classes",
                            "build it again, or give a weight a class, such as {good: 1, bad: 5}")  # fmt: skip
        return balanced(torch.tensor(index.train.target, dtype=torch.float64)).float()
    return None if found is None else torch.tensor(found)


# --- datasets of format 1, which have no signature -----------------------------------------------------------------


def older(options: Any, index: Index, classes: int) -> nn.Module:
    """The perceptron of older versions, with the names of its parameters."""
    if options.kind != "mlp":
        raise UserError(f"model.kind is {options.kind}, but the dataset was built by an older version", "build it again")
    width, hidden = index.fields[FEATURES].shape[0], options.hidden or 64
    layers: list[nn.Module] = [Standardize(index.stats[FEATURES])]
    for _ in range(options.layers):
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(options.dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, classes))


class Standardize(nn.Module):
    """Subtract the mean and divide by the standard deviation of the training data."""

    mean: Tensor
    std: Tensor

    def __init__(self, stats: dict[str, list[float]]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(stats["mean"]))
        self.register_buffer("std", spread(stats))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
