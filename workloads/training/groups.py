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
from heliostat.workloads.config import ReportConfig, TrainConfig
from heliostat.workloads.task import Batch

VALUES = 12
"""The most values of a column that are shown; other numbers in quarters, of categories the most frequent ones."""


def check_columns(index: Index, config: TrainConfig) -> None:
    """Raises a UserError that lists the columns that the config names and the dataset does not have, or not as is needed."""
    problems: list[UserError] = []
    with collected(problems):
        check_report(index, config.report)
    if config.then:
        with collected(problems):
            check_report(index, ReportConfig(by=config.then.by), "then.by")
        known = {column.name for column in index.signature.columns} if index.signature else set[str]()
        problems += [
            UserError(f"then.drift.ignore has {name!r}, but the table has no such column", nearest(name, known))
            for name in config.then.drift.ignore
            if name not in known
        ]
    if problems:
        raise combined(problems, "the config")


def check_report(index: Index, report: ReportConfig, key: str = "report.by") -> None:
    """Raises a UserError that lists what the report cannot show: a column of ``by`` without values to group by, and rows.

    Args:
        index: of the dataset.
        report: what to show.
        key: where the user has named the columns.
    """
    problems: list[UserError] = []
    if report.rows and not index.signature:
        what = f"report.rows is {report.rows}, but the dataset is no table with a signature"
        problems.append(UserError(what, "remove it, or build it again"))
    for name in report.by:
        with collected(problems):
            _column(index, name, key)
    if problems:
        raise combined(problems, "report")


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


def _column(index: Index, name: str, key: str = "report.by") -> Column:
    columns = {column.name: column for column in index.signature.columns} if index.signature else {}
    if not columns:
        raise UserError(f"{key} has {name!r}, but the dataset is no table with a signature", "remove it, or build it again")
    if name not in columns:
        raise UserError(f"{key} has {name!r}, but the table has no such column", nearest(name, columns))
    if columns[name].width > 1 or columns[name].buckets:
        raise UserError(
            f"{key} has {name!r}, a column of the kind {columns[name].kind} whose values are not kept",
            "name columns of numbers, booleans or categories",
        )
    return columns[name]


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
