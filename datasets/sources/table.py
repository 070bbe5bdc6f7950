"""A table in a CSV or Parquet file, one of whose columns is the target."""

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
from heliostat.datasets.sources import Base, Chunk
from heliostat.errors import UserError

MAX_CATEGORIES = 100
MAX_CLASSES = 1000
TEXTS = (pa.types.is_string, pa.types.is_large_string)


class Table(Base):
    """Numbers become features unchanged, texts are one-hot encoded; the target becomes ``label``.

    A target of floating-point numbers becomes the column ``target`` instead, for your own regression tasks.
    """

    name = "table"

    class Options(Config):
        path: str = Key(description="the path of a .csv or .parquet file")
        target: str = Key(description="the name of the column to learn")

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        table = self._read()
        names = table.column_names
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"{options.path} has {names.count(name)} columns of the name {name!r}", "rename all but one")
            if table[name].null_count:
                empty = table[name].null_count
                raise UserError(
                    f"{options.path}: column {name!r} has {empty} empty values", "fill them or drop their rows first"
                )
        if options.target not in names:
            raise UserError(f"{options.path} has no column {options.target!r}", nearest(options.target, names))
        self._features: dict[str, npt.NDArray[Any]] = {}
        for name in names:
            for feature, values in self._encode(name, table[name]).items() if name != options.target else ():
                if feature in self._features:
                    raise UserError(f"{options.path}: two features would be named {feature!r}", "rename one of their columns")
                self._features[feature] = self._finite(feature, values)
        if not self._features:
            raise UserError(f"{options.path} has no column but the target", "add the features")
        self._classes: list[str] = []
        self.fields = {"features": Field(dtype="float32", shape=(len(self._features),))}
        self._target = self._encode_target(options.target, table[options.target])

    def chunks(self) -> Iterator[Chunk]:
        features = np.stack(list(self._features.values()), axis=1).astype(np.float32)
        target = "label" if self._classes else "target"
        yield Chunk([row.tobytes() for row in features], {"features": features, target: self._target})

    def meta(self) -> dict[str, Any]:
        classes = {"classes": self._classes} if self._classes else {}
        return {**classes, "feature_names": list(self._features)}

    def files(self) -> list[Path]:
        return [Path(self.options.path)]

    def _finite(self, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):
            narrow = values.astype(np.float32)
        bad = int((~np.isfinite(narrow)).sum())
        if bad:
            raise UserError(
                f"{self.options.path}: column {name!r} has {bad} values that are NaN, infinite or above 3.4e38",
                "replace them or drop their rows first",
            )
        return narrow

    def _encode_target(self, name: str, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """Encode the target as numbers; sets its field, and the classes of a categorical one."""
        kind = column.type
        if pa.types.is_floating(kind):
            self.fields["target"] = Field(dtype="float32")
            return self._finite(name, column.to_numpy())
        if pa.types.is_dictionary(kind):
            column = pc.cast(column, kind.value_type)
        if not any(test(column.type) for test in (pa.types.is_integer, pa.types.is_boolean, *TEXTS)):
            raise UserError(
                f"target {name!r} is of type {kind}", "convert it to texts, integers or floating-point numbers first"
            )
        values = sorted(pc.unique(column).to_pylist())
        if not 2 <= len(values) <= MAX_CLASSES:
            raise UserError(
                f"target {name!r} has {len(values)} classes, but must have from 2 to {MAX_CLASSES}",
                "choose another target; write numbers with a decimal point to learn them as numbers",
            )
        self._classes = [str(value) for value in values]
        self.fields["label"] = Field(dtype="int64")
        return np.asarray(pc.index_in(column, pa.array(values, column.type))).astype(np.int64)

    def _read(self) -> pa.Table:
        path = self.options.path
        try:
            table = pq.read_table(path) if path.endswith(".parquet") else pyarrow.csv.read_csv(path)
        except FileNotFoundError:
            raise UserError(f"dataset.options.path {path} does not exist", "give the path of a CSV or Parquet file") from None
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} cannot be read as a table: {error}", "give a CSV or Parquet file") from None
        return table

    def _encode(self, name: str, column: pa.ChunkedArray) -> dict[str, npt.NDArray[Any]]:
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return {name: column.to_numpy()}
        if pa.types.is_boolean(kind):
            return {name: np.asarray(pc.cast(column, pa.int8()))}
        if pa.types.is_dictionary(kind):
            column = pc.cast(column, kind.value_type)
        if not any(test(column.type) for test in TEXTS):
            raise UserError(
                f"column {name!r} is of type {kind}, which cannot be a feature", "convert it to numbers or texts first"
            )
        values = sorted(pc.unique(column).to_pylist())
        if len(values) > MAX_CATEGORIES:
            raise UserError(f"column {name!r} has {len(values)} different texts", "drop it, or group them into fewer")
        return {f"{name}={value}": np.asarray(pc.cast(pc.equal(column, value), pa.int8())) for value in values}
