"""Regression of a number of a table: its mean, its median, or several quantiles."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from heliostat.datasets.signature import CATEGORIES, FEATURES, TARGET
from heliostat.workloads.tabular.encoder import described
from heliostat.workloads.tabular.losses import LOSSES, Standardized, ordered, pinball
from heliostat.workloads.tabular.models import ModelOptions, network
from heliostat.workloads.tabular.rows import read_row
from heliostat.workloads.task import Accumulator, Batch, Task


class TabularRegression(Task):
    """Needs the column target, and features or categories. Losses are in standard units, predictions in those of the target."""

    class Options(ModelOptions):
        loss: Literal["mse", "mae", "huber"] = Field("mse", description="mse, mae or huber, of the standardized target")
        quantiles: tuple[float, ...] = Field(
            (), strict=False, description="rising levels with 0.5, such as [0.1, 0.5, 0.9], which the pinball loss learns"
        )

        @model_validator(mode="after")
        def _levels(self) -> Self:
            levels = self.quantiles
            if levels and not (sorted({0.0, 1.0, *levels}) == [0, *levels, 1]):
                raise ValueError(
                    f"quantiles is {list(levels)}; give rising numbers above 0 and below 1, such as [0.1, 0.5, 0.9]"
                )
            if levels and 0.5 not in levels:
                raise ValueError(f"quantiles is {list(levels)}; add 0.5, which is the prediction")
            if levels and "loss" in self.model_fields_set:
                raise ValueError("quantiles have a loss of their own; remove loss or quantiles")
            return self

    needs = {FEATURES: "float32/1", TARGET: "float64"}
    takes = (CATEGORIES, "missing")
    metric, better = "rmse", "lower"

    def model(self) -> nn.Module:
        mean, std = described(self.index)[1].target[:2]
        return Standardized(network(self.options, self.index, len(self.options.quantiles) or 1), mean, std)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        return [*model.network.blocks]  # type: ignore[union-attr]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._loss(self._outputs(model, batch), model.standard(batch[TARGET]))  # type: ignore[operator]

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor | tuple[Tensor, ...]]:
        guess = self.predict(model, batch)["prediction"]
        return {"loss": self.loss(model, batch), "rmse": (guess, batch[TARGET])}

    def accumulators(self) -> dict[str, Accumulator]:
        return {"rmse": rmse}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """``prediction`` (samples,), and ``quantiles`` (samples, levels), which rise."""
        values = model.units(self._outputs(model, batch).mean(1))  # type: ignore[operator]
        levels = self.options.quantiles
        if not levels:
            return {"prediction": values[:, 0]}
        return {"prediction": values[:, levels.index(0.5)], "quantiles": values}

    def read(self, value: str) -> Batch:
        """Reads a row as the table has it, a JSON object."""
        return read_row(self.index, value)

    def _outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """(samples, members, levels or 1), in standard units."""
        outputs = model(batch).float()
        return ordered(outputs) if self.options.quantiles else outputs

    def _loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        target = target[:, None, None]
        if levels := self.options.quantiles:
            return pinball(outputs, target, torch.tensor(levels, device=outputs.device))
        return LOSSES[self.options.loss](outputs, target.expand_as(outputs))


def rmse(guess: Tensor, truth: Tensor) -> Tensor:
    """The root of the mean squared error."""
    return (guess - truth).square().mean().sqrt()
