"""Builds a dataset from a source: splits it, writes shards with checksums, and ``index.json`` last."""

import hashlib
import json
import os
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any

import numpy as np
import pyarrow as pa

from heliostat.datasets.arrow import Columns, encode
from heliostat.datasets.assignment import assign, by_content, empty_splits
from heliostat.datasets.format import Dataset
from heliostat.datasets.index import INDEX, SPLITS, Field, Index, Shard, SplitName
from heliostat.datasets.signature import Signature
from heliostat.datasets.sources import Source
from heliostat.datasets.sources.spool import temporary_space
from heliostat.datasets.statistics import Statistics
from heliostat.errors import UserError, combined
from heliostat.folder import Folder
from heliostat.retry import TIMEOUT

SHARD_BYTES = 16 << 20
AHEAD = 2
"""Shards that wait for being counted and written while others are filled."""
SHARD = re.compile(rf"({'|'.join(SPLITS)})-\d{{5,}}\.arrow(\.[0-9a-f]{{8}}\.tmp)?")
"""The names of shards, and of those that were being written when a build was killed."""


def build(source: Source, uri: str, shard_bytes: int = SHARD_BYTES, patience: float = TIMEOUT) -> Dataset:
    """Write the dataset that ``source`` describes to ``uri`` and open it.

    Each shard is written atomically, and the index after all shards, so a killed build leaves nothing that `Dataset.open`
    accepts, and the next one writes only the shards that are not there yet; one that is refused leaves nothing. A finished
    dataset of the same content is not changed. Memory does not depend on the number of samples.

    Raises:
        UserError: the source is refused, has too few samples, or changes meanwhile; ``uri`` holds a dataset of other content.
    """
    folder = Folder.at(uri, patience)
    finished = Dataset.open(uri, patience) if folder.exists(INDEX) else None
    # With a finished dataset nothing is written: the source is read only to compare fingerprints.
    found = {} if finished else {name: size for name, (size, _) in folder.stamps().items() if SHARD.fullmatch(name)}
    background = _Background()
    writers = {split: _SplitWriter(split, None if finished else folder, shard_bytes, found, background) for split in SPLITS}
    source.identity()
    try:
        with background:
            split = _write_shards(source, writers)
        source.check_unchanged()
    except UserError:
        _delete_shards(folder, found, writers)
        raise
    finally:
        source.close()
        source.progress("", 0, 0, "")
    meta, signature = {**source.meta(), **split}, source.signature()
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
    _delete_others(folder, found, index)
    folder.write(INDEX, index.document())
    return Dataset.open(uri, patience)


def _write_shards(source: Source, writers: dict[SplitName, "_SplitWriter"]) -> dict[str, Any]:
    """Write the shards of all splits; returns what is recorded of the split."""
    facts: dict[str, Any] = {}
    with tempfile.TemporaryFile() as kept:
        if planned := source.even or source.split.by != "content":
            rows, facts = assign(source, kept)
            for writer, count in zip(writers.values(), rows, strict=True) if source.even else ():
                writer.expect(count, source.fields)
        for chunk in source.chunks():
            codes = np.frombuffer(kept.read(len(chunk.hashes)), np.uint8) if planned else by_content(chunk, source.split)
            for code, writer in enumerate(writers.values()):
                writer.add({name: values[codes == code] for name, values in chunk.columns.items()}, source.fields, chunk.ends)
    if problems := empty_splits(source.split.by, [writer.rows for writer in writers.values()]):
        raise combined(problems, "the source")
    for writer in writers.values():
        writer.flush(source.fields)
    option = source.split.model_dump(mode="json", exclude_defaults=True)
    return {"split": {**option, **facts}} if option else {}


def _delete_others(folder: Folder, found: Iterable[str], index: Index) -> None:
    """Delete the shards of an unfinished build that the index does not have."""
    for file in {*found}.difference(shard.file for shards in index.splits.values() for shard in shards):
        folder.delete(file)


def _delete_shards(folder: Folder, found: Iterable[str], writers: dict[SplitName, "_SplitWriter"]) -> None:
    """Delete what an unfinished build, or one before, has written."""
    written = {*found} | {shard.file for writer in writers.values() if writer.folder for shard in writer.shards}
    for file in sorted(written):
        folder.delete(file)
    if written and not folder.names():
        folder.delete()


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


class _Background:
    """Two threads for full shards, while the next samples are read: one counts them, the other writes them, in order."""

    def __init__(self) -> None:
        self._pools = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._waiting = deque[Future[None]]()

    def run(self, *functions: Callable[[], None]) -> None:
        """Run a function in each thread soon; the results of earlier ones are awaited, so that few shards are in memory."""
        self._waiting += [pool.submit(function) for pool, function in zip(self._pools, functions, strict=True)]
        while len(self._waiting) > len(self._pools) * AHEAD:
            self._waiting.popleft().result()

    def __enter__(self) -> None:
        """Nothing runs yet."""

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=kind is not None)
        while self._waiting and kind is None:
            self._waiting.popleft().result()


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

    def __init__(
        self, split: SplitName, folder: Folder | None, shard_bytes: int, found: Mapping[str, int], background: _Background
    ) -> None:
        self.split, self.folder, self.shard_bytes, self._background = split, folder, shard_bytes, background
        self.found = found
        """The sizes of the files that a build before has left, by name."""
        self.rows = 0
        self.sizes: list[int] | None = None
        """The rows of the shards to come, if they are known before."""
        self.shards: list[Shard] = []
        self.content = hashlib.sha256()
        self.statistics = Statistics()
        self._pending = _Pending()

    def expect(self, rows: int, fields: dict[str, Field]) -> None:
        """Divide the split, which will have so many samples, evenly into shards."""
        self.sizes = [stop - start for start, stop in _cuts(rows, _rows_of(self.shard_bytes, fields))]

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
        def count() -> None:
            for name in fields:
                self.content.update(np.ascontiguousarray(columns[name]).data)
            self.statistics.add(columns)

        def write() -> None:
            data = encode(columns, fields)
            shard = Shard.of(f"{self.split}-{len(self.shards):05d}.arrow", len(next(iter(columns.values()))), data)
            self.shards.append(shard)
            if self.folder and not self._is_there(self.folder, shard):
                self.folder.write(shard.file, data)

        self._background.run(count, write)

    def _is_there(self, folder: Folder, shard: Shard) -> bool:
        """Whether a build before has written this shard."""
        return self.found.get(shard.file) == shard.bytes and shard.has_sha256(pa.py_buffer(folder.read(shard.file)))


def _rows_of(shard_bytes: int, fields: dict[str, Field]) -> int:
    """The most rows of a shard."""
    return max(1, shard_bytes // sum(field.size for field in fields.values()))


def _cuts(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Split ``rows`` into equal parts of at most ``most``."""
    parts = -(-rows // most)
    for part in range(parts):
        yield rows * part // parts, rows * (part + 1) // parts
