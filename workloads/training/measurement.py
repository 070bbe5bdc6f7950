"""Accumulates a task's metrics over the batches of a split and over the workers."""

import copy
import numbers
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heliostat.config import nearest
from heliostat.errors import UserError
from heliostat.wording import counted
from heliostat.workloads.metric import Mean, Metric, OfAllSamples
from heliostat.workloads.task import Task
from heliostat.workloads.training.distributed import Ranks

MODULE = vars(Metric()).keys()
"""The attributes that each of our metrics has."""
State = list[dict[str, Any]]
"""The states of a metric and of the metrics that it is made of, on the CPU."""


class Measurement:
    """One measurement of a task's metrics: `add` for each batch, then `compute`, on all workers.

    Raises:
        UserError: an entry of the task's accumulators cannot accumulate.
    """

    def __init__(self, task: Task, ranks: Ranks) -> None:
        self._task, self._ranks = task, ranks
        self._accumulators = _accumulators(task)
        self._metrics: dict[str, Any] = {}
        self._samples = 0

    def add(self, measured: Any, rows: int, samples: int) -> None:
        """Adds what ``metrics`` returned for a batch of this worker.

        Args:
            measured: a value for each name.
            rows: of the batch.
            samples: how many of them count; 0 for a batch that only keeps this worker in step with the others.

        Raises:
            UserError: a value cannot be used, or a name is missing; the message lists all of them.
        """
        if not self._metrics and isinstance(measured, Mapping) and _inherited(self._task):
            # What a subclass measures in its own way, or not at all, needs none of them.
            self._accumulators = {k: v for k, v in self._accumulators.items() if isinstance(measured.get(k), tuple)}
        if problems := [*self._problems(measured, rows)]:
            raise _refused(self._task, problems)
        if not self._metrics:
            self._metrics = {name: self._new(name) for name in measured}
        if not samples:
            return
        before = {} if self._samples else self._not_states()
        for name, value in measured.items():
            if name in self._accumulators:
                self._metrics[name].update(*(value if isinstance(value, tuple) else (value,)))
            else:
                self._metrics[name].update(value, samples)
        if not self._samples and (changed := before.items() ^ self._not_states().items()):
            lost = sorted(
                {f"accumulator {name} changes {key}, which it must declare with add_state" for (name, key), _ in changed}
            )
            raise _refused(self._task, lost)
        self._samples += samples

    def compute(self) -> dict[str, float]:
        """The metrics over all batches of all workers, the same on each. Rank 0 must have samples.

        Raises:
            UserError: an accumulator computes something else than one number; the workers have different metrics.
        """
        mine = {name: _state(metric) for name, metric in self._metrics.items()} if self._samples else None
        gathered = [states for states in self._ranks.gather_object(mine) if states is not None]
        return self._ranks.broadcast(self._combined(gathered) if self._ranks.rank == 0 else {})

    def _new(self, name: str) -> Any:
        """A metric in its initial state, on the device of the model."""
        if name not in self._accumulators:
            return Mean().to(self._ranks.device)
        metric = copy.deepcopy(self._accumulators[name]).to(self._ranks.device)  # the task may keep its own
        metric.reset()
        return metric

    def _not_states(self) -> dict[tuple[str, str], str]:
        """The attributes of our metrics that are no states, as text: what they accumulate on other workers would be lost."""
        ours = {name: metric for name, metric in self._metrics.items() if isinstance(metric, Metric)}
        return {
            (name, key): repr(value)
            for name, metric in ours.items()
            for key, value in vars(metric).items()
            if key not in metric._reductions and key not in MODULE
        }

    def _problems(self, measured: Any, rows: int) -> Iterator[str]:
        if not isinstance(measured, Mapping):
            yield f"metrics returns {_kind(measured)}, but must return a dictionary"
            return
        for name, value in measured.items():
            if not isinstance(name, str):
                yield f"{name!r} is the name of a metric, but must be a text"
            elif name not in self._accumulators and not _is_number(value):
                yield f"{name} is {_kind(value)}, but must be one number, or have an entry in accumulators"
            elif isinstance(self._accumulators.get(name), OfAllSamples):
                for part in value if isinstance(value, tuple) else (value,):
                    if not isinstance(part, Tensor) or part.shape[:1] != (rows,):
                        yield (
                            f"{name} has {_kind(part)}, but must have tensors (samples, ...), here of {counted(rows, 'sample')}"
                        )
        for name in self._accumulators.keys() - measured.keys():
            yield f"{name} is in accumulators, but metrics does not return it"
        if self._task.metric not in measured:
            best, names = self._task.metric, [*map(str, measured)]
            yield f"metric is {best!r}, but its metrics are {', '.join(names)}; {nearest(best, names)}"
        elif self._task.better is None:
            best = self._task.metric
            yield f"metric is {best}, but whether a higher {best} is better is not known; write {{{best}: higher}}, or lower"
        for name in self._metrics.keys() ^ measured.keys() if self._metrics else ():
            yield f"{name} is not in all batches, but each batch must have the same metrics"

    def _combined(self, gathered: list[dict[str, State]]) -> dict[str, float]:
        """Computes the metrics from the states of the workers that have samples, by rank."""
        if different := {name for states in gathered for name in states.keys() ^ gathered[0].keys()}:
            raise _refused(self._task, [f"{name} is not on all workers, but each must have it" for name in sorted(different)])
        computed = {name: _compute(metric, [states[name] for states in gathered]) for name, metric in self._metrics.items()}
        if wrong := [name for name, value in computed.items() if not _is_number(value)]:
            raise _refused(
                self._task, [f"accumulator {name} gives {_kind(computed[name])}, but must give one number" for name in wrong]
            )
        first = self._task.metric  # people look for it in every line
        return {name: float(computed[name]) for name in sorted(computed, key=lambda name: name != first)}


def _accumulators(task: Task) -> dict[str, Any]:
    """The task's accumulators, functions as metrics."""
    problems, found, all_given = [], {}, task.accumulators()
    if not isinstance(all_given, Mapping):
        raise _refused(task, [f"accumulators returns {_kind(all_given)}, but must return a dictionary"])
    for name, given in all_given.items():
        if isinstance(given, nn.Module) and hasattr(given, "_reductions"):
            found[name] = given
        elif isinstance(given, type) or not callable(given) or hasattr(given, "compute"):
            problems.append(
                f"accumulator {name} is {_kind(given)}, but must be a function, or one Metric, of torchmetrics or heliostat"
            )
        else:
            found[name] = OfAllSamples(given)
    if problems:
        raise _refused(task, problems)
    return found


def _inherited(task: Task) -> bool:
    """Whether the accumulators are those of a class above the one whose ``metrics`` are used, which may be others."""
    first = {name: next(cls for cls in type(task).__mro__ if name in vars(cls)) for name in ("metrics", "accumulators")}
    return first["metrics"] is not first["accumulators"] and issubclass(first["metrics"], first["accumulators"])


def _parts(metric: nn.Module) -> list[Any]:
    """A metric and those that it is made of, such as in a composition of torchmetrics."""
    return [part for part in metric.modules() if hasattr(part, "_reductions")]


def _state(metric: nn.Module) -> State:
    return [{name: _on_cpu(getattr(part, name)) for name in part._reductions} for part in _parts(metric)]


def _on_cpu(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_on_cpu, value))
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _compute(metric: Any, states: list[State]) -> Any:
    """Computes a metric of this worker from its states on all workers that have samples."""
    metric.to("cpu")
    for part, *found in zip(_parts(metric), *states, strict=True):
        # Torchmetrics would combine the states itself, on the devices of the workers, and wrongly for workers without samples.
        part.distributed_available_fn = lambda: False
        for name, reduce in part._reductions.items():
            setattr(part, name, merged(name, [state[name] for state in found], reduce))
    return metric.compute()


def merged(name: str, states: list[Any], reduce: Any) -> Any:
    """One state from those of several workers, as if one worker had accumulated all."""
    if len(states) == 1:
        return states[0]
    if isinstance(states[0], list):
        return [entry for state in states for entry in state]
    stacked = torch.stack(states)
    if getattr(reduce, "__name__", "") == "dim_zero_mean" and not (stacked == stacked[0]).all():
        raise UserError(
            f"state {name!r} of a metric is averaged over workers, which is wrong if they have unequal numbers of samples",
            "let the metric keep a sum and a count instead",
        )
    return stacked if reduce is None else reduce(stacked)


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, numbers.Real | np.bool_)


def _kind(value: Any) -> str:
    """What a value is, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"a {type(value).__name__}"


def _refused(task: Task, problems: list[str]) -> UserError:
    return UserError(
        f"the metrics of task {type(task).__name__} cannot be used:\n    " + "\n    ".join(sorted(problems)),
        "correct the config's metric, or metrics and accumulators of the task; docs/metrics.md describes them",
    )
