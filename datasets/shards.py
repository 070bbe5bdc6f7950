"""The bytes of shards, each checked against the index before they are used."""

from pathlib import Path

import pyarrow as pa

from heliostat.datasets.index import Shard
from heliostat.folder import Folder


def mapped(path: str | Path, shard: Shard) -> pa.Buffer:
    """A local file, memory-mapped; its fast checksum is compared, if the index has one.

    Raises:
        OSError: the file cannot be read, or is not what the index says.
    """
    # The size is first: a file of another kind, such as a pipe, has none, and reading one may take forever.
    if (size := Path(path).stat().st_size) != shard.bytes:
        raise OSError(f"it has {size} bytes, but must have {shard.bytes}")
    with pa.memory_map(str(path)) as file:
        data = file.read_buffer()
    if not shard.has(data):
        raise OSError("it has another checksum than in the index")
    return data


def downloaded(folder: Folder, shard: Shard) -> pa.Buffer:
    """A file of any filesystem, read into memory; all its checksums are compared.

    Raises:
        OSError: the file cannot be read, or is not what the index says.
    """
    if (size := folder.size(shard.file)) != shard.bytes:
        raise OSError(f"it has {size} bytes, but must have {shard.bytes}" if folder.exists(shard.file) else "it is missing")
    data = pa.py_buffer(folder.read(shard.file))
    if not (shard.has(data) and shard.has_sha256(data)):
        raise OSError("it has another checksum than in the index")
    return data
