"""The one policy of retries, for the Kubernetes API and Ray's dashboard."""

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, InvalidHeader, NewConnectionError, ProxyError

SECONDS = 10.0
"""A request is not repeated later than this after its first attempt: callers that poll say that contact is lost."""
LONGEST_WAIT = 30.0
"""The longest Retry-After that is waited for; a longer one is an error that names it."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 4.0
NOT_EXECUTED = 429
FOR_A_MOMENT = (502, 503, 504)
TRUST = ("CERTIFICATE", "ALERT", "WRONG_VERSION")
"""Words in errors of TLS that a retry cannot solve; an EOF in the handshake is an error of the connection."""


def send(
    pool: urllib3.PoolManager, method: str, url: str, repeat: bool, within: float = SECONDS, **options: Any
) -> urllib3.BaseHTTPResponse:
    """Send a request, and repeat it after failures that pass, with growing pauses or after the server's Retry-After.

    Every request is repeated if it certainly did not arrive (no connection) or was not executed (429).

    Args:
        pool: the connections.
        method: of HTTP.
        url: of the request.
        repeat: whether it is idempotent, so that it is also repeated after a lost connection, a timeout, or 502, 503 and 504.
        within: seconds; 0 for a single attempt, of a caller that polls.
        options: of ``urllib3.PoolManager.request``.

    Raises:
        urllib3.exceptions.HTTPError: no response to the last attempt.
    """
    began = time.monotonic()
    for pause in pauses():
        try:
            response = pool.request(method, url, retries=False, **options)
        except HTTPError as error:
            if is_of_trust(error) or not (repeat or _not_sent(error)) or _late(began, pause, within):
                raise
        else:
            passes = response.status == NOT_EXECUTED or (repeat and response.status in FOR_A_MOMENT)
            asked = retry_after(response)
            pause = max(pause, asked)
            if not passes or _late(began, pause, LONGEST_WAIT if asked and within else within):
                return response
            response.drain_conn()
        time.sleep(pause)
    raise AssertionError("the pauses have no end")


class Silence:
    """For how long a caller that polls has got no response.

    It begins with the first question without one, not with the last response: in between, the caller may have been stopped
    itself.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def ends(self) -> None:
        """There was a response."""
        self._since = None

    def seconds(self, asked: float, now: float) -> float:
        """Its length, including a question without a response; both are times of one clock."""
        if self._since is None:
            self._since = asked
        return now - self._since


def pauses() -> Iterator[float]:
    """Growing pauses in seconds, without end; random, so that many clients do not come back at the same moment."""
    for attempt in itertools.count():
        yield min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * random.uniform(0.6, 1.0)


def retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """The seconds that a response asks to wait; 0 if it does not."""
    value = response.headers.get("Retry-After")
    try:
        return urllib3.Retry().parse_retry_after(value) if value else 0.0
    except InvalidHeader:
        return 0.0


def is_of_trust(error: HTTPError) -> bool:
    """Whether the certificates do not fit, on either side."""
    return any(word in str(error) for word in TRUST)


def _not_sent(error: HTTPError) -> bool:
    cause = error.original_error if isinstance(error, ProxyError) else error
    return isinstance(cause, NewConnectionError | ConnectTimeoutError)


def _late(began: float, pause: float, limit: float) -> bool:
    return time.monotonic() - began + pause > limit
