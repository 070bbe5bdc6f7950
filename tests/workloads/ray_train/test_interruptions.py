"""What happens when a run is stopped, diverges, or runs out of disk: real processes, real signals."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Command, end_group, gone, processes_of, wait_for

LONG = """
task: image-classification
dataset: {source: digits}
model: {width: 16, stages: 1}
workers: 2
steps: 100000
evaluate_every: 20
checkpoint_every: 20
"""


def steps_of(command: Command, run: str) -> list[int]:
    path = command.cwd / "runs" / run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def started(command: Command, process: "subprocess.Popen[str]") -> None:
    """Wait until the run has made some steps, and a checkpoint counts: it is written while the next steps are made."""

    def running() -> bool:
        assert process.poll() is None, process.communicate()
        saved = any((command.cwd / "runs/long/checkpoints").glob("*/manifest.json"))
        return saved and max(steps_of(command, "long"), default=0) >= 40

    wait_for(running, "step 40 and a checkpoint")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_and_sigterm_stop_with_a_checkpoint_and_exit_130(command: Command, name: str) -> None:
    """As a terminal does it: the signal goes to every process of the group."""
    (command.cwd / "long.yaml").write_text(LONG)
    process = command.start("train", "long.yaml")
    try:
        started(command, process)
        (os.killpg if name == "SIGINT" else os.kill)(process.pid, signal.Signals[name])
        _, err = process.communicate(timeout=300)
    finally:
        end_group(process)
    assert process.returncode == 130
    assert "with a checkpoint" in err
    assert "Traceback" not in err
    last = max(int(path.name.removeprefix("step-")) for path in (command.cwd / "runs/long/checkpoints").iterdir())
    assert f"stopped at step {last} " in err
    assert f"stopped at step {last}" in (command.cwd / "runs/long/report.html").read_text()
    gone(command.env)
    (row,) = json.loads(command("runs", "--json").out)
    assert row["state"] == "stopped"


def test_a_killed_driver_leaves_no_process_and_the_same_command_resumes(command: Command) -> None:
    (command.cwd / "long.yaml").write_text(LONG)
    process = command.start("train", "long.yaml")
    started(command, process)
    process.kill()
    process.communicate()
    everything = ("raylet", "gcs_server", "RayTrainWorker", "TrainController")
    wait_for(lambda: not processes_of(command.env, *everything), "Ray's processes to follow their driver")
    before = max(steps_of(command, "long"))
    process = command.start("train", "long.yaml")
    try:
        wait_for(lambda: max(steps_of(command, "long"), default=0) > before, "steps after the resume")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        end_group(process)
    assert process.returncode == 130, err
    trained = steps_of(command, "long")
    assert trained == sorted(trained), "no step twice"
    events = [json.loads(line) for line in (command.cwd / "runs/long/events.jsonl").read_text().splitlines()]
    # Ray's two agents notice only after a minute that their raylet is gone (seen on 2.60).
    gone(command.env)
    starts = [event["step"] for event in events if event["event"] == "start"]
    assert starts[0] == 0
    assert starts[1] >= 20, "it went on from a checkpoint"


def test_a_loss_that_becomes_nan_says_where_and_what_to_try(on_ray: Command) -> None:
    command = on_ray
    (command.cwd / "nan.yaml").write_text(LONG)
    done = command("train", "nan.yaml", "--set", "optimizer={lr: 1.0e+30, warmup_steps: 0, clip_norm: null}")
    assert done.code == 1
    assert "NaN or infinite at step" in done.err
    assert "there is no checkpoint yet" in done.err
    assert "optimizer.lr=1e+29" in done.err
    (row,) = json.loads(command("runs", "--json").out)
    assert row["state"] == "diverged"


def test_a_disk_that_fills_up_during_the_run_leaves_no_half_checkpoint(on_ray: Command, small_disk: Path) -> None:
    command = on_ray
    (command.cwd / "big.yaml").write_text(LONG.replace("width: 16, stages: 1", "width: 64, stages: 2"))
    done = command("train", "big.yaml", "--set", f"storage={small_disk}", "--set", "storage_timeout=5")
    assert done.code == 2
    assert "No space left on device" in done.err
    assert str(small_disk) in done.err
    assert "Traceback" not in done.err
    assert [path for path in small_disk.rglob("*") if path.suffix in (".pt", ".tmp")] == []
