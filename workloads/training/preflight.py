"""Tries a task on a few samples of its data before a run starts, so that a mistake in it costs no GPU and no hour.

The workers try the metrics once more, on their own device, see `try_metrics`.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from heliostat.datasets import Dataset
from heliostat.errors import HeliostatError, UserError, short_traceback, some
from heliostat.wording import counted
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.run.length import order_of, steps_of
from heliostat.workloads.task import Batch, Task, by_rounds, create, loads_weights
from heliostat.workloads.training.assessment import kind_of
from heliostat.workloads.training.distributed import Ranks
from heliostat.workloads.training.evaluation import batch_of, eval_mode
from heliostat.workloads.training.groups import check_columns
from heliostat.workloads.training.limits import SECONDS, Undecided, limited_memory, limited_time
from heliostat.workloads.training.measurement import Measurement
from heliostat.workloads.training.parallel import Apply
from heliostat.workloads.training.parts import Part
from heliostat.workloads.training.rounds import Rounds
from heliostat.workloads.training.step import Step

Load = Callable[[Task, nn.Module], list[str]]
FEW, MORE = 2, 16
"""Samples of a try: two, because of one a vector of all samples would pass for a number; and for metrics that are no means."""
DEVICES = ("cuda", "nvidia", "gpu", "triton", "hip", "backend", "not implemented for")
"""Words in the errors of code that runs only on a GPU."""
VARIED = {"auc": "label", "average_precision": "label", "r2": "target"}
"""Metrics that are not defined where all samples have the same value in a column."""
DEGENERATE = (ValueError, ArithmeticError)
"""Errors of a metric that a few samples may cause, such as an AUC of a single class."""


@dataclass(frozen=True)
class Tried:
    """What a try has found."""

    metrics: tuple[str, ...] = ()
    """The names of the task's metrics; none if the try did not get there."""
    notes: tuple[str, ...] = ()
    """What the user should know."""


def try_task(config: TrainConfig, dataset: Dataset, load: Load = lambda task, model: []) -> Tried:
    """Tries the model, its loss with the backward pass, all metrics and the predictions of a task, on the CPU.

    Args:
        config: of the run.
        dataset: of the run.
        load: loads the weights that the run starts from into its new model; returns what to report.

    Raises:
        UserError: the task cannot be trained; the message has the place in the user's code.
    """
    notes: list[str] = []
    metrics: tuple[str, ...] = ()
    check_columns(dataset.index, config)
    with torch.random.fork_rng(devices=[]), limited_memory():
        try:
            with limited_time():
                task = create(config.task, config.model, dataset.index, metric=config.metric)
                step = _step(config, task, dataset, load, notes)
                if isinstance(step, Step):
                    notes += _try_loss(config, task, step, dataset)
                metrics = _try_all_metrics(config, task, step, dataset)
            notes += _try_outputs(config, task, step, dataset)
        except Undecided as undecided:
            notes.append(f"the task was not tried to the end before the start: {undecided}")
    return Tried(metrics, tuple(notes))


@torch.no_grad()
def try_metrics(task: Task, apply: Apply, dataset: Dataset, ranks: Ranks) -> None:
    """Tries the task's metrics on two samples, on all workers, so that no evaluation ends what has been trained by then.

    Raises:
        UserError: a metric cannot be used, see `Measurement`; that which decides is not defined on the validation split.
    """
    _check_defined(task.metric, dataset)
    rows = min(FEW, dataset.index.rows("validation"))
    with eval_mode(apply):
        measured = apply(task.metrics, batch_of(dataset, "validation", np.arange(rows), ranks))
    Measurement(task, ranks).add(measured, rows, rows)


def _check_defined(metric: str, dataset: Dataset) -> None:
    """Refuses to decide by a metric that compares classes or numbers which differ, if those of the validation split do not."""
    column = VARIED.get(metric, "")
    if column not in dataset.index.fields:
        return
    found: set[Any] = set()
    for number in range(len(dataset.index.splits["validation"])):
        found |= set(np.unique(dataset.columns("validation", number)[column])[:2].tolist())
        if len(found) > 1:
            return
    (only,) = found
    classes = dataset.index.classes if column == "label" else []
    what = f"the class {classes[only]!r}" if classes else f"the target {only:g}"
    raise UserError(
        f"metric is {metric}, which is not defined on the validation split: all its samples have {what}",
        f"decide by another metric, such as {'log_loss' if classes else 'rmse'}, or split the data otherwise",
    )


def try_pretrained(config: TrainConfig, task: Task, model: nn.Module) -> list[str]:
    """Tries to load the task's pretrained weights; returns what to report."""
    if not loads_weights(type(task)):
        return []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with _explained(config, "pretrained"):
        task.pretrained(model)
    loaded = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    return (
        [f"pretrained of the task has loaded {len(loaded)} of the model's {counted(len(before), 'tensor')}"] if loaded else []
    )


ALONE = Ranks(0, 1, torch.device("cpu"))


def _step(config: TrainConfig, task: Task, dataset: Dataset, load: Load, notes: list[str]) -> Step | Rounds:
    """The step of a single worker, on the CPU and not compiled; checks the model."""
    needed = ("model",) if by_rounds(type(task)) else ("model", "loss")
    if missing := [part for part in needed if getattr(type(task), part) is getattr(Task, part)]:
        raise UserError(f"task {config.task} has no method {' and no '.join(missing)}", "write it; README.md has an example")
    order = order_of(config, dataset)
    torch.manual_seed(config.seed)
    with _explained(config, "model"):
        model = task.model()
    if not isinstance(model, nn.Module):
        raise UserError(f"task {config.task}: model returns a {type(model).__name__}", "return a torch.nn.Module")
    notes += load(task, model)
    alone = config.model_copy(update={"compile": False, "parallelism": "ddp"})
    with _explained(config, "model"):
        if by_rounds(type(task)):
            return Rounds(alone, dataset, task, model, ALONE)
        step = Step(alone, dataset, task, model, ALONE, order.largest_part(config.least_workers), steps_of(config, order))
    with _explained(config, "loss"):
        step.check_single_samples(order)
    return step


def _try_loss(config: TrainConfig, task: Task, step: Step, dataset: Dataset) -> list[str]:
    """Tries the loss and its backward pass; finds the parameters without a gradient."""
    started = time.monotonic()

    def backward(part: Part, batch: Batch) -> None:
        loss = step.apply(part.loss, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            kind = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise UserError(f"task {config.task}: loss returns {kind}", "return the mean over the samples, a scalar tensor")
        if not loss.requires_grad:
            raise UserError(
                f"task {config.task}: the loss has no gradient",
                "compute it from the model's output without detach(), item() or no_grad(), and leave a parameter trainable",
            )
        if time.monotonic() - started > SECONDS / 3:  # the backward pass takes about twice as long
            raise Undecided("its loss takes long on this CPU")
        loss.backward()  # type: ignore[no-untyped-call]

    rows = dataset.index.rows("train")
    few, full = (
        batch_of(dataset, "train", np.arange(min(n, rows)), ALONE) for n in (min(FEW, step.micro_batch), step.micro_batch)
    )
    unused = []
    # Also those that are frozen at first: several workers would wait for them when ``freeze_steps`` ends.
    step.unfreeze()
    for part in step.parts:
        with part.alone(), _explained(config, "loss"):
            try:
                backward(part, few)
            except HeliostatError:
                raise
            except Exception:  # as many as in the run, which a loss may need, decide
                backward(part, full)
            named = [*step.apply.model.named_parameters()]
            unused += [name for name, parameter in named if parameter.requires_grad and parameter.grad is None]
            step.apply.zero_grad()
    if not unused:
        return []
    what = f"the loss of task {config.task} does not use {some(unused, 8)}"
    if config.most_workers > 1 and config.parallelism == "ddp" and not config.find_unused_parameters:
        raise UserError(
            f"{what}, for which several workers would wait",
            "set find_unused_parameters to true, or use them in the loss, or set requires_grad to False",
        )
    return [f"{what}: they are not trained"]


@torch.no_grad()
def _try_all_metrics(config: TrainConfig, task: Task, step: Step | Rounds, dataset: Dataset) -> tuple[str, ...]:
    """Tries the metrics and, on a few samples more, the accumulators; returns the names of all."""
    rows = dataset.index.rows("validation")
    measurement = Measurement(task, ALONE)

    def measure(batch: Batch) -> Any:
        return step.apply(task.metrics, batch)

    with eval_mode(step.apply), _explained(config, "metrics"):
        try_metrics(task, step.apply, dataset, ALONE)
        samples = min(MORE, 4 * step.micro_batch, rows)
        measured = measure(batch_of(dataset, "validation", np.arange(samples) * rows // samples, ALONE))
        measurement.add(measured, samples, samples)
        try:
            measurement.compute()
        except DEGENERATE:  # undecided by a part of the split
            if samples == rows:
                raise
    return tuple(measured)


@torch.no_grad()
def _try_outputs(config: TrainConfig, task: Task, step: Step | Rounds, dataset: Dataset) -> list[str]:
    """Tries the predictions and the sample for the report."""
    assessed = ("label" in dataset.index.fields and bool(dataset.index.classes)) or "target" in dataset.index.fields
    rows = min(FEW, dataset.index.rows("test")) if assessed else 1

    def predict() -> None:
        kind_of(task, step.apply(task.predict, batch_of(dataset, "test", np.arange(rows), ALONE)), rows)

    tries: dict[str, Callable[[], Any]] = {
        "predict": predict,
        "sample": lambda: step.apply(lambda model, _: task.sample(model), None),
    }
    notes = []
    for part, call in tries.items():
        if getattr(type(task), part) is getattr(Task, part):
            continue
        try:
            with eval_mode(step.apply), limited_time(step.apply.model), _explained(config, part):
                call()
        except Undecided:
            continue
        except UserError as error:
            if assessed or part == "sample":  # the end of the run calls them
                raise
            notes.append(f"{error.what}\n  heliostat predict will not work")
    return notes


@contextmanager
def _explained(config: TrainConfig, part: str) -> Iterator[None]:
    """Converts an exception of the task's code to a message with its place, or to the end of an undecided try."""
    try:
        yield
    except HeliostatError as error:
        # An optimizer of a library may have kernels for GPUs only; the workers try it again.
        if error.__cause__ and config.resources.gpu and any(word in str(error.__cause__).lower() for word in DEVICES):
            raise Undecided(f"its optimizer needs a GPU ({str(error.__cause__).splitlines()[0]})") from None
        raise
    except (Exception, SystemExit) as error:  # the user's code can raise anything, and the message must show it
        text = str(error).lower()
        if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
            raise Undecided("it needs more memory than this machine has free") from None
        if config.resources.gpu and any(word in text for word in DEVICES):
            raise Undecided(f"it needs a GPU ({str(error).splitlines()[0]})") from None
        where = "" if part in ("model", "pretrained") else " on samples of the dataset"
        raise UserError(
            f"{part} of task {config.task} fails{where}:\n  {short_traceback(error)}",
            "correct the line that is named last in your own file; nothing has been started",
        ) from None
