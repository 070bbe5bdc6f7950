"""Ports for servers that other programs start: free now, and still free when such a server listens a moment later."""

import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from heliostat.errors import UserError
from heliostat.wording import agreeing, counted

HOST = "127.0.0.1"
RANGE = range(24_000, 30_000)
"""Neither the ports that a kernel gives to connections (from 32768 on Linux), which one that begins meanwhile could take, nor
those of Ray's workers (up to 19999) and Ray Client's servers (23000 to 23999), nor NodePorts of a Kubernetes (from 30000)."""


@contextmanager
def reserved(count: int) -> Iterator[list[int]]:
    """Different ports at `HOST` on which nothing listens, and which no other program that looks for free ones takes meanwhile.

    The block lasts until those for whom they are listen on them: a head needs seconds for that, on a busy machine many.

    Raises:
        OSError: there are not so many.
    """
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(RANGE, len(RANGE)):
            if len(found) == count:
                break
            held = socket.socket()
            try:
                held.bind((HOST, port))
            except OSError:
                held.close()
                continue
            stack.enter_context(held)
            # Set after the bind, which is refused to it where another one is bound: a server, which sets it too, is let in.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.append(port)
        if len(found) < count:
            raise OSError(
                f"only {len(found)} of {counted(count, 'port')} from {RANGE.start} to {RANGE.stop - 1} "
                f"{agreeing(len(found), 'are')} free"
            )
        if sys.platform != "linux":
            stack.close()  # other systems would not let the server in
        yield found


def free_ports(count: int) -> list[int]:
    """Different ports at `HOST` on which nothing listens now; raises what `reserved` raises."""
    with reserved(count) as ports:
        return ports


def listens(port: int) -> bool:
    """Whether a server listens on a port at `HOST`."""
    try:
        socket.create_connection((HOST, port)).close()
    except OSError:
        return False
    return True


def chosen(port: int) -> int:
    """This port, or for 0 a free one.

    Raises:
        UserError: another program has it.
    """
    if port == 0:
        return free_ports(1)[0]
    try:
        socket.create_server((HOST, port)).close()
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "there is no such port"
        raise UserError(f"{HOST}:{port} cannot be listened on: {reason}", "give another --port (0 takes a free one)") from None
    return port
