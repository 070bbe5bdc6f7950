"""Losses of a number, on standardized targets: the options that choose one, and what they compute.

Outputs are the mean over a model's members.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

Loss = Annotated[Literal["mse", "mae", "huber"], Field(description="mse, mae or huber, of the standardized target")]
Quantiles = Annotated[
    tuple[float, ...],
    Field(strict=False, description="rising levels with 0.5, such as [0.1, 0.5, 0.9], which the pinball loss learns"),
]

LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}


def problems(quantiles: Sequence[float], loss: str | None) -> Iterator[tuple[str, str]]:
    """What is wrong with levels, beside a loss if one is set, and how to correct it."""
    levels = list(quantiles)
    if levels and sorted({0.0, 1.0, *levels}) != [0, *levels, 1]:
        yield f"quantiles is {levels}", "give rising numbers above 0 and below 1, such as [0.1, 0.5, 0.9]"
    if levels and 0.5 not in levels:
        yield f"quantiles is {levels} without 0.5, which is the prediction", "add 0.5"
    if levels and loss:
        yield f"loss is {loss}, but quantiles have their own", "remove loss or quantiles"


def pinball(outputs: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """The mean pinball loss of quantiles (..., levels) for targets (..., 1) (Koenker, Bassett 1978)."""
    difference = target - outputs
    return torch.maximum(levels * difference, (levels - 1) * difference).mean()


def ordered(outputs: Tensor) -> Tensor:
    """Quantiles (..., levels) that do not cross: the first, and what each adds to the one before."""
    first, more = outputs[..., :1], F.softplus(outputs[..., 1:])
    return torch.cat((first, first + more.cumsum(-1)), -1)


class Standardized(nn.Module):
    """A network of a number in standard units of the train split, with what makes the target's units of them."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: float, std: float) -> None:
        super().__init__()
        self.network = network
        # Of 64 bits: a target may be large and vary little.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(std or 1.0, dtype=torch.float64))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = self.network(batch)
        return outputs

    def standard(self, target: Tensor) -> Tensor:
        """Targets in standard units, float32."""
        return ((target.double() - self.mean) / self.std).float()

    def units(self, outputs: Tensor) -> Tensor:
        """Outputs in the units of the target, float64."""
        return outputs.double() * self.std + self.mean
