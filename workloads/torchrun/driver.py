"""The driver of ``heliostat torchrun``: runs a script on Ray workers, and restarts it."""

import itertools
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.train
from ray.train.backend import Backend, BackendConfig

from heliostat.console import at_least
from heliostat.environment import IN_A_JOB, ON_HEAD
from heliostat.errors import JobFailed, Stopped, StorageUnavailable, UserError, some
from heliostat.folder import Folder
from heliostat.interrupts import interrupts
from heliostat.requirements import parse
from heliostat.wording import counted
from heliostat.workloads.nodes import available, draining
from heliostat.workloads.ray_train.trainer import PREEMPTION_WATCHER, Fit, Fixed, Trainer, scaling_of
from heliostat.workloads.run.cost import total, worker_cost
from heliostat.workloads.torchrun.arguments import last_number
from heliostat.workloads.torchrun.attempts import Attempts, room_for
from heliostat.workloads.torchrun.config import Script
from heliostat.workloads.torchrun.hub import Hub, Record
from heliostat.workloads.torchrun.outcome import Drained, Outcome, outcome_of, short
from heliostat.workloads.torchrun.output import SETTLE, InOrder, Output, Write
from heliostat.workloads.torchrun.process import SIGNALS
from heliostat.workloads.torchrun.worker import work

POLL, NODE_POLL = 0.3, 1.0
"""Seconds between two polls of the output, and of the nodes."""
START_NOTICE_SECONDS = 15.0
"""Seconds after which workers that have not started are reported."""
TERMINAL = (signal.SIGHUP, signal.SIGQUIT)
"""The signals of a terminal besides SIGINT: of its end, and of Ctrl-\\."""
STOP_SECONDS = SIGNALS["interrupt"][1][0]
KEPT_SHOWN = 20
"""Files that a message names."""
NO_CPU = 0.001
"""CPUs of a worker with ``--cpu 0``: without any it could be placed on the head, which has none."""


class _Torchrun(Backend):  # type: ignore[misc]  # Ray has no types
    share_cuda_visible_devices = True
    """Each worker sees the GPUs of all workers on its node, so that ``cuda:LOCAL_RANK`` is its own."""


class _TorchrunConfig(BackendConfig):  # type: ignore[misc]
    """Without a process group: the script creates its own."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Torchrun


def execute(script: Script, run: str, write: Write, terminal: Mapping[str, bool], stdin: str) -> None:
    """Runs a script on the connected Ray.

    Args:
        script: with its resources resolved.
        run: the path or URI of its run folder, which a script that saves checkpoints creates, and a job that leaves files.
        write: called with what the ranks print.
        terminal: whether ``stdout`` and ``stderr`` are terminals.
        stdin: the path of the command's standard input on this node, for rank 0; empty if it has none.

    Raises:
        UserError: the script or the run folder does not exist on the workers.
        ScriptFailed: a rank failed; the exit code is that of the first.
        JobFailed: a worker was lost.
        Stopped: it was stopped.
    """
    # Drains are handled here; Ray's own watcher would wait until the node's deadline.
    os.environ[PREEMPTION_WATCHER] = "0"
    hub = ray.remote(Hub).options(num_cpus=0, resources=ON_HEAD).remote()
    spec = {
        "hub": hub,
        "id": f"{script.name}-{secrets.token_hex(4)}",
        "launched": round(psutil.Process().create_time(), 3),
        "run": run,
        "cwd": str(Path.cwd()),
        "script": script.script,
        "module": script.module,
        "command": script.command,
        "max_restarts": script.max_restarts,
        "requirements": [each.text for each in parse(script.requirements)] if script.requirements else [],
        "each": (script.resources.cpu, script.resources.gpu),
        "nodes": available(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS", str(max(1, int(script.resources.cpu)))),
        "stdin": (ray.get_runtime_context().get_node_id(), stdin),
    }
    costs, attempts = list[float | None](), Attempts(run, str(spec["id"]))
    attempts.record("launched", launched=spec["launched"], least=script.workers, most=script.workers)
    state = "failed"
    with interrupts(*TERMINAL) as received:
        try:
            _run_attempts(script, spec, received, costs, attempts, write, terminal)
            state = "finished"
        except Stopped:
            state = "stopped"
            raise
        finally:
            if cost := at_least(total(costs), sum(each or 0.0 for each in costs)):
                _say(write, f"cost {cost}")
            attempts.close(state)
            if attempts.recorded:
                _report(run, write)


def _run_attempts(
    script: Script, spec: dict[str, Any], received: list[int], costs: list[float | None], attempts: Attempts, write: Write,
    terminal: Mapping[str, bool],
) -> None:  # fmt: skip
    """Runs the script until it succeeds, or must not be restarted."""
    restarts = 0
    for attempt in itertools.count(1):
        output = Output(write, script.workers, terminal)
        end = _attempt(script, {**spec, "attempt": attempt}, output, received, costs, attempts)
        if end.error is None:
            return
        reason = short(end.error)
        if end.uncharged and (restarts < script.max_restarts or isinstance(end.error, Drained)):
            attempts.record("left", reason=reason)
            _say(write, f"{end.error}; the script is restarted")
            continue
        last = isinstance(end.error, UserError | StorageUnavailable | Stopped) or restarts == script.max_restarts
        if not isinstance(end.error, Stopped):
            attempts.record("failed", reason=reason, again=not last)
        if last:
            raise end.error
        restarts += 1
        _say(write, f"{end.error}; restart {restarts} of {script.max_restarts}")


def _report(run: str, write: Write) -> None:
    """Draws the report; that the storage cannot take it is no failure of the script."""
    from heliostat.workloads.torchrun.report import write_report

    try:
        write_report(Folder.at(run))
    except (OSError, UserError, StorageUnavailable) as error:
        _say(write, f"the report is not written: {short(error)}; heliostat report {run} draws it")


@dataclass
class _Watch:
    """Watches an attempt: signals, draining nodes, and whether its workers start."""

    script: Script
    hub: Any
    write: Write
    received: list[int]
    attempts: Attempts
    stopping: bool = False
    workers: list[dict[str, Any]] = field(default_factory=list)
    """The info of the workers that had joined at the last poll."""
    _drain_sent: bool = False
    _reported: bool = False
    _running: bool = False
    _started: float = field(default_factory=time.monotonic)
    _checked: float = 0.0

    def poll(self) -> None:
        """Sends the orders that are due.

        Raises:
            Stopped: on the same signal again, or before the workers have started.
        """
        if len(self.received) > len(set(self.received)):
            raise Stopped("stopped at once")
        now, stop = time.monotonic(), bool(self.received) and not self.stopping
        if now - self._checked < NODE_POLL and not stop:
            return
        self._checked = now
        self.workers = self.ask(self.hub.joined.remote())
        nodes = {info["node_id"] for info in self.workers} if len(self.workers) == self.script.workers else set[str]()
        self.note_running()
        self.attempts.poll()
        if stop:
            if not nodes:
                raise Stopped("stopped before the script started")
            self.stopping = True
            self.ask(self.hub.order.remote(_order(self.received[0])))
            again = "; Ctrl-C again ends it at once" if self.received[0] == signal.SIGINT else ""
            _say(self.write, f"{self.script.script} is asked to exit, and has {STOP_SECONDS:.0f} s to save{again}")
        if not self._drain_sent and nodes & draining().keys():
            self._drain_sent = True
            _say(self.write, "a node is draining; the script is asked to save, if it can")
            self.ask(self.hub.order.remote("notice"))
        if not self._reported and not nodes and now - self._started > START_NOTICE_SECONDS:
            self._reported = True
            _say(self.write, f"waiting for {counted(self.script.workers, 'worker')} to start")

    def note_running(self) -> None:
        """Records once that all workers have joined."""
        if len(self.workers) == self.script.workers and not self._running:
            self._running = True
            self.attempts.record("running", workers=self.script.workers)

    def ask(self, answer: Any) -> Any:
        """Returns the hub's answer. A SIGTERM to all processes of this command stops Ray, too."""
        try:
            return ray.get(answer)
        except ray.exceptions.RayError as error:
            if self.received:
                raise Stopped("stopped, and Ray with it") from None
            raise JobFailed(f"contact with Ray's head was lost: {short(error)}") from None


def _order(number: int) -> str:
    """The order for a signal; that a job is stopped with SIGTERM may have been Ctrl-C elsewhere."""
    if number == signal.SIGINT:
        return "interrupt"
    return "cancel" if IN_A_JOB in os.environ else "stop"


def _attempt(
    script: Script, spec: dict[str, Any], output: Output, received: list[int], costs: list[float | None], attempts: Attempts
) -> Outcome:
    """Starts the workers and follows them until they exit; adds what they cost to ``costs``."""
    watch, ended = _Watch(script, spec["hub"], output.write, received, attempts), list[Record]()
    watch.ask(watch.hub.attempt.remote(spec["attempt"], script.workers))
    attempts.record("starting", workers=script.workers, room=room_for(script))
    requested = time.time()
    try:
        error = _follow(spec, watch, output, ended)
        watch.workers = watch.ask(watch.hub.joined.remote())
        watch.note_running()
    finally:
        done = time.time()
        costs += [None if w["price"] is None else worker_cost(w, requested, done) for w in watch.workers]
    if watch.stopping:
        saved = list[str]()
        with suppress(OSError, UserError, StorageUnavailable):  # it is only for the message
            saved = sorted((Folder.at(spec["run"], 0) / "checkpoints").names(), key=last_number)
        resumes = f"; the same command resumes from the last checkpoint, {saved[-1]}" if saved else ""
        return Outcome(Stopped(f"stopped{resumes}"))
    return outcome_of(script, ended, error, output)


def _follow(spec: dict[str, Any], watch: _Watch, output: Output, ended: list[Record]) -> BaseException | None:
    """Writes the workers' output until all have exited, adds their exits to ``ended``, and returns Ray's error."""
    merged = InOrder(SETTLE if watch.script.workers > 1 else 0)
    with tempfile.TemporaryDirectory(prefix="heliostat-", ignore_cleanup_errors=True) as scratch:
        fit = _fit(watch.script, spec, scratch)
        while True:
            done = fit.done.is_set()
            taken: list[Record] = watch.ask(watch.hub.take.remote(0 if done else merged.wait or POLL))
            now = time.monotonic()
            merged.add(taken, now)
            for record in merged.due(float("inf") if done and not taken else now):
                _, rank, kind, value = record
                if kind in ("stdout", "stderr"):
                    output.take(rank, kind, value, now)
                elif kind == "kept":
                    _report_kept(watch.write, **value)
                else:
                    ended.append(record)
            if done and not taken:
                break
            output.tick(now)
            watch.poll()
    output.end()
    return fit.error


def _report_kept(write: Write, place: str, sizes: dict[str, int]) -> None:
    """Says where files are that the script has written to the working directory."""
    if not sizes:
        return
    names = some(sorted(sizes, key=lambda name: -sizes[name]), KEPT_SHOWN)
    _say(
        write,
        f"keeps {counted(len(sizes), 'file')} ({sum(sizes.values()) / 1e6:.1f} MB) of the working directory in {place}: "
        f"{names}",
    )


def _fit(script: Script, spec: dict[str, Any], scratch: str) -> Fit:
    """Starts the workers."""
    scaling = scaling_of(script.workers, script.resources.cpu or NO_CPU, float(script.resources.gpu))
    trainer = Trainer(
        work,
        train_loop_config=spec,
        backend_config=_TorchrunConfig(),
        scaling_config=scaling,
        policies={"scaling_policy": Fixed(scaling)},
        # Ray's own storage stays empty: the script's checkpoints are in the run folder.
        # Restarts are decided here, by exit codes.
        run_config=ray.train.RunConfig(
            name="torchrun", storage_path=scratch, failure_config=ray.train.FailureConfig(max_preemption_failures=0)
        ),
    )
    return trainer.start()


def _say(write: Write, text: str) -> None:
    write("stderr", f"heliostat: {text}\n")
