"""The config key ``metric``: what decides the best checkpoint, early stopping, sweeps and the order in lists."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from heliostat import load_run
from heliostat.cli import main
from heliostat.config import validate
from heliostat.datasets import Dataset
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.plan import plan_sweep
from heliostat.workloads.run import checkpoint
from heliostat.workloads.training.preflight import try_task
from tests.workloads.training.test_loop import PLAIN, config, record_of, train

TASK = """
from heliostat import Metric
from heliostat.workloads.tabular import metrics
from heliostat.workloads.tasks.tabular_classification import TabularClassification

class Measures(TabularClassification):
    metric, better = "loss", "lower"

    def metrics(self, model, batch):
        probabilities = self.predict(model, batch)["probabilities"]
        found = metrics.update(metrics.of_classes(2), probabilities, batch["label"])
        step = sum(float(weight.abs().sum()) for weight in model.parameters())
        return {**super().metrics(model, batch), **found, "size": step, "counted": (probabilities,)}

    def accumulators(self):
        return {**metrics.of_classes(2), "counted": Counted()}


class Counted(Metric):
    higher_is_better = False

    def __init__(self):
        super().__init__()
        self.add_state("parts", [])

    def update(self, probabilities):
        self.parts.append(probabilities.sum())

    def compute(self):
        return sum(self.parts)
"""
OURS = {"task": "measures:Measures", "global_batch": 200, "steps": 12, "evaluate_every": 2, "checkpoint_every": 50}


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "measures.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("measures", None)
    return tmp_path


@pytest.mark.parametrize(
    ("metric", "sign"),
    [("auc", 1), ("calibration_error", -1), ("counted", -1), ({"size": "higher"}, 1), ({"size": "lower"}, -1)],
)
def test_the_metric_of_the_config_decides_which_checkpoint_is_the_best(task: Path, metric: Any, sign: int) -> None:
    made = config(task, metric=metric, keep={"last": 50, "best": 1}, **OURS)
    seen: list[dict[str, float]] = []
    done = train(made, seen.append)
    name = metric if isinstance(metric, str) else next(iter(metric))
    values = [sign * measured[name] for measured in seen]
    assert done.best_step == 2 * (values.index(max(values)) + 1)
    assert load_run(task / "run").trained.step == done.best_step, "evaluate and predict use it, too"
    assert next(iter(seen[0])) == name, "the first in every line"
    kept = checkpoint.committed(Folder.at(task / "run"))
    assert max(sign * each.metrics[name] for each in kept if each.metrics) == max(values)


def test_early_stopping_follows_the_metric(task: Path) -> None:
    keys = {**OURS, "steps": 40, "early_stopping": {"patience": 2}}
    ended = {name: train(config(task / name, metric={"size": name}, **keys)).step for name in ("higher", "lower")}
    assert sorted(ended.values())[0] < 40, "the sum of the weights grows or shrinks"


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("aucc", r"metric is 'aucc', but its metrics are loss, log_loss, accuracy, .*; did you mean auc"),
        ("size", r"metric is size, but whether a higher size is better is not known; write {size: higher}, or lower"),
        ({"weight": "lower"}, "metric is 'weight', but its metrics are"),
    ],
)
def test_a_metric_that_does_not_exist_or_has_no_direction_is_refused_before_the_start(
    task: Path, metric: Any, says: str
) -> None:
    made = config(task, metric=metric, **OURS)
    folder, record = record_of(made)
    with pytest.raises(UserError, match=says):
        try_task(made, Dataset.open(record.dataset.uri))
    with pytest.raises(UserError, match=says):
        train(made)
    assert checkpoint.committed(folder) == []


def test_a_metric_that_is_not_defined_on_the_validation_split_is_refused(task: Path) -> None:
    (task / "t.csv").write_text("x,y\n" + "".join(f"{n / 7},{'yes' if n < 3 else 'no'}\n" for n in range(60)))
    few = {"source": "table", "options": {"path": "t.csv", "target": "y"}}
    made = config(task, metric="auc", dataset=few, **OURS)
    dataset = Dataset.open(record_of(made)[1].dataset.uri)
    for number in range(len(dataset.index.splits["validation"])):
        labels = dataset.columns("validation", number)["label"]
        assert len(set(labels.tolist())) == 1, "the fixture has one class there"
    with pytest.raises(UserError, match="metric is auc, which is not defined on the validation split: all its samples have"):
        try_task(made, dataset)
    assert try_task(made.model_copy(update={"metric": "log_loss"}), dataset).metrics


def test_the_hash_of_a_config_without_the_key_is_that_of_older_versions(tmp_path: Path) -> None:
    plain = config(tmp_path)
    assert "metric" not in plain.identity
    assert "report" not in plain.identity
    assert plain.model_copy(update={"metric": "accuracy"}).hash != plain.hash


@pytest.mark.parametrize(
    ("metric", "objectives"),
    [("accuracy", {"accuracy": "max"}), ({"spread": "higher"}, {"spread": "max"}), (None, {"loss": "min"})],
)
def test_a_sweep_compares_by_the_metric_of_its_runs(tmp_path: Path, metric: Any, objectives: dict[str, str]) -> None:
    keys = {
        "name": "sweep", "storage": str(tmp_path), "space": {"seed": {"choice": [0, 1]}}, "algorithm": "grid",
        "train": {**PLAIN, "metric": metric, "steps": 1},
    }  # fmt: skip
    assert plan_sweep(validate(keys, SweepConfig), [{"CPU": 1.0, "GPU": 0.0}]).objectives == objectives


def test_the_list_of_runs_shows_the_metric_that_decides_first(task: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config(task, metric="auc", **OURS))
    assert main(["runs", "--storage", str(task), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert next(iter(row["metrics"])) == "auc"
    assert main(["evaluate", str(task / "run")]) == 0
    assert "\n  auc " in capsys.readouterr().out
