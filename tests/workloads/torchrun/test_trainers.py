"""What trainers of others use under ``heliostat torchrun``: metrics, their own checkpoints, a stop on all ranks at once."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heliostat.cli import main
from heliostat.environment import WORKERS
from heliostat.folder import Folder
from heliostat.interface import calls
from heliostat.torchrun import checkpoints, last_checkpoint, log
from heliostat.workloads.run.journal import Journal, read_journal
from heliostat.workloads.run.record import METRICS
from heliostat.workloads.torchrun import random_states, this_run
from heliostat.workloads.torchrun.own_checkpoints import incomplete
from tests.conftest import Command, Head, processes_of, wait_for
from tests.store import Store
from tests.workloads.torchrun.scripts import as_script, script


def train(run: Path, first: int, last: int) -> None:
    """A process of a script that logs these steps."""
    with as_script(run):
        for step in range(first, last + 1):
            log(step, loss=torch.tensor(1 / step), epoch=step // 2)
            if step % 2 == 0:
                log(step, val_loss=2 / step, eval_accuracy=step / 10)
        log(last, test_accuracy=0.5)


def test_a_resumed_script_records_each_step_once_and_is_listed_compared_reported_and_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = tmp_path / "workers.json"
    worker = {"host": "a", "device": "cpu", "born": 100.0, "price": 3.6}
    about.write_text(json.dumps({"id": "first", "launched": 90.0, "workers": [worker]}))
    monkeypatch.setenv(WORKERS, str(about))
    monkeypatch.setattr("sys.argv", ["train.py", "--epochs", "3"])
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs/mine"
    train(run, 1, 4)
    train(run, 3, 6)
    metrics = read_journal(Folder.at(run), METRICS)
    assert [r["step"] for r in metrics if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [(r["step"], r["metrics"]["accuracy"]) for r in metrics if r["kind"] == "eval"] == [(2, 0.2), (4, 0.4), (6, 0.6)]
    Journal(Folder.at(run), "attempts.jsonl").append(event="ended", state="finished")

    assert main(["runs", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["kind"], row["task"], row["state"], row["step"]) == ("script", "train.py", "finished", 6)
    assert (row["split"], row["metrics"]) == ("test", {"accuracy": 0.5})
    assert row["cost"] is not None
    assert main(["runs", "compare", "mine", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]["validation accuracy"] == [0.6, 0.6]
    assert main(["report", "mine"]) == 0
    report = (run / "report.html").read_text()
    assert all(text in report for text in ("train.py on 1 worker, finished at step 6", "train.py --epochs 3", "accuracy"))
    assert main(["runs", "track", "mine", "--to", "tensorboard"]) == 0
    assert list((run / "tensorboard").iterdir())
    history = calls.load_run("mine").history
    assert list(history[history.split == "train"].loss) == pytest.approx([1 / step for step in range(1, 7)])
    capsys.readouterr()
    assert main(["predict", "mine", "x"]) == 2
    assert "'mine' is the run of a script" in capsys.readouterr().err


def test_nothing_is_recorded_on_other_ranks_and_outside_of_heliostat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log(1, loss=1.0)
    with as_script(tmp_path / "run"):
        monkeypatch.setenv("RANK", "1")
        log(1, loss=1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "metrics", "error", "message"),
    [
        (1, {"loss": "low"}, TypeError, "loss is 'low', but must be a number"),
        (1, {"train_time": 1.0}, ValueError, "train_time cannot be the name of a metric"),
        (-1, {"loss": 1.0}, ValueError, "step is -1"),
    ],
)
def test_what_cannot_be_recorded_is_an_error(
    tmp_path: Path, step: int, metrics: dict[str, Any], error: type[Exception], message: str
) -> None:
    with as_script(tmp_path / "run"), pytest.raises(error, match=message):
        log(step, **metrics)


def test_the_metrics_of_other_arguments_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "--lr", "0.1"])
    train(tmp_path / "run", 1, 2)
    monkeypatch.setattr("sys.argv", ["train.py", "--lr", "0.2"])
    with pytest.raises(SystemExit, match="2"):
        train(tmp_path / "run", 1, 2)
    assert "saved with the arguments ['--lr', '0.1']" in capsys.readouterr().err


def huggingface(place: Path, ranks: int = 2) -> None:
    """A checkpoint as transformers writes it, in its order."""
    place.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (place / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    torch.save({"state": torch.ones(3)}, place / "optimizer.pt")
    for rank in range(ranks):
        torch.save({"cpu": torch.ones(3)}, place / f"rng_state_{rank}.pth")
    (place / "trainer_state.json").write_text('{"global_step": 8}')


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-6])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda place: (place / "trainer_state.json").unlink(), "no trainer_state.json"),
        (lambda place: (place / "rng_state_1.pth").unlink(), "the ranks [0], of 2 in all"),
        (lambda place: cut(place / "model.safetensors"), "model.safetensors is cut"),
        (lambda place: cut(place / "optimizer.pt"), "optimizer.pt is cut"),
        (lambda place: cut(place / "trainer_state.json"), "trainer_state.json is damaged"),
        (lambda place: (place / "optimizer.pt").write_bytes(b""), "optimizer.pt is empty"),
    ],
)
def test_what_a_killed_worker_leaves_is_not_a_checkpoint(tmp_path: Path, damage: Any, problem: str) -> None:
    place = tmp_path / "checkpoint-8"
    huggingface(place)
    assert incomplete(place, {2}) == ""
    damage(place)
    assert problem in incomplete(place, {2})


def test_the_last_complete_checkpoint_of_any_framework_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with as_script(tmp_path / "run"):
        place = Path(checkpoints())
        assert last_checkpoint() is None
        huggingface(place / "checkpoint-9")
        assert last_checkpoint() == str(place / "checkpoint-9")
        huggingface(place / "checkpoint-10", ranks=1)
        assert last_checkpoint() == str(place / "checkpoint-9"), "a rank's file is missing"
        assert "checkpoint-10 is not complete, and not used" in capsys.readouterr().err
        torch.save({"w": torch.ones(2)}, place / "epoch=1-step=12.ckpt")
        assert last_checkpoint() == str(place / "epoch=1-step=12.ckpt")
        for path in (place / "epoch=1-step=12.ckpt", place / "checkpoint-9/optimizer.pt"):
            cut(path)
        with pytest.raises(SystemExit, match="2"):
            last_checkpoint()
        assert "none of the 3 checkpoints" in capsys.readouterr().err


def test_an_object_store_is_refused_for_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(this_run, "folder", lambda: Store().folder())
    with pytest.raises(SystemExit, match="2"):
        checkpoints()
    err = capsys.readouterr().err
    assert "set --storage to a path that all nodes share" in err
    assert "resume and save" in err


LOOP = """
import os, signal, sys, time
import torch
import torch.distributed as dist
from heliostat.torchrun import checkpoints, last_checkpoint, leave, log, stopping
dist.init_process_group("gloo")
attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), dist.get_rank()
last = last_checkpoint()
step = torch.load(last)["step"] if last else 0
while step < 20:
    value = torch.tensor(float(step))
    dist.all_reduce(value)
    step += 1
    log(step, loss=value)
    if attempt == 0 and step == 6 + rank:
        os.kill(os.getpid(), signal.SIGTERM)
    if attempt == 1 and step == 14 and rank:
        os.kill(os.getpid(), signal.SIGKILL)
    stops = stopping(step)
    if rank == 0 and (stops or step % 5 == 0):
        torch.save({"step": step}, f"{checkpoints()}/step-{step}.pt")
    if stops:
        print(f"leaves after {step}", flush=True)
        leave(f"step {step}")
"""


def test_a_script_that_is_asked_to_stop_and_then_killed_has_the_losses_of_an_undisturbed_one(
    on_ray: Command, shared_ray: Head
) -> None:
    """Both ranks leave after the same step, though they hear of it after different ones; the record has the attempts."""
    command = on_ray
    script(command, "loop.py", LOOP)
    done = command("torchrun", "--workers", "2", "--gpu", "0", "--max-restarts", "2", "loop.py")
    assert done.code == 0, done.err
    left = re.findall(r"^\[rank (\d)\] leaves after (\d+)$", done.out, re.MULTILINE)
    assert sorted(left) == [("0", "7"), ("1", "7")]
    run = command.cwd / "runs/loop"
    losses = [(r["step"], r["loss"]) for r in read_journal(Folder.at(run), METRICS)]
    assert losses == [(step, 2.0 * (step - 1)) for step in range(1, 21)]
    events = read_journal(Folder.at(run), "events.jsonl")
    assert [event["step"] for event in events if event["event"] == "start"] == [0, 7, 10]
    attempts = [record["event"] for record in read_journal(Folder.at(run), "attempts.jsonl")]
    assert attempts == ["launched", *["starting", "running", "failed"] * 2, "starting", "running", "ended"]
    assert (run / "report.html").exists()
    wait_for(lambda: not processes_of(shared_ray.env, "loop.py"), "the script's end")
    rows = command("runs", "--json")
    (row,) = json.loads(rows.out)
    assert (row["state"], row["step"], row["metrics"]) == ("finished", 20, {"loss": 38.0})
    assert 0 < row["goodput"] < 1


def test_random_numbers_continue_from_a_checkpoint_of_the_same_number_of_ranks(tmp_path: Path) -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    before = random_states.of_all_ranks()
    try:
        torch.save(random_states.of_all_ranks(), tmp_path / "last.ckpt")
        wanted, others = drawn(), drawn()
        saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
        assert random_states.restore_own(saved)
        assert drawn() == wanted
        assert not random_states.restore_own([*saved, *saved])
        assert drawn() == others
    finally:
        random_states.restore_own(before)
