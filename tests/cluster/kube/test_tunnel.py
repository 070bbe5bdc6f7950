"""A tunnel delivers all data in both directions, in chunks of any size; a small server stands for the pod."""

import os
import random
import resource
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import pytest
from websocket import ABNF

from heliostat.cluster.kube import tunnel
from heliostat.cluster.kube.api import Api
from heliostat.cluster.kube.port_forward import Forward
from heliostat.cluster.kube.tunnel import BINARY, CLOSE, CONTINUATION, DATA, ERROR, PING, PONG, Tunnel, frame, unframed
from tests.conftest import wait_for


def served(kind: int, payload: bytes, final: bool = True) -> bytes:
    """A frame as a server sends it: not masked."""
    return ABNF(int(final), 0, 0, 0, kind, 0, payload).format()


GREETING = served(BINARY, bytes([DATA]) + struct.pack("<H", 80)) + served(BINARY, bytes([ERROR]) + struct.pack("<H", 80))


@dataclass
class Ends:
    """A tunnel that runs in a thread: the client's socket, and the pod's with its frames."""

    client: socket.socket
    pod: socket.socket
    tunnel: Tunnel
    thread: threading.Thread

    def frame(self) -> tuple[int, bytes]:
        """The next frame that arrives at the pod, unmasked by websocket-client."""
        head = self._exactly(2)
        assert head[1] & 128, "a client must mask"
        size = head[1] & 127
        if size > 125:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
        key = self._exactly(4)
        return head[0] & 15, ABNF.mask(key, self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            piece = self.pod.recv(size - len(parts))
            assert piece, "the end in the middle of a frame"
            parts += piece
        return bytes(parts)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    for name in ("LINGER", "PING_AFTER", "LOST_AFTER"):  # a test says when it is about one of them
        monkeypatch.setattr(tunnel, name, 1000.0)
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname(), timeout=300)
    local = listener.accept()[0]
    remote, pod = socket.socketpair()
    pod.settimeout(120)
    over = threading.Event()
    pair = Tunnel(local, remote)

    def run() -> None:
        with local, remote:
            pair.run(over)

    thread = threading.Thread(target=run)
    thread.start()
    with listener, client, pod:
        pod.sendall(GREETING)
        yield Ends(client, pod, pair, thread)
    over.set()
    thread.join(120)
    assert not thread.is_alive()


def everything(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 20), b""))


def test_a_busy_port_has_more_connections_than_select_takes(request: pytest.FixtureRequest) -> None:
    least, (soft, hard) = 1100, resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * least), hard))
    held = [os.dup(0)]
    try:
        while held[-1] < least:
            held.append(os.dup(0))
        ends: Ends = request.getfixturevalue("ends")
        assert ends.client.fileno() > least
        ends.client.sendall(b"question")
        assert ends.frame() == (BINARY, bytes([DATA]) + b"question")
        ends.pod.sendall(served(BINARY, bytes([DATA]) + b"answer") + served(CLOSE, b""))
        assert everything(ends.client) == b"answer"
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_connection_waits_while_there_is_no_file_descriptor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(forward: Forward, local: socket.socket, port: int) -> None:
        with local:
            local.sendall(b"served")

    monkeypatch.setattr(Forward, "_check_rights", lambda forward: None)
    monkeypatch.setattr(Forward, "_serve", serve)
    held, (soft, hard) = list[int](), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 2048), hard))
    with Forward(cast(Api, None), "gpu", {80: 0}) as forward, socket.socket() as client:
        client.settimeout(120)
        try:
            with suppress(OSError):
                while True:
                    held.append(os.dup(0))
            client.connect(("127.0.0.1", forward.ports[80]))
            wait_for(lambda: forward.last_error is not None, "the error")
        finally:
            for each in held:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert "Too many open files" in str(forward.last_error)
        assert everything(client) == b"served"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70001])
def test_a_frame_is_what_websocket_client_would_send(size: int) -> None:
    payload, theirs = random.randbytes(size), ABNF.create_frame(b"", BINARY)
    ours = frame(BINARY, payload)
    key = ours[-size - 4 : len(ours) - size]
    theirs.data, theirs.get_mask_key = payload, lambda _: key
    assert ours == theirs.format()


def test_frames_are_found_wherever_the_stream_was_cut() -> None:
    sent = [(BINARY, random.randbytes(size)) for size in (0, 1, 125, 126, 40_000, 65_535, 65_536, 100_000)]
    stream = b"".join(served(*one) for one in sent)
    received, found = bytearray(), list[tuple[int, bytes]]()
    while stream:
        cut = random.choice((1, 2, 3, 1000, 70_000))
        received += stream[:cut]
        stream = stream[cut:]
        found += unframed(received)
    assert found == sent


def test_many_megabytes_pass_unbroken_in_both_directions_at_once(ends: Ends) -> None:
    up, down, arrived = random.randbytes(20_000_003), random.randbytes(20_000_003), bytearray()

    def answer() -> None:
        for start in range(0, len(down), 32_768):
            ends.pod.sendall(served(BINARY, bytes([DATA]) + down[start : start + 32_768]))

    def take() -> None:
        while len(arrived) < len(up):
            kind, payload = ends.frame()
            assert (kind, payload[0]) == (BINARY, DATA)
            arrived.extend(payload[1:])
        answering.join()
        ends.pod.sendall(served(CLOSE, struct.pack("!H", 1000)))

    answering = threading.Thread(target=answer)
    threads = [threading.Thread(target=ends.client.sendall, args=(up,)), answering, threading.Thread(target=take)]
    for thread in threads:
        thread.start()
    assert everything(ends.client) == down
    for thread in threads:
        thread.join(120)
    assert arrived == up
    assert ends.tunnel.error == ""


def test_a_message_in_fragments_is_one_stream_of_data(ends: Ends) -> None:
    ends.pod.sendall(served(BINARY, b"\0one ", final=False) + served(CONTINUATION, b"two ", final=False))
    ends.pod.sendall(served(PING, b"?") + served(CONTINUATION, b"three") + served(CLOSE, b""))
    assert everything(ends.client) == b"one two three"


def test_a_ping_is_answered_between_frames(ends: Ends) -> None:
    ends.pod.sendall(served(PING, b"are you there"))
    assert ends.frame() == (PONG, b"are you there")


def test_a_client_that_has_sent_everything_still_gets_its_answer(ends: Ends) -> None:
    ends.client.sendall(b"question")
    ends.client.shutdown(socket.SHUT_WR)
    assert ends.frame() == (BINARY, b"\0question")
    ends.pod.sendall(served(BINARY, b"\0answer") + served(CLOSE, b""))
    assert everything(ends.client) == b"answer"


def test_an_answer_that_comes_before_the_question_is_over_arrives(ends: Ends) -> None:
    sender = threading.Thread(target=lambda: ends.client.sendall(b"x" * 2_000_000))
    sender.start()
    ends.pod.sendall(served(BINARY, b"\0too big") + served(CLOSE, b""))
    assert everything(ends.client) == b"too big"
    sender.join(120)


def test_the_pod_learns_that_the_client_has_disconnected(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "LINGER", 0.2)
    ends.client.sendall(b"bye")
    ends.client.close()
    assert ends.frame() == (BINARY, b"\0bye")
    assert ends.frame() == (CLOSE, struct.pack("!H", 1000))
    assert ends.pod.recv(1) == b""


def test_an_error_of_the_pods_side_is_kept_and_resets_the_client(ends: Ends) -> None:
    ends.pod.sendall(served(BINARY, b"\1connection refused") + served(CLOSE, b""))
    with pytest.raises(ConnectionResetError):
        everything(ends.client)
    assert ends.tunnel.error == "connection refused"


def test_a_lost_connection_is_reset_for_the_client(ends: Ends) -> None:
    ends.pod.sendall(served(BINARY, b"\0half of it"))
    assert ends.client.recv(100) == b"half of it"
    ends.pod.close()
    with pytest.raises(ConnectionResetError):
        everything(ends.client)
    assert "the connection was lost" in ends.tunnel.error


def test_a_side_that_does_not_respond_is_pinged_and_then_counts_as_lost(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "PING_AFTER", 0.1)
    assert ends.frame() == (PING, b"")
    monkeypatch.setattr(tunnel, "LOST_AFTER", 0.2)
    with pytest.raises(ConnectionResetError):
        everything(ends.client)
    assert "no response for" in ends.tunnel.error
