"""The training loop that every worker runs. It knows torch.distributed and the run folder, and nothing of Ray."""

import json
import math
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from datasets import Dataset, Order
from datasets.loader import Batch, batches, tensors
from datasets.order import lane_range
from heliostat.config import Config
from heliostat.folder import Folder
from workloads import checkpoint
from workloads.config import OptimizerConfig
from workloads.evaluation import confusion, measure
from workloads.ranks import Ranks
from workloads.run import EVALUATION, EVENTS, METRICS, STOP, Journal, RunRecord, storage_error
from workloads.task import Task, create

SLOW_STEP = 0.1
"""Seconds from which on a step is so long that talking after each one costs nothing."""


class Outcome(Config):
    """How the loop ended on all workers."""

    state: str
    step: int
    epoch: int
    best_step: int | None = None
    metrics: dict[str, dict[str, float]] = {}
    message: str = ""


def learning_rate(step: int, total: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then cosine decay to ``final_lr`` times the peak at the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    low = config.final_lr * config.lr
    return low + (config.lr - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW in which only matrices and kernels decay."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


@dataclass
class Progress:
    """What a resumed run must know besides the weights."""

    step: int = 0
    consumed: int = 0
    best: float | None = None
    waited: int = 0
    """Evaluations since the best one."""


class Loop:
    """One worker's side of a run.

    Args:
        folder: the run folder.
        record: what the run is.
        ranks: this worker among the others.
        launched: when the command that started it began, in seconds since the epoch.
        report: called on all workers with the metrics of each evaluation.
    """

    def __init__(
        self,
        folder: Folder,
        record: RunRecord,
        ranks: Ranks,
        launched: float,
        report: Callable[[dict[str, float]], None] = lambda metrics: None,
    ) -> None:
        self.folder, self.record, self.ranks, self.report = folder, record, ranks, report
        self.config = config = record.config
        self.dataset = Dataset.open(record.dataset.uri)
        index = self.dataset.index
        self.order = Order(
            tuple(shard.rows for shard in index.splits["train"]),
            index.fingerprint, config.seed, config.global_batch, record.lanes, config.drop_last,
        )  # fmt: skip
        self.total_steps = config.steps or (config.epochs or 0) * self.order.epoch_steps
        self.task: Task = create(config.task, config.model, index)
        torch.manual_seed(config.seed)
        self.model = self.task.model().to(ranks.device)
        self.optimizer = adamw(self.model, config.optimizer)
        self.progress = Progress()
        self._restore()
        self.parallel = ranks.wrap(self.model)
        largest_share = -(-record.lanes // ranks.world) * (config.global_batch // record.lanes)
        self.micro_batch = config.micro_batch or largest_share
        self.journals = (Journal(folder, METRICS), Journal(folder, EVENTS)) if ranks.rank == 0 else None
        self._begin(launched)

    def run(self) -> Outcome:
        """Train to the end, or to the point where it must stop."""
        lanes = lane_range(self.order.lanes, self.ranks.world, self.ranks.rank)
        epoch = self.order.locate(self.progress.consumed)[0]
        state = self._agree(epoch) or ("finished" if self.progress.step >= self.total_steps else None)
        upcoming = batches(self.dataset, self.order, self.progress.consumed, lanes)
        while state is None:
            batch = next(upcoming)
            epoch = batch.epoch
            self._step(batch)
            state = self._after_step(batch)
        return self._end(state, epoch)

    # --- one step ---------------------------------------------------------------------------------------------

    def _step(self, batch: Batch) -> None:
        step = self.progress.step
        self._seed(step)
        rate = learning_rate(step, self.total_steps, self.config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(self._micro_batches(batch))
        for number, (part, samples) in enumerate(parts):
            with self._synchronized(number == len(parts) - 1):
                with self._autocast():
                    loss = self.task.loss(self.parallel, part)
                # DDP averages over the workers; the weight makes that a mean over the samples of the global batch.
                (loss * (samples / batch.global_size * self.ranks.world)).backward()
            self._loss_sum += loss.detach().double() * samples
            self._samples += samples
            bad = torch.isfinite(loss.detach()).logical_not_() & (self._bad_step < 0)
            self._bad_step = torch.where(bad, step + 1, self._bad_step)
        if self.config.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimizer.clip_norm, foreach=True)
        self.optimizer.step()
        self.progress.step, self.progress.consumed = step + 1, batch.consumed

    def _micro_batches(self, batch: Batch) -> Iterator[tuple[dict[str, Tensor], int]]:
        rows = len(batch.ids)
        if rows == 0:
            # A worker with no part of an epoch's last batch must still take part: with a sample that weighs nothing.
            yield self._on_device(tensors(self.dataset, "train", np.zeros(1, np.int64))), 0
        for start in range(0, rows, self.micro_batch):
            part = {name: values[start : start + self.micro_batch] for name, values in batch.tensors.items()}
            yield self._on_device(part), min(self.micro_batch, rows - start)

    def _on_device(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: values.to(self.ranks.device, non_blocking=True) for name, values in part.items()}

    def _seed(self, step: int) -> None:
        """All randomness is a pure function of (seed, step, rank), so there is no random state to save."""
        seed = (self.config.seed * 1_000_003 + step) * 4099 + self.ranks.rank
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def _synchronized(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged in the last micro-batch only."""
        if last or not isinstance(self.parallel, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[None] = self.parallel.no_sync()
        return context

    def _autocast(self) -> torch.autocast:
        precision = self.config.precision
        bf16 = precision == "bf16" or (precision == "auto" and self.ranks.device.type == "cuda")
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=bf16)

    # --- between steps ----------------------------------------------------------------------------------------

    def _after_step(self, batch: Batch) -> str | None:
        """Whatever is due after this step; the state in which the run ends, or None to go on."""
        step, config = self.progress.step, self.config
        if step == self._first_step:
            self._event("first_step")
        last = step >= self.total_steps
        evaluate, save = step % config.evaluate_every == 0 or last, step % config.checkpoint_every == 0 or last
        state = None
        if step >= self._next_sync or evaluate or save:
            state = self._agree(batch.epoch)
        if state == "diverged":
            return state
        metrics = self._evaluate(batch.epoch) if evaluate else {}
        improved = bool(metrics) and self.progress.waited == 0
        if state == "stopped" or save or improved:
            self._save(metrics)
        patience = config.early_stopping and config.early_stopping.patience
        return state or ("finished" if last or (patience and self.progress.waited >= patience) else None)

    def _agree(self, epoch: int) -> str | None:
        """Talk with the other workers: log the loss, and find out whether one of them must stop."""
        now, step = time.perf_counter(), self.progress.step
        stop = self.ranks.rank == 0 and self.folder.exists(STOP)
        steps = step - self._synced_step
        row = [float(self._loss_sum), float(self._samples), float(self._bad_step), float(stop), now - self._synced_at]
        table = self.ranks.table(row)
        loss_sum, samples, stopping, seconds = (float(table[:, i].sum()) for i in (0, 1, 3, 4))
        bad_steps = table[:, 2][table[:, 2] >= 0]
        slow = steps > 0 and seconds / self.ranks.world / steps > SLOW_STEP
        self._next_sync = step + (1 if slow else self.config.log_every - step % self.config.log_every)
        if len(bad_steps):
            self._bad_step.fill_(int(bad_steps.min()))
            return "diverged"
        self._logged = (self._logged[0] + loss_sum, self._logged[1] + samples, self._logged[2] + seconds / self.ranks.world)
        if step % self.config.log_every == 0 and self._logged[1] and self.journals:
            rate = learning_rate(step - 1, self.total_steps, self.config.optimizer)
            self.journals[0].append(
                kind="train", step=step, epoch=epoch, loss=self._logged[0] / self._logged[1], lr=rate,
                samples_per_second=round(self._logged[1] / self._logged[2], 1),
            )  # fmt: skip
        if step % self.config.log_every == 0:
            self._logged = (0.0, 0.0, 0.0)
        self._reset()
        return "stopped" if stopping else None

    def _evaluate(self, epoch: int) -> dict[str, float]:
        began = time.perf_counter()
        metrics = measure(self.task, self.model, self.dataset, "validation", self.ranks, self.micro_batch)
        if self.journals:
            self.journals[0].append(
                kind="eval", step=self.progress.step, epoch=epoch, **metrics, seconds=round(time.perf_counter() - began, 4)
            )
        value = metrics.get(self.task.metric, math.nan)
        stopping = self.config.early_stopping
        margin = stopping.min_delta if stopping else 0.0
        best = self.progress.best
        sign = 1 if self.task.better == "higher" else -1
        if best is None or sign * (value - best) > margin:
            self.progress.best, self.progress.waited = value, 0
        else:
            self.progress.waited += 1
        self.report(metrics)
        self._reset()
        return metrics

    def _reset(self) -> None:
        """Begin to count loss, samples and time anew."""
        device = self.ranks.device
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self._bad_step = torch.full((), -1, device=device)
        self._samples = 0
        self._synced_step, self._synced_at = self.progress.step, time.perf_counter()

    # --- beginning, saving, ending ----------------------------------------------------------------------------

    def _restore(self) -> None:
        checkpoints = checkpoint.committed(self.folder)
        if checkpoints:
            state = checkpoints[-1].load(self.ranks.device)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])

    def _save(self, metrics: dict[str, float]) -> None:
        if self.ranks.rank == 0:
            self._write(metrics)
        self.ranks.table([])  # nobody goes on before it is committed
        self._reset()

    def _write(self, metrics: dict[str, float]) -> None:
        began = time.perf_counter()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }
        try:
            checkpoint.save(self.folder, self.progress.step, state, metrics)
        except OSError as error:
            self.folder.delete(f"checkpoints/step-{self.progress.step:08d}")
            raise storage_error(self.folder, error) from None
        checkpoint.prune(self.folder, self.task.metric, self.task.better)
        self._event("checkpoint", seconds=round(time.perf_counter() - began, 4))

    def _begin(self, launched: float) -> None:
        self._first_step = self.progress.step + 1
        self._next_sync = self.progress.step + 1
        self._logged = (0.0, 0.0, 0.0)
        self._reset()
        device = torch.cuda.get_device_name() if self.ranks.device.type == "cuda" else "cpu"
        workers = self.ranks.objects({"rank": self.ranks.rank, "host": socket.gethostname(), "device": device})
        if self.journals:
            self.journals[0].rewind(self.progress.step)
            self._event("start", launched=launched, workers=workers)

    def _event(self, event: str, **details: Any) -> None:
        if self.journals:
            self.journals[1].append(event=event, step=self.progress.step, **details)

    def _end(self, state: str, epoch: int) -> Outcome:
        step = self.progress.step
        if state == "diverged":
            bad = int(self._bad_step)
            self._event("diverged", at=bad)
            saved = checkpoint.committed(self.folder)
            last = f"the last good checkpoint is step {saved[-1].step}" if saved else "there is no checkpoint yet"
            message = f"the loss became NaN or infinite at step {bad}; {last}"
            return Outcome(state=state, step=bad, epoch=epoch, message=message)
        if state == "stopped":
            self._event("stopped")
            return Outcome(state=state, step=step, epoch=epoch)
        best = checkpoint.best(checkpoint.committed(self.folder), self.task.metric, self.task.better)
        if best:
            self.model.load_state_dict(best.load(self.ranks.device)["model"])
        self._event("trained")
        metrics = {
            split: measure(self.task, self.model, self.dataset, split, self.ranks, self.micro_batch)
            for split in ("validation", "test")
        }
        detail = confusion(self.task, self.model, self.dataset, "test", self.ranks, self.micro_batch) or {}
        if self.journals:
            self.model.eval()
            written = {"split": "test", "metrics": metrics["test"], **detail, "sample": self.task.sample(self.model)}
            self.folder.write(EVALUATION, json.dumps(written).encode())
            self._event("evaluated")
        return Outcome(
            state=state, step=step, epoch=epoch, best_step=best.step if best else None, metrics=metrics,
        )  # fmt: skip
