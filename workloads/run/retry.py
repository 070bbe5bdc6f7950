"""Retries while storage cannot be written."""

import time
from collections.abc import Callable
from typing import TypeVar

from heliostat.errors import NotWritable

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
UNAVAILABLE = (OSError, NotWritable)
"""Errors of a full disk, and of storage that is unavailable."""


def with_retry(act: Callable[[], T], on_error: Callable[[str], None], seconds: float) -> T:
    """Returns ``act()``, which is retried with exponential back-off while storage is unavailable.

    Args:
        act: may be called again after it failed.
        on_error: called with each error that differs from the one before.
        seconds: the time after which the error is raised.
    """
    deadline, pause, reported = time.monotonic() + seconds, FIRST_PAUSE, ""
    while True:
        try:
            return act()
        except UNAVAILABLE as error:
            if time.monotonic() + pause > deadline:
                raise
            if str(error) != reported:
                reported = str(error)
                on_error(reason(error))
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def reason(error: BaseException) -> str:
    """An error of storage in one line."""
    return error.what if isinstance(error, NotWritable) else str(error)
