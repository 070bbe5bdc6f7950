"""A model's buffers, which no gradient updates, kept the same on all workers.

The running statistics of batch norm are each worker's own between two evaluations or checkpoints, and are pooled then. All
other buffers (counters, moving averages, codebooks, constants) are those of rank 0 in every step, as
DistributedDataParallel has it; FSDP by itself leaves each worker its own.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from heliostat.errors import UserError
from heliostat.workloads.training.distributed import Ranks

FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Buffers:
    """A worker's part in keeping the buffers the same; all workers call the same methods in the same order.

    Args:
        model: before it is parallelized.
        ranks: this worker's.
        synchronize: compute batch norm over the samples of all workers; a SyncBatchNorm of the model's own always does.

    Raises:
        UserError: batch norm cannot be synchronized.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, synchronize: bool) -> None:
        self._ranks = ranks
        self._norms = running_norms(model)
        statistics = {(id(layer), name) for layer in self._norms for name in STATISTICS}
        self._others = [
            (module, name)
            for module in model.modules()
            for name, tensor in module._buffers.items()
            if tensor is not None and (id(module), name) not in statistics
        ]
        self.samples = 0
        """This worker's samples since its statistics were last pooled."""
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
        self.has_batch_norm = bool(layers)
        if synchronize and not layers:
            raise UserError("sync_batchnorm is true, but the model has no batch norm", "set sync_batchnorm to false")
        wanted = {name: layer for name, layer in layers.items() if synchronize or isinstance(layer, nn.SyncBatchNorm)}
        if own := [f"{name} ({type(layer).__name__})" for name, layer in wanted.items() if type(layer).forward not in FORWARDS]:
            raise UserError(
                f"batch norm with a forward method of its own cannot be synchronized: {', '.join(own)}",
                "use torch's layers, or set sync_batchnorm to false",
            )
        self.synchronized = bool(wanted)
        """Whether layers compute over the samples of all workers."""
        self._weight, self._alone = 1.0, False
        """The weight of the samples in that; whether other workers do not take part."""
        for layer in wanted.values():
            layer.forward = partial(self._synchronized, layer)  # type: ignore[method-assign]

    @torch.no_grad()
    def broadcast(self) -> None:
        """Copies the other buffers of rank 0 to all workers."""
        if self._ranks.world == 1:
            return
        same: dict[torch.dtype, list[Tensor]] = defaultdict(list)
        for module, name in self._others:
            if (buffer := getattr(module, name)) is not None:
                same[buffer.dtype].append(buffer)
        for buffers in same.values():
            flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
            dist.broadcast(flat, 0, group=self._ranks.gradients)
            if self._ranks.rank > 0:
                for buffer, values in zip(buffers, torch.split(flat, [buffer.numel() for buffer in buffers]), strict=True):
                    buffer.copy_(values.view_as(buffer))

    @torch.no_grad()
    def pool(self) -> None:
        """Gives all workers rank 0's other buffers, and the statistics of all samples.

        These are the mean and the variance of the mixture of the workers' distributions, weighted by their samples since the
        last call: the variance is the mean variance and the variance of the means. The largest counter is kept.
        """
        self.broadcast()
        if self._ranks.world == 1 or not self._norms:
            return
        means, variances = (torch.cat([getattr(layer, name) for layer in self._norms]) for name in STATISTICS[:2])
        counters = torch.stack([layer.num_batches_tracked for layer in self._norms])
        row = [float(self.samples), *means.tolist(), *variances.tolist(), *counters.tolist()]
        table = self._ranks.all_gather(row)
        samples, mean, var, counters = torch.split(table, [1, len(means), len(means), len(counters)], 1)
        weight = samples / samples.sum() if samples.any() else torch.full_like(samples, 1 / len(samples))
        # As differences, so that equal statistics stay as they are, to the last bit.
        pooled = mean[0] + (weight * (mean - mean[0])).sum(0)
        spread = var[0] + (weight * (var - var[0])).sum(0) + (weight * (mean - pooled).square()).sum(0)
        sizes = [layer.num_features for layer in self._norms]
        values = zip(self._norms, torch.split(pooled, sizes), torch.split(spread, sizes), counters.max(0).values, strict=True)
        for layer, *statistics in values:
            for name, value in zip(STATISTICS, statistics, strict=True):
                getattr(layer, name).copy_(value)
        self.samples = 0

    @contextmanager
    def padding(self, alone: bool = False) -> Iterator[None]:
        """Keeps samples of weight 0 out of all buffers, in their forward and backward passes.

        With ``alone``, other workers need not take part.
        """
        now = [(module, name, getattr(module, name)) for module, name in self._others]
        kept = [(module, name, buffer, buffer.clone()) for module, name, buffer in now if buffer is not None]
        self._weight, self._alone = 0.0, alone
        try:
            with frozen(self._norms):
                yield
        finally:
            self._weight, self._alone = 1.0, False
            for module, name, buffer, values in kept:
                with torch.no_grad():
                    setattr(module, name, buffer.copy_(values))

    def _synchronized(self, layer: Any, x: Tensor) -> Tensor:
        """Batch norm over the samples of all workers (torch's SyncBatchNorm does this on GPUs only)."""
        layer._check_input_dim(x)
        if not layer.training or self._alone or self._ranks.world == 1:
            return _BatchNorm.forward(layer, x)
        axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = wide.new_tensor([x.numel() // x.shape[1] * self._weight])
        total: Tensor = _Sum.apply(torch.cat([wide.sum(axes) * self._weight, count]), self._ranks.gradients)
        count = total[-1].detach().clamp(min=1)  # 0 where all workers pad
        mean = total[:-1] / count
        centred = wide - mean.view(shape)
        var: Tensor = _Sum.apply(centred.square().sum(axes) * self._weight, self._ranks.gradients) / count
        if layer.running_mean is not None:
            layer.num_batches_tracked.add_(1)
            momentum = layer.momentum if layer.momentum is not None else 1 / float(layer.num_batches_tracked)
            layer.running_mean.lerp_(mean.detach(), momentum)
            layer.running_var.lerp_((var * count / (count - 1).clamp(min=1)).detach(), momentum)
        scale = torch.rsqrt(var + layer.eps) * (1 if layer.weight is None else layer.weight)
        normal = centred * scale.view(shape)
        return (normal if layer.bias is None else normal + layer.bias.view(shape)).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all workers; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, total = group, mine.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradient[0].contiguous(), ctx.group), None


def running_norms(model: nn.Module) -> list[Any]:
    """The layers with running statistics."""
    return [layer for layer in model.modules() if isinstance(layer, _NormBase) and layer.running_mean is not None]


@contextmanager
def frozen(norms: list[Any]) -> Iterator[None]:
    """Leaves the running statistics as they are in a forward pass in training mode."""
    kept = [(layer, layer.momentum, layer.num_batches_tracked.clone()) for layer in norms]
    for layer in norms:
        layer.momentum = 0.0  # not track_running_stats, which decides what is saved for the backward pass
    try:
        yield
    finally:
        for layer, momentum, counter in kept:
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(counter)
