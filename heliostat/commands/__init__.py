"""The commands, one a file: ``configure(parser)`` declares the options, ``run(args)`` does the work."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliostat.folder import Folder

RUN_HELP = "a run's name, or its folder or URI"


def run_folder(run: str, storage: str) -> "Folder":
    """The folder of a run that is given by its name, folder or URI.

    Raises:
        UserError: the run does not exist; the message has the nearest name.
    """
    from heliostat.config import nearest
    from heliostat.errors import UserError
    from heliostat.folder import Folder, absolute, default_base, expanded

    storage = absolute(expanded(storage, key="--storage"), default_base())
    folder = Folder.at(run) if "/" in run else Folder.at(storage) / run
    if not folder.exists("config.yaml"):
        known = [name for name in Folder.at(storage).names() if (Folder.at(storage) / name).exists("config.yaml")]
        raise UserError(
            f"run {run!r} does not exist in {storage}", nearest(run, known) if known else "train one, or give --storage"
        )
    return folder
