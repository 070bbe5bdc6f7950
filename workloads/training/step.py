"""One training step: forward and backward passes of a global batch on all workers, and the optimizer's update."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from heliostat.datasets import Dataset
from heliostat.datasets.loader import Batch, batches, tensors
from heliostat.datasets.order import Order
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.task import Task
from heliostat.workloads.training.buffers import Buffers
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.optimizer import check_gradients
from heliostat.workloads.training.parallel import parallelize, replicate, sharded
from heliostat.workloads.training.parameters import Frozen
from heliostat.workloads.training.parts import Part, parts_of
from heliostat.workloads.training.precision import compute_dtype
from heliostat.workloads.training.single_samples import find_single_samples
from heliostat.workloads.training.stragglers import Stopwatch
from heliostat.workloads.training.update import Update

Count = Callable[[Tensor, int], None]
"""Called with the mean loss of a micro-batch and its number of samples."""


class Step:
    """A worker's part of the training steps; parallelizes the model as the config says.

    Args:
        config: of the run.
        dataset: the source of the padding of a worker without samples.
        task: defines the loss.
        model: not yet parallelized.
        ranks: this worker's.
        largest_share: the most samples of a global batch that a worker has.
        total: steps of the whole run, for the learning rate schedule.
    """

    def __init__(
        self, config: TrainConfig, dataset: Dataset, task: Task, model: nn.Module, ranks: Ranks, largest_share: int, total: int
    ) -> None:
        self._config, self._dataset, self._task, self._ranks, self._total = config, dataset, task, ranks, total
        self._dtype = compute_dtype(config.precision, ranks.device)
        check_gradients(model)
        self._frozen = Frozen(model, config.optimizer)
        self.buffers = Buffers(model, ranks, config.sync_batchnorm)
        blocks = task.blocks(model)
        self.apply = parallelize(model, blocks, config, ranks)
        """Calls a function of the model without gradients, on all workers."""
        self.parts = parts_of(task, model, self.apply, config.task)
        """What a step trains, one after the other."""
        self._replicate()
        self.update = Update(self.apply, blocks, self._frozen, config, ranks, total)
        """Updates the parameters after the backward passes."""
        self.averages = True
        """Whether the gradients are averaged over the workers; only a measurement of the speed does without."""
        self._stopwatch = Stopwatch(ranks.device)
        # Where the forward pass waits for the others, what a worker computes by itself is not known.
        self._alone = ranks.world > 1 and not sharded(config, ranks) and not self.buffers.synchronized
        self._largest_share = largest_share
        self.micro_batch = config.micro_batch or self._largest_share
        # As many as usual: batch norm, or a loss that compares samples, cannot compute a single one.
        self._padding = np.arange(min(self.micro_batch, dataset.index.rows("train")))

    def batches(self, order: Order, consumed: int) -> Iterator[Batch]:
        """This worker's part of the global batches, from ``consumed`` samples on."""
        return batches(self._dataset, order, consumed, self._ranks.rank, self._ranks.world)

    def own_seconds(self) -> float:
        """What this worker computed by itself since the last call, in seconds, when the device has finished; 0: not known."""
        return self._stopwatch.read()

    def unfreeze(self) -> None:
        """Ends ``freeze_steps``, for a try."""
        self._frozen.end(self._total, self.update.parameters)

    def rates(self, step: int) -> dict[str, float | dict[str, float]]:
        """What the records of a step have of its update."""
        return self.update.rates(step)

    def check_single_samples(self, order: Order) -> None:
        """Checks that the model can compute the smallest batches of the run, before the first one.

        Raises:
            UserError: its batch norm would get a single value of each channel.
        """
        if not self.buffers.has_batch_norm:
            return
        error = find_single_samples(self._config, order, self._total, self._ranks.world, self.buffers.synchronized)
        if not error:
            return
        sample = self._on_device(tensors(self._dataset, "train", np.zeros(1, np.int64)))
        # With gradients, which a loss may need itself, such as a gradient penalty.
        with self.buffers.padding(alone=True), self._autocast():
            try:
                for part in self.parts:
                    self.apply(part.loss, sample)
            except ValueError as raised:
                if "more than 1 value per channel" in str(raised):
                    raise error from None
                raise

    def __call__(self, batch: Batch, step: int, count: Count) -> Tensor:
        """Computes step number ``step``, from 0, on this worker's part of the batch.

        Returns:
            The norm of the gradients, the same on all workers, see `Update`; of several parts the largest.
        """
        self._seed(step)
        if self._frozen.end(step, self.update.parameters):
            self._replicate()
        self.buffers.broadcast()
        micro_batches = list(self._micro_batches(batch))
        norms, losses = [], []
        for number, part in enumerate(self.parts, 1):
            with part.alone():
                losses.append(self._backward(part, batch, micro_batches))
                part.drop_others()
                norms.append(self.update(step, last=number == len(self.parts)))
        for of_parts, (_, samples) in zip(zip(*losses, strict=True), micro_batches, strict=True):
            if samples:
                count(of_parts[0] if len(of_parts) == 1 else torch.stack(of_parts).sum(), samples)
        self.buffers.samples += len(batch.ids)
        return norms[0] if len(norms) == 1 else torch.stack(norms).max()

    def _backward(self, part: Part, batch: Batch, micro_batches: list[tuple[dict[str, Tensor], int]]) -> list[Tensor]:
        """The gradients of a part; returns the losses of the micro-batches."""
        self.update.optimizer.zero_grad(set_to_none=True)
        losses = []
        if self._alone:
            self._stopwatch.start()
        for number, (tensors_of, samples) in enumerate(micro_batches):
            last = number == len(micro_batches) - 1
            with self._synchronized(part.model, last), nullcontext() if samples else self.buffers.padding():
                with self._autocast():
                    loss: Tensor = part.model(part.loss, tensors_of)
                # DDP averages over the workers; the weight makes that a mean over the samples of the global batch.
                mean = loss * (samples / batch.global_size * self._ranks.world)
                if last and self._alone:
                    self._stopwatch.stop()
                self.update.scaled(mean).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return losses

    def _replicate(self) -> None:
        for part in self.parts:
            with part.alone():
                part.model = replicate(self.apply, self._config, self._ranks)

    def _micro_batches(self, batch: Batch) -> Iterator[tuple[dict[str, Tensor], int]]:
        rows = len(batch.ids)
        # A worker without samples in an epoch's last batch takes part with samples of weight 0; if the model is sharded or its
        # batch norm synchronized, all workers take part in as many micro-batches as the one with the most samples.
        together = sharded(self._config, self._ranks) or self.buffers.synchronized
        most = min(self._largest_share, batch.global_size) if together else max(rows, 1)
        for start in range(0, most, self.micro_batch):
            if start >= rows:
                yield self._on_device(tensors(self._dataset, "train", self._padding)), 0
                continue
            part = {name: values[start : start + self.micro_batch] for name, values in batch.tensors.items()}
            yield self._on_device(part), min(self.micro_batch, rows - start)

    def _on_device(self, part: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: values.to(self._ranks.device, non_blocking=True) for name, values in part.items()}

    def _seed(self, step: int) -> None:
        """Makes all randomness a pure function of (seed, step, rank), so that there is no random state to save."""
        seed = (self._config.seed * 1_000_003 + step) * 4099 + self._ranks.rank
        # Not torch.manual_seed: without CUDA it keeps a stack trace of every call for later (seen on torch 2.15).
        torch.default_generator.manual_seed(seed)
        if self._ranks.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)

    def _synchronized(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        """All-reduces gradients in the last micro-batch only."""
        if (last and self.averages) or not isinstance(model, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[None] = model.no_sync()
        return context

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._ranks.device.type, self._dtype or torch.bfloat16, enabled=self._dtype is not None)
