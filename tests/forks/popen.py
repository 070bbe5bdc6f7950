"""Forked commands as ``subprocess.Popen`` has them, and the servers of a process of pytest."""

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.forks import ROOT, WORKERS, ask, number
from tests.forks.server import ROOM

READ_LATE = {"RAY_ADDRESS", "RAY_TMPDIR"}
"""Ray's variables that it does not read when it is imported."""
KINDS = ("command", "worker")
SETTINGS = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "ROOM": " " * ROOM,
}
"""Variables of the servers only: the libraries of NumPy and Arrow would start threads when they are loaded. That of OpenMP is
read then, too: Ray says it to each worker with one CPU, before that imports torch, and commands compute little."""


def can_fork(env: Mapping[str, str]) -> bool:
    """Whether nothing in an environment is read by an import, or by Python as it starts."""
    own = {name for name in env if name.startswith(("RAY_", "OMP_", "MKL_", "GRPC_", "PYTHON"))} - {"PYTHONPATH"}
    return all(name in READ_LATE or env[name] == os.environ.get(name) for name in own)


class Forked(subprocess.Popen[str]):
    """A forked ``python -m ...``; as it is no child of this process, its end comes through a connection."""

    _server: socket.socket

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        """What Popen calls to start the process; ``rest`` are its arguments in their order (Python 3.11 to 3.14)."""
        cwd, env, out, errors = rest[4], rest[5], rest[12], rest[14]
        module, *more = args
        self._server = ask(
            SERVERS.address("command"), {"module": module, "args": more, "cwd": cwd, "env": env}, [0, out, errors]
        )
        os.close(out)
        os.close(errors)
        pid = number(self._server)
        assert pid, f"the process with the imports has ended: {SERVERS.said()}"
        self.pid = pid
        self._child_created = True

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if flags & os.WNOHANG and not select.select([self._server], [], [], 0)[0]:
            return 0, 0
        status = number(self._server)
        self._server.close()
        return self.pid, signal.SIGKILL if status is None else status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    self.returncode = os.waitstatus_to_exitcode(ended[1])
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def start(args: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Forked:
    """``python -m MODULE ARG...`` in a session of its own; ``args`` begin with the module."""
    pipe = subprocess.PIPE
    return Forked(args, cwd=str(cwd), env=dict(env), stdout=pipe, stderr=pipe, text=True)


class Servers:
    """The two servers of this process, started together at the first command or Ray."""

    def __init__(self) -> None:
        # Now: later, a test may have given this process another home.
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HELIOSTAT_"))}
        self._folder = tempfile.TemporaryDirectory(prefix="forks-")
        self._owner: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []

    def address(self, kind: str) -> str:
        """Where the server of a kind listens."""
        self.start()
        return self._path(kind)

    def start(self) -> None:
        """Start both, unless they are there already."""
        with self._lock:
            if self._owner is None:
                self._owner = os.pipe()
                self._processes = [self._start(each, self._owner[0]) for each in KINDS]

    def variables(self) -> dict[str, str]:
        """What an environment needs for Ray's workers to be forked."""
        return {WORKERS: self._path("worker")}

    def said(self) -> str:
        return "".join(path.read_text() for path in Path(self._folder.name).glob("*.log"))

    def end(self) -> None:
        if self._owner:
            for descriptor in self._owner:
                os.close(descriptor)
            for process in self._processes:
                process.wait()
        self._folder.cleanup()

    def _path(self, kind: str) -> str:
        return str(Path(self._folder.name, kind))

    def _start(self, kind: str, owner: int) -> "subprocess.Popen[bytes]":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(self._path(kind))
        listener.listen(64)
        command = [sys.executable, "-m", "tests.forks.server", kind, str(listener.fileno()), str(owner), " " * ROOM]
        # No terminal, for which libraries would prepare their output. In a session of its own: Ctrl-C is for pytest.
        with listener, Path(f"{self._path(kind)}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self._env, **SETTINGS, "PYTHONPATH": str(ROOT)},
                pass_fds=[listener.fileno(), owner],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


SERVERS = Servers()
