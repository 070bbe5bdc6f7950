"""Complete sweeps on a real Ray: runs, early stopping, retries, released resources."""

import json
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray

from heliostat import retry
from heliostat.environment import DATASETS
from heliostat.errors import JobFailed, UserError
from heliostat.folder import Folder
from heliostat.tuning.drive import drive, finished
from heliostat.tuning.journal import read_journal
from heliostat.tuning.plan import plan_sweep
from heliostat.tuning.trials import Trials
from heliostat.workloads.inference import load_run
from heliostat.workloads.run.record import read_index, read_record, read_result
from tests.conftest import processes_of, wait_for
from tests.outage import Proxy
from tests.tuning.conftest import Make, rows, run, trials_of

pytestmark = pytest.mark.usefixtures("ray_here", "nothing_left")


def test_every_combination_is_run_and_the_best_one_is_found(folder: Path, config: Make) -> None:
    result = run(config(0.5, 0.9, 0.7))
    assert (result.states, result.best, result.ended) == ({"finished": 3}, 1, "done")
    assert result.values == {"accuracy": pytest.approx(0.9)}
    assert result.params == {"model.level": 0.9}
    table = rows(folder)
    assert [(row["trial"], row["param.model.level"], row["state"]) for row in table] == [
        (0, 0.5, "finished"), (1, 0.9, "finished"), (2, 0.7, "finished"),
    ]  # fmt: skip
    assert all(row["seconds"] > 0 and row["cost"] is None and row["trial.parameters"] == 62 for row in table)
    kept = [path.parent.name for path in (folder / "runs" / "sweep" / "trials").glob("*/checkpoints")]
    assert kept == ["0001"], "only the best trial's checkpoints are kept"
    report = (folder / "runs" / "sweep" / "report.html").read_text()
    assert 'src="http' not in report, "it is one file"
    assert "model.level" in report
    again = finished(plan_sweep(config(0.5, 0.9, 0.7)))
    assert again is not None
    assert again.already
    shutil.rmtree(folder / "runs" / DATASETS)
    assert load_run(folder / "runs/sweep/trials/0001").index.classes, "a trial predicts without its dataset"


def test_a_sweep_in_a_store_that_stops_in_every_phase_loses_no_trial(
    folder: Path, config: Make, proxy: Proxy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops when the sweep is committed, until that was noticed, and for 1.5 s when a trial starts, when it saves, and when
    the results are written."""
    noticed: dict[str, float] = {}
    monkeypatch.setattr(retry, "_failed", noticed)
    left = ["sweep.yaml", "journal/", "manifest.json", "best.yaml"]

    def stop(line: str) -> None:
        if found := next((phase for phase in left if phase in line), None):
            left.remove(found)
            proxy.stop()
            threading.Thread(target=back, args=(found,)).start()

    def back(phase: str) -> None:
        if phase == "sweep.yaml":
            wait_for(lambda: bool(noticed), "the outage to be noticed")
        else:
            time.sleep(1.5)
        proxy.start()

    proxy.on_request = stop
    sweep = config(0.5, 0.9, train={"steps": 20, "storage": proxy.uri("sweeps")}, name="stops")
    result = run(sweep)
    assert (result.states, result.best) == ({"finished": 2}, 1)
    assert left == []
    assert "waiting for storage, for up to 900 s" in capsys.readouterr().err
    assert [trial.state for trial in Trials(read_journal(plan_sweep(sweep).folder)).all] == ["finished", "finished"]


def test_identical_trials_are_run_once(folder: Path, config: Make) -> None:
    result = run(config(0.5, 0.9, algorithm="random", trials=10))
    assert result.states == {"finished": 10}
    assert len(list((folder / "runs" / "sweep" / "trials").iterdir())) == 2
    table = rows(folder)
    assert sum(row["same_as"] is None for row in table) == 2
    for row in table:
        first = table[row["same_as"] or 0] if row["same_as"] is not None else row
        assert row["accuracy"] == first["accuracy"]
        assert row["param.model.level"] == first["param.model.level"]
        assert (row["seconds"] == 0) == (row["same_as"] is not None)


def test_a_bad_trial_is_stopped_and_its_slot_is_reused_at_once(folder: Path, config: Make) -> None:
    scheduler = {"kind": "asha", "grace": 0.1, "reduction": 2}
    result = run(config(0.9, 0.8, 0.1, 0.2, 0.3, 0.4, scheduler=scheduler, train={"log_every": 1}))
    assert result.states["stopped"] >= 3
    assert result.values == {"accuracy": pytest.approx(0.9)}
    for trial in trials_of(folder).all:
        last = json.loads((folder / "runs/sweep/trials" / trial.name / "metrics.jsonl").read_text().splitlines()[-1])
        if trial.state == "stopped":
            assert trial.step < 100
            assert last["step"] == trial.step, "no step after the decision to stop"
    found = read_result(Folder.at(folder / "runs/sweep/trials/0002"))
    assert found is not None
    assert found.state == "stopped"


def test_a_failing_trial_is_in_the_table_with_its_traceback_and_the_others_continue(folder: Path, config: Make) -> None:
    space = {"model.level": {"choice": [0.5, 0.9]}, "model.failing": {"choice": ["", "build"], "when": {"model.level": 0.9}}}
    result = run(config(space=space))
    assert result.states == {"finished": 2, "failed": 1}
    (failed,) = [row for row in rows(folder) if row["state"] == "failed"]
    assert "ArithmeticError: this model cannot be built" in failed["message"]
    assert "toy.py" in failed["message"], "where it failed"
    assert failed["failures"] == 1, "it was retried"


@pytest.mark.parametrize("failing", ["once", "kill"])
def test_a_trial_that_fails_once_resumes_from_its_checkpoint(folder: Path, config: Make, failing: str) -> None:
    # Written at once: else the kill five steps later may come before the checkpoint counts.
    result = run(config(0.9, train={"model": {"failing": failing}, "keep": {"last": 20}, "checkpoint_async": False}))
    assert result.states == {"finished": 1}
    assert result.values == {"accuracy": pytest.approx(0.9)}, "every step once"
    (trial,) = trials_of(folder).all
    assert trial.failures == 1
    assert ("first time only" if failing == "once" else "died") in trial.message
    events = [json.loads(line) for line in (folder / "runs/sweep/trials/0000/events.jsonl").read_text().splitlines()]
    starts = [event["step"] for event in events if event["event"] == "start"]
    assert starts == [0, 20]


def test_a_sweep_in_which_all_trials_fail_reports_the_most_frequent_cause(folder: Path, config: Make) -> None:
    with pytest.raises(JobFailed, match=r"no trial succeeded; 2 of 2 failed with:[\s\S]*this step cannot be computed"):
        run(config(0.5, 0.9, retries=0, train={"model": {"failing": "late"}}))
    assert [row["state"] for row in rows(folder)] == ["failed", "failed"]


def test_a_task_that_no_point_can_train_is_refused_before_the_first_trial(folder: Path, config: Make) -> None:
    with pytest.raises(UserError, match=r"model of task toy:Toy fails:[\s\S]*toy.py[\s\S]*this model cannot be built"):
        plan_sweep(config(0.5, 0.9, train={"model": {"failing": "build"}}), [{"CPU": 2.0, "GPU": 0.0}]).check()
    assert not (folder / "runs/sweep").exists()


def test_an_invalid_combination_fails_without_the_others(folder: Path, config: Make) -> None:
    space = {"global_batch": {"choice": [32, 64]}, "micro_batch": {"choice": [32, 64]}}
    result = run(config(space=space))
    assert result.states == {"finished": 3, "failed": 1}
    (failed,) = [row for row in rows(folder) if row["state"] == "failed"]
    assert "32 samples a step, which micro_batch 64 does not divide" in failed["message"]


def test_trials_that_need_the_whole_machine_take_turns(folder: Path, config: Make) -> None:
    """Two workers each on two CPUs with concurrency 4: no deadlock."""
    plan = plan_sweep(config(0.5, 0.9, 0.7, concurrency=4, train={"workers": 2}), [{"CPU": 2.0, "GPU": 0.0, "price": 7200.0}])
    assert plan.slots == 1
    result = drive(plan)
    assert result.states == {"finished": 3}
    assert result.best == 1
    table = rows(folder)
    runs = [read_result(Folder.at(folder / f"runs/sweep/trials/000{trial}")) for trial in range(3)]
    assert [row["cost"] for row in table] == pytest.approx([run and run.cost for run in runs])
    # Each of two workers costs one a second, but not from before there were workers.
    assert all(0 < row["cost"] < 2 * row["seconds"] for row in table)


def test_trials_with_two_workers_are_stopped_early_and_leave_nothing(folder: Path, config: Make) -> None:
    scheduler = {"kind": "asha", "grace": 0.1, "reduction": 2}
    result = run(config(0.9, 0.1, scheduler=scheduler, train={"workers": 2, "log_every": 1, "model": {"seconds": 0.1}}))
    assert result.states == {"finished": 1, "stopped": 1}
    assert 0 < trials_of(folder).all[1].step < 100
    trial = Folder.at(folder / "runs/sweep/trials/0000")
    assert read_index(trial, read_record(trial)).classes
    assert trial.exists("index.json")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_diverged_trial_is_not_a_failed_one_and_is_not_tried_again(folder: Path, config: Make, workers: int) -> None:
    bad = {"optimizer": {"lr": 1e30, "warmup_steps": 0, "clip_norm": None}}
    space = {"model.level": {"choice": [0.5]}}
    with pytest.raises(JobFailed, match=r"no trial succeeded; 1 of 1 failed with:[\s\S]*NaN or infinite at step"):
        run(config(space=space, train={"workers": workers, **bad}))
    (row,) = rows(folder)
    assert (row["state"], row["failures"]) == ("diverged", 0)
    assert row["message"].startswith("the loss became NaN or infinite at step")
    assert "optimizer.lr" not in row["message"], "advice for a run is none for a trial"
    found = read_result(Folder.at(folder / "runs/sweep/trials/0000"))
    assert found is not None
    assert (found.state, found.step) == ("diverged", row["step"])


def test_resources_are_released_when_no_trial_is_left_for_them(folder: Path, config: Make) -> None:
    def watch(trials: Trials) -> None:
        states = trials.states()
        alone = states.get("finished") == 2 and states.get("running") == 1
        if alone and ray.available_resources().get("CPU", 0.0) >= ray.cluster_resources()["CPU"] - 1:
            (folder / "go").touch()  # the last trial holds one CPU, and the others are free: it need not be held any longer

    run(config(0.5, 0.6, 0.9, train={"model": {"held": 0.9}}), watch)
    assert (folder / "go").exists(), "while the last trial ran"


def test_population_based_training_copies_weights_and_beats_its_members_alone(folder: Path, config: Make) -> None:
    """Learning rates from useless to good: alone, only the good ones learn; together, all do."""
    train = {
        "task": "image-classification", "dataset": {"source": "digits"}, "model": {"width": 8, "stages": 1},
        "steps": 60, "evaluate_every": 15, "global_batch": 64,
    }  # fmt: skip
    space = {"optimizer.lr": {"loguniform": [1e-6, 3e-2]}}
    common = {"space": space, "train": train, "algorithm": "random", "trials": 6, "seed": 3, "keep": "all"}
    alone = run(config(name="alone", **common))
    together = run(config(name="together", **common, scheduler={"kind": "pbt", "quantile": 0.34}))
    assert together.states == {"finished": 6}
    values = {name: sorted(t.values["accuracy"] for t in trials_of(folder, name).all) for name in ("alone", "together")}
    assert values["together"][0] > 2 * values["alone"][0], "the worst members have copied weights that learn"
    trials = trials_of(folder, "together")
    assert trials.generations == 3
    exchange = trials.exchanges[0]
    assert exchange["step"] == 15
    events = (folder / "runs/together/trials" / f"{exchange['trial']:04d}" / "events.jsonl").read_text().splitlines()
    starts = [json.loads(line)["step"] for line in events if json.loads(line)["event"] == "start"]
    assert starts == [0, 15, 30, 45]
    assert together.best is not None
    assert alone.best is not None


def test_several_objectives_give_a_front(folder: Path, config: Make) -> None:
    space = {"model.level": {"choice": [0.2, 0.9]}, "model.seconds": {"choice": [0.0, 0.01]}}
    result = run(config(space=space, metric={"accuracy": "max", "seconds": "min"}, algorithm="nsga2", trials=8))
    table = rows(folder)
    fast = min((row for row in table if row["same_as"] is None), key=lambda row: row["seconds"])
    assert result.front
    assert fast["trial"] in result.front or any(table[n]["accuracy"] > fast["accuracy"] for n in result.front)
    assert max(row["accuracy"] for row in table) in [table[n]["accuracy"] for n in result.front]
    assert "Pareto front" in (folder / "runs/sweep/report.html").read_text()


def test_a_time_limit_pauses_running_trials_and_a_longer_one_resumes_them(folder: Path, config: Make) -> None:
    slow = {"log_every": 1, "model": {"seconds": 0.05}}
    first = run(config(0.5, 0.6, 0.7, 0.9, train=slow, seconds=3.0))
    assert first.ended == "time"
    assert not finished(plan_sweep(config(0.5, 0.6, 0.7, 0.9, train=slow, seconds=600.0)))
    second = run(config(0.5, 0.6, 0.7, 0.9, train=slow, seconds=600.0))
    assert (second.states, second.ended) == ({"finished": 4}, "done")
    assert [trial.values["accuracy"] for trial in trials_of(folder).all] == pytest.approx([0.5, 0.6, 0.7, 0.9])
    assert len(trials_of(folder).sessions) == 2


def test_a_budget_ends_a_sweep_and_the_table_has_the_cost_of_each_trial(folder: Path, config: Make) -> None:
    nodes = [{"CPU": 2.0, "GPU": 0.0, "nodes": 1, "price": 7200.0}]  # one CPU costs 1 a second
    plan = plan_sweep(config(0.5, 0.6, 0.7, 0.9, train={"log_every": 1, "model": {"seconds": 0.05}}, budget=6.0), nodes)
    result = drive(plan)
    assert result.ended == "budget"
    assert result.cost is not None
    assert result.cost >= 6.0
    for row in rows(folder):
        assert row["cost"] is None or row["cost"] == pytest.approx(row["seconds"], abs=0.01)
    with pytest.raises(UserError, match="budget is 6, but the nodes here have no prices"):
        plan_sweep(config(0.5, budget=6.0), [{"CPU": 2.0}])


def test_the_same_name_with_another_space_is_refused_and_shown(folder: Path, config: Make) -> None:
    run(config(0.5))
    with pytest.raises(UserError, match=r"exists in .* with another config:\n    space.model.level.choice: \[0.5\] there"):
        run(config(0.6))


def test_a_killed_worker_process_ends_one_attempt_only(folder: Path, config: Make) -> None:
    """Repeated kill -9 of the actors from outside."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(2.0) and len(killed) < 3:
            for process in processes_of(os.environ, "ray::Worker"):
                with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                    process.kill()
                    killed.append(process.pid)
                    break

        (folder / "go").touch()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        slow = {"log_every": 1, "model": {"seconds": 0.03, "held": 0.9}}
        result = run(config(0.5, 0.6, 0.7, 0.9, retries=5, train=slow))
    finally:
        over.set()
        thread.join()
    assert result.states == {"finished": 4}
    assert [trial.values["accuracy"] for trial in trials_of(folder).all] == pytest.approx([0.5, 0.6, 0.7, 0.9])
    assert sum(trial.failures for trial in trials_of(folder).all) <= len(killed)
    assert len(killed) == 3
