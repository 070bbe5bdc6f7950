"""AdamW, and the norm of its gradients."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from heliostat.errors import UserError
from heliostat.workloads.config import OptimizerConfig
from heliostat.workloads.training.distributed import is_sharded


def check_gradients(model: nn.Module) -> None:
    """Raises a UserError if AdamW cannot use the model's gradients, because they are sparse."""
    embeddings = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Embedding | nn.EmbeddingBag))
    if sparse := [name for name, layer in embeddings if layer.sparse]:
        raise UserError(f"AdamW cannot use sparse gradients, which {', '.join(sparse)} has", "create it with sparse=False")


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


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
    shards = [gradient.to_local() if is_sharded(gradient) else gradient for gradient in gradients]
    shards = [torch.view_as_real(shard) if shard.is_complex() else shard for shard in shards]
    wide = [shard for shard in shards if shard.dtype == torch.float64]
    others = [shard for shard in shards if shard.dtype != torch.float64]
    norms = [torch.stack(torch._foreach_norm(part, 2.0, to)) for part, to in ((wide, torch.float64), (others, dtype)) if part]
    total = torch.cat([each.double() for each in norms]).square().sum()
    if is_sharded(first):
        dist.all_reduce(total, group=first.device_mesh.get_group())
    return total.sqrt()
