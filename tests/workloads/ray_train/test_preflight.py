"""The try of a task before its run starts: what is found, what is said, what is let through."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from heliostat.cli import main
from heliostat.datasets import Dataset, build
from heliostat.datasets.sources import open_source
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.plan import prepare
from heliostat.workloads.run.record import read_record
from heliostat.workloads.task import Batch, Task
from heliostat.workloads.training import limits
from heliostat.workloads.training.preflight import try_task
from heliostat.workloads.training.start import begin
from tests.workloads.training.test_loop import config as loop_config
from tests.workloads.training.test_loop import losses, train, train_with


class Good(Task):
    metric, better = "accuracy", "higher"

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 2))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["features"]), batch["label"])

    def metrics(self, model: nn.Module, batch: Batch) -> Any:
        right = model(batch["features"]).argmax(1) == batch["label"]
        return {"loss": self.loss(model, batch), "accuracy": right.float().mean()}


class NoFile(Good):
    def model(self) -> nn.Module:
        model = super().model()
        model.load_state_dict(torch.load("no-weights.pt"))
        return model


class Exits(Good):
    def model(self) -> nn.Module:
        sys.exit(0)


class NoModel(Good):
    def model(self) -> Any:
        return "resnet"


class NoLoss(Task):
    def model(self) -> nn.Module:
        return nn.Linear(30, 2)


class Shapes(Good):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["features"][:, :7]), batch["label"])


class Vector(Good):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch["features"]), batch["label"], reduction="none")


class Detached(Good):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch).detach()


class Predicts(Good):
    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"probabilities": model(batch["image"])}


class Samples(Good):
    def sample(self, model: nn.Module) -> str:
        raise KeyError("prompt")


class Accumulates(Good):
    def metrics(self, model: nn.Module, batch: Batch) -> Any:
        return {"accuracy": 1, "count": (batch["label"],)}

    def accumulators(self) -> Any:
        return {"count": lambda labels: labels.no_such_method()}


class Several(Good):
    def metrics(self, model: nn.Module, batch: Batch) -> Any:
        return {"accuracy": None, "labels": batch["label"].tolist()}


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux, self.head = nn.Linear(30, 8), nn.Linear(2, 2), nn.Linear(8, 2)

    def encode(self, features: Tensor) -> Tensor:
        encoded: Tensor = self.body(features).relu()
        return encoded

    def forward(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.encode(features))
        return outputs


class Unused(Good):
    """A part of its model is not in the loss, which calls the parts and methods of the model one by one."""

    def model(self) -> nn.Module:
        return Auxiliary()

    def loss(self, model: Any, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model.head(model.encode(batch["features"])), batch["label"])


class Many(Good):
    """Its loss compares more samples than a first try has; its metric is no number for samples of one class."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        many: Tensor = model(batch["features"])[:, 0].topk(5).values
        return super().loss(model, batch) + 0 * many.mean()

    def metrics(self, model: nn.Module, batch: Batch) -> Any:
        return {"accuracy": 1.0, "auc": (batch["label"],)}

    def accumulators(self) -> Any:
        return {"auc": all_samples}


def all_samples(labels: Tensor) -> float:
    if len(labels) < 80:
        raise ValueError("only one class is present")
    return 1.0


class OnGpu(Good):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        raise RuntimeError("Found no NVIDIA driver on your system")


class Big(Good):
    def model(self) -> nn.Module:
        return nn.Linear(30, 1 << 22)


class Slow(Good):
    """Calls its model again and again, as one that generates a text does."""

    calls = 0

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        for _ in range(1000):
            Slow.calls += 1
            model(batch["features"])
        raise AssertionError("it was not ended")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A try on a busy machine is not ended before it has found what it is to find."""
    monkeypatch.setattr(limits, "SECONDS", 600.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(open_source("breast-cancer", {}), str(tmp_path_factory.mktemp("data") / "cancer"))


def config(task: str, **changes: Any) -> TrainConfig:
    keys = {"name": "run", "task": f"{__name__}:{task}", "dataset": {"path": "cancer"}, "global_batch": 32, "steps": 5}
    return TrainConfig.model_validate({**keys, **changes})


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("NoFile", ("model of task", "in model", "test_preflight.py", "no-weights.pt")),
        ("Exits", ("model of task", "in model", "SystemExit: 0")),
        ("NoModel", ("model returns a str", "torch.nn.Module")),
        ("NoLoss", ("has no method loss",)),
        ("Shapes", ("loss of task", "in loss", "test_preflight.py", "32x7 and 30x8")),
        ("Vector", ("loss returns a tensor of shape (2,)", "the mean over the samples")),
        ("Detached", ("the loss has no gradient", "without detach()")),
        ("Predicts", ("predict of task", "in predict", "KeyError: 'image'")),
        ("Samples", ("sample of task", "KeyError: 'prompt'")),
        ("Accumulates", ("metrics of task", "in <lambda>", "no attribute 'no_such_method'")),
        ("Several", ("accuracy is None", "labels is a list")),
    ],
)
def test_a_mistake_is_found_with_its_place_in_the_users_code(data: Dataset, task: str, says: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        try_task(config(task), data)
    assert all(word in str(caught.value) for word in says), caught.value
    assert len(str(caught.value).splitlines()) < 12


def test_parameters_that_the_loss_does_not_use_are_named_and_refused_where_several_workers_would_wait(data: Dataset) -> None:
    what = "does not use aux.weight, aux.bias"
    with pytest.raises(UserError, match=f"{what}.*\n.*find_unused_parameters to true"):
        try_task(config("Unused", workers=2), data)
    for changes in ({}, {"workers": 2, "find_unused_parameters": True}, {"workers": 2, "parallelism": "fsdp"}):
        assert what in try_task(config("Unused", **changes), data).notes[0]


def test_what_a_few_samples_on_a_cpu_cannot_decide_is_let_through(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.get_rng_state()
    assert try_task(config("Many"), data).notes == ()
    assert try_task(config("Slow"), data).notes == ()
    assert Slow.calls <= limits.CALLS + 1
    (note,) = try_task(config("OnGpu", resources={"gpu": 1}), data).notes
    assert "not tried to the end before the start: it needs a GPU" in note
    with pytest.raises(UserError, match="NVIDIA"):
        try_task(config("OnGpu", resources={"gpu": 0}), data)
    monkeypatch.setattr(limits, "_free_memory", lambda: 1 << 24)
    assert "needs more memory than this machine has free" in try_task(config("Big"), data).notes[0]
    monkeypatch.setattr(limits, "SECONDS", -1.0)
    assert "on this CPU" in try_task(config("Good"), data).notes[0]
    assert torch.equal(torch.get_rng_state(), random)


def test_methods_of_the_model_and_unused_parameters_work_with_several_workers(tmp_path: Path) -> None:
    """Which would hide behind DDP's wrapper, and find only their shard behind FSDP's."""
    own = {"task": f"{__name__}:Unused", "model": {}, "steps": 6, "find_unused_parameters": True}
    train(loop_config(tmp_path / "one", **own))
    configs = [loop_config(tmp_path / kind, **own, workers=2, parallelism=kind) for kind in ("ddp", "fsdp")]
    for curve in train_with(2, configs):
        assert curve == pytest.approx(losses(Folder.at(tmp_path / "one/run")), rel=1e-4)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a config and a task of the user's own."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # which a command changes
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mine", None)
    (tmp_path / "mine.py").write_text(
        "from tests.workloads.ray_train.test_preflight import Good\n"
        "class Mine(Good):\n"
        "    def loss(self, model, batch):\n"
        "        breakpoint()\n"
        "        return super().loss(model, batch)\n"
        "class Broken(Good):\n"
        "    def loss(self, model, batch):\n"
        "        return model.head(batch)\n"
    )
    (tmp_path / "c.yaml").write_text("task: mine:Mine\ndataset: {source: breast-cancer}\nsteps: 3\n")
    return tmp_path


def test_a_dry_run_and_the_run_refuse_a_mistake_alike_and_leave_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for mode in (["--dry-run"], []):
        assert main(["train", "c.yaml", "--set", "task=mine:Broken", *mode]) == 2
        said.append(capsys.readouterr().err.rpartition("heliostat: ")[2])  # without the phases, which a slow machine says
        assert not list((project / "runs/c").glob("*"))
    assert said[0] == said[1]
    assert 'mine.py", line 8, in loss' in said[0]


def test_in_process_a_breakpoint_stops_this_program_and_a_failure_has_its_whole_traceback(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stops: list[str] = []
    monkeypatch.setattr(sys, "breakpointhook", lambda: stops.append(sys._getframe(1).f_code.co_name))
    assert main(["train", "c.yaml", "--in-process", "--set", "workers=2", "--json"]) == 0
    assert stops[:3] == ["loss"] * 3
    assert '"state": "finished"' in capsys.readouterr().out
    assert main(["train", "c.yaml", "--in-process", "--set", "name=b", "--set", "task=mine:Broken"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert 'mine.py", line 8, in loss' in err


def test_what_was_tried_is_not_tried_again_until_the_code_changes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "mine.py").write_text((project / "mine.py").read_text().replace("        breakpoint()\n", ""))
    tries: list[str] = []
    monkeypatch.setattr(
        "heliostat.workloads.training.start.try_task",
        lambda config, *rest: tries.append(config.name) or try_task(config, *rest),  # type: ignore[func-returns-value]
    )

    def start() -> None:
        plan = prepare(
            TrainConfig.model_validate({"name": "c", "task": "mine:Mine", "dataset": {"source": "breast-cancer"}, "steps": 3})
        )
        with plan.claim() as (_, record, _):
            begin(plan, record)
        assert read_record(Folder.at(project / "runs/c")).tried

    start()
    start()
    assert tries == ["c"]
    (project / "mine.py").write_text((project / "mine.py").read_text() + "# changed\n")
    start()
    assert tries == ["c", "c"]
