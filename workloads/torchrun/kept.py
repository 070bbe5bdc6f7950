"""Keeps the files that a job's script writes into Ray's copy of the working directory, which is deleted after the job."""

import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from heliostat.folder import Folder
from heliostat.retry import TIMEOUT

PIECE = 1 << 20
"""Bytes that are copied at once."""
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


def new_files(folder: Path, before: Stamps) -> dict[str, int]:
    """The sizes of the files that are new or have changed since ``before``."""
    after = files_in(folder)
    return {name: after[name][0] for name in sorted(after) if before.get(name) != after[name]}


def keep(folder: Path, sizes: Mapping[str, int], run: Folder, name: str) -> None:
    """Copies these files to a folder of the run, beside which a list says what it is.

    Raises:
        StorageUnavailable: the storage did not respond for `TIMEOUT` seconds.
        NotWritable: it cannot be written.
    """
    run = run.for_work(TIMEOUT)

    def copy(file: str) -> None:
        within, _, last = f"{name}/{file}".rpartition("/")
        with (folder / file).open("rb") as source, (run / within).writing(last) as target:
            shutil.copyfileobj(source, target, PIECE)

    run.write(f"{name}.json", json.dumps({"files": dict(sizes)}).encode())
    for file in sizes:
        run.retried(partial(copy, file))
