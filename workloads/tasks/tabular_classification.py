"""Tabular classification with a small multilayer perceptron on standardized features."""

import json
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from heliostat.config import Config
from heliostat.errors import UserError
from heliostat.workloads.task import Batch, Task, spread


class TabularClassification(Task):
    """Needs the columns features (a vector) and label."""

    class Options(Config):
        hidden: int = Field(64, ge=1, description="units of each hidden layer, at least 1")
        layers: int = Field(2, ge=0, description="hidden layers, at least 0 (0 is logistic regression)")
        dropout: float = Field(0.2, ge=0, lt=1, description="a share from 0 to below 1")

    needs = {"features": "float32/1", "label": "int64"}
    metric, better = "loss", "lower"

    def model(self) -> nn.Module:
        options, width = self.options, self.index.fields["features"].shape[0]
        layers: list[nn.Module] = [Standardize(self.index.stats["features"])]
        for _ in range(options.layers):
            layers += [nn.Linear(width, options.hidden), nn.ReLU(), nn.Dropout(options.dropout)]
            width = options.hidden
        return nn.Sequential(*layers, nn.Linear(width, len(self.index.classes)))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(model(batch["features"]), batch["label"])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, labels = model(batch["features"]), batch["label"]
        return {"loss": F.cross_entropy(logits, labels), "accuracy": (logits.argmax(1) == labels).float().mean()}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"probabilities": model(batch["features"]).float().softmax(1)}

    def read(self, value: str) -> Batch:
        """Parses a JSON object with every feature by its name, or a JSON list in the dataset's order."""
        names: list[str] = self.index.meta["feature_names"]
        offsets: dict[str, float] = self.index.meta.get("offsets", {})
        try:
            data: Any = json.loads(value)
            row = [data[name] for name in names] if isinstance(data, dict) else data
            if offsets and isinstance(row, list) and len(row) == len(names):
                # Before it is rounded to 32 bits.
                row = [number - offsets.get(name, 0) for name, number in zip(names, row, strict=True)]
            features = torch.tensor([row], dtype=torch.float32)
        except (ValueError, TypeError, KeyError, OverflowError, RuntimeError) as error:
            raise UserError(
                f"input {value[:60]!r} is not a row: {error}", f"give a JSON object with {', '.join(names)}"
            ) from None
        if features.shape != (1, len(names)):
            raise UserError(f"the input has {features.shape[-1]} values, but must have {len(names)}", "give one per feature")
        if not features.isfinite().all():
            raise UserError(f"input {value[:60]!r} has a value that is not a finite number", "give finite numbers")
        return {"features": features}


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
