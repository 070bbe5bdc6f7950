"""The cache of shards from object stores on this node's disk, shared and memory-mapped by all processes of a user."""

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pyarrow as pa

from heliostat.datasets.index import Shard
from heliostat.datasets.shards import downloaded, mapped
from heliostat.environment import CACHE
from heliostat.errors import UserError
from heliostat.folder import NOT_WRITABLE, Folder

FREE = 0.2
"""The share of the disk that stays free: kubelets evict pods when less than 15 % is free (Kubernetes 1.34)."""


class NoRoom(Exception):
    """There is not enough disk space, or no write permission, for a copy."""


def cached(folder: Folder, shard: Shard) -> pa.Buffer:
    """Memory-map the local copy of a shard of an object store, which is downloaded on first use.

    Of concurrent processes that need the same shard, one downloads it. Copies are keyed by content and are not evicted; each is
    checked when a process maps it, and downloaded again if it is damaged.

    Raises:
        NoRoom: this node cannot keep a copy.
        OSError: the shard cannot be read, or is not what the index says.
        UserError: other users can write into the cache.
    """
    cache = _own_folder()
    path = cache / shard.sha256
    if (copy := _intact(path, shard)) is not None:
        return copy
    try:
        lock = (cache / f"{shard.sha256}.lock").open("w")
    except OSError:
        raise NoRoom from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (copy := _intact(path, shard)) is not None:
            return copy  # another process has downloaded it
        disk = shutil.disk_usage(cache)
        if disk.free - shard.bytes < FREE * disk.total:
            raise NoRoom
        _write(path, downloaded(folder, shard))
    return mapped(path, shard)


def _own_folder() -> Path:
    """The folder of the copies, in which no other user can place files: the one that is named, or a folder of ours in it."""
    ours = f"heliostat-cache-{os.getuid()}"
    named = os.environ.get(CACHE)
    places = [Path(named), Path(named, ours)] if named else [Path(tempfile.gettempdir(), ours)]
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            found = place.lstat()
        except OSError:
            raise NoRoom from None
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return place
    raise UserError(
        f"the cache of shards, {places[-1]}, belongs to another user, or can be written by others",
        f"delete it, or set {CACHE} to a folder of your own",
    )


def _intact(path: Path, shard: Shard) -> pa.Buffer | None:
    try:
        return mapped(path, shard)
    except OSError:  # missing or damaged: it is downloaded
        return None


def _write(path: Path, data: pa.Buffer) -> None:
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            # Without it, a power failure may keep the name and lose the contents.
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        if error.errno in NOT_WRITABLE:
            raise NoRoom from None
        raise
