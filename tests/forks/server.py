"""A process with imports, of which it forks a child for each request: ``python -m tests.forks.server KIND LISTENER OWNER``."""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from tests.forks import MESSAGE, ROOT, show

LIBRARIES = ("torch.utils.data", "torch.nn.parallel", "pyarrow.dataset", "pyarrow.parquet", "pandas", "pydantic", "ruamel.yaml")
IMPORTED = {
    "command": (
        *LIBRARIES, "rich.live", "kubernetes.client", "kubernetes.stream", "optuna", "matplotlib.figure", "jinja2",
        "matplotlib.backends.backend_svg", "ray", "ray.train", "ray.data", "ray.job_submission",
        "heliostat.cli", "heliostat.commands.train", "heliostat.commands.sweep", "heliostat.cluster.in_process",
        "heliostat.workloads.ray_train.driver", "heliostat.tuning.drive",
    ),
    "worker": (*LIBRARIES, "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict"),
}  # fmt: skip
"""What commands and workers import; one that is missing here costs time only."""
ROOM = 24_000
"""Bytes for a child's command line, and for its environment, as ``/proc`` shows them."""


class Server:
    """Forks a child for each connection, and says on it how that ended."""

    def __init__(self, listener: socket.socket, owner: int) -> None:
        self.listener = listener
        self.owner = owner
        self.poller = select.poll()
        self.children: dict[int, tuple[int, socket.socket, bool]] = {}
        """By the descriptor that reports its end: a child's process id, its connection, and whether it ends with that."""
        for descriptor in (listener.fileno(), owner):
            self.poller.register(descriptor, select.POLLIN)

    def serve(self) -> tuple[dict[str, Any], list[int]] | None:
        """Returns in each child, with what was asked for, and here when the owner has ended."""
        while True:
            ready, _ = self.poller.poll()[0]  # only one: to deal with it may close the descriptors of others
            if ready == self.owner:
                return None
            if ready == self.listener.fileno():
                connection = self.listener.accept()[0]
                message, streams, _, _ = socket.recv_fds(connection, MESSAGE, 3)
                if message and self._fork(connection, request := json.loads(message), streams):
                    return request, streams
            elif ready in self.children:
                self._reap(ready)
            else:
                self._abandoned(ready)

    def _fork(self, connection: socket.socket, request: dict[str, Any], streams: list[int]) -> bool:
        """Whether this is the child."""
        threads = os.listdir("/proc/self/task")
        assert len(threads) == 1, f"no fork from a process with threads: {threads}"
        pid = os.fork()
        if not pid:
            for descriptor, (_, other, _) in self.children.items():
                os.close(descriptor)
                other.close()
            connection.close()
            self.listener.close()
            os.close(self.owner)
            return True
        for descriptor in streams:
            os.close(descriptor)
        end = os.pidfd_open(pid)
        self.children[end] = pid, connection, bool(request.get("tied"))
        self.poller.register(end, select.POLLIN)
        if request.get("tied"):
            self.poller.register(connection, select.POLLIN)
        _say(connection, pid)
        return False

    def _reap(self, end: int) -> None:
        pid, connection, tied = self.children.pop(end)
        self.poller.unregister(end)
        os.close(end)
        if tied:
            self.poller.unregister(connection)
        _say(connection, os.waitpid(pid, 0)[1])
        connection.close()

    def _abandoned(self, descriptor: int) -> None:
        """A stand-in has ended before its worker."""
        self.poller.unregister(descriptor)
        for end, (pid, connection, _) in self.children.items():
            if connection.fileno() == descriptor:
                self.children[end] = pid, connection, False
                os.kill(pid, signal.SIGKILL)


def _say(connection: socket.socket, value: int) -> None:
    try:
        connection.send(value.to_bytes(4, "big"))
    except (BrokenPipeError, ConnectionResetError):
        return  # who asked has ended


def _become(request: dict[str, Any], streams: list[int], added: Mapping[str, str], path: list[str]) -> None:
    """Make this child what Python would be, had it been started with those arguments in that place."""
    os.setsid()
    for stream, descriptor in enumerate(streams):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.get("mask", []))
    os.chdir(request["cwd"])
    wanted, what = request["env"], ["-m", request["module"]] if "module" in request else [request["file"]]
    show([sys.executable, *what, *request["args"]], [f"{name}={value}" for name, value in wanted.items()])
    os.environ.clear()
    os.environ.update({**added, **wanted})
    folders = wanted.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [request["cwd"] if "module" in request else os.path.dirname(what[0]), *filter(None, folders), *path]
    sys.argv[:] = [what[0], *request["args"]]
    importlib.invalidate_caches()


def main() -> None:
    """The descriptors are those of a listening socket and of a pipe that ends with the owner."""
    kind, listener, owner = sys.argv[1], socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3])
    before = dict(os.environ)
    for name in IMPORTED[kind]:
        importlib.import_module(name)
    added = {name: value for name, value in os.environ.items() if before.get(name) != value}
    # Without the working directory and PYTHONPATH, of which each child has its own.
    path = [folder for folder in sys.path if folder not in ("", str(ROOT))]
    gc.collect()
    gc.freeze()
    asked = Server(listener, owner).serve()
    if asked is None:
        return
    _become(*asked, added, path)
    if "module" in asked[0]:
        runpy.run_module(asked[0]["module"], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(asked[0]["file"], run_name="__main__")


if __name__ == "__main__":
    main()
