"""Callbacks: called at each hook, exact when a run is resumed, refused where they would not be called."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heliostat.cli import main
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.plan import prepare
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.code import CODE
from heliostat.workloads.run.journal import read_journal
from heliostat.workloads.run.record import METRICS, REPORT, read_record, read_result
from heliostat.workloads.run.report import write_report
from heliostat.workloads.run.so_far import result_of
from tests.workloads.torchrun.scripts import importable
from tests.workloads.training.test_loop import config, losses, record_of, train, train_with

HOOKS = """
import torch
from heliostat import Callback
from heliostat.config import Config

class Recorder(Callback):
    "Writes down what it is called with."
    calls = []
    def on_start(self, run):
        self.calls.append(("start", run.step, run.name, run.rank, run.world, run.total_steps))
    def on_step(self, run, loss):
        assert not loss.requires_grad and all(p.grad is not None for p in run.model.parameters())
        self.calls.append(("step", run.step, round(float(loss), 6)))
    def on_evaluation(self, run, metrics):
        run.model.eval()
        self.calls.append(("evaluation", run.step, sorted(metrics)))
    def on_checkpoint(self, run):
        self.calls.append(("checkpoint", run.step))
    def on_end(self, run, state, metrics):
        self.calls.append(("end", run.step, state, sorted(metrics)))

class Average(Callback):
    "A moving average of the loss, which a resumed run must continue; it slows the training down by what it is."
    def __init__(self, options):
        self.value, self.weights = 0.0, torch.zeros(2)
    def on_step(self, run, loss):
        self.value = 0.9 * self.value + 0.1 * float(loss)
        self.weights += self.value
        run.log("average", self.value)
        run.log("weight", self.weights[1])
        with torch.no_grad():
            for parameter in run.model.parameters():
                parameter.mul_(1 - 0.01 * self.value)
    def state_dict(self):
        return {"value": self.value, "weights": self.weights}
    def load_state_dict(self, state):
        self.value, self.weights = state["value"], state["weights"]

class Ends(Callback):
    class Options(Config):
        at: int = 12
    def on_step(self, run, loss):
        if run.step >= self.options.at:
            run.stop(f"step {run.step} is enough")

class LastRank(Callback):
    "Ends the run from the last rank."
    every_rank = True
    def on_step(self, run, loss):
        if run.rank == run.world - 1 and run.step >= 12:
            run.stop("the last rank says so")

class Fails(Callback):
    def on_evaluation(self, run, metrics):
        raise ZeroDivisionError("my own mistake")

class Odd(Callback):
    def state_dict(self):
        return {"seen": [1, {2, 3}]}
    def load_state_dict(self, state):
        pass

class Wrong(Callback):
    def on_evaluate_end(self, run, metrics): pass
    def on_train_batch_end(self, run): pass
    def on_step(self, run): pass
    def state_dict(self): return {}

class NoCallback: pass
"""


@pytest.fixture(scope="module", autouse=True)
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The callbacks above, for this process and those that it starts."""
    with importable(tmp_path_factory.mktemp("hooks"), "hooks", HOOKS) as folder:
        yield folder


def logged(folder: Folder) -> list[tuple[int, dict[str, float]]]:
    return [(r["step"], r["metrics"]) for r in read_journal(folder, METRICS) if r["kind"] == "logged"]


def test_each_hook_is_called_with_the_run_and_the_training_is_the_same_as_without(tmp_path: Path) -> None:
    import hooks as module  # type: ignore[import-not-found]

    changes: dict[str, Any] = {"steps": 10, "evaluate_every": 4, "micro_batch": 16, "model": {"dropout": 0.2}}
    train(config(tmp_path / "without", **changes))
    train(config(tmp_path / "with", callbacks=["hooks:Recorder"], **changes))
    calls = module.Recorder.calls
    curve = losses(Folder.at(tmp_path / "with" / "run"))
    assert curve == losses(Folder.at(tmp_path / "without" / "run"))
    assert calls[0] == ("start", 0, "run", 0, 1, 10)
    assert {step: loss for kind, step, loss in (c for c in calls if c[0] == "step")} == pytest.approx(curve, abs=1e-5)
    assert [(c[1], "accuracy" in c[2]) for c in calls if c[0] == "evaluation"] == [(4, True), (8, True), (10, True)]
    assert {c[1] for c in calls if c[0] == "checkpoint"} >= {5, 10}
    assert calls[-1] == ("end", 10, "finished", ["test", "validation"])


def test_a_run_that_is_killed_and_resumed_continues_the_state_of_its_callbacks_to_the_last_bit(tmp_path: Path) -> None:
    """The callback changes the weights by its state: a state that is lost would show in the losses."""
    changes = {"callbacks": ["hooks:Average", {"hooks:Average": {}}], "steps": 20}
    train(config(tmp_path / "calm", **changes))

    def crash(metrics: dict[str, float]) -> None:
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        train(config(tmp_path / "crash", **changes), crash)
    train(config(tmp_path / "crash", **changes))
    calm, crashed = (Folder.at(tmp_path / name / "run") for name in ("calm", "crash"))
    assert losses(crashed) == losses(calm)
    assert logged(crashed) == logged(calm), "each step once"
    assert [step for step, _ in logged(calm)] == list(range(1, 21))
    states = [checkpoint.committed(folder)[-1].read()["progress"]["callbacks"] for folder in (calm, crashed)]
    assert sorted(states[0]) == ["hooks:Average", "hooks:Average#2"]
    assert str(states[0]) == str(states[1])
    record = read_record(crashed)
    write_report(crashed, record, result_of(crashed))
    assert ">average<" in crashed.read(REPORT).decode()
    assert list(record.code) == ["hooks.py"]
    assert (crashed / CODE).exists("hooks.py")


def test_a_callback_ends_a_run_at_the_same_step_with_any_number_of_workers_and_it_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for at step 12, at the step that is logged next, 15, or that is evaluated, 14."""
    changes: dict[str, Any] = {"log_every": 5, "evaluate_every": 100, "checkpoint_every": 100, "steps": 40}
    outcome = train(config(tmp_path / "1", callbacks=[{"hooks:Ends": {"at": 12}}], **changes))
    assert (outcome.state, outcome.step, outcome.message) == ("finished", 15, "callback hooks:Ends: step 12 is enough")
    assert outcome.metrics["test"]
    two = config(tmp_path / "2", workers=2, callbacks=["hooks:LastRank"], **changes)
    (curve,) = train_with(2, [two])
    assert max(curve) == 15
    # By command: it is said, and the same command does not go on; without the callback, it does.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(
        "task: tabular-classification\ndataset: {source: breast-cancer}\nsteps: 30\ncheckpoint_every: 5\nevaluate_every: 50\n"
        "callbacks: [{hooks:Ends: {at: 3}}]\n"
    )
    command = ["train", "c.yaml", "--in-process", "--set", "resources.gpu=0"]
    assert main(command) == 0
    assert "c finished at step 5 in" in (said := capsys.readouterr().out)
    assert "ended by callback hooks:Ends: step 3 is enough" in said
    assert main(command) == 0
    assert "c is already finished" in capsys.readouterr().out
    assert main([*command, "--set", "steps=40"]) == 2
    assert "was ended by callback hooks:Ends: step 3 is enough at step 5 of 30" in capsys.readouterr().err
    assert main([*command, "--set", "callbacks=[]"]) == 0
    result = read_result(Folder.at(tmp_path / "runs/c"))
    assert result
    assert (result.step, result.message) == (30, "")


def test_a_request_to_stop_survives_a_checkpoint_before_it_takes_effect(tmp_path: Path) -> None:
    folder, record = record_of(config(tmp_path, callbacks=["hooks:Ends"], log_every=20, evaluate_every=50, checkpoint_every=50))
    from heliostat.workloads.training.distributed import Ranks
    from heliostat.workloads.training.loop import Loop

    loop = Loop(folder, record, Ranks.of_this_process(), 0.0)
    upcoming = loop.step.batches(loop.order, 0)
    for _ in range(13):
        loop._step(next(upcoming))
    loop.save({}, wait=True)
    stop = checkpoint.committed(folder)[-1].read()["progress"]["stop"]
    assert stop == {"by": "hooks:Ends", "reason": "step 12 is enough"}


def test_an_exception_of_a_callback_ends_the_run_with_its_own_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(
        "task: tabular-classification\ndataset: {source: breast-cancer}\nsteps: 3\ncallbacks: [hooks:Fails]\n"
    )
    assert main(["train", "c.yaml", "--in-process", "--set", "resources.gpu=0"]) == 1
    said = capsys.readouterr().err
    assert said.count("ZeroDivisionError: my own mistake") == 1
    assert "in on_evaluation" in said


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("hooks", ("callbacks has 'hooks', which is not a callback", "write module:Class")),
        ("hooks:Averag", ("hooks has no Callback named Averag", "did you mean Average?")),
        ("hooks:NoCallback", ("hooks has no Callback named NoCallback",)),
        ("nowhere:Mine", ("there is no module nowhere", "create nowhere.py")),
        ({"hooks:Ends": {"att": 3}}, ("callbacks.hooks:Ends.att is not a known key", "did you mean at?")),
        ({"hooks:Ends": {"at": "x"}}, ("callbacks.hooks:Ends.at is 'x'",)),
        (
            "hooks:Wrong",
            (
                "nothing calls on_evaluate_end", "did you mean on_evaluation?", "nothing calls on_train_batch_end",
                "did you mean on_step?", "on_step takes (self, run)", "write on_step(self, run, loss)",
                "it has state_dict, but no load_state_dict",
            ),
        ),
    ],
)  # fmt: skip
def test_what_would_not_be_called_is_refused_before_anything_is_written(tmp_path: Path, entry: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        prepare(config(tmp_path, callbacks=[entry]))
    assert all(word in str(refused.value) for word in words), refused.value
    assert not [*tmp_path.iterdir()]


def test_a_state_that_a_checkpoint_cannot_hold_is_refused_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"callback hooks:Odd.state_dict\(\)\['seen'\]\[1\] is a set"):
        train(config(tmp_path, callbacks=["hooks:Odd"]))
