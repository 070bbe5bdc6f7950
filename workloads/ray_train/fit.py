"""Trains on Ray Train's workers, and waits for them."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train.v2.api.exceptions import WorkerGroupError

from heliostat.errors import HeliostatError, JobFailed, Stopped, StorageUnavailable, UserError
from heliostat.folder import Folder
from heliostat.interrupts import interrupts
from heliostat.retry import UNAVAILABLE, reason
from heliostat.workloads.nodes import draining
from heliostat.workloads.plan import Plan
from heliostat.workloads.ray_train.gauges import monitored
from heliostat.workloads.ray_train.policies import ELASTIC, ENVIRONMENT, ElasticScaling, FailureHandling, unwrap
from heliostat.workloads.ray_train.records import NewRecords, Record, Watch
from heliostat.workloads.ray_train.trainer import Fit, Trainer, scaling_of
from heliostat.workloads.ray_train.worker import work
from heliostat.workloads.run import lease
from heliostat.workloads.run.journal import Tail
from heliostat.workloads.run.output import OutputTail
from heliostat.workloads.run.signals import STOP, announce_drain

POLL = 0.2
DRAIN_POLL = 0.5
"""Seconds between two checks for draining nodes."""
STOP_TIMEOUT = 10.0
"""Seconds to wait for a request to stop when no worker is running that could answer it."""


def fit_on_ray(plan: Plan, spec: dict[str, Any], owner: lease.Lease, watch: Watch, trial: bool = False) -> dict[str, Any]:
    """Trains on Ray Train's workers; returns the outcome of the loop as plain values, and has its metrics exported.

    Args:
        plan: of the run.
        spec: what its workers get.
        owner: this driver's lease.
        watch: called with new records.
        trial: whether it belongs to a sweep, which exports metrics of its own.
    """
    config = plan.config
    least, most = config.least_workers, max(config.least_workers, plan.most_workers)
    os.environ.update(ENVIRONMENT if least == most else ENVIRONMENT | ELASTIC)
    # Ray's own storage stays empty: checkpoints and metrics are in the run folder.
    scratch = tempfile.mkdtemp(prefix="heliostat-")
    scaling = scaling_of(most, config.resources.cpu, float(config.resources.gpu))
    policies: dict[str, Any] = {
        "scaling_policy": ElasticScaling(scaling, plan.uri, least, most, spec["launched"], config.grow_seconds),
        "failure_policy": FailureHandling(plan.uri, config.max_failures, config.storage_timeout),
    }
    trainer = Trainer(
        work,
        train_loop_config=spec,
        scaling_config=scaling,
        run_config=ray.train.RunConfig(name=config.name, storage_path=scratch),
        policies=policies,
    )
    try:
        fit = trainer.start()
        with nullcontext(len) if trial else monitored(plan.folder) as seen:
            _wait(fit, plan.folder, owner, watch, seen)
    except BaseException:
        for policy in policies.values():
            policy.over = True
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if fit.error:
        raise _user_error(fit.error)
    outcome: dict[str, Any] = fit.value
    return outcome


def _wait(fit: Fit, folder: Folder, owner: lease.Lease, watch: Watch, seen: Callable[[list[Record]], Any]) -> None:
    """Waits until it is done; the first Ctrl-C or SIGTERM asks the workers to stop, the second stops at once.

    ``watch`` gets what is to be shown, ``seen`` all records.
    """
    new = NewRecords(folder)
    once = folder.once  # so that a signal is seen while storage is unavailable

    def attempt(tail: Tail | OutputTail, at_once: bool = False) -> list[dict[str, Any]]:
        try:
            return tail.new(at_once)
        except (OSError, UserError) as error:  # the workers decide how long they wait
            folder.say_waiting(reason(error))
            return []

    def poll(read: Callable[[Tail | OutputTail], list[dict[str, Any]]] = attempt) -> list[dict[str, Any]]:
        shown, attempts, records = new.read(read)
        watch(shown)
        seen(records)
        return attempts

    this_node = ray.get_runtime_context().get_node_id()
    requested: float | None = None
    running = False
    checked = 0.0
    leaving: dict[str, int] = {}
    with interrupts() as received:
        # An event, not Thread.join: after a signal that can take a running thread for a finished one (Python 3.11).
        while not fit.done.wait(POLL):
            running = next((r["event"] == "running" for r in reversed(poll())), running)
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
    poll(partial(attempt, at_once=True) if fit.error else lambda tail: folder.retried(lambda: tail.new(at_once=True)))


def _user_error(error: BaseException) -> BaseException:
    """Converts what fit() raised to the error that the user sees."""
    if isinstance(error, WorkerGroupError):
        failure = error.worker_failures[0]  # the decision of our failure policy
        if isinstance(failure, UserError | StorageUnavailable):
            return failure
        return JobFailed(f"{failure}\n  the same command resumes from the last checkpoint")
    inner = unwrap(error)
    return inner if isinstance(inner, HeliostatError) else error
