"""``signature.json``: what an exported model takes and gives, and how raw rows become what it takes."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from heliostat.datasets import Index
from heliostat.datasets.signature import FEATURES, Column, Signature
from heliostat.datasets.sources.formats.numbers import Plain
from heliostat.datasets.values import dates, missing, numbers
from heliostat.workloads.prediction.model import levels
from heliostat.workloads.prediction.rows import plain_of
from heliostat.workloads.task import Task

Document = dict[str, Any]
BLANK = r" \t\n\f\r"


def outputs_and_inputs(task: Task, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Document:
    """The names, types and shapes; an axis that may have any length has a name instead of a number."""
    long = {name: {0: "batch", **({1: "length"} if name in task.any_length else {})} for name in inputs}
    lengths = {values.shape[1] for name, values in inputs.items() if name in task.any_length}
    named: Document = {"inputs": {}, "outputs": {}}
    for name, values in inputs.items():
        named["inputs"][name] = _typed(values, [long[name].get(axis, size) for axis, size in enumerate(values.shape)])
    for name, values in outputs.items():
        sizes = ["batch", *("length" if axis == 0 and size in lengths else size for axis, size in enumerate(values.shape[1:]))]
        named["outputs"][name] = _typed(values, sizes)
    if "probabilities" in outputs:
        named["classes"] = task.index.classes
    if "quantiles" in outputs:
        named["quantiles"] = levels(task, outputs["quantiles"])
    return named


def _typed(values: Tensor, shape: list[int | str]) -> Document:
    return {"dtype": str(values.dtype).removeprefix("torch."), "shape": shape}


def of_data(index: Index) -> Document:
    """What the inputs mean: the columns of a table, the tokenizer, the value of white pixels."""
    meta: Document = {key: index.meta[key] for key in ("tokenizer", "vocabulary", "white") if key in index.meta}
    if "tokenizer" in meta:
        meta["context"] = index.fields["tokens"].shape[0] - 1
    if index.signature:
        return {**meta, **of_rows(index.signature, index.read)}
    if FEATURES in index.fields and "feature_names" in index.meta:
        offsets = index.meta.get("offsets", {})
        columns = [
            Column(name=name, kind="number", type="double", offset=offsets.get(name, 0), fill="refuse")
            for name in index.meta["feature_names"]
        ]
        return {**meta, "missing": [*missing.MARKERS], "other_columns": [], "columns": [_column(each, {}) for each in columns]}
    return meta


def of_rows(signature: Signature, read: Mapping[str, Any]) -> Document:
    """How raw rows become arrays, as `Signature.encode` has it, for the loader that goes with the model."""
    return {
        "missing": [*missing.MARKERS],
        "other_columns": [signature.target.name, *signature.left_out],
        "columns": [_column(column, read) for column in signature.columns],
    }


def _column(column: Column, read: Mapping[str, Any]) -> Document:
    kept = {
        "name", "source", "kind", "type", "whole", "unit", "decimal", "offset", "width", "categories", "buckets", "markers",
        "parts", "fill",
    }  # fmt: skip
    document = column.model_dump(mode="json", include=kept)
    plain = plain_of(column, read)
    return {
        **document,
        "wanted": column.wanted,
        "pattern": python_pattern(numbers.PATTERNS[column.decimal, True]) if column.kind == "number" else None,
        "patterns": _date_patterns(column) if column.kind == "date" else [],
        "written": _written(plain) if plain else None,
    }


def _date_patterns(column: Column) -> list[str]:
    """By order of preference; dates as JSON has them are always read."""
    kinds = dict.fromkeys((column.format or "year-month-day", *(["year-month-day"] if column.parts != ("hour",) else [])))
    return [python_pattern(dates.PATTERNS[kind]) for kind in kinds]  # type: ignore[index]


def _written(plain: Plain) -> Document:
    return {"pattern": python_pattern(plain.pattern), "group": python_pattern(plain.group), "decimal": plain.decimal}


def python_pattern(pattern: str) -> str:
    """A pattern of Arrow's (RE2) for Python's `re` with ``re.ASCII``."""
    pattern = re.sub(r"\\x\{([0-9a-f]{4})\}", r"\\u\1", pattern)
    pattern = re.sub(r"\[(?:\\.|[^\]\\])*\]", lambda match: match[0].replace(r"\s", BLANK), pattern)
    return re.sub(r"\$$", r"\\Z", re.sub(r"(?<!\\)\\s", lambda _: f"[{BLANK}]", pattern))
