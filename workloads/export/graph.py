"""The predictions of a task as one graph, by `torch.export`: what is computed of a batch of any size."""

import io
import logging
import os
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from heliostat.errors import INSTALLED, UserError
from heliostat.workloads.tabular.encoder import Numbers
from heliostat.workloads.task import Batch, Task

FIX = (
    "compute it with operations on tensors, for any number of samples (torch.where in place of if); "
    "or --to safetensors, which has the weights alone"
)


class Predictions(nn.Module):
    """What is exported of a model: a batch, a dictionary of tensors (samples, ...), -> the outputs by name.

    ``class`` (samples,), if there are classes, is the one that the task decides for, by its threshold for example.
    """

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = dict(self.outputs(batch))
        probabilities = outputs.get("probabilities")
        if probabilities is not None and probabilities.shape[1:] == (len(self._task.index.classes),):
            outputs["class"] = self._task.decide(probabilities)
        return outputs

    def outputs(self, batch: Batch) -> Mapping[str, Tensor]:
        """The outputs of the task, without ``class``."""
        return self._task.exported(self.model, batch)


def without_refusals(model: nn.Module) -> nn.Module:
    """The model, of which a gap in a column with ``fill: refuse`` makes NaN: a graph cannot raise an error. Changes it."""
    for numbers in (module for module in model.modules() if isinstance(module, Numbers)):
        numbers.fill[numbers.refused] = torch.nan
        numbers.refused = numbers.refused[:0].clone()
    return model


def used(task: Task, model: nn.Module, batch: Batch) -> list[str]:
    """The columns of a batch that the predictions are computed of."""
    read = _Read(batch)
    with torch.no_grad():
        outputs = task.exported(model, read)
    if not outputs:
        what = f"task {type(task).__name__} makes no predictions, so there is nothing to export"
        raise UserError(what, "give the task a predict method")
    return [name for name in batch if name in read.names]


class _Read(dict[str, Tensor]):
    """A batch that records which of its columns are read."""

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        self.names = set[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def trace(predictions: Predictions, batch: Batch, any_length: Collection[str]) -> ExportedProgram:
    """The graph of the predictions, for any number of samples.

    Args:
        predictions: the model, in ``eval`` mode and on the CPU.
        batch: an example of at least two samples, as an axis of one would be taken as constant.
        any_length: the columns whose second axis may have any length, too.

    Raises:
        UserError: it cannot be traced; with the operator, its module, and the line of the user's code.
    """
    samples, length = Dim("batch", min=1), Dim("length", min=1)
    axes = {name: {0: samples, 1: length} if name in any_length else {0: samples} for name in batch}
    place = _Place(predictions.model, axes)
    predictions.register_forward_pre_hook(lambda _, given: place.watch(*given))
    try:
        with quiet(), place:
            return torch.export.export(predictions, (batch,), dynamic_shapes=(axes,))
    except Exception as error:  # any: it runs the user's code with tensors that have no values
        raise _refused(place, error) from None


def _refused(place: "_Place", error: Exception) -> UserError:
    if place.constant:
        operator, module = place.constant
        why = "it takes one number of samples only, that of the example"
    else:
        failed, name = place.failed
        operator, module = name if failed and failed in _chain(error) else place.operator, place.module
        why = str(error).strip().partition("\n")[0]
    return cannot(operator, module, why, _own_line(error) if not place.constant else place.line)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def cannot(operator: str, module: str, why: str, line: str = "", fix: str = FIX) -> UserError:
    """The error of a model that has no graph."""
    where = f", in {line}" if line else ""
    return UserError(f"the model cannot be exported: operator {operator} in module {module}{where}\n  {why}", fix)


def _own_line(error: BaseException) -> str:
    """The last line of the user's own code in a traceback."""
    return _own(traceback.extract_tb(error.__traceback__))


def _own(frames: traceback.StackSummary) -> str:
    own = [frame for frame in frames if frame.filename[:1] != "<" and not _is_installed(frame.filename)]
    return f"{os.path.basename(own[-1].filename)}:{own[-1].lineno}: {own[-1].line}" if own else ""


def _is_installed(file: str) -> bool:
    return any(path(file).startswith(INSTALLED) for path in (os.path.abspath, os.path.realpath))  # an environment may be a link


class _Place(TorchFunctionMode):
    """Follows which operator of which module is traced, and where an axis of any length becomes constant."""

    def __init__(self, model: nn.Module, axes: Mapping[str, Mapping[int, Any]]) -> None:
        super().__init__()
        self._axes, self._sizes = axes, list[Any]()
        self._modules = [_described("", model)]
        self.operator, self.line = "none", ""
        self.constant: tuple[str, str] | None = None
        """Where an axis of any length became constant."""
        self.failed: tuple[Exception | None, str] = None, ""
        """The last error of an operator, and its name; the message of an error computes with tensors, too."""
        for name, module in model.named_modules():
            if name:
                module.register_forward_pre_hook(lambda inner, _, name=name: self._modules.append(_described(name, inner)))
                module.register_forward_hook(lambda *_: self._modules.pop() and None)

    @property
    def module(self) -> str:
        """The one that is being computed."""
        return self._modules[-1]

    def watch(self, batch: Batch) -> None:
        """Takes note of the axes of the traced inputs."""
        self._sizes = [batch[name].shape[axis] for name, axes in self._axes.items() for axis in axes]

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__qualname__", str(function))
        name = name.replace("TensorBase", "Tensor")
        try:
            result = function(*args, **(kwargs or {}))
        except Exception as error:
            self.failed = error, name
            raise
        self.operator = name
        if not self.constant and any(map(_is_constant, self._sizes)):
            self.constant, self.line = (self.operator, self.module), _own(traceback.extract_stack())
        return result


def _is_constant(size: Any) -> bool:
    # `node` is private (seen on torch 2.15): asking such a number itself what it is would make it constant.
    return hasattr(size, "node") and size.node.maybe_as_int() is not None


def _described(name: str, module: nn.Module) -> str:
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Drops what torch logs and prints during an export: what matters is in the error."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
