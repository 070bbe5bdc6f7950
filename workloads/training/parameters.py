"""The parameters of a model by patterns of their names: groups with their own rates, depths, and what is frozen."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from heliostat.errors import UserError, combined, some
from heliostat.workloads.optimization.config import OptimizerConfig
from heliostat.workloads.training.buffers import running_norms

OTHERS = "others"


@dataclass(frozen=True)
class Group:
    """Parameters with the same learning rate and weight decay."""

    label: str
    """What decides the rate: the pattern, or ``others``; with ``layer_decay`` also the layer."""
    lr_scale: float
    weight_decay: float | None
    """None: that of the optimizer's constructor."""
    parameters: list[nn.Parameter]


def groups_of(model: nn.Module, blocks: Sequence[nn.Module], config: OptimizerConfig, task: str = "") -> list[Group]:
    """The parameters by pattern (the first that matches counts), layer and weight decay, which biases and norms do not have.

    Args:
        model: parallelized or not.
        blocks: its layers, for ``layer_decay``.
        config: of the optimizer.
        task: its name, for messages.

    Raises:
        UserError: a pattern matches no parameter that is left; ``layer_decay`` is set, and there are no blocks.
    """
    patterns = [group.match for group in config.groups]
    check_patterns(model, patterns, "optimizer.groups", first_counts=True)
    layers = _layers(model, blocks, config, task)
    found: dict[tuple[str, float, float | None], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        own = next((group for group in config.groups if fnmatchcase(name, group.match)), None)
        decay = config.weight_decay if parameter.ndim >= 2 or config.weight_decay is None else 0.0
        decay = own.weight_decay if own and own.weight_decay is not None else decay
        layer, factor = layers.get(name, ("", 1.0))
        key = (f"{own.match if own else OTHERS}{layer}", (own.lr_scale if own else 1.0) * factor, decay)
        found.setdefault(key, []).append(parameter)
    # torch takes an empty group, but no optimizer without one: a model without parameters is refused by the try, in its words.
    return [Group(*key, parameters) for key, parameters in found.items()] or [Group(OTHERS, 1.0, config.weight_decay, [])]


def check_patterns(model: nn.Module, patterns: Sequence[str], key: str, first_counts: bool) -> None:
    """Raises a UserError that lists the patterns which match no parameter, or none that those before them leave."""
    names = [name for name, _ in model.named_parameters()]
    problems, left = [], set(names)
    for pattern in patterns:
        matched = {name for name in names if fnmatchcase(name, pattern)}
        if not matched:
            problems.append(UserError(f"{key}: {pattern!r} matches no parameter of the model", _nearest(pattern, model, names)))
        elif first_counts and not matched & left:
            problems.append(UserError(f"{key}: all that {pattern!r} matches belongs to groups before it", "put it first"))
        left -= matched
    if problems:
        raise combined(problems, key)


def _nearest(pattern: str, model: nn.Module, names: Sequence[str]) -> str:
    modules = [f"{name}.*" for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    close = difflib.get_close_matches(pattern, [*modules, *names], n=3, cutoff=0.5)
    top = list(dict.fromkeys(name.partition(".")[0] + (".*" if "." in name else "") for name in names))
    return f"did you mean {' or '.join(close)}?" if close else f"the model has {some(top, 8)}"


def _layers(model: nn.Module, blocks: Sequence[nn.Module], config: OptimizerConfig, task: str) -> dict[str, tuple[str, float]]:
    """By parameter its layer, for labels, and ``layer_decay`` to the number of layers above it (Bao et al. 2021, BEiT).

    What is registered before the first block is the layer below it, what is after the last one is the layer above.
    """
    if config.layer_decay is None:
        return {}
    if not blocks:
        raise UserError(
            f"optimizer.layer_decay is {config.layer_decay}, but the model of task {task} has no blocks",
            "give the task a method blocks(model), or set optimizer.layer_decay to null",
        )
    of_blocks = {id(parameter): number for number, block in enumerate(blocks, 1) for parameter in block.parameters()}
    named = list(model.named_parameters())
    last = max((place for place, (_, parameter) in enumerate(named) if id(parameter) in of_blocks), default=0)
    found, layer, top = {}, 0, len(blocks) + 1
    for place, (name, parameter) in enumerate(named):
        layer = of_blocks.get(id(parameter), layer) if place <= last else top
        found[name] = (f" layer {layer}", config.layer_decay ** (top - layer))
    return found


class Frozen:
    """The parameters that ``freeze`` keeps from being trained, and the batch norm that it keeps in ``eval`` mode.

    Args:
        model: before it is parallelized; changed in place.
        config: of the optimizer.

    Raises:
        UserError: a pattern matches no parameter, or no parameter is left to train.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        check_patterns(model, config.freeze, "optimizer.freeze", first_counts=False)
        self._until = config.freeze_steps

        def matches(name: str) -> bool:
            return any(fnmatchcase(name, pattern) for pattern in config.freeze)

        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._names = [name for name in trained if matches(name)]
        if trained and len(self._names) == len(trained):
            raise UserError(f"optimizer.freeze is {config.freeze}, which leaves no parameter to train", "freeze fewer")
        norms = {id(layer) for layer in running_norms(model)} if config.freeze else set()
        self._norms = [layer for name, layer in model.named_modules() if id(layer) in norms and matches(f"{name}.running_mean")]
        self.later = self._names if self._until else []
        """The parameters that are trained later."""
        for name in self._names:
            trained[name].requires_grad_(False)
        for layer in self._norms:
            layer.eval()

    def end(self, step: int, parameters: Mapping[str, nn.Parameter]) -> bool:
        """Lets the parameters be trained from step ``freeze_steps`` on, counted from 0; whether it has just done so."""
        if self._until is None or step < self._until:
            return False
        self._until = None
        for name in self._names:
            parameters[name].requires_grad_(True)
        for layer in self._norms:
            layer.train()
        return True
