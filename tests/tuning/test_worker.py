"""The worker of a slot, without Ray."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from heliostat.tuning.worker import Worker
from heliostat.workloads.run.record import RunRecord


class Config:
    storage_timeout = 1.0


class Record:
    config = Config()


def test_a_task_that_exits_is_a_trial_that_failed_and_nothing_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exits(*_: Any) -> NoReturn:
        sys.exit(3)

    monkeypatch.setattr(RunRecord, "model_validate", lambda record: Record())
    monkeypatch.setattr(Worker, "_train", exits)
    monkeypatch.setattr("heliostat.tuning.worker.enter_working_dir", lambda place: None)
    worker = Worker(str(tmp_path))
    worker._frozen = True  # this process has more to collect than a worker
    for _ in range(2):  # it is alive for the next trial
        event = worker.start(str(tmp_path / "trial"), {}, 0.0)
        assert event["event"] == "fail"
        assert event["message"].endswith("SystemExit: 3")
