"""Creates the optimizer of a config, makes its steps, and computes the norm of its gradients."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from heliostat.errors import UserError
from heliostat.workloads.optimization.config import OptimizerConfig
from heliostat.workloads.optimization.optimizers import FUSED, KEY, class_of
from heliostat.workloads.training.distributed import is_sharded, local
from heliostat.workloads.training.parameters import Group


def check_gradients(model: nn.Module) -> None:
    """Raises a UserError if gradients are sparse: they have no norm, and are neither clipped nor averaged over workers here."""
    embeddings = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag))
    if sparse := [name for name, layer in embeddings if layer.sparse]:
        raise UserError(f"sparse gradients cannot be used, and {', '.join(sparse)} has them", "create it with sparse=False")


def create_optimizer(groups: Sequence[Group], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of these groups of parameters.

    Raises:
        UserError: its constructor refuses its arguments.
    """
    arguments: dict[str, Any] = {"lr": config.lr, **config.options}
    if config.type in FUSED:
        arguments = {"betas": (config.beta1, config.beta2), "fused": "foreach" not in config.options, **arguments}
    given: list[dict[str, Any]] = [
        {"params": group.parameters} | ({} if group.weight_decay is None else {"weight_decay": group.weight_decay})
        for group in groups
    ]
    try:
        return class_of(config)(given, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise UserError(
            f"{KEY} {config.type} cannot be created with options {config.options}: {error}",
            "correct optimizer.options, or choose another type",
        ) from None


def step_if_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """Makes the optimizer's step, unless the norm of the gradients is not finite.

    Fused kernels look at this themselves, as for torch's GradScaler, so that a GPU is not waited for; for others it is.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif norm.isfinite():
        optimizer.step()


def clip_values(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Limits each value of the gradients, in place; of complex ones the real and the imaginary part."""
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    if gradients := [torch.view_as_real(each) if each.is_complex() else each for each in gradients]:
        torch._foreach_clamp_min_(gradients, -most)
        torch._foreach_clamp_max_(gradients, most)


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The norm of the gradients over all parameters and all shards: a float32 scalar, for which a GPU is not waited for.

    It is not finite if and only if a gradient is not, or the norm itself exceeds float32: where squares of float32 would
    overflow, they are added in float64.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    if gradients[0].device.type != "cpu":
        return _norm(gradients, torch.float64).float()
    norm = _norm(gradients, torch.float32)
    # float64 takes thirty times as long on a CPU, where the result is there to look at.
    return (norm if norm.isfinite() else _norm(gradients, torch.float64)).float()


def _norm(gradients: list[Tensor], dtype: torch.dtype) -> Tensor:
    """As ``torch.nn.utils.get_total_norm``, which adds up in the dtype of the gradients; those of float64 always in float64."""
    first = gradients[0]
    shards = [local(gradient) for gradient in gradients]
    shards = [torch.view_as_real(shard) if shard.is_complex() else shard for shard in shards]
    wide = [shard for shard in shards if shard.dtype == torch.float64]
    others = [shard for shard in shards if shard.dtype != torch.float64]
    norms = [torch.stack(torch._foreach_norm(part, 2.0, to)) for part, to in ((wide, torch.float64), (others, dtype)) if part]
    total = torch.cat([each.double() for each in norms]).square().sum()
    if is_sharded(first):
        dist.all_reduce(total, group=first.device_mesh.get_group())
    return total.sqrt()
