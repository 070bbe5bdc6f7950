"""A sweep is resumed after kill -9 at any moment and after Ctrl-C; two drivers, failures, dry runs."""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from heliostat.folder import Folder
from heliostat.tuning.journal import read_journal
from heliostat.tuning.trials import Trials
from tests.conftest import Command, Head, end_group, gone, wait_for
from tests.tuning.conftest import TASK

KILLS = int(os.environ.get("SOAK_KILLS", "3"))
"""``make soak`` kills ten times."""
COUNT = 8
LEVELS = [round(0.3 + 0.05 * n, 2) for n in range(COUNT)]
BEFORE_THE_LAST = (COUNT - 1) * 10
"""Fewer records than the trials before the last one have: a report every ten of their hundred steps, and more."""
SWEEP = f"""
train:
  task: toy:Toy
  dataset: {{source: breast-cancer}}
  steps: 100
  evaluate_every: 10
  checkpoint_every: 10
  log_every: 1
  optimizer: {{warmup_steps: 0}}
  model: {{seconds: 0.03, held: {LEVELS[-1]}}}
space:
  model.level: {{choice: {LEVELS}}}
algorithm: grid
scheduler: none
"""


@pytest.fixture
def sweep(command: Command) -> Command:
    """The command in a folder with a sweep of eight trials, each of about three seconds; the last waits for a file ``go``."""
    (command.cwd / "toy.py").write_text(TASK)
    (command.cwd / "levels.yaml").write_text(SWEEP)
    return command


def records(command: Command) -> list[dict[str, Any]]:
    return read_journal(Folder.at(command.cwd / "runs" / "levels-sweep"))


def heard(command: Command, process: "subprocess.Popen[str]", before: int) -> bool:
    return len(records(command)) > before or process.poll() is not None


def test_kill_9_at_any_moment_loses_no_trial_and_runs_none_again(sweep: Command) -> None:
    source = random.Random(7)
    for kill in range(KILLS):
        process = sweep.start("sweep", "levels.yaml")
        try:
            # From the start, before anything is written, to the middle of many trials.
            if kill:
                more = len(records(sweep)) + source.randint(0, 12)
                # Not more than there are before the last trial, which is held.
                wait_for(partial(heard, sweep, process, min(more, BEFORE_THE_LAST)), "more records")
            time.sleep(source.uniform(0, 0.3 if kill else 2))
        finally:
            end_group(process)
            process.communicate()
    (sweep.cwd / "go").touch()
    done = sweep("sweep", "levels.yaml", "--json", timeout=600)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["states"] == {"finished": COUNT}
    assert result["params"] == {"model.level": max(LEVELS)}
    found = records(sweep)
    assert Counter(r["trial"] for r in found if r["event"] == "trial") == dict.fromkeys(range(COUNT), 1)
    assert Counter(r["trial"] for r in found if r["event"] == "end") == dict.fromkeys(range(COUNT), 1)
    ended: set[int] = set()
    for record in found:
        if record["event"] == "start":
            assert record["trial"] not in ended, "a finished trial was started again"
        if record["event"] == "end":
            ended.add(record["trial"])
    assert sum(record["event"] == "start" for record in found) > COUNT, "some were killed while they ran"
    values = [trial.values["accuracy"] for trial in Trials(found).all]
    assert values == pytest.approx(LEVELS), "no step twice, no step lost"
    # A trial that had ended is not evaluated again.
    for trial in range(COUNT):
        events = (sweep.cwd / f"runs/levels-sweep/trials/{trial:04d}/events.jsonl").read_text().splitlines()
        assert sum(json.loads(line)["event"] == "evaluated" for line in events) <= 2
    gone(sweep.env)


def test_ctrl_c_stops_with_checkpoints_and_the_same_command_resumes(sweep: Command) -> None:
    process = sweep.start("sweep", "levels.yaml")
    try:
        wait_for(lambda: sum(r["event"] == "report" for r in records(sweep)) >= 3 or process.poll() is not None, "reports")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    finally:
        end_group(process)
    assert process.returncode == 130, err
    assert "the same command resumes the sweep" in err
    assert "Traceback" not in err
    found = records(sweep)
    reported = {r["trial"] for r in found if r["event"] == "report"}
    # One whose worker was still starting has nothing to resume from.
    paused = [r["trial"] for r in found if r["event"] == "pause" and r["trial"] in reported]
    assert paused, "what ran was saved"
    written = {path.name for path in (sweep.cwd / "runs/levels-sweep").iterdir()}
    assert {"report.html", "trials.parquet", "best.yaml"} <= written
    shown = sweep("sweep", "show", "levels-sweep")
    assert shown.code == 0
    assert "waiting" in shown.out
    assert " left" not in shown.out, "nothing runs"
    (sweep.cwd / "go").touch()
    done = sweep("sweep", "levels.yaml", timeout=600)
    assert done.code == 0, done.err
    assert f"{COUNT} finished" in done.out
    events = (sweep.cwd / f"runs/levels-sweep/trials/{paused[0]:04d}/events.jsonl").read_text().splitlines()
    starts = [json.loads(line)["step"] for line in events if json.loads(line)["event"] == "start"]
    assert len(starts) == 2
    assert starts[1] > 0, "it resumed from its checkpoint"
    gone(sweep.env)


def test_two_commands_do_not_drive_one_sweep(sweep: Command) -> None:
    slow = ("--set", "train.model.seconds=1")
    process = sweep.start("sweep", "levels.yaml", *slow)
    try:
        wait_for(lambda: len(records(sweep)) > 3 or process.poll() is not None, "the first sweep")
        second = sweep("sweep", "levels.yaml", *slow)
        assert second.code == 2
        assert "has been driven by" in second.err
        assert process.poll() is None
    finally:
        end_group(process)
        process.communicate()
    gone(sweep.env)


def test_the_best_config_gives_the_same_numbers(on_ray: Command, tmp_path: Path) -> None:
    command = on_ray
    config = """
    train: {task: tabular-classification, dataset: {source: breast-cancer}, epochs: 6, global_batch: 32, evaluate_every: 13}
    space: {optimizer.lr: {loguniform: [1e-3, 1e-1]}, model.dropout: {uniform: [0, 0.5]}}
    trials: 4
    algorithm: random
    """
    (command.cwd / "small.yaml").write_text(config)
    done = command("sweep", "small.yaml", "--json", timeout=400)
    assert done.code == 0, done.err
    result = json.loads(done.out)
    run = command("train", result["best_config"], "--json", timeout=400)
    assert run.code == 0, run.err
    assert json.loads(run.out)["metrics"]["validation"]["loss"] == result["values"]["loss"], "to the last bit"


def test_a_sweep_without_a_successful_trial_exits_1_and_a_wrong_config_2(sweep: Command, shared_ray: Head) -> None:
    there = Command(sweep.cwd, {**sweep.env, "RAY_ADDRESS": shared_ray.address})
    failed = there("sweep", "levels.yaml", "--set", "train.model.failing=late", "--set", "trials=2")
    assert failed.code == 1
    assert "no trial succeeded; 2 of 2 failed with" in failed.err
    assert "ArithmeticError: this step cannot be computed" in failed.err
    assert "Traceback" not in failed.err.splitlines()[0]
    for override, says in {
        "space.model.lewel={choice: [0, 1]}": "did you mean level?",
        "space.model.level={uniform: [1, 0]}": "an empty range",
        "metric=acuracy": "metric is 'acuracy', which task toy:Toy does not report\n  fix: did you mean accuracy?",
        "metric={accuracy: max, los: min}": "metric is 'los', which task toy:Toy does not report",
        "train.steps=0": "train.steps is 0",
        "train.model.failing=build": "ArithmeticError: this model cannot be built",
        "space={name: {choice: [a]}}": "space.name is searched",
    }.items():
        wrong = sweep("sweep", "levels.yaml", "--set", override, "--set", "name=wrong")
        assert wrong.code == 2, override
        assert says in wrong.err
        assert "Traceback" not in wrong.err
    assert not (sweep.cwd / "runs" / "wrong").exists()


def test_a_dry_run_shows_the_first_trials_and_starts_nothing(sweep: Command) -> None:
    done = sweep("sweep", "levels.yaml", "--dry-run", "--set", "concurrency=50", "--json")
    assert done.code == 0
    document = json.loads(done.out)
    assert document["first_trials"][:2] == [{"model.level": LEVELS[0]}, {"model.level": LEVELS[1]}]
    assert document["resources"] == {"CPU": 1, "GPU": 0, "workers": 1}
    assert 1 <= document["at_once"] <= 50
    assert not (sweep.cwd / "runs").exists()
    there = sweep("sweep", "levels.yaml", "--dry-run", "--on", "gpu", "--json")
    assert there.code == 0, there.err
    priced = json.loads(there.out)
    assert priced["at_once"] == 8
    assert priced["cost_per_hour"] > 8 * 3.93
