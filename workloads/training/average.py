"""The exponential moving average of a model's weights, with which it is evaluated."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from heliostat.workloads.training.distributed import local
from heliostat.workloads.training.parallel import Apply, reshard


class Average:
    """The average of the parameters over the steps; of a sharded model each worker has that of its shard.

    After step t, from 0, it is ``d * average + (1 - d) * parameter`` with d = min(``decay``, (1 + t) / (10 + t)), so that it
    soon forgets the untrained weights (as in TensorFlow's ExponentialMovingAverage). Buffers, and parameters that are not
    trained, are those of the model.

    Args:
        apply: of the model, parallelized.
        later: the parameters that are frozen at first.
        decay: the largest d.
    """

    def __init__(self, apply: Apply, later: Collection[str], decay: float) -> None:
        self._apply, self._decay = apply, decay
        named = apply.model.named_parameters()
        self.named = {name: parameter for name, parameter in named if parameter.requires_grad or name in later}
        # In float32 at least: a step changes it by less than half precision resolves.
        self.values = {name: _wide(local(parameter)) for name, parameter in self.named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the parameters after a step."""
        decay = min(self._decay, (1 + step) / (10 + step))
        parameters = [local(self.named[name]).to(value.dtype) for name, value in self.values.items()]
        torch._foreach_lerp_([*self.values.values()], parameters, 1 - decay)

    @torch.no_grad()
    def load(self, averaged: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
        """Continues with the tensors of a checkpoint; ``trained`` is empty if it has no average, as that of start weights."""
        for name, parameter in self.named.items():
            self.values[name].copy_(averaged[name])
            local(parameter).copy_(trained.get(name, averaged[name]))

    @torch.no_grad()
    def put(self) -> None:
        """Puts the average into the model."""
        reshard(self._apply)
        for name, parameter in self.named.items():
            local(parameter).copy_(self.values[name])

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The model with the average as its parameters."""
        reshard(self._apply)
        kept = {name: local(parameter).detach().clone() for name, parameter in self.named.items()}
        self.put()
        try:
            yield
        finally:
            reshard(self._apply)
            with torch.no_grad():
                for name, parameter in self.named.items():
                    local(parameter).copy_(kept[name])


def _wide(tensor: Tensor) -> Tensor:
    wide = torch.float32 if tensor.is_floating_point() and tensor.element_size() < 4 else tensor.dtype
    return tensor.detach().to(wide, copy=True)
