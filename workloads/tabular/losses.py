"""Losses of a number, on standardized targets; outputs are the mean over a model's members."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}


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
