"""Policies for Ray Train's controller: how many workers to run, and what follows a failure.

The private parts of Ray Train that we use are here and in `heliostat.workloads.ray_train.trainer` (Ray 2.60), and are
checked by tests/workloads/ray_train/test_contract.py. Ray's own elastic policy requests more than the nodes can ever give and
then gets none, counts what others hold as free, and loses the steps since the last checkpoint when it scales up; its failure
policy retries mistakes and charges preemptions.
"""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision, ScalingPolicy
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from heliostat.errors import HeliostatError, Stopped, StorageUnavailable, UserError
from heliostat.folder import Folder
from heliostat.workloads.nodes import draining, free_resources
from heliostat.workloads.ray_train.failures import Failures
from heliostat.workloads.ray_train.trainer import PREEMPTION_WATCHER, START_TIMEOUT
from heliostat.workloads.run import attempts, checkpoint
from heliostat.workloads.run.signals import GROW, STOP

SETTLE_SECONDS = 3.0
"""Seconds to wait at a run's start for further nodes that are joining."""
NO_ANSWER = (OSError, UserError, StorageUnavailable)
"""What a single attempt to reach the storage may raise."""
RETRY_POLL = 0.2
"""Seconds between two decisions while workers cannot start."""
ENVIRONMENT = {
    # Our driver watches for drains, and the workers save and exit at once instead of at the deadline.
    PREEMPTION_WATCHER: "0",
}
ELASTIC = {
    # A node that has just died may still count as free; after this timeout the free resources are counted again.
    START_TIMEOUT: "20",
}


def free_slots(each: Mapping[str, float], held: Mapping[str, int] | None = None) -> int:
    """How many workers of this size fit now into what is free on the nodes that are not draining.

    Args:
        each: the resources of a worker.
        held: the workers whose resources will be released, by node.
    """
    leaving = draining()
    wanted = {kind: amount for kind, amount in each.items() if amount}
    return sum(
        int(min(there.get(kind, 0.0) // amount for kind, amount in wanted.items())) + (held or {}).get(node, 0)
        for node, there in free_resources().items()
        if node not in leaving
    )


class ElasticScaling(ScalingPolicy):  # type: ignore[misc]  # Ray Train has no types
    """As many workers as fit, from ``least`` to ``most``; before it scales up, the running ones save a checkpoint."""

    over = False
    """Whether the driver has left the run: nothing is decided or recorded any more, though the controller still runs."""

    def __init__(self, scaling: ScalingConfig, run: str, least: int, most: int, launched: float, grow_seconds: float) -> None:
        super().__init__(scaling)
        self._run, self._least, self._most, self._launched = run, least, most, launched
        self._grow_seconds = grow_seconds
        self._workers = self._room = 0
        self._has_run = False
        self._waiting_since: float | None = None
        # Ray Train releases the workers that it replaces only when the new size is known.
        self._held: Counter[str] = Counter()
        self._checked = 0.0

    def after_controller_start(self, train_run_context: Any) -> None:
        if self._least < self._most:
            # Not for a fixed size: see `heliostat.workloads.ray_train.trainer.Fixed`.
            super().after_controller_start(train_run_context)
        attempts.forget(self._run)
        attempts.of(self._run).record("launched", launched=self._launched, least=self._least, most=self._most)

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        kind = "" if self.over else type(current_state).__name__
        if kind in ("SchedulingState", "RunningState"):
            if kind == "SchedulingState":
                self._workers = current_state.scaling_decision.num_workers
                attempts.of(self._run).record("starting", workers=self._workers, room=self._room)
            else:
                attempts.of(self._run).record("running", workers=self._workers)
        elif kind in ("FinishedState", "ErroredState", "AbortedState"):
            attempts.of(self._run).record("ended", state=kind.removesuffix("State").lower())
            attempts.forget(self._run)

    def _get_num_workers_for_resource_request(self) -> int:
        return self._most

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        if self.over:
            raise Stopped("the driver has left the run")
        self._maybe_send_resource_request()
        with suppress(*NO_ANSWER):  # checked again before the next start
            if Folder.at(self._run, 0).exists(STOP):
                attempts.of(self._run).record("ended", state="stopped")  # no worker will say so
                raise Stopped("stopped while waiting to start its workers; the same command resumes it")
        if time.monotonic() < attempts.of(self._run).not_before:
            return _ask_again()
        self._room = fitting = min(free_slots(self._each, self._held), self._most)
        if self._least == self._most:
            return self._start(self._most)
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if fitting == self._most or (fitting >= self._least and (self._has_run or now - self._waiting_since >= SETTLE_SECONDS)):
            return self._start(fitting)
        if now - self._waiting_since >= SETTLE_SECONDS:
            attempts.of(self._run).record("waiting", workers=self._least, room=fitting)
        return _ask_again()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> ScalingDecision:
        self._maybe_send_resource_request()
        self._has_run = True
        self._held = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        now = time.monotonic()
        if now - max(self._checked, worker_group_state.start_time) >= self._grow_seconds:
            self._checked = now
            running = worker_group_state.num_workers
            if running < self._most and free_slots(self._each) > 0:
                # The workers save, exit, and are restarted on what is free then.
                with suppress(*NO_ANSWER):
                    Folder.at(self._run, 0).write(GROW, b"")
        return NoopDecision()

    @property
    def _each(self) -> dict[str, float]:
        each: dict[str, float] = self.scaling_config._resources_per_worker_not_none
        return each

    def _maybe_send_resource_request(self) -> None:
        if self._coordinator_client:
            super()._maybe_send_resource_request()

    def _start(self, workers: int) -> ResizeDecision:
        self._waiting_since = None
        self._held.clear()
        return ResizeDecision(num_workers=workers, resources_per_worker=self._each)


def _ask_again() -> ScalingDecision:
    time.sleep(RETRY_POLL)  # Ray's loop asks again without a pause
    return NoopDecision()


class FailureHandling(FailurePolicy):  # type: ignore[misc]
    """Applies `heliostat.workloads.ray_train.failures`, and records each decision in the run folder."""

    over = False
    """See `ElasticScaling`."""

    def __init__(self, run: str, most: int, storage_timeout: float) -> None:
        super().__init__(FailureConfig(max_failures=most))
        self._run, self._failures, self._storage_timeout = run, Failures(most), storage_timeout

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if self.over:
            return FailureDecision.RAISE
        if isinstance(training_failed_error, ControllerError):
            return self._on_controller(training_failed_error.controller_failure)
        assert isinstance(training_failed_error, WorkerGroupError)
        failures = {rank: unwrap(error) for rank, error in training_failed_error.worker_failures.items()}
        try:
            folder = Folder.at(self._run, self._storage_timeout)
            saved = max((c.step for c in checkpoint.committed(folder)), default=0)
        except StorageUnavailable as error:
            training_failed_error.worker_failures = {0: error}
            return FailureDecision.RAISE
        decision = self._failures.decide(failures, saved)
        attempts.of(self._run).record(
            "failed" if decision.charged else "left", reason=decision.reason, cause=decision.cause, saved=saved,
            again=decision.retry, failures=self._failures.in_a_row, most=self._failures.most, wait=decision.wait,
        )  # fmt: skip
        if not decision.retry:
            # fit() raises this instead of Ray's errors of all workers.
            training_failed_error.worker_failures = {0: decision.error}
            return FailureDecision.RAISE
        # The back-off is waited for where workers are started, so that a request to stop is seen meanwhile.
        attempts.of(self._run).not_before = time.monotonic() + decision.wait
        return FailureDecision.RETRY

    def _on_controller(self, failure: Exception) -> FailureDecision:
        again = isinstance(failure, WorkerGroupStartupFailedError | WorkerGroupStartupTimeoutError)
        if again:
            attempts.of(self._run).record("waiting", reason=" ".join(str(failure).split())[:200])
        return FailureDecision.RETRY if again else FailureDecision.RAISE


def unwrap(error: BaseException) -> BaseException:
    """Our own exception, or the death of an actor, without the exceptions that Ray wraps around it."""
    for name in ("controller_failure", "health_check_failure", "_base_exc", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and not isinstance(error, HeliostatError):
            return unwrap(inner)
    return error
