"""The dataset on disk: ``index.json`` and Arrow IPC shards, each one record batch of fixed-size samples.

A sample is a dictionary of arrays of fixed shape; a column ``image`` of shape (1, 8, 8) is stored as a fixed-size
list of 64 values, so that a whole shard is one contiguous array, which is memory-mapped and never parsed.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic

from heliostat.config import Config
from heliostat.datasets.cache import cached
from heliostat.errors import UserError
from heliostat.folder import Folder

INDEX = "index.json"
Columns = dict[str, npt.NDArray[Any]]
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class Field(Config):
    """The type of one column: a numpy dtype and the shape of a sample."""

    dtype: str
    shape: tuple[int, ...] = pydantic.Field(default=(), strict=False)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]" if self.shape else self.dtype


class Shard(Config):
    """One file: name, rows, size in bytes and SHA-256."""

    file: str
    rows: int
    bytes: int
    sha256: str


class Index(Config):
    """The metadata of a dataset.

    ``fingerprint`` is a hash of the fields, ``meta`` and every value in order, so it does not depend on the version
    of the Arrow library. ``stats`` has the mean and the standard deviation of each column of the train split over all axes
    but the first one of a sample (channels of an image, features of a row).
    """

    format: Literal[1] = 1
    fingerprint: str
    fields: dict[str, Field]
    splits: dict[str, tuple[Shard, ...]]
    stats: dict[str, dict[str, list[float]]]
    meta: dict[str, Any]
    source: dict[str, Any]

    def rows(self, split: str) -> int:
        return sum(shard.rows for shard in self.splits[split])

    @property
    def classes(self) -> list[str]:
        """The names of the classes in the column ``label``; empty without such a column."""
        return list(self.meta.get("classes", []))


class Dataset:
    """A finished dataset, opened for reading."""

    def __init__(self, folder: Folder, index: Index) -> None:
        self.folder, self.index = folder, index
        self._shard = lru_cache(maxsize=64)(self._open_shard)

    @classmethod
    def open(cls, uri: str) -> "Dataset":
        """Open the dataset at a path or URI.

        Raises:
            UserError: it does not exist, is incomplete, or has a format that this version does not read.
        """
        folder = Folder.at(uri)
        if not folder.exists():
            raise UserError(f"dataset {uri} does not exist", f"build it: heliostat dataset build SOURCE {uri}")
        if not folder.exists(INDEX):
            raise UserError(f"dataset {uri} has no {INDEX}: its build did not finish", "build it again")
        try:
            return cls(folder, Index.model_validate_json(folder.read(INDEX), strict=False))
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"dataset {uri}: {INDEX} is damaged at {where!r}: {first['msg']}", "build it again") from None

    def columns(self, split: str, shard: int) -> Columns:
        """The arrays of one shard, (rows, *shape), memory-mapped; from an object store only if the node can cache them."""
        return self._shard(split, shard)

    def take(self, split: str, ids: npt.NDArray[np.int64]) -> Columns:
        """The samples with these numbers within the split, in this order: column -> (len(ids), *shape)."""
        if len(self.index.splits[split]) == 1:
            return {name: values[ids] for name, values in self.columns(split, 0).items()}
        ends = np.cumsum([shard.rows for shard in self.index.splits[split]])
        owner = np.searchsorted(ends, ids, side="right")
        taken = {k: np.empty((len(ids), *f.shape), f.dtype) for k, f in self.index.fields.items()}
        for number in np.unique(owner):
            rows = owner == number
            start = ends[number] - self.index.splits[split][number].rows
            for name, values in self.columns(split, int(number)).items():
                taken[name][rows] = values[ids[rows] - start]
        return taken

    def verify(self) -> list[str]:
        """Read every byte, and return a list of the damage, empty if there is none."""
        damage = []
        for split, shards in self.index.splits.items():
            for shard in shards:
                if not self.folder.exists(shard.file):
                    damage.append(f"{split}: {shard.file} is missing")
                    continue
                data = self.folder.read(shard.file)
                if len(data) != shard.bytes:
                    damage.append(f"{split}: {shard.file} has {len(data)} bytes, but must have {shard.bytes}")
                elif hashlib.sha256(data).hexdigest() != shard.sha256:
                    damage.append(f"{split}: {shard.file} has another checksum than in {INDEX}")
        return damage

    def _open_shard(self, split: str, number: int) -> Columns:
        shard = self.index.splits[split][number]
        try:
            with pa.ipc.open_file(self._source(shard)) as reader:
                batch = reader.get_batch(0)
                if batch.num_rows != shard.rows:
                    raise pa.ArrowInvalid(f"it has {batch.num_rows} rows, but the index says {shard.rows}")
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(
                f"dataset {self.folder}: shard {shard.file} cannot be read: {error}",
                f"heliostat dataset verify {self.folder}, then build it again",
            ) from None
        return {name: from_arrow(batch.column(name), field) for name, field in self.index.fields.items()}

    def _source(self, shard: Shard) -> pa.NativeFile:
        copy = None if self.folder.is_local else cached(self.folder, shard.file, shard.sha256, shard.bytes)
        return copy or self.folder.open(shard.file)


def to_arrow(columns: Mapping[str, npt.NDArray[Any]], fields: Mapping[str, Field]) -> pa.RecordBatch:
    """Arrays (rows, *shape) as one record batch."""
    arrays = []
    for name, field in fields.items():
        flat = pa.array(np.ascontiguousarray(columns[name]).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(flat, math.prod(field.shape)) if field.shape else flat)
    return pa.record_batch(arrays, names=list(fields))


def from_arrow(array: pa.Array, field: Field) -> npt.NDArray[Any]:
    """The inverse of `to_arrow` for one column, without a copy."""
    flat = array.flatten() if field.shape else array
    return np.asarray(flat.to_numpy(zero_copy_only=True)).reshape(len(array), *field.shape)
