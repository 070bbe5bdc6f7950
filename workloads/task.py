"""The Task contract: a model, its loss and its metrics, as one small class; the training loop is Heliostat's."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from heliostat import own_code
from heliostat.config import Config, nearest, validate
from heliostat.datasets import Field, Index
from heliostat.errors import UserError

Batch = dict[str, Tensor]
MetricValue = float | Tensor | tuple[Any, ...]
Accumulator = nn.Module | Callable[..., Any]
TASKS = Path(__file__).parent / "tasks"
FOREIGN = {
    "configure_optimizers": "the optimizer is AdamW, with the config's optimizer: values; delete the method",
    "training_step": "rename it to loss(self, model, batch)",
    "validation_step": "rename it to metrics(self, model, batch), which returns a dictionary",
    "train_dataloader": "name the data with dataset: in the config; delete the method",
}
"""Methods of other frameworks that would be ignored, and what to do."""


class Task:
    """A model, its loss and its metrics on a batch; subclass it and name it ``module:Class`` in a config.

    A batch is a dictionary of tensors (samples, *shape), in the dataset's own types, on the device of the model.
    ``loss`` and the numbers in ``metrics`` are means over the samples of the batch, so that parts of any size add up.
    """

    class Options(Config):
        """The keys that ``model:`` takes in the config."""

    needs: ClassVar[dict[str, str]] = {}
    """Columns that the dataset must have: name -> dtype and number of axes of a sample, e.g. ``{"image": "uint8/3"}``;
    ``*`` stands for any dtype."""
    metric: ClassVar[str] = "loss"
    """The metric that decides which checkpoint is the best."""
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def __init__(self, index: Index, options: Any) -> None:
        self.index, self.options = index, options

    def model(self) -> nn.Module:
        """A new model; called once, after the seed is set."""
        raise NotImplementedError

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The parts of the model that are sharded, recomputed and compiled one by one; by default its ModuleLists' entries."""
        return outermost(model)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar."""
        raise NotImplementedError

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, MetricValue]:
        """The metrics of a batch; called without gradients, the model in ``eval`` mode.

        For each name its mean over the samples, a number, or what the accumulator of that name takes, a tuple. Each batch has
        the same names.
        """
        return {"loss": self.loss(model, batch)}

    def accumulators(self) -> Mapping[str, Accumulator]:
        """What computes the metrics that are no means over samples, such as RMSE, F1 and AUC, from the whole split.

        A function of tensors (samples, ...) on the CPU that returns one number, or a metric of torchmetrics, or your own
        `heliostat.Metric`; docs/metrics.md has examples.
        """
        return {}

    def predict(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The model's outputs for a batch: tensors (samples, ...), none by default.

        Classifiers return ``probabilities`` (samples, classes), from which the confusion matrix is computed.
        """
        return {}

    def read(self, value: str) -> Batch:
        """Converts one input of ``heliostat predict`` to a batch of one."""
        raise UserError(f"task {type(self).__name__} takes no input from the command line", "give the task a read method")

    def sample(self, model: nn.Module) -> str | None:
        """A sample of the model's output for the report, as text."""
        return None


def outermost(module: nn.Module) -> list[nn.Module]:
    """The entries of a module's outermost ModuleLists."""
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [entry for child in module.children() for entry in outermost(child)]


def spread(stats: dict[str, list[float]]) -> Tensor:
    """The divisor that standardizes a column: its standard deviation, or infinity, which ignores it, where it is constant.

    Constant is what varies by less than float32 resolves: the deviation is computed with rounding errors.
    """
    mean, std = (torch.tensor(stats[name], dtype=torch.float64) for name in ("mean", "std"))
    return torch.where(std > 1e-7 * mean.abs(), std, torch.inf).float()


def find(name: str) -> type[Task]:
    """Finds a task class: one of ``workloads/tasks``, or ``module:Class`` from the working directory.

    Raises:
        UserError: there is no such task, or its module fails to import (the message has a shortened traceback).
    """
    module, _, cls_name = name.partition(":")
    if not cls_name:
        known = [path.stem.replace("_", "-") for path in TASKS.glob("[a-z]*.py")]
        if name not in known:
            raise UserError(f"task is {name!r}, which is not a task", nearest(name, known) + ", or write module:Class")
        module = f"heliostat.workloads.tasks.{name.replace('-', '_')}"
        cls_name = name.title().replace("-", "")
    else:
        own_code.check_name("task", name)
    loaded = own_code.load("task", name, module)
    cls = getattr(loaded, cls_name, None)
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        tasks = [k for k, v in vars(loaded).items() if isinstance(v, type) and issubclass(v, Task) and v is not Task]
        raise UserError(
            f"task {name!r}: {module} has no Task named {cls_name}",
            nearest(cls_name, tasks) if tasks else f"write class {cls_name}(Task) there, with from heliostat import Task",
        )
    if foreign := [f"{method}: {fix}" for method, fix in FOREIGN.items() if hasattr(cls, method)]:
        raise UserError(f"task {name!r} has methods that nothing here calls", "; ".join(foreign))
    return cls


def create(name: str, options: dict[str, Any], index: Index, cls: type[Task] | None = None) -> Task:
    """Creates a task, after a check of its options and the dataset's schema; of the class that is called so, or of ``cls``.

    Raises:
        UserError: see `find`; an option is invalid; the dataset lacks a column that the task needs.
    """
    cls = cls or find(name)
    check(name, cls, index.fields)
    return cls(index, validate(options, cls.Options, "model"))


def check(name: str, cls: type[Task], fields: dict[str, Field]) -> None:
    """Raises a UserError if the dataset lacks a column that the task needs."""
    for column, need in cls.needs.items():
        field = fields.get(column)
        dtype, _, axes = need.partition("/")
        if field is None or dtype not in ("*", field.dtype) or len(field.shape) != int(axes or 0):
            has = ", ".join(f"{k}: {v}" for k, v in fields.items())
            fix = "choose a dataset that fits the task, or a task that fits the dataset"
            if column == "label" and "target" in fields:
                fix = "write the target as texts or whole numbers for classes: numbers with a decimal point are no classes"
            raise UserError(
                f"task {name} needs a column {column} ({need.replace('/', ', axes: ')}), but the dataset has {has}", fix
            )
