"""The dataset on disk: ``index.json`` and Arrow IPC shards, each one record batch of fixed-size samples.

A sample is a dictionary of arrays of fixed shape; a column ``image`` of shape (1, 8, 8) is stored as a fixed-size
list of 64 values, so that a whole shard is one contiguous array, which is memory-mapped and never parsed. A shard is checked
against its checksum when it is first mapped.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heliostat.datasets.arrow import Columns, decode
from heliostat.datasets.cache import NoRoom, cached
from heliostat.datasets.index import INDEX, Index
from heliostat.datasets.shards import downloaded, mapped
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.retry import TIMEOUT

MAPPED, LOADED = 4096, 64
"""Shards that stay open: memory-mapped ones, more than the order of samples uses at a time; and others, in memory."""


class Dataset:
    """A finished dataset, opened for reading."""

    def __init__(self, folder: Folder, index: Index) -> None:
        self.folder, self.index = folder, index
        self._mapped = lru_cache(MAPPED)(self._map)
        self._loaded = lru_cache(LOADED)(self._load)
        self._starts: dict[str, npt.NDArray[np.int64]] = {}

    @classmethod
    def open(cls, uri: str, patience: float = TIMEOUT) -> "Dataset":
        """Open the dataset at a path or URI, with ``patience`` for its storage, see `Folder`.

        Raises:
            UserError: it does not exist, is incomplete, or has a format that this version does not read.
        """
        folder = Folder.at(uri, patience)
        if not folder.exists():
            raise UserError(f"dataset {uri} does not exist", f"build it: heliostat dataset build SOURCE {uri}")
        if not folder.exists(INDEX):
            raise UserError(f"dataset {uri} has no {INDEX}: its build did not finish", "build it again")
        try:
            data = folder.read(INDEX)
        except OSError as error:
            raise UserError(f"dataset {uri}: {INDEX} cannot be read: {error}", "build it again") from None
        return cls(folder, Index.parse(data, uri))

    def columns(self, split: str, shard: int) -> Columns:
        """The arrays of one shard, (rows, *shape), memory-mapped; from an object store only if the node can cache them.

        Raises:
            UserError: the shard cannot be read, or is not what the index says.
        """
        try:
            try:
                return self._mapped(split, shard)
            except NoRoom:
                return self._loaded(split, shard)
        except (OSError, pa.ArrowException) as error:
            raise UserError(
                f"dataset {self.folder}: shard {self.index.splits[split][shard].file} cannot be read: {error}",
                f"heliostat dataset verify {self.folder}, then build it again",
            ) from None

    def take(self, split: str, ids: npt.NDArray[np.int64]) -> Columns:
        """The samples with these numbers within the split, in this order: column -> (len(ids), *shape)."""
        if len(self.index.splits[split]) == 1:
            return {name: values[ids] for name, values in self.columns(split, 0).items()}
        if split not in self._starts:
            self._starts[split] = np.cumsum([0, *(shard.rows for shard in self.index.splits[split])])
        starts = self._starts[split]
        shards = np.searchsorted(starts, ids, side="right") - 1
        rows = ids - starts[shards]
        taken = {name: np.empty((len(ids), *field.shape), field.dtype) for name, field in self.index.fields.items()}
        for number, places in _by_shard(shards):
            for name, values in self.columns(split, number).items():
                column = taken[name]
                for place in places:
                    column[place] = values[rows[place]]
        return taken

    def verify(self) -> list[str]:
        """Read every byte, and return a list of the damage, empty if there is none."""
        damage = []
        for split, shards in self.index.splits.items():
            for shard in shards:
                try:
                    decode(downloaded(self.folder, shard), self.index.fields, shard.rows)
                except (OSError, pa.ArrowException) as error:
                    damage.append(f"{split}: {shard.file}: {error}")
        return damage

    def _map(self, split: str, number: int) -> Columns:
        shard = self.index.splits[split][number]
        local = self.folder.is_local
        path = f"{self.folder.path}/{shard.file}"
        data = self.folder.retried(lambda: mapped(path, shard)) if local else cached(self.folder, shard)
        return decode(data, self.index.fields, shard.rows)

    def _load(self, split: str, number: int) -> Columns:
        shard = self.index.splits[split][number]
        return decode(downloaded(self.folder, shard), self.index.fields, shard.rows)


def _by_shard(shards: npt.NDArray[np.int64]) -> Iterator[tuple[int, list[Any]]]:
    """Each of the shards, and its places: one array if there are many, or one by one, which is faster for a few."""
    order = np.argsort(shards, kind="stable")
    numbers, firsts = np.unique(shards[order], return_index=True)
    lasts = [*firsts[1:].tolist(), len(order)]
    few = order.tolist()
    for number, first, last in zip(numbers.tolist(), firsts.tolist(), lasts, strict=True):
        yield number, few[first:last] if last - first <= 8 else [order[first:last]]
