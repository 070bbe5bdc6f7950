"""Encodes a table as numbers, and collects what is wrong with it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from heliostat.config import nearest
from heliostat.datasets.index import Field
from heliostat.datasets.sources import Chunk, Problems, Progress, cells
from heliostat.datasets.sources.checks import MAX_CATEGORIES, MISSING_NUMBERS, is_text, no_classes, no_quantity
from heliostat.datasets.sources.narrow import PLAIN, Narrowing, loss, narrowing, summarize, trouble
from heliostat.datasets.sources.reader import Batch, Reader
from heliostat.datasets.sources.spool import Column, Spool
from heliostat.datasets.sources.survey import Survey
from heliostat.errors import UserError

UNNAMED = re.compile(r"|unnamed: ?\d+(\.\d+)*|\.\.\.\d+|_c0|__index_level_\d+__", re.IGNORECASE)
"""What pandas, R and Spark call the index of the rows when it has no name."""
CHUNK = 8 << 20
"""Bytes of the features of a chunk, at most."""


@dataclass(frozen=True)
class Feature:
    """A feature: numbers that are narrowed, or one category of a column's codes."""

    column: Column
    narrowing: Narrowing = PLAIN
    category: int | None = None

    def of(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The feature of some values of the column."""
        return self.narrowing.apply(values) if self.category is None else values == self.category


@dataclass(frozen=True)
class Encoded:
    """A table as numbers."""

    spool: Spool
    features: dict[str, Feature]
    target: Feature
    classes: list[str]

    @property
    def fields(self) -> dict[str, Field]:
        features = Field(dtype="float32", shape=(len(self.features),))
        return {
            "features": features,
            **({"label": Field(dtype="int64")} if self.classes else {"target": Field(dtype="float32")}),
        }

    @property
    def meta(self) -> dict[str, Any]:
        offsets = {name: offset for name, feature in self.features.items() if (offset := feature.narrowing.offset)}
        classes = {"classes": self.classes} if self.classes else {}
        return {**classes, "feature_names": list(self.features), **({"offsets": offsets} if offsets else {})}

    def chunks(self) -> Iterator[Chunk]:
        rows = max(1, CHUNK // (4 * len(self.features)))
        for number, (_, count) in enumerate(self.target.column.places):
            values = {each.column: each.column.chunk(number) for each in (*self.features.values(), self.target)}
            for start in range(0, count, rows):
                yield self._chunk({column: part[start : start + rows] for column, part in values.items()})

    def _chunk(self, values: dict[Column, npt.NDArray[Any]]) -> Chunk:
        target = values[self.target.column]
        features = np.empty((len(target), len(self.features)), np.float32)
        for at, feature in enumerate(self.features.values()):
            features[:, at] = feature.of(values[feature.column])
        # By the values before the offset, which changes when rows are added: a sample must stay in its split.
        plain = features[:, [not each.narrowing.offset for each in self.features.values()]]
        exact = [values[each.column] for each in self.features.values() if each.narrowing.offset]
        parts = [_rows(plain), *(_rows(each[:, None]) for each in exact)]
        keys = parts[0] if len(parts) == 1 else [b"".join(row) for row in zip(*parts, strict=True)]
        learnt = {"label": target.astype(np.int64)} if self.classes else {"target": self.target.of(target)}
        return Chunk(keys, {"features": features, **learnt})


def _rows(values: npt.NDArray[Any]) -> list[bytes]:
    """The bytes of each row."""
    data, size = np.ascontiguousarray(values).tobytes(), values.shape[1] * values.itemsize
    return [data[start : start + size] for start in range(0, len(values) * size, size)] if size else [b""] * len(values)


class Encoder:
    """Reads a table, and collects what is wrong with it, to refuse it with one message."""

    def __init__(self, reader: Reader, target: str, drop: list[str], progress: Progress) -> None:
        self._reader, self._target, self._drop, self._progress = reader, target, drop, progress
        self._problems = Problems(reader.place)
        self._concerned: list[str] = []
        """The columns with problems, which can be left out, in their order."""
        self._surveys: dict[str, Survey] = {}
        self._rows = 0

    def encode(self) -> Encoded:
        """The table as numbers.

        Raises:
            UserError: all that is wrong with it.
        """
        for name in self._drop:
            if name not in self._reader.names:
                self._problems.add(f"drop lists {name!r}, which is no column", nearest(name, self._reader.names))
        self._survey([name for name in self._reader.names if name not in self._drop])
        learnt = [name for name in self._without_index() if name != self._target]
        types = {name: self._type(name) for name in (self._target, *learnt)}
        categories = {name: self._categories(name, types[name]) for name in learnt}
        classes = self._classes(types[self._target])
        spool = Spool()
        columns, equal = self._spool(spool, types, {**categories, self._target: classes})
        features: dict[str, Feature] = {}
        for number, name in enumerate(learnt):
            self._progress(f"measuring {self._reader.place}", number, len(learnt), "columns")
            self._add_features(features, name, types[name], columns[name], categories[name], name in equal)
        target = self._encode_target(columns[self._target], classes)
        self._problems.refuse(self._without())
        if not features:
            raise UserError(f"{self._reader.place} has no column but the target", "add the features")
        return Encoded(spool, features, target, [] if classes is None else [str(value) for value in classes.to_pylist()])

    # --- what the columns are ---------------------------------------------------------------------------------

    def _survey(self, names: list[str]) -> None:
        from_csv = not self._reader.is_parquet
        self._surveys = {name: Survey(from_csv, UNNAMED.fullmatch(name) is not None) for name in names}
        for batch in self._batches("checking", names):
            self._rows += len(next(iter(batch.values())))
            for name, survey in self._surveys.items():
                survey.add(batch[name])
        if not self._rows:
            raise UserError(f"{self._reader.place} has no rows", "give a table with a row per sample")

    def _batches(self, doing: str, names: list[str]) -> Iterator[Batch]:
        total = self._reader.size
        return self._reader.batches(names, lambda done: self._progress(f"{doing} {self._reader.place}", done, total, "bytes"))

    def _without_index(self) -> list[str]:
        """The columns but the index of the rows if it has no name; one with a name may be meant as a column, and is refused."""
        names = list(self._surveys)
        for name in list(names):
            if name == self._target:
                continue
            # Where there is a _c1, no column has a name.
            unnamed = UNNAMED.fullmatch(name) and not (name == "_c0" and "_c1" in self._reader.names)
            index = name in self._reader.index
            if unnamed and (index or self._surveys[name].numbers_rows):
                names.remove(name)
            elif index:
                self._refuse_column(name, "is the row index of pandas", "drop it, or save after reset_index()")
            elif unnamed:
                self._refuse_column(name, "has no name of its own", "give it one, or drop it if it numbers the rows")
        return names

    def _type(self, name: str) -> pa.DataType | None:
        """As what a column is learnt; notes missing values. None if the values are not what the texts say."""
        survey = self._surveys[name]
        if survey.missing:
            written = sorted(map(repr, survey.markers))
            also = f" (also written {', '.join(written)})" if written else ""
            fix = "fill them or drop their rows"
            if "'None'" in written or (written and name == self._target):
                fix += ", or if they are a class, write it otherwise, such as none"
            self._refuse_column(name, f"has {survey.missing} empty values{also}", fix)
        if not survey.from_texts or not (pa.types.is_integer(survey.type) or pa.types.is_floating(survey.type)):
            return survey.type
        if pa.types.is_floating(survey.type) and survey.beyond:
            self._refuse_column(name, f"has whole numbers that 64 bits do not hold, such as {survey.beyond}", "drop it")
            return None
        if pa.types.is_floating(survey.type) or not survey.padded:
            return survey.type
        if name == self._target:
            return pa.string()
        what = f"has codes with leading zeros, such as {survey.padded}"
        self._refuse_column(name, what, f"drop it, or write c{survey.padded} for a category")
        return None

    def _categories(self, name: str, kind: pa.DataType | None) -> pa.Array | None:
        """The sorted categories of a column of texts; None if it is no such column, or there is a problem."""
        survey = self._surveys[name]
        if kind is None or survey.missing == self._rows:
            return None
        if not is_text(kind):
            if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                self._refuse_column(name, f"is of type {kind}, which cannot be a feature", "convert it to numbers or texts")
            return None
        if found := cells.doubts(survey.values):
            self._refuse_column(name, *found)
            return None
        if len(survey.values) > MAX_CATEGORIES:
            shown = f"{len(survey.values)}" if survey.all_listed else f"more than {len(survey.values)}"
            self._refuse_column(name, f"has {shown} different texts", "drop it, or group them into fewer")
            return None
        return pa.array(sorted(survey.values.to_pylist()), survey.values.type)

    def _classes(self, kind: pa.DataType | None) -> pa.Array | None:
        """The sorted classes of the target; None if it is a number, or there is a problem."""
        survey, name = self._surveys[self._target], self._target
        if kind is None or survey.missing == self._rows:
            return None
        values = pc.unique(_converted(survey.values, kind)) if survey.from_texts else survey.values
        if pa.types.is_floating(kind):
            if not survey.all_listed or set(values.to_pylist()) != {0.0, 1.0}:
                return None
            values = pc.cast(values, pa.int64())
        elif not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            self._problems.add(f"target {name!r} is of type {kind}", "convert it to texts, integers or floating-point numbers")
            return None
        if found := no_classes(values, survey.all_listed, self._rows - survey.missing):
            self._problems.add(f"target {name!r} {found[0]}", found[1])
        return pa.array(sorted(values.to_pylist()), values.type)

    # --- numbers ----------------------------------------------------------------------------------------------

    def _spool(
        self, spool: Spool, types: dict[str, pa.DataType | None], codes: dict[str, pa.Array | None]
    ) -> tuple[dict[str, Column], set[str]]:
        """The values of the columns as numbers, without missing ones, texts as codes; and the columns equal to the target."""
        columns = {name: Column(spool) for name in types}
        numeric = {name: kind for name, kind in types.items() if kind is not None}
        equal = {name for name, kind in numeric.items() if name != self._target and kind == types[self._target]}
        for batch in self._batches("reading", list(types)):
            values = {name: self._converted(name, batch[name], kind) for name, kind in numeric.items()}
            equal = {name for name in equal if values[name].equals(values[self._target])}
            for name, column in values.items():
                if (found := _numbers(column, codes[name])) is not None:
                    spool.add(columns[name], found)
        return columns, equal

    def _converted(self, name: str, column: pa.Array, kind: pa.DataType) -> pa.Array:
        survey = self._surveys[name]
        if not survey.from_texts:
            return column.drop_null() if survey.missing else column
        if not survey.trimmed:
            return _converted(column, kind)
        column = cells.trimmed(column)
        return _converted(column.filter(pc.invert(cells.missing(column))) if survey.missing else column, kind)

    def _add_features(
        self, features: dict[str, Feature], name: str, kind: Any, column: Column, categories: pa.Array | None, equal: bool
    ) -> None:
        if equal and self._surveys[name].missing < self._rows:
            self._refuse_column(name, "is equal to the target in every row", "drop it")
            return
        if categories is not None:
            for code, value in enumerate(categories.to_pylist()):
                self._add(features, f"{name}={value}", Feature(column, category=code))
        elif len(column) and kind is not None and pa.types.is_boolean(kind):
            self._add(features, name, Feature(column))
        elif len(column):
            self._add(features, name, Feature(column, self._narrowed(name, column)))

    def _add(self, features: dict[str, Feature], name: str, feature: Feature) -> None:
        if name in features:
            self._problems.add(f"two features would be named {name!r}", "rename one of their columns")
        features[name] = feature

    def _narrowed(self, name: str, column: Column) -> Narrowing:
        """How the numbers of a feature become float32; notes why they cannot."""
        found = summarize(column, MISSING_NUMBERS)
        wrong = trouble(column, found)
        way = PLAIN if found.too_large else narrowing(column, found)
        if odd := no_quantity(name, column, found, way):
            self._refuse_column(name, *odd)
        if wrong := wrong or loss(column, found, way):
            self._refuse_column(name, *wrong)
        return way

    def _encode_target(self, column: Column, classes: pa.Array | None) -> Feature:
        if classes is not None or not len(column):
            return Feature(column)
        found = summarize(column)
        wrong = trouble(column, found)
        if not wrong:
            way = narrowing(column, found)
            wrong = loss(column, found, way)
            if not wrong and way.offset:
                wrong = "has values that 32 bits cannot tell apart", "subtract a number that is near all of them"
        if wrong:
            self._problems.add(f"target {self._target!r} {wrong[0]}", wrong[1])
        return Feature(column)

    # --- what is wrong ----------------------------------------------------------------------------------------

    def _refuse_column(self, name: str, what: str, fix: str) -> None:
        self._problems.add(f"column {name!r} {what}", fix)
        if name != self._target and name not in self._concerned:
            self._concerned.append(name)

    def _without(self) -> str:
        """The option that leaves out the columns with problems."""
        concerned = [name for name in self._reader.names if name in self._concerned]
        names = [name if re.fullmatch(r"[A-Za-z_]\w*", name) else repr(name) for name in concerned]
        return f"leave out columns with drop: [{', '.join(names)}]" if names else ""


def _converted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Texts as values of a type."""
    return pc.equal(pc.utf8_lower(column), "true") if pa.types.is_boolean(kind) else pc.cast(column, kind)


def _numbers(column: pa.Array, values: pa.Array | None) -> npt.NDArray[Any] | None:
    """A column as numbers, or as the places of its values among some; None if it is neither."""
    if values is not None:
        return np.asarray(pc.index_in(pc.cast(column, values.type), values))
    if pa.types.is_boolean(column.type):
        return np.asarray(pc.cast(column, pa.int8()))
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return np.asarray(column) if numeric else None
