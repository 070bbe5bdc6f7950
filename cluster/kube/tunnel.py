"""One connection of a port-forward: the client's side of the API server's websocket protocol.

The first byte of a message is its channel, 0 for data and 1 for errors; the first message of a channel repeats the port.

The client of the ``kubernetes`` package (37.0) is as fast, but buffers a whole upload in memory and uses three times the CPU.
"""

import os
import selectors
import socket
import ssl
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FINAL, MASKED = 0x80, 0x80
CHUNK = 1 << 18
"""Bytes of one read and one frame: larger ones are not faster, smaller ones cost the node more CPU."""
LINGER = 5.0
"""The protocol has no half-close: seconds without data from the pod until both directions are closed."""
PING_AFTER, LOST_AFTER = 20.0, 60.0
"""Seconds without data until a ping, and until the connection counts as lost: a lost node closes no connection."""
TICK = 1.0
Selector: type[selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.DefaultSelector)
"""``select`` takes no file descriptor above 1023, and each connection of a busy port has two; Windows has no other."""


class Tunnel:
    """Moves data between a client's socket and an open websocket.

    One thread serves both directions without blocking: two threads must not use one TLS connection at the same time.
    """

    def __init__(self, local: socket.socket, remote: socket.socket) -> None:
        for sock in (local, remote):
            sock.setblocking(False)
        local.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.local, self.remote = local, remote
        self.error = ""
        """The error that the pod's side reported, or how the connection failed."""
        self._up, self._down = memoryview(b""), memoryview(b"")
        self._control: deque[bytes] = deque()
        self._received = bytearray()
        self._channel, self._greeted = DATA, set[int]()
        self._local_closed = self._remote_closed = self._asked = False
        self._heard = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Move data until one side has closed and everything is delivered, or until ``stop`` is set."""
        with suppress(OSError):  # the client has closed its socket
            while not stop.is_set() and not self._done():
                if not self._move_up() | self._move_down():
                    self._wait()
        if self._remote_closed and not self.error:
            _close_gracefully(self.local)
        else:
            reset(self.local)
        if not self._up:
            with suppress(OSError):
                _send(self.remote, memoryview(frame(CLOSE, struct.pack("!H", 1000))))

    def _done(self) -> bool:
        if self._remote_closed:
            return not self._down
        return self._local_closed and not self._up and time.monotonic() - self._heard > LINGER

    def _move_up(self) -> bool:
        """Send one chunk from the client to the pod; False if nothing could be sent."""
        if self._remote_closed:
            return False
        if not self._up:
            self._up = memoryview(self._control.popleft() if self._control else self._read_local())
        try:
            sent = _send(self.remote, self._up)
        except OSError as error:
            return self._fail(f"the connection was lost: {error}")
        self._up = self._up[sent:]
        return sent > 0

    def _move_down(self) -> bool:
        """Send one chunk from the pod to the client; False if nothing could be sent."""
        if self._down:
            sent = _send(self.local, self._down)
            self._down = self._down[sent:]
            return sent > 0
        if self._remote_closed:
            return False
        try:
            data = _receive(self.remote)
        except OSError as error:
            return self._fail(f"the connection was lost: {error}")
        if data is None:
            return False
        if not data:
            return self._fail("the connection was lost")
        self._heard, self._asked = time.monotonic(), False
        self._received += data
        self._down = memoryview(b"".join(self._payloads()))
        return True

    def _read_local(self) -> bytes:
        data = None if self._local_closed else _receive(self.local)
        if data == b"":
            self._local_closed, self._heard = True, time.monotonic()
        return frame(BINARY, bytes([DATA]) + data) if data else b""

    def _payloads(self) -> Iterator[bytes]:
        """The data in the frames that are complete."""
        for kind, payload in unframed(self._received):
            if kind == CLOSE:
                self._remote_closed = True
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
        self.error, self._remote_closed = error, True
        return True

    def _wait(self) -> None:
        """Wait until data can be moved, at most `TICK` seconds."""
        reads = {self.local: not self._up and not self._local_closed and not self._remote_closed}
        reads[self.remote] = not self._down and not self._remote_closed
        writes = {self.local: bool(self._down), self.remote: bool(self._up) and not self._remote_closed}
        with Selector() as selector:
            for sock, read in reads.items():
                if events := EVENT_READ * read | EVENT_WRITE * writes[sock]:
                    selector.register(sock, events)
            selector.select(TICK)
        silence = time.monotonic() - self._heard
        if silence > LOST_AFTER and not self._remote_closed:
            self._fail(f"no response for {LOST_AFTER:.0f} s")
        elif silence > PING_AFTER and not self._asked:
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
    # One XOR of two integers of the payload's length is the fastest way in Python.
    mask = int.from_bytes((key * (size // 4 + 1))[:size], sys.byteorder)
    return head + key + (int.from_bytes(payload, sys.byteorder) ^ mask).to_bytes(size, sys.byteorder)


def unframed(received: bytearray) -> Iterator[tuple[int, bytes]]:
    """Remove and yield the complete frames, as (kind, payload); a server does not mask."""
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
    """Make closing the socket send a reset, so that the client sees a failure and not the end of the data."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _close_gracefully(sock: socket.socket) -> None:
    """Half-close, and read what the client still sends: closing with unread data would discard the response."""
    deadline = time.monotonic() + TICK
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(CHUNK):
                return


def _receive(sock: socket.socket) -> bytes | None:
    """The data that has arrived; b"" at the end, None if there is none."""
    try:
        return sock.recv(CHUNK)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None


def _send(sock: socket.socket, data: memoryview) -> int:
    """Send without blocking; returns the number of bytes sent."""
    try:
        return sock.send(data) if data else 0
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return 0
