"""Gradient boosting of decision trees on tables, for classes and numbers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat.datasets import Dataset, Index
from heliostat.datasets.signature import CATEGORIES, FEATURES, LABEL, TARGET, Oddities
from heliostat.errors import UserError
from heliostat.workloads.tabular import threshold
from heliostat.workloads.tabular.encoder import Numbers
from heliostat.workloads.tabular.losses import LOSSES, pinball
from heliostat.workloads.tabular.metrics import of_classes, of_numbers, rarer, update
from heliostat.workloads.task import Accumulator, Batch, MetricValue, Task, Trainer
from heliostat.workloads.trees import boosting
from heliostat.workloads.trees.model import Matrix, Trees

if TYPE_CHECKING:
    from heliostat.workloads.training.distributed import Ranks


class GradientBoosting(Task):
    """Needs the columns features or categories, and label or target; missing values stay missing."""

    class Options(boosting.Options):
        pass

    takes = (CATEGORIES, "missing")
    reads_rows = False  # its own refuse gaps, as what encodes rows by the signature alone does
    metric, better = "loss", "lower"

    def __init__(self, index: Index, options: boosting.Options) -> None:
        super().__init__(index, options)
        fields = index.fields
        if not (fields.keys() & {FEATURES, CATEGORIES} and fields.keys() & {LABEL, TARGET}):
            has = ", ".join(f"{name}: {field}" for name, field in fields.items())
            raise UserError(f"task gradient-boosting needs a table, but the dataset has {has}", "choose a dataset of a table")
        self._weights = boosting.weights_of(options, index.classes)
        boosting.check_target(options, index.classes)
        self._threshold = threshold.checked(options.threshold, index.classes)
        self._accumulators = (
            of_classes(len(index.classes), rarer(index), self.decide) if LABEL in fields else of_numbers(options.quantiles)
        )

    def model(self) -> Trees:
        columns = sum(field.shape[0] for name, field in self.index.fields.items() if name in (FEATURES, CATEGORIES))
        classes = len(self.index.classes) if LABEL in self.index.fields else 0
        return Trees(columns, classes, self._fill(columns), self.options.quantiles)

    def _fill(self, columns: int) -> Matrix | None:
        signature, train = self.index.signature, self.index.train
        if not signature or not signature.numeric or not train:
            return None
        fill = np.full(columns, np.nan, np.float32)
        known = Numbers(signature, train, self.index.stats).fill.numpy()
        fill[: len(known)] = np.where(np.array(train.missing) > 0, np.nan, known)
        return fill

    def rows(self, table: pa.Table) -> tuple[Batch, Oddities]:
        batch, odd = super().rows(table)
        columns = self.index.signature.numeric if self.index.signature else []
        if names := [column.name for column in columns if column.fill == "refuse" and column.name in odd.missing]:
            raise UserError(f"a value of {', '.join(map(repr, names))} is missing", "give it; the column has fill: refuse")
        return batch, odd

    def trainer(self, model: nn.Module, dataset: Dataset, ranks: "Ranks", seed: int) -> Trainer:
        assert isinstance(model, Trees)
        return boosting.Boosting(model, dataset, ranks, self.options, seed, self._weights)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The log loss without class weights, or the loss of the options, of numbers in standard units of the train split."""
        assert isinstance(model, Trees)
        outputs = model(batch)
        if model.classes:
            return F.cross_entropy(outputs, batch[LABEL])
        outputs, target = ((each - model.center) / model.scale for each in (outputs, batch[TARGET]))
        if levels := self.options.quantiles:
            return pinball(outputs, target[:, None], torch.tensor(levels, device=outputs.device))
        return LOSSES[self.options.loss](outputs, target)

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, MetricValue]:
        guess, *more = self.predict(model, batch).values()
        truth = batch[LABEL if LABEL in batch else TARGET]
        return {"loss": self.loss(model, batch), **update(self._accumulators, guess, truth, *more)}

    def decide(self, probabilities: Tensor) -> Tensor:
        return threshold.decided(probabilities, self._threshold)

    def accumulators(self) -> Mapping[str, Accumulator]:
        return self._accumulators

    def importance(self, model: nn.Module) -> dict[str, float]:
        """The share of each column of the table in what all splits gain."""
        assert isinstance(model, Trees)
        shares = dict.fromkeys(names := _names(self.index, model.columns), 0.0)
        gains = model.gains()
        for name, gain in zip(names, gains / (gains.sum() or 1.0), strict=True):
            shares[name] += float(gain)
        return shares

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``probabilities``; or ``prediction`` (samples,), and ``quantiles`` (samples, levels), which rise."""
        outputs, levels = model(batch), self.options.quantiles
        if LABEL in self.index.fields:
            return {"probabilities": outputs.softmax(1)}
        return {"prediction": outputs[:, levels.index(0.5)], "quantiles": outputs} if levels else {"prediction": outputs}


def _names(index: Index, columns: int) -> list[str]:
    """The column of the table that each of the trees' columns is of."""
    if index.signature:
        numbers = [column.name for column in index.signature.numeric for _ in column.feature_names]
        return [*numbers, *(column.name for column in index.signature.categorical)]
    names: list[str] = index.meta.get("feature_names", [])
    return names if len(names) == columns else [f"column {number}" for number in range(columns)]
