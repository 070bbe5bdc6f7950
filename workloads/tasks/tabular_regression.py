"""Regression of a number of a table: its mean, its median, or several quantiles."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from heliostat.datasets.signature import CATEGORIES, FEATURES, TARGET
from heliostat.workloads.tabular import losses
from heliostat.workloads.tabular.encoder import described
from heliostat.workloads.tabular.losses import LOSSES, Loss, Quantiles, Standardized, ordered, pinball
from heliostat.workloads.tabular.metrics import of_numbers, update
from heliostat.workloads.tabular.models import ModelOptions, network
from heliostat.workloads.task import Accumulator, Batch, MetricValue, Task


class TabularRegression(Task):
    """Needs the column target, and features or categories. Losses are in standard units, predictions in those of the target."""

    class Options(ModelOptions):
        loss: Loss = "mse"
        quantiles: Quantiles = ()

        def problems(self) -> Iterator[tuple[str, str]]:
            yield from super().problems()
            yield from losses.problems(self.quantiles, self.loss if "loss" in self.model_fields_set else None)

    needs = {FEATURES: "float32/1", TARGET: "float64"}
    takes = (CATEGORIES, "missing")
    metric, better = "rmse", "lower"

    def model(self) -> nn.Module:
        mean, std = described(self.index)[1].target[:2]
        return Standardized(network(self.options, self.index, len(self.options.quantiles) or 1), mean, std)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._loss(self._outputs(model, batch), model.standard(batch[TARGET]))  # type: ignore[operator]

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, MetricValue]:
        outputs, target = self._outputs(model, batch), batch[TARGET]
        loss = self._loss(outputs, model.standard(target))  # type: ignore[operator]
        found = self._predicted(model, outputs)
        names = of_numbers(self.options.quantiles)
        return {"loss": loss, **update(names, found["prediction"], target, *[*found.values()][1:])}

    def accumulators(self) -> dict[str, Accumulator]:
        return of_numbers(self.options.quantiles)

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``prediction`` (samples,), and ``quantiles`` (samples, levels), which rise."""
        return self._predicted(model, self._outputs(model, batch))

    def _predicted(self, model: nn.Module, outputs: Tensor) -> dict[str, Tensor]:
        values = model.units(outputs.mean(1))  # type: ignore[operator]
        levels = self.options.quantiles
        if not levels:
            return {"prediction": values[:, 0]}
        return {"prediction": values[:, levels.index(0.5)], "quantiles": values}

    def _outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """(samples, members, levels or 1), in standard units."""
        outputs = model(batch).float()
        return ordered(outputs) if self.options.quantiles else outputs

    def _loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        target = target[:, None, None]
        if levels := self.options.quantiles:
            return pinball(outputs, target, torch.tensor(levels, device=outputs.device))
        return LOSSES[self.options.loss](outputs, target.expand_as(outputs))
