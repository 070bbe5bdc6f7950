"""The columns of a table as its user has them, and their encoding to the arrays of samples, for datasets and raw rows alike.

A sample of a table has up to three arrays: ``features`` (float32, NaN is a missing value), ``categories`` (int32 codes) and the
target: ``label`` (int64, a class) or ``target`` (float64, a number). Nothing here is learnt from the values of the train split:
imputation and standardization belong to the model.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic

from heliostat.config import Config
from heliostat.datasets import encoding
from heliostat.datasets.encoding import Values, encode_column
from heliostat.datasets.values.dates import Format
from heliostat.datasets.values.numbers import Decimal
from heliostat.errors import UserError, combined
from heliostat.wording import agreeing, counted

Columns = dict[str, npt.NDArray[Any]]
FEATURES, CATEGORIES, LABEL, TARGET = "features", "categories", "label", "target"
MISSING, UNKNOWN = encoding.MISSING, encoding.UNKNOWN
"""Codes of a missing value, and of a category that the signature does not list."""
QUANTILES = 65
"""Values at even levels from the least to the most."""
Kind = Literal["number", "boolean", "category", "date", "list", "text"]
NOUNS = {
    "number": "a number", "boolean": "true or false", "category": "a text", "date": "a date", "list": "a list",
    "text": "a text",
}  # fmt: skip
FORMATS = {
    "day-name-year": "such as 31 Jan 2024", "name-day-year": "such as Jan 31, 2024", "digits": "such as 20240131",
    "time": "such as 12:30",
}  # fmt: skip


class Column(Config):
    """A column that is learnt from. ``category`` columns have a place in ``categories``, all others in ``features``."""

    name: str
    source: str | None = pydantic.Field(None, description="its name in the files, if that is another one")
    kind: Kind = pydantic.Field(description="number, boolean, category, date, list or text")
    type: str = pydantic.Field(description="the type that the values have in the files, such as int64, string or date32[day]")
    unit: str | None = pydantic.Field(None, description="what follows or precedes the numbers, such as %, $ or kg")
    missing: float = pydantic.Field(0.0, ge=0, le=1, description="the share of missing values, from 0 to 1")
    least: float | None = pydantic.Field(None, description="the smallest number; of dates in seconds since 1970")
    most: float | None = pydantic.Field(None, description="the largest number; of dates in seconds since 1970")
    whole: bool = pydantic.Field(False, description="whether all numbers are whole")
    categories: tuple[str, ...] = pydantic.Field((), strict=False, description="the texts of the codes 0, 1, ...")
    buckets: int | None = pydantic.Field(
        None, ge=2, description="into how many codes texts are hashed, where there are too many to list"
    )
    width: int = pydantic.Field(1, ge=1, description="numbers a value: the length of a list, the parts of a date or a text")
    offset: float = pydantic.Field(0.0, description="what is subtracted from a number before it is rounded to 32 bits")
    decimal: Decimal = pydantic.Field(".", description="what separates the decimals of numbers as texts, . or ,")
    format: Format | None = pydantic.Field(None, description="the order of the parts of dates as texts")
    parts: tuple[str, ...] = pydantic.Field((), strict=False, description="the features of a date, such as year and seconds")
    markers: tuple[str, ...] = pydantic.Field((), strict=False, description="what also stands for a missing value")
    fill: Literal["mean", "median", "zero", "refuse"] | float = pydantic.Field(
        "mean", description="what a model takes for a missing number: mean, median or zero, or a number; or refuse"
    )

    @property
    def codes(self) -> int:
        """How many codes a category has, without those of missing and unknown values."""
        return self.buckets or len(self.categories)

    @property
    def feature_names(self) -> list[str]:
        """A name for each of its numbers in ``features``."""
        if self.kind == "date":
            return [f"{self.name}.{part}" for part in self.parts]
        return [f"{self.name}[{place}]" for place in range(self.width)] if self.kind in ("list", "text") else [self.name]

    @property
    def is_written_plainly(self) -> bool:
        """Whether its texts have a decimal point, whatever the csv files of the dataset had: their reader writes them so."""
        return encoding.is_numeric(self.type) or (self.kind == "number" and self.decimal == ".")

    def name_in(self, names: Collection[str]) -> str | None:
        """Its name among those of some rows: that in the files, as another column there may have its own; None without one."""
        return next((name for name in (self.source, self.name) if name is not None and name in names), None)

    @property
    def wanted(self) -> str:
        """What a value must be."""
        detail = {"list": f" of {counted(self.width or 0, 'number')}", "number": f" in {self.unit}" if self.unit else ""}.get(
            self.kind, ""
        )
        return NOUNS[self.kind] + (f", {FORMATS.get(self.format, self.format)}" if self.format else detail)


class Target(Config):
    """The column to learn: classes, or a number."""

    name: str
    kind: Literal["class", "number"]
    type: str
    unit: str | None = None
    decimal: Decimal = "."
    classes: tuple[str, ...] = pydantic.Field((), strict=False)
    least: float | None = None
    most: float | None = None


@dataclass
class Oddities:
    """What of some raw rows the signature has not seen: how many values, by column."""

    missing: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    """Categories that are not listed."""
    beyond: dict[str, int] = field(default_factory=dict)
    """Numbers and dates outside of the range."""


class Signature(Config):
    """The columns of a table, in the order of the files."""

    version: Literal[1] = 1
    columns: tuple[Column, ...] = pydantic.Field(strict=False)
    target: Target
    left_out: dict[str, str] = pydantic.Field({}, description="columns that are not learnt from, and why")

    @property
    def numeric(self) -> list[Column]:
        """The columns in ``features``, in order."""
        return [column for column in self.columns if column.kind != "category"]

    @property
    def categorical(self) -> list[Column]:
        """The columns in ``categories``, in order."""
        return [column for column in self.columns if column.kind == "category"]

    @property
    def feature_names(self) -> list[str]:
        """A name for each number in ``features``, such as ``age``, ``date.month`` or ``embedding[3]``."""
        return [name for column in self.numeric for name in column.feature_names]

    def coding(self) -> list[dict[str, Any]]:
        """What the arrays depend on beside the values of plain numbers; empty for a table of these, which had no signature."""
        found = {"missing", "least", "most", "whole", "type", "source"}
        each = [column.model_dump(mode="json", exclude=found, exclude_defaults=True) for column in self.columns]
        return [column for column in each if column.keys() > {"name", "kind"} or column["kind"] != "number"]

    def encode(self, rows: pa.Table) -> tuple[Columns, Oddities]:
        """Encodes rows with at least the columns of the signature, as texts or with the types of the files.

        Returns:
            ``features`` (rows, sum of widths) float32 and ``categories`` (rows, columns) int32, each if the signature has such
            columns; and what is odd in them. Without the target.

        Raises:
            UserError: a column is missing, or has values that are not of its kind; the message lists all of them.
        """
        names = {column.name: column.name_in(rows.column_names) for column in self.columns}
        if problems := [f"there is no column {name!r}" for name, found in names.items() if not found]:
            raise _refused(problems, "give each row a value for it, or an empty one if it is missing")
        encoded = {column.name: encode_column(column, rows[names[column.name]]) for column in self.columns}
        wrong = [(column, encoded[column.name]) for column in self.columns if encoded[column.name].bad]
        if wrong:
            raise _refused([problem(column, values) for column, values in wrong], "correct them, or leave them empty")
        odd = Oddities(
            {name: values.missing for name, values in encoded.items() if values.missing},
            {name: values.unknown for name, values in encoded.items() if values.unknown},
            {name: values.outside for name, values in encoded.items() if values.outside},
        )
        return self.gather(encoded), odd

    def gather(self, encoded: dict[str, Values]) -> Columns:
        """The arrays of samples from those of the columns, by name."""
        features = [encoded[column.name].array for column in self.numeric]
        categories = [encoded[column.name].array for column in self.categorical]
        return {
            **({FEATURES: np.concatenate(features, axis=1)} if features else {}),
            **({CATEGORIES: np.stack(categories, axis=1)} if categories else {}),
        }

    def encode_target(self, values: pa.ChunkedArray) -> Columns:
        """Encodes the target: ``label`` (rows,) int64, or ``target`` (rows,) float64.

        Raises:
            UserError: a value is missing, or no class and no number.
        """
        target = self.target
        if target.kind == "number":
            column = Column(name=target.name, kind="number", type=target.type, unit=target.unit, decimal=target.decimal)
            array = encoding.exact_numbers(column, values)
            return {TARGET: _present(target, array, ~np.isnan(array), "a number")}
        column = Column(name=target.name, kind="category", type=target.type, categories=target.classes)
        codes = encode_column(column, values).array
        return {LABEL: _present(target, codes.astype(np.int64), codes >= 0, f"one of {', '.join(target.classes)}")}


def problem(column: Column, values: Values) -> str:
    """What is wrong with the values of a column, some of which are not of its kind."""
    shown = ", ".join(map(repr, values.examples))
    return f"column {column.name!r} has {shown}, but each value must be {column.wanted}"


def _present(target: Target, array: npt.NDArray[Any], good: npt.NDArray[np.bool_], wanted: str) -> npt.NDArray[Any]:
    if bad := int((~good).sum()):
        raise UserError(
            f"target {target.name!r}: {counted(bad, 'value')} {agreeing(bad, 'are')} missing or not {wanted}",
            "correct or drop their rows",
        )
    return array


def _refused(problems: list[str], fix: str) -> UserError:
    return combined([UserError(each, fix) for each in problems], "the input")


class TrainStatistics(Config):
    """What of the train split a model needs beside its means and standard deviations (`Index.stats`, of present values)."""

    missing: tuple[float, ...] = pydantic.Field((), strict=False, description="the share of missing values, by feature")
    quantiles: tuple[tuple[float, ...], ...] = pydantic.Field(
        (), strict=False, description="by feature 65 values at even levels from the least to the most, of present values"
    )
    counts: tuple[tuple[int, ...], ...] = pydantic.Field(
        (), strict=False, description="by category column the rows of the codes 0, 1, ..., and last of missing values"
    )
    target: tuple[float, ...] = pydantic.Field(
        (), strict=False, description="of classes their rows; of a number its mean, standard deviation and the 65 quantiles"
    )
