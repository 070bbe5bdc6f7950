"""Port-forward to the head of a cluster, which follows the head to a new pod; does not need kubectl."""

import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Self

from websocket import WebSocketBadStatusException, WebSocketException

from heliostat.cluster.errors import Forbidden, KubernetesError, NotFound, Unreachable
from heliostat.cluster.kube.api import Api, refusal
from heliostat.cluster.kube.conditions import condition
from heliostat.cluster.kube.tunnel import PROTOCOL, Tunnel, reset
from heliostat.cluster.names import Document
from heliostat.errors import UserError

HEAD_SECONDS = 15.0
"""How long a new connection waits for a head."""
POLL = 0.5
CLOSE_SECONDS = 5.0
FULL = (errno.EMFILE, errno.ENFILE)


class Forward:
    """Forwards local ports to ports of a cluster's head, while the context is open.

    Args:
        api: the API server.
        cluster: the RayCluster's name.
        ports: the local port for each port of the head, 0 for any free one; `ports` then has the actual ones.

    Raises:
        UserError: a local port is in use.
        Forbidden: the user has no right to forward ports.
    """

    def __init__(self, api: Api, cluster: str, ports: Mapping[int, int]) -> None:
        self.api, self.cluster, self.ports = api, cluster, dict(ports)
        self.last_error: str | None = None
        """The error of the last connection that failed."""
        self._closing = threading.Event()
        self._connections: set[threading.Thread] = set()

    def __enter__(self) -> Self:
        self._check_rights()
        with ExitStack() as stack:
            listeners = {stack.enter_context(_listen(local)): remote for remote, local in self.ports.items()}
            wake, self._wake = (stack.enter_context(end) for end in socket.socketpair())
            self._sockets = stack.pop_all()
        self.ports = {remote: listener.getsockname()[1] for listener, remote in listeners.items()}
        self._acceptor = self._start(self._accept, listeners, wake)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._wake.send(b"x")
        self._acceptor.join()
        for thread in list(self._connections):
            # Only a handshake with an unresponsive API server takes longer; its daemon thread ends alone.
            thread.join(CLOSE_SECONDS)
        self._sockets.close()

    def head(self) -> str | None:
        """The name of the head's pod if it is usable, else None."""
        query = {"labelSelector": f"ray.io/cluster={self.cluster},ray.io/node-type=head"}
        pods = self.api.request("GET", self.api.path("Pod"), query=query)["items"]
        return next((pod["metadata"]["name"] for pod in pods if usable(pod)), None)

    def _check_rights(self) -> None:
        self.head()
        # A port-forward is opened by a GET; since Kubernetes 1.35 that also needs the right to create.
        for verb in ("get", "create"):
            if not self.api.may(verb, "pods", subresource="portforward"):
                raise Forbidden(
                    f"you have no right to {verb} pods/portforward in namespace {self.api.namespace}",
                    "heliostat render --rbac prints the rights to ask for",
                )

    def _accept(self, listeners: Mapping[socket.socket, int], wake: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (*listeners, wake):
                selector.register(each, selectors.EVENT_READ)
            while not self._closing.is_set():
                for key, _ in selector.select():
                    if isinstance(listener := key.fileobj, socket.socket) and listener is not wake:
                        self._take(listener, listeners[listener])

    def _take(self, listener: socket.socket, port: int) -> None:
        try:
            local = listener.accept()[0]
        except OSError as error:
            if error.errno in FULL:  # it waits until another connection has ended
                self.last_error = str(error)
                self._closing.wait(POLL)
            return  # otherwise the client has disconnected
        self._start(self._serve, local, port)

    def _start(self, work: Callable[..., None], *args: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*args)
            finally:
                self._connections.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=f"forward to {self.cluster}", daemon=True)
        self._connections.add(thread)
        thread.start()
        return thread

    def _serve(self, local: socket.socket, port: int) -> None:
        with local:
            try:
                remote = self._connect(port)
            except KubernetesError as error:
                self.last_error = error.what
                reset(local)
                return
            with remote:
                tunnel = Tunnel(local, remote)
                tunnel.run(self._closing)
                self.last_error = tunnel.error or self.last_error

    def _connect(self, port: int) -> socket.socket:
        """Connect to the head as soon as it is usable."""
        deadline = time.monotonic() + HEAD_SECONDS
        while True:
            try:
                if pod := self.head():
                    return self._open(pod, port)
                error: KubernetesError = Unreachable(f"{self.cluster} has no ready head", "heliostat status says why")
            except (Unreachable, NotFound) as problem:
                error = problem
            if time.monotonic() > deadline or self._closing.wait(POLL):
                raise error

    def _open(self, pod: str, port: int) -> socket.socket:
        path = f"{self.api.path('Pod', pod)}/portforward?ports={port}"
        headers = {**self.api.headers(), "sec-websocket-protocol": PROTOCOL}
        try:
            opened = self.api.websocket(path, headers)
        except WebSocketBadStatusException as error:
            text = error.resp_body or b""
            raise refusal(error.status_code, text.decode(errors="replace"), self.api.server) from None
        except (OSError, WebSocketException) as error:
            raise Unreachable(f"{self.api.server} cannot forward to {pod}: {error}", "heliostat doctor says why") from None
        # websocket-client reads the handshake byte by byte, so no later data is in its buffer.
        assert opened.sock is not None
        return opened.sock


def usable(pod: Document) -> bool:
    """Whether a head's pod runs and its Ray container is ready; other containers do not matter."""
    if "deletionTimestamp" in pod["metadata"] or pod["status"].get("phase") != "Running":
        return False
    ready = condition(pod, "Ready")
    # On a lost node there is no reason, and the containers are still listed as ready.
    if ready.get("status") != "True" and ready.get("reason") != "ContainersNotReady":
        return False
    ray = pod["spec"]["containers"][0]["name"]
    return any(status["ready"] for status in pod["status"].get("containerStatuses", []) if status["name"] == ray)


def _listen(port: int) -> socket.socket:
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise UserError(f"local port {port} cannot be used: {error}", "leave it out for any free one, or use another") from None
    listener.setblocking(False)
    return listener
