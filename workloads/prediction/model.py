"""A trained model applied to a table of raw rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from heliostat.datasets.signature import Oddities
from heliostat.errors import UserError
from heliostat.wording import counted
from heliostat.workloads.task import Task

BATCH = 1024
"""Rows that are computed at once."""


@dataclass(frozen=True)
class Predictor:
    """A task with its trained model, on a device."""

    task: Task
    model: nn.Module
    device: torch.device

    @torch.no_grad()
    def __call__(self, table: pa.Table) -> tuple[pa.Table, Oddities]:
        """The predictions for raw rows, a row for each, and what is odd in the rows.

        Classes have the columns ``prediction`` (the name of a class) and ``probability_CLASS``; numbers ``prediction``, and
        with quantiles ``quantile_LEVEL``; language models ``prediction``, a text; other tasks a column for each output.

        Raises:
            UserError: there are no rows, or they cannot be read as the dataset's; the task makes no predictions, or one that is
                NaN or infinite.
        """
        if not table.num_rows:
            raise UserError("there are no rows to predict", "give at least one")
        batch, oddities = self.task.rows(table)
        parts = []
        for start in range(0, table.num_rows, BATCH):
            part = {name: values[start : start + BATCH].to(self.device) for name, values in batch.items()}
            parts.append(
                {
                    name: values.float().cpu() if values.is_floating_point() and values.dtype != torch.float64 else values.cpu()
                    for name, values in self.task.predict(self.model, part).items()
                }
            )
        outputs = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return pa.table(named(self.task, outputs)), oddities


def named(task: Task, outputs: Mapping[str, Tensor]) -> dict[str, pa.Array]:
    """The outputs of a task for some samples as columns, see `Predictor`.

    Raises:
        UserError: see `check_outputs`.
    """
    check_outputs(task, outputs)
    columns: dict[str, pa.Array] = {}
    for name, values in outputs.items():
        if name == "probabilities":
            classes = task.index.classes
            columns = {"prediction": pa.array(classes).take(pa.array(task.decide(values).numpy())), **columns}
            columns |= {f"probability_{each}": pa.array(values[:, at].numpy()) for at, each in enumerate(classes)}
        elif name == "tokens" and (text := getattr(task, "text", None)):
            columns["prediction"] = pa.array([text(each) for each in values])
        elif name == "quantiles":
            columns |= {f"quantile_{level}": pa.array(values[:, at].numpy()) for at, level in enumerate(levels(task, values))}
        else:
            flat = values.reshape(len(values), -1).numpy()
            columns[name] = pa.array(flat[:, 0]) if values.ndim == 1 else pa.array(list(np.ascontiguousarray(flat)))
    return columns


def check_outputs(task: Task, outputs: Mapping[str, Tensor]) -> None:
    """Raises a UserError if there are no outputs, or some are NaN or infinite."""
    if not outputs:
        raise UserError(f"task {type(task).__name__} makes no predictions", "give the task a predict method")
    for name, values in outputs.items():
        wrong = (~values.isfinite()).reshape(len(values), -1).any(1) if values.is_floating_point() else torch.zeros(1).bool()
        if wrong.any():
            raise UserError(
                f"the {name} of {int(wrong.sum()):,} of {counted(len(values), 'row')}, first of row "
                f"{int(wrong.int().argmax()) + 1}, "
                "is NaN or infinite",
                "give the values that these rows lack, or train a task that can take missing ones, such as those for tables",
            )


def levels(task: Task, quantiles: Tensor) -> list[str]:
    """The levels of the quantiles, which the task's option ``quantiles`` has, else numbers."""
    given = getattr(task.options, "quantiles", None) or range(1, quantiles.shape[1] + 1)
    return [f"{level:g}" for level in given]
