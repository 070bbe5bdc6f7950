"""What stands beside the metrics of a finished run: intervals, a baseline, curves, and the metrics by a column's values."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliostat.cli import main
from heliostat.datasets import build
from heliostat.datasets.sources import open_source
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.inference import evaluate, load_run
from heliostat.workloads.run.record import Result, read_record
from heliostat.workloads.run.report import write_report
from heliostat.workloads.tabular.bootstrap import MOST, intervals, values
from heliostat.workloads.tabular.metrics import class_formulas, number_formulas
from heliostat.workloads.training.groups import check_columns, columns_of, of_columns
from tests.workloads.test_loop import config, train

TASKS = """
import torch
from torch import nn
from heliostat import Task
from heliostat.workloads.tabular import metrics

class Churn(Task):
    metric, better = "log_loss", "lower"

    def model(self):
        return nn.Linear(2, 2)

    def logits(self, model, batch):
        return model(batch["features"] / 50)

    def loss(self, model, batch):
        return nn.functional.cross_entropy(self.logits(model, batch), batch["label"])

    def accumulators(self):
        return metrics.of_classes(2, metrics.rarer(self.index))

    def metrics(self, model, batch):
        return metrics.update(self.accumulators(), self.predict(model, batch)["probabilities"], batch["label"])

    def predict(self, model, batch):
        return {"probabilities": self.logits(model, batch).softmax(1)}


class Price(Churn):
    metric, better = "rmse", "lower"

    def model(self):
        return nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))

    def loss(self, model, batch):
        return (self.logits(model, batch) - batch["target"]).square().mean()

    def accumulators(self):
        return metrics.of_numbers()

    def metrics(self, model, batch):
        return metrics.update(self.accumulators(), self.logits(model, batch), batch["target"])

    def predict(self, model, batch):
        return {"prediction": self.logits(model, batch)}
"""


def rows(count: int = 400) -> list[tuple[float, int, str, float]]:
    source = random.Random(0)
    made = []
    for n in range(count):
        age = source.uniform(20, 80)
        made.append((age, n % 3, "yes" if source.random() < (age - 20) / 500 else "no", age + source.gauss(0, 5)))
    return made


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task for each kind of target, and their tables: 6 % say yes; prices grow with age."""
    (tmp_path / "assessed.py").write_text(TASKS)
    (tmp_path / "churn.csv").write_text("age,plan,y\n" + "".join(f"{a},{g},{y}\n" for a, g, y, _ in rows()))
    (tmp_path / "price.csv").write_text("age,plan,y\n" + "".join(f"{a},{g},{p}\n" for a, g, _, p in rows()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("assessed", None)
    return tmp_path


def trained(place: Path, name: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """The folder of a run on one of the tables, and its evaluation."""
    source = {"source": "table", "options": {"path": f"{name}.csv", "target": "y"}}
    keys = {"task": f"assessed:{name.title()}", "model": {}, "dataset": source, "steps": 20, **changes}
    train(config(place, name=name, **keys))
    return place / name, json.loads((place / name / "evaluation.json").read_text())


def test_the_intervals_are_those_of_a_bootstrap_and_the_same_each_time() -> None:
    torch.manual_seed(0)
    probabilities, labels = torch.rand(200, 2).softmax(1), torch.randint(0, 2, (200,))
    formulas = class_formulas(2, 1)
    measured = {name: float(value) for name, value in values(formulas, (probabilities, labels)).items()}
    found = intervals(formulas, (probabilities, labels), 200, measured)
    assert found.keys() == measured.keys()
    assert found == intervals(formulas, (probabilities, labels), 200, measured)
    right = (probabilities.argmax(1) == labels).numpy()
    by_hand = [right[np.random.default_rng(n).integers(0, 200, 200)].mean() for n in range(1000)]
    assert found["accuracy"] == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.015)
    other = {**measured, "f1": measured["f1"] + 0.01, "auc": float("nan")}
    assert found.keys() - intervals(formulas, (probabilities, labels), 200, other).keys() == {"f1", "auc"}, "another definition"


def test_a_part_of_a_large_split_gives_the_intervals_of_the_whole() -> None:
    torch.manual_seed(0)
    target = torch.randn(10 * MOST, dtype=torch.float64)
    guess = target + torch.randn_like(target)
    measured = {name: float(value) for name, value in values(number_formulas(), (guess, target)).items()}
    found = intervals(number_formulas(), (guess[::10], target[::10]), len(target), measured)
    deviation = 1 / np.sqrt(2 * len(target))  # of the root of a mean of squares of normal errors
    assert found["rmse"] == pytest.approx(
        [measured["rmse"] - 1.96 * deviation, measured["rmse"] + 1.96 * deviation], abs=deviation
    )


def test_classes_are_compared_with_the_shares_of_the_train_split(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, found = trained(tables, "churn", report={"by": ["plan", "age"]})
    dataset = load_run(folder).dataset
    count = {split: np.bincount(dataset.columns(split, 0)["label"], minlength=2) for split in ("train", "test")}
    shares, test = count["train"] / count["train"].sum(), count["test"]
    assert found["positive"] == 1, "yes, the rarer one"
    assert found["baseline"]["accuracy"] == pytest.approx(test[0] / test.sum()), "the most frequent class"
    assert found["baseline"]["log_loss"] == pytest.approx(-(test * np.log(shares)).sum() / test.sum())
    assert (found["baseline"]["auc"], found["baseline"]["f1"]) == (0.5, 0.0)
    assert np.sum(found["confusion"], 1).tolist() == test.tolist()
    for name, (low, high) in found["intervals"].items():
        assert low <= found["metrics"][name] <= high, name
    assert [curve["name"] for curve in found["curves"]] == ["yes"]
    assert sorted(group["value"] for group in found["by"]["plan"]) == ["0", "1", "2"]
    assert sum(group["samples"] for group in found["by"]["age"]) == test.sum()
    result = evaluate(folder)
    assert (result["intervals"], result["baseline"]) == (found["intervals"], found["baseline"])
    assert main(["evaluate", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "95 % interval" in said
    assert f"{found['baseline']['log_loss']:.4f}" in said


def test_numbers_are_compared_with_the_mean_of_the_train_split(tables: Path) -> None:
    folder, found = trained(tables, "price", metric="r2")
    dataset = load_run(folder).dataset
    train_mean, test = dataset.columns("train", 0)["target"].mean(), dataset.columns("test", 0)["target"]
    assert found["baseline"]["rmse"] == pytest.approx(np.sqrt(((test - train_mean) ** 2).mean()))
    assert found["baseline"]["r2"] <= 0
    assert np.sum(found["predicted"]["counts"]) == np.sum(found["residuals"]["counts"]) == len(test)
    assert found["intervals"].keys() == {"rmse", "mae", "r2"}
    assert "confusion" not in found


def test_columns_that_cannot_be_grouped_by_are_all_listed(tables: Path) -> None:
    (tables / "mixed.csv").write_text(
        "when,country,y\n" + "".join(f"2024-01-{n % 28 + 1:02d},{('DE', 'AT', 'CH')[n % 3]},{n % 2}\n" for n in range(300))
    )
    dataset = build(open_source("table", {"path": "mixed.csv", "target": "y"}), str(tables / "mixed"))
    with pytest.raises(UserError) as refused:
        check_columns(dataset.index, ["when", "land", "country"])
    assert "report.by has 'land', but the table has no such column" in str(refused.value)
    assert "report.by has 'when', a column of the kind date" in str(refused.value)
    batch = {name: torch.from_numpy(values[:]) for name, values in dataset.columns("test", 0).items()}
    sampled = columns_of(dataset.index, ["country"], batch)
    found = of_columns(dataset.index, ["country"], sampled, lambda at: {"rows": float(at.sum())})["country"]
    assert sorted(group["value"] for group in found) == ["AT", "CH", "DE"]
    assert sum(group["samples"] for group in found) == len(batch["label"])


@pytest.mark.parametrize("name", ["churn", "price"])
def test_the_report_begins_with_the_metric_that_decides_its_interval_and_the_baseline(tables: Path, name: str) -> None:
    folder, found = trained(tables, name, report={"by": ["plan"]}, steps=40, optimizer={"lr": 0.1})
    at = Folder.at(folder)
    result = Result(name=name, run=str(folder), state="finished", step=20, epoch=2, metrics={"test": found["metrics"]})
    write_report(at, read_record(at), result)
    html = (folder / "report.html").read_text()
    metric = {"churn": "log_loss", "price": "rmse"}[name]
    first = html[html.index('class="tile') :][:600]
    assert f"test {metric}" in first
    low, high = found["intervals"][metric]
    assert f"{low:.4f} to {high:.4f}" in first
    assert f"{found['baseline'][metric]:.4f}" in first
    titles = {"churn": ["ROC", "precision and recall", "calibration"], "price": ["predicted against true", "residuals"]}[name]
    for title in [*titles, "By plan"]:
        assert title in html, title
    if name == "churn":
        assert "94" in html[: html.index("<h2>Curves")], "the share of the more frequent class"
        assert "predicts no for every test sample" in html
