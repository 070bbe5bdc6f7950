"""Keeps the files that a job's script writes into Ray's copy of the working directory, which is deleted after the job."""

import os
import shutil
from pathlib import Path
from typing import Any

from heliostat.folder import Folder
from heliostat.workloads.run.retry import with_retry

STORAGE_TIMEOUT = 300.0
"""Seconds for which a file is retried while storage is full or unavailable."""
COPIES = "runtime_resources"
"""The folder in which Ray (2.60) has its copies of working directories."""

Stamps = dict[str, tuple[int, int]]
"""The size and the modification time (ns) of each file, by its path in a folder."""


def is_copy(folder: Path) -> bool:
    """Whether a working directory is Ray's copy."""
    return COPIES in folder.parts


def files_in(folder: Path) -> Stamps:
    """The files of a folder and of those in it, without Python's caches."""
    found: Stamps = {}
    for place, below, names in os.walk(folder):
        below[:] = [name for name in below if name != "__pycache__"]
        for path in (Path(place, name) for name in names):
            if path.is_file():  # no socket, and no link that leads nowhere
                status = path.stat()
                found[path.relative_to(folder).as_posix()] = (status.st_size, status.st_mtime_ns)
    return found


def keep_new(folder: Path, before: Stamps, place: Folder) -> dict[str, Any]:
    """Copies the files that are new or have changed since ``before``; returns the place and their sizes by path.

    Raises:
        NotWritable: the place could not be written for minutes.
    """
    after = files_in(folder)
    new = sorted(name for name, stamp in after.items() if before.get(name) != stamp)
    for name in new:
        with_retry(lambda name=name: _copy(folder, name, place), lambda reason: None, STORAGE_TIMEOUT)  # type: ignore[misc]
    return {"place": str(place), "sizes": {name: after[name][0] for name in new}}


def _copy(folder: Path, name: str, place: Folder) -> None:
    parent, _, file = name.rpartition("/")
    with (folder / name).open("rb") as source, (place / parent if parent else place).writing(file) as target:
        shutil.copyfileobj(source, target, 1 << 20)
