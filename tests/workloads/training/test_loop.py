"""The training loop by itself: one worker in this process, several as processes of torch.distributed."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.inference import evaluate
from heliostat.workloads.optimization.config import OptimizerConfig
from heliostat.workloads.optimization.schedule import learning_rate
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import METRICS, RunRecord
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.loop import Loop
from heliostat.workloads.training.progress import Outcome
from tests.conftest import wait_for
from tests.workloads.group import in_group

PLAIN = {"task": "tabular-classification", "model": {"dropout": 0.0, "hidden": 16}, "dataset": {"source": "breast-cancer"}}


def config(tmp_path: Path, **changes: Any) -> TrainConfig:
    keys = {
        **PLAIN, "name": "run", "storage": str(tmp_path), "global_batch": 48, "steps": 20, "log_every": 1,
        "evaluate_every": 7, "checkpoint_every": 5, **changes,
    }  # fmt: skip
    return TrainConfig.model_validate(keys)


def record_of(config: TrainConfig) -> tuple[Folder, RunRecord]:
    plan = prepare(config)
    return plan.folder, plan.commit()[0]


def train(config: TrainConfig, report: Callable[[dict[str, float]], None] = lambda metrics: None) -> Outcome:
    folder, record = record_of(config)
    return Loop(folder, record, Ranks.of_this_process(), time.time(), report).run()


def losses(folder: Folder) -> dict[int, float]:
    records = [r for r in read_journal(folder, METRICS) if r["kind"] == "train"]
    assert [r["step"] for r in records] == sorted({r["step"] for r in records}), "each step once, in order"
    return {r["step"]: r["loss"] for r in records}


def _worker(rank: int, jobs: list[tuple[str, dict[str, Any]]]) -> None:
    for run, record in jobs:
        Loop(Folder.at(run), RunRecord.model_validate(record), Ranks.of_this_process(), time.time()).run()


def train_with(workers: int, configs: list[TrainConfig]) -> list[dict[int, float]]:
    """Train each config with ``workers`` processes; return the loss curves."""
    runs = [record_of(config) for config in configs]
    jobs = [(str(folder), record.model_dump(mode="json")) for folder, record in runs]
    in_group(_worker, workers, jobs)
    return [losses(folder) for folder, _ in runs]


def test_any_number_of_workers_and_any_micro_batch_give_the_same_loss_curve(tmp_path: Path) -> None:
    """409 samples in batches of 48: the epochs end with a batch of 25, which some workers have less of."""
    assert train(config(tmp_path / "1")).state == "finished"
    curve = losses(Folder.at(tmp_path / "1" / "run"))
    for workers, micros in ((1, [8]), (2, [None, 12]), (3, [None, 4])):
        configs = [config(tmp_path / f"{workers}-{micro}", workers=workers, micro_batch=micro) for micro in micros]
        for micro, other in zip(micros, train_with(workers, configs), strict=True):
            assert other == pytest.approx(curve, rel=1e-4), f"{workers} workers, micro-batch {micro}"


def test_after_a_crash_the_same_losses_follow_to_the_last_bit(tmp_path: Path) -> None:
    """With dropout, over the end of an epoch, from a checkpoint two steps before the crash."""
    changes = {"model": {"dropout": 0.3}, "steps": 30}
    train(config(tmp_path / "calm", **changes))
    undisturbed = losses(Folder.at(tmp_path / "calm" / "run"))

    def crash(metrics: dict[str, float]) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        train(config(tmp_path / "crash", **changes), crash)
    folder = Folder.at(tmp_path / "crash" / "run")
    assert checkpoint.committed(folder)[-1].step == 5
    train(config(tmp_path / "crash", **changes))
    assert losses(folder) == undisturbed


def test_a_request_to_stop_saves_a_checkpoint_and_the_run_resumes(tmp_path: Path) -> None:
    folder, record = record_of(config(tmp_path))

    def ask(metrics: dict[str, float]) -> None:
        folder.write("stop", b"")
        wait_for(lambda: loop.signals is not None and loop.signals.state == "stopped", "the request to be noticed")

    loop = Loop(folder, record, Ranks.of_this_process(), time.time(), ask)
    stopped = loop.run()
    assert (stopped.state, stopped.step) == ("stopped", 8)
    assert checkpoint.committed(folder)[-1].step == 8
    assert train(config(tmp_path)).state == "finished"
    assert list(losses(folder)) == list(range(1, 21))


def test_only_the_last_and_the_best_checkpoint_are_kept_and_the_best_is_used(tmp_path: Path) -> None:
    keep = {"last": 1, "best": 1}
    outcome = train(config(tmp_path, steps=60, optimizer={"lr": 0.05, "weight_decay": 0.0}, evaluate_every=3, keep=keep))
    folder = Folder.at(tmp_path / "run")
    evaluations = {r["step"]: r["metrics"]["loss"] for r in read_journal(folder, METRICS) if r["kind"] == "eval"}
    best = min(evaluations, key=lambda step: evaluations[step])
    assert {c.step for c in checkpoint.committed(folder)} == {best, 60}
    assert outcome.best_step == best
    assert outcome.metrics["validation"]["loss"] == pytest.approx(evaluations[best])


def test_early_stopping_ends_after_so_many_evaluations_without_improvement(tmp_path: Path) -> None:
    stopping = {"patience": 3}
    outcome = train(config(tmp_path, steps=5000, optimizer={"lr": 0.05}, evaluate_every=4, early_stopping=stopping))
    assert outcome.best_step
    assert outcome.step == outcome.best_step + 3 * 4 < 5000


def test_a_loss_that_becomes_infinite_ends_the_run_at_that_step(tmp_path: Path) -> None:
    """With this learning rate it is the second or third step."""
    outcome = train(config(tmp_path, optimizer={"lr": 1e30, "warmup_steps": 0, "clip_norm": None}))
    assert outcome.state == "diverged"
    assert f"at step {outcome.step}" in outcome.message
    assert 2 <= outcome.step <= 5
    assert all(value is not None for value in losses(Folder.at(tmp_path / "run")).values())


def test_a_half_written_checkpoint_does_not_count(tmp_path: Path) -> None:
    train(config(tmp_path, steps=10))
    folder = Folder.at(tmp_path / "run")
    (folder / "checkpoints/step-00000099").write("state.pt", b"half")
    assert [c.step for c in checkpoint.committed(folder)][-1] == 10


def test_steps_and_epochs_are_counted_in_global_batches(tmp_path: Path) -> None:
    kept = train(config(tmp_path / "kept", steps=None, epochs=2))
    dropped = train(config(tmp_path / "dropped", steps=None, epochs=2, drop_last=True))
    assert (kept.step, dropped.step) == (2 * 9, 2 * 8)


def test_learning_rate_warms_up_and_decays() -> None:
    optimizer = OptimizerConfig(lr=1.0, warmup_steps=10, final_lr=0.1)
    rates = [learning_rate(step, 100, optimizer) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0.1)


@pytest.mark.parametrize("task", ["image-classification", "language-model"])
def test_the_other_tasks_learn(tmp_path: Path, task: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(40):
        (tmp_path / "in" / f"{number}.txt").write_text(f"{number} " + "the sun is bright and the mirrors turn. " * 8)
    text = {"source": "text", "options": {"path": str(tmp_path / "in"), "length": 32}}
    changes: dict[str, Any] = {
        "image-classification": {"dataset": {"source": "digits"}, "model": {"width": 16, "stages": 1}},
        "language-model": {"dataset": text, "model": {"width": 32, "layers": 1, "heads": 2}},
    }[task]
    train(config(tmp_path, task=task, **changes, optimizer={"lr": 0.02}, steps=100))
    curve = losses(Folder.at(tmp_path / "run"))
    assert sum(curve[s] for s in range(96, 101)) < 0.7 * sum(curve[s] for s in range(1, 6))
    evaluation = json.loads(Folder.at(tmp_path / "run").read("evaluation.json"))
    assert ("confusion" in evaluation) == (task == "image-classification")
    assert bool(evaluation["sample"]) == (task == "language-model")
    if task == "language-model":
        assert evaluation["metrics"]["perplexity"] == pytest.approx(math.exp(evaluation["metrics"]["loss"]), rel=1e-5)


def test_a_feature_that_is_constant_in_training_does_not_blow_up(tmp_path: Path) -> None:
    """One row in a hundred has a category that the training split may never have seen."""
    for number, rare in enumerate(range(0, 300, 29)):
        rows = [f"{i % 7},{'rare' if i == rare else 'common'},{'no' if i % 7 < 3 else 'yes'},{i}" for i in range(300)]
        (tmp_path / "t.csv").write_text("x,colour,y,n\n" + "\n".join(rows))
        source = {"source": "table", "options": {"path": str(tmp_path / "t.csv"), "target": "y"}}
        outcome = train(config(tmp_path / str(number), dataset=source, steps=30, optimizer={"lr": 0.01}))
        assert (outcome.metrics["test"]["loss"] or 99) < 5


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with tasks that measure strange things."""
    (tmp_path / "strange.py").write_text(
        "import torch\n"
        "from heliostat.workloads.tasks.tabular_classification import TabularClassification\n"
        "class Sometimes(TabularClassification):\n"
        "    metric, better, calls = 'f1', 'higher', 0\n"
        "    def metrics(self, model, batch):\n"
        "        Sometimes.calls += 1\n"
        "        f1 = torch.tensor(float('nan') if Sometimes.calls < 3 else 1.0 / Sometimes.calls)\n"
        "        return {'f1': f1, 'epoch': torch.tensor(1.0)}\n"
        "class Missing(TabularClassification):\n"
        "    metric = 'acuracy'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("tasks")
def test_a_metric_that_is_nan_for_a_while_is_never_the_best(tmp_path: Path) -> None:
    outcome = train(config(tmp_path, task="strange:Sometimes", model={}))
    first = read_journal(Folder.at(tmp_path / "run"), METRICS)
    assert next(r for r in first if r["kind"] == "eval")["metrics"]["f1"] is None
    assert outcome.best_step == 14
    assert outcome.state == "finished"


@pytest.mark.usefixtures("tasks")
def test_a_task_whose_metric_is_not_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'acuracy', but its metrics are"):
        train(config(tmp_path, task="strange:Missing", model={}))


def test_a_run_that_stopped_early_does_not_train_further_when_its_result_was_lost(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"steps": 5000, "optimizer": {"lr": 0.05}, "evaluate_every": 4, "early_stopping": {"patience": 3}}
    outcome = train(config(tmp_path, **changes))
    assert train(config(tmp_path, **changes)).step == outcome.step


def test_a_run_opens_after_its_storage_was_moved(tmp_path: Path) -> None:
    before = train(config(tmp_path / "there", steps=20))
    (tmp_path / "there").rename(tmp_path / "here")
    evaluated = evaluate(Folder.at(tmp_path / "here" / "run"))
    assert evaluated["metrics"]["loss"] == pytest.approx(before.metrics["test"]["loss"])
    assert train(config(tmp_path / "here", steps=20)).step == 20
