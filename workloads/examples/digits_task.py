"""The model of digits.py as a Task: the model, the loss and the metrics; everything else is Heliostat's.

heliostat train workloads/examples/digits_task.yaml
"""

from torch import Tensor, nn

from heliostat import Batch, Task


class Digits(Task):
    metric, better = "accuracy", "higher"

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["image"].float() / 16), batch["label"])

    def metrics(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        right = model(batch["image"].float() / 16).argmax(1) == batch["label"]
        return {"loss": self.loss(model, batch), "accuracy": right.float().mean()}
