"""The training loop that every worker runs, on torch.distributed and the run folder."""

import json
import math
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import psutil
import torch

from heliostat.datasets import Dataset
from heliostat.datasets.loader import Batch
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.workloads.callback import RunContext
from heliostat.workloads.run import checkpoint
from heliostat.workloads.run.journal import finite
from heliostat.workloads.run.length import order_of, steps_of
from heliostat.workloads.run.record import EVALUATION, SLOW, SLOW_OVER, RunRecord
from heliostat.workloads.run.signals import Signals
from heliostat.workloads.run.writer import RunWriter
from heliostat.workloads.task import Task, create, loads_weights
from heliostat.workloads.training.callbacks import Callbacks
from heliostat.workloads.training.checkpointer import Checkpointer, NotFinite
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluator import Evaluator
from heliostat.workloads.training.groups import check_columns
from heliostat.workloads.training.metrics import Meter
from heliostat.workloads.training.progress import Outcome, Progress
from heliostat.workloads.training.rounds import open_step
from heliostat.workloads.training.stragglers import Slow, slow_text

SYNC_SECONDS = 1.0
"""Seconds between two syncs of the workers, or one step if that is longer: how soon a signal is seen."""
LONG_EVALUATION = 1.0
"""Seconds of an evaluation above which the next one is announced."""
HINT = ", with a finite loss (look for a root, a norm, a logarithm or a division at 0 in the model)"
"""What makes such a gradient."""
STATES = (None, "grow", "drain", "stopped", "lost")
"""The signals, in ascending precedence."""
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
        check_columns(self.dataset.index, config)
        torch.manual_seed(config.seed)
        self.model = self.task.model()
        if loads_weights(type(self.task)) and ranks.broadcast(ranks.rank == 0 and not checkpoint.all_checkpoints(folder)):
            self.task.pretrained(self.model)
        self.step = open_step(config, self.dataset, self.task, self.model, ranks, self.order, self.total_steps)
        self.step.check_single_samples(self.order)
        self.writer = RunWriter(folder, config.storage_timeout, first=ranks.rank == 0)
        writer, update = self.writer, self.step.update
        self.evaluator = Evaluator(config, self.task, self.dataset, self.model, self.step, ranks)
        self.checkpointer = Checkpointer(folder, config, self.task, ranks, self.model, update, writer.event, writer.persist)
        self.progress = Progress(**self.checkpointer.restore())
        if config.start_from and self.checkpointer.newest() is None:
            raise UserError(f"run {folder} has no weights of start_from", "start it with heliostat train, which loads them")
        self.step.buffers.pool()  # those of a checkpoint of version 0.1 differ between the shards
        self.callbacks = self._create_callbacks()
        self.meter = Meter(ranks, self.progress.logged, self.step.own_seconds)
        self._slow: Slow | None = None
        """The worker that the others wait for now."""
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
            self.evaluator.try_metrics()
            self.meter.restart()
        self.callbacks.on_start()
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
        norm = self.step(batch, step, self.callbacks.counting(partial(self.meter.add, step=step + 1)))
        self.meter.step(norm, step + 1)
        self.progress.step, self.progress.consumed = step + 1, batch.consumed
        self.callbacks.on_step(step + 1, batch.epoch)

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
        if self._decides:
            self.progress.stop = self.callbacks.agree(self.progress.stop)
        state = state or self._finished()
        if state or save or improved or self._save_due:
            self.save(metrics, wait=state is not None)
        self._write_logged()
        return state

    def _finished(self) -> str | None:
        """``finished`` after the last step, or when early stopping or a callback ends the run."""
        stopping = self.config.early_stopping
        waited_enough = stopping is not None and self.progress.waited >= stopping.patience
        stopped = self.progress.stop is not None and self._decides
        return "finished" if waited_enough or stopped or self.progress.step >= self.total_steps else None

    @property
    def _decides(self) -> bool:
        """Whether a callback can end the run at this step: not at a time that depends on how fast the workers are."""
        config = self.config
        return any(
            self.progress.step % every == 0 for every in (config.log_every, config.evaluate_every, config.checkpoint_every)
        )

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
            self.writer.metrics("train", step, epoch=epoch, **logged, **self.step.rates(step - 1))
        for slow in synced.slow:
            self._note_slow(slow)
        return STATES[synced.request]

    def _note_slow(self, slow: Slow | None) -> None:
        """Records when the others begin to wait for a worker, and when they do not any more."""
        before, self._slow = self._slow, slow
        if (slow and slow.rank) == (before and before.rank):
            return
        if before:
            host = self._workers[before.rank]["host"]
            self._event(SLOW_OVER, rank=before.rank, told=f"worker {before.rank} on {host} is not slow any more")
        if slow:
            worker = self._workers[slow.rank]
            what = slow_text(slow, worker["host"])
            self._event(
                SLOW,
                rank=slow.rank,
                node=worker["host"],
                data=slow.data,
                seconds=round(slow.seconds, 4),
                others=round(slow.others, 4),
                told=what,
            )

    def _evaluate(self, epoch: int) -> dict[str, float]:
        started = time.perf_counter()
        if self._evaluation_seconds > LONG_EVALUATION:
            self._event("evaluating")
        metrics = self.evaluator.validate()
        self._evaluation_seconds = seconds = time.perf_counter() - started
        self.writer.spent("evaluating", seconds)
        self.writer.metrics("eval", self.progress.step, epoch=epoch, metrics=finite(metrics), seconds=round(seconds, 4))
        stopping = self.config.early_stopping
        self.progress.evaluated(metrics[self.task.metric], self.task.better, stopping.min_delta if stopping else 0.0)
        self.callbacks.on_evaluation(metrics)  # first: a sweep may pause or stop the trial in the report
        self.report(metrics)
        self.meter.restart()
        return metrics

    # --- start, save, end ----------------------------------------------------------------------------

    def save(self, metrics: dict[str, float], wait: bool) -> None:
        """Saves a checkpoint of this step; with ``wait``, returns when it is committed."""
        self._save_due = False
        self.callbacks.on_checkpoint()
        self._write_logged()
        # Also a request that takes effect later, which a resumed run would not hear of.
        self.progress.stop, self.progress.callbacks = self.callbacks.agree(self.progress.stop), self.callbacks.states()
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
        workers = self._workers = self.ranks.all_gather_object(worker)
        first = self.ranks.rank == 0
        self.signals = Signals(self.folder, {worker["node"] for worker in workers}, lease) if first else None
        self.writer.rewind(self.progress.step, self.progress.records)
        self._event("start", launched=launched, workers=workers, total=self.total_steps)

    def _create_callbacks(self) -> Callbacks:
        config, progress, ranks, update = self.config, self.progress, self.ranks, self.step.update
        if progress.stop and progress.stop["by"] not in config.callbacks:
            progress.stop = None  # it is another callback now
        context = RunContext(
            config.name, str(self.folder), config, self.model, update.optimizer if update else None, ranks.rank, ranks.world,
            self.total_steps, progress.step, self.order.locate(progress.consumed)[0],
        )  # fmt: skip
        return Callbacks(context, ranks, progress.callbacks)

    def _write_logged(self) -> None:
        if values := self.callbacks.logged():
            self.writer.metrics("logged", self.progress.step, epoch=self.callbacks.run.epoch, metrics=finite(values))

    def _event(self, event: str, **details: Any) -> None:
        self.writer.event(event, self.progress.step, **details)

    def _end(self, state: str, epoch: int) -> Outcome:
        step = self.progress.step
        if state != "finished":
            if state != "lost":
                self.callbacks.on_end(state, {})
                announced = self.signals.drain_announced if self.signals else None
                self._event(state, **({"seconds": round(time.time() - announced, 3)} if announced else {}))
                self.writer.flush()
            return Outcome(state=state, step=step, epoch=epoch)
        best = self.checkpointer.load_best()
        self._event("trained")
        validation, test, detail = self.evaluator.last(best.metrics if best else None)
        metrics = {"validation": finite(validation), "test": finite(test)}
        self.callbacks.on_end(state, metrics)
        if self.ranks.rank == 0:
            written = {"split": "test", "metrics": metrics["test"], **detail, "importance": self.task.importance(self.model)}
            self.folder.write(EVALUATION, json.dumps(written).encode())
            self._event("evaluated")
            self.writer.flush()
        said = self.ranks.broadcast({key: detail.get(key, {}) for key in ("intervals", "baseline")})
        return Outcome(
            state=state, step=step, epoch=epoch, best_step=best.step if best else None, metrics=metrics,
            message=self.progress.ended_by(self.total_steps), **said,
        )  # fmt: skip

    def _diverged(self, error: NotFinite) -> Outcome:
        self.callbacks.on_end("diverged", {})
        self._event("diverged", at=error.step, what=error.what)
        saved = self.checkpointer.newest()
        last = f"the last good checkpoint is step {saved}" if saved is not None else "there is no checkpoint yet"
        hint = HINT if error.what == "the gradient" else ""
        message = f"{error.what} became NaN or infinite at step {error.step}{hint}; {last}"
        epoch = self.order.locate(max(self.progress.consumed - 1, 0))[0]
        return Outcome(state="diverged", step=error.step, epoch=epoch, message=message)
