"""Builds a dataset from a source: splits by content, writes shards with checksums, and ``index.json`` last."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.arrow import Columns, encode
from heliostat.datasets.format import Dataset
from heliostat.datasets.index import INDEX, SPLITS, Field, Index, Shard, SplitName
from heliostat.datasets.sources import Source
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.retry import TIMEOUT

SHARD_BYTES = 16 << 20
TEST, VALIDATION = 0.15, 0.15
Moments = npt.NDArray[np.float64]


def build(source: Source, uri: str, shard_bytes: int = SHARD_BYTES, patience: float = TIMEOUT) -> Dataset:
    """Write the dataset that ``source`` describes to ``uri`` and open it.

    Each shard is written atomically, and the index after all shards, so a killed build leaves nothing that `Dataset.open`
    accepts; one that is refused leaves nothing. A finished dataset of the same content is not changed.

    Raises:
        UserError: the source is refused or has too few samples, or ``uri`` holds a dataset of other content.
    """
    folder = Folder.at(uri, patience)
    finished = Dataset.open(uri, patience) if folder.exists(INDEX) else None
    # With a finished dataset nothing is written: the source is read only to compare fingerprints.
    writers = {split: _SplitWriter(split, None if finished else folder, shard_bytes) for split in SPLITS}
    try:
        _write_shards(source, writers)
    except UserError:
        _delete_shards(folder, writers)
        raise
    meta = source.meta()
    index = Index(
        fingerprint=_fingerprint(source.fields, meta, writers),
        fields=source.fields,
        splits={split: tuple(writer.shards) for split, writer in writers.items()},
        stats=writers["train"].statistics.result(),
        meta=meta,
        source=source.description(),
    )
    if finished:
        if finished.index.fingerprint != index.fingerprint:
            raise UserError(
                f"{uri} already holds another dataset, of {finished.index.source}", "choose another folder, or delete this one"
            )
        return finished
    folder.write(INDEX, index.model_dump_json(indent=2).encode())
    return Dataset.open(uri, patience)


def _write_shards(source: Source, writers: dict[SplitName, "_SplitWriter"]) -> None:
    for chunk in source.chunks():
        splits = split_of(chunk.keys)
        for split, writer in writers.items():
            writer.add({name: values[splits == split] for name, values in chunk.columns.items()}, source.fields)
    for split, writer in writers.items():
        if not writer.rows:
            raise UserError(f"the source has too few samples: the {split} split would be empty", "add data")
    for writer in writers.values():
        writer.flush(source.fields)


def _delete_shards(folder: Folder, writers: dict[SplitName, "_SplitWriter"]) -> None:
    """Delete what an unfinished build has written."""
    written = [shard.file for writer in writers.values() if writer.folder for shard in writer.shards]
    for file in written:
        folder.delete(file)
    if written and not folder.names():
        folder.delete()


def split_of(keys: list[bytes]) -> npt.NDArray[np.str_]:
    """The split of each key: a pure function of its bytes, so a sample never moves to another split."""
    hashes = np.array([int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") for key in keys], np.uint64)
    uniform = hashes / 2.0**64
    return np.where(uniform < TEST, "test", np.where(uniform < TEST + VALIDATION, "validation", "train"))


def _fingerprint(fields: dict[str, Field], meta: dict[str, Any], writers: dict[SplitName, "_SplitWriter"]) -> str:
    described = {"fields": {k: f.model_dump(mode="json") for k, f in fields.items()}, "meta": meta}
    total = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for split, writer in writers.items():
        total.update(f"{split} {[s.rows for s in writer.shards]} {writer.content.hexdigest()}".encode())
    return total.hexdigest()[:32]


class _SplitWriter:
    """Collects the samples of one split, and writes a shard whenever they fill one."""

    def __init__(self, split: SplitName, folder: Folder | None, shard_bytes: int) -> None:
        self.split, self.folder, self.shard_bytes = split, folder, shard_bytes
        self.rows = 0
        self.shards: list[Shard] = []
        self.content = hashlib.sha256()
        self.statistics = _Statistics()
        self._pending: list[Columns] = []
        self._pending_bytes = 0

    def add(self, columns: Columns, fields: dict[str, Field]) -> None:
        self._pending.append(columns)
        self.rows += len(next(iter(columns.values())))
        self._pending_bytes += sum(values.nbytes for values in columns.values())
        if self._pending_bytes >= self.shard_bytes:
            self.flush(fields)

    def flush(self, fields: dict[str, Field]) -> None:
        columns = {name: np.concatenate([part[name] for part in self._pending]) for name in fields if self._pending}
        self._pending, self._pending_bytes = [], 0
        row_bytes = sum(values[:1].nbytes for values in columns.values())
        rows = len(next(iter(columns.values()), ()))
        for start, stop in _cuts(rows, max(1, self.shard_bytes // max(1, row_bytes))):
            self._write({name: values[start:stop] for name, values in columns.items()}, fields)

    def _write(self, columns: Columns, fields: dict[str, Field]) -> None:
        for name in fields:
            self.content.update(np.ascontiguousarray(columns[name]).data)
        self.statistics.add(columns)
        data = encode(columns, fields)
        name = f"{self.split}-{len(self.shards):05d}.arrow"
        if self.folder:
            self.folder.write(name, data)
        self.shards.append(Shard.of(name, len(next(iter(columns.values()))), data))


def _cuts(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Split ``rows`` into equal parts of at most ``most``."""
    parts = -(-rows // most)
    for part in range(parts):
        yield rows * part // parts, rows * (part + 1) // parts


class _Statistics:
    """Mean and standard deviation of each column over all axes but the first one of a sample, in one pass.

    Sums are of the differences from the first sample: of large numbers that are near each other, squares have no digits left.
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, Moments, Moments, Moments]] = {}

    def add(self, columns: Columns) -> None:
        for name, values in columns.items():
            if values.ndim < 2 or name == "tokens" or not len(values):
                continue
            flat = values.reshape(len(values), values.shape[1], -1).astype(np.float64)
            zero = np.zeros(flat.shape[1])
            count, first, total, squares = self._sums.get(name, (0, flat[0, :, 0].copy(), zero, zero))
            flat -= first[:, None]
            seen = flat.shape[0] * flat.shape[2]
            self._sums[name] = (count + seen, first, total + flat.sum(axis=(0, 2)), squares + (flat**2).sum(axis=(0, 2)))

    def result(self) -> dict[str, dict[str, list[float]]]:
        stats = {}
        for name, (count, first, total, squares) in self._sums.items():
            mean = total / count
            spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
            stats[name] = {"mean": (first + mean).tolist(), "std": spread.tolist()}
        return stats
