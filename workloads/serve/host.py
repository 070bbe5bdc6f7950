"""One process of uvicorn that hosts a service."""

import importlib.util
import os
import socket
from collections.abc import Callable
from typing import Any

from heliostat.errors import UserError

NEEDED = ("starlette", "uvicorn", "httptools")
GRACE = 30.0
"""Seconds for the requests that are worked on when the service is stopped, at most."""
KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open; more than the 60 of usual proxies, which would else use a closed one."""
BACKLOG = 512


def check_installed() -> None:
    """Raises a UserError if a package of the extra is missing."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"serving needs {', '.join(missing)}, not installed here", "pip install 'heliostat[serve]'")


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, but does not answer yet; 0 is a free one.

    Raises:
        UserError: another program has it, or there is no such address.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        fix = "give another --port (0 takes a free one)" if error.errno == 98 else "give another --host or --port"
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(f"{host}:{port} cannot be listened on: {reason}", fix) from None
    return found


def serve(app: Any, listening: socket.socket, seconds: float, started: Callable[[], None]) -> None:
    """Answers until SIGINT or SIGTERM, then the requests that are worked on, and returns.

    Args:
        app: the ASGI application.
        listening: see `bound`.
        seconds: the time limit of a request.
        started: called once connections are accepted.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

    config = uvicorn.Config(
        app, http="httptools", ws="none", lifespan="off", access_log=False, log_level="critical", server_header=False,
        timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=int(min(seconds, GRACE)) + 1, backlog=BACKLOG,
    )  # fmt: skip
    Server(config).run([listening])
