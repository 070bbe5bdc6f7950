"""Shards of an object store on this node's disk, fetched once for all processes of a user here and memory-mapped by each."""

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
"""The share of the disk that stays free: kubelets take the pods of a node away when less than 15 % is (Kubernetes 1.34)."""


def fetched(folder: Folder, name: str, sha256: str, size: int) -> pa.MemoryMappedFile | None:
    """A file of a store, memory-mapped from its local copy; None where no copy can be kept, for want of room or of the right.

    Of the processes that ask for the same file at once one fetches it. A copy is found by its content, and stays.

    Args:
        folder: where the file is.
        name: its name there.
        sha256: its checksum.
        size: its bytes.

    Raises:
        OSError: it cannot be read, or its contents have another checksum.
    """
    place = Path(os.environ.get(CACHE) or Path(tempfile.gettempdir(), f"heliostat-cache-{os.getuid()}"))
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (place / f"{sha256}.lock").open("w")
    except OSError:
        return None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = place / sha256
        if not (path.exists() and path.stat().st_size == size):
            disk = shutil.disk_usage(place)
            if disk.free - size < FREE * disk.total:
                return None
            data = folder.read(name)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise OSError(f"{name} has another checksum than the index says")
            try:
                part = path.with_suffix(".part")
                part.write_bytes(data)
                part.replace(path)
            except OSError:
                part.unlink(missing_ok=True)
                return None
        return pa.memory_map(str(path))
