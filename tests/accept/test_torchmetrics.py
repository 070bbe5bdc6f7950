"""Metrics of torchmetrics in a task: what they give on all samples at once, on any number of workers, in batches of any size.

The states of its metrics are found by a private name, ``_reductions``, as it is in version 1.9.
"""

import json
import subprocess
from pathlib import Path

import pytest

from tests.accept.conftest import overlay
from tests.conftest import ROOT, clean_environment

SCRIPT = """
import json
import sys

import numpy as np
import torch
from torch import nn
from torchmetrics import *
from torchmetrics.classification import BinaryAUROC, BinaryF1Score
from torchmetrics.image import PeakSignalNoiseRatio

from heliostat import Task
from heliostat.datasets import Dataset, build
from heliostat.datasets.loader import tensors
from heliostat.datasets.sources import open_source
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import measure
from heliostat.workloads.training.parallel import Apply
from tests.workloads.group import in_group

HOW = ((7, None), (500, None), (2, 6))  # the batch size, and how many samples: of 6, some of 4 workers have one and some two


class Many(Task):
    metric = "rmse"

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.LayerNorm(30), nn.Linear(30, 1), nn.Flatten(0), nn.Sigmoid())

    def metrics(self, model, batch):
        guess, label = model(batch["features"]), batch["label"]
        truth = label + batch["features"][:, 1] / 100
        found = dict.fromkeys(self.accumulators(), (guess, truth))
        classes = dict.fromkeys(("f1", "auc", "binned"), (guess, label))
        return {**found, **classes, "max": guess, "mean": (guess, label + 1), "retrieval": (guess, label, label * 0)}

    def accumulators(self):
        return {
            "rmse": MeanSquaredError(squared=False), "composed": MeanSquaredError() ** 0.5, "r2": R2Score(),
            "f1": BinaryF1Score(), "auc": BinaryAUROC(), "binned": BinaryAUROC(thresholds=20), "max": MaxMetric(),
            "mean": MeanMetric(), "psnr": PeakSignalNoiseRatio(data_range=1.0), "spearman": SpearmanCorrCoef(),
            "explained": ExplainedVariance(), "retrieval": RetrievalMAP(),
        }


def worker(rank, data):
    dataset = Dataset.open(data)
    task = Many(dataset.index, None)
    found = [measure(task, Apply(task.model()), dataset, "test", Ranks.of_this_process(cuda=False), *how) for how in HOW]
    if rank == 0:
        print(json.dumps(found), flush=True)


def at_once(task, dataset, most):
    rows = dataset.index.rows("test")
    batch = tensors(dataset, "test", np.arange(most or rows) * rows // (most or rows))
    with torch.no_grad():
        measured = task.metrics(task.model(), batch)
    values = {name: value if isinstance(value, tuple) else (value,) for name, value in measured.items()}
    return {name: float(metric(*values[name])) for name, metric in task.accumulators().items()}


if __name__ == "__main__":
    dataset = build(open_source("breast-cancer", {}), sys.argv[1])
    print(json.dumps([at_once(Many(dataset.index, None), dataset, most) for _, most in HOW]), flush=True)
    for workers in (1, 4):
        in_group(worker, workers, sys.argv[1])
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return overlay(tmp_path_factory.mktemp("tm") / "venv", "-r", str(Path(__file__).with_name("torchmetrics.txt")))


def test_its_metrics_give_what_they_give_on_all_samples_at_once(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "many.py").write_text(SCRIPT)
    env = {**clean_environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [programs / "python", "many.py", tmp_path / "data"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    truth, *found = (json.loads(line) for line in done.stdout.splitlines())
    assert len(found) == 2
    for measured in found:
        for want, got in zip(truth, measured, strict=True):
            assert got == pytest.approx(want, rel=1e-4)
