"""Parallelizes a model, in a fixed order: activation checkpointing, compilation, then FSDP or DDP.

Each changes the model in place, so that parameters keep their names, and checkpoints do not depend on it.
"""

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recompute

from heliostat.errors import UserError
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.training.buffers import frozen, running_norms
from heliostat.workloads.training.distributed import Ranks

COMPILERS = ("c++", "g++", "clang++")
VARIANTS = 8
"""How often a block is compiled at most: in training and evaluation, for full batches, the last one, and one of a sample."""


class Apply(nn.Module):
    """Calls a function of the model and a batch, such as a task's loss, as the forward pass of a module.

    DDP and FSDP act when the module that they wrap is called. They wrap this one, so that the function gets the model itself,
    with its own methods (``model.encode``) and attributes, and may call it several times.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module, Any], Any], batch: Any) -> Any:
        return function(self.model, batch)


def parallelize(model: nn.Module, blocks: Sequence[nn.Module], config: TrainConfig, ranks: Ranks) -> Apply:
    """Moves the model to this worker's device, and shards it if the config says so; `replicate` follows.

    Args:
        model: on the CPU, the same on all workers; changed in place.
        blocks: the parts that are recomputed, compiled and sharded one by one.
        config: of the run.
        ranks: this worker's.

    Returns:
        What evaluates the model.

    Raises:
        UserError: the model has no blocks to recompute; no C++ compiler is installed.
    """
    if config.activation_checkpointing:
        _recompute(blocks, config.task)
    if config.compile:
        _compile(blocks or [model])
    if sharded(config, ranks):
        return _shard(model, blocks, ranks)
    return Apply(model.to(ranks.device))


def replicate(applied: Apply, config: TrainConfig, ranks: Ranks) -> nn.Module:
    """What computes the loss: its backward pass averages over the workers the gradients of the parameters that have them now.

    DDP around an `Apply`; the `Apply` itself for one worker, and of a sharded model.
    """
    if ranks.world == 1 or sharded(config, ranks):
        return applied
    # Of a 1x1 kernel, whose bytes are the same in either memory format, torch warns that they differ (pytorch#47163, 2.15).
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # The buffers are kept the same by `heliostat.workloads.training.buffers`. Not by an option: torch has renamed it in 2.15.
    names = [name for name, _ in applied.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(applied, names)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(
        applied,
        process_group=ranks.gradients,
        gradient_as_bucket_view=True,
        find_unused_parameters=config.find_unused_parameters,
    )


def sharded(config: TrainConfig, ranks: Ranks) -> bool:
    """Whether each worker holds only a shard of the model."""
    return config.parallelism == "fsdp" and ranks.world > 1


def _recompute(blocks: Sequence[nn.Module], task: str) -> None:
    if not blocks:
        raise UserError(
            f"activation_checkpointing is true, but the model of task {task} has no blocks",
            "give the task a method blocks(model), or set activation_checkpointing to false",
        )

    def recomputed(block: nn.Module) -> Callable[..., Any]:
        forward, norms = block.forward, running_norms(block)

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), frozen(norms)  # the first pass has updated the running statistics

        return lambda *args, **options: recompute(forward, *args, use_reentrant=False, context_fn=contexts, **options)

    for block in blocks:
        block.forward = recomputed(block)


def _compile(parts: Sequence[nn.Module]) -> None:
    compilers = (*filter(None, [os.environ.get("CXX")]), *COMPILERS)
    if not any(shutil.which(compiler) for compiler in compilers):
        raise UserError(
            f"compile is true, but this machine has none of {', '.join(compilers)}",
            "install g++ (in the image, where the run is on a cluster), or set compile to false",
        )
    # Here, because the import takes a second, which other runs need not wait for.
    from torch._dynamo import config as dynamo

    # Blocks of a class share a limit, after which torch would go on without compiling (seen with torch 2.15).
    dynamo.recompile_limit = max(dynamo.recompile_limit, VARIANTS * len(parts))
    for part in parts:
        # Not the module itself: the hooks that gather a sharded model's parameters must stay outside.
        part.forward = torch.compile(part.forward)


def _shard(model: nn.Module, blocks: Sequence[nn.Module], ranks: Ranks) -> Apply:
    # Here, because the import takes half a second, which other runs need not wait for.
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    applied = Apply(model)
    group = ranks.gradients or dist.group.WORLD
    assert group is not None
    mesh = DeviceMesh.from_group(group, ranks.device.type)
    # Block by block, so that a device never holds more of the model than its shard and one block.
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(applied, mesh=mesh)
    return applied


def reshard(apply: nn.Module) -> None:
    """Releases what an evaluation has left gathered of a sharded model, as it does not see that its shards are changed."""
    if fsdp := sys.modules.get("torch.distributed.fsdp"):
        for module in apply.modules():
            if isinstance(module, fsdp.FSDPModule):
                module.reshard()
