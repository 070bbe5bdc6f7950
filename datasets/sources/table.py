"""A table in a CSV or Parquet file, one of whose columns is the target."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import Field as Key

from heliostat.config import Config, nearest
from heliostat.datasets.index import Field
from heliostat.datasets.sources import Base, Chunk, Problems, cells
from heliostat.datasets.sources.checks import MAX_CATEGORIES, is_text, no_classes, no_quantity
from heliostat.datasets.sources.narrow import narrowed, trouble
from heliostat.errors import UserError

RULES = 3
"""How a table is read; counted up with each change, so that a new run does not take a dataset that was read otherwise."""
UNNAMED = re.compile(r"|unnamed: ?\d+(\.\d+)*|\.\.\.\d+|_c0|__index_level_\d+__", re.IGNORECASE)
"""What pandas, R and Spark call the index of the rows when it has no name."""


class Table(Base):
    """Numbers become features unchanged, texts are one-hot encoded; the target becomes ``label``.

    Numbers that 32 bits cannot tell apart, such as timestamps, are stored as the difference from their median, which
    ``meta["offsets"]`` has by the name of the feature.

    A target of floating-point numbers becomes the column ``target`` instead, for your own regression tasks, unless it is 0.0
    and 1.0 only.
    """

    name = "table"

    class Options(Config):
        path: str = Key(description="the path of a .csv or .parquet file")
        target: str = Key(description="the name of the column to learn")
        drop: list[str] = Key([], description="columns to leave out, such as [id, date]")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._is_parquet = options.path.endswith(".parquet")
        self._problems = Problems(options.path)
        self._concerned: list[str] = []
        """The columns with problems, which can be left out, in their order."""
        table = self._without_index(self._read())
        target = self._check_names(table.column_names)
        learnt = self._typed(target, table[target])
        self._features: dict[str, npt.NDArray[np.float32]] = {}
        self._exact: dict[str, npt.NDArray[Any]] = {}
        """The values of the features that have an offset."""
        self._offsets: dict[str, int | float] = {}
        for name in table.column_names:
            if name != target and name not in options.drop:
                self._add_features(name, self._typed(name, table[name]), learnt)
        self.fields = {}
        self._classes: list[str] = []
        self._target = self._encode_target(target, learnt)
        self._problems.refuse(self._without())
        if not self._features:
            raise UserError(f"{options.path} has no column but the target", "add the features")
        self.fields = {"features": Field(dtype="float32", shape=(len(self._features),)), **self.fields}

    def chunks(self) -> Iterator[Chunk]:
        features = np.stack(list(self._features.values()), axis=1)
        # By the values before the offset, which changes when rows are added: a sample must stay in its split.
        plain = features[:, [name not in self._offsets for name in self._features]]
        exact = [[value.tobytes() for value in values] for values in self._exact.values()]
        keys = [row.tobytes() + b"".join(more) for row, *more in zip(plain, *exact, strict=True)]
        yield Chunk(keys, {"features": features, "label" if self._classes else "target": self._target})

    def meta(self) -> dict[str, Any]:
        classes = {"classes": self._classes} if self._classes else {}
        offsets = {"offsets": self._offsets} if self._offsets else {}
        return {**classes, "feature_names": list(self._features), **offsets}

    def description(self) -> dict[str, Any]:
        return {"name": self.name, **self.options.model_dump(mode="json", exclude_defaults=True)}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "rules": RULES}

    def files(self) -> list[Path]:
        return [Path(self.options.path)]

    # --- the file ---------------------------------------------------------------------------------------------

    def _read(self) -> pa.Table:
        path = self.options.path
        try:
            table = pq.read_table(path) if self._is_parquet else _read_csv(path)
        except FileNotFoundError:
            raise UserError(f"dataset.options.path {path} does not exist", "give the path of a CSV or Parquet file") from None
        except (pa.ArrowInvalid, OSError) as error:
            fix = "save it as UTF-8" if "invalid UTF8" in str(error) else "give a CSV or Parquet file"
            raise UserError(f"{path} cannot be read as a table: {error}", fix) from None
        if not table.num_rows:
            raise UserError(f"{path} has no rows", "give a table with a row per sample")
        stripped = table.rename_columns([name.strip() for name in table.column_names])
        return stripped.replace_schema_metadata(table.schema.metadata)  # pandas' part of it, which renaming removes

    def _without_index(self, table: pa.Table) -> pa.Table:
        """Leave out the index of the rows if it has no name; one with a name may be meant as a column, and is refused."""
        index = [name for name in (table.schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
        wanted = {self.options.target.strip(), *self.options.drop}
        for name, count in Counter(table.column_names).items():
            if name in wanted or count > 1:
                continue
            unnamed = UNNAMED.fullmatch(name) and not (name == "_c0" and "_c1" in table.column_names)  # there no column has one
            if unnamed and (name in index or _numbers_rows(table[name])):
                table = table.drop_columns([name])
            elif name in index:
                self._refuse_column(name, "is the row index of pandas", "drop it, or save after reset_index()")
            elif unnamed:
                self._refuse_column(name, "has no name of its own", "give it one, or drop it if it numbers the rows")
        return table

    def _check_names(self, names: list[str]) -> str:
        """The name of the target's column. Without it, or with a name twice, no column can be checked.

        Raises:
            UserError: as said.
        """
        path, target = self.options.path, str(self.options.target).strip()
        if target not in names:
            other = re.search(r"[;\t|]", names[0]) if len(names) == 1 else None
            if other:
                raise UserError(f"{path} has {other[0]!r} between its columns", "save it with commas")
            raise UserError(f"{path} has no column {target!r}", nearest(target, names))
        for name in self.options.drop:
            if name not in names:
                self._problems.add(f"drop lists {name!r}, which is no column", nearest(name, names))
        if target in self.options.drop:
            raise UserError(f"dataset.options.drop lists {target!r}, which is the target", "remove it from drop")
        twice = {name: count for name, count in Counter(names).items() if count > 1}
        for name, count in twice.items():
            self._problems.add(f"{count} columns have the name {name!r}", "rename all but one")
        if twice:
            self._problems.refuse()
        return target

    def _typed(self, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The values that a column has, as numbers, truth values or trimmed texts; notes those that are missing."""
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if pa.types.is_decimal(column.type):
            column = pc.cast(column, pa.float64())
        if not is_text(column.type):
            return self._there(name, column, pc.is_null(column))
        # Most columns of a CSV file are numbers without a gap, and the check for gaps takes longer than to read them as such.
        values = None if self._is_parquet else cells.numbers(column)
        if values is None:
            column = cells.trimmed(column)
            column = self._there(name, column, cells.missing(column))
            values = None if self._is_parquet else cells.numbers(column)
        if values is not None:
            return self._checked(name, column, values)
        truths = None if self._is_parquet else cells.truths(column)
        return column if truths is None else truths

    def _there(self, name: str, column: pa.ChunkedArray, missing: pa.ChunkedArray) -> pa.ChunkedArray:
        """The values that are not missing; only a message follows if some are."""
        count = pc.sum(missing).as_py()
        if not count:
            return column
        written = sorted({repr(value) for value in pc.unique(column.filter(missing)).to_pylist() if value})
        also = f" (also written {', '.join(written)})" if written else ""
        fix = "fill them or drop their rows"
        if "'None'" in written or (written and name == self.options.target.strip()):
            fix += ", or if they are a class, write it otherwise, such as none"
        self._refuse_column(name, f"has {count} empty values{also}", fix)
        return column.filter(pc.invert(missing))

    def _checked(self, name: str, texts: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """The numbers that the texts of a CSV file are; none of them if they are not what the texts say."""
        if pa.types.is_floating(values.type) and (example := cells.beyond(texts)):
            self._refuse_column(name, f"has whole numbers that 64 bits do not hold, such as {example}", "drop it")
            return values[:0]
        if pa.types.is_floating(values.type) or not (example := cells.padded(texts)):
            return values
        if name == self.options.target.strip():
            return texts
        what = f"has codes with leading zeros, such as {example}"
        self._refuse_column(name, what, f"drop it, or write c{example} for a category")
        return values[:0]

    def _refuse_column(self, name: str, what: str, fix: str) -> None:
        self._problems.add(f"column {name!r} {what}", fix)
        if name != self.options.target.strip() and name not in self._concerned:
            self._concerned.append(name)

    def _without(self) -> str:
        """The option that leaves out the columns with problems."""
        names = [name if re.fullmatch(r"[A-Za-z_]\w*", name) else repr(name) for name in self._concerned]
        return f"leave out columns with drop: [{', '.join(names)}]" if names else ""

    # --- features ---------------------------------------------------------------------------------------------

    def _add_features(self, name: str, column: pa.ChunkedArray, target: pa.ChunkedArray) -> None:
        if column.type == target.type and column.equals(target):
            self._refuse_column(name, "is equal to the target in every row", "drop it")
            return
        for feature, values in self._encode(name, column).items() if len(column) else ():
            if feature in self._features:
                self._problems.add(f"two features would be named {feature!r}", "rename one of their columns")
            if found := trouble(values):
                self._refuse_column(name, *found)
                continue
            self._features[feature], offset = narrowed(values)
            if offset:
                self._offsets[feature], self._exact[feature] = offset, values

    def _encode(self, name: str, column: pa.ChunkedArray) -> dict[str, npt.NDArray[Any]]:
        """The features of a column by their names; none if there is a problem."""
        kind = column.type
        if pa.types.is_boolean(kind):
            return {name: np.asarray(pc.cast(column, pa.int8()))}
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            values: npt.NDArray[Any] = column.to_numpy()
            if found := no_quantity(name, values):
                self._refuse_column(name, *found)
            return {name: values}
        if not is_text(kind):
            self._refuse_column(name, f"is of type {kind}, which cannot be a feature", "convert it to numbers or texts")
            return {}
        if found := cells.doubts(column):
            self._refuse_column(name, *found)
            return {}
        categories = sorted(pc.unique(column).to_pylist())
        if len(categories) > MAX_CATEGORIES:
            self._refuse_column(name, f"has {len(categories)} different texts", "drop it, or group them into fewer")
            return {}
        return {f"{name}={value}": np.asarray(pc.cast(pc.equal(column, value), pa.int8())) for value in categories}

    # --- the target -------------------------------------------------------------------------------------------

    def _encode_target(self, name: str, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """Encode the target as numbers; sets its field, and the classes of a categorical one."""
        kind = column.type
        if not len(column):
            return np.empty(0)
        if pa.types.is_floating(kind):
            values: npt.NDArray[Any] = column.to_numpy()
            if set(np.unique(values).tolist()) != {0.0, 1.0}:
                return self._encode_number(name, values)
            column = pc.cast(column, pa.int64())
        elif not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            self._problems.add(f"target {name!r} is of type {kind}", "convert it to texts, integers or floating-point numbers")
            return np.empty(0)
        classes = sorted(pc.unique(column).to_pylist())
        if found := no_classes(column, len(classes)):
            self._problems.add(f"target {name!r} {found[0]}", found[1])
        self._classes = [str(value) for value in classes]
        self.fields["label"] = Field(dtype="int64")
        return np.asarray(pc.index_in(column, pa.array(classes, column.type))).astype(np.int64)

    def _encode_number(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        self.fields["target"] = Field(dtype="float32")
        found = trouble(values)
        if not found and narrowed(values)[1]:
            found = "has values that 32 bits cannot tell apart", "subtract a number that is near all of them"
        if found:
            self._problems.add(f"target {name!r} {found[0]}", found[1])
            return np.empty(0, np.float32)
        return narrowed(values)[0]


def _read_csv(path: str) -> pa.Table:
    """All columns as texts: what Arrow would infer has lost leading zeros, and which values were missing."""
    with pyarrow.csv.open_csv(path) as reader:
        kinds = dict.fromkeys(reader.schema.names, pa.string())
    return pyarrow.csv.read_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=kinds))


def _numbers_rows(column: pa.ChunkedArray) -> bool:
    """Whether a column has another whole number in each row."""
    values = cells.numbers(cells.trimmed(column)) if is_text(column.type) else column
    return bool(values is not None and pa.types.is_integer(values.type) and pc.count_distinct(values).as_py() == len(values))
