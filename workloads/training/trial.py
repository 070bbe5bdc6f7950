"""Tries an optimizer that is not one of ours on small tensors, so that no run starts which cannot be resumed to the bit."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from heliostat.errors import UserError, short_traceback
from heliostat.workloads.optimization.config import OptimizerConfig
from heliostat.workloads.optimization.optimizers import KEY
from heliostat.workloads.training.distributed import is_sharded, local
from heliostat.workloads.training.optimizer import create_optimizer
from heliostat.workloads.training.parameters import Group
from heliostat.workloads.training.state import PLAIN, OptimizerState

STEPS, SAVED = 4, 2
"""The steps of a trial, and after how many its state is saved and loaded."""
SIZE = 4
"""The most values along an axis of a stand-in for a parameter."""
OTHER = "choose an optimizer whose state is in `state` and, as numbers, in `param_groups`, such as those of torch.optim"


def try_optimizer(groups: Sequence[Group], config: OptimizerConfig) -> None:
    """Makes a few steps on stand-ins for parameters of each group, undisturbed and resumed from a saved state.

    Raises:
        UserError: a step fails; the state cannot be saved; the resumed steps are others; of sharded parameters, too, those of
            whole ones.
    """
    whole = _run(groups, config, resumed=False, sharded=False)
    what = f"{KEY} is {config.type!r}, which"
    if not _same(whole, _run(groups, config, resumed=True, sharded=False)):
        raise UserError(f"{what} computes other steps when it is resumed from its saved state", OTHER)
    if not any(is_sharded(parameter) for group in groups for parameter in group.parameters):
        return
    shards = _run(groups, config, resumed=True, sharded=True)
    if not all(torch.allclose(a, b, rtol=1e-4, atol=1e-7, equal_nan=True) for a, b in zip(whole, shards, strict=True)):
        raise UserError(f"{what} computes other steps of sharded parameters (parallelism: fsdp)", "set parallelism to ddp")


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(some, others, strict=True))


def _run(groups: Sequence[Group], config: OptimizerConfig, resumed: bool, sharded: bool) -> list[Tensor]:
    """The stand-ins after the steps."""
    generator = torch.Generator().manual_seed(0)
    stand_ins = [replace(group, parameters=[*_stand_ins(group, generator, sharded)]) for group in groups]
    named = {str(number): each for number, each in enumerate(each for group in stand_ins for each in group.parameters)}
    saved = OptimizerState(create_optimizer(stand_ins, config), named)
    frozen = [(each, _full(each)) for each in named.values() if not each.requires_grad]
    with torch.random.fork_rng(devices=[]):
        for step in range(STEPS):
            if resumed and step == SAVED:
                saved = _reloaded(saved, OptimizerState(create_optimizer(stand_ins, config), named), config, named)
            for parameter in (each for each in named.values() if each.requires_grad):
                gradient = torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
                parameter.grad = _like(parameter, gradient, sharded)
            torch.manual_seed(step)
            for group in saved.optimizer.param_groups:
                group["lr"] = config.lr
            try:
                saved.optimizer.step()
            except Exception as error:  # a foreign optimizer can raise anything, and the message must show it
                on = "sharded parameters (parallelism: fsdp)" if sharded else "small tensors of the shapes of the model's"
                raise UserError(f"{KEY} {config.type} fails on {on}:\n  {short_traceback(error)}", _fix(sharded)) from error
    if not all(torch.equal(_full(parameter), before) for parameter, before in frozen):
        raise UserError(
            f"{KEY} is {config.type!r}, which changes parameters that have no gradient", "train all, or choose another"
        )
    return [_full(parameter) for parameter in named.values()]


def _fix(sharded: bool) -> str:
    return (
        "set parallelism to ddp, or choose another optimizer" if sharded else "correct its options, or choose another optimizer"
    )


def _stand_ins(group: Group, generator: torch.Generator, sharded: bool) -> Iterator[nn.Parameter]:
    """A small parameter for each number of axes and dtype in the group, and of those that are frozen."""
    floating = [each for each in group.parameters if each.is_floating_point() or each.is_complex()]
    for parameter in {(each.ndim, each.dtype, each.requires_grad): each for each in floating}.values():
        shape = [min(length, SIZE) for length in parameter.shape]
        values = torch.randn(shape, generator=generator).to(parameter.device, parameter.dtype)
        yield nn.Parameter(_like(parameter, values, sharded), parameter.requires_grad)


def _like(parameter: Tensor, values: Tensor, sharded: bool) -> Tensor:
    if not sharded or not is_sharded(parameter):
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, parameter.device_mesh, parameter.placements)


def _full(parameter: Tensor) -> Tensor:
    whole = parameter.full_tensor() if is_sharded(parameter) else parameter
    return whole.detach().cpu().clone()


def _reloaded(
    saved: OptimizerState, new: OptimizerState, config: OptimizerConfig, named: dict[str, nn.Parameter]
) -> OptimizerState:
    """A new optimizer with the saved state, which went through a file as a checkpoint does."""
    entries = saved.entries()
    for place, value in entries.items():
        _check_entry(place, value, named, f"{KEY} is {config.type!r}, whose state has {place.rpartition('/')[2]},")
    stream = io.BytesIO()
    torch.save({place: local(value) if isinstance(value, Tensor) else value for place, value in entries.items()}, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=True)
    tensors = {place: value for place, value in loaded.items() if isinstance(value, Tensor)}
    try:
        new.load(tensors, {place: value for place, value in loaded.items() if place not in tensors})
    except Exception as error:  # as above
        raise UserError(f"{KEY} {config.type} does not load its saved state:\n  {short_traceback(error)}", OTHER) from None
    return new


def _check_entry(place: str, value: Any, named: dict[str, nn.Parameter], what: str) -> None:
    """Refuses a value of a state that a checkpoint cannot hold."""
    if not isinstance(value, Tensor):
        if type(value) not in PLAIN:
            raise UserError(f"{what} a {type(value).__name__}, which a checkpoint cannot hold", OTHER)
        return
    parameter = named.get(place.rpartition("/")[0])
    if parameter is None or not is_sharded(parameter) or value.ndim == 0:
        return
    if value.shape != parameter.shape or not is_sharded(value):
        raise UserError(
            f"{what} of another shape than the parameter, so it cannot be sharded (parallelism: fsdp)", "set parallelism to ddp"
        )
