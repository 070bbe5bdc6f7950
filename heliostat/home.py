"""The folder of Heliostat's own files in the user's home: tokens, and the state of local clusters."""

import os
from pathlib import Path

from heliostat.errors import UserError


def own_folder(*names: str) -> Path:
    """The folder ``~/.heliostat/NAMES``, created if it does not exist, with access for the user only.

    Raises:
        UserError: it cannot be created or written.
    """
    try:
        home = Path.home()
        path = home.joinpath(".heliostat", *names)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write to {path}")
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"HOME is {os.environ.get('HOME', 'not set')}, where ~/.heliostat cannot be written: {reason}",
            "set HOME to a folder of yours, such as HOME=/tmp/you",
        ) from None
    return path
