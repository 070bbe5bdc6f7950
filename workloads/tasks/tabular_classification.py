"""Classification of the rows of a table."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from heliostat.datasets import Index
from heliostat.datasets.signature import CATEGORIES, FEATURES, LABEL
from heliostat.errors import UserError, some
from heliostat.workloads.tabular.metrics import of_classes, rarer, update
from heliostat.workloads.tabular.models import ModelOptions, network
from heliostat.workloads.tabular.weights import ClassWeights, balanced, checked
from heliostat.workloads.task import Accumulator, Batch, MetricValue, Task, spread

DECIDED = {"accuracy", "balanced_accuracy", "f1"}
"""Metrics of the chosen classes, which follow ``threshold``; the others are of the probabilities."""


class TabularClassification(Task):
    """Needs the column label, and features or categories."""

    class Options(ModelOptions):
        class_weights: ClassWeights = None
        threshold: dict[str, float] | None = Field(
            None, description="the probability from which on one of two classes is chosen, such as {bad: 0.2}"
        )

    needs = {FEATURES: "float32/1", LABEL: "int64"}
    takes = (CATEGORIES, "missing")
    metric, better = "loss", "lower"

    def __init__(self, index: Index, options: Any) -> None:
        super().__init__(index, options)
        self._weights = _weights(options.class_weights, index)
        self._threshold = threshold(options.threshold, index.classes)

    def model(self) -> nn.Module:
        classes = len(self.index.classes)
        return network(self.options, self.index, classes) if self.index.signature else older(self.options, self.index, classes)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._loss(self._logits(model, batch), batch[LABEL])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, MetricValue]:
        """``loss`` is that of training; the counts of right and wrong are those of `decide`."""
        logits, labels = self._logits(model, batch), batch[LABEL]
        probabilities, loss = _probabilities(logits), self._loss(logits, labels)
        decided = self.decide(probabilities)
        if not self.index.signature:
            return {"loss": loss, "accuracy": (decided == labels).float().mean()}
        counted = F.one_hot(decided, probabilities.shape[1]).to(probabilities.dtype)
        found = of_classes(len(self.index.classes), rarer(self.index))
        return {"loss": loss, **update(found, probabilities, labels), **update(DECIDED & found.keys(), counted, labels)}

    def accumulators(self) -> dict[str, Accumulator]:
        return of_classes(len(self.index.classes), rarer(self.index)) if self.index.signature else {}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"probabilities": _probabilities(self._logits(model, batch))}

    def decide(self, probabilities: Tensor) -> Tensor:
        if not self._threshold:
            return super().decide(probabilities)
        chosen, least = self._threshold
        return torch.where(probabilities[:, chosen] >= least, chosen, 1 - chosen)

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


def threshold(given: Mapping[str, float] | None, classes: list[str]) -> tuple[int, float] | None:
    """The class with a threshold, and its least probability.

    Raises:
        UserError: it is not one of two classes, or no probability.
    """
    if given is None:
        return None
    known = len(classes) == 2 and len(given) == 1 and given.keys() <= {*classes}
    if not known or not all(0 < least < 1 for least in given.values()):
        raise UserError(
            f"model.threshold is {dict(given)}, and the classes are {some(classes, 8)}",
            f"give one of two classes a probability above 0 and below 1, such as {{{classes[-1]}: 0.2}}"
            if len(classes) == 2
            else "remove it: it is for two classes, and of more the most probable is chosen",
        )
    name, least = next(iter(given.items()))
    return classes.index(name), least


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
