"""What stands beside the metrics of a finished run: intervals, a baseline, curves, and the metrics by a column's values."""

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliostat.cli import main
from heliostat.datasets import build
from heliostat.datasets.sources import open_source
from heliostat.errors import combined
from heliostat.folder import Folder
from heliostat.workloads.inference import evaluate, load_run
from heliostat.workloads.run.predictions import table_of_classes
from heliostat.workloads.run.record import Result, read_record
from heliostat.workloads.run.report import write_report
from heliostat.workloads.tabular.bootstrap import MOST, intervals, values
from heliostat.workloads.tabular.metrics import class_formulas, number_formulas
from heliostat.workloads.training import assessment
from heliostat.workloads.training.groups import by_problems, columns_of, of_columns
from tests.workloads.training.test_loop import config, train

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


def trained(place: Path, table: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """The folder of a run on one of the tables, and its evaluation."""
    source = {"source": "table", "options": {"path": f"{table}.csv", "target": "y"}}
    keys = {"task": f"assessed:{table.title()}", "model": {}, "dataset": source, "steps": 20, "name": table, **changes}
    train(config(place, **keys))
    return place / keys["name"], json.loads((place / keys["name"] / "evaluation.json").read_text())


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


def test_classes_are_compared_with_the_shares_of_the_train_split(
    tables: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(assessment, "MOST", 20)
    of_a_part = evaluate(folder)["baseline"]
    assert of_a_part["log_loss"] == found["baseline"]["log_loss"], "of all samples, as the metric beside it is"


def test_a_threshold_decides_in_all_that_counts_classes(tables: Path) -> None:
    """That is far from one half: nothing here is as the most probable class would have it."""
    keys: dict[str, Any] = {"task": "tabular-classification", "optimizer": {"lr": 0.02}, "steps": 40}
    folder, found = trained(tables, "churn", model={"threshold": {"yes": 0.1}}, report={"by": ["plan"]}, **keys)
    run = load_run(folder)
    batch = {name: torch.tensor(values[:]) for name, values in run.dataset.columns("test", 0).items()}
    yes = run.task.predict(run.model, batch)["probabilities"][:, 1].detach().numpy()
    guess, truth, plan = (yes >= 0.1).astype(int), batch["label"].numpy(), batch["features"][:, 1].numpy()
    assert 0 < (guess != (yes > 0.5)).mean() < 1

    def by_hand(at: Any) -> dict[str, float]:
        hits = [((guess == cls) & (truth == cls) & at).sum() for cls in (0, 1)]
        true, said = ([((each == cls) & at).sum() for cls in (0, 1)] for each in (truth, guess))
        recall = [hit / count for hit, count in zip(hits, true, strict=True) if count]
        return {
            "accuracy": sum(hits) / at.sum(),
            "balanced_accuracy": float(np.mean(recall)),
            "f1": 2 * hits[1] / max(true[1] + said[1], 1),
        }

    whole = by_hand(np.ones(len(truth), bool))
    confusion = np.array([[((truth == row) & (guess == col)).sum() for col in (0, 1)] for row in (0, 1)])
    result = evaluate(folder)
    assert found["confusion"] == confusion.tolist()
    assert table_of_classes(found, ["no", "yes"])[1][1:3] == [str(truth.sum()), str(guess.sum())]
    for name, value in whole.items():
        assert found["metrics"][name] == result["metrics"][name] == pytest.approx(value), name
        low, high = found["intervals"][name]
        assert low <= value <= high
        assert result["intervals"][name] == [low, high]
    assert found["baseline"]["accuracy"] == pytest.approx((truth == 0).mean()), "of the most frequent class"
    for group in found["by"]["plan"]:
        for name, value in by_hand(plan == float(group["value"])).items():
            assert group["metrics"][name] == pytest.approx(value), (group["value"], name)


def test_numbers_are_compared_with_the_mean_of_the_train_split(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, found = trained(tables, "price", metric="r2")
    dataset = load_run(folder).dataset
    train_mean, test = dataset.columns("train", 0)["target"].mean(), dataset.columns("test", 0)["target"]
    assert found["baseline"]["rmse"] == pytest.approx(np.sqrt(((test - train_mean) ** 2).mean()))
    assert found["baseline"]["r2"] <= 0
    monkeypatch.setattr(assessment, "MOST", 20)
    assert evaluate(folder)["baseline"]["rmse"] == found["baseline"]["rmse"], "of all samples"
    assert np.sum(found["predicted"]["counts"]) == np.sum(found["residuals"]["counts"]) == len(test)
    assert found["intervals"].keys() == {"rmse", "mae", "r2"}
    assert "confusion" not in found


def test_columns_that_cannot_be_grouped_by_are_all_listed(tables: Path) -> None:
    (tables / "mixed.csv").write_text(
        "when,country,y\n" + "".join(f"2024-01-{n % 28 + 1:02d},{('DE', 'AT', 'CH')[n % 3]},{n % 2}\n" for n in range(300))
    )
    dataset = build(open_source("table", {"path": "mixed.csv", "target": "y"}), str(tables / "mixed"))
    refused = str(combined(by_problems(dataset.index, ["when", "land", "country"], "report.by"), "the config"))
    assert "report.by has 'land', but the table has no such column" in refused
    assert "report.by has 'when', a column of the kind date" in refused
    batch = {name: torch.from_numpy(values[:]) for name, values in dataset.columns("test", 0).items()}
    sampled = columns_of(dataset.index, ["country"], batch)
    found = of_columns(dataset.index, ["country"], sampled, lambda at: {"rows": float(at.sum())})["country"]
    assert sorted(group["value"] for group in found) == ["AT", "CH", "DE"]
    assert sum(group["samples"] for group in found) == len(batch["label"])


@pytest.mark.parametrize("name", ["churn", "price"])
def test_the_report_begins_with_the_metric_that_decides_its_interval_and_the_baseline(tables: Path, name: str) -> None:
    folder, found = trained(tables, name, report={"by": ["plan"], "rows": 2}, steps=40, optimizer={"lr": 0.1})
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
    for title in [*titles, "By plan", "Largest errors"]:
        assert title in html, title
    lines = (tables / f"{name}.csv").read_text().splitlines()[1:]
    shown = [
        re.findall("<td[^>]*>(.*?)</td>", row) for row in html.split("Largest errors")[1].split("</table>")[0].split("<tr>")
    ]
    for error, guess, truth, age, plan in filter(None, shown):
        (line,) = [each for each in lines if each.startswith(age[:5]) and each.split(",")[1] == plan]
        if name == "price":
            assert float(line.split(",")[2]) == pytest.approx(float(truth), rel=1e-6)
            assert float(error) == pytest.approx(abs(float(guess) - float(truth)), rel=1e-3)
        else:
            assert (line.split(",")[2], guess) == (truth, "no")
    assert len(found["worst"]) == 2
    assert found["worst"][0]["error"] >= found["worst"][1]["error"]
    assert "worst" not in trained(tables, name, name="without", report={"by": ["plan"]})[1]
    if name == "churn":
        assert "94" in html[: html.index("<h2>Curves")], "the share of the more frequent class"
        assert "predicts no for every test sample" in html
