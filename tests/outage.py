"""A proxy in front of a real object store, which stops, is slow, answers with errors, and drops connections."""

import http.client
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from heliostat.cluster.ports import free_ports

KEYS = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_EC2_METADATA_DISABLED": "true"}
Fault = int | float | str | None
"""An HTTP status to answer with; a share of the connections to drop; ``hang``; ``first``, 503 to the first request of each
method and path; None for none."""


class Proxy:
    """Forwards requests to the store at ``upstream``, a host and a port; `fault` and `stop` are what goes wrong."""

    def __init__(self, upstream: str, host: str = "127.0.0.1") -> None:
        self.upstream, self.host = upstream, host
        self.fault: Fault = None
        self.delay = 0.0
        """Seconds before each answer."""
        self.requests: list[str] = []
        """The methods and the paths of all requests."""
        self.on_request: Callable[[str], None] = lambda line: None
        self._random = random.Random(0)
        self._known: set[str] = set()
        self._released = threading.Event()
        # Not one that the kernel gives to a connection while the proxy is stopped.
        (self._port,) = free_ports(1)
        self.start()

    @property
    def address(self) -> str:
        return f"{self.host}:{self._port}"

    def uri(self, path: str) -> str:
        """The URI of a path in the store's bucket, with the keys, for processes whose environment lacks them."""
        return f"s3://nobody:nothing@bucket/{path}?endpoint_override={self.address}&scheme=http&region=x"

    def start(self) -> None:
        """Listens, at the same port as before."""
        self._released = threading.Event()
        handler = type("Handler", (_Handler,), {"proxy": self, "released": self._released})
        self._server = _Server((self.host, self._port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuses connections, and closes those that are open."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def away(self, seconds: float) -> None:
        """Stops, and starts after a while."""
        self.stop()
        threading.Timer(seconds, self.start).start()

    def break_down(self, dice: random.Random) -> None:
        """For one to ten seconds it is away, hangs, answers with errors, or drops a third of the connections."""
        usual, what, seconds = self.fault, dice.choice(("away", "hang", 503, 500, 0.3)), dice.uniform(1, 10)
        print(f"    the store: {what} for {seconds:.1f} s")
        if what == "away":
            self.stop()
        else:
            self.fault = what
        time.sleep(seconds)
        if what == "away":
            self.start()
        self.fault = usual

    def answers_badly(self, line: str) -> Fault:
        """The fault of a request."""
        if self.fault == "first":
            new = line not in self._known
            self._known.add(line)
            return 503 if new else None
        if isinstance(self.fault, float):
            return "drop" if self._random.random() < self.fault else None
        return self.fault


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that was killed
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    released: threading.Event

    def handle_any(self) -> None:
        line = f"{self.command} {self.path.partition('?')[0]}"
        self.proxy.requests.append(line)
        body = self._body()
        self.proxy.on_request(line)
        fault = self.proxy.answers_badly(line)
        if fault == "hang":
            self.released.wait(60)
        if fault in ("hang", "drop") or self.released.is_set():
            self.close_connection = True
            return
        time.sleep(self.proxy.delay)
        if isinstance(fault, int):
            self._answer(fault, [("Content-Length", "0")], b"")
            return
        upstream = http.client.HTTPConnection(self.proxy.upstream)
        sent = {name: value for name, value in self.headers.items() if name.lower() not in ("transfer-encoding", "expect")}
        upstream.request(self.command, self.path, body, {**sent, "Content-Length": str(len(body))})
        response = upstream.getresponse()
        data = response.read()
        headers = [(k, v) for k, v in response.getheaders() if k.lower() not in ("connection", "transfer-encoding")]
        if not response.getheader("Content-Length"):
            headers.append(("Content-Length", str(len(data))))
        upstream.close()
        self._answer(response.status, headers, data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            continue
        return b"".join(chunks)

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        try:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:  # the client has given up
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def in_front_of(upstream: str, host: str = "127.0.0.1") -> Iterator[Proxy]:
    proxy = Proxy(upstream, host)
    try:
        yield proxy
    finally:
        proxy.stop()
