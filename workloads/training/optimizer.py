"""AdamW, and its learning rate as a pure function of the step."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from heliostat.workloads.config import OptimizerConfig


def learning_rate(step: int, total: int, config: OptimizerConfig) -> float:
    """Linear warm-up, then cosine decay to ``final_lr`` times the peak at the last step (Loshchilov, Hutter 2017)."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    low = config.final_lr * config.lr
    return low + (config.lr - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def adamw(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only."""
    decay = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Scales the gradients so that their norm, over all parameters and all shards, is at most ``most``."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(parameters, most, norm, foreach=True)
