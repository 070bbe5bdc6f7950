"""Where the checkpoints of a script's own framework go, and the last one of them that is complete."""

import json
import os
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from heliostat.errors import UserError
from heliostat.workloads.run.record import CHECKPOINTS
from heliostat.workloads.torchrun import this_run
from heliostat.workloads.torchrun.arguments import ARGUMENTS, check_arguments, last_number

OURS = re.compile(r"step-\d{8,}")
"""The checkpoints of `save`, which `resume` finds."""
OF_RANK = re.compile(r"(?:rng_state|random_states)_(\d+)\.(?:pth|pkl)")
"""The file that each rank writes: of transformers (5.24), and of accelerate (1.15)."""
ACCELERATE = "random_states_"
LAST = {"trainer_state.json", "meta.pt"}
"""What rank 0 writes last, of transformers and of Fabric's and Lightning's sharded checkpoints (2.6)."""
WRITTEN = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".safetensors", ".json")
"""Suffixes of files that are never empty."""
FILES = (".ckpt", ".pt", ".pth", ".pth.tar")
"""With what the names of checkpoints end that are single files."""
ZIP = b"PK\x03\x04"
"""What a file of ``torch.save`` begins with."""


def checkpoints() -> str:
    """The folder for the checkpoints that the script's own framework writes, on the storage of the run; it exists then.

    The same for all ranks and all attempts: ``<storage>/<name>/checkpoints``, under plain ``torchrun``
    ``runs/<script>/checkpoints``.

    Raises:
        SystemExit: with code 2, if the run is on an object store, where frameworks cannot write files; the checkpoints there
            were saved with other arguments; or another process saves there.
    """
    run = this_run.folder()
    with this_run.refusals():
        if not run.is_local:
            raise UserError(
                f"the run folder is {run}, but the checkpoints of other frameworks are files",
                "set --storage to a path that all nodes share, such as a ReadWriteMany claim, or use resume and save of "
                "heliostat.torchrun, which also write to object stores",
            )
        check_arguments(run, sys.argv[1:])
        place = Path(run.path, CHECKPOINTS)
        if this_run.rank() == 0:
            this_run.claim(run)
        place.mkdir(parents=True, exist_ok=True)
    return str(place)


def last_checkpoint() -> str | None:
    """The newest complete checkpoint in `checkpoints`, for ``resume_from_checkpoint=``, ``ckpt_path=``, ``load_state``.

    None if there is none, or a single one that is not complete. A file or a folder is complete if its files are as long as they
    say themselves (safetensors, and what ``torch.save`` writes), and if it has the state of the trainer (transformers) or the
    random state of each rank (transformers, accelerate). One that is not, because its writer was killed, is reported.

    Raises:
        SystemExit: with code 2, if there are several, and none is complete; see `checkpoints`.
    """
    place = Path(checkpoints())
    with this_run.refusals():
        sizes = _numbers_of_workers()
        found = sorted(_candidates(place), key=_age, reverse=True)
        for path in found:
            if problem := incomplete(path, sizes):
                this_run.say(f"{path} is not complete, and not used: {problem}")
                continue
            this_run.say(f"resumes from {path}")
            return str(path)
        if len(found) > 1:  # the writer of a single one may have been killed
            raise UserError(f"none of the {len(found)} checkpoints in {place} is complete", "restore one, or delete them")
    return None


def incomplete(path: Path, sizes: Collection[int]) -> str:
    """What a checkpoint lacks; empty if nothing.

    Args:
        path: a file or a folder.
        sizes: the numbers of workers that may have written it.
    """
    if path.is_file():
        return _damage(path)
    names = [file.name for file in path.iterdir()]
    ranks = {int(match[1]) for name in names if (match := OF_RANK.fullmatch(name))}
    if ranks and not any(ranks == set(range(size)) for size in sizes):
        return f"it has the random states of the ranks {sorted(ranks)}, of {' or '.join(map(str, sorted(sizes)))} in all"
    of_accelerate = any(name.startswith(ACCELERATE) for name in names)
    if not of_accelerate and not LAST & {*names}:
        return f"it has no {' and no '.join(sorted(LAST))}, one of which is written last"
    damaged = ((file, _damage(file)) for file in sorted(path.rglob("*")) if file.is_file())
    return next((f"{file.relative_to(path)} {problem}" for file, problem in damaged if problem), "")


def _candidates(place: Path) -> Iterator[Path]:
    """What may be checkpoints of a framework."""
    for path in place.iterdir():
        unfinished = path.name.startswith(".") or path.name.endswith(".tmp")
        other = unfinished or path.is_symlink() or OURS.fullmatch(path.name)
        if not other and (path.name.endswith(FILES) or path.is_dir()):
            yield path


def _age(path: Path) -> tuple[int, int]:
    """When it was written last, in ns, and its step, of two that were written at once."""
    newest = max((file.stat().st_mtime_ns for file in [path, *path.rglob("*")]), default=0)
    return newest, last_number(path.name)


def _numbers_of_workers() -> set[int]:
    """Those of this process and of earlier commands."""
    run = this_run.folder()
    before = json.loads(run.read(ARGUMENTS)).get("workers", []) if run.exists(ARGUMENTS) else []
    return {*before, this_run.world_size()}


def _damage(file: Path) -> str:
    """What is wrong with a file, as far as its own header says it; empty if nothing is."""
    with file.open("rb") as stream:
        start = stream.read(len(ZIP))
    if not start:
        return "is empty" if file.suffix in WRITTEN else ""
    check = CHECKS.get(file.suffix) or (_torch if start == ZIP else None)
    if check is None:
        return ""
    try:
        return check(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        return f"is damaged: {error}"


def _safetensors(file: Path) -> str:
    """Compares the length with the header (huggingface/safetensors, README: Format)."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\xff"))
        size = os.path.getsize(file)
        if length > size:
            return "is cut"
        header = json.loads(stream.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return "is cut" if 8 + length + max(ends, default=0) > size else ""


def _torch(file: Path) -> str:
    """Reads the directory of a file of ``torch.save``, which is at its end."""
    if not zipfile.is_zipfile(file):
        return "is cut"
    with zipfile.ZipFile(file) as archive:
        return "" if archive.namelist() else "is empty"


def _json(file: Path) -> str:
    json.loads(file.read_bytes())
    return ""


CHECKS: dict[str, Callable[[Path], str]] = {".safetensors": _safetensors, ".json": _json}
"""By the suffix of a file."""
