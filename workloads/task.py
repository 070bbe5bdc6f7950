"""The Task contract: a model, its loss and its metrics, as one small class; the training loop is Heliostat's."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import pyarrow as pa
import torch
from torch import Tensor, nn

from heliostat import own_code
from heliostat.config import Config, nearest, validate
from heliostat.datasets import Field, Index
from heliostat.datasets.signature import CATEGORIES, FEATURES, LABEL, TARGET, Oddities, Signature
from heliostat.errors import UserError, some
from heliostat.workloads.config import BETTER, Better
from heliostat.workloads.metric import Accumulator as Accumulator
from heliostat.workloads.tabular import older
from heliostat.workloads.tabular.encoder import Encoder

if TYPE_CHECKING:
    from heliostat.datasets import Dataset
    from heliostat.workloads.training.distributed import Ranks

Batch = dict[str, Tensor]
MetricValue = float | Tensor | tuple[Any, ...]
TASKS = Path(__file__).parent / "tasks"
FOREIGN = {
    **dict.fromkeys(
        ("configure_optimizers", "optimizer", "optimizers"),
        "the optimizer is the config's, so that it is sharded and resumed: set optimizer.type, .schedule and .groups; for "
        "several, write parts into the class (docs/training.md)",
    ),
    **dict.fromkeys(("optimizer_step", "lr_scheduler_step", "manual_backward"), "the loop does it; delete the method"),
    "training_step": "rename it to loss(self, model, batch)",
    "validation_step": "rename it to metrics(self, model, batch), which returns a dictionary",
    **dict.fromkeys(
        ("train_dataloader", "val_dataloader", "test_dataloader"),
        "name the data with dataset: in the config; delete the method",
    ),
    **dict.fromkeys(
        ("on_train_start", "on_train_batch_end", "on_train_epoch_end", "on_validation_epoch_end", "on_train_end"),
        "write it as a hook of a Callback (docs/training.md)",
    ),
}
"""Methods of other frameworks that would be ignored, and what to do."""


class Trainer(Protocol):
    """Trains a model by rounds over the whole train split; after each, the model is the same on all workers."""

    rate: float
    """The learning rate, for the records."""

    def __call__(self, step: int) -> tuple[Tensor, int]:
        """Trains round ``step``, from 0; returns the mean loss of this worker's samples after it, and their number."""


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
    takes: ClassVar[tuple[str, ...]] = ()
    """What of a table the task takes beside complete numbers: ``categories``, and ``missing`` numbers (NaN in ``features``).
    A dataset with more is refused. ``("categories", "missing")`` is right for a model that begins with `encoder`."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Submodules of the model, such as ``("discriminator", "generator")``, that each step trains one after the other, each by
    its own loss: ``loss(model, batch, part)``. One that is named twice is trained twice."""
    any_length: ClassVar[tuple[str, ...]] = ()
    """Columns of sequences, which an exported model takes as int64 with any length (the first axis of a sample)."""
    metric: str = "loss"
    """The metric that decides which checkpoint is the best; that of the config, if it names one."""
    better: Better | None = "lower"
    """None if that is not known of a metric that the config names, which is refused."""

    def __init__(self, index: Index, options: Any) -> None:
        self.index, self.options = index, options

    def model(self) -> nn.Module:
        """A new model; called once, after the seed is set."""
        raise NotImplementedError

    def pretrained(self, model: nn.Module) -> None:
        """Loads pretrained weights into a new model, on the CPU; docs/finetuning.md has examples.

        Called on each worker of a run that has no checkpoint yet, never for a resumed run, an evaluation or a prediction: what
        it reads is not needed any more once the first checkpoint is there.
        """

    def encoder(self) -> Encoder:
        """For ``model``: a module that makes dense numbers (samples, ``width``) of a batch of a table.

        Numbers are scaled and without gaps, categories are vectors; it has ``width``, and its state is in the checkpoint.
        """
        return Encoder(self.index)

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The parts of the model that are sharded, recomputed and compiled one by one; by default its ModuleLists' entries."""
        return outermost(model)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar; with ``parts``, ``loss(self, model, batch, part)`` is that of a part."""
        raise NotImplementedError

    def trainer(self, model: nn.Module, dataset: "Dataset", ranks: "Ranks", seed: int) -> Trainer:
        """What trains a model that has no gradients, such as trees, from the state that it has; called once on each worker.

        A task with this method trains by rounds: each step is a call of the trainer, and the keys of batches, the optimizer and
        autograd are refused. The state of the model must be complete in its ``state_dict``; whatever is random must be a
        function of the seed, the step and the rank, so that a resumed run has the same result.
        """
        raise NotImplementedError

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, MetricValue]:
        """The metrics of a batch; called without gradients, the model in ``eval`` mode.

        For each name its mean over the samples, a number, or what the accumulator of that name takes, a tuple. Each batch has
        the same names. By default the loss; with ``parts`` the sum of the losses, and each one, ``PART_loss``.
        """
        if not self.parts:
            return {"loss": self.loss(model, batch)}
        losses = {f"{part}_loss": loss_of(self, part)(model, batch) for part in self.parts}
        return {"loss": torch.stack([*losses.values()]).sum(), **losses}

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

    def exported(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """What an exported model computes of a batch: by default the outputs of ``predict``.

        It becomes a graph without Python, so a task whose ``predict`` is a loop, such as one that samples text, has its own.
        """
        return self.predict(model, batch)

    def decide(self, probabilities: Tensor) -> Tensor:
        """The class (samples,) that probabilities (samples, classes) stand for: by default the most probable."""
        return probabilities.argmax(1)

    def read(self, value: str) -> Batch:
        """Converts one input of ``heliostat predict`` to a batch of one, if that is no row of a table, see `rows`."""
        if not self.index.signature and (field := self.index.fields.get(FEATURES)) and len(field.shape) == 1:
            return older.read_row(self.index, value)
        raise UserError(f"task {type(self).__name__} takes no input from the command line", "give the task a read method")

    def rows(self, table: pa.Table) -> tuple[Batch, Oddities]:
        """Converts raw rows of a table to a batch, and says what is odd in them; by default as the dataset's signature encodes.

        Raises:
            UserError: the dataset has no signature, or the rows cannot be read as its; the message lists all problems.
        """
        if self.index.signature is None:
            raise UserError(f"task {type(self).__name__} has no dataset of a table", "give one input after the other")
        columns, oddities = self.index.signature.encode(table)
        return {name: torch.from_numpy(values) for name, values in columns.items()}, oddities

    @property
    def reads_rows(self) -> bool:
        """Whether `rows` reads raw rows otherwise than as the dataset's signature encodes them."""
        return type(self).rows is not Task.rows

    def importance(self, model: nn.Module) -> Mapping[str, float] | None:
        """The share of each column in what the model has learnt, by name, for the report; None where that is not known."""
        return None

    def sample(self, model: nn.Module) -> str | None:
        """A sample of the model's output for the report, as text."""
        return None


def by_rounds(cls: type[Task]) -> bool:
    """Whether a task trains by rounds over the whole train split, without gradients."""
    return cls.trainer is not Task.trainer


def loss_of(task: Task, part: str) -> Callable[[nn.Module, Batch], Tensor]:
    """The loss of a part."""
    loss: Any = task.loss
    return partial(loss, part=part)


def loads_weights(cls: type[Task]) -> bool:
    """Whether a task loads pretrained weights into its model."""
    return cls.pretrained is not Task.pretrained


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


def bundled() -> list[str]:
    """The names of the tasks that come with the package."""
    return sorted(path.stem.replace("_", "-") for path in TASKS.glob("[a-z]*.py"))


def find(name: str) -> type[Task]:
    """Finds a task class: one of ``workloads/tasks``, or ``module:Class`` from the working directory.

    Raises:
        UserError: there is no such task, or its module fails to import (the message has a shortened traceback).
    """
    module, _, cls_name = name.partition(":")
    if not cls_name:
        known = bundled()
        if name not in known:
            raise UserError(f"task is {name!r}, which is not a task", nearest(name, known) + ", or write module:Class")
        module = f"heliostat.workloads.tasks.{name.replace('-', '_')}"
        cls_name = name.title().replace("-", "")
    else:
        own_code.check_name("task", name)
    cls = own_code.class_of("task", name, module, cls_name, Task)
    if foreign := [f"{method}: {fix}" for method, fix in FOREIGN.items() if hasattr(cls, method)]:
        raise UserError(f"task {name!r} has methods that nothing here calls", "; ".join(foreign))
    _check_parts(name, cls)
    return cls


def _check_parts(name: str, cls: type[Task]) -> None:
    if not (isinstance(cls.parts, tuple) and all(isinstance(part, str) for part in cls.parts)):
        raise UserError(f"task {name!r}: parts is {cls.parts!r}", 'name submodules: parts = ("discriminator", "generator")')
    takes = inspect.signature(cls.loss).parameters
    if cls.parts and "part" not in takes and cls.loss is not Task.loss:
        raise UserError(
            f"task {name!r} has parts {', '.join(cls.parts)}, but its loss takes ({', '.join(takes)})",
            "write loss(self, model, batch, part), the loss by which that part is trained",
        )


def create(
    name: str,
    options: dict[str, Any],
    index: Index,
    cls: type[Task] | None = None,
    metric: str | Mapping[str, Better] | None = None,
) -> Task:
    """Creates a task, after a check of its options and the dataset's schema; of the class that is called so, or of ``cls``.

    Its metric is ``metric``, if that is given.

    Raises:
        UserError: see `find`; an option is invalid; the dataset lacks a column that the task needs.
    """
    cls = cls or find(name)
    check(name, cls, index.fields, index.signature)
    task = cls(index, validate(options, cls.Options, "model"))
    if metric is not None:
        task.metric, task.better = _decides(task, metric)
    return task


def _decides(task: Task, metric: str | Mapping[str, Better]) -> tuple[str, Better | None]:
    """The name of a config's metric, and what is better: as the config says, the task, its accumulator, or the name."""
    if not isinstance(metric, str):
        return next(iter(metric.items()))
    if metric == task.metric:
        return metric, task.better
    accumulators = task.accumulators()
    accumulator = accumulators.get(metric) if isinstance(accumulators, Mapping) else None
    higher = getattr(accumulator, "higher_is_better", None)
    return metric, BETTER.get(metric) if higher is None else "higher" if higher else "lower"


def check(name: str, cls: type[Task], fields: dict[str, Field], signature: Signature | None = None) -> None:
    """Raises a UserError if the dataset lacks a column that the task needs, or has what it would not learn from."""
    if signature:
        _check_target(name, cls, signature)
    for column, need in cls.needs.items():
        if column == FEATURES and CATEGORIES in cls.takes and CATEGORIES in fields and FEATURES not in fields:
            continue
        field = fields.get(column)
        dtype, _, axes = need.partition("/")
        if field is None or dtype not in ("*", field.dtype) or len(field.shape) != int(axes or 0):
            has = ", ".join(f"{k}: {v}" for k, v in fields.items())
            fix = "choose a dataset that fits the task, or a task that fits the dataset"
            if column in (LABEL, TARGET) and TARGET in fields and not signature:
                # Older versions kept a number that was not meant for a bundled task.
                fix = "build it again, since an older version has built it; then its message says which task fits"
            raise UserError(
                f"task {name} needs a column {column} ({need.replace('/', ', axes: ')}), but the dataset has {has}", fix
            )
    if signature:
        _check_taken(name, cls, signature)


OTHER = {
    LABEL: ("classes", "number", "a number", "tabular-regression", "class", "its values as classes"),
    TARGET: ("a number", "class", "one of {classes} classes", "tabular-classification", "number", "it as a number"),
}
"""Of each kind of target: what a task of it learns, the other kind, what that is, its task, and how to get this kind."""


def _check_target(name: str, cls: type[Task], signature: Signature) -> None:
    target = signature.target
    for column, (learns, other, found, task, force, values) in OTHER.items():
        if column in cls.needs and target.kind == other:
            raise UserError(
                f"task {name} learns {learns}, but the target {target.name!r} is {found.format(classes=len(target.classes))}",
                f"write task: {task}, or dataset.options.target_type: {force}, which learns {values}",
            )


def _check_taken(name: str, cls: type[Task], signature: Signature) -> None:
    gaps = [column.name for column in signature.numeric if column.missing]
    lost = {CATEGORIES: [column.name for column in signature.categorical], "missing": gaps}
    words = {CATEGORIES: "categories in", "missing": "missing values in"}
    problems = [
        f"{words[kind]} {some(map(repr, columns), 8)}" for kind, columns in lost.items() if columns and kind not in cls.takes
    ]
    if problems:
        raise UserError(
            f"the dataset has {' and '.join(problems)}, which task {name} does not take",
            'begin the model with self.encoder(), and write takes = ("categories", "missing") into the class (docs/tables.md '
            "has an example); or leave the columns out with dataset.options.drop",
        )
