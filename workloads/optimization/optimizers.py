"""The classes of optimizers that a config can name, and the arguments that they take."""

import inspect
from collections.abc import Iterator

import torch

from heliostat import own_code
from heliostat.config import nearest
from heliostat.errors import UserError, combined
from heliostat.workloads.optimization.config import OptimizerConfig

KEY = "optimizer.type"
BUILT_IN: dict[str, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
FUSED = ("adamw", "adam")
"""Not sgd: if its first step is skipped, the fused kernel then reads an uninitialized momentum (seen on torch 2.15)."""
KEYS = {
    "lr": "set optimizer.lr",
    "weight_decay": "set optimizer.weight_decay",
    "betas": "set optimizer.beta1 and optimizer.beta2",
    "params": "the parameters are those of the model; see optimizer.groups",
}
"""Arguments that are no options, and what to do."""


def check_options(config: OptimizerConfig) -> None:
    """Checks the type of a config and its options against the constructor.

    Raises:
        UserError: there is no such class, or it is no optimizer that can be used; the message has all options it does not take.
    """
    problems = [*_problems(config, class_of(config))]
    if problems:
        raise combined(problems, "optimizer")


def class_of(config: OptimizerConfig) -> type[torch.optim.Optimizer]:
    """The class of a config's type.

    Raises:
        UserError: there is none, or its steps need a closure.
    """
    cls = BUILT_IN.get(config.type) or own_code.attribute(KEY, config.type)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise UserError(f"{KEY} is {config.type!r}, which is no torch.optim.Optimizer", "name a class that is derived from it")
    closure = inspect.signature(cls.step).parameters.get("closure")
    if closure and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"{KEY} is {config.type!r}, which computes the loss several times a step (it needs a closure)",
            "choose one that takes each gradient once, such as adamw",
        )
    return cls


def _problems(config: OptimizerConfig, cls: type[torch.optim.Optimizer]) -> Iterator[UserError]:
    arguments = inspect.signature(cls).parameters
    known = {name for name in [*arguments][1:] if name not in KEYS or (name == "betas" and config.type not in FUSED)}
    any_name = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in arguments.values())
    for name, value in config.options.items():
        if name in KEYS and name not in known:
            yield UserError(f"optimizer.options.{name} is {value!r}, but it is no option", KEYS[name])
        elif name not in known and not any_name:
            yield UserError(f"optimizer.options.{name} is no option of {config.type} (value: {value!r})", nearest(name, known))
    if "lr" not in arguments and not any_name:
        yield UserError(f"{KEY} is {config.type!r}, whose constructor takes no lr", "choose one that takes it")
    decays = [config.weight_decay, *(group.weight_decay for group in config.groups)]
    if "weight_decay" not in arguments and not any_name and any(decay is not None for decay in decays):
        yield UserError(f"optimizer.weight_decay is set, but {config.type} takes none", "remove it, from groups too")
