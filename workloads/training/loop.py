"""The training loop that every worker runs, on torch.distributed and the run folder."""

import json
import math
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch

from heliostat.config import Config
from heliostat.datasets import Dataset
from heliostat.datasets.loader import Batch
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.plan import order_of, steps_of
from heliostat.workloads.run.journal import finite
from heliostat.workloads.run.record import EVALUATION, Measured, RunRecord
from heliostat.workloads.run.signals import Signals
from heliostat.workloads.run.writer import RunWriter
from heliostat.workloads.task import Task, create
from heliostat.workloads.training.assessment import assess
from heliostat.workloads.training.checkpointer import Checkpointer, NotFinite
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import measure
from heliostat.workloads.training.groups import check_columns
from heliostat.workloads.training.metrics import Meter
from heliostat.workloads.training.preflight import try_metrics
from heliostat.workloads.training.rounds import open_step

SYNC_SECONDS = 1.0
"""Seconds between two syncs of the workers, or one step if that is longer: how soon a signal is seen."""
LONG_EVALUATION = 1.0
"""Seconds of an evaluation above which the next one is announced."""
HINT = ", with a finite loss (look for a root, a norm, a logarithm or a division at 0 in the model)"
"""What makes such a gradient."""
STATES = (None, "grow", "drain", "stopped", "lost")
"""The signals, in ascending precedence."""


class Outcome(Config):
    """The result of the loop, the same on all workers."""

    state: str
    step: int
    epoch: int
    best_step: int | None = None
    metrics: Measured = {}
    intervals: dict[str, list[float]] = {}
    baseline: dict[str, float | None] = {}
    message: str = ""


@dataclass
class Progress:
    """The state that a resumed run needs besides the model and the optimizer."""

    step: int = 0
    consumed: int = 0
    best: float | None = None
    waited: int = 0
    """Evaluations since the best one."""
    logged: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """The totals of the `Meter` since the last record of the loss."""
    records: tuple[int, ...] = (0, 0)
    """The lengths of the journals, as rank 0 counts them."""


UNKNOWN_PLACE: Mapping[str, Any] = {"node": "", "price": None}
"""The place of a worker whose node and price are not known."""


class Loop:
    """One worker's part of a run.

    Args:
        folder: the run folder.
        record: the run's.
        ranks: this worker among the others.
        launched: when the command started, in seconds since the epoch.
        place: this worker's ``node`` and its ``price`` an hour.
        lease: the ID of the driver's lease, if it has one.
        report: called on all workers with the metrics of each evaluation.
        dataset: the record's, if it is already open.
    """

    def __init__(
        self,
        folder: Folder,
        record: RunRecord,
        ranks: Ranks,
        launched: float,
        report: Callable[[dict[str, float]], None] = lambda metrics: None,
        *,
        place: Mapping[str, Any] = UNKNOWN_PLACE,
        lease: str | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        self.config = config = record.config
        self.folder = folder = folder.for_work(config.storage_timeout)
        self.record, self.ranks, self.report = record, ranks, report
        self.dataset = dataset or Dataset.open(record.dataset.uri, config.storage_timeout)
        self.order = order_of(config, self.dataset, record.order, record.lanes)
        self.total_steps = steps_of(config, self.order)
        self.task: Task = create(config.task, config.model, self.dataset.index, metric=config.metric)
        check_columns(self.dataset.index, config.report.by)
        torch.manual_seed(config.seed)
        self.model = self.task.model()
        self.step = open_step(config, self.dataset, self.task, self.model, ranks, self.order, self.total_steps)
        self.step.check_single_samples(self.order)
        self.writer = RunWriter(folder, config.storage_timeout, first=ranks.rank == 0)
        writer, optimizer = self.writer, self.step.optimizer
        self.checkpointer = Checkpointer(folder, config, self.task, ranks, self.model, optimizer, writer.event, writer.persist)
        self.progress = Progress(**self.checkpointer.restore())
        if config.start_from and self.checkpointer.newest() is None:
            raise UserError(f"run {folder} has no weights of start_from", "start it with heliostat train, which loads them")
        self.step.buffers.pool()  # those of a checkpoint of version 0.1 differ between the shards
        self.meter = Meter(ranks, self.progress.logged)
        self.signals: Signals | None = None
        self._evaluation_seconds = math.inf
        """The time of the last evaluation; that of the first is not known."""
        self._start(launched, place, lease)

    def run(self) -> Outcome:
        """Trains to the last step, or until a signal or a failure stops the run."""
        try:
            return self._run()
        except NotFinite as error:
            return self._diverged(error)
        finally:
            self.checkpointer.close()
            if self.signals:
                self.signals.close()
            self.writer.close(lost=self.signals is not None and self.signals.state == "lost")

    def _run(self) -> Outcome:
        epoch = self.order.locate(self.progress.consumed)[0]
        state = self._sync(epoch) or self._finished()
        if self.progress.step == 0:
            self._try_metrics()
        upcoming = self.step.batches(self.order, self.progress.consumed)
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
        norm = self.step(batch, step, partial(self.meter.add, step=step + 1))
        self.meter.step(norm, step + 1)
        self.progress.step, self.progress.consumed = step + 1, batch.consumed

    # --- between steps ----------------------------------------------------------------------------------------

    def _after_step(self, batch: Batch) -> str | None:
        """Does what is due after a step; returns the state in which the run ends, or None to continue."""
        step, config = self.progress.step, self.config
        self.checkpointer.check()
        if step == self._first_step:
            self._event("first_step")
            self.writer.account(self.ranks.world)
        last = step >= self.total_steps
        evaluate, save = step % config.evaluate_every == 0 or last, step % config.checkpoint_every == 0 or last
        state = None
        if step >= self._next_sync or evaluate or save:
            state = self._sync(batch.epoch)
        if state == "lost":
            return state
        metrics = self._evaluate(batch.epoch) if evaluate else {}
        improved = bool(metrics) and self.progress.waited == 0
        state = state or self._finished()
        if state or save or improved or self._save_due:
            self.save(metrics, wait=state is not None)
        return state

    def _finished(self) -> str | None:
        """``finished`` after the last step, or when early stopping ends the run."""
        stopping = self.config.early_stopping
        waited_enough = stopping is not None and self.progress.waited >= stopping.patience
        return "finished" if waited_enough or self.progress.step >= self.total_steps else None

    def _sync(self, epoch: int) -> str | None:
        """Syncs with the other workers and logs the loss; returns the state in which the run must end, or None.

        Raises:
            NotFinite: the loss or the gradient was NaN or infinite in a step since the last sync.
        """
        step, every = self.progress.step, self.config.log_every
        request = STATES.index(self.signals.state) if self.signals else 0
        # The clock of rank 0 decides, so that all save at the same step.
        synced = self.meter.sync(request, self.ranks.rank == 0 and self.checkpointer.due)
        self._save_due = synced.save
        until_sync = int(SYNC_SECONDS / synced.step_seconds) if synced.step_seconds else 1
        self._next_sync = step + max(1, min(every - step % every, until_sync))
        loss, gradient = synced.bad_loss, synced.bad_gradient
        if loss is not None and (gradient is None or loss <= gradient):
            raise NotFinite("the loss", loss)
        if gradient is not None:
            raise NotFinite("the gradient", gradient)
        waited = self.meter.logged[3]
        if step % every == 0 and (logged := self.meter.log()):
            self.writer.spent("data", waited)
            self.writer.metrics("train", step, epoch=epoch, **logged, lr=self.step.rate(step - 1))
        return STATES[synced.request]

    def _evaluate(self, epoch: int) -> dict[str, float]:
        started = time.perf_counter()
        if self._evaluation_seconds > LONG_EVALUATION:
            self._event("evaluating")
        self.step.buffers.pool()
        metrics = self._measure("validation")
        self._evaluation_seconds = seconds = time.perf_counter() - started
        self.writer.spent("evaluating", seconds)
        self.writer.metrics("eval", self.progress.step, epoch=epoch, metrics=finite(metrics), seconds=round(seconds, 4))
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

    def _try_metrics(self) -> None:
        # Eager, because the model would be compiled for the size of this batch.
        with torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext():
            try_metrics(self.task, self.step.apply, self.dataset, self.ranks)
        self.meter.restart()

    def _measure(self, split: str) -> dict[str, float]:
        most = self.config.evaluate_samples if split == "validation" else None
        return measure(self.task, self.step.apply, self.dataset, split, self.ranks, self._batch_without_gradients, most)

    @property
    def _batch_without_gradients(self) -> int:
        return 4 * self.step.micro_batch

    # --- start, save, end ----------------------------------------------------------------------------

    def save(self, metrics: dict[str, float], wait: bool) -> None:
        """Saves a checkpoint of this step; with ``wait``, returns when it is committed."""
        self._save_due = False
        self.progress.logged = self.meter.logged
        self.progress.records = self.writer.lengths
        self.step.buffers.pool()
        self.checkpointer.save(self.progress.step, vars(self.progress).copy(), metrics, wait)
        self.meter.restart()

    def _start(self, launched: float, place: Mapping[str, Any], lease: str | None) -> None:
        self._first_step = self.progress.step + 1
        self._next_sync = self._first_step
        self._save_due = False
        self.meter.restart()
        device = torch.cuda.get_device_name() if self.ranks.device.type == "cuda" else "cpu"
        born = round(psutil.Process().create_time(), 3)
        worker = {"rank": self.ranks.rank, "host": socket.gethostname(), "device": device, "born": born, **place}
        workers = self.ranks.all_gather_object(worker)
        first = self.ranks.rank == 0
        self.signals = Signals(self.folder, {worker["node"] for worker in workers}, lease) if first else None
        self.writer.rewind(self.progress.step, self.progress.records)
        self._event("start", launched=launched, workers=workers, total=self.total_steps)

    def _event(self, event: str, **details: Any) -> None:
        self.writer.event(event, self.progress.step, **details)

    def _end(self, state: str, epoch: int) -> Outcome:
        step = self.progress.step
        if state != "finished":
            if state != "lost":
                announced = self.signals.drain_announced if self.signals else None
                self._event(state, **({"seconds": round(time.time() - announced, 3)} if announced else {}))
                self.writer.flush()
            return Outcome(state=state, step=step, epoch=epoch)
        best = self.checkpointer.load_best()
        self.step.buffers.pool()
        self._event("trained")
        # A run that was resumed after its last step may have no evaluated checkpoint.
        validation = best.metrics if best else self._measure("validation")
        test = self._measure("test")
        metrics = {"validation": finite(validation), "test": finite(test)}
        size, by = self._batch_without_gradients, self.config.report.by
        detail = assess(self.task, self.step.apply, self.dataset, "test", self.ranks, size, test, by)
        self.model.eval()
        sample = self.step.apply(
            lambda model, _: self.task.sample(model), None
        )  # on all workers: a sharded model is computed together
        if self.ranks.rank == 0:
            importance = self.task.importance(self.model)
            written = {"split": "test", "metrics": metrics["test"], **detail, "sample": sample, "importance": importance}
            self.folder.write(EVALUATION, json.dumps(written).encode())
            self._event("evaluated")
            self.writer.flush()
        return Outcome(
            state=state, step=step, epoch=epoch, best_step=best.step if best else None, metrics=metrics,
            **self.ranks.broadcast({key: detail.get(key, {}) for key in ("intervals", "baseline")}),
        )  # fmt: skip

    def _diverged(self, error: NotFinite) -> Outcome:
        self._event("diverged", at=error.step, what=error.what)
        saved = self.checkpointer.newest()
        last = f"the last good checkpoint is step {saved}" if saved is not None else "there is no checkpoint yet"
        hint = HINT if error.what == "the gradient" else ""
        message = f"{error.what} became NaN or infinite at step {error.step}{hint}; {last}"
        epoch = self.order.locate(max(self.progress.consumed - 1, 0))[0]
        return Outcome(state="diverged", step=error.step, epoch=epoch, message=message)
