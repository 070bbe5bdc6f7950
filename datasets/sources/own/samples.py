"""Samples of a source of the user's own, collected in a temporary file while they are read for the first time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash

from heliostat.datasets.index import SPLITS, Field, SplitName
from heliostat.datasets.signature import LABEL, TARGET
from heliostat.datasets.sources import Chunk, hashes_of
from heliostat.datasets.sources.own.values import Kinds, Values, named, stored
from heliostat.datasets.sources.spool import Spool, Spooled

CHUNK, CHUNK_BYTES = 1024, 8 << 20
"""Samples, and bytes of them, that are held at once."""


class Samples:
    """Samples of arrays that are all alike.

    Args:
        place: the source, for messages.
        classes: the names of the classes, if they are known.
    """

    def __init__(self, place: str, classes: list[str]) -> None:
        self._kinds = Kinds(place, classes)
        self._spool = Spool()
        self._columns: dict[str, Spooled] = {}
        self._splits = Spooled(self._spool)
        self._waiting: list[tuple[Values, int]] = []

    def add(self, place: str, value: Any, split: SplitName | None) -> int:
        """Take the next sample; returns a hash of it."""
        values = self._kinds.add(place, value)
        if values is None:
            return 0
        found = _hash(values)
        if self._kinds.has_classes:
            values[LABEL] = np.int64(self._kinds.code(values))
        self._waiting.append((values, -1 if split is None else SPLITS.index(split)))
        if len(self._waiting) >= min(CHUNK, 1 + CHUNK_BYTES // self._size):
            self._flush()
        return found

    def hash(self, value: Any) -> int:
        """The hash that `add` has returned for this sample."""
        return _hash({name: stored(name, each) for name, each in named(value).items()})

    def finish(self) -> None:
        """All samples have been added.

        Raises:
            UserError: some were refused.
        """
        self._kinds.refuse()
        self._flush()

    @property
    def bytes(self) -> int:
        """The bytes that are kept."""
        return self._splits.rows * self._size

    @property
    def fields(self) -> dict[str, Field]:
        return self._kinds.fields

    def meta(self) -> dict[str, Any]:
        classes = {"classes": self._kinds.labels.names} if self._kinds.has_classes else {}
        return classes | ({"white": 255} if self.fields.get("image", Field(dtype="int8")).dtype == "uint8" else {})

    def chunks(self) -> Iterator[Chunk]:
        """The samples again, of which ``by`` has the place of the split, or -1, if the source says none."""
        for number in range(len(self._splits.places)):
            columns = {name: array.chunk(number) for name, array in self._columns.items()}
            codes = self._splits.chunk(number)
            if self._kinds.has_classes:
                columns[LABEL] = self._kinds.labels.places[columns[LABEL]]
            inputs = [columns[name] for name in columns if name not in (LABEL, TARGET)]
            keys = (b"".join(values[at].tobytes() for values in inputs) for at in range(len(codes)))
            yield Chunk(hashes_of(keys), columns, by=codes)

    def close(self) -> None:
        self._spool.close()

    @property
    def _size(self) -> int:
        return sum(field.size for field in self.fields.values())

    def _flush(self) -> None:
        if not self._waiting:
            return
        for name in self.fields:
            column = self._columns.setdefault(name, Spooled(self._spool))
            self._spool.add(column, np.stack([values[name] for values, _ in self._waiting]))
        self._spool.add(self._splits, np.array([split for _, split in self._waiting], np.int8))
        self._waiting = []


def _hash(values: Values) -> int:
    total = xxhash.xxh3_64()
    for name, value in values.items():
        text = isinstance(value, str)
        total.update((f"{name} {value}" if text else f"{name} {value.dtype.str} {value.shape}").encode())
        total.update(b"" if text else value.tobytes())
    return total.intdigest()
