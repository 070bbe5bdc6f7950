"""The commands, one a file: ``configure(parser)`` declares the options, ``run(args)`` does the work."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliostat.folder import Folder

RUN_HELP = "a run's name, or its folder or URI"


def run_folder(run: str, storage: str, files: Sequence[str] = ("config.yaml",)) -> "Folder":
    """The folder of a run that is given by its name, folder or URI, with one of the files.

    Raises:
        UserError: the run does not exist; the message has the nearest name.
    """
    from heliostat.config import nearest
    from heliostat.errors import UserError
    from heliostat.folder import Folder, absolute, default_base, expanded

    storage = absolute(expanded(storage, key="--storage"), default_base())
    folder = Folder.at(run) if "/" in run else Folder.at(storage) / run
    if not any(map(folder.exists, files)):
        known = [name for name in Folder.at(storage).names() if any(map((Folder.at(storage) / name).exists, files))]
        kind = "run" if len(files) == 1 else "run or sweep"
        raise UserError(
            f"{kind} {run!r} does not exist in {storage}", nearest(run, known) if known else "train one, or give --storage"
        )
    return folder


def find_folder(name: str, storage: str) -> "Folder":
    """The folder of a run or a sweep, see `run_folder`."""
    return run_folder(name, storage, ("config.yaml", "sweep.yaml"))


def pull_command(run: str) -> str:
    """The command that brings a run of this job to the user's machine; empty if its folder is there already.

    Args:
        run: the path or URI of its folder.
    """
    import os
    import shlex

    from heliostat.environment import STORAGE
    from heliostat.job_output import job_metadata

    on, root = job_metadata().get("on"), os.environ.get(STORAGE, "").rstrip("/")
    if not on or not run.startswith(f"{root}/"):
        return ""
    place, _, name = run.removeprefix(f"{root}/").rpartition("/")
    options = [] if place == "runs" else ["--storage", place]
    return shlex.join(["heliostat", "runs", "pull", name, "--on", on, *options])
