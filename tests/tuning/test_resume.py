"""A sweep that was killed after any record of its journal: the journal is cut there, and the sweep is resumed from the rest."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from heliostat.cli import main
from heliostat.folder import Folder
from heliostat.tuning.controller import Controller
from heliostat.tuning.executors import Decide, Placement, TrainExecutor
from heliostat.tuning.journal import open_journal, read_journal
from heliostat.tuning.plan import RecordMaker, SweepPlan, plan_sweep
from heliostat.tuning.trials import Decision, Trials, best
from heliostat.tuning.worker import Event
from heliostat.workloads.plan import Plan
from heliostat.workloads.ray_train import driver
from heliostat.workloads.run.record import RESULT, RunRecord
from tests.tuning.conftest import Make, rows

STEPS = (25, 50, 75, 100)


class Function:
    """A slot whose trials are calls of a function: the accuracy is ``model.level`` times the progress."""

    def __init__(self, started: list[int], opened: list["Function"]) -> None:
        self._started = started
        opened.append(self)

    async def ready(self) -> Placement:
        return {"node": "here", "group": ""}

    def close(self) -> None:
        pass

    async def run(self, plan: Plan, record: RunRecord, decide: Decide) -> Event:
        self._started.append(int(plan.config.name))
        level, value = plan.config.model["level"], 0.0
        if level < 0:
            return {"event": "fail", "message": "level is negative", "final": False}
        for step in STEPS:
            await asyncio.sleep(0)
            value = level * step / STEPS[-1]
            report = {"event": "report", "step": step, "progress": step / STEPS[-1], "metrics": {"accuracy": value}}
            if step < STEPS[-1] and decide(report) == Decision.STOP:
                return {"event": "end", "state": "stopped", "step": step, "metrics": {}, "message": ""}
        metrics = {"validation": {"accuracy": value}}
        return {"event": "end", "state": "finished", "step": STEPS[-1], "metrics": metrics, "message": ""}


def resume(plan: SweepPlan, maker: RecordMaker) -> tuple[Trials, list[int], int]:
    """Run what is left of a sweep; returns all trials, those that were started, and the number of slots."""
    started: list[int] = []
    opened: list[Function] = []
    journal = open_journal(plan.folder)

    async def work() -> Trials:
        controller = Controller(plan, maker, journal, lambda trials: None, lambda plan: Function(started, opened))
        await asyncio.wait_for(controller.run(lambda: 0), 300)
        return controller.trials

    try:
        return asyncio.run(work()), started, len(opened)
    finally:
        journal.close(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "random", "trials": 7},  # with duplicates
        {"algorithm": "random", "trials": 6, "concurrency": 1},
        {"algorithm": "tpe", "trials": 6, "scheduler": "asha"},
        {"scheduler": "median"},  # a grid, whose length only its algorithm knows
    ],
)
def test_a_sweep_that_was_cut_after_any_record_ends_as_if_it_had_not_been(
    folder: Path, config: Make, changes: dict[str, Any]
) -> None:
    plan = plan_sweep(config(0.5, 0.9, -1.0, concurrency=changes.pop("concurrency", 2), **changes), [{"CPU": 8.0, "GPU": 0.0}])
    maker = plan.commit()
    whole, _, _ = resume(plan, maker)
    lines = (plan.folder / "journal").read("000000.jsonl").splitlines(keepends=True)
    assert any(trial.duplicate_of is not None for trial in whole.all) or plan.config.algorithm == "grid"
    top = best(whole.all, plan.metric, plan.mode)
    assert top
    for cut in range(len(lines) + 1):
        torn = lines[cut][: len(lines[cut]) // 2] if cut < len(lines) and cut % 2 else b""
        (plan.folder / "journal").write("000000.jsonl", b"".join(lines[:cut]) + torn)
        before = Trials(read_journal(plan.folder))
        trials, started, slots = resume(plan, maker)
        where = f"after {cut} of {len(lines)} records"
        assert all(trial.done for trial in trials.all), where
        assert len(trials.all) == len(whole.all), where
        assert not {trial.number for trial in before.all if trial.done} & set(started), f"a finished trial ran again {where}"
        ends = Counter(record["trial"] for record in read_journal(plan.folder) if record["event"] == "end")
        assert ends == dict.fromkeys(range(len(whole.all)), 1), where
        left = sum(not t.done and t.duplicate_of is None for t in before.all) + len(whole.all) - len(before.all)
        assert slots <= min(left, plan.slots), f"{slots} slots for {left} trials {where}"
        if plan.config.algorithm != "tpe":  # which draws other numbers after a kill
            assert [trial.params for trial in trials.all] == [trial.params for trial in whole.all], where
            found = best(trials.all, plan.metric, plan.mode)
            assert found, where
            assert (found.number, found.values) == (top.number, top.values), where


def test_slots_are_opened_again_when_a_duplicate_has_ended_and_more_trials_can_run(folder: Path, config: Make) -> None:
    """While as many duplicates wait as there are slots, nothing more is asked for: one trial needs one slot."""
    plan = plan_sweep(config(0.5, 0.9, algorithm="random", trials=9, seed=1, concurrency=2), [{"CPU": 8.0, "GPU": 0.0}])
    trials, started, slots = resume(plan, plan.commit())
    assert len(started) == 2
    assert slots == 2
    assert trials.states() == {"finished": 9}


def test_a_killed_sweep_has_a_table_a_report_and_the_best_config_so_far_from_its_journal(
    folder: Path, config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_sweep(config(0.5, 0.9), [{"CPU": 1.0, "GPU": 0.0}])
    resume(plan, plan.commit())
    lines = (plan.folder / "journal").read("000000.jsonl").splitlines(keepends=True)
    second = [n for n, line in enumerate(lines) if b'"event": "report"' in line][1]
    (plan.folder / "journal").write("000000.jsonl", b"".join(lines[: second + 1]))
    assert main(["report", "sweep"]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "runs/sweep/report.html")
    assert "# Trial 0 of sweep sweep, which was not over yet: accuracy 0.25" in (folder / "runs/sweep/best.yaml").read_text()
    assert "interrupted" in (folder / "runs/sweep/report.html").read_text()
    assert [row["state"] for row in rows(folder)] == ["waiting"]
    assert main(["sweep", "show", "sweep"]) == 0
    shown = capsys.readouterr().out
    assert "0 running" in shown
    assert "left" not in shown


def test_a_resumed_sweep_deletes_no_checkpoints_again(folder: Path, config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(Folder, "delete", lambda self, name="": deleted.append(f"{self.name}/{name}"))
    plan = plan_sweep(config(0.5, 0.9, 0.7, trials=3, algorithm="grid"), [{"CPU": 8.0, "GPU": 0.0}])
    maker = plan.commit()
    resume(plan, maker)
    checkpoints = [name for name in deleted if name.endswith("/checkpoints")]
    assert sorted(checkpoints) == ["0000/checkpoints", "0002/checkpoints"]
    deleted.clear()
    resume(plan, maker)
    assert deleted == []


def test_the_result_of_a_trial_with_several_workers_has_its_time_from_the_first_write_on(
    folder: Path, config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver may be killed after any write, and takes the result that it finds as it is."""
    sweep = plan_sweep(config(0.5, train={"workers": 2}), [{"CPU": 8.0, "GPU": 0.0}])
    plan = sweep.trial(0, {"model.level": 0.5})
    record = sweep.commit().record(plan)
    written: list[Any] = []
    write = Folder.write

    def noted(self: Folder, name: str, data: bytes) -> None:
        if name == RESULT:
            written.append(json.loads(data))
        write(self, name, data)

    monkeypatch.setattr(Folder, "write", noted)
    outcome = {"state": "finished", "step": 100, "epoch": 1, "metrics": {"validation": {"accuracy": 0.5}}}
    monkeypatch.setattr(driver, "fit_on_ray", lambda *_, **more: outcome)

    async def work() -> list[Event]:
        slot = TrainExecutor()
        return [await slot.run(plan, record, lambda event: Decision.CONTINUE) for _ in "12"]

    first, again = asyncio.run(work())
    assert [result["metrics"]["trial"]["seconds"] > 0 for result in written] == [True]
    assert first["metrics"] == again["metrics"] == written[0]["metrics"]
