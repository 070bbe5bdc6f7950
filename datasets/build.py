"""Builds a dataset from a source: splits by content, writes shards with checksums, and ``index.json`` last."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from heliostat.datasets.arrow import Columns, encode
from heliostat.datasets.format import Dataset
from heliostat.datasets.index import INDEX, SPLITS, Field, Index, Shard, SplitName
from heliostat.datasets.signature import Signature
from heliostat.datasets.sources import Source
from heliostat.datasets.sources.spool import temporary_space
from heliostat.datasets.statistics import Statistics
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.retry import TIMEOUT

SHARD_BYTES = 16 << 20
TEST, VALIDATION = 0.15, 0.15


def build(source: Source, uri: str, shard_bytes: int = SHARD_BYTES, patience: float = TIMEOUT) -> Dataset:
    """Write the dataset that ``source`` describes to ``uri`` and open it.

    Each shard is written atomically, and the index after all shards, so a killed build leaves nothing that `Dataset.open`
    accepts; one that is refused leaves nothing. A finished dataset of the same content is not changed. Memory does not depend
    on the number of samples.

    Raises:
        UserError: the source is refused, has too few samples, or changes meanwhile; ``uri`` holds a dataset of other content.
    """
    folder = Folder.at(uri, patience)
    finished = Dataset.open(uri, patience) if folder.exists(INDEX) else None
    # With a finished dataset nothing is written: the source is read only to compare fingerprints.
    writers = {split: _SplitWriter(split, None if finished else folder, shard_bytes) for split in SPLITS}
    source.identity()
    try:
        _write_shards(source, writers)
        source.check_unchanged()
    except UserError:
        _delete_shards(folder, writers)
        raise
    finally:
        source.close()
        source.progress("", 0, 0, "")
    meta, signature = source.meta(), source.signature()
    index = Index(
        format=2 if signature else 1,
        fingerprint=_fingerprint(source.fields, meta, signature, writers),
        fields=source.fields,
        splits={split: tuple(writer.shards) for split, writer in writers.items()},
        stats=writers["train"].statistics.result(),
        meta=meta,
        source=source.description(),
        signature=signature,
        train=writers["train"].statistics.of_table(signature) if signature else None,
    )
    if finished:
        if finished.index.fingerprint != index.fingerprint:
            raise UserError(
                f"{uri} already holds another dataset, of {finished.index.source}", "choose another folder, or delete this one"
            )
        return finished
    folder.write(INDEX, index.document())
    return Dataset.open(uri, patience)


def _write_shards(source: Source, writers: dict[SplitName, "_SplitWriter"]) -> None:
    with tempfile.TemporaryFile() as kept:
        if source.even:
            _plan_shards(source, writers, kept)
        for chunk in source.chunks():
            codes = np.frombuffer(kept.read(len(chunk.keys)), np.uint8) if source.even else _codes(chunk.keys)
            for code, writer in enumerate(writers.values()):
                writer.add({name: values[codes == code] for name, values in chunk.columns.items()}, source.fields, chunk.ends)
    for split, writer in writers.items():
        if not writer.rows:
            raise UserError(f"the source has too few samples: the {split} split would be empty", "add data")
    for writer in writers.values():
        writer.flush(source.fields)


def _plan_shards(source: Source, writers: dict[SplitName, "_SplitWriter"], kept: IO[bytes]) -> None:
    """Read the keys: the splits of all samples are kept in a file, and each split is divided evenly into shards."""
    rows = np.zeros(len(SPLITS), np.int64)
    for chunk in source.chunks():
        codes = _codes(chunk.keys)
        rows += np.bincount(codes, minlength=len(SPLITS))
        with temporary_space():
            kept.write(codes.data)
    kept.seek(0)
    for writer, count in zip(writers.values(), rows.tolist(), strict=True):
        writer.sizes = [stop - start for start, stop in _cuts(count, _rows_of(writer.shard_bytes, source.fields))]


def _delete_shards(folder: Folder, writers: dict[SplitName, "_SplitWriter"]) -> None:
    """Delete what an unfinished build has written."""
    written = [shard.file for writer in writers.values() if writer.folder for shard in writer.shards]
    for file in written:
        folder.delete(file)
    if written and not folder.names():
        folder.delete()


def split_of(keys: list[bytes]) -> npt.NDArray[np.str_]:
    """The split of each key: a pure function of its bytes, so a sample never moves to another split."""
    return np.array(SPLITS)[_codes(keys)]


def _codes(keys: list[bytes]) -> npt.NDArray[np.uint8]:
    """The place of each key's split in `SPLITS`."""
    hashes = np.array([int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") for key in keys], np.uint64)
    uniform = hashes / 2.0**64
    train, validation, test = range(len(SPLITS))
    return np.where(uniform < TEST, test, np.where(uniform < TEST + VALIDATION, validation, train)).astype(np.uint8)


def _fingerprint(
    fields: dict[str, Field], meta: dict[str, Any], signature: Signature | None, writers: dict[SplitName, "_SplitWriter"]
) -> str:
    described: dict[str, Any] = {"fields": {k: f.model_dump(mode="json") for k, f in fields.items()}, "meta": meta}
    if coding := signature and signature.coding():
        described["signature"] = coding
    total = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for split, writer in writers.items():
        total.update(f"{split} {[s.rows for s in writer.shards]} {writer.content.hexdigest()}".encode())
    return total.hexdigest()[:32]


class _Pending:
    """Samples that wait to be written, in temporary files: those of a chunk of large images would fill the memory."""

    def __init__(self) -> None:
        self.rows = self.bytes = self._taken = 0
        self._files: dict[str, IO[bytes]] = {}

    def add(self, columns: Columns) -> None:
        for name, values in columns.items():
            file = self._files.setdefault(name, tempfile.TemporaryFile())  # noqa: SIM115
            with temporary_space():
                file.seek(0, os.SEEK_END)
                file.write(np.ascontiguousarray(values).data)
            self.bytes += values.nbytes
        self.rows += len(next(iter(columns.values())))

    def take(self, rows: int, fields: dict[str, Field]) -> Columns:
        """The first rows, which no longer wait."""
        columns = {}
        for name, field in fields.items():
            self._files[name].seek(self._taken * field.size)
            data = self._files[name].read(rows * field.size)
            columns[name] = np.frombuffer(data, field.dtype).reshape(rows, *field.shape)
            self.bytes -= len(data)
        self.rows -= rows
        self._taken += rows
        if not self.rows:
            self._taken = 0
            for file in self._files.values():
                file.truncate(0)
        return columns


class _SplitWriter:
    """Collects the samples of one split, and writes a shard whenever they fill one."""

    def __init__(self, split: SplitName, folder: Folder | None, shard_bytes: int) -> None:
        self.split, self.folder, self.shard_bytes = split, folder, shard_bytes
        self.rows = 0
        self.sizes: list[int] | None = None
        """The rows of the shards to come, if they are known before."""
        self.shards: list[Shard] = []
        self.content = hashlib.sha256()
        self.statistics = Statistics()
        self._pending = _Pending()

    def add(self, columns: Columns, fields: dict[str, Field], ends: bool) -> None:
        self._pending.add(columns)
        self.rows += len(next(iter(columns.values())))
        while self.sizes and self._pending.rows >= self.sizes[0]:
            self._write(self._pending.take(self.sizes.pop(0), fields), fields)
        if self.sizes is None and ends and self._pending.bytes >= self.shard_bytes:
            self.flush(fields)

    def flush(self, fields: dict[str, Field]) -> None:
        """Write all that waits, in shards of equal size."""
        for start, stop in _cuts(self._pending.rows, _rows_of(self.shard_bytes, fields)):
            self._write(self._pending.take(stop - start, fields), fields)

    def _write(self, columns: Columns, fields: dict[str, Field]) -> None:
        for name in fields:
            self.content.update(np.ascontiguousarray(columns[name]).data)
        self.statistics.add(columns)
        data = encode(columns, fields)
        name = f"{self.split}-{len(self.shards):05d}.arrow"
        if self.folder:
            self.folder.write(name, data)
        self.shards.append(Shard.of(name, len(next(iter(columns.values()))), data))


def _rows_of(shard_bytes: int, fields: dict[str, Field]) -> int:
    """The most rows of a shard."""
    return max(1, shard_bytes // sum(field.size for field in fields.values()))


def _cuts(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Split ``rows`` into equal parts of at most ``most``."""
    parts = -(-rows // most)
    for part in range(parts):
        yield rows * part // parts, rows * (part + 1) // parts
