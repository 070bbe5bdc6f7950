"""The learning rate of each step: a pure function of the step, the steps of the run and the config."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import Field

from heliostat import own_code
from heliostat.config import Config, validate
from heliostat.errors import UserError, short_traceback
from heliostat.workloads.optimization.config import SCHEDULES, OptimizerConfig

Schedule = Callable[[int, int], float]
"""The learning rate of a step, from 0, of a run of that many steps."""
KEY, OPTIONS = "optimizer.schedule", "optimizer.schedule_options"


class NoOptions(Config):
    """The other schedules have no options."""


class OneCycleOptions(Config):
    """The options of one-cycle; its defaults are those of torch's OneCycleLR."""

    rise_share: float = Field(0.3, gt=0, lt=1, description="the share of the run until the peak, above 0 and below 1")
    initial_lr: float = Field(0.04, ge=0, le=1, description="the first learning rate, a share of lr from 0 to 1")


class DecayOptions(Config):
    """The options of warmup-stable-decay."""

    decay_share: float = Field(0.2, gt=0, le=1, description="the share of the run in which the rate decays, above 0 to 1")


def learning_rate(step: int, total: int, config: OptimizerConfig) -> float:
    """The learning rate of a step, see `schedule_of`."""
    return schedule_of(config)(step, total)


def schedule_of(config: OptimizerConfig) -> Schedule:
    """The schedule of a config.

    Raises:
        UserError: its options are invalid; there is no such function of the user's own.
    """
    if config.schedule in SHAPES:
        shape, options = SHAPES[config.schedule]
        return partial(shape, config, validate(config.schedule_options, options, OPTIONS))
    return partial(_own, config.lr, own_code.attribute(KEY, config.schedule), config.schedule_options)


def check_schedule(config: OptimizerConfig) -> None:
    """Tries the schedule at a few steps.

    Raises:
        UserError: see `schedule_of`; a function of the user's own fails, or returns no finite number of at least 0, or not the
            same for the same step.
    """
    schedule = schedule_of(config)
    if config.schedule in SCHEDULES:
        return
    _check_options(config)
    what = f"{KEY} {config.schedule!r}"
    steps = (0, 1, 50, 99)
    try:
        found, again = ({step: schedule(step, 100) for step in order} for order in (steps, steps[::-1]))
    except Exception as error:  # the user's code can raise anything, and the message must show it
        raise UserError(f"{what} fails:\n  {short_traceback(error)}", "correct the line that is named last") from None
    for step, rate in found.items():
        if not isinstance(rate, float) or not math.isfinite(rate) or rate < 0:
            raise UserError(
                f"{what} returns {rate / config.lr if isinstance(rate, float) else rate!r} for step {step} of 100",
                "return a factor of the learning rate, a finite number of at least 0",
            )
    if found != again:
        raise UserError(
            f"{what} returns another factor when it is called again for the same step",
            "compute it from step and total alone: a resumed run calls it from a later step on",
        )


def _check_options(config: OptimizerConfig) -> None:
    function = own_code.attribute(KEY, config.schedule)
    try:
        inspect.signature(function).bind(0, 100, **config.schedule_options)
    except TypeError as error:
        raise UserError(
            f"{KEY} {config.schedule!r} cannot be called as function(step, total, **schedule_options): {error}",
            f"correct the function, or {OPTIONS}, which is {config.schedule_options}",
        ) from None


def _own(lr: float, function: Callable[..., Any], options: dict[str, Any], step: int, total: int) -> Any:
    factor = function(step, total, **options)
    return lr * float(factor) if isinstance(factor, int | float) else factor


def _cosine(config: OptimizerConfig, options: Config, step: int, total: int) -> float:
    """Linear warm-up, then cosine decay to ``final_lr`` times the peak at the last step (Loshchilov, Hutter 2017)."""
    low = _last(config)
    return _warmed(config, step) or low + (config.lr - low) * 0.5 * (1 + math.cos(math.pi * _done(config, step, total)))


def _linear(config: OptimizerConfig, options: Config, step: int, total: int) -> float:
    """Linear warm-up, then linear decay to ``final_lr`` times the peak at the last step."""
    return _warmed(config, step) or config.lr + (_last(config) - config.lr) * _done(config, step, total)


def _constant(config: OptimizerConfig, options: Config, step: int, total: int) -> float:
    """Linear warm-up, then constant."""
    return _warmed(config, step) or config.lr


def _one_cycle(config: OptimizerConfig, options: OneCycleOptions, step: int, total: int) -> float:
    """From ``initial_lr`` to the peak, then to ``final_lr``, both along a cosine (Smith, Topin 2019)."""
    peak = max(1, round(options.rise_share * total))
    first = options.initial_lr * config.lr
    start, end, done = (
        (first, config.lr, step / peak) if step < peak else (config.lr, _last(config), (step - peak) / max(1, total - peak))
    )
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _stable(config: OptimizerConfig, options: DecayOptions, step: int, total: int) -> float:
    """Linear warm-up, constant, and in the last part of the run linear decay to ``final_lr`` (Hu et al. 2024)."""
    decay = max(1, round(options.decay_share * total))
    done = min(1.0, max(0.0, (step - total + decay) / decay))
    return _warmed(config, step) or config.lr + (_last(config) - config.lr) * done


def _warmed(config: OptimizerConfig, step: int) -> float:
    """The rate during the warm-up; 0 after it."""
    steps = config.warmup_steps or 0
    return config.lr * (step + 1) / steps if step < steps else 0.0


def _last(config: OptimizerConfig) -> float:
    return (config.final_lr or 0.0) * config.lr


def _done(config: OptimizerConfig, step: int, total: int) -> float:
    """The share of the decay after the warm-up that is done at a step."""
    steps = config.warmup_steps or 0
    return min(1.0, (step - steps) / max(1, total - steps))


SHAPES: dict[str, tuple[Callable[..., float], type[Config]]] = {
    "cosine": (_cosine, NoOptions),
    "linear": (_linear, NoOptions),
    "constant": (_constant, NoOptions),
    "one-cycle": (_one_cycle, OneCycleOptions),
    "warmup-stable-decay": (_stable, DecayOptions),
}
