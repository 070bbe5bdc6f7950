"""Ray Train's trainer without the steps that delay a run's start by seconds (Ray 2.60).

Ray Train starts four processes besides the workers, waits for two of them, and starts a new process for each worker although
Ray has idle ones: half of the time to the first step.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType
from typing import Any

import ray
import ray._private.worker
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR as WARN_BLOCKING
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup, worker_group
from ray.train.v2._internal.execution.worker_group.state import (
    WorkerGroupState,
    WorkerGroupStateBuilder,
    _shutdown_workers,
)
from ray.train.v2.api.config import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from heliostat.interrupts import USES_RAY

START_TIMEOUT = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
LOGGING = "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING"
CONTROLLER_VARIABLES = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", START_TIMEOUT, PREEMPTION_WATCHER, LOGGING, WARN_BLOCKING}
"""Environment variables that only the controller reads."""

STOP_SECONDS = 20.0
"""Seconds in which the thread of a command that is stopped must end; it polls its workers several times a second."""


class NoBarrier:
    """In the place of the actor, a process, by which ``ray.train.report`` and ``ray.train.collective`` wait for all ranks.

    Heliostat uses neither.
    """

    @classmethod
    def options(cls, **_: Any) -> type["NoBarrier"]:
        return cls

    @classmethod
    def remote(cls, **_: Any) -> None:
        return None


class State(WorkerGroupState):  # type: ignore[misc]  # Ray Train has no types
    """A group of workers without that actor."""

    def shutdown(self) -> None:
        _shutdown_workers(self.workers)
        self.placement_group_handle.shutdown()


class StateBuilder(WorkerGroupStateBuilder):  # type: ignore[misc]
    """The builder of that state."""

    def build(self) -> State:
        return State(
            start_time=worker_group.time_monotonic(),
            placement_group_handle=self.placement_group_handle,
            workers=self.workers,
            sync_actor=None,
        )


class Group(WorkerGroup):  # type: ignore[misc]
    """Workers in Ray's idle processes, without the barrier's.

    With a runtime environment, which Ray Train sets for variables that only its controller reads, each worker would need a
    new process.
    """

    # The same method, in which one global name has another value; replacing it in Ray's module would do so for all trainers.
    _start_impl = FunctionType(
        WorkerGroup._start_impl.__code__, {**vars(worker_group), "SynchronizationActor": NoBarrier}, "_start_impl"
    )

    def _start(self) -> None:
        builder = StateBuilder()
        try:
            self._start_impl(builder)
        except Exception:
            if not self.has_started():
                builder.shutdown()
            raise

    def _init_train_context_on_workers(self, workers: Any, sync_actor: None, train_context_args: Mapping[str, Any]) -> None:
        ray.get([
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,  # by which workers ask for the checkpoints that they have reported: none
                **{name: values[number] for name, values in train_context_args.items()},
            )
            for number, worker in enumerate(workers)
        ])  # fmt: skip
        self._decorate_worker_log_file_paths(workers)

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
        whole = WorkerGroup._get_worker_runtime_env(custom_runtime_env)
        variables = {name: value for name, value in whole.pop("env_vars").items() if name not in CONTROLLER_VARIABLES}
        return {**whole, "env_vars": variables} if variables else whole


class Controller(TrainController):  # type: ignore[misc]
    """Ray Train's controller; as an actor it gets the driver's settings as an argument, for the same reason."""

    worker_group_cls = Group

    def __init__(self, environment: Mapping[str, str], **arguments: Any) -> None:
        os.environ.update(environment)
        super().__init__(**arguments)


class Fixed(FixedScalingPolicy):  # type: ignore[misc]
    """A fixed number of workers, requested by their placement group alone: the other request needs one more process."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


@dataclass
class Fit:
    """A `Trainer` at work in a thread of its own; ``value`` and ``error`` are set before ``done``."""

    done: threading.Event = field(default_factory=threading.Event)
    value: Any = None
    """What rank 0 has returned."""
    error: BaseException | None = None


class Trainer(DataParallelTrainer):  # type: ignore[misc]
    """A DataParallelTrainer that starts only what a run needs.

    It is no TorchTrainer, whose controller imports torch before it does anything; the workers form their process group
    themselves, see `heliostat.workloads.training.distributed.join`.

    Args:
        policies: ``scaling_policy`` and ``failure_policy``, which replace Ray Train's own.
        options: what Ray's DataParallelTrainer takes.
    """

    def __init__(self, *args: Any, policies: Mapping[str, Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self._policies = policies
        self._stop: Callable[[], Any] = lambda: None

    def start(self) -> Fit:
        """Starts ``fit`` in a thread.

        In the main thread Ray Train handles Ctrl-C, and stops without a checkpoint, and a task never releases its node.
        """
        found = Fit()

        def fit() -> None:
            try:
                found.value = self.fit().return_value
            except BaseException as error:  # read by the main thread
                found.error = error
            finally:
                USES_RAY.remove(stop)
                found.done.set()

        def stop() -> None:
            self._stop()
            found.done.wait(STOP_SECONDS)

        USES_RAY.append(stop)
        threading.Thread(target=fit, daemon=True).start()
        return found

    def _create_default_callbacks(self) -> list[Any]:
        # Each starts a process for every worker group. The first one's hands out Ray Data's shards, of which there are none.
        needless: list[type] = [DatasetsCallback]
        if _in_driver():
            # Placement groups are removed when this process exits: they need no process that cleans up.
            needless.append(PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, tuple(needless))]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        environment = {WARN_BLOCKING: "0", LOGGING: "0", **get_env_vars_to_propagate()}
        arguments |= self._policies
        if _in_driver():
            # In this thread: an actor would take a process, and a second until it has started. What it logs at all levels, a
            # traceback for what our policies raise to end a run too, is for those who see the rest of Ray's log.
            if not logging.getLogger("ray").isEnabledFor(logging.INFO):
                logging.getLogger("ray.train.v2._internal").setLevel(logging.CRITICAL)
            controller = Controller(environment, **arguments)
            asyncio.run(self._run(controller))
            return controller.get_result()
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        actor = ray.remote(num_cpus=0, label_selector=here)(Controller).remote(environment, **arguments)
        ray.get(actor.run.remote())
        return ray.get(actor.get_result.remote())

    async def _run(self, controller: Any) -> None:
        self._stop = partial(asyncio.get_running_loop().call_soon_threadsafe, asyncio.current_task().cancel)  # type: ignore[union-attr]
        await controller.run()


def scaling_of(workers: int, cpu: float, gpu: float) -> ScalingConfig:
    """The scaling of so many workers, each with these resources."""
    each = {"CPU": cpu, **({"GPU": gpu} if gpu else {})}
    return ScalingConfig(num_workers=workers, use_gpu=bool(gpu), resources_per_worker=each)


def _in_driver() -> bool:
    """Whether this process is the driver of its job, not one of Ray's workers."""
    return bool(ray._private.worker.global_worker.mode == ray._private.worker.SCRIPT_MODE)
