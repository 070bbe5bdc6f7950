"""The task: which spiral a point is on. Replace the model, its loss and its metrics by your own."""

from torch import Tensor, nn

from heliostat import Batch, Task
from heliostat.config import Config


class Spirals(Task):
    """A small network for points of two classes."""

    metric, better = "accuracy", "higher"

    class Options(Config):
        """The keys of `model` in train.yaml."""

        hidden: int = 64

    options: Options

    def model(self) -> nn.Module:
        n = self.options.hidden
        return nn.Sequential(nn.Linear(2, n), nn.Tanh(), nn.Linear(n, n), nn.Tanh(), nn.Linear(n, 2))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["features"]), batch["label"])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, float | Tensor]:
        right = model(batch["features"]).argmax(1) == batch["label"]
        return {"loss": self.loss(model, batch), "accuracy": right.float().mean()}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"probabilities": model(batch["features"]).softmax(1)}
