"""Runs a script in a Ray Train worker: sets torchrun's environment, forwards output, exit code and signals."""

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
from heliostat.modules import FOLDER, heliostat_only, is_clone
from heliostat.workloads.nodes import group_here
from heliostat.workloads.run.cost import price_of
from heliostat.workloads.torchrun.hub import Line
from heliostat.workloads.torchrun.script import SAVED_AND_STOPPED
from heliostat.workloads.training import rendezvous

CHILD = Path(__file__).with_name("child.py")
POLL = 0.5
"""Seconds between two polls for an order."""
GRACE = {"stop": 30.0, "hurry": 5.0, "failed": 5.0}
"""Seconds between SIGTERM and SIGKILL, by the order."""
OUTPUT_TIMEOUT = 5.0
"""Seconds for which a script's children may keep its output open after it has exited."""
MAX_LINE = 1 << 20
"""Bytes after which a line is split, so that memory is bounded."""

Event = tuple[str, Any]
"""``stdout`` or ``stderr`` with a line, or None when it is closed; ``code`` with the exit code; ``error`` with an exception."""


class ScriptEnded(Exception):
    """A rank's script has failed; the hub has its exit code."""


def work(spec: dict[str, Any]) -> None:
    """Runs the script as one rank, until it exits.

    Raises:
        UserError: the script does not exist on this node, or the nodes do not share the run folder.
        ScriptEnded: it failed or was killed.
    """
    context = ray.train.get_context()
    rank, hub, attempt = context.get_world_rank(), spec["hub"], spec["attempt"]
    working_dir = _working_dir(spec)
    node = ray.util.get_node_ip_address()
    alone = rendezvous.on_one_machine(node, context.get_local_world_size(), context.get_world_size())
    address = rendezvous.address_for(node, alone)
    listener = rendezvous.listen(address) if rank == 0 else None
    info = {
        "node": context.get_node_rank(),
        "node_id": ray.get_runtime_context().get_node_id(),
        "born": psutil.Process().create_time(),
        "price": price_of(spec["nodes"], group_here(), *spec["each"]),
        "address": address,
        "port": listener.getsockname()[1] if listener else 0,
        "checkpoints": (Folder.at(spec["run"]) / "checkpoints").names(),
    }
    ranks = ray.get(hub.join.remote(attempt, rank, info))
    _check_shared(spec["run"], ranks)
    environment = {**os.environ, **torchrun_environment(context, ranks, spec), RUN: spec["run"]}
    rendezvous.choose_interface(environment, node, alone)
    if not spec["each"][1]:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if environment.get("PYTHONBREAKPOINT", "").startswith("ray."):
        del environment["PYTHONBREAKPOINT"]
    command = [sys.executable, "-IS", str(CHILD), str(os.getpid()), sys.executable, "-u", *spec["command"]]
    with tempfile.TemporaryDirectory(prefix="heliostat-modules-") as scratch:
        if "PYTHONPATH" in environment:
            environment["PYTHONPATH"] = _python_path(environment["PYTHONPATH"], scratch)
        # In this thread, which outlives the script: Linux kills the script when the thread that started it exits.
        process = subprocess.Popen(
            command, cwd=working_dir, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = _ScriptProcess(process, hub, attempt, rank).run(listener)
        finally:
            _kill(process)
    ray.get(hub.ended.remote(attempt, rank, code))
    if code != 0:
        raise ScriptEnded(f"rank {rank}: {code}")


def torchrun_environment(context: Any, ranks: list[dict[str, Any]], spec: dict[str, Any]) -> dict[str, str]:
    """The variables that torchrun sets (torch 2.15, local_elastic_agent.py), and NODE_RANK, which some scripts read."""
    return {
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "GROUP_RANK": str(context.get_node_rank()),
        "NODE_RANK": str(context.get_node_rank()),
        "GROUP_WORLD_SIZE": str(len({info["node"] for info in ranks})),
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


class _ScriptProcess:
    """A script's process: sends its output to the hub, and the hub's orders to the script."""

    def __init__(self, process: "subprocess.Popen[bytes]", hub: Any, attempt: int, rank: int) -> None:
        self._process, self._hub, self._attempt, self._rank = process, hub, attempt, rank
        self._events: queue.Queue[Event] = queue.Queue(maxsize=5000)  # when it is full, the script blocks
        self._open = {"stdout", "stderr"}
        self._code: int | None = None
        self._order, self._kill_at = "", float("inf")
        self._drain_sent = False

    def run(self, listener: socket.socket | None) -> int | None:
        """Runs until the script exits; its exit code, negative for a signal, or None if it saved and exited on a drain."""
        if listener:
            self._thread(self._serve, listener)
        for name, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert pipe
            self._thread(self._read, name, pipe)
        self._thread(lambda: self._events.put(("code", self._process.wait())))
        ended = float("inf")
        while (self._code is None or self._open) and time.monotonic() < ended + OUTPUT_TIMEOUT:
            lines = self._gather()
            if self._code is not None:
                ended = min(ended, time.monotonic())
            self._apply(ray.get(self._hub.send.remote(self._attempt, self._rank, lines)))
        assert self._code is not None
        return self._result(self._code)

    def _result(self, code: int) -> int | None:
        """The exit code; after a drain no failure: rank 0 has saved (None), and the others just exit (0)."""
        if not self._drain_sent or code not in (0, SAVED_AND_STOPPED, -signal.SIGTERM):
            return code
        return 0 if self._rank else None

    def _gather(self) -> list[Line]:
        """The new lines; waits up to `POLL` seconds for the first."""
        lines: list[Line] = []
        wait = POLL
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

    def _apply(self, order: str) -> None:
        if order != self._order:
            self._order = order
            if order == "notice":
                # A script that does not handle SIGTERM would only exit earlier.
                self._drain_sent = _handles_sigterm(self._process.pid)
            self._kill_at = min(self._kill_at, time.monotonic() + GRACE.get(order, float("inf")))
            if order != "notice" or self._drain_sent:
                self._send(signal.SIGTERM)
        if time.monotonic() > self._kill_at:
            _kill(self._process)

    def _send(self, number: int) -> None:
        """Signals the script alone: it stops its children, such as those of a DataLoader, itself."""
        if self._code is None:
            self._process.send_signal(number)

    def _read(self, name: str, pipe: IO[bytes]) -> None:
        """Reads lines that end with a newline, or with a carriage return as those of progress bars."""
        rest = b""
        while piece := os.read(pipe.fileno(), 1 << 16):
            *lines, rest = re.split(rb"\r\n|\n|\r", rest + piece)
            for line in lines:
                self._events.put((name, line.decode(errors="replace")))
            if len(rest) > MAX_LINE:
                self._events.put((name, rest.decode(errors="replace")))
                rest = b""
        if rest:
            self._events.put((name, rest.decode(errors="replace")))
        self._events.put((name, None))

    def _serve(self, listener: socket.socket) -> None:
        """Serves the store of the process group, as torchrun's agent does: no port is lost, and rank 0 may exit first."""
        try:
            _STORES.append(rendezvous.serve(listener))
        except Exception as error:  # raised by `run`
            self._events.put(("error", error))

    def _thread(self, target: Any, *args: Any) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()


_STORES: list[Any] = []
"""Kept until this process exits, which is after all ranks have."""


def _working_dir(spec: dict[str, Any]) -> Path:
    """The working directory with the script: the command's own, or the job's on this node."""
    for place in (Path(spec["cwd"]), Path.cwd() / FOLDER, Path.cwd()):
        if place.is_dir() and (spec["module"] or (place / spec["script"]).is_file()):
            return place
    raise UserError(
        f"the script {spec['script']} does not exist on {socket.gethostname()}",
        "submit it as a job, which sends the working directory: heliostat torchrun --on PROFILE, or ray job submit",
    )


def _check_shared(run: str, ranks: list[dict[str, Any]]) -> None:
    """Raises a UserError if the nodes do not share the run folder: one rank would resume and another start from step 0."""
    other = next((info for info in ranks if info["checkpoints"] != ranks[0]["checkpoints"]), None)
    if other:
        raise UserError(
            f"the run folder {run} has other checkpoints on {other['address']} than on {ranks[0]['address']}",
            "set --storage to a place that all nodes share",
        )


def _python_path(path: str, scratch: str) -> str:
    """The script's PYTHONPATH, with a clone's root replaced by a folder that contains only ``heliostat``.

    The root's other folders would shadow modules of the same names, such as Hugging Face's ``datasets``.
    """
    parts = [part for part in path.split(os.pathsep) if part]
    kept = [part for part in parts if not is_clone(part)]
    return path if len(kept) == len(parts) else os.pathsep.join([*kept, heliostat_only(Path(scratch))])


def _handles_sigterm(pid: int) -> bool:
    try:
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:  # it has exited, or this is not Linux
        return False
    return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kills the script and all processes that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
