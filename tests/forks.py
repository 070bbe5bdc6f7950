"""Commands forked from one process that has everything imported: a start costs a fork, not seconds of imports.

A process of pytest starts one such process when it first needs it; it ends with it. A child looks like what was asked for:
environment (also for who reads ``/proc``), command line, working directory, session, standard streams, ``sys.path`` and
``__main__``.
"""

import array
import ctypes
import gc
import importlib
import json
import os
import runpy
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

ROOT = Path(__file__).parent.parent
IMPORTED = (
    "torch.utils.data", "torch.nn.parallel", "pyarrow.dataset", "pyarrow.parquet", "pandas", "rich.live",
    "ray", "ray.train", "ray.data", "ray.job_submission", "ray.autoscaler._private.autoscaler",
    "kubernetes.client", "kubernetes.stream", "optuna", "matplotlib.figure", "matplotlib.backends.backend_svg", "jinja2",
    "heliostat.cli", "heliostat.commands.train", "heliostat.commands.sweep", "cluster.local", "workloads.driver",
    "workloads.report", "tuning.drive",
)  # fmt: skip
"""What commands import; one that is missing here costs time only."""
READ_LATE = {"RAY_ADDRESS", "RAY_TMPDIR"}
"""Ray's variables that it does not read when it is imported."""
NO_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""For the process with the imports only: NumPy's and Arrow's libraries would start threads when they are loaded."""
ROOM = 48_000
"""Bytes for a child's command line, and for its environment as ``/proc`` shows it."""
MESSAGE = 200_000


def can_fork(env: Mapping[str, str]) -> bool:
    """Whether nothing in an environment is read by an import, or by Python as it starts."""
    own = {name for name in env if name.startswith(("RAY_", "OMP_", "MKL_", "GRPC_", "PYTHON"))} - {"PYTHONPATH"}
    return all(name in READ_LATE or env[name] == os.environ.get(name) for name in own)


class Forked(subprocess.Popen[str]):
    """A forked ``python -m ...`` with its output in pipes; as it is no child of this process, its end comes through a pipe."""

    _report: int

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:
        """What Popen calls to start the process; ``rest`` are its arguments in their order (3.11 to 3.14)."""
        cwd, env, out, errors = rest[4], rest[5], rest[12], rest[14]
        with _LOCK:
            self._report, theirs = os.pipe()
            request = {"args": list(args), "cwd": str(cwd), "env": dict(env)}
            _send(_warm(), json.dumps(request).encode(), [0, out, errors, theirs])
        for descriptor in (theirs, out, errors):
            os.close(descriptor)
        self.pid = int.from_bytes(os.read(self._report, 4), "big")
        assert self.pid, f"the process with the imports has ended: {_said()}"
        self._child_created = True

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if flags & os.WNOHANG and not select.select([self._report], [], [], 0)[0]:
            return 0, 0
        status = os.read(self._report, 4)
        os.close(self._report)
        return self.pid, int.from_bytes(status, "big") if status else signal.SIGKILL

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    self.returncode = os.waitstatus_to_exitcode(status) if pid else None  # type: ignore[assignment]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


def start(args: Sequence[str], cwd: Path, env: Mapping[str, str]) -> Forked:
    """``python -m MODULE ARG...`` in a session of its own; ``args`` begin with the module."""
    return Forked(args, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


_LOCK = threading.Lock()
_SERVERS: list[tuple[socket.socket, "subprocess.Popen[bytes]"]] = []
_ERRORS = tempfile.TemporaryFile()  # noqa: SIM115  # as long as this process
"""What it writes; no terminal, for which libraries would prepare their output when they are imported."""


def _warm() -> socket.socket:
    """The connection to the process with the imports."""
    if not _SERVERS:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HELIOSTAT_"))}
        command = [sys.executable, "-m", "tests.forks", str(theirs.fileno()), " " * ROOM]
        env = {**kept, **NO_THREADS, "PYTHONPATH": str(ROOT), "ROOM": " " * ROOM}
        # In a session of its own: Ctrl-C is for pytest, which then ends what it has started.
        streams = {"stdin": subprocess.DEVNULL, "stdout": _ERRORS, "stderr": _ERRORS}
        server = subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()], start_new_session=True, **streams)
        theirs.close()
        _SERVERS.append((mine, server))
    return _SERVERS[0][0]


def end() -> None:
    """End the process with the imports, if there is one."""
    for connection, server in _SERVERS:
        connection.close()
        server.wait()
    _SERVERS.clear()


def _said() -> str:
    _ERRORS.seek(0)
    return _ERRORS.read().decode()


def _send(connection: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    connection.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


# From here on, what runs in the process with the imports and in its children.


def _serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork a child for each request and say how it ended; returns in a child, with its request, and at the end."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in poller.poll():
            if ready in children:
                poller.unregister(ready)
                pid, report = children.pop(ready)
                os.write(report, os.waitpid(pid, 0)[1].to_bytes(4, "big"))
                os.close(report)
                os.close(ready)
                continue
            message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE, 4)
            if not message:
                return None
            threads = os.listdir("/proc/self/task")
            assert len(threads) == threading.active_count() == 1, f"no fork from a process with threads: {threads}"
            report = descriptors.pop()
            pid = os.fork()
            if not pid:
                for descriptor in (*children, *(report for _, report in children.values()), report):
                    os.close(descriptor)
                connection.close()
                return json.loads(message), descriptors
            os.write(report, pid.to_bytes(4, "big"))
            for descriptor in descriptors:
                os.close(descriptor)
            watched = os.pidfd_open(pid)
            children[watched] = pid, report
            poller.register(watched, select.POLLIN)


def _become(request: dict[str, Any], streams: list[int], added: Mapping[str, str], path: list[str]) -> None:
    """Make this child what ``python -m`` in that place would be."""
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    _show([sys.executable, "-m", *request["args"]], [f"{name}={value}" for name, value in request["env"].items()])
    os.environ.update({name: value for name, value in added.items() if name not in request["env"]})
    folders = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [request["cwd"], *filter(None, folders), *path]
    sys.argv[:] = ["-m", *request["args"][1:]]
    importlib.invalidate_caches()


def _show(args: Sequence[str], environment: Sequence[str]) -> None:
    """Write over what ``/proc`` has of this process: it reads the memory in which the kernel has left both."""
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    starts, ends = (int(stat[48 - 3]), int(stat[50 - 3])), (int(stat[49 - 3]), int(stat[51 - 3]))
    for begin, last, texts in zip(starts, ends, (args, environment), strict=True):
        text = b"".join(os.fsencode(text) + b"\0" for text in texts)
        assert len(text) < last - begin, f"{len(text)} bytes do not fit into tests.forks.ROOM"
        ctypes.memset(begin, 0, last - begin)
        ctypes.memmove(begin, text, len(text))


def _main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    before = dict(os.environ)
    for name in IMPORTED:
        importlib.import_module(name)
    added = {name: value for name, value in os.environ.items() if before.get(name) != value}
    # Without the working directory and PYTHONPATH, which each child has its own of.
    path = [folder for folder in sys.path if folder not in ("", str(ROOT))]
    gc.collect()
    gc.freeze()
    served = _serve(connection)
    if served:
        _become(*served, added, path)
        runpy.run_module(served[0]["args"][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
