"""Metrics of an evaluation: means, and those that accumulate, for any number of workers and any batch size."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from heliostat import Metric, load_run
from heliostat.cli import main
from heliostat.config import validate
from heliostat.datasets import Dataset, build
from heliostat.datasets.loader import tensors
from heliostat.datasets.sources import open_source
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.tuning.config import SweepConfig
from heliostat.tuning.plan import plan_sweep
from heliostat.workloads.inference import evaluate
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import METRICS
from heliostat.workloads.task import Task, find
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import measure
from heliostat.workloads.training.measurement import merged
from heliostat.workloads.training.parallel import Apply
from tests.conftest import ROOT
from tests.workloads.training.test_loop import config, train, train_with

NONE: Mapping[str, Any] = MappingProxyType({})
ALONE = Ranks(0, 1, torch.device("cpu"))
PAGE = ROOT / "docs/metrics.md"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(open_source("breast-cancer", {}), str(tmp_path_factory.mktemp("data") / "cancer"))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with the examples of docs/metrics.md: their task with functions, and with a metric that accumulates."""
    functions, _, accumulates = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    more = (
        "class Sicker(Sick):\n"
        "    metric, better = 'rmse', 'lower'\n"
        "    def accumulators(self):\n"
        "        return {'rmse': RMSE(), 'f1': f1}\n"
        "class Small(Sicker):\n"
        "    def model(self):\n"
        "        return nn.Sequential(nn.Linear(1, 1), nn.Flatten(0))\n"
        "from heliostat.workloads.tasks.tabular_classification import TabularClassification\n"
        "class Quiet(TabularClassification):\n"
        "    def predict(self, model, batch):\n"
        "        return {}\n"
    )
    (tmp_path / "page.py").write_text("\n\n".join([functions, accumulates, more]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    sys.modules.pop("page", None)
    return tmp_path


def by_hand(task: Any, model: torch.nn.Module, data: Dataset, split: str) -> dict[str, float]:
    """RMSE and F1 of the page's task, from all samples at once, in float64."""
    with torch.no_grad():
        measured = task.metrics(model, tensors(data, split, np.arange(data.index.rows(split))))
    (guess, truth), (above, sick) = measured["rmse"], measured["f1"]
    hits = float((above & sick).sum())
    return {
        "loss": float(measured["loss"]),
        "rmse": float((guess.double() - truth.double()).square().mean().sqrt()),
        "f1": 2 * hits / float(above.sum() + sick.sum()),
    }


@pytest.mark.usefixtures("page")
@pytest.mark.parametrize("name", ["Sick", "Sicker"])
def test_rmse_and_f1_are_those_of_all_samples_for_any_batch_size_and_again(data: Dataset, name: str) -> None:
    task = find(f"page:{name}")(data.index, None)
    torch.manual_seed(0)
    model = task.model()
    truth = by_hand(task, model, data, "test")
    for size in (1, 7, 7, 500):
        measured = measure(task, Apply(model), data, "test", ALONE, size)
        assert measured == pytest.approx(truth, rel=1e-5), f"batches of {size}"
    assert next(iter(measured)) == task.metric


@pytest.mark.usefixtures("page")
def test_four_workers_evaluate_as_one_process_does_also_where_some_have_no_sample(tmp_path: Path) -> None:
    """In training, by ``evaluate``, and by hand; once on 3 test samples, where tasks with and without predictions end, too."""
    rows = [f"{i},{'ab'[i % 2]}" for i in range(14)]
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(rows))
    few = {"source": "table", "options": {"path": str(tmp_path / "t.csv"), "target": "y"}}
    keys = {"model": {}, "workers": 4, "steps": 4, "micro_batch": 2, "evaluate_every": 4}
    runs = [
        config(tmp_path, name="whole", task="page:Sick", **keys),
        config(tmp_path, name="some", task="page:Sicker", evaluate_samples=13, **keys),
        config(tmp_path, name="few", task="page:Small", dataset=few, **{**keys, "global_batch": 8}),
    ]
    others = {"classes": "tabular-classification", "quiet": "page:Quiet"}
    more = [runs[2].model_copy(update={"name": name, "task": task}) for name, task in others.items()]
    train_with(4, [*runs, *more])
    for run in runs:
        trained = load_run(tmp_path / run.name)
        truth = by_hand(trained.task, trained.model(), trained.dataset, "test")
        in_training = json.loads((tmp_path / run.name / "evaluation.json").read_text())["metrics"]
        assert in_training == pytest.approx(truth, rel=1e-5), run.name
        assert evaluate(trained.folder)["metrics"] == pytest.approx(truth, rel=1e-5), run.name
        (recorded,) = (r["metrics"] for r in read_journal(trained.folder, METRICS) if r["kind"] == "eval")
        assert checkpoint.committed(trained.folder)[-1].metrics == recorded
        if run.evaluate_samples is None:
            validation = by_hand(trained.task, trained.model(), trained.dataset, "validation")
            assert recorded == pytest.approx(validation, rel=1e-5), run.name
    assert Dataset.open(str(load_run(tmp_path / "few").record.dataset.uri)).index.rows("test") < 4


class Measures(Task):
    """Measures what a test gives it, on a model that is nothing."""

    returned: Callable[[dict[str, Tensor]], Any] = staticmethod(lambda batch: {})
    computed: dict[str, Any] = {}

    def model(self) -> torch.nn.Module:
        return torch.nn.Identity()

    def loss(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return torch.zeros((), requires_grad=True)

    def metrics(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Any:
        return self.returned(batch)

    def accumulators(self) -> Any:
        return self.computed


def measured(data: Dataset, returned: Callable[[dict[str, Tensor]], Any], computed: Any = NONE) -> dict[str, float]:
    task = Measures(data.index, None)
    task.returned, task.computed = returned, computed
    return measure(task, Apply(task.model()), data, "test", ALONE, 30)


def test_a_number_is_a_number_whatever_its_type(data: Dataset) -> None:
    labels = tensors(data, "test", np.arange(data.index.rows("test")))["label"]
    share = float(labels.double().mean())
    found = measured(
        data,
        lambda batch: {
            "loss": batch["label"].float().mean(),
            "python": float(batch["label"].float().mean()),
            "numpy": np.float32(batch["label"].float().mean()),
            "one element": batch["label"].double().mean()[None],
            "count": len(batch["label"]) // 30,
            "flag": (batch["label"] >= 0).all(),
        },
    )
    assert [found[name] for name in ("python", "numpy", "one element")] == pytest.approx([share] * 3, rel=1e-6)
    assert found["loss"] == share, "to the last bit, as a mean of counts in float32"
    assert (found["flag"], found["count"]) == (1.0, len(labels) // 30 * 30 / len(labels))


BAD: dict[str, tuple[Any, Any, list[str]]] = {
    "values": (
        {"vector": torch.zeros(2), "dictionary": {"f1": 1.0}, "none": None, "pair": (1.0, 2.0), 3: 1.0},
        {},
        [
            "vector is a tensor of shape (2,), but must be one number",
            "dictionary is a dict, but must be one number",
            "none is None, but must be one number",
            "pair is a tuple, but must be one number, or have an entry in accumulators",
            "3 is the name of a metric",
            "metric is 'loss', but its metrics are vector, dictionary, none, pair, 3",
        ],
    ),
    "no dictionary": (torch.zeros(()), {}, ["metrics returns a tensor of shape (), but must return a dictionary"]),
    "no best": ({"los": 1.0}, {}, ["metric is 'loss', but its metrics are los; did you mean los?"]),
    "left out": ({"loss": 1.0}, {"f1": max}, ["f1 is in accumulators, but metrics does not return it"]),
    "means": (
        {"loss": 1.0, "f1": (torch.zeros(()), 0.5)},
        {"f1": max},
        ["f1 has a tensor of shape (), but must have tensors (samples, ...)", "f1 has a float, but must have tensors"],
    ),
    "a class": ({"loss": 1.0, "f1": 1.0}, {"f1": Metric}, ["accumulator f1 is the class Metric, but must be a function"]),
    "a number": ({"loss": 1.0, "f1": 1.0}, {"f1": 0.5}, ["accumulator f1 is a float, but must be a function"]),
}


@pytest.mark.parametrize("case", BAD)
def test_metrics_that_cannot_be_used_are_all_listed_in_one_message(data: Dataset, case: str) -> None:
    returned, computed, says = BAD[case]
    with pytest.raises(UserError) as refused:
        measured(data, lambda batch: returned, computed)
    assert "the metrics of task Measures cannot be used" in refused.value.what
    assert not [text for text in says if text not in refused.value.what], refused.value.what


def test_a_metric_of_only_some_batches_or_of_many_numbers_is_refused(data: Dataset) -> None:
    with pytest.raises(UserError, match="cats is not in all batches"):
        measured(data, lambda batch: {"loss": 1.0, **({"cats": 1.0} if len(batch["label"]) == 30 else {})})
    each = {"each": lambda labels: torch.bincount(labels, minlength=2)}
    with pytest.raises(UserError, match=r"accumulator each gives a tensor of shape \(2,\), but must give one number"):
        measured(data, lambda batch: {"loss": 1.0, "each": batch["label"]}, each)


class Kept(Metric):
    """Counts samples in a state, and in an attribute that it has not declared."""

    count: Tensor

    def __init__(self, declared: bool) -> None:
        super().__init__()
        self.add_state("count", torch.zeros(()), "sum")
        self.undeclared: list[int] = []
        self.declared = declared

    def update(self, labels: Tensor) -> None:
        self.count = self.count + len(labels)
        if not self.declared:
            self.undeclared.append(len(labels))

    def compute(self) -> Tensor:
        return self.count


def test_a_metric_object_that_the_task_keeps_and_names_twice_counts_each_sample_once(data: Dataset) -> None:
    kept = Kept(declared=True)
    kept.update(torch.zeros(5))
    for _ in range(2):
        found = measured(data, lambda batch: {"loss": 1.0, "a": batch["label"], "b": (batch["label"],)}, {"a": kept, "b": kept})
        assert found["a"] == found["b"] == data.index.rows("test")


def test_an_attribute_that_would_be_lost_on_other_workers_is_refused(data: Dataset) -> None:
    with pytest.raises(UserError, match="accumulator a changes undeclared, which it must declare with add_state"):
        measured(data, lambda batch: {"loss": 1.0, "a": batch["label"]}, {"a": Kept(declared=False)})


def test_an_evaluation_leaves_each_part_of_the_model_in_its_mode(data: Dataset) -> None:
    task = Measures(data.index, None)
    task.returned = lambda batch: {"loss": 1.0}
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout().eval())
    measure(task, Apply(model), data, "test", ALONE, 30)
    assert [module.training for module in model.modules()] == [True, True, False]


def test_a_metric_that_cannot_be_used_ends_the_run_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measures, "returned", staticmethod(lambda batch: {"loss": 1.0, "all": batch["label"]}))
    with pytest.raises(UserError, match="all is a tensor of shape"):
        train(config(tmp_path, task=f"{__name__}:Measures", model={}))
    assert read_journal(Folder.at(tmp_path / "run"), METRICS) == []


def test_a_sweep_does_not_take_its_own_seconds_for_a_metric_of_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Measures, "returned", staticmethod(lambda batch: {"loss": 1.0, "seconds": 2.0}))
    keys = {
        "name": "sweep", "storage": str(tmp_path), "space": {"seed": {"choice": [0, 1]}}, "algorithm": "grid",
        "scheduler": "none", "metric": {"loss": "min", "seconds": "min"},
        "train": {"task": f"{__name__}:Measures", "dataset": {"source": "breast-cancer"}, "steps": 1},
    }  # fmt: skip
    with pytest.raises(UserError, match="reports, but each trial measures seconds, too"):
        plan_sweep(validate(keys, SweepConfig), [{"CPU": 1.0, "GPU": 0.0}]).check()


@pytest.mark.parametrize(
    ("default", "reduction", "says"),
    [
        (torch.zeros(()), None, "sum, max, min or a function"),
        (torch.zeros(()), "mean", "keep a sum and a count"),
        ([], "sum", "an empty list without dist_reduce_fx"),
        (0.0, "sum", "must be a tensor"),
    ],
)
def test_a_state_that_could_not_be_combined_is_refused(default: Any, reduction: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Metric().add_state("state", default, reduction)


def test_a_mean_over_workers_as_in_torchmetrics_is_refused_unless_it_is_a_constant() -> None:
    def dim_zero_mean(parts: Tensor) -> Tensor:
        return parts.mean(0)

    constant, other = torch.tensor(1.0), torch.tensor(2.0)
    assert merged("range", [constant, constant], dim_zero_mean) == 1.0
    with pytest.raises(UserError, match="state 'range' of a metric is averaged over workers"):
        merged("range", [constant, other], dim_zero_mean)


@pytest.mark.usefixtures("page")
def test_a_metric_that_is_nan_is_null_in_json_and_its_name_is_printed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = find("page:Sick")
    means = task.metrics
    monkeypatch.setattr(
        task, "metrics", lambda *given: {**means(*given), "recall[red]": float("nan"), "step": 0.25, "loss": torch.tensor(1)}
    )
    train(config(tmp_path, task="page:Sick", model={}, steps=2))
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    text = capsys.readouterr().out
    assert "NaN" not in text
    assert json.loads(text)["metrics"]["recall[red]"] is None
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "loss 1.0000  rmse" in (said := capsys.readouterr().out)
    assert "recall[red] NaN  step 0.2500" in said
