"""A small HTTP server with objects as an API server has them, which fails as a test says."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from heliostat.cluster.kube.api import KINDS

PLURALS = {kind.plural for kind in KINDS.values()}
Fault = Callable[["Handler"], bool]
"""Answers a request instead of the server; False: the server answers it, too."""


class ApiServer(ThreadingHTTPServer):
    """Objects by path. Requests fail as ``faults`` says, one after the other; watches get the lines of ``streams``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, Any] = {}
        self.faults = deque[Fault]()
        self.streams = deque[list[Any]]()
        self.requests: list[tuple[str, str]] = []
        self.version = 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, path: str, **document: Any) -> Any:
        """Add or change an object; its resource version grows."""
        self.version += 1
        name = path.rpartition("/")[2]
        metadata = {"name": name, "uid": f"u-{name}", **document.pop("metadata", {}), "resourceVersion": str(self.version)}
        self.objects[path] = {"metadata": metadata, **document}
        return self.objects[path]

    def methods(self, method: str) -> list[str]:
        """The paths of all requests with a method."""
        return [path for name, path in self.requests if name == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: ApiServer

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # a fault has closed it, or the client has
            self.close_connection = True

    def answer(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.requests.append((self.command, path))
        size = int(self.headers.get("Content-Length") or 0)
        self.body: Any = json.loads(self.rfile.read(size)) if size else None
        if self.server.faults and self.server.faults.popleft()(self):
            return
        if "watch=1" in query:
            self._stream(self.server.streams.popleft() if self.server.streams else [])
        else:
            self._answer(path)

    def _answer(self, path: str) -> None:
        objects = self.server.objects
        if self.command == "POST" and "name" in self.body.get("metadata", {}):
            path = f"{path}/{self.body['metadata']['name']}"
            if path in objects:
                return self.reply(409, {"reason": "AlreadyExists", "message": f"{path} already exists"})
            return self.reply(201, self.server.put(path, **self.body))
        if path in objects and self.command == "DELETE":
            wanted = ((self.body or {}).get("preconditions") or {}).get("uid")
            if wanted not in (None, (found := objects[path]["metadata"]["uid"])):
                message = f"the UID in the precondition ({wanted}) does not match the UID in record ({found})"
                return self.reply(409, {"reason": "Conflict", "message": message})
            return self.reply(200, objects.pop(path))
        if self.command == "PATCH" and "fieldManager" in self.path and "apply" in self.headers["Content-Type"]:
            merged = _merged(objects.get(path), self.body)
            return self.reply(200, merged if "dryRun=All" in self.path else self.server.put(path, **merged))
        if path in objects:
            return self.reply(200, objects[path])
        below = [each for place, each in sorted(objects.items()) if place.rpartition("/")[0] == path]
        if self.command == "GET" and path.rpartition("/")[2] in PLURALS and "/proxy/" not in path:
            return self.reply(200, {"metadata": {"resourceVersion": str(self.server.version)}, "items": below})
        return self.reply(404, {"kind": "Status", "message": f"{path} not found", "reason": "NotFound"})

    def _stream(self, lines: list[Any]) -> None:
        """Send lines; a function in their place is called, and what it returns is sent."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        for line in lines:
            line = line() if callable(line) else line
            self.wfile.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
            self.wfile.flush()

    def reply(self, status: int, document: Any, **headers: str) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


def _merged(live: Any, applied: Any) -> Any:
    """What a server-side apply makes of an object: mappings are merged, and lists replaced, as of worker groups."""
    if not isinstance(live, dict) or not isinstance(applied, dict):
        return applied
    return {key: _merged(live.get(key), applied[key]) if key in applied else live[key] for key in {**live, **applied}}


for method in ("GET", "POST", "PATCH", "DELETE", "PUT"):
    setattr(Handler, f"do_{method}", Handler.answer)


def answering(status: int, document: Any, **headers: str) -> Fault:
    """Answer with a document."""

    def fault(handler: Handler) -> bool:
        handler.reply(status, document, **headers)
        return True

    return fault


def failing(status: int, **headers: str) -> Fault:
    """Answer with an error."""
    return answering(status, {"kind": "Status", "message": "the server is overloaded", "code": status}, **headers)


def lost(handler: Handler) -> bool:
    """Close the connection without an answer; the request has not been executed."""
    handler.close_connection = True
    return True


def executed_and_lost(handler: Handler) -> bool:
    """Execute the request, and close the connection without an answer."""
    reply, handler.reply = handler.reply, lambda *args, **more: None  # type: ignore[method-assign]
    handler._answer(urlsplit(handler.path).path)
    handler.reply, handler.close_connection = reply, True  # type: ignore[method-assign]
    return True


def well(handler: Handler) -> bool:
    """No fault."""
    return False


@contextmanager
def serving() -> Iterator[ApiServer]:
    server = ApiServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def kubeconfig(path: Path, server: ApiServer) -> Path:
    """A kubeconfig for the server, in the namespace ``team``."""
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": server.url}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "team"}}],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path
