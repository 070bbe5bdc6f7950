"""What each Ray Train worker does for a script: gives it the environment of torchrun, carries its lines, sees to its end."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

import psutil
import ray
import ray.train

from heliostat.environment import RUN
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.modules import FOLDER, ROOT, heliostat_only
from heliostat.workloads.nodes import group_here
from heliostat.workloads.run.cost import price_of
from heliostat.workloads.torchrun.hub import Line
from heliostat.workloads.torchrun.script import LEFT

CHILD = Path(__file__).with_name("child.py")
BEAT = 0.5
"""Seconds between two looks whether there is an order."""
GRACE = {"stop": 30.0, "hurry": 5.0, "failed": 5.0}
"""Seconds between SIGTERM and SIGKILL, by the order."""
DRAIN = 5.0
"""Seconds for which a script's children may keep its output open after it has ended."""
LONGEST = 1 << 20
"""Bytes after which a line is cut, so that memory stays bounded."""

Event = tuple[str, Any]
"""``stdout`` or ``stderr`` with a line, or None at its end; ``code`` with it; ``error`` with an exception."""


class ScriptEnded(Exception):
    """A rank's script has not succeeded; the hub knows which and how."""


def work(spec: dict[str, Any]) -> None:
    """Run the script as one rank, to its end.

    Raises:
        UserError: the script is not on this machine, or the nodes do not share the run folder.
        ScriptEnded: it failed, or was ended.
    """
    context = ray.train.get_context()
    rank, hub, attempt = context.get_world_rank(), spec["hub"], spec["attempt"]
    where = _where(spec)
    listener = socket.create_server(("", 0), backlog=1024) if rank == 0 else None
    about = {
        "node": context.get_node_rank(),
        "node_id": ray.get_runtime_context().get_node_id(),
        "born": psutil.Process().create_time(),
        "price": price_of(spec["nodes"], group_here(), *spec["each"]),
        "address": ray.util.get_node_ip_address(),
        "port": listener.getsockname()[1] if listener else 0,
        "checkpoints": (Folder.at(spec["run"]) / "checkpoints").names(),
    }
    ranks = ray.get(hub.join.remote(attempt, rank, about))
    _check_shared(spec["run"], ranks)
    environment = {**os.environ, **torchrun(context, ranks, spec), RUN: spec["run"]}
    if not spec["each"][1]:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if environment.get("PYTHONBREAKPOINT", "").startswith("ray."):
        del environment["PYTHONBREAKPOINT"]
    command = [sys.executable, "-IS", str(CHILD), str(os.getpid()), sys.executable, "-u", *spec["command"]]
    with tempfile.TemporaryDirectory(prefix="heliostat-modules-") as scratch:
        if "PYTHONPATH" in environment:
            environment["PYTHONPATH"] = _python_path(environment["PYTHONPATH"], scratch)
        # By this thread, which lives until the script ends: when the thread that made it ends, Linux ends the script.
        process = subprocess.Popen(
            command, cwd=where, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = _Attendant(process, hub, attempt, rank).attend(listener)
        finally:
            _kill(process)
    ray.get(hub.ended.remote(attempt, rank, code))
    if code != 0:
        raise ScriptEnded(f"rank {rank}: {code}")


def torchrun(context: Any, ranks: list[dict[str, Any]], spec: dict[str, Any]) -> dict[str, str]:
    """The variables that torchrun sets (torch 2.15, local_elastic_agent.py), and NODE_RANK, which some scripts read."""
    return {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "GROUP_RANK": str(context.get_node_rank()),
        "NODE_RANK": str(context.get_node_rank()),
        "GROUP_WORLD_SIZE": str(len({about["node"] for about in ranks})),
        "ROLE_RANK": str(context.get_world_rank()),
        "ROLE_WORLD_SIZE": str(context.get_world_size()),
        "ROLE_NAME": "default",
        "MASTER_ADDR": ranks[0]["address"],
        "MASTER_PORT": str(ranks[0]["port"]),
        "TORCHELASTIC_RESTART_COUNT": str(spec["attempt"] - 1),
        "TORCHELASTIC_MAX_RESTARTS": str(spec["max_restarts"]),
        "TORCHELASTIC_RUN_ID": spec["id"],
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        "OMP_NUM_THREADS": spec["omp_num_threads"],
    }


class _Attendant:
    """Reads what a script prints, carries it to the hub, and carries the hub's orders to the script."""

    def __init__(self, process: "subprocess.Popen[bytes]", hub: Any, attempt: int, rank: int) -> None:
        self._process, self._hub, self._attempt, self._rank = process, hub, attempt, rank
        self._events: queue.Queue[Event] = queue.Queue(maxsize=5000)  # full: the script waits in its print
        self._open = {"stdout", "stderr"}
        self._code: int | None = None
        self._order, self._kill_at = "", float("inf")
        self._noticed = False

    def attend(self, listener: socket.socket | None) -> int | None:
        """Until the script has ended; its exit code, negative for a signal, or None if it has saved and left as asked."""
        if listener:
            self._thread(self._serve, listener)
        for name, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert pipe
            self._thread(self._read, name, pipe)
        self._thread(lambda: self._events.put(("code", self._process.wait())))
        ended = float("inf")
        while (self._code is None or self._open) and time.monotonic() < ended + DRAIN:
            lines = self._gather()
            if self._code is not None:
                ended = min(ended, time.monotonic())
            self._obey(ray.get(self._hub.tell.remote(self._attempt, self._rank, lines)))
        assert self._code is not None
        return self._meaning(self._code)

    def _meaning(self, code: int) -> int | None:
        """An end after a notice that a node goes is no failure: rank 0 has saved, and the others just end."""
        if not self._noticed or code not in (0, LEFT, -signal.SIGTERM):
            return code
        return 0 if self._rank else None

    def _gather(self) -> list[Line]:
        """The lines that have come, at once if there are some."""
        lines: list[Line] = []
        wait = BEAT
        while len(lines) < 1000:
            try:
                kind, value = self._events.get(timeout=wait)
            except queue.Empty:
                break
            if kind == "error":
                raise value
            if kind == "code":
                self._code = value
            elif value is None:
                self._open.discard(kind)
            else:
                lines.append((kind, value))
            wait = 0.02 if self._code is None or self._open else 0
        return lines

    def _obey(self, order: str) -> None:
        if order != self._order:
            self._order = order
            if order == "notice":
                # One that does not want to know would only end earlier.
                self._noticed = _handles_sigterm(self._process.pid)
            self._kill_at = min(self._kill_at, time.monotonic() + GRACE.get(order, float("inf")))
            if order != "notice" or self._noticed:
                self._send(signal.SIGTERM)
        if time.monotonic() > self._kill_at:
            _kill(self._process)

    def _send(self, number: int) -> None:
        """To the script alone: its children, such as those of a DataLoader, are its own to end."""
        if self._code is None:
            self._process.send_signal(number)

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        """Lines end with a newline, or with a return as those of progress bars do."""
        rest = b""
        while piece := os.read(pipe.fileno(), 1 << 16):
            *lines, rest = re.split(rb"\r\n|\n|\r", rest + piece)
            for line in lines:
                self._events.put((name, line.decode(errors="replace")))
            if len(rest) > LONGEST:
                self._events.put((name, rest.decode(errors="replace")))
                rest = b""
        if rest:
            self._events.put((name, rest.decode(errors="replace")))
        self._events.put((name, None))

    def _serve(self, listener: socket.socket) -> None:
        """Hold the store of the process group, as torchrun's agent does: no port is lost, and rank 0 may end first."""
        try:
            from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

            host, port = ray.util.get_node_ip_address(), listener.getsockname()[1]
            _STORES.append(TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()))
        except Exception as error:  # raised by the thread that attends
            self._events.put(("error", error))

    def _thread(self, target: Any, *args: Any) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()


_STORES: list[Any] = []
"""Kept until this process ends, which is after all ranks have."""


def _where(spec: dict[str, Any]) -> Path:
    """The working directory, which holds the script: the command's own, or that of the job on this node."""
    for place in (Path(spec["cwd"]), Path.cwd() / FOLDER, Path.cwd()):
        if place.is_dir() and (spec["module"] or (place / spec["script"]).is_file()):
            return place
    raise UserError(
        f"the script {spec['script']} is not there on {socket.gethostname()}",
        "submit it as a job, which sends the working directory: heliostat torchrun --on PROFILE, or ray job submit",
    )


def _check_shared(run: str, ranks: list[dict[str, Any]]) -> None:
    """Refuse a run folder that is another one on each node, where one rank would go on and the other begin anew."""
    other = next((about for about in ranks if about["checkpoints"] != ranks[0]["checkpoints"]), None)
    if other:
        raise UserError(
            f"the run folder {run} has other checkpoints on {other['address']} than on {ranks[0]['address']}",
            "set --storage to a place that all nodes share",
        )


def _python_path(path: str, scratch: str) -> str:
    """The search path of the script, in which a clone's root is replaced by a folder with nothing but ``heliostat``.

    The root's other folders would hide modules of the same names, such as Hugging Face's ``datasets``.
    """
    parts = [part for part in path.split(os.pathsep) if part]
    kept = [part for part in parts if Path(part).resolve() != ROOT]
    return path if len(kept) == len(parts) else os.pathsep.join([*kept, heliostat_only(Path(scratch))])


def _handles_sigterm(pid: int) -> bool:
    try:
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:  # it has ended, or this is not Linux
        return False
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End the script and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
