"""Commands and Ray's workers forked from processes that have their imports: a start costs a fork, not seconds.

Each process of pytest starts two such servers when it first needs them; they end with it. One has what a command imports, Ray
too. The other has what Ray's workers import of other libraries: Ray itself is imported in the child, which has the variables
that Ray reads when it is imported. A child looks like what was asked for: its environment and command line (also for who reads
``/proc``), working directory, standard streams, ``sys.path`` and ``__main__``.
"""

import ctypes
import json
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
SITE = Path(__file__).parent / "site"
"""With this folder on PYTHONPATH, Ray's workers are forked where ``WORKERS`` names a server."""
WORKERS = "TESTS_FORKS_WORKERS"
MESSAGE = 200_000


def ask(address: str, request: Mapping[str, Any], streams: Sequence[int]) -> socket.socket:
    """Have a server fork a child; the connection then brings its process id, and at its end its wait status.

    Raises:
        OSError: no server is there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE)
    connection.connect(address)
    socket.send_fds(connection, [json.dumps(request).encode()], streams)
    return connection


def number(connection: socket.socket) -> int | None:
    """What a server says next; None if it has ended."""
    said = connection.recv(4)
    return int.from_bytes(said, "big") if said else None


def show(args: Sequence[str], environment: Sequence[str] = ()) -> None:
    """Write over what ``/proc`` has of this process: it reads the memory in which the kernel has left both."""
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    for texts, fields in ((args, (48, 49)), (environment, (50, 51))):
        begin, end = (int(stat[field - 3]) for field in fields)
        text = b"".join(os.fsencode(text) + b"\0" for text in texts)
        assert len(text) < end - begin, f"{len(text)} bytes do not fit into tests.forks.server.ROOM"
        if text:
            ctypes.memset(begin, 0, end - begin)
            ctypes.memmove(begin, text, len(text))
