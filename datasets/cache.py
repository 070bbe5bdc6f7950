"""Shards of an object store on this node's disk, fetched once for all processes of a user here and memory-mapped by each."""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path

from heliostat.environment import CACHE
from heliostat.folder import Folder


def fetched(folder: Folder, name: str, sha256: str, size: int) -> Path | None:
    """The local copy of a file, by its content; None where the disk has no room for it.

    Of the processes that ask for the same file at once one fetches it. What was not asked for the longest goes when there is
    no room; who has mapped them keeps them.

    Args:
        folder: where the file is.
        name: its name there.
        sha256: its checksum.
        size: its bytes.

    Raises:
        OSError: it cannot be read, or its contents have another checksum.
    """
    place = Path(os.environ.get(CACHE) or Path(tempfile.gettempdir(), f"heliostat-cache-{os.getuid()}"))
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = place / sha256
    with (place / f"{sha256}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            if not _room(place, size):
                return None
            data = folder.read(name)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise OSError(f"{name} has another checksum than the index says")
            part = place / f"{uuid.uuid4().hex}.part"
            try:
                part.write_bytes(data)
                part.replace(path)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return None
            finally:
                part.unlink(missing_ok=True)
        os.utime(path)
    return path


def _room(place: Path, size: int) -> bool:
    """Whether there is room for a file and as much again, which others may need; what is old goes for it."""
    old = sorted((path for path in place.iterdir() if not path.suffix), key=lambda path: path.stat().st_mtime)
    for path in old:
        if shutil.disk_usage(place).free >= 2 * size:
            break
        path.unlink(missing_ok=True)
    return shutil.disk_usage(place).free >= 2 * size
