"""Trains on the cluster of a Ray Client session."""

import time
from typing import Any

from heliostat.folder import Folder, absolute, expanded
from heliostat.retry import UNAVAILABLE
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.nodes import available
from heliostat.workloads.plan import prepare
from heliostat.workloads.ray_train.client import head_storage_base, run_on_head
from heliostat.workloads.ray_train.driver import execute
from heliostat.workloads.ray_train.records import NewRecords, Watch
from heliostat.workloads.run.journal import Tail
from heliostat.workloads.run.output import OutputTail
from heliostat.workloads.run.record import Result
from heliostat.workloads.training.start import begin


def train_on_head(config: TrainConfig, watch: Watch | None = None) -> Result:
    """Trains on the cluster of a Ray Client session; the run is driven from its head, and does not depend on this process.

    Args:
        config: of the run.
        watch: called with new records, once a second.

    Raises:
        UserError: the input is wrong.
        JobFailed: the training failed.
        Stopped: it was stopped; the same call resumes it.
    """
    return Result.model_validate(run_on_head(_drive, config, watch and (_Reader, watch)))


def _drive(config: dict[str, Any]) -> dict[str, Any]:
    launched = time.time()
    plan = prepare(TrainConfig.model_validate(config), available(), head_storage_base())
    with plan.claim() as (owner, record, finished):
        return (finished or execute(plan, begin(plan, record), launched, owner)).model_dump()


class _Reader:
    """Reads the new records of a run on the head, for a Ray Client session."""

    def __init__(self, config: dict[str, Any]) -> None:
        storage = absolute(expanded(config["storage"], key="storage"), head_storage_base())
        self._new = NewRecords(Folder.at(storage) / config["name"])

    def new(self) -> list[dict[str, Any]]:
        """The records since the last call; those that cannot be read now come later."""

        def read(tail: Tail | OutputTail) -> list[dict[str, Any]]:
            try:
                return tail.new()
            except UNAVAILABLE:
                return []

        return self._new.read(read)[0]
