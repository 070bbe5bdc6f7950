"""A task whose steps take as long as its options say: for timing what is around them."""

import time

import torch.nn.functional as F
from torch import Tensor, nn

from heliostat import Batch, Task
from heliostat.config import Config


class Timed(Task):
    """Logistic regression that waits in each step."""

    class Options(Config):
        """How long."""

        seconds: float = 0.0

    def model(self) -> nn.Module:
        return nn.Linear(self.index.fields["features"].shape[0], 2)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if model.training:
            time.sleep(self.options.seconds)
        return F.cross_entropy(model(batch["features"] / 100), batch["label"])
