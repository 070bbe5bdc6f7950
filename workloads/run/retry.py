"""Waiting for storage that cannot be written for a while."""

import time
from collections.abc import Callable
from typing import TypeVar

from heliostat.errors import NotWritable

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
UNAVAILABLE = (OSError, NotWritable)
"""What a disk that is full or a storage that is away raises."""


def with_retry(act: Callable[[], T], tell: Callable[[str], None], seconds: float) -> T:
    """What ``act`` returns, which is called again and again while storage is away, with longer and longer pauses.

    Args:
        act: writes something, and leaves nothing behind if it fails.
        tell: called with the error, once for each that is another one.
        seconds: after so long the error is raised.
    """
    deadline, pause, told = time.monotonic() + seconds, FIRST_PAUSE, ""
    while True:
        try:
            return act()
        except UNAVAILABLE as error:
            if time.monotonic() + pause > deadline:
                raise
            if str(error) != told:
                told = str(error)
                tell(reason(error))
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def reason(error: BaseException) -> str:
    """An error of storage in a line."""
    return error.what if isinstance(error, NotWritable) else str(error)
