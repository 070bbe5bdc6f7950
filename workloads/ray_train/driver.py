"""Executes the plan of a run on Ray Train, and returns its result."""

import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.collective import broadcast_from_rank_zero
from ray.train.v2.api.exceptions import WorkerGroupError

from heliostat.config import as_config
from heliostat.errors import Diverged, HeliostatError, JobFailed, Stopped, StorageUnavailable, UserError
from heliostat.folder import Folder
from heliostat.interrupts import interrupts
from heliostat.modules import enter_working_dir
from heliostat.requirements import provide
from heliostat.retry import UNAVAILABLE, reason
from heliostat.workloads.config import TrainConfig
from heliostat.workloads.nodes import Nodes, available, draining, group_here
from heliostat.workloads.plan import Plan, prepare
from heliostat.workloads.ray_train.client import head_storage_base, run_on_head
from heliostat.workloads.ray_train.failures import RestartRequested, kind_of, worker_failed
from heliostat.workloads.ray_train.here import fit_here
from heliostat.workloads.ray_train.policies import ELASTIC, ENVIRONMENT, ElasticScaling, FailureHandling, unwrap
from heliostat.workloads.ray_train.trainer import Trainer
from heliostat.workloads.run import lease
from heliostat.workloads.run.attempts import ATTEMPTS
from heliostat.workloads.run.cost import cost, price_of
from heliostat.workloads.run.goodput import goodput
from heliostat.workloads.run.journal import Tail
from heliostat.workloads.run.output import OutputTail, recorded_output
from heliostat.workloads.run.record import CONFIG, EVENTS, METRICS, RESULT, Result, RunRecord
from heliostat.workloads.run.redraw import Redraw, draw
from heliostat.workloads.run.report import write_report
from heliostat.workloads.run.signals import STOP, announce_drain
from heliostat.workloads.run.so_far import result_of
from heliostat.workloads.training.start import begin

Watch = Callable[[list[dict[str, Any]]], None]
"""Called several times a second with what is new, if anything: the records of ``metrics.jsonl`` and ``attempts.jsonl``, those
of ``events.jsonl`` that are in `PHASES` or to be told, and the lines that workers print."""
PHASES = ("evaluating", "trained", "evaluated")
"""Events that begin a phase of a run."""

POLL = 0.2
DRAIN_POLL = 0.5
"""Seconds between two checks for draining nodes."""
STOP_TIMEOUT = 10.0
"""Seconds to wait for a request to stop when no worker is running that could answer it."""


def train(config: str | Path | Mapping[str, Any] | TrainConfig, overrides: Iterable[str] = ()) -> Result:
    """Trains on the Ray that this process is connected to, and returns the result.

    Works after ``ray.init()``, ``ray.init("auto")`` and ``ray.init("ray://...")``; with Ray Client the run is driven
    from the cluster's head, and does not depend on this process.

    Args:
        config: a config file, a dictionary with its keys, or a config.
        overrides: ``dotted.key=value``, as with ``--set``.

    Raises:
        UserError: the input is wrong, or Ray is not connected.
        JobFailed: the training failed.
        Stopped: it was stopped; the same call resumes it.
    """
    launched = time.time()
    if not ray.is_initialized():
        raise UserError("Ray is not connected", 'call ray.init("ray://HOST:10001") or ray.init() first, or use heliostat train')
    config = as_config(config, TrainConfig, overrides)
    if ray.util.client.ray.is_connected():
        return Result.model_validate(run_on_head(_drive, config))
    return _run(prepare(config, available()), launched)


def execute(
    plan: Plan,
    record: RunRecord,
    launched: float,
    owner: lease.Lease,
    watch: Watch = lambda records: None,
    here: bool = False,
) -> Result:
    """Executes a plan on the connected Ray, or in this process.

    Args:
        plan: what to run.
        record: the run's, see `Plan.claim`.
        launched: when the command started, in seconds since the epoch.
        owner: this driver's lease on the run folder, see `Plan.claim`.
        watch: called with new records.
        here: in this process, with one worker and without Ray.

    Raises:
        UserError: storage cannot be written or is not shared.
        Diverged: the loss, the gradient or a weight became NaN or infinite.
        JobFailed: the training failed.
        Stopped: it was stopped, with a checkpoint.
    """
    spec = {
        "run": plan.uri,
        "record": record.model_dump(mode="json"),
        "launched": launched,
        "lease": owner.id,
        "nodes": plan.nodes,
        "working_dir": str(Path.cwd()),
    }
    started = time.time()
    folder = plan.folder.for_work(plan.patience)
    report = partial(_write_report, folder, record)
    with _drawing(plan, record, owner, watch) as seen:
        outcome = (fit_here if here else fit_on_ray)(plan, spec, owner, seen)
    trained = time.time()
    result = Result(
        name=plan.config.name,
        run=str(plan.folder),
        seconds={"before": started - launched, "training": trained - started},
        **outcome,
    )
    if result.state == "lost":
        raise lease.taken_over(plan.folder, owner)
    if result.state == "finished":
        went = {kind: round(value, 2) for kind, value in goodput(folder).worker_seconds.items() if value}
        seconds = {k: round(v, 2) for k, v in {**result.seconds, "total": time.time() - launched}.items()}
        result = result.model_copy(update={"cost": cost(folder), "seconds": seconds, "goodput": went})
        folder.write(RESULT, result.model_dump_json(indent=2).encode())
    draw(report, plan.uri)
    if result.state == "diverged":
        raise Diverged(result.message, _advice(plan.config), result.step, result.epoch)
    if result.state == "stopped":
        saved = f"with a checkpoint in {result.run}" if result.step else "before the first step"
        raise Stopped(f"stopped at step {result.step} {saved}\n  the same command resumes from there")
    return result


@contextmanager
def _drawing(plan: Plan, record: RunRecord, owner: lease.Lease, watch: Watch) -> Iterator[Watch]:
    """Yields ``watch``, which now also draws the report after evaluations; a block that fails draws it once more."""
    redraw, last = Redraw(partial(_write_report, plan.folder, record, running=True), plan.uri), plan.total_steps

    def seen(records: list[dict[str, Any]]) -> None:
        # After the last evaluation it is drawn at the end.
        redraw.poll(any(found.get("kind") == "eval" and found["step"] != last for found in records))
        watch(records)

    try:
        try:
            yield seen
        finally:
            redraw.close()
    except BaseException:
        if not owner.lost:
            # In one attempt: the storage may be why it failed, and a command that is stopped must not wait.
            draw(partial(_write_report, plan.folder.once, record), plan.uri)
        raise


def _write_report(folder: Folder, record: RunRecord, running: bool = False) -> None:
    result = result_of(folder, running)
    if result.metrics or result.step:
        write_report(folder, record, result)


def fit_on_ray(plan: Plan, spec: dict[str, Any], owner: lease.Lease, watch: Watch) -> dict[str, Any]:
    """Trains on Ray Train's workers; returns the outcome of the loop as plain values."""
    config = plan.config
    least, most = config.least_workers, max(config.least_workers, plan.most_workers)
    os.environ.update(ENVIRONMENT if least == most else ENVIRONMENT | ELASTIC)
    # Ray's own storage stays empty: checkpoints and metrics are in the run folder.
    scratch = tempfile.mkdtemp(prefix="heliostat-")
    scaling = ray.train.ScalingConfig(
        num_workers=most,
        use_gpu=bool(config.resources.gpu),
        resources_per_worker={
            "CPU": config.resources.cpu,
            **({"GPU": config.resources.gpu} if config.resources.gpu else {}),
        },
    )
    trainer = Trainer(
        work,
        train_loop_config=spec,
        scaling_config=scaling,
        run_config=ray.train.RunConfig(name=config.name, storage_path=scratch),
        policies={
            "scaling_policy": ElasticScaling(scaling, plan.uri, least, most, spec["launched"], config.grow_seconds),
            "failure_policy": FailureHandling(plan.uri, config.max_failures, config.storage_timeout),
        },
    )
    box: dict[str, Any] = {}
    done = threading.Event()

    def fit() -> None:
        try:
            box["value"] = trainer.fit().return_value
        except BaseException as error:  # raised by the main thread
            box["error"] = error
        finally:
            done.set()

    # Not in the main thread: there Ray Train would handle Ctrl-C and stop without a checkpoint, and a fit() in the main
    # thread of a task never releases its node.
    try:
        threading.Thread(target=fit, daemon=True).start()
        _wait(done, plan.folder, owner, watch, lambda: "error" in box)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if "error" in box:
        raise _user_error(box["error"])
    outcome: dict[str, Any] = box["value"]
    return outcome


def _wait(done: threading.Event, folder: Folder, owner: lease.Lease, watch: Watch, failed: Callable[[], bool]) -> None:
    """Waits until it is done; the first Ctrl-C or SIGTERM asks the workers to stop, the second stops at once."""
    # What was printed first, so that it stands before the records that follow it.
    tails: list[Tail | OutputTail] = [OutputTail(folder), *(Tail(folder, name) for name in (METRICS, ATTEMPTS, EVENTS))]
    once = folder.once  # so that a signal is seen while storage is unavailable

    def attempt(tail: Tail | OutputTail, at_once: bool = False) -> list[dict[str, Any]]:
        try:
            return tail.new(at_once)
        except (OSError, UserError) as error:  # the workers decide how long they wait
            folder.say_waiting(reason(error))
            return []

    def poll(read: Callable[[Tail | OutputTail], list[dict[str, Any]]] = attempt) -> list[dict[str, Any]]:
        printed, metrics, attempts, events = (read(tail) for tail in tails)
        shown = [event for event in events if "told" in event or event["event"] in PHASES]
        watch(sorted([*printed, *metrics, *attempts, *shown], key=lambda record: record["time"]))
        return [*metrics, *attempts]

    this_node = ray.get_runtime_context().get_node_id()
    requested: float | None = None
    running = False
    checked = 0.0
    leaving: dict[str, int] = {}
    with interrupts() as received:
        # An event, not Thread.join: after a signal that can take a running thread for a finished one (Python 3.11).
        while not done.wait(POLL):
            running = next((r["event"] == "running" for r in reversed(poll()) if "event" in r), running)
            now = time.monotonic()
            if owner.lost:
                raise lease.taken_over(folder, owner)
            if (received or this_node in leaving) and requested is None:
                with suppress(*UNAVAILABLE):  # storage is unavailable for a while: written again at the next poll
                    once.write(STOP, b"")
                    requested = now
            if len(received) > 1 or (requested is not None and not running and now - requested > STOP_TIMEOUT):
                raise Stopped("stopped at once; the same command resumes from the last checkpoint")
            if now - checked > DRAIN_POLL:
                checked = now
                if (found := draining()) and found != leaving:
                    with suppress(*UNAVAILABLE):
                        announce_drain(once, found)
                        leaving = found
                        if this_node in found:
                            watch([{"told": "the node of this command is draining: the workers save, and the run stops"}])
    # The error of a run that has failed must not wait for the storage.
    poll(partial(attempt, at_once=True) if failed() else lambda tail: folder.retried(lambda: tail.new(at_once=True)))


def work(spec: dict[str, Any]) -> dict[str, Any]:
    """Runs one Ray Train worker; returns the outcome as plain values."""
    from heliostat.workloads.training.distributed import Ranks, check_gpu, join
    from heliostat.workloads.training.hangs import missing_ranks, report_timeout
    from heliostat.workloads.training.loop import Loop
    from heliostat.workloads.training.rendezvous import on_one_machine

    enter_working_dir(spec["working_dir"])
    record = RunRecord.model_validate(spec["record"])
    folder = Folder.at(spec["run"], record.config.storage_timeout)
    if not folder.exists(CONFIG):
        host = socket.gethostname()
        raise UserError(f"the run folder {folder} does not exist on {host}", "set storage to a place that all nodes share")
    provide(record.config.requirements, install=True)
    if record.config.resources.gpu:
        check_gpu()
    context = ray.train.get_context()
    rank, step = context.get_world_rank(), 0
    try:
        seconds = 60 * record.config.hang_minutes
        world, node = context.get_world_size(), ray.util.get_node_ip_address()
        alone = on_one_machine(node, context.get_local_world_size(), world)
        join(rank, world, node, alone, broadcast_from_rank_zero, seconds)
        ranks = Ranks.of_this_process(cuda=record.config.resources.gpu != 0)
        place = _place(spec["nodes"], record.config)
        with recorded_output(folder, rank):
            loop = Loop(folder, record, ranks, spec["launched"], place=place, lease=spec["lease"])
            try:
                outcome = loop.run()
            finally:
                step = loop.progress.step
    except HeliostatError:
        raise
    except Exception as error:
        kind = kind_of(error)
        if kind == "peer_lost":
            report_timeout()
        raise worker_failed(error, rank, step, time.time(), missing_ranks() if kind == "timeout" else None) from None
    if outcome.state in ("drain", "grow"):
        raise RestartRequested(outcome.state, outcome.step)
    return outcome.model_dump()


def _place(nodes: Nodes | None, config: TrainConfig) -> dict[str, Any]:
    """This worker's node, and its price there."""
    price = price_of(nodes, group_here(), config.resources.cpu, float(config.resources.gpu))
    return {"node": ray.get_runtime_context().get_node_id(), "price": price}


def _drive(config: dict[str, Any]) -> dict[str, Any]:
    plan = prepare(TrainConfig.model_validate(config), available(), head_storage_base())
    return _run(plan, time.time()).model_dump()


def _run(plan: Plan, launched: float) -> Result:
    with plan.claim() as (owner, record, finished):
        return finished or execute(plan, begin(plan, record), launched, owner)


def _user_error(error: BaseException) -> BaseException:
    """Converts what fit() raised to the error that the user sees."""
    if isinstance(error, WorkerGroupError):
        failure = error.worker_failures[0]  # the decision of our failure policy
        if isinstance(failure, UserError | StorageUnavailable):
            return failure
        return JobFailed(f"{failure}\n  the same command resumes from the last checkpoint")
    inner = unwrap(error)
    return inner if isinstance(inner, HeliostatError) else error


def _advice(config: TrainConfig) -> str:
    """What to try after a run has diverged."""
    if config.by_rounds:
        return "look for infinite or very large targets in the data"
    return (
        f"try another name with a smaller learning rate (--set name={config.name}-2 "
        f"--set optimizer.lr={config.optimizer.lr / 10:g}), more warm-up steps, or a smaller optimizer.clip_norm"
    )
