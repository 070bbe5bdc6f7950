"""The cache of shards from object stores on this node's disk, shared and memory-mapped by all processes of a user."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa

from heliostat.environment import CACHE
from heliostat.folder import Folder

FREE = 0.2
"""The share of the disk that stays free: kubelets evict pods when less than 15 % is free (Kubernetes 1.34)."""


def cached(folder: Folder, name: str, sha256: str, size: int) -> pa.MemoryMappedFile | None:
    """Memory-map the local copy of a file of an object store, which is downloaded on first use.

    Of concurrent processes that need the same file, one downloads it. Copies are keyed by content and are not evicted.

    Args:
        folder: of the file.
        name: of the file.
        sha256: its checksum.
        size: in bytes.

    Returns:
        The file, or None if there is not enough disk space or no write permission for a copy.

    Raises:
        OSError: the file cannot be read, or its checksum differs.
    """
    cache = Path(os.environ.get(CACHE) or Path(tempfile.gettempdir(), f"heliostat-cache-{os.getuid()}"))
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (cache / f"{sha256}.lock").open("w")
    except OSError:
        return None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = cache / sha256
        if not (path.exists() and path.stat().st_size == size):
            disk = shutil.disk_usage(cache)
            if disk.free - size < FREE * disk.total:
                return None
            data = folder.read(name)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise OSError(f"{name} has another checksum than in the index")
            try:
                part = path.with_suffix(".part")
                part.write_bytes(data)
                part.replace(path)
            except OSError:
                part.unlink(missing_ok=True)
                return None
        return pa.memory_map(str(path))
