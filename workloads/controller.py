"""Ray Train's controller with our own answers to two questions: how many workers now, and what next after a failure.

All that is private to Ray Train and used by us is here (Ray 2.60), kept true by tests/workloads/test_controller.py. Ray's own
elastic policy asks for more than the nodes can ever give and then gets none, counts what others hold as free, and loses the
steps since the last checkpoint when it grows; its failure policy retries mistakes and charges preemptions.
"""

import os
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
import ray._private.state
import ray._private.worker
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR as WARN_BLOCKING
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision, FailurePolicy
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingDecision, ScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.config import FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from heliostat.errors import HeliostatError, Stopped
from heliostat.folder import Folder
from workloads import attempts, checkpoint
from workloads.failures import Failures
from workloads.nodes import draining
from workloads.notices import GROW, STOP
from workloads.patience import AWAY, patiently

SETTLE = 3.0
"""Seconds in which nodes that come together count as one room, when a run begins."""
LOOK = 0.2
ENVIRONMENT = {
    # Our driver watches for drains, and the workers save and leave at once instead of at the deadline.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
ELASTIC = {
    # A node that has just died may still count as room; then it is counted anew after so many seconds.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}

CONTROLLERS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", WARN_BLOCKING, *ENVIRONMENT, *ELASTIC}
"""Variables that are for Ray Train's controller only."""


def room(each: Mapping[str, float], held: Mapping[str, int] | None = None) -> int:
    """How many workers of this size would fit now into what is free on the nodes that stay.

    Args:
        each: the resources of a worker.
        held: the workers whose resources will be free, by node.
    """
    leaving = draining()
    free = ray._private.state.available_resources_per_node()
    wanted = {kind: amount for kind, amount in each.items() if amount}
    return sum(
        int(min(there.get(kind, 0.0) // amount for kind, amount in wanted.items())) + (held or {}).get(node, 0)
        for node, there in free.items()
        if node not in leaving
    )


class Sizes(ScalingPolicy):  # type: ignore[misc]  # Ray Train's inside has no types
    """As many workers as there is room for, from ``least`` to ``most``; to grow, the running ones are asked to save first."""

    def __init__(self, scaling: ScalingConfig, run: str, least: int, most: int, launched: float, grow_seconds: float) -> None:
        super().__init__(scaling)
        self._run, self._least, self._most, self._launched = run, least, most, launched
        self._grow_seconds = grow_seconds
        self._workers = self._room = 0
        self._began = False
        self._waiting_since: float | None = None
        # Ray Train lets go of the workers that it replaces only when the new size is known.
        self._held: Counter[str] = Counter()
        self._looked = 0.0

    def after_controller_start(self, train_run_context: Any) -> None:
        if self._least < self._most:
            # For a fixed size the placement group says the same; this starts one more process, and waits for it.
            super().after_controller_start(train_run_context)
        attempts.of(self._run).record("launched", launched=self._launched, least=self._least, most=self._most)

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        kind = type(current_state).__name__
        if kind in ("SchedulingState", "RunningState"):
            if kind == "SchedulingState":
                self._workers = current_state.scaling_decision.num_workers
                attempts.of(self._run).record("starting", workers=self._workers, room=self._room)
            else:
                attempts.of(self._run).record("running", workers=self._workers)
        elif kind in ("FinishedState", "ErroredState", "AbortedState"):
            attempts.of(self._run).record("ended", state=kind.removesuffix("State").lower())

    def _get_num_workers_for_resource_request(self) -> int:
        return self._most

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        self._ask()
        with suppress(*AWAY):  # storage is away for a while: looked at again before the next start
            if Folder.at(self._run).exists(STOP):
                raise Stopped("stopped while it waited for nodes; the same command goes on")
        self._room = fitting = min(room(self._each, self._held), self._most)
        if self._least == self._most:
            return self._start(self._most)
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        if fitting == self._most or (fitting >= self._least and (self._began or now - self._waiting_since >= SETTLE)):
            return self._start(fitting)
        if now - self._waiting_since >= SETTLE:
            attempts.of(self._run).record("waiting", workers=self._least, room=fitting)
        time.sleep(LOOK)  # Ray's loop asks again without a pause
        return NoopDecision()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> ScalingDecision:
        self._ask()
        self._began = True
        self._held = Counter(worker.metadata.node_id for worker in worker_group_state.workers)
        now = time.monotonic()
        if now - max(self._looked, worker_group_state.start_time) >= self._grow_seconds:
            self._looked = now
            running = worker_group_state.num_workers
            if running < self._most and room(self._each) > 0:
                # The workers save, leave, and are started again with what there is then.
                with suppress(*AWAY):
                    Folder.at(self._run).write(GROW, b"")
        return NoopDecision()

    @property
    def _each(self) -> dict[str, float]:
        each: dict[str, float] = self.scaling_config._resources_per_worker_not_none
        return each

    def _ask(self) -> None:
        """Keep the autoscaler told of the most workers that are wanted."""
        if self._coordinator_client:
            self._maybe_send_resource_request()

    def _start(self, workers: int) -> ResizeDecision:
        self._waiting_since = None
        self._held.clear()
        return ResizeDecision(num_workers=workers, resources_per_worker=self._each)


class Judgement(FailurePolicy):  # type: ignore[misc]
    """Our own judgement on failures, see `workloads.failures`, recorded in the run folder."""

    def __init__(self, run: str, most: int, patience: float) -> None:
        super().__init__(FailureConfig(max_failures=most))
        self._run, self._failures, self._patience = run, Failures(most), patience

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        folder = Folder.at(self._run)
        if isinstance(training_failed_error, ControllerError):
            return self._on_controller(training_failed_error.controller_failure)
        assert isinstance(training_failed_error, WorkerGroupError)
        ends = {rank: unwrapped(error) for rank, error in training_failed_error.worker_failures.items()}
        saved = patiently(
            lambda: max((c.step for c in checkpoint.committed(folder)), default=0), lambda _: None, self._patience
        )
        verdict = self._failures.judge(ends, saved)
        attempts.of(self._run).record(
            "failed" if verdict.charged else "left", reason=verdict.reason, saved=saved, again=verdict.again,
            failures=self._failures.in_a_row, most=self._failures.most, wait=verdict.wait,
        )  # fmt: skip
        if not verdict.again:
            # What fit() raises is this, and not Ray's account of all workers.
            training_failed_error.worker_failures = {0: verdict.error}
            return FailureDecision.RAISE
        time.sleep(verdict.wait)
        return FailureDecision.RETRY

    def _on_controller(self, failure: Exception) -> FailureDecision:
        again = isinstance(failure, WorkerGroupStartupFailedError | WorkerGroupStartupTimeoutError)
        if again:
            attempts.of(self._run).record("waiting", reason=" ".join(str(failure).split())[:200])
        return FailureDecision.RETRY if again else FailureDecision.RAISE


class Group(WorkerGroup):  # type: ignore[misc]
    """Workers in the processes that Ray has ready.

    With a runtime environment, which Ray Train gives them for variables that only its controller reads, each would be a
    process of its own, started anew.
    """

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
        whole = WorkerGroup._get_worker_runtime_env(custom_runtime_env)
        variables = {name: value for name, value in whole.pop("env_vars").items() if name not in CONTROLLERS}
        return {**whole, "env_vars": variables} if variables else whole


class Controller(TrainController):  # type: ignore[misc]
    """Ray Train's controller, told of the driver's settings by an argument, for the same reason."""

    worker_group_cls = Group

    def __init__(self, environment: Mapping[str, str], **arguments: Any) -> None:
        os.environ.update(environment)
        super().__init__(**arguments)


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """A trainer whose controller uses `Sizes` and `Judgement`.

    It is no TorchTrainer, because its controller would have to import torch before it could do anything; the workers form
    their process group themselves, see `workloads.ranks.join`.

    Args:
        sizes, judgement: see there.
        options: what Ray's DataParallelTrainer takes.
    """

    def __init__(self, *args: Any, sizes: Sizes, judgement: Judgement, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sizes, self._judgement = sizes, judgement

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()
        if ray._private.worker.global_worker.mode != ray._private.worker.SCRIPT_MODE:
            return callbacks
        # The end of this process is the end of its placement groups: no other process need watch over them.
        return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        policies = {"scaling_policy": self._sizes, "failure_policy": self._judgement}
        controller = ray.remote(num_cpus=0, label_selector=here)(Controller).remote(
            {WARN_BLOCKING: "0", **get_env_vars_to_propagate()}, **{**arguments, **policies}
        )
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())


def unwrapped(error: BaseException) -> BaseException:
    """Our own exception, or the death of an actor, inside of what Ray puts around it."""
    for name in ("controller_failure", "health_check_failure", "_base_exc", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and not isinstance(error, HeliostatError):
            return unwrapped(inner)
    return error
