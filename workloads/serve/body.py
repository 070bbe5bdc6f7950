"""The body of a request: as long as is allowed, and as JSON without anything that JSON does not have."""

import json
import math
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.responses import Response

from heliostat.workloads.serve.refusal import Limits, Refusal


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body.

    Raises:
        Refusal: 413, it is longer than is allowed; 415, it is compressed.
    """
    most = limits.megabytes << 20
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refusal(415, f"the body is encoded with {encoding!r}, but must be plain: leave out Content-Encoding")
    length = request.headers.get("content-length", "")
    parts, size = [], int(length) if length.isdecimal() else 0
    if size <= most:
        size = 0
        async for part in request.stream():
            parts.append(part)
            size += len(part)
            if size > most:
                break
    if size > most:
        raise Refusal(413, f"the body is longer than {limits.megabytes} MB: send fewer rows at once, or raise megabytes")
    return b"".join(parts)


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        Refusal: 400, it is none, is no UTF-8, has a key twice, or a number that is not finite.
    """
    try:
        found = json.loads(body.decode(), parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_unique)
        if b"\\ud" in body.lower():
            json.dumps(found, ensure_ascii=False).encode()  # half of a surrogate pair, which UTF-8 lacks
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply") from None
    except ValueError as error:  # of UTF-8 and of long numbers, too
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refusal(400, f"the body is a JSON {type(found).__name__}, but must be an object")
    return found


def to_bytes(document: Any) -> bytes:
    """A document as JSON, without spaces and with finite numbers only."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def to_json(document: Any) -> Response:
    """A response with a document."""
    return Response(to_bytes(document), media_type="application/json")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON; leave out a value that is missing, or write null")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is beyond the numbers of 64 bits")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return found
