"""What follows the gradients of a step: the loss scale, clipping, the optimizer at its scheduled rates, and the average."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from heliostat.workloads.config import TrainConfig
from heliostat.workloads.optimization.optimizers import BUILT_IN
from heliostat.workloads.optimization.schedule import schedule_of
from heliostat.workloads.training.average import Average
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.optimizer import clip_values, create_optimizer, gradient_norm, step_if_finite
from heliostat.workloads.training.parallel import Apply
from heliostat.workloads.training.parameters import Frozen, groups_of
from heliostat.workloads.training.precision import LossScale
from heliostat.workloads.training.state import OptimizerState
from heliostat.workloads.training.trial import try_optimizer


class Update:
    """A worker's part of the updates; a resumed run continues with the `heliostat.workloads.training.state` of it.

    Args:
        apply: of the model, parallelized.
        blocks: the model's layers.
        frozen: what of the model is not trained.
        config: of the run.
        ranks: this worker's.
        total: steps of the whole run, for the schedule.

    Raises:
        UserError: see `groups_of`, `create_optimizer` and `try_optimizer`.
    """

    def __init__(
        self, apply: Apply, blocks: Sequence[nn.Module], frozen: Frozen, config: TrainConfig, ranks: Ranks, total: int
    ) -> None:
        self._config, self._total = config.optimizer, total
        self.parameters = dict(apply.model.named_parameters())
        self._groups = groups_of(apply.model, blocks, config.optimizer, config.task)
        self._rate = schedule_of(config.optimizer)
        self.scaler = LossScale(ranks.device) if config.precision == "fp16" else None
        self.average = Average(apply, frozen.later, config.optimizer.ema) if config.optimizer.ema else None
        if config.optimizer.type not in BUILT_IN or config.optimizer.options:
            try_optimizer(self._groups, config.optimizer)

    @cached_property
    def saved(self) -> OptimizerState:
        """The optimizer; created when it is first needed: torch then imports its compiler, for which a try need not wait."""
        return OptimizerState(create_optimizer(self._groups, self._config), self.parameters)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of all parameters."""
        return self.saved.optimizer

    def rates(self, step: int) -> dict[str, float | dict[str, float]]:
        """For the records of a step its ``lr``, where groups differ their ``lrs``, and the figures of the loss scale."""
        rate = self._rate(step, self._total)
        scales = {group.label: group.lr_scale for group in self._groups}
        found: dict[str, float | dict[str, float]] = {"lr": rate}
        if any(scale != 1 for scale in scales.values()):
            found["lrs"] = {label: rate * scale for label, scale in scales.items()}
        return found | (self.scaler.figures() if self.scaler else {})

    def scaled(self, loss: Tensor) -> Tensor:
        """What the backward pass is computed of."""
        return self.scaler.apply(loss) if self.scaler else loss

    def __call__(self, step: int, last: bool = True) -> Tensor:
        """Makes an update of step number ``step``, from 0, with the gradients of the parameters; ``last``: of several in it.

        Returns:
            Their norm. If it is not finite, the update is left out; with fp16 the norm is then 0, see `LossScale.update`.
        """
        rate, parameters = self._rate(step, self._total), [*self.parameters.values()]
        for group, own in zip(self._groups, self.optimizer.param_groups, strict=True):
            own["lr"] = rate * group.lr_scale
        if self.scaler:
            self.scaler.undo(parameters)
        norm = gradient_norm(parameters)
        if most := self._config.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, most, norm, foreach=True)
        if bound := self._config.clip_value:
            clip_values(parameters, bound)
        step_if_finite(self.optimizer, norm)
        if self.average and last:
            self.average.update(step)
        return self.scaler.update(norm) if self.scaler else norm
