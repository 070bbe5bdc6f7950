"""The user's token, which every request to Ray on this machine needs."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from heliostat.errors import UserError
from heliostat.home import own_folder

TOKEN = Path("~/.heliostat/ray-token")


def export_token() -> None:
    """Let Ray's processes have the user's token, or one for this command if the home cannot be written."""
    try:
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(own_token())
    except UserError:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def has_token() -> bool:
    """Whether the environment says which token Ray has."""
    return "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ


def own_token() -> Path:
    """The file with the user's token for Ray on this machine, created if it does not exist.

    It is not Ray's own, ``~/.ray/auth_token``, which would also switch every later ``ray start`` to tokens.

    Raises:
        UserError: the home cannot be written.
    """
    path = own_folder() / TOKEN.name
    if not path.exists():
        handle, scratch = tempfile.mkstemp(dir=path.parent)  # with mode 0600
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):  # another command was faster, and its token is used
            os.link(scratch, path)
        os.unlink(scratch)
    return path
