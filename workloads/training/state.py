"""The state of a model and of what updates it, as a checkpoint holds it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from heliostat.workloads.run.checkpoint import State
from heliostat.workloads.training.distributed import is_sharded, local

if TYPE_CHECKING:
    from heliostat.workloads.training.update import Update

PLAIN = (bool, int, float, str, type(None))
"""The types of values, besides tensors, that a checkpoint holds."""
UNSAVED = ("params", "lr")
"""What a group of parameters has that is not state: the rate is the schedule's."""


class OptimizerState:
    """An optimizer's state by the names of its parameters, so that it does not depend on groups and workers.

    Args:
        optimizer: new.
        named: its parameters.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> None:
        self.optimizer, self._named = optimizer, named
        self._options = [dict(group) for group in optimizer.param_groups]

    def entries(self) -> dict[str, Any]:
        """The values by ``parameter/key``, and what groups have beside their options by ``#number/key``."""
        found = {
            f"{name}/{key}": value
            for name, parameter in self._named.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        for number, (group, options) in enumerate(zip(self.optimizer.param_groups, self._options, strict=True)):
            changed = {key: value for key, value in group.items() if key not in UNSAVED and value is not options.get(key)}
            found |= {f"#{number}/{key}": value for key, value in changed.items() if type(value) in PLAIN}
        return found

    def load(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Continues with the values of a checkpoint, of sharded parameters with this worker's rows."""
        by_parameter: dict[str, dict[str, Any]] = {}
        for place, value in {**tensors, **numbers}.items():
            name, _, key = place.rpartition("/")
            by_parameter.setdefault(name, {})[key] = value
        names = {id(parameter): name for name, parameter in self._named.items()}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        packed = self.optimizer.state_dict()
        packed["state"] = {
            number: {key: _like(parameter, value) for key, value in by_parameter[names[id(parameter)]].items()}
            for number, parameter in enumerate(parameters)
            if names[id(parameter)] in by_parameter
        }
        self.optimizer.load_state_dict(packed)
        for number, group in enumerate(self.optimizer.param_groups):
            group.update(by_parameter.get(f"#{number}", {}))


def state_of(model: nn.Module, update: "Update | None") -> State:
    """The state that a checkpoint holds, without copies; of sharded tensors this worker's rows."""
    rows: dict[str, int] = {}

    def own(section: str, name: str, tensor: Tensor) -> Tensor:
        if is_sharded(tensor):
            rows[f"{section}/{name}"] = len(tensor)
        return local(tensor)

    # First, because state_dict() reshards parameters that an evaluation has left gathered.
    tensors = {name: own("model", name, tensor) for name, tensor in model.state_dict().items()}
    state: State = {"model": tensors, "optimizer": {}, "trained": {}, "scaler": {}, "numbers": {}, "rows": rows}
    if update is None:
        return state
    for name, value in update.saved.entries().items():
        is_tensor = isinstance(value, Tensor)
        state["optimizer" if is_tensor else "numbers"][name] = own("optimizer", name, value) if is_tensor else value
    if update.scaler:
        state["scaler"] = update.scaler.state
    if average := update.average:
        state["trained"] = {name: own("trained", name, parameter) for name, parameter in average.named.items()}
        names = {id(parameter): name for name, parameter in average.named.items()}
        every = [(name, names.get(id(parameter))) for name, parameter in model.named_parameters(remove_duplicate=False)]
        state["model"] = tensors | {name: average.values[first] for name, first in every if first is not None}
    return state


def sharded_names(model: nn.Module) -> set[str]:
    """The parameters that are sharded."""
    return {name for name, tensor in model.state_dict().items() if is_sharded(tensor)}


def load_model(model: nn.Module, state: State) -> None:
    """Loads the state that `Checkpoint.read` returned for ``sharded_names(model)`` into the model."""
    there = model.state_dict()
    model.load_state_dict({name: _like(there.get(name), tensor) for name, tensor in state["model"].items()})


def load_update(update: "Update", state: State) -> None:
    """Loads the other parts of that state, after `load_model`."""
    update.saved.load(state["optimizer"], state["numbers"])
    if update.scaler:
        update.scaler.load(state["scaler"])
    if update.average:
        update.average.load(state["model"], state["trained"])


def _like(there: Tensor | None, rows: Any) -> Any:
    """Converts this worker's rows to a DTensor if the current tensor is one."""
    if there is None or not is_sharded(there) or not isinstance(rows, Tensor) or rows.ndim == 0:
        return rows
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows.to(there.device), there.device_mesh, there.placements, run_check=False, shape=there.shape, stride=there.stride()
    )
