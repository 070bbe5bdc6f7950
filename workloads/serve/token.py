"""The token that requests to a service need."""

import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from heliostat.errors import UserError

SHAPE = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
"""What a bearer token consists of (RFC 6750), and how long it must be so that it cannot be guessed."""


def token_in(path: Path) -> str:
    """The token in a file, which is created with a new one and access for the user only if it does not exist.

    Raises:
        UserError: the file cannot be read or written, or has no token.
    """
    try:
        if not path.exists():
            _create(path)
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(f"--token-file {path} cannot be used: {reason}", "give another file") from None
    if not SHAPE.fullmatch(token):
        raise UserError(
            f"--token-file {path} has no token of 16 to 512 letters, digits and ._~+/=-", "delete it, and a new one is made"
        )
    return token


def _create(path: Path) -> None:
    handle, scratch = tempfile.mkstemp(dir=path.parent)  # with mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(f"{secrets.token_hex(32)}\n")
    with suppress(FileExistsError):  # another service was faster, and its token is used
        os.link(scratch, path)
    os.unlink(scratch)
