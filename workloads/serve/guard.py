"""What each request goes through first: the token, how many there are at once, the time; and what it is refused with."""

import asyncio
import hmac
import json
import sys
import traceback
import uuid
from collections.abc import Callable, Collection
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from heliostat.wording import agreeing, counted
from heliostat.workloads.serve.refusal import Limits, Refusal

WORDS = {404: "there is no such path: GET / has a page with those that there are", 405: "this path has no such method"}


class Guard:
    """Admits requests to an application.

    Args:
        app: the application, which raises `Refusal`.
        token: what ``Authorization: Bearer`` must have.
        limits: how many requests are worked on at once, and for how long.
        open_: the paths that need no token, and are not counted.
    """

    def __init__(self, app: ASGIApp, token: str, limits: Limits, open_: Collection[str]) -> None:
        self._app, self._limits, self._open = app, limits, open_
        self._token = f"Bearer {token}".encode()
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        answer = _Answer(send)
        scope["app"] = self  # by which Starlette's router raises what it has no route for
        try:
            if scope["path"] in self._open:
                await self._app(scope, receive, answer)
            else:
                self._check(scope)
                await self._admitted(scope, receive, answer)
        except Refusal as refusal:
            await answer.refuse(scope, refusal)
        except HTTPException as error:  # Starlette's own, of paths and methods
            words = WORDS.get(error.status_code, error.detail)
            await answer.refuse(scope, Refusal(error.status_code, words, dict(error.headers or {})))
        except ClientDisconnect:
            return
        except Exception as error:  # a fault of the model or of ours: the client gets a number, the log the traceback
            number = uuid.uuid4().hex[:8]
            print(f"heliostat: request {number} failed: {scope['method']} {scope['path']}", file=sys.stderr)
            traceback.print_exception(error)
            await answer.refuse(
                scope, Refusal(500, f"the model failed on this request; see {number} in the log of the service")
            )

    def _check(self, scope: Scope) -> None:
        """Raises a `Refusal` without the token, or if there are too many requests."""
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], self._token):
            raise Refusal(401, "the header Authorization: Bearer TOKEN is missing, or has another token",
                          {"WWW-Authenticate": "Bearer"})  # fmt: skip
        if self._requests >= self._limits.requests:
            raise Refusal(
                429,
                f"{counted(self._requests, 'request')} {agreeing(self._requests, 'are')} waiting or worked on already: try "
                "again later",
            )

    async def _admitted(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        self._requests += 1
        try:
            async with asyncio.timeout(self._limits.seconds) as limit:
                # Writing the answer has a limit of its own: a client that does not read it would never end it.
                answer.on_start = lambda: limit.reschedule(asyncio.get_running_loop().time() + self._limits.seconds)
                await self._app(scope, receive, answer)
        except TimeoutError:
            raise Refusal(503, f"it took longer than {self._limits.seconds:g} s: ask for less, or raise seconds") from None
        finally:
            self._requests -= 1

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The start and the end of the server; WebSockets are closed."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self._app(scope, receive, send)


def _nothing() -> None:
    """What is done for most paths when the answer begins."""


class _Answer:
    """The ``send`` of a request that knows whether the answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False
        self.on_start: Callable[[], None] = _nothing

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.on_start()
        await self._send(message)

    async def refuse(self, scope: Scope, refusal: Refusal) -> None:
        """Answers with a refusal, as the family of the path has its errors; after the answer has begun, breaks it off."""
        if self.begun:
            return  # the server closes the connection of an answer that is not complete
        body = json.dumps({"error": _error(scope["path"], refusal)}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self._send({"type": "http.response.body", "body": body})


def _error(path: str, refusal: Refusal) -> Any:
    if not path.startswith(("/v1/completions", "/v1/models")):
        return refusal.message
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {"message": refusal.message, "type": kind, "param": None, "code": str(refusal.status)}
