"""The precision in which a model is computed, and the scale of the loss that fp16 needs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from heliostat.errors import UserError
from heliostat.workloads.training.distributed import local

INITIAL, GROWTH_STEPS = 65536.0, 2000
"""The first scale, and after how many steps without overflow it is doubled, as in torch's GradScaler."""
LEAST = 1.0
"""Below this scale, a gradient that is not finite has another cause than the scale."""


def compute_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype of autocast; None for none. ``auto`` is bf16 on a GPU that has it, else fp32.

    Never fp16 by itself: workers on other GPUs would have another scale.

    Raises:
        UserError: the GPU only emulates bf16, which is slower than fp32.
    """
    if precision == "fp16":
        return torch.float16
    if precision == "fp32" or (precision == "auto" and device.type != "cuda"):
        return None
    if device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if precision == "auto":
        return None
    raise UserError(
        f"precision is bf16, which {torch.cuda.get_device_name(device)} only emulates",
        "set precision to fp16 or fp32 (under another name, if the run has begun), or train on a GPU of compute capability 8.0",
    )


class LossScale:
    """The factor of an fp16 loss that keeps small gradients from becoming 0 (Micikevicius et al. 2018).

    It is halved at each step whose gradients overflow, whose update is skipped, and doubled after `GROWTH_STEPS` others. Its
    values stay on the device, so that a GPU is not waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.state: dict[str, Tensor] = {
            "scale": torch.full((), INITIAL, device=device),
            "good_steps": torch.zeros((), dtype=torch.int64, device=device),
            "skipped_steps": torch.zeros((), dtype=torch.int64, device=device),
        }

    def apply(self, loss: Tensor) -> Tensor:
        """The loss, scaled; in float32, as its product may exceed float16."""
        return loss.float() * self.state["scale"]

    @torch.no_grad()
    def undo(self, parameters: Sequence[nn.Parameter]) -> None:
        """Divides the gradients by the scale, in place."""
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, self.state["scale"].reciprocal())

    @torch.no_grad()
    def update(self, norm: Tensor) -> Tensor:
        """Adapts the scale after a step whose gradients had that norm.

        Returns:
            The norm; 0 instead of a norm that is not finite, unless the scale has fallen below `LEAST`.
        """
        scale, good, skipped = self.state.values()
        fine = norm.isfinite().to(scale.device)
        good.copy_(torch.where(fine, good + 1, 0))
        grow = good >= GROWTH_STEPS
        scale.copy_(torch.where(fine, torch.where(grow, scale * 2, scale), scale / 2))
        good.masked_fill_(grow, 0)
        skipped.add_((~fine).long())
        return torch.where(fine | (scale < LEAST), norm.to(scale.device), torch.zeros_like(scale))

    def load(self, state: dict[str, Tensor]) -> None:
        """Continues with the state of a checkpoint."""
        for name, value in state.items():
            self.state[name].copy_(value)

    def figures(self) -> dict[str, float]:
        """The scale, and the steps that have been skipped since the start of the run."""
        return {"loss_scale": float(self.state["scale"]), "skipped_steps": int(self.state["skipped_steps"])}
