"""What a request is refused with, and the limits that it must keep to."""

from pydantic import Field

from heliostat.config import Config

RETRY_AFTER = 1
"""Seconds after which a client should try again that was refused because too much was asked at once."""
LONGEST = 2000
"""Characters of a message: it may quote what was sent."""


class Refusal(Exception):
    """An answer other than the one that was asked for.

    Args:
        status: the HTTP status, 400 to 503.
        message: what is wrong, and what to do about it.
        headers: more of them; 429 and 503 have ``Retry-After`` by themselves.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
        self.headers = {**({"Retry-After": str(RETRY_AFTER)} if status in (429, 503) else {}), **(headers or {})}


class Limits(Config):
    """What a service takes at most; the keys of ``--set``."""

    megabytes: int = Field(8, ge=1, le=1024, description="megabytes of a request's body, at least 1")
    rows: int = Field(10_000, ge=1, description="rows of a request, at least 1")
    seconds: float = Field(30.0, gt=0, description="seconds for a request, body and answer included, above 0")
    requests: int = Field(64, ge=1, description="requests that are worked on or wait at once, at least 1; others get 429")
