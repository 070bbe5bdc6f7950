"""A script on Ray workers, from the command's side."""

import itertools
import os
import secrets
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from heliostat.errors import HeliostatError, JobFailed, Stopped, UserError
from heliostat.interrupts import interrupts
from heliostat.workloads.nodes import available, draining
from heliostat.workloads.ray_train.trainer import WATCHER, Fixed, Trainer
from heliostat.workloads.run.cost import paid
from heliostat.workloads.torchrun.config import Script
from heliostat.workloads.torchrun.hub import Hub, Record
from heliostat.workloads.torchrun.output import Output, Write
from heliostat.workloads.torchrun.worker import work

POLL, LOOK = 0.3, 1.0
"""Seconds between two looks at what was printed, and at the nodes."""
PATIENCE = 15.0
"""Seconds after which it is said that the workers have not started yet."""
HEAD = {"node:__internal_head__": 0.001}


class ScriptFailed(HeliostatError):
    """The script itself failed; what it printed says why."""


class _Torchrun(Backend):  # type: ignore[misc]  # Ray has no types
    share_cuda_visible_devices = True
    """Each worker sees the GPUs of all workers on its node, so that ``cuda:LOCAL_RANK`` is its own."""


class _TorchrunConfig(BackendConfig):  # type: ignore[misc]
    """No process group: the script makes its own."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Torchrun


@dataclass(frozen=True)
class _End:
    """How an attempt ended: well if there is no error; ``free`` if starting again is nobody's fault."""

    error: HeliostatError | None = None
    free: bool = False


def execute(script: Script, run: str, write: Write) -> None:
    """Run a script on the connected Ray.

    Args:
        script: what, with its resources resolved.
        run: the path or URI of its run folder, which only a script that saves checkpoints makes.
        write: gets each line that a rank prints.

    Raises:
        UserError: the script or the run folder is not there on the workers.
        ScriptFailed: a rank failed; the exit code is that of the first that did.
        JobFailed: a worker was lost.
        Stopped: it was stopped.
    """
    # A notice that a node goes is heard here; Ray's own watcher would wait for the node's last moment.
    os.environ[WATCHER] = "0"
    hub = ray.remote(Hub).options(num_cpus=0, resources=HEAD).remote()
    spec = {
        "hub": hub,
        "id": f"{script.name}-{secrets.token_hex(4)}",
        "run": run,
        "cwd": str(Path.cwd()),
        "script": script.script,
        "module": script.module,
        "command": script.command,
        "max_restarts": script.max_restarts,
        "each": (script.resources.cpu, script.resources.gpu),
        "nodes": available(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", str(script.resources.cpu)),
    }
    restarts, costs = 0, list[float]()
    with interrupts() as received:
        try:
            for attempt in itertools.count(1):
                end = _attempt(script, {**spec, "attempt": attempt}, write, received, costs)
                if end.error is None:
                    return
                if end.free and (restarts < script.max_restarts or isinstance(end.error, _Left)):
                    write("stderr", f"heliostat: {end.error}; starts again")
                    continue
                if isinstance(end.error, UserError | Stopped) or restarts == script.max_restarts:
                    raise end.error
                restarts += 1
                write("stderr", f"heliostat: {end.error}; restart {restarts} of {script.max_restarts}")
        finally:
            if costs:
                write("stderr", f"heliostat: cost {sum(costs):.4g}")


class _Left(HeliostatError):
    """A node goes, and the script has saved its state and ended."""


@dataclass
class _Watch:
    """Looks after an attempt: at signals, at nodes that go, and whether it begins at all."""

    script: Script
    hub: Any
    write: Write
    received: list[int]
    stopping: bool = False
    workers: list[dict[str, Any]] = field(default_factory=list)
    """What the workers that were there at the last look have said about themselves."""
    _noticed: bool = False
    _told: bool = False
    _began: float = field(default_factory=time.monotonic)
    _looked: float = 0.0

    def look(self) -> None:
        """Give the orders that are due.

        Raises:
            Stopped: there is nothing to wait for.
        """
        if len(self.received) > 1:
            raise Stopped("stopped at once")
        now, stop = time.monotonic(), bool(self.received) and not self.stopping
        if now - self._looked < LOOK and not stop:
            return
        self._looked = now
        self.workers = self.ask(self.hub.joined.remote())
        nodes = {about["node_id"] for about in self.workers} if len(self.workers) == self.script.workers else set[str]()
        if stop:
            if not nodes:
                raise Stopped("stopped before the script began")
            self.stopping = True
            self.ask(self.hub.order.remote("stop"))
        if not self._noticed and nodes & draining().keys():
            self._noticed = True
            self.write("stderr", "heliostat: a node goes; the script is asked to save, if it can")
            self.ask(self.hub.order.remote("notice"))
        if not self._told and not nodes and now - self._began > PATIENCE:
            self._told = True
            self.write("stderr", f"heliostat: waits for {self.script.workers} workers to start")

    def ask(self, answer: Any) -> Any:
        """The hub's answer; a SIGTERM to all processes of this command ends Ray, too."""
        try:
            return ray.get(answer)
        except ray.exceptions.RayError as error:
            if self.received:
                raise Stopped("stopped, and Ray with it") from None
            raise JobFailed(f"contact with Ray's head was lost: {_short(error)}") from None


def _attempt(script: Script, spec: dict[str, Any], write: Write, received: list[int], costs: list[float]) -> _End:
    """Start the workers, and follow them to their end; what they have cost is added to ``costs``."""
    watch, ended = _Watch(script, spec["hub"], write, received), list[Record]()
    watch.ask(watch.hub.attempt.remote(spec["attempt"], script.workers))
    asked = time.time()
    try:
        error = _follow(spec, watch, ended)
        watch.workers = watch.ask(watch.hub.joined.remote())
    finally:
        over = time.time()
        costs += [paid(worker, asked, over) for worker in watch.workers if worker["price"] is not None]
    if watch.stopping:
        return _End(Stopped(f"stopped; if {script.script} saves checkpoints, the same command goes on from the last"))
    return _judged(script, ended, error)


def _follow(spec: dict[str, Any], watch: _Watch, ended: list[Record]) -> BaseException | None:
    """Write what the workers print, until all are over; Ray's error, if there is one. Their ends are added to ``ended``."""
    output = Output(watch.write, watch.script.workers)
    with tempfile.TemporaryDirectory(prefix="heliostat-", ignore_cleanup_errors=True) as scratch:
        over, box = _fit(watch.script, spec, scratch)
        while True:
            done = over.is_set()
            records: list[Record] = watch.ask(watch.hub.take.remote(0 if done else POLL))
            for rank, kind, value in records:
                if kind in ("stdout", "stderr"):
                    output.line(rank, kind, value, time.monotonic())
                    continue
                ended.append((rank, kind, value))
                if value and not watch.stopping and _first(ended) == (rank, value):
                    output.failed(rank)
            if done and not records:
                break
            output.tick(time.monotonic())
            watch.look()
    output.end()
    return box.get("error")


def _fit(script: Script, spec: dict[str, Any], scratch: str) -> tuple[threading.Event, dict[str, BaseException]]:
    """Start the workers in a thread: on the main thread, Ray Train would take Ctrl-C for itself."""
    gpu = {"GPU": script.resources.gpu} if script.resources.gpu else {}
    scaling = ray.train.ScalingConfig(
        num_workers=script.workers, use_gpu=bool(gpu), resources_per_worker={"CPU": script.resources.cpu, **gpu}
    )
    trainer = Trainer(
        work,
        train_loop_config=spec,
        backend_config=_TorchrunConfig(),
        scaling_config=scaling,
        policies={"scaling_policy": Fixed(scaling)},
        # Ray's own storage stays empty: the script's checkpoints are in the run folder. How often it is tried again is decided
        # here, where the exit codes are known.
        run_config=ray.train.RunConfig(
            name=script.name, storage_path=scratch, failure_config=ray.train.FailureConfig(max_preemption_failures=0)
        ),
    )
    over = threading.Event()
    box: dict[str, BaseException] = {}

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # looked at by the main thread
            box["error"] = error
        finally:
            over.set()

    threading.Thread(target=fit, daemon=True).start()
    return over, box


def _first(ended: list[Record]) -> tuple[int, int] | None:
    """The rank that failed first, and its exit code."""
    return next(((rank, value) for rank, kind, value in ended if kind == "exit" and value), None)


def _judged(script: Script, ended: list[Record], error: BaseException | None) -> _End:
    if any(kind == "left" for _, kind, _ in ended):
        return _End(_Left("a node goes, and the script has saved its state"), free=True)
    if first := _first(ended):
        return _End(_failure(script, *first))
    if error is None:
        return _End()
    if not isinstance(error, WorkerGroupError):
        raise error
    rank, failure = min(error.worker_failures.items())
    if user := next((f for f in error.worker_failures.values() if isinstance(f, UserError)), None):
        return _End(user)
    gone = any(getattr(f, "preempted", False) for f in error.worker_failures.values())
    return _End(JobFailed(f"the worker of rank {rank} is lost: {_short(failure)}"), free=gone)


def _failure(script: Script, rank: int, code: int) -> ScriptFailed:
    """The first failure; a signal's exit code is a shell's, 128 and its number."""
    who = f"rank {rank} of {script.script}" if script.workers > 1 else script.script
    if code > 0:
        error = ScriptFailed(f"{who} ended with exit code {code}")
        error.exit_code = code
        return error
    memory = " (is the memory full?)" if code == -9 else ""
    error = ScriptFailed(f"{who} was ended by {Signals(-code).name}{memory}")
    error.exit_code = 128 - code
    return error


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
