"""The training loop that every worker runs. It knows torch.distributed and the run folder, and nothing of Ray."""

import json
import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch

from heliostat.config import Config
from heliostat.datasets import Dataset
from heliostat.datasets.loader import Batch, batches
from heliostat.datasets.order import lane_range
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.plan import order_of, steps_of
from heliostat.workloads.run.journal import finite
from heliostat.workloads.run.record import EVALUATION, Measured, RunRecord
from heliostat.workloads.run.signals import Signals
from heliostat.workloads.run.writer import RunWriter
from heliostat.workloads.task import Task, create
from heliostat.workloads.training.checkpointer import Checkpointer
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import confusion, measure
from heliostat.workloads.training.metrics import Meter
from heliostat.workloads.training.step import Step

TALK_SECONDS = 1.0
"""At least so often workers talk, if steps are not longer: then a notice is heard, and nobody is far ahead."""
STATES = (None, "grow", "drain", "stopped", "lost")
"""What can be asked for from outside, the later going first."""


class Outcome(Config):
    """How the loop ended on all workers."""

    state: str
    step: int
    epoch: int
    best_step: int | None = None
    metrics: Measured = {}
    message: str = ""


@dataclass
class Progress:
    """What a resumed run must know besides the weights."""

    step: int = 0
    consumed: int = 0
    best: float | None = None
    waited: int = 0
    """Evaluations since the best one."""
    logged: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """What the `Meter` has counted since the last record of the loss."""
    records: tuple[int, ...] = (0, 0)
    """How many the journals had, as the first worker counts them."""


NOWHERE: Mapping[str, Any] = {"node": "", "price": None}
"""The place of a worker of which nobody has said more."""


class Loop:
    """One worker's side of a run.

    Args:
        folder: the run folder.
        record: what the run is.
        ranks: this worker among the others.
        launched: when the command that started it began, in seconds since the epoch.
        place: where this worker is: a name for its ``node``, and its ``price`` an hour.
        lease: the id of the driver's lease; without one nobody is looked for.
        report: called on all workers with the metrics of each evaluation.
        dataset: the record's, if it is open already.
    """

    def __init__(
        self,
        folder: Folder,
        record: RunRecord,
        ranks: Ranks,
        launched: float,
        report: Callable[[dict[str, float]], None] = lambda metrics: None,
        *,
        place: Mapping[str, Any] = NOWHERE,
        lease: str | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        self.folder, self.record, self.ranks, self.report = folder, record, ranks, report
        self.config = config = record.config
        self.dataset = dataset or Dataset.open(record.dataset.uri)
        self.order = order_of(config, self.dataset, record.lanes)
        self.total_steps = steps_of(config, self.order)
        self.task: Task = create(config.task, config.model, self.dataset.index)
        torch.manual_seed(config.seed)
        self.model = self.task.model()
        self.step = Step(config, self.dataset, self.task, self.model, ranks, record.lanes, self.total_steps)
        self.records = RunWriter(folder, config.storage_timeout, first=ranks.rank == 0)
        records, optimizer = self.records, self.step.optimizer
        self.saver = Checkpointer(folder, config, self.task, ranks, self.model, optimizer, records.event, records.persist)
        self.progress = Progress(**self.saver.restore())
        self.meter = Meter(ranks, self.progress.logged)
        self.notices: Signals | None = None
        self._begin(launched, place, lease)

    def run(self) -> Outcome:
        """Train to the end, or to the point where it must stop."""
        try:
            return self._run()
        finally:
            self.saver.close()
            if self.notices:
                self.notices.close()
            self.records.close(lost=self.notices is not None and self.notices.state == "lost")

    def _run(self) -> Outcome:
        lanes = lane_range(self.order.lanes, self.ranks.world, self.ranks.rank)
        epoch = self.order.locate(self.progress.consumed)[0]
        state = self._agree(epoch) or self._over()
        upcoming = batches(self.dataset, self.order, self.progress.consumed, lanes)
        while state is None:
            since = time.perf_counter()
            batch = next(upcoming)
            self.meter.waited(time.perf_counter() - since)
            epoch = batch.epoch
            self._step(batch)
            state = self._after_step(batch)
        return self._end(state, epoch)

    def _step(self, batch: Batch) -> None:
        step = self.progress.step
        self.step(batch, step, partial(self.meter.add, step=step + 1))
        self.meter.step()
        self.progress.step, self.progress.consumed = step + 1, batch.consumed

    # --- between steps ----------------------------------------------------------------------------------------

    def _after_step(self, batch: Batch) -> str | None:
        """Whatever is due after this step; the state in which the run ends, or None to go on."""
        step, config = self.progress.step, self.config
        self.saver.check()
        if step == self._first_step:
            self._event("first_step")
            self.records.account(self.ranks.world)
        last = step >= self.total_steps
        evaluate, save = step % config.evaluate_every == 0 or last, step % config.checkpoint_every == 0 or last
        state = None
        if step >= self._next_sync or evaluate or save:
            state = self._agree(batch.epoch)
        if state in ("diverged", "lost"):
            return state
        metrics = self._evaluate(batch.epoch) if evaluate else {}
        improved = bool(metrics) and self.progress.waited == 0
        state = state or self._over()
        if state or save or improved or self._save_due:
            self.save(metrics, wait=state is not None)
        return state

    def _over(self) -> str | None:
        """``finished`` if all steps are done or waiting for a better metric has been in vain."""
        stopping = self.config.early_stopping
        waited_enough = stopping is not None and self.progress.waited >= stopping.patience
        return "finished" if waited_enough or self.progress.step >= self.total_steps else None

    def _agree(self, epoch: int) -> str | None:
        """Talk with the other workers, log the loss, and find out whether the run must end."""
        step, every = self.progress.step, self.config.log_every
        notice = STATES.index(self.notices.state) if self.notices else 0
        # The first worker's clock decides, so that all save at the same step.
        agreed = self.meter.agree(notice, self.ranks.rank == 0 and self.saver.due)
        self._save_due = agreed.save
        until_talk = int(TALK_SECONDS / agreed.step_seconds) if agreed.step_seconds else 1
        self._next_sync = step + max(1, min(every - step % every, until_talk))
        if agreed.bad_step is not None:
            self._bad_step = agreed.bad_step
            return "diverged"
        waited = self.meter.logged[3]
        if step % every == 0 and (logged := self.meter.log()):
            self.records.spent("data", waited)
            self.records.metrics("train", step, epoch=epoch, **logged, lr=self.step.rate(step - 1))
        return STATES[agreed.notice]

    def _evaluate(self, epoch: int) -> dict[str, float]:
        began = time.perf_counter()
        metrics = self._measure("validation")
        seconds = time.perf_counter() - began
        self.records.spent("evaluating", seconds)
        self.records.metrics("eval", self.progress.step, epoch=epoch, metrics=finite(metrics), seconds=round(seconds, 4))
        if self.task.metric not in metrics:
            raise UserError(
                f"task {self.config.task} says that its metric is {self.task.metric!r}, but it measures {', '.join(metrics)}",
                "set the task's metric to one of them",
            )
        value = metrics[self.task.metric]
        stopping = self.config.early_stopping
        margin = stopping.min_delta if stopping else 0.0
        best = self.progress.best
        sign = 1 if self.task.better == "higher" else -1
        if math.isfinite(value) and (best is None or sign * (value - best) > margin):
            self.progress.best, self.progress.waited = value, 0
        else:
            self.progress.waited += 1
        self.report(metrics)
        self.meter.restart()
        return metrics

    def _measure(self, split: str) -> dict[str, float]:
        most = self.config.evaluate_samples if split == "validation" else None
        return measure(self.task, self.model, self.dataset, split, self.ranks, self._batch_without_gradients, most)

    @property
    def _batch_without_gradients(self) -> int:
        return 4 * self.step.micro_batch

    # --- beginning, saving, ending ----------------------------------------------------------------------------

    def save(self, metrics: dict[str, float], wait: bool) -> None:
        """Save a checkpoint of this step; with ``wait``, return when it is committed."""
        self._save_due = False
        self.progress.logged = self.meter.logged
        self.progress.records = self.records.lengths
        self.saver.save(self.progress.step, vars(self.progress).copy(), metrics, wait)
        self.meter.restart()

    def _begin(self, launched: float, place: Mapping[str, Any], lease: str | None) -> None:
        self._first_step = self.progress.step + 1
        self._next_sync = self._first_step
        self._bad_step = 0
        self._save_due = False
        self.meter.restart()
        device = torch.cuda.get_device_name() if self.ranks.device.type == "cuda" else "cpu"
        born = round(psutil.Process().create_time(), 3)
        worker = {"rank": self.ranks.rank, "host": socket.gethostname(), "device": device, "born": born, **place}
        workers = self.ranks.all_gather_object(worker)
        first = self.ranks.rank == 0
        self.notices = Signals(self.folder, {worker["node"] for worker in workers}, lease) if first else None
        self.records.rewind(self.progress.step, self.progress.records)
        self._event("start", launched=launched, workers=workers)

    def _event(self, event: str, **details: Any) -> None:
        self.records.event(event, self.progress.step, **details)

    def _end(self, state: str, epoch: int) -> Outcome:
        step = self.progress.step
        if state == "diverged":
            bad = self._bad_step
            self._event("diverged", at=bad)
            saved = self.saver.newest()
            last = f"the last good checkpoint is step {saved}" if saved is not None else "there is no checkpoint yet"
            message = f"the loss became NaN or infinite at step {bad}; {last}"
            return Outcome(state=state, step=bad, epoch=epoch, message=message)
        if state != "finished":
            if state != "lost":
                told = self.notices.told if self.notices else None
                self._event(state, **({"seconds": round(time.time() - told, 3)} if told else {}))
                self.records.flush()
            return Outcome(state=state, step=step, epoch=epoch)
        best = self.saver.load_best()
        self._event("trained")
        # A resumed run that was all but finished may have no measured checkpoint.
        validation = best.metrics if best else self._measure("validation")
        metrics = {"validation": finite(validation), "test": finite(self._measure("test"))}
        detail = confusion(self.task, self.model, self.dataset, "test", self.ranks, self._batch_without_gradients) or {}
        self.model.eval()
        sample = self.task.sample(self.model)  # on all workers: a sharded model is computed together
        if self.ranks.rank == 0:
            written = {"split": "test", "metrics": metrics["test"], **detail, "sample": sample}
            self.folder.write(EVALUATION, json.dumps(written).encode())
            self._event("evaluated")
            self.records.flush()
        return Outcome(
            state=state, step=step, epoch=epoch, best_step=best.step if best else None, metrics=metrics,
        )  # fmt: skip
