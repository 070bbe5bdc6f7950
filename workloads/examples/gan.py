"""A generative adversarial network (Goodfellow et al. 2014) of a table's rows: each network has its own loss and optimizer.

heliostat train workloads/examples/gan.yaml
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heliostat import Batch, Task

NOISE = 8


class Gan(Task):
    needs = {"features": "*/1"}
    parts = ("discriminator", "generator")  # trained in this order in each step
    metric, better = "moments", "lower"

    def model(self) -> nn.Module:
        width = self.index.fields["features"].shape[0]
        mean, std = (torch.tensor(self.index.stats["features"][name]) for name in ("mean", "std"))
        return Networks(width, mean, std)

    def loss(self, model: Any, batch: Batch, part: str = "") -> Tensor:
        real, fake = model.scaled(batch["features"]), model.sample(len(batch["features"]))
        if part == "discriminator":
            return F.softplus(-model.discriminator(real)).mean() + F.softplus(model.discriminator(fake)).mean()
        return F.softplus(-model.discriminator(fake)).mean()

    def metrics(self, model: Any, batch: Batch) -> dict[str, Any]:
        real, fake = model.scaled(batch["features"]), model.sample(len(batch["features"]))
        return {**super().metrics(model, batch), "moments": (real.mean(0) - fake.mean(0)).abs().mean()}


class Networks(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, width: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp(min=1e-6))
        self.generator = nn.Sequential(nn.Linear(NOISE, 32), nn.ReLU(), nn.Linear(32, width))
        self.discriminator = nn.Sequential(nn.Linear(width, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def scaled(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.std).float()

    def sample(self, count: int) -> Tensor:
        made: Tensor = self.generator(torch.randn(count, NOISE, device=self.mean.device))
        return made
