"""Gradient boosting of decision trees on tables, for classes and numbers."""

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.datasets import Dataset, Index
from heliostat.datasets.signature import CATEGORIES, FEATURES, LABEL, TARGET
from heliostat.errors import UserError
from heliostat.workloads.task import Batch, Task, Trainer
from heliostat.workloads.trees import boosting
from heliostat.workloads.trees.model import Trees

if TYPE_CHECKING:
    from heliostat.workloads.training.distributed import Ranks


class GradientBoosting(Task):
    """Needs the columns features or categories, and label or target; missing values stay missing."""

    Options = boosting.Options
    metric, better = "loss", "lower"

    def __init__(self, index: Index, options: boosting.Options) -> None:
        super().__init__(index, options)
        fields = index.fields
        if not (fields.keys() & {FEATURES, CATEGORIES} and fields.keys() & {LABEL, TARGET}):
            has = ", ".join(f"{name}: {field}" for name, field in fields.items())
            raise UserError(f"task gradient-boosting needs a table, but the dataset has {has}", "choose a dataset of a table")

    def model(self) -> Trees:
        columns = sum(field.shape[0] for name, field in self.index.fields.items() if name in (FEATURES, CATEGORIES))
        return Trees(columns, len(self.index.classes) if LABEL in self.index.fields else 0)

    def trainer(self, model: nn.Module, dataset: Dataset, ranks: "Ranks", seed: int) -> Trainer:
        assert isinstance(model, Trees)
        return boosting.Boosting(model, dataset, ranks, self.options, seed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        outputs = model(batch)
        return F.cross_entropy(outputs, batch[LABEL]) if LABEL in batch else F.mse_loss(outputs, batch[TARGET])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch)
        if LABEL not in batch:
            return {"loss": F.mse_loss(outputs, batch[TARGET])}
        right = outputs.argmax(1) == batch[LABEL]
        return {"loss": F.cross_entropy(outputs, batch[LABEL]), "accuracy": right.float().mean()}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch)
        return {"prediction": outputs} if TARGET in self.index.fields else {"probabilities": outputs.softmax(1)}
