"""Parallelizes a model, in a fixed order: activation checkpointing, compilation, then FSDP or DDP.

Each changes the model in place, so that parameters keep their names, and checkpoints do not depend on it.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recompute

from heliostat.errors import UserError
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.run.checkpoint import State
from heliostat.workloads.training.buffers import frozen, running_norms
from heliostat.workloads.training.distributed import Ranks, is_sharded

COMPILERS = ("c++", "g++", "clang++")


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


def parallelize(model: nn.Module, blocks: Sequence[nn.Module], config: TrainConfig, ranks: Ranks) -> nn.Module:
    """Moves the model to this worker's device, and shards or replicates it.

    Args:
        model: on the CPU, the same on all workers; changed in place.
        blocks: the parts that are recomputed, compiled and sharded one by one.
        config: of the run.
        ranks: this worker's.

    Returns:
        An `Apply`, or DDP around one, to compute the loss with; its backward pass averages the gradients over the workers.

    Raises:
        UserError: the model has no blocks to recompute; no C++ compiler is installed.
    """
    if config.activation_checkpointing:
        _recompute(blocks, config.task)
    if config.compile:
        _compile(blocks or [model])
    if sharded(config, ranks):
        return _shard(model, blocks, ranks)
    model.to(ranks.device)
    applied = Apply(model)
    if ranks.world == 1:
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


def without_gradients(parallel: nn.Module) -> Apply:
    """What evaluates the parallelized model: DDP has no part in it, and a sharded model is gathered."""
    found = parallel.module if isinstance(parallel, DistributedDataParallel) else parallel
    assert isinstance(found, Apply)
    return found


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
    for part in parts:
        # Not the module itself: the hooks that gather a sharded model's parameters must stay outside.
        part.forward = torch.compile(part.forward)


def _shard(model: nn.Module, blocks: Sequence[nn.Module], ranks: Ranks) -> nn.Module:
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


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> State:
    """The state that a checkpoint holds, without copies; of sharded tensors this worker's rows."""
    rows: dict[str, int] = {}

    def local(name: str, tensor: Tensor) -> Tensor:
        if not is_sharded(tensor):
            return tensor
        rows[name] = len(tensor)
        return tensor.to_local()

    # First, because state_dict() reshards parameters that an evaluation has left gathered.
    tensors = {name: local(f"model/{name}", tensor) for name, tensor in model.state_dict().items()}
    moments = {
        f"{name}/{key}": local(f"optimizer/{name}/{key}", tensor)
        for name, parameter in model.named_parameters()
        for key, tensor in (optimizer.state.get(parameter, {}) if optimizer else {}).items()
    }
    return {"model": tensors, "optimizer": moments, "rows": rows}


def sharded_names(model: nn.Module) -> set[str]:
    """The parameters that are sharded."""
    return {name for name, tensor in model.state_dict().items() if is_sharded(tensor)}


def load_model(model: nn.Module, state: State) -> None:
    """Loads the state that `Checkpoint.read` returned for ``sharded_names(model)`` into the model."""
    there = model.state_dict()
    model.load_state_dict({name: _like(there.get(name), tensor) for name, tensor in state["model"].items()})


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Loads the optimizer's part of that state."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moments: dict[str, dict[str, Tensor]] = {}
    for place, tensor in state["optimizer"].items():
        name, _, key = place.rpartition("/")
        moments.setdefault(name, {})[key] = tensor
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    packed = optimizer.state_dict()
    packed["state"] = {
        number: {key: _like(parameter, tensor) for key, tensor in moments[names[id(parameter)]].items()}
        for number, parameter in enumerate(parameters)
        if names[id(parameter)] in moments
    }
    optimizer.load_state_dict(packed)


def _like(there: Tensor | None, rows: Tensor) -> Tensor:
    """Converts this worker's rows to a DTensor if the current tensor is one."""
    if there is None or not is_sharded(there) or rows.ndim == 0:
        return rows
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows.to(there.device), there.device_mesh, there.placements, run_check=False, shape=there.shape, stride=there.stride()
    )
