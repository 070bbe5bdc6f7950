"""The metrics of the samples of a table that share the value of a column."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heliostat.config import nearest
from heliostat.datasets import Index
from heliostat.datasets.signature import MISSING, Column
from heliostat.errors import UserError, collected, combined
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.task import Batch

VALUES = 12
"""The most values of a column that are shown; other numbers in quarters, of categories the most frequent ones."""


def check_columns(index: Index, config: TrainConfig) -> None:
    """Raises a UserError that lists the columns that the config names and the dataset does not have, or not as is needed."""
    problems = by_problems(index, config.report.by, "report.by")
    if config.report.rows and not index.signature:
        what = f"report.rows is {config.report.rows}, but the dataset is no table with a signature"
        problems.insert(0, UserError(what, "remove it, or build it again"))
    if config.then:
        problems += by_problems(index, config.then.by, "then.by")
        problems += _problems(_named, index, config.then.drift.ignore, "then.drift.ignore")
    if problems:
        raise combined(problems, "the config")


def by_problems(index: Index, by: Sequence[str], key: str) -> list[UserError]:
    """What is wrong with the columns to group by that ``key`` names: one that does not exist, or whose values are not kept."""
    return _problems(_column, index, by, key)


def _problems(find: Callable[[Index, str, str], Column], index: Index, names: Sequence[str], key: str) -> list[UserError]:
    found: list[UserError] = []
    for name in names:
        with collected(found):
            find(index, name, key)
    return found


def columns_of(index: Index, by: Sequence[str], batch: Batch) -> dict[str, Tensor]:
    """The encoded values of these columns, (samples,) each."""
    return {f"by {name}": _values(index, _column(index, name), batch) for name in by}


def of_columns(
    index: Index, by: Sequence[str], sampled: Batch, metrics: Callable[[Tensor], Mapping[str, float | None]]
) -> dict[str, list[dict[str, Any]]]:
    """By column the ``value``, ``samples`` and ``metrics`` of each group.

    Args:
        sampled: with the values of `columns_of`.
        metrics: of the samples at these places.
    """
    return {
        name: [
            {"value": value, "samples": int(at.sum()), "metrics": metrics(at)}
            for value, at in _groups(_column(index, name), sampled[f"by {name}"])
        ]
        for name in by
    }


def _named(index: Index, name: str, key: str) -> Column:
    """The column of a table that a user has named."""
    columns = {column.name: column for column in index.signature.columns} if index.signature else {}
    if not columns:
        raise UserError(f"{key} has {name!r}, but the dataset is no table with a signature", "remove it, or build it again")
    if name not in columns:
        raise UserError(f"{key} has {name!r}, but the table has no such column", nearest(name, columns))
    return columns[name]


def _column(index: Index, name: str, key: str = "report.by") -> Column:
    """One whose values are kept, to group by them."""
    column = _named(index, name, key)
    if column.width > 1 or column.buckets:
        raise UserError(
            f"{key} has {name!r}, a column of the kind {column.kind} whose values are not kept",
            "name columns of numbers, booleans or categories",
        )
    return column


def _values(index: Index, column: Column, batch: Batch) -> Tensor:
    assert index.signature is not None, "checked"
    if column.kind == "category":
        return batch["categories"][:, index.signature.categorical.index(column)]
    before = index.signature.numeric[: index.signature.numeric.index(column)]
    return batch["features"][:, sum(each.width for each in before)].double() + column.offset


def _groups(column: Column, values: Tensor) -> list[tuple[str, Tensor]]:
    if column.kind == "category":
        found, counts = values.unique(return_counts=True)  # type: ignore[no-untyped-call]
        ranked = found[counts.argsort(descending=True, stable=True)].tolist()
        groups = [(_text(column, code), values == code) for code in ranked[:VALUES]]
        rest = torch.isin(values, torch.tensor(ranked[VALUES:], dtype=values.dtype))
        return [*groups, *([("other values", rest)] if len(ranked) > VALUES else [])]
    missing = values.isnan()
    present = values[~missing].numpy()
    distinct = np.unique(present)
    if len(distinct) <= VALUES:
        names = ("false", "true") if column.kind == "boolean" else ()
        groups = [(names[int(v)] if names else f"{v:g}", values == v) for v in distinct.tolist()]
    else:
        edges = np.unique(np.quantile(present, [0, 0.25, 0.5, 0.75, 1])).tolist()
        pairs = list(itertools.pairwise(edges))
        groups = [
            (f"{low:g} to {high:g}", (values >= low) & ((values <= high) if high == edges[-1] else (values < high)))
            for low, high in pairs
        ]
    return [*groups, *([("missing", missing)] if missing.any() else [])]


def _text(column: Column, code: int) -> str:
    if code < 0:
        return "missing" if code == MISSING else "unknown"
    return column.categories[code]
