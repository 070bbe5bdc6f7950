"""The commands, one a file: ``configure(parser)`` declares the options, ``run(args)`` does the work."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliostat.folder import Folder

RUN_HELP = "a run's name, or its folder or URI"
SCRIPT = "script.json"
KINDS = {"config.yaml": "run", "sweep.yaml": "sweep", SCRIPT: "script"}
"""The file by which each is known."""


def storage_at(storage: str, key: str = "--storage") -> str:
    """The path or URI of a storage as an option gives it: with its variables, and relative to the base of runs.

    Raises:
        UserError: a variable is not set.
    """
    from heliostat.folder import absolute, default_base, expanded

    return absolute(expanded(storage, key=key), default_base())


def run_folder(run: str, storage: str, files: Sequence[str] = ("config.yaml",)) -> "Folder":
    """The folder of a run that is given by its name, folder or URI, with one of the files.

    Raises:
        UserError: the run does not exist; the message has the nearest name.
    """
    from heliostat.config import nearest
    from heliostat.errors import UserError
    from heliostat.folder import Folder

    storage = storage_at(storage)
    folder = Folder.at(run) if "/" in run else Folder.at(storage) / run
    if not any(map(folder.exists, files)):
        if SCRIPT not in files and folder.exists(SCRIPT):
            raise UserError(
                f"{run!r} is the run of a script under heliostat torchrun, which has no task",
                "only heliostat runs, compare, report, pull and track take it; the script itself loads its model",
            )
        if "@" in run and "/" not in run:
            raise UserError(
                f"{run} is a version of a model, but this command takes a run",
                f"heliostat model list {run.partition('@')[0]} names the run of each; heliostat serve {run} answers with it",
            )
        known = [name for name in Folder.at(storage).names() if any(map((Folder.at(storage) / name).exists, files))]
        kind = " or ".join(KINDS[file] for file in files)
        raise UserError(
            f"{kind} {run!r} does not exist in {storage}", nearest(run, known) if known else "train one, or give --storage"
        )
    return folder


def find_folder(name: str, storage: str) -> "Folder":
    """The folder of a run, a sweep or a script, see `run_folder`."""
    return run_folder(name, storage, ("config.yaml", "sweep.yaml", SCRIPT))


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
