"""Runs a script in a Ray Train worker: sets torchrun's environment, forwards output, exit code and signals."""

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.train

from heliostat.environment import RUN, WORKERS
from heliostat.errors import UserError
from heliostat.folder import Folder
from heliostat.modules import FOLDER, heliostat_only, is_clone
from heliostat.requirements import provide
from heliostat.workloads.run.cost import price_here
from heliostat.workloads.torchrun.hub import Event
from heliostat.workloads.torchrun.kept import files_in, is_copy, keep, new_files
from heliostat.workloads.torchrun.process import ScriptProcess, Send, kill, start
from heliostat.workloads.training import rendezvous


class ScriptEnded(Exception):
    """A rank's script has failed; the hub has its exit code."""


def work(spec: dict[str, Any]) -> None:
    """Runs the script as one rank, until it exits.

    Raises:
        UserError: the script does not exist on this node, the nodes do not share the run folder, it cannot be written, or
            requirements cannot be installed.
        ScriptEnded: it failed or was killed.
    """
    context = ray.train.get_context()
    rank, hub, attempt = context.get_world_rank(), spec["hub"], spec["attempt"]
    working_dir = _working_dir(spec)
    with chdir(working_dir):  # of which the paths of wheels are relative
        installed = provide(spec["requirements"])
    node = ray.util.get_node_ip_address()
    alone = rendezvous.on_one_machine(node, context.get_local_world_size(), context.get_world_size())
    address = rendezvous.address_for(node, alone)
    listener = rendezvous.listen(address) if rank == 0 else None
    info = {
        "node": context.get_node_rank(),
        "node_id": ray.get_runtime_context().get_node_id(),
        "born": psutil.Process().create_time(),
        "host": socket.gethostname(),
        "device": "gpu" if spec["each"][1] else "cpu",
        "price": price_here(spec["nodes"], *spec["each"]),
        "address": address,
        "port": listener.getsockname()[1] if listener else 0,
        "files": (socket.gethostname(), str(working_dir)),
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
    # One rank for each copy of the working directory.
    keeps = is_copy(working_dir) and next(each for each, one in enumerate(ranks) if one["files"] == info["files"]) == rank
    before = files_in(working_dir) if keeps else {}
    offset = 0.0 if alone else _clock_offset(hub)

    def send(events: list[Event]) -> str:
        return str(ray.get(hub.send.remote(attempt, rank, [(at + offset, kind, value) for at, kind, value in events])))

    with tempfile.TemporaryDirectory(prefix="heliostat-modules-") as scratch:
        environment |= _python_path(environment.get("PYTHONPATH", ""), scratch, installed)
        if rank == 0:
            environment[WORKERS] = _describe(ranks, spec, Path(scratch, "workers.json"))
        # In this thread, which outlives the script: Linux kills the script when the thread that started it exits.
        with _stdin(spec, rank) as stdin:
            process = start(spec["command"], working_dir, environment, stdin)
        code = _follow(process, listener, rank, send)
    ray.get(hub.ended.remote(attempt, rank))
    if keeps and (sizes := new_files(working_dir, before)):
        run, name = Folder.at(spec["run"]), "files" if rank == 0 else f"files-rank-{rank}"
        send([(time.time(), "kept", {"place": str(run / name), "sizes": sizes})])
        keep(working_dir, sizes, run, name)
    if code != 0:
        raise ScriptEnded(f"rank {rank}: {code}")


def _describe(ranks: list[dict[str, Any]], spec: dict[str, Any], path: Path) -> str:
    """Writes what the script's record has about its workers; returns the path."""
    workers = [{name: info[name] for name in ("host", "device", "born", "price")} for info in ranks]
    path.write_text(json.dumps({"id": spec["id"], "launched": spec["launched"], "workers": workers}))
    return str(path)


def _follow(process: "subprocess.Popen[bytes]", listener: socket.socket | None, rank: int, send: Send) -> int:
    """Follows the script until it exits; what it has started continues only after a success, as with torchrun."""
    script = ScriptProcess(process, rank, send)
    code = None
    try:
        if listener:
            threading.Thread(target=_serve, args=(listener, script), daemon=True).start()
        code = script.run()
    finally:
        if code != 0 or not script.undisturbed:
            kill(process)
    return code


def _clock_offset(hub: Any) -> float:
    """What to add to this node's clock to have that of the hub's, in seconds; right to half of a request's time."""
    asked = time.time()
    there: float = ray.get(hub.clock.remote())
    return there - (asked + time.time()) / 2


@contextmanager
def _stdin(spec: dict[str, Any], rank: int) -> Iterator[int]:
    """The command's standard input for rank 0 on the same node, else an empty one."""
    node, path = spec["stdin"]
    place = path if rank == 0 and path and node == ray.get_runtime_context().get_node_id() else os.devnull
    try:
        stdin = os.open(place, os.O_RDONLY | os.O_NOCTTY)
    except OSError:  # a socket cannot be opened again
        stdin = os.open(os.devnull, os.O_RDONLY)
    try:
        yield stdin
    finally:
        os.close(stdin)


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


def _serve(listener: socket.socket, script: ScriptProcess) -> None:
    """Serves the store of the process group, as torchrun's agent does: no port is lost, and rank 0 may exit first."""
    try:
        _STORES.append(rendezvous.serve(listener))
    except Exception as error:
        script.fail(error)


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


def _python_path(path: str, scratch: str, installed: Path | None) -> dict[str, str]:
    """The script's PYTHONPATH, with what was ``installed``, and a clone's root replaced by a folder with only ``heliostat``.

    The root's other folders would shadow modules of the same names, such as Hugging Face's ``datasets``.
    """
    parts = [part for part in path.split(os.pathsep) if part]
    kept = [*(part for part in parts if not is_clone(part)), *([str(installed)] if installed else [])]
    if any(map(is_clone, parts)):
        kept.append(heliostat_only(Path(scratch)))
    return {"PYTHONPATH": os.pathsep.join(kept)} if kept != parts else {}
