"""Metrics of torchmetrics in a task, and our own of tables against them: on any number of workers, in batches of any size.

The states of its metrics are found by a private name, ``_reductions``, as it is in version 1.9.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics as tm
import torchmetrics.classification as tmc
from torch import Tensor, nn
from torchmetrics.image import PeakSignalNoiseRatio

from heliostat.datasets import Dataset, build
from heliostat.datasets.loader import tensors
from heliostat.datasets.sources import open_source
from heliostat.workloads.metric import accuracy
from heliostat.workloads.tabular import metrics as ours
from heliostat.workloads.task import Task
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import measure
from heliostat.workloads.training.parallel import Apply

HOW = ((1, 500, None), (4, 7, None), (4, 2, 6))
"""Workers, the batch size, and how many samples: of 6, some of 4 workers have one and some two."""


@dataclasses.dataclass(frozen=True)
class OneAfterTheOther(Ranks):
    """A worker of several that measure in one process, rank 0 last."""

    before: list[Any] = dataclasses.field(default_factory=list)

    def gather_object(self, mine: Any) -> list[Any]:
        self.before.insert(0, mine)
        return self.before if self.rank == 0 else []

    def broadcast(self, mine: Any) -> Any:
        return mine


def measured(task: Task, dataset: Dataset, workers: int, size: int, most: int | None) -> dict[str, float]:
    before: list[Any] = []
    for rank in reversed(range(workers)):
        ranks = OneAfterTheOther(rank, workers, torch.device("cpu"), before=before)
        found = measure(task, Apply(task.model()), dataset, "test", ranks, size, most)
    return found


def at_once(task: Task, dataset: Dataset, most: int | None) -> dict[str, float]:
    """Each metric from all samples in one call of torchmetrics; of ours, of that which it must equal."""
    rows = dataset.index.rows("test")
    batch = tensors(dataset, "test", np.arange(most or rows) * rows // (most or rows))
    with torch.no_grad():
        given: Any = task.metrics(task.model(), batch)
    truth = {**task.accumulators(), **getattr(task, "truth", {})}
    return {name: float(truth[name](*(v if isinstance(v, tuple) else (v,)))) for name, v in given.items()}


class Many(Task):
    metric = "rmse"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.LayerNorm(30), nn.Linear(30, 1), nn.Flatten(0), nn.Sigmoid())

    def metrics(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Any]:
        guess, label = model(batch["features"]), batch["label"]
        truth = label + batch["features"][:, 1] / 100
        found = dict.fromkeys(self.accumulators(), (guess, truth))
        classes = dict.fromkeys(("f1", "auc", "binned"), (guess, label))
        return {**found, **classes, "max": guess, "mean": (guess, label + 1), "retrieval": (guess, label, label * 0)}

    def accumulators(self) -> dict[str, Any]:
        return {
            "rmse": tm.MeanSquaredError(squared=False), "composed": tm.MeanSquaredError() ** 0.5, "r2": tm.R2Score(),
            "f1": tmc.BinaryF1Score(), "auc": tmc.BinaryAUROC(), "binned": tmc.BinaryAUROC(thresholds=20),
            "max": tm.MaxMetric(), "mean": tm.MeanMetric(), "psnr": PeakSignalNoiseRatio(data_range=1.0),
            "spearman": tm.SpearmanCorrCoef(), "explained": tm.ExplainedVariance(), "retrieval": tm.RetrievalMAP(),
        }  # fmt: skip


class Ours(Task):
    """Our metrics of two classes, of five and of numbers, and what they equal."""

    metric = "2 auc"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.LayerNorm(30), nn.Linear(30, 5))

    def metrics(self, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Any]:
        scores = model(batch["features"]).mul(4).round().div(4)  # with ties
        five = scores.argmax(1).add(batch["label"]).remainder(5)
        number, levels = batch["features"][:, 1] + 1e6, torch.stack([batch["features"][:, 0], batch["features"][:, 1]], 1) + 1e6
        given = {
            "2": (scores[:, :2].softmax(1), batch["label"]), "5": (scores.softmax(1), five),
            "n": (number + batch["features"][:, 4], number, levels),
        }  # fmt: skip
        return {name: given[name[0]] for name in self.accumulators()}

    def accumulators(self) -> dict[str, Any]:
        two, five, numbers = ours.of_classes(2, positive=1), ours.of_classes(5), ours.of_numbers((0.1, 0.9))
        return {
            f"{key} {name}": each for key, group in (("2", two), ("5", five), ("n", numbers)) for name, each in group.items()
        }

    @property
    def truth(self) -> dict[str, Any]:
        def of_second(metric: Any) -> Any:
            return lambda probabilities, labels: metric(probabilities[:, 1], labels)

        def log_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
            return nn.functional.nll_loss(probabilities.double().log(), labels)

        def r2(guess: Tensor, truth: Tensor, _: Tensor) -> Tensor:
            return 1 - (guess.double() - truth).square().sum() / (truth.double() - truth.double().mean()).square().sum()

        def pinball(_: Tensor, truth: Tensor, found: Tensor) -> float:
            pairs = [
                (t - q, level) for t, row in zip(truth, found, strict=True) for q, level in zip(row, (0.1, 0.9), strict=True)
            ]
            return float(np.mean([level * e if e > 0 else (level - 1) * e for e, level in pairs]))

        def recall(probabilities: Tensor, labels: Tensor) -> float:
            guess = probabilities.argmax(1)
            return float(
                np.mean([float((guess[labels == cls] == cls).double().mean()) for cls in range(5) if (labels == cls).any()])
            )

        return {
            "2 log_loss": log_loss, "2 accuracy": of_second(tmc.BinaryAccuracy()), "2 balanced_accuracy": recall,
            "2 f1": of_second(tmc.BinaryF1Score()), "2 auc": of_second(tmc.BinaryAUROC()),
            "2 average_precision": of_second(tmc.BinaryAveragePrecision()),
            "2 calibration_error": of_second(tmc.BinaryCalibrationError()),
            "5 log_loss": log_loss, "5 accuracy": tmc.MulticlassAccuracy(5, average="micro"), "5 balanced_accuracy": recall,
            "5 f1": tmc.MulticlassF1Score(5), "5 auc": None, "5 average_precision": None,
            "5 calibration_error": tmc.MulticlassCalibrationError(5),
            "n rmse": lambda guess, truth, _: (guess.double() - truth).square().mean().sqrt(),
            "n mae": lambda guess, truth, _: (guess.double() - truth).abs().mean(),
            "n r2": r2, "n pinball_loss": pinball,
        } | {
            f"5 {name}": _of_those_that_occur(metric)
            for name, metric in (("auc", tmc.BinaryAUROC()), ("average_precision", tmc.BinaryAveragePrecision()))
        }  # fmt: skip


def _of_those_that_occur(metric: Any) -> Any:
    return lambda probabilities, labels: np.mean(
        [float(metric(probabilities[:, cls], (labels == cls).long())) for cls in range(5) if (labels == cls).any()]
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(open_source("breast-cancer", {}), str(tmp_path_factory.mktemp("data") / "cancer"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Many, Ours])
def test_metrics_of_workers_and_batches_are_those_of_all_samples_at_once(data: Dataset, kind: type[Task]) -> None:
    for workers, size, most in HOW:
        task = kind(data.index, None)
        found, truth = measured(task, data, workers, size, most), at_once(task, data, most)
        assert found == pytest.approx(truth, rel=1e-4, abs=1e-7), (workers, size, most)


def test_what_one_class_and_a_constant_target_leave_undefined_is_nan() -> None:
    probabilities, labels = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), torch.zeros(3, dtype=torch.int64)
    found = {}
    for name, metric in {**ours.of_classes(2), **ours.of_numbers()}.items():
        values = (probabilities, labels) if name in ours.of_classes(2) else (probabilities[:, 0], torch.full((3,), 0.1))
        if isinstance(metric, ours.Summed):
            metric.update(*values)
        found[name] = float(metric.compute() if isinstance(metric, ours.Summed) else metric(*values))
    assert {name for name, value in found.items() if value != value} == {"auc", "average_precision", "r2"}
    assert [found[name] for name in ("accuracy", "balanced_accuracy", "f1")] == pytest.approx([2 / 3, 2 / 3, 0.0])
    assert ours.of_classes(ours.CURVES + 1).keys() == ours.of_classes(3).keys() - {"auc", "average_precision"}


def test_metrics_of_a_prediction_that_is_nan_are_nan() -> None:
    """Its place among the others, its class and its bin would look like those of a number."""
    nan, labels = torch.tensor([[torch.nan, torch.nan], [0.2, 0.8], [0.6, 0.4]]), torch.tensor([0, 1, 0])
    for name, metric in {**ours.of_classes(2), **ours.of_numbers()}.items():
        values = (nan, labels) if name in ours.of_classes(2) else (nan[:, 0], torch.tensor([0.1, 0.2, 0.3]))
        if isinstance(metric, ours.Summed):
            metric.update(*values)
        assert torch.isnan(metric.compute() if isinstance(metric, ours.Summed) else metric(*values)), name
    assert accuracy(nan, labels).isnan()
    assert accuracy(nan[1:], labels[1:]) == 1.0
