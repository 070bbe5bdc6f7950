"""One connection through a port-forward of the API server: the client's side of its websocket protocol.

The first byte of a message is its channel, 0 for data and 1 for errors; the first message on each only repeats the port.

The client of the ``kubernetes`` package (37.0) is as fast, but holds a whole upload in memory and takes three times the CPU.
"""

import os
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FINAL, MASKED = 0x80, 0x80
PIECE = 1 << 18
"""The bytes of one read, and so of one frame: larger ones are no faster, smaller ones cost the node more."""
LINGER = 5.0
"""The protocol cannot tell that one direction has ended: how long the other one may then be silent before both are."""
ASK, SILENCE = 20.0, 60.0
"""After how much silence a sign of life is asked for, and the connection given up: a lost node does not say goodbye."""
TICK = 1.0


class Tunnel:
    """A client's socket, a websocket that has been opened, and what is on its way between them.

    One thread moves both directions and never blocks: two threads may not use one TLS connection at the same time.
    """

    def __init__(self, local: socket.socket, remote: socket.socket) -> None:
        for sock in (local, remote):
            sock.setblocking(False)
        local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.local, self.remote = local, remote
        self.error = ""
        """What the pod's side said was wrong, or how the connection broke."""
        self._up, self._down = memoryview(b""), memoryview(b"")
        self._control: deque[bytes] = deque()
        self._received = bytearray()
        self._channel, self._greeted = DATA, set[int]()
        self._local_ended = self._remote_ended = self._asked = False
        self._heard = time.monotonic()

    def run(self, over: threading.Event) -> None:
        """Move everything, until both sides have what the other one sent and one has ended, or until ``over``."""
        with suppress(OSError):  # of the client's socket: nobody is left who reads or writes
            while not over.is_set() and not self._done():
                if not self._move_up() | self._move_down():
                    self._wait()
        if self._remote_ended and not self.error:
            _part(self.local)
        else:
            reset(self.local)
        if not self._up:
            with suppress(OSError):
                _send(self.remote, memoryview(frame(CLOSE, struct.pack("!H", 1000))))

    def _done(self) -> bool:
        if self._remote_ended:
            return not self._down
        return self._local_ended and not self._up and time.monotonic() - self._heard > LINGER

    def _move_up(self) -> bool:
        """One step from the client to the pod; False if nothing could be moved."""
        if self._remote_ended:
            return False
        if not self._up:
            self._up = memoryview(self._control.popleft() if self._control else self._read_local())
        try:
            sent = _send(self.remote, self._up)
        except OSError as error:
            return self._fail(f"the connection broke: {error}")
        self._up = self._up[sent:]
        return sent > 0

    def _move_down(self) -> bool:
        """One step from the pod to the client; False if nothing could be moved."""
        if self._down:
            sent = _send(self.local, self._down)
            self._down = self._down[sent:]
            return sent > 0
        if self._remote_ended:
            return False
        try:
            data = _receive(self.remote)
        except OSError as error:
            return self._fail(f"the connection broke: {error}")
        if data is None:
            return False
        if not data:
            return self._fail("the connection broke")
        self._heard, self._asked = time.monotonic(), False
        self._received += data
        self._down = memoryview(b"".join(self._payloads()))
        return True

    def _read_local(self) -> bytes:
        data = None if self._local_ended else _receive(self.local)
        if data == b"":
            self._local_ended, self._heard = True, time.monotonic()
        return frame(BINARY, bytes([DATA]) + data) if data else b""

    def _payloads(self) -> Iterator[bytes]:
        """The data in the frames that have arrived whole."""
        for kind, payload in unframed(self._received):
            if kind == CLOSE:
                self._remote_ended = True
            elif kind == PING:
                self._control.append(frame(PONG, payload))
            elif kind in (TEXT, BINARY) and payload:
                self._channel = payload[0]
                if self._channel in self._greeted:
                    yield from self._take(payload[1:])
                self._greeted.add(self._channel)
            elif kind == CONTINUATION:
                yield from self._take(payload)

    def _take(self, payload: bytes) -> Iterator[bytes]:
        if self._channel == DATA:
            yield payload
        elif self._channel == ERROR:
            self._fail(self.error + payload.decode(errors="replace"))

    def _fail(self, error: str) -> bool:
        self.error, self._remote_ended = error, True
        return True

    def _wait(self) -> None:
        """Wait until something can be moved, or for a moment."""
        readable = [self.local] * (not self._up and not self._local_ended and not self._remote_ended)
        readable += [self.remote] * (not self._down and not self._remote_ended)
        writable = [self.remote] * bool(self._up) + [self.local] * bool(self._down)
        select.select(readable, writable, [], TICK)
        silent = time.monotonic() - self._heard
        if silent > SILENCE and not self._remote_ended:
            self._fail(f"no sign of life for {SILENCE:.0f} s")
        elif silent > ASK and not self._asked:
            self._control.append(frame(PING, b""))
            self._asked = True


def frame(kind: int, payload: bytes) -> bytes:
    """A websocket frame as a client must send it: masked with a new key (RFC 6455, 5.3)."""
    size, key = len(payload), os.urandom(4)
    if size < 126:
        head = bytes([FINAL | kind, MASKED | size])
    elif size < 1 << 16:
        head = struct.pack("!BBH", FINAL | kind, MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", FINAL | kind, MASKED | 127, size)
    # One XOR of two numbers as long as the payload: the fastest that Python has, and no byte is copied more than twice.
    mask = int.from_bytes((key * (size // 4 + 1))[:size], sys.byteorder)
    return head + key + (int.from_bytes(payload, sys.byteorder) ^ mask).to_bytes(size, sys.byteorder)


def unframed(received: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the frames that have arrived whole, as (kind, payload); a server does not mask."""
    while len(received) >= 2:
        size, start = received[1] & 127, 2
        if size >= 126:
            start += 2 if size == 126 else 8
            size = int.from_bytes(received[2:start], "big")
        if len(received) < start + size:
            return
        kind, payload = received[0] & 15, bytes(received[start : start + size])
        del received[: start + size]
        yield kind, payload


def reset(sock: socket.socket) -> None:
    """Make the closing of a socket look like the failure that it is, and not like an end of the data."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _part(sock: socket.socket) -> None:
    """End our direction, and read what the client still sends: closing over unread data would take the answer from it."""
    deadline = time.monotonic() + TICK
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(PIECE):
                return


def _receive(sock: socket.socket) -> bytes | None:
    """What has arrived; b"" at the end, None if nothing has."""
    try:
        return sock.recv(PIECE)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None


def _send(sock: socket.socket, data: memoryview) -> int:
    """How much of it was sent."""
    try:
        return sock.send(data) if data else 0
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return 0
