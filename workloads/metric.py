"""Metrics that accumulate over the batches and the workers of an evaluation, in the shape of torchmetrics' ``Metric``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Accumulator = nn.Module | Callable[..., Any]
"""What takes the values of a metric: a function of all samples, or a metric."""
Reduction = Callable[[Tensor], Tensor]
REDUCTIONS: dict[str, Reduction] = {
    "sum": lambda parts: parts.sum(0),
    "max": lambda parts: parts.amax(0),
    "min": lambda parts: parts.amin(0),
}


class Metric(nn.Module):
    """A metric of a whole split: ``update`` takes a batch, ``compute`` returns one number.

    ``__init__`` declares the states with `add_state`; ``update`` changes no other attributes.
    """

    higher_is_better: bool | None = None
    """Whether a higher one is better, as in torchmetrics; None where its name says it, or the config."""

    def __init__(self) -> None:
        super().__init__()
        self._defaults: dict[str, Tensor | list[Tensor]] = {}
        # With this name, as in torchmetrics: an evaluation combines the states of its metrics and of ours in the same way.
        self._reductions: dict[str, Reduction | None] = {}

    def add_state(self, name: str, default: Tensor | list[Tensor], dist_reduce_fx: str | Reduction | None = None) -> None:
        """Declares a state, which becomes an attribute.

        Args:
            name: of the attribute.
            default: the value before the first batch: a tensor, or an empty list, to which ``update`` appends tensors.
            dist_reduce_fx: makes one tensor of those of several workers, stacked to (workers, *shape): ``sum``, ``max``,
                ``min`` or a function. Lists need none: they are concatenated, in the order of the split.

        Raises:
            ValueError: the default or the reduction is none of these.
        """
        reduce = REDUCTIONS.get(dist_reduce_fx) if isinstance(dist_reduce_fx, str) else dist_reduce_fx
        if isinstance(default, Tensor):
            if reduce is None:
                # Not "mean", as in torchmetrics: it is wrong for workers with unequal numbers of samples.
                raise ValueError(
                    f"dist_reduce_fx of state {name!r} must be one of {', '.join(REDUCTIONS)} or a function, "
                    f"but got {dist_reduce_fx!r}; for a mean, keep a sum and a count"
                )
            self.register_buffer(name, default.clone(), persistent=False)
        elif default == [] and dist_reduce_fx in (None, "cat"):
            setattr(self, name, [])
        else:
            raise ValueError(
                f"default of state {name!r} must be a tensor, or an empty list without dist_reduce_fx, "
                f"but got {default!r} with {dist_reduce_fx!r}"
            )
        self._defaults[name], self._reductions[name] = default, reduce

    def update(self, *values: Any) -> None:
        """Adds a batch: what the task's ``metrics`` returned for it."""
        raise NotImplementedError

    def compute(self) -> Any:
        """The metric of all samples, one number; the states are then on the CPU."""
        raise NotImplementedError

    def reset(self) -> None:
        """Sets the states to their defaults."""
        for name, default in self._defaults.items():
            setattr(self, name, default.to(getattr(self, name).device, copy=True) if isinstance(default, Tensor) else [])


class Mean(Metric):
    """The mean of a number over the samples, with sums in float64."""

    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("samples", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, value: Any, samples: int) -> None:
        """Adds the mean over so many samples."""
        number = value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
        if not number.is_floating_point():
            number = number.double()
        # In its own precision, in which the mean of a batch times its samples is the batch's sum again: counts stay whole.
        self.total += number.reshape(()) * samples
        self.samples += samples

    def compute(self) -> Tensor:
        return self.total / self.samples


class OfAllSamples(Metric):
    """A function of tensors (samples, ...) of the whole split, which are kept on the CPU."""

    batches: list[Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function
        self.add_state("batches", [])

    def update(self, *values: Tensor) -> None:
        self.batches.append(tuple(value.cpu() for value in values))

    def compute(self) -> Any:
        return self._function(*map(torch.cat, zip(*self.batches, strict=True)))


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of samples whose highest logit, of (samples, classes), is that of their class (samples,).

    NaN if a logit is: argmax would return its place, as if that class were predicted.
    """
    share = (logits.argmax(1) == labels).float().mean()
    return share.masked_fill(logits.isnan().any(), torch.nan)
