"""The policy for storage that is unavailable: what is retried, for how long, and what the user sees meanwhile.

`heliostat.folder` applies it to every operation. What is temporary (no connection, a server's error, a stale NFS handle, a full
disk) is retried with exponential back-off; what is permanent (no such bucket, access denied) is raised at once.
"""

import errno
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from heliostat.errors import NoSpace, NotWritable

T = TypeVar("T")
TIMEOUT = 900.0
"""Seconds for which an operation is retried, by default."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
UNAVAILABLE = (OSError, NotWritable)
"""Errors of storage while work is in progress; all are retried then, since a permission, too, can be given back."""
NOTICE_SECONDS = 60.0
"""Seconds without a failure after which the next one is another outage."""

PERMANENT = {
    getattr(errno, name)
    for name in (
        "EACCES", "EEXIST", "EFBIG", "EINVAL", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENODEV", "ENOENT", "ENOSYS", "ENOTDIR",
        "ENOTEMPTY", "ENOTSUP", "EPERM", "EROFS",
    )
}  # fmt: skip
REFUSED = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|Bucket '.*' not found|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|UNRECOGNIZED_CLIENT"
    r"|SIGNATURE_DOES_NOT_MATCH|INCOMPLETE_SIGNATURE|MISSING_AUTHENTICATION_TOKEN|REQUEST_TIME_TOO_SKEWED"
    r"|HTTP status (?!408|429)[34]\d\d|PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT"
)
"""In the messages of object stores, which have no errno (pyarrow 26: S3's error codes and statuses, GCS's status codes)."""


def is_permanent(error: BaseException) -> bool:
    """Whether a retry cannot help; an unknown error of an object store counts as temporary, as work may depend on it."""
    if not isinstance(error, OSError):
        return not isinstance(error, NoSpace)
    return error.errno in PERMANENT if error.errno else bool(REFUSED.search(str(error)))


def with_retry(
    act: Callable[[], T],
    on_error: Callable[[str], None],
    seconds: float,
    temporary: Callable[[BaseException], bool] = lambda error: True,
) -> T:
    """Returns ``act()``, which is retried with exponential back-off while storage is unavailable.

    Args:
        act: may be called again after it failed.
        on_error: called with each error that differs from the one before.
        seconds: the time after which the error is raised; 0 is one attempt.
        temporary: which errors are retried.
    """
    deadline, pause, reported = time.monotonic() + seconds, FIRST_PAUSE, ""
    while True:
        try:
            return act()
        except UNAVAILABLE as error:
            left = deadline - time.monotonic()
            if left <= 0 or not temporary(error):
                raise
            if str(error) != reported:
                reported = str(error)
                on_error(reason(error))
        time.sleep(min(pause, left))  # the last attempt is at the deadline
        pause = min(2 * pause, LONGEST_PAUSE)


def reason(error: BaseException) -> str:
    """An error of storage in one line."""
    return error.what if isinstance(error, NotWritable) else " ".join(str(error).split())


_failed: dict[str, float] = {}
_lock = threading.Lock()


def notice(storage: str, error: str, seconds: float) -> None:
    """Says on standard error that the process waits for a storage, and why: once in an outage."""
    with _lock:
        now = time.monotonic()
        known = now - _failed.get(storage, -NOTICE_SECONDS) < NOTICE_SECONDS
        _failed[storage] = now
    if not known:
        print(f"heliostat: waiting for storage, for up to {seconds:g} s: {error}", file=sys.stderr, flush=True)
