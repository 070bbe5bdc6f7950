"""One training step: forward and backward passes of a global batch on all workers, and the optimizer's update."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from heliostat.datasets import Dataset
from heliostat.datasets.loader import Batch, batches, tensors
from heliostat.datasets.order import Order
from heliostat.workloads.config import TrainConfig, learning_rate
from heliostat.workloads.task import Task
from heliostat.workloads.training.buffers import Buffers
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.optimizer import adamw, check_gradients, gradient_norm
from heliostat.workloads.training.parallel import parallelize, sharded, without_gradients
from heliostat.workloads.training.single_samples import find_single_samples

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
        self.buffers = Buffers(model, ranks, config.sync_batchnorm)
        self._model = parallelize(model, task.blocks(model), config, ranks)
        self.apply = without_gradients(self._model)
        """Calls a function of the model without gradients, on all workers."""
        self._parameters = list(model.parameters())
        check_gradients(model)
        self._largest_share = largest_share
        self.micro_batch = config.micro_batch or self._largest_share
        # As many as usual: batch norm, or a loss that compares samples, cannot compute a single one.
        self._padding = np.arange(min(self.micro_batch, dataset.index.rows("train")))

    @cached_property
    def optimizer(self) -> torch.optim.AdamW:
        """Created when it is first needed: torch then imports its compiler, for which a mere try need not wait."""
        return adamw(self.apply.model, self._config.optimizer)

    def batches(self, order: Order, consumed: int) -> Iterator[Batch]:
        """This worker's part of the global batches, from ``consumed`` samples on."""
        return batches(self._dataset, order, consumed, self._ranks.rank, self._ranks.world)

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
                self.apply(self._task.loss, sample)
            except ValueError as raised:
                if "more than 1 value per channel" in str(raised):
                    raise error from None
                raise

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(step, self._total, self._config.optimizer)

    def __call__(self, batch: Batch, step: int, count: Count) -> Tensor:
        """Computes step number ``step``, from 0, on this worker's part of the batch.

        Returns:
            The norm of the gradients, the same on all workers. If it is not finite, the update is left out.
        """
        self._seed(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step)
        self.buffers.broadcast()
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(self._micro_batches(batch))
        for number, (part, samples) in enumerate(parts):
            with self._synchronized(number == len(parts) - 1), nullcontext() if samples else self.buffers.padding():
                with self._autocast():
                    loss: Tensor = self._model(self._task.loss, part)
                # DDP averages over the workers; the weight makes that a mean over the samples of the global batch.
                (loss * (samples / batch.global_size * self._ranks.world)).backward()  # type: ignore[no-untyped-call]
            if samples:
                count(loss, samples)
        self.buffers.samples += len(batch.ids)
        norm = gradient_norm(self._parameters)
        if most := self._config.optimizer.clip_norm:
            nn.utils.clip_grads_with_norm_(self._parameters, most, norm, foreach=True)
        # As torch's GradScaler has it: the fused kernels look at this themselves, so that a GPU is not waited for.
        self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        return norm

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

    def _synchronized(self, last: bool) -> AbstractContextManager[None]:
        """All-reduces gradients in the last micro-batch only."""
        if last or not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[None] = self._model.no_sync()
        return context

    def _autocast(self) -> torch.autocast:
        precision = self._config.precision
        bf16 = precision == "bf16" or (precision == "auto" and self._ranks.device.type == "cuda")
        return torch.autocast(self._ranks.device.type, torch.bfloat16, enabled=bf16)
